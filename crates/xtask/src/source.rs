//! Rust sources: which there are, and the string literals in them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Every `.rs` file below a directory, in order of name.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir).with_context(|| format!("couldn't read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A string literal's text as written and the line it starts on.
#[derive(Debug, PartialEq, Eq)]
pub struct Literal {
    pub line: usize,
    pub text: String,
}

/// The string literals of a source outside comments and outside the trailing `#[cfg(test)]` part.
///
/// Tests come last in a file here, so the first `#[cfg(test)]` that isn't on a lone `use` or `mod x;` line
/// ends what is read.
pub fn literals(source: &str) -> Vec<Literal> {
    let source = without_tests(source);
    let bytes = source.as_bytes();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    while at < bytes.len() {
        let end = token_end(bytes, at);
        if let Some((start, stop)) = string_body(&source[at..end]) {
            found.push(Literal { line, text: source[at + start..at + stop].to_owned() });
        }
        line += bytes[at..end].iter().filter(|byte| **byte == b'\n').count();
        at = end;
    }
    found
}

fn without_tests(source: &str) -> &str {
    let mut from = 0;
    while let Some(found) = source[from..].find("#[cfg(test)]") {
        let start = from + found;
        let after = source[start + "#[cfg(test)]".len()..].trim_start();
        let item = &after[..after.find(['{', ';']).map_or(after.len(), |end| end + 1)];
        if item.starts_with("mod ") && item.ends_with('{') {
            return &source[..start];
        }
        from = start + 1;
    }
    source
}

/// Where the comment, string, character or plain run that starts at `at` ends.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + comment_length(rest);
    }
    if let Some(length) = raw_string_length(rest) {
        return at + length;
    }
    match rest[0] {
        b'"' => at + quoted_length(rest),
        // A character literal, unless it is a lifetime: 'a' and '\n' close within a few bytes.
        b'\'' if rest.get(1) == Some(&b'\\') => {
            at + 3 + rest.iter().skip(3).position(|byte| *byte == b'\'').unwrap_or(0) + 1
        }
        b'\'' if rest.get(2) == Some(&b'\'') => at + 3,
        // A whole word at once, so that the r of `for` doesn't start a raw string.
        byte if byte.is_ascii_alphanumeric() || byte == b'_' => {
            let word = rest.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
            at + word.unwrap_or(rest.len())
        }
        _ => at + 1,
    }
    .min(bytes.len())
}

fn comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Of `r"…"`, `r#"…"#`, `br"…"`, …
fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let prefix =
        rest.iter().position(|byte| *byte == b'r').filter(|at| *at == 0 || (*at == 1 && rest[0] == b'b'))?;
    let hashes = rest[prefix + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let end = rest[open + 1..].windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + end + close.len())
}

/// Where the text of a string literal starts and ends within its token.
fn string_body(token: &str) -> Option<(usize, usize)> {
    let open = token.find('"')?;
    let is_string = token[..open].bytes().all(|byte| matches!(byte, b'r' | b'b' | b'#'));
    let close = token.rfind('"').filter(|close| *close > open)?;
    is_string.then_some((open + 1, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_strings_and_nothing_else() {
        let source = "let a = \"one\"; // \"no\"\n/* \"no\" /* \"no\" */ */ let b = r#\"t\"wo\"#;\n\
                      let c = '\"'; let d: &'static str = \"th\\\"ree\";\n for x in y {} let e = b\"four\"; '\\'' \"five\"\n\
                      #[cfg(test)]\nuse x;\nconst SIX: &str = \"six\";\n#[cfg(test)]\nmod tests { \"no\" }";
        let found: Vec<(usize, String)> = literals(source).into_iter().map(|l| (l.line, l.text)).collect();
        expect_test::expect![[
            r#"[(1, "one"), (2, "t\"wo"), (3, "th\\\"ree"), (4, "four"), (4, "five"), (7, "six")]"#
        ]]
        .assert_eq(&format!("{found:?}"));
    }
}
