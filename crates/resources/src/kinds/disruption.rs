//! Pod disruption budgets.

use api::Object;
use api::field::Errors;

use crate::at::{At, at_most_100_percent, conditions, label_selector, non_negative_int_or_percent};

pub struct PodDisruptionBudget;

impl registry::Strategy for PodDisruptionBudget {
    /// No rule for names but that they fit into a path.
    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        api::names::path_segment(name)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        let status = At::of(new, "status");
        conditions(&status, errors);
        status.all_non_negative(
            &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"],
            errors,
        );
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        if spec.has("minAvailable") && spec.has("maxUnavailable") {
            errors.invalid(&spec.path, spec.value, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in ["minAvailable", "maxUnavailable"] {
            if let Some(at) = spec.some(field) {
                non_negative_int_or_percent(&at, errors);
                at_most_100_percent(&at, errors);
            }
        }
        label_selector(&spec.field("selector"), errors);
        spec.one_of_if_set("unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], errors);
    }
}
