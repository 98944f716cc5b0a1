//! Faults of the status of what keeps a number of pods: counts that are not negative and fit each other.

use api::Object;
use api::field::Errors;

use crate::at::At;

/// What the counts of a kind are.
pub(super) struct Counts {
    /// None of them below zero.
    pub non_negative: &'static [&'static str],
    /// None of them above the count of all.
    pub of_all: &'static [&'static str],
    /// What is available is ready; the words where it is not so (none where the kind does not say).
    pub ready_words: &'static str,
}

pub(super) const DEPLOYMENT: Counts = Counts {
    non_negative: &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "terminatingReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ],
    of_all: &["updatedReplicas", "readyReplicas", "availableReplicas"],
    ready_words: "cannot be greater than readyReplicas",
};

/// Of replica sets and replication controllers.
pub(super) const REPLICA_SET: Counts = Counts {
    non_negative: &[
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ],
    of_all: &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
    ready_words: "cannot be greater than readyReplicas",
};

pub(super) const STATEFUL_SET: Counts = Counts {
    non_negative: &[
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ],
    of_all: &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
    ready_words: "cannot be greater than status.readyReplicas",
};

pub(super) const DAEMON_SET: Counts = Counts {
    non_negative: &[
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ],
    of_all: &[],
    ready_words: "",
};

/// Faults of a changed status.
pub(super) fn validate(new: &Object, old: &Object, counts: &Counts, errors: &mut Errors) {
    let at = At::of(new, "status");
    at.all_non_negative(counts.non_negative, errors);
    let number = |field: &str| at.i64(field).unwrap_or(0);
    for field in counts.of_all {
        if number(field) > number("replicas") {
            at.invalid(field, number(field), "cannot be greater than status.replicas", errors);
        }
    }
    let available = number("availableReplicas");
    if !counts.ready_words.is_empty() && available > number("readyReplicas") {
        at.invalid("availableReplicas", available, counts.ready_words, errors);
    }
    let before = At::of(old, "status").i64("collisionCount");
    if before.is_some_and(|b| number("collisionCount") < b) {
        at.invalid("collisionCount", number("collisionCount"), "cannot be decremented", errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{object, told};

    fn check(counts: &Counts, new: serde_json::Value, old: serde_json::Value, faults: &[&str]) {
        let of = |status: serde_json::Value| object(json!({"status": status}));
        let mut errors = Errors::default();
        validate(&of(new), &of(old), counts, &mut errors);
        assert_eq!(told(&errors), faults);
    }

    #[test]
    fn counts_fit_each_other() {
        check(
            &REPLICA_SET,
            json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}),
            json!({}),
            &[],
        );
        check(
            &REPLICA_SET,
            json!({"replicas": 1, "availableReplicas": 2}),
            json!({}),
            &[
                "status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
            ],
        );
        check(
            &DEPLOYMENT,
            json!({"unavailableReplicas": -1}),
            json!({}),
            &["status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            &DAEMON_SET,
            json!({"collisionCount": 1}),
            json!({"collisionCount": 2}),
            &["status.collisionCount: Invalid value: 1: cannot be decremented"],
        );
    }
}
