//! Label and field selectors: parsing as upstream's lexer does, matching without allocation.

use std::fmt;

use serde_json::{Map, Value};

use crate::{field, names};

/// One condition of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    NotExists(String),
    /// Integers on both sides.
    GreaterThan(String, i64),
    LessThan(String, i64),
}

/// A conjunction of requirements; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(pub Vec<Requirement>);

impl Labels {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether labels (a JSON map of texts; `None` for none) match.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// Whether labels matched through a look-up match.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| match r {
            Requirement::In(k, vs) => get(k).is_some_and(|v| vs.iter().any(|w| w == v)),
            Requirement::NotIn(k, vs) => get(k).is_none_or(|v| !vs.iter().any(|w| w == v)),
            Requirement::Exists(k) => get(k).is_some(),
            Requirement::NotExists(k) => get(k).is_none(),
            Requirement::GreaterThan(k, n) => number(get(k)).is_some_and(|v| v > *n),
            Requirement::LessThan(k, n) => number(get(k)).is_some_and(|v| v < *n),
        })
    }

    /// Reads `a=b,c!=d,e in (f,g),!h,i`.
    pub fn parse(text: &str) -> Result<Labels, String> {
        Parser { text, at: 0 }.parse()
    }

    /// From metav1.LabelSelector; `None` where it is absent (which matches nothing).
    pub fn from_label_selector(
        selector: &crate::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector,
    ) -> Labels {
        let mut all = Vec::new();
        for (k, v) in selector.match_labels.iter().flatten() {
            all.push(Requirement::In(k.clone(), vec![v.clone()]));
        }
        for e in selector.match_expressions.iter().flatten() {
            let values = e.values.clone().unwrap_or_default();
            all.push(match e.operator.as_str() {
                "In" => Requirement::In(e.key.clone(), values),
                "NotIn" => Requirement::NotIn(e.key.clone(), values),
                "Exists" => Requirement::Exists(e.key.clone()),
                _ => Requirement::NotExists(e.key.clone()),
            });
        }
        Labels(all)
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value.and_then(|v| v.parse().ok())
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match r {
                Requirement::In(k, v) if v.len() == 1 => write!(f, "{k}={}", v[0])?,
                Requirement::NotIn(k, v) if v.len() == 1 => write!(f, "{k}!={}", v[0])?,
                Requirement::In(k, v) => write!(f, "{k} in ({})", v.join(","))?,
                Requirement::NotIn(k, v) => write!(f, "{k} notin ({})", v.join(","))?,
                Requirement::Exists(k) => f.write_str(k)?,
                Requirement::NotExists(k) => write!(f, "!{k}")?,
                Requirement::GreaterThan(k, n) => write!(f, "{k}>{n}")?,
                Requirement::LessThan(k, n) => write!(f, "{k}<{n}")?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    End,
    Word(String),
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Word(w) => w,
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Token {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|b| b" \t\r\n".contains(b)) {
            self.at += 1;
        }
        let Some(first) = bytes.get(self.at) else { return Token::End };
        let two = bytes.get(self.at + 1) == Some(&b'=');
        let (token, len) = match first {
            b'(' => (Token::Open, 1),
            b')' => (Token::Close, 1),
            b',' => (Token::Comma, 1),
            b'!' if two => (Token::NotEquals, 2),
            b'!' => (Token::Not, 1),
            b'=' if two => (Token::DoubleEquals, 2),
            b'=' => (Token::Equals, 1),
            b'>' => (Token::Greater, 1),
            b'<' => (Token::Less, 1),
            _ => {
                let rest = &self.text[self.at..];
                let len = rest
                    .find([' ', '\t', '\r', '\n', '(', ')', ',', '!', '=', '>', '<'])
                    .unwrap_or(rest.len());
                (Token::Word(rest[..len].to_owned()), len)
            }
        };
        self.at += len;
        token
    }

    fn peek(&mut self) -> Token {
        let at = self.at;
        let token = self.next();
        self.at = at;
        token
    }

    fn parse(mut self) -> Result<Labels, String> {
        let mut all = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Not => {
                    let one = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    all.push(one);
                }
                Token::End => break,
                other => return Err(expected(&other, "!, identifier, or 'end of string'")),
            }
            match self.next() {
                Token::End => break,
                Token::Comma => {
                    let after = self.peek();
                    if !matches!(after, Token::Word(_) | Token::Not) {
                        return Err(expected(&after, "identifier after ','"));
                    }
                }
                other => return Err(expected(&other, "',' or 'end of string'")),
            }
        }
        all.sort_by(|a, b| key_of(a).cmp(key_of(b)));
        Ok(Labels(all))
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Token::Not;
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(w) => w,
            other => return Err(expected(&other, "identifier")),
        };
        check_key(&key)?;
        if negated {
            return Ok(Requirement::NotExists(key));
        }
        let operator = match self.peek() {
            Token::End | Token::Comma => return Ok(Requirement::Exists(key)),
            _ => self.next(),
        };
        match operator {
            Token::Word(w) if w == "in" => Ok(Requirement::In(key.clone(), self.set(&key)?)),
            Token::Word(w) if w == "notin" => Ok(Requirement::NotIn(key.clone(), self.set(&key)?)),
            Token::Equals | Token::DoubleEquals => Ok(Requirement::In(key.clone(), vec![self.exact(&key)?])),
            Token::NotEquals => Ok(Requirement::NotIn(key.clone(), vec![self.exact(&key)?])),
            Token::Greater => Ok(Requirement::GreaterThan(key.clone(), self.integer(&key)?)),
            Token::Less => Ok(Requirement::LessThan(key.clone(), self.integer(&key)?)),
            other => Err(expected(&other, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn exact(&mut self, key: &str) -> Result<String, String> {
        let value = self.word()?;
        check_value(key, &value)?;
        Ok(value)
    }

    /// A value, which may be left out.
    fn word(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            _ => match self.next() {
                Token::Word(w) => Ok(w),
                other => Err(expected(&other, "identifier")),
            },
        }
    }

    fn integer(&mut self, key: &str) -> Result<i64, String> {
        let value = self.word()?;
        let number = value.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                field::quote(&value)
            )
        })?;
        check_value(key, &value)?;
        Ok(number)
    }

    /// `(a,b)`. An item that is left out is the empty one: `(,a)`, `(a,)`, `()`.
    fn set(&mut self, key: &str) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Token::Open {
            // Without a comma, as upstream has it.
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values = Vec::new();
        match self.peek() {
            Token::Word(_) | Token::Comma => {}
            Token::Close => {
                self.next();
                return Ok(vec![String::new()]);
            }
            other => return Err(expected(&other, "',', ')' or identifier")),
        }
        let mut last_comma = true;
        loop {
            match self.next() {
                Token::Word(w) => {
                    values.push(w);
                    last_comma = false;
                    let after = self.peek();
                    if !matches!(after, Token::Comma | Token::Close) {
                        return Err(expected(&after, "',' or ')'"));
                    }
                }
                Token::Comma => {
                    if last_comma {
                        values.push(String::new());
                    }
                    last_comma = true;
                }
                Token::Close => {
                    if last_comma {
                        values.push(String::new());
                    }
                    break;
                }
                other => return Err(expected(&other, "',', or identifier")),
            }
        }
        values.sort();
        values.dedup();
        for v in &values {
            check_value(key, v)?;
        }
        Ok(values)
    }
}

fn expected(found: &Token, what: &str) -> String {
    format!("found '{}', expected: {what}", found.text())
}

fn key_of(r: &Requirement) -> &str {
    match r {
        Requirement::In(k, _)
        | Requirement::NotIn(k, _)
        | Requirement::Exists(k)
        | Requirement::NotExists(k)
        | Requirement::GreaterThan(k, _)
        | Requirement::LessThan(k, _) => k,
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let faults = names::qualified_name(key);
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("<nil>: Invalid value: {}: {}", field::quote(key), faults.join("; ")))
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let faults = names::label_value(value);
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("values[0][{key}]: Invalid value: {}: {}", field::quote(value), faults.join("; ")))
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub equals: bool,
    pub value: String,
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<Term>);

impl Fields {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object matches, by a look-up of its selectable fields; absent fields are empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|t| (get(&t.field).unwrap_or_default() == t.value) == t.equals)
    }

    /// The value a field must have, where the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equals && t.field == field).map(|t| t.value.as_str())
    }

    /// Reads `a=b,c!=d`, with `\\`, `\,` and `\=` escaped in values.
    pub fn parse(text: &str) -> Result<Fields, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, equals, value) = split_term(part)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push(Term { field: field.to_owned(), equals, value: unescape(value)? });
        }
        Ok(Fields(terms))
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, bool, &str)> {
    for i in 0..part.len() {
        let rest = part.get(i..)?;
        for (operator, equals) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&part[..i], equals, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => return Err(format!("invalid field selector: invalid escape sequence: \\{e}")),
                None => return Err("invalid field selector: unterminated escape".into()),
            },
            ',' | '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {}",
                    field::quote(value)
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: &str, labels: Value, expected: bool) {
        let parsed = Labels::parse(selector).unwrap();
        assert_eq!(parsed.matches(labels.as_object()), expected, "{selector} on {labels}");
    }

    #[test]
    fn labels() {
        check("a=b,c!=d", json!({"a": "b"}), true);
        check("a=b,c!=d", json!({"a": "b", "c": "d"}), false);
        check("a in (x, y),!z", json!({"a": "y"}), true);
        check("a notin (x),z", json!({"a": "y"}), false);
        check("n>3", json!({"n": "4"}), true);
        check("a in (,b)", json!({"a": ""}), true);
        check("", json!({}), true);
    }

    fn fails(selector: &str, message: &str) {
        assert_eq!(Labels::parse(selector).unwrap_err(), message, "{selector}");
    }

    #[test]
    fn faults_read_as_upstreams() {
        fails("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        fails("a=b,", "found '', expected: identifier after ','");
        fails("=x", "found '=', expected: !, identifier, or 'end of string'");
        fails("!a=x", "found '=', expected: ',' or 'end of string'");
        fails("!!a", "unable to parse requirement: found '!', expected: identifier");
        fails("a in x", "unable to parse requirement: found 'x' expected: '('");
        fails("a in (x", "unable to parse requirement: found '', expected: ',' or ')'");
        fails(
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        );
    }

    #[test]
    fn fields() {
        let f = Fields::parse(r"metadata.name=a\,b,status.phase!=Running").unwrap();
        assert_eq!(f.required("metadata.name"), Some("a,b"));
        assert!(f.matches(|k| (k == "metadata.name").then_some("a,b")));
        assert!(Fields::parse("a").is_err());
    }
}
