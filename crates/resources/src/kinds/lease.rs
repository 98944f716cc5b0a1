//! Leases.

use api::Object;
use api::field::Errors;

use crate::at::At;

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        if let Some(n) = spec.i64("leaseDurationSeconds").filter(|n| *n <= 0) {
            spec.invalid("leaseDurationSeconds", n, "must be greater than 0", errors);
        }
        spec.non_negative("leaseTransitions", errors);
    }
}
