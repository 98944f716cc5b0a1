//! Faults of how a job counts its pods: by index, by failures, by successes.

use std::collections::BTreeSet;

use api::field::{Errors, Kind, Path};

use crate::at::At;

const PARALLELISM_MAX_INDEXED: i64 = 100_000;
const FAILED_MAX: i64 = 100_000;
/// Above so many completions the limits of failed indexes are lower.
const COMPLETIONS_MANY: i64 = 100_000;
const MANY_MAX: i64 = 10_000;
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

/// A fault that shows no value.
pub(super) fn plain(path: &Path, words: &str, errors: &mut Errors) {
    errors.push(Kind::Invalid, path, || format!("Invalid value: {words}"));
}

/// Faults of the completion mode and what hangs on it.
pub(super) fn completion(spec: &At<'_>, errors: &mut Errors) {
    spec.one_of_if_set("completionMode", &["NonIndexed", "Indexed"], errors);
    let failed = spec.i64("maxFailedIndexes");
    match spec.str("completionMode") {
        "Indexed" => indexed(spec, errors),
        "" | "NonIndexed" => {
            for (field, value) in
                [("backoffLimitPerIndex", spec.i64("backoffLimitPerIndex")), ("maxFailedIndexes", failed)]
            {
                if let Some(n) = value {
                    spec.invalid(field, n, "requires indexed completion mode", errors);
                }
            }
        }
        _ => {}
    }
}

fn indexed(spec: &At<'_>, errors: &mut Errors) {
    let completions = spec.i64("completions");
    let failed = spec.i64("maxFailedIndexes");
    if completions.is_none() {
        errors.required(&spec.path.child("completions"), "when completion mode is Indexed");
    }
    if let Some(n) = spec.i64("parallelism").filter(|n| *n > PARALLELISM_MAX_INDEXED) {
        let words = "must be less than or equal to 100000 when completion mode is Indexed";
        spec.invalid("parallelism", n, words, errors);
    }
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        spec.invalid("maxFailedIndexes", n, "must be less than or equal to completions", errors);
    }
    if let Some(n) = failed.filter(|n| *n > FAILED_MAX) {
        spec.invalid("maxFailedIndexes", n, "must be less than or equal to 100000", errors);
    }
    if completions.unwrap_or(0) <= COMPLETIONS_MANY || !spec.has("backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        let words = "must be specified when completions is above 100000";
        errors.required(&spec.path.child("maxFailedIndexes"), words);
    }
    for field in ["parallelism", "maxFailedIndexes"] {
        if let Some(n) = spec.i64(field).filter(|n| *n > MANY_MAX) {
            let words = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
            spec.invalid(field, n, words, errors);
        }
    }
}

/// A text must be one of a few, which are told where it is missing.
fn choice(at: &At<'_>, field: &str, known: &[&str], errors: &mut Errors) {
    if at.str(field).is_empty() {
        let all: Vec<String> = known.iter().map(|k| api::field::quote(k)).collect();
        errors.required(&at.path.child(field), &format!("valid values: [{}]", all.join(" ")));
    } else {
        at.one_of_if_set(field, known, errors);
    }
}

/// Faults of what becomes of a job whose pods fail.
pub(super) fn failure_policy(spec: &At<'_>, errors: &mut Errors) {
    let pod = spec.field("template").field("spec");
    let known: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|l| pod.items(l)).map(|c| c.str("name")).collect();
    let policy = spec.field("podFailurePolicy");
    let rules = policy.items("rules");
    if rules.len() > RULES_MAX {
        errors.too_many(&policy.path.child("rules"), rules.len(), RULES_MAX);
    }
    for rule in rules {
        if rule.str("action") == "FailIndex" {
            if !spec.has("backoffLimitPerIndex") {
                rule.invalid("action", "FailIndex", "requires the backoffLimitPerIndex to be set", errors);
            }
        } else {
            choice(&rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], errors);
        }
        let codes = rule.some("onExitCodes");
        if let Some(codes) = &codes {
            exit_codes(codes, &known, errors);
        }
        let patterns = rule.items("onPodConditions");
        if patterns.len() > RULES_MAX {
            errors.too_many(&rule.path.child("onPodConditions"), patterns.len(), RULES_MAX);
        }
        for pattern in &patterns {
            pattern.check("type", api::names::qualified_name, errors);
            choice(pattern, "status", &["False", "True", "Unknown"], errors);
        }
        match (codes.is_some(), patterns.is_empty()) {
            (true, false) => {
                let words = "specifying both OnExitCodes and OnPodConditions is not supported";
                plain(&rule.path, words, errors);
            }
            (false, true) => {
                let words = "specifying one of OnExitCodes and OnPodConditions is required";
                plain(&rule.path, words, errors);
            }
            _ => {}
        }
    }
}

fn exit_codes(codes: &At<'_>, known: &BTreeSet<&str>, errors: &mut Errors) {
    choice(codes, "operator", &["In", "NotIn"], errors);
    let container = codes.str("containerName");
    if codes.has("containerName") && !known.contains(container) {
        let words = "must be one of the container or initContainer names in the pod template";
        codes.invalid("containerName", container, words, errors);
    }
    let values = codes.items("values");
    let shown = codes.raw("values").cloned().unwrap_or_default();
    if values.is_empty() {
        codes.invalid("values", &shown, "at least one value is required", errors);
    } else if values.len() > CODES_MAX {
        errors.too_many(&codes.path.child("values"), values.len(), CODES_MAX);
    }
    let number = |at: &At<'_>| at.value.as_i64().unwrap_or(0);
    let mut seen = BTreeSet::new();
    for at in &values {
        let again = !seen.insert(number(at));
        if codes.str("operator") == "In" && number(at) == 0 {
            errors.invalid(&at.path, number(at), "must not be 0 for the In operator");
        }
        if again {
            errors.duplicate(&at.path, number(at));
        }
    }
    if values.windows(2).any(|pair| number(&pair[0]) > number(&pair[1])) {
        codes.invalid("values", &shown, "must be ordered", errors);
    }
}

/// Faults of what is success before all is done.
pub(super) fn success_policy(spec: &At<'_>, errors: &mut Errors) {
    let Some(policy) = spec.some("successPolicy") else { return };
    if spec.str("completionMode") != "Indexed" {
        errors.invalid(&policy.path, policy.value, "requires indexed completion mode");
        return;
    }
    let rules = policy.items("rules");
    let path = policy.path.child("rules");
    if rules.is_empty() {
        errors.required(&path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        errors.too_many(&path, rules.len(), RULES_MAX);
    }
    let completions = spec.i64("completions").unwrap_or(0);
    for rule in rules {
        let count = rule.i64("succeededCount");
        if count.is_none() && !rule.has("succeededIndexes") {
            errors
                .required(&rule.path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if rule.has("succeededIndexes") {
            let text = rule.str("succeededIndexes");
            if text.len() > INDEXES_BYTES_MAX {
                errors.too_long(&rule.path.child("succeededIndexes"), INDEXES_BYTES_MAX);
            }
            match indexes(text, completions) {
                Ok(n) => total = n,
                Err(why) => {
                    let words = format!("error parsing succeededIndexes: {why}");
                    rule.invalid("succeededIndexes", text, &words, errors);
                }
            }
        }
        let Some(n) = count else { continue };
        rule.non_negative("succeededCount", errors);
        let most = "must be less than or equal to";
        if n > completions {
            let words = format!("{most} {completions} (the number of specified completions)");
            rule.invalid("succeededCount", n, &words, errors);
        }
        if rule.has("succeededIndexes") && n > total {
            let words =
                format!("{most} {total} (the number of indexes in the specified succeededIndexes field)");
            rule.invalid("succeededCount", n, &words, errors);
        }
    }
}

/// How many indexes `1,3-5` names, which must be below the completions and in order.
fn indexes(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last: Option<i64> = None;
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let ends: Vec<&str> = part.split('-').collect();
        if ends.len() > 2 {
            let shown = api::field::quote(part);
            return Err(format!(
                "the fragment {shown} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let mut numbers = Vec::new();
        for end in ends {
            let n: i64 = end.parse().map_err(|_| {
                format!("cannot convert string to integer for index: {}", api::field::quote(end))
            })?;
            if n >= completions {
                return Err(format!("too large index: {}", api::field::quote(end)));
            }
            numbers.push(n);
        }
        let (from, to) = (numbers[0], numbers[numbers.len() - 1]);
        if last.is_some_and(|last| from <= last) {
            let last = last.unwrap_or_default();
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        if numbers.len() == 2 && from >= to {
            return Err(format!("non-increasing order, previous: {from}, current: {to}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

/// Faults of when a pod that goes has another in its place.
pub(super) fn replacement_policy(spec: &At<'_>, errors: &mut Errors) {
    let known: &[&str] =
        if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    spec.one_of_if_set("podReplacementPolicy", known, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(job: Value, faults: &[&str]) {
        let mut errors = Errors::default();
        let spec = At::new(&job, Path::new("spec"));
        completion(&spec, &mut errors);
        failure_policy(&spec, &mut errors);
        success_policy(&spec, &mut errors);
        replacement_policy(&spec, &mut errors);
        assert_eq!(crate::testing::told(&errors), faults);
    }

    #[test]
    fn indexed_jobs_say_their_completions() {
        check(
            json!({"completionMode": "Indexed"}),
            &["spec.completions: Required value: when completion mode is Indexed"],
        );
        check(
            json!({"completionMode": "Bad"}),
            &[
                "spec.completionMode: Unsupported value: \"Bad\": supported values: \"NonIndexed\", \"Indexed\"",
            ],
        );
        check(
            json!({"backoffLimitPerIndex": 1}),
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        );
    }

    #[test]
    fn rules_of_failures_say_one_thing() {
        let rules =
            |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}, "podReplacementPolicy": "Failed"});
        let at = "spec.podFailurePolicy.rules[0]";
        check(
            rules(json!({"action": "Ignore"})),
            &[&format!("{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required")],
        );
        check(
            rules(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 0]}})),
            &[
                &format!("{at}.onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator"),
                &format!("{at}.onExitCodes.values: Invalid value: [2,0]: must be ordered"),
            ],
        );
        check(
            rules(json!({"action": "FailJob", "onExitCodes": {"operator": "In"}})),
            &[&format!("{at}.onExitCodes.values: Invalid value: null: at least one value is required")],
        );
    }

    #[test]
    fn indexes_are_in_order_and_below_the_completions() {
        for (text, expected) in [("0,2-4", Ok(4)), ("", Ok(0)), ("1", Ok(1))] {
            assert_eq!(indexes(text, 5), expected, "{text}");
        }
        for text in ["5", "2,1", "3-2", "a", "1-2-3"] {
            assert!(indexes(text, 5).is_err(), "{text}");
        }
    }
}
