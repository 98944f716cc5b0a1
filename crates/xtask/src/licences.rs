//! Licences of the dependencies, against the list in deny.toml (which `cargo deny check` reads too, and
//! checks in more depth).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use testkit::place;

use crate::layers::metadata;

/// Fails with every dependency whose licence isn't allowed.
pub fn check() -> Result<()> {
    let text = std::fs::read_to_string(place::tree().join("deny.toml"))?;
    let (allowed, exceptions, clarified) = (allowed(&text)?, exceptions(&text)?, clarified(&text)?);
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut faults = Vec::new();
    for package in packages {
        let (name, licence) = (package["name"].as_str().unwrap_or_default(), package["license"].as_str());
        let licence = licence.or_else(|| clarified.get(name).map(String::as_str));
        let excepted = exceptions.get(name).unwrap_or(&allowed);
        if !licence.is_some_and(|licence| permits(licence, &allowed) || permits(licence, excepted)) {
            faults.push(format!("{name}: {}", licence.unwrap_or("no licence named")));
        }
    }
    ensure!(faults.is_empty(), "licences that deny.toml doesn't allow:\n{}", faults.join("\n"));
    println!("check-licences: {} packages, all allowed", packages.len());
    Ok(())
}

/// The `allow` list of deny.toml's `[licenses]`.
fn allowed(text: &str) -> Result<BTreeSet<String>> {
    let list = text.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.context("deny.toml has no list of licences")?;
    let quoted = Regex::new(r#""([^"]+)""#)?;
    Ok(quoted.captures_iter(list).map(|found| found[1].to_owned()).collect())
}

/// What single packages may have beside: `{ crate = "NAME", allow = ["LICENCE"] }`.
fn exceptions(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let entry = Regex::new(r#"\{ crate = "([^"]+)", allow = \["([^"]+)"\] \}"#)?;
    Ok(entry.captures_iter(text).map(|c| (c[1].to_owned(), BTreeSet::from([c[2].to_owned()]))).collect())
}

/// What packages have that name no licence: `[[licenses.clarify]]` with `crate` and `expression`.
fn clarified(text: &str) -> Result<BTreeMap<String, String>> {
    let entry = Regex::new(r#"(?m)^crate = "([^"]+)"\nexpression = "([^"]+)"$"#)?;
    Ok(entry.captures_iter(text).map(|c| (c[1].to_owned(), c[2].to_owned())).collect())
}

/// Whether an SPDX expression can be met with the allowed licences. `A/B` is the old way to write `A OR B`.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_whitespace().peekable();
    let result = either(&mut words, allowed);
    result && words.peek().is_none()
}

type Words<'a, 'b> = &'a mut std::iter::Peekable<std::str::SplitWhitespace<'b>>;

fn either(words: Words<'_, '_>, allowed: &BTreeSet<String>) -> bool {
    let mut result = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        // Evaluated first, so that the words are used up either way.
        let other = both(words, allowed);
        result = result || other;
    }
    result
}

fn both(words: Words<'_, '_>, allowed: &BTreeSet<String>) -> bool {
    let mut result = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        let other = one(words, allowed);
        result = result && other;
    }
    result
}

fn one(words: Words<'_, '_>, allowed: &BTreeSet<String>) -> bool {
    match words.next() {
        Some("(") => {
            let result = either(words, allowed);
            words.next_if_eq(&")").is_some() && result
        }
        Some(licence) => {
            let with = words.next_if_eq(&"WITH").and_then(|_| words.next());
            let name = with.map_or(licence.to_owned(), |exception| format!("{licence} WITH {exception}"));
            allowed.contains(&name)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_packages() {
        let text = "exceptions = [\n  { crate = \"a\", allow = [\"X\"] },\n]\n\
                    [[licenses.clarify]]\ncrate = \"b\"\nexpression = \"MIT\"\n";
        assert_eq!(exceptions(text).unwrap(), BTreeMap::from([("a".into(), BTreeSet::from(["X".into()]))]));
        assert_eq!(clarified(text).unwrap(), BTreeMap::from([("b".into(), "MIT".into())]));
    }

    #[test]
    fn expressions() {
        let allowed = allowed("x\nallow = [\"MIT\", \"A WITH E\"]\ndeny = [\"GPL\"]").unwrap();
        for good in
            ["MIT", "GPL OR MIT", "GPL/MIT", "(MIT OR GPL) AND MIT", "A WITH E", "MIT AND (GPL OR A WITH E)"]
        {
            assert!(permits(good, &allowed), "{good}");
        }
        for bad in ["GPL", "MIT AND GPL", "A", "(MIT", "", "MIT WITH E", "MIT GPL"] {
            assert!(!permits(bad, &allowed), "{bad}");
        }
    }
}
