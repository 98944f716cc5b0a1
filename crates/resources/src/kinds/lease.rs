//! Leases.

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}
