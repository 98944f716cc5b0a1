//! Faults of a job's status: counts, pods that are not yet counted, and how it may end.

use std::collections::BTreeSet;

use api::Object;
use api::field::Errors;

use super::jobspec;
use crate::at::At;

/// Whether a condition holds.
pub(super) fn is(status: &At<'_>, kind: &str) -> bool {
    let conditions = status.items("conditions");
    conditions.iter().any(|c| c.str("type") == kind && c.str("status") == "True")
}

/// Faults of a changed status.
pub(super) fn validate(new: &Object, old: &Object, errors: &mut Errors) {
    let status = At::of(new, "status");
    status.all_non_negative(&["active", "succeeded", "failed", "ready", "terminating"], errors);
    let uncounted = status.field("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        for uid in uncounted.items(list) {
            let again = !seen.insert(uid.text());
            if uid.text().is_empty() {
                errors.invalid(&uid.path, "", "must not be empty");
            } else if again {
                errors.duplicate(&uid.path, uid.text());
            }
        }
    }
    let (complete, failed) = (is(&status, "Complete"), is(&status, "Failed"));
    // What was so before stays as it is: only new contradictions are told.
    let before = At::of(old, "status");
    let conditions = status.path.child("conditions");
    if complete && failed && !(is(&before, "Complete") && is(&before, "Failed")) {
        jobspec::plain(&conditions, "cannot set Complete=True and Failed=true conditions", errors);
    }
    let ended = status.str("completionTime");
    if !ended.is_empty() && before.str("completionTime") != ended {
        if !complete {
            let words = "cannot set completionTime when there is no Complete=True condition";
            status.invalid("completionTime", ended, words, errors);
        }
        let started = status.str("startTime");
        // Both are RFC 3339 in UTC: their order is that of their texts.
        if !started.is_empty() && ended < started {
            let words = "must be equal to or after `startTime`";
            status.invalid("completionTime", ended, words, errors);
        }
    }
    for kind in ["Complete", "Failed"] {
        if is(&before, kind) && !is(&status, kind) {
            let words = format!("cannot disable the terminal {kind}=True condition");
            jobspec::plain(&conditions, &words, errors);
        }
    }
}
