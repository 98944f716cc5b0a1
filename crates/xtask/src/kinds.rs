//! The engine names no kind: no string in `registry` or `apiserver` is the name of one, or a path with one.
//!
//! The names are those of the table of resources itself. Rust's own names are left alone (a watch has an
//! `Event`), typed imports aren't: neither crate may use a type of a kind.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use testkit::place;

use crate::source;

const ENGINE: [&str; 2] = ["crates/registry/src", "crates/apiserver/src"];

/// Names in the table that the engine may say, each for its reason.
const GRAMMAR: [(&str, &str); 1] = [("namespaces", "a word of the path's grammar: /namespaces/NAME/…")];

/// Fails with every place that names a kind.
pub fn check() -> Result<()> {
    let names = names()?;
    let mut faults = Vec::new();
    let mut count = 0;
    for dir in ENGINE {
        for path in source::files(&place::tree().join(dir))? {
            if path
                .file_stem()
                .is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
            {
                continue;
            }
            count += 1;
            let shown = path.strip_prefix(place::tree()).unwrap_or(&path).display();
            for (line, name) in offences(&std::fs::read_to_string(&path)?, &names) {
                faults.push(format!("{shown}:{line}: names {name:?}: a kind's oddity is a strategy hook"));
            }
        }
    }
    ensure!(faults.is_empty(), "the engine names kinds:\n{}", faults.join("\n"));
    println!("check-kinds: {count} files of the engine name none of {} names", names.len());
    Ok(())
}

/// Kinds and plurals of the table's rows: a capitalised string followed by a plural.
fn names() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in source::files(&place::tree().join("crates/resources/src/groups"))? {
        let literals = source::literals(&std::fs::read_to_string(path)?);
        for pair in literals.windows(2) {
            if is_row(&pair[0].text, &pair[1].text) {
                names.extend([pair[0].text.clone(), pair[1].text.clone()]);
            }
        }
    }
    // The table of v1.37 has far more: fewer means that rows are written in a way this doesn't read.
    ensure!(names.len() > 60, "found only {} names of kinds in crates/resources/src/groups", names.len());
    for (name, _) in GRAMMAR {
        names.remove(name);
    }
    Ok(names)
}

fn is_row(kind: &str, plural: &str) -> bool {
    let stem = kind.to_lowercase();
    // policies of Policy, ingresses of Ingress, nodes (metrics) of NodeMetrics aren't plain plurals.
    let stem = &stem[..stem.len().min(3)];
    kind.starts_with(|c: char| c.is_ascii_uppercase())
        && kind.chars().all(char::is_alphanumeric)
        && plural.chars().all(|c| c.is_ascii_lowercase())
        && plural.starts_with(stem)
}

fn offences(text: &str, names: &BTreeSet<String>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for literal in source::literals(text) {
        // A path's segments, or the whole literal; prose may speak of events and nodes.
        let is_path = literal.text.contains('/') && !literal.text.contains(' ');
        let words = if is_path { literal.text.split('/').collect() } else { vec![literal.text.as_str()] };
        found.extend(
            words
                .into_iter()
                .filter(|word| names.contains(*word))
                .map(|word| (literal.line, word.to_owned())),
        );
    }
    for (index, line) in text.lines().enumerate() {
        // k8s_openapi's types of kinds live below `api`; metadata and errors live in `apimachinery`.
        if !line.trim_start().starts_with("//") && line.contains("k8s_openapi::api::") {
            found.push((index + 1, "k8s_openapi::api::".to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_where_they_are_named() {
        let names = BTreeSet::from(["Pod".to_owned(), "pods".to_owned()]);
        let check = |text: &str| offences(text, &names).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(check(r#"match kind { "Pod" => 1 }"#), ["Pod"]);
        assert_eq!(check(r#"let path = "/api/v1/pods";"#), ["pods"]);
        assert_eq!(check("use k8s_openapi::api::core::v1::Pod;"), ["k8s_openapi::api::"]);
        assert_eq!(check(r#"info!("no pods here, nor a Pod"); // "Pod""#), [""; 0]);
    }

    #[test]
    fn rows_are_recognised() {
        assert!(is_row("Ingress", "ingresses") && is_row("NetworkPolicy", "networkpolicies"));
        assert!(!is_row("v1", "Pod") && !is_row("apps", "v1") && !is_row("Pod", "po-ds"));
    }

    #[test]
    fn the_table_is_read() {
        let names = names().unwrap();
        for name in ["Pod", "pods", "Deployment", "endpointslices", "IPAddress"] {
            assert!(names.contains(name), "{name}");
        }
    }
}
