//! `docs/differences.md`: in what the recorded answers may differ, as they are of an older version.
//!
//! The first cell of a line says what, the second why:
//!
//! | first cell | what may differ |
//! | --- | --- |
//! | `a/case/id` | that case, wholly |
//! | `/path$` | whatever stands at a path into an answer |
//! | `+ /path$` | a field may be there that was not, or was empty |
//! | `null /path$` | a field may be missing that was null |
//! | `- /path$` | a field may be missing that was there |
//! | `- /path$ = JSON` | a field may be missing that was there with this value |
//! | `"old" "new"` | words in texts; `<any>` among the new ones is any text |

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::Value;

pub const PAGE: &str = "docs/differences.md";
const ANY: &str = "<any>";

/// What the page's tables name, with the reasons.
#[derive(Debug, Default)]
pub struct Differences {
    /// By a case's id.
    pub cases: BTreeMap<String, String>,
    /// By a regular expression of paths into answers.
    pub fields: BTreeMap<String, String>,
    more: Vec<(Regex, Option<Value>)>,
    nulls: Vec<Regex>,
    gone: Vec<(Regex, Option<Value>)>,
    words: Vec<(Regex, String)>,
}

impl Differences {
    /// # Errors
    /// A line without a reason, one that is there twice, a pattern that is none.
    pub fn read(page: &str) -> Result<Differences> {
        let mut found = Differences::default();
        for line in page.lines() {
            // A bar within a regular expression is escaped, as Markdown has it.
            let line = line.trim().trim_matches('|').replace("\\|", "\u{0}");
            let mut cells = line.split('|').map(str::trim);
            let (Some(first), Some(reason)) = (cells.next(), cells.next()) else { continue };
            let Some(name) = first.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else {
                continue;
            };
            ensure!(!reason.is_empty(), "{PAGE}: {name} has no reason");
            found.add(&name.replace('\u{0}', "|"), reason)?;
        }
        Ok(found)
    }

    fn add(&mut self, name: &str, reason: &str) -> Result<()> {
        let pattern = |text: &str| Regex::new(text).with_context(|| format!("{PAGE}: {name}"));
        let valued = |text: &str| {
            let (path, value) = match text.split_once(" = ") {
                Some((path, json)) => {
                    (path, Some(serde_json::from_str(json).with_context(|| format!("{PAGE}: {name}"))?))
                }
                None => (text, None),
            };
            anyhow::Ok((pattern(path)?, value))
        };
        if let Some(path) = name.strip_prefix("+ ") {
            self.more.push(valued(path)?);
        } else if let Some(path) = name.strip_prefix("null ") {
            self.nulls.push(pattern(path)?);
        } else if let Some(path) = name.strip_prefix("- ") {
            self.gone.push(valued(path)?);
        } else if let Some(words) = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            let (old, new) = words.split_once("\" \"").with_context(|| format!("{PAGE}: {name}"))?;
            self.words.push((pattern(old)?, new.to_owned()));
        } else {
            let table = if name.starts_with('/') { &mut self.fields } else { &mut self.cases };
            let before = table.insert(name.to_owned(), reason.to_owned());
            ensure!(before.is_none(), "{PAGE}: {name} is there twice");
        }
        Ok(())
    }

    /// Whether one difference that the player found is one of version: it has `op`, `path`, `expected`
    /// and `actual`.
    pub fn allows(&self, difference: &Value) -> bool {
        let text = |field: &str| difference[field].as_str();
        let path = text("path").unwrap_or_default();
        let expected = &difference["expected"];
        let known = |list: &[(Regex, Option<Value>)], found: &Value| {
            list.iter().any(|(pattern, value)| {
                pattern.is_match(path) && value.as_ref().is_none_or(|value| value == found)
            })
        };
        match text("op") {
            Some("extra") => known(&self.more, &difference["actual"]),
            // A part of an answer that was asked for and was not there, or had nothing to say.
            Some("changed") if expected.is_null() || expected == "" => {
                known(&self.more, &difference["actual"])
            }
            Some("missing") if expected.is_null() => self.nulls.iter().any(|pattern| pattern.is_match(path)),
            Some("missing") => known(&self.gone, expected),
            Some("changed") => match (text("expected"), text("actual")) {
                (Some(expected), Some(actual)) => self.reworded(expected, actual),
                _ => false,
            },
            _ => false,
        }
    }

    fn reworded(&self, expected: &str, actual: &str) -> bool {
        let mut wanted = expected.to_owned();
        for (old, new) in &self.words {
            wanted = old.replace_all(&wanted, new.as_str()).into_owned();
        }
        let parts: Vec<String> = wanted.split(ANY).map(regex::escape).collect();
        Regex::new(&format!("(?s)^{}$", parts.join(".*"))).is_ok_and(|pattern| pattern.is_match(actual))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_read_from_tables() {
        let page = "text | with a bar\n| case | reason |\n| --- | --- |\n| `a.b` | Removed in v1.29. |\n| `c` | New. |\n| `/x/(a\\|b)$` | Later. |\n";
        let found = Differences::read(page).unwrap();
        assert_eq!(found.cases.keys().collect::<Vec<_>>(), ["a.b", "c"]);
        assert_eq!(found.fields.keys().collect::<Vec<_>>(), ["/x/(a|b)$"]);
        assert!(Differences::read("| `a` | |").is_err());
        assert!(Differences::read("| `a` | x |\n| `a` | y |").is_err());
        assert!(Differences::read("| `+ (` | x |").is_err());
    }

    #[test]
    fn the_page_of_this_tree_can_be_read() {
        let page = testkit::place::tree().join(PAGE);
        Differences::read(&std::fs::read_to_string(page).unwrap()).unwrap();
    }

    #[test]
    fn differences_of_version_are_told_from_faults() {
        let page = "| `+ /generation$` | New. |\n| `null /creationTimestamp$` | Gone. |\n| `- /a$ = {\"x\":\"\"}` | Gone. |\n| `- /b$` | Gone. |\n| `\"(\\d+) characters\" \"$1 bytes\"` | Words. |\n| `\"<go-value>\" \"<any>\"` | Words. |\n";
        let found = Differences::read(page).unwrap();
        let check = |op: &str, path: &str, expected: Value, actual: Value| {
            found.allows(&json!({"op": op, "path": path, "expected": expected, "actual": actual}))
        };
        assert!(check("changed", "/metadata/generation", Value::Null, json!(1)));
        assert!(check("changed", "/metadata/generation", json!(""), json!("x")));
        assert!(check("missing", "/a", json!({"x": ""}), Value::Null));
        assert!(!check("missing", "/a", json!({"x": "y"}), Value::Null));
        assert!(check("missing", "/b", json!(7), Value::Null));
        assert!(check("extra", "/metadata/generation", Value::Null, json!(1)));
        assert!(!check("changed", "/metadata/generation", json!(2), json!(1)));
        assert!(check("missing", "/creationTimestamp", Value::Null, Value::Null));
        assert!(!check("missing", "/creationTimestamp", json!("<time>"), Value::Null));
        assert!(check("changed", "/m", json!("at most 63 characters"), json!("at most 63 bytes")));
        assert!(check("changed", "/m", json!("bad <go-value>: no"), json!("bad {\"a\":1}: no")));
        assert!(!check("changed", "/m", json!("bad <go-value>: no"), json!("bad {\"a\":1}: yes")));
    }
}
