//! What is odd about a kind. Every hook has the common behaviour as its default.

use api::{Object, Status, field, names};
use async_trait::async_trait;

use crate::engine::{Engine, RequestContext};

/// A key of the store that an object holds for itself alone: an address, a port.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The whole key.
    pub key: String,
    pub value: bytes::Bytes,
}

/// Another object that changes with the write: a counter.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The whole key.
    pub key: String,
    /// What it must still be at.
    pub revision: store::Revision,
    pub value: bytes::Bytes,
}

/// What a write takes and gives back besides its own key, in the same transaction.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Must not exist.
    pub take: Vec<Claim>,
    pub release: Vec<String>,
    pub swap: Vec<Swap>,
}

impl Claims {
    /// Whether another write may have been faster with what is claimed.
    pub fn contended(&self) -> bool {
        !(self.take.is_empty() && self.swap.is_empty())
    }

    pub fn extend(&mut self, other: Claims) {
        self.take.extend(other.take);
        self.release.extend(other.release);
        self.swap.extend(other.swap);
    }
}

/// Hooks on the road of a write, in the order in which they are called.
#[async_trait]
pub trait Strategy: Send + Sync {
    /// Faults of a name; `generated` where it is only the front of one.
    fn name_faults(&self, name: &str, generated: bool) -> Vec<String> {
        let name = if generated { name.trim_end_matches('-') } else { name };
        names::dns1123_subdomain(name)
    }

    /// Defaults that hang on other fields; those that do not are in the schema. Runs after each
    /// decode, on what clients send and on what patches make.
    fn default(&self, _object: &mut Object) {}

    /// Whether a create keeps the status that was sent.
    fn keeps_new_status(&self) -> bool {
        false
    }

    /// Before validation of a new object. The engine has set the metadata and taken out the status.
    fn prepare_create(&self, _cx: &RequestContext, _object: &mut Object) {}

    /// Before validation of a change through the main resource. The engine has put the old status back.
    fn prepare_update(&self, _cx: &RequestContext, _new: &mut Object, _old: &Object) {}

    /// Before validation of a change through `/status`. The engine has put everything but the
    /// status and the metadata back.
    fn prepare_status(&self, _cx: &RequestContext, _new: &mut Object, _old: &Object) {}

    /// Paths of fields that a write through the main resource (or `/status`) puts back, besides the
    /// status (or all but the status): nobody comes to hold them so.
    fn reset_fields(&self, _status: bool) -> &'static [&'static [&'static str]] {
        &[]
    }

    fn validate(&self, _object: &Object, _errors: &mut field::Errors) {}

    fn validate_update(&self, new: &Object, _old: &Object, errors: &mut field::Errors) {
        self.validate(new, errors);
    }

    /// Whether a finalizer without a domain must be one that Kubernetes itself knows.
    fn knows_its_finalizers(&self) -> bool {
        true
    }

    /// How often upstream looks at a new object, metadata and all: a fault has as many causes.
    fn times_checked(&self) -> usize {
        1
    }

    /// Whether the check of an update looks at the whole object as that of a create does, metadata and all.
    fn updates_are_checked_whole(&self) -> bool {
        false
    }

    fn validate_status(&self, _new: &Object, _old: &Object, _errors: &mut field::Errors) {}

    /// Warnings to the client, not faults.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Takes what must be unique in the cluster and writes it into the object. Called again when
    /// another write was faster.
    ///
    /// # Errors
    /// What was asked for is taken, or nothing is left.
    async fn claim(
        &self,
        _engine: &Engine,
        _new: &mut Object,
        _old: Option<&Object>,
    ) -> Result<Claims, Status> {
        Ok(Claims::default())
    }

    /// What a deleted object gives back.
    fn release(&self, _old: &Object) -> Vec<String> {
        Vec::new()
    }

    /// Seconds that a deletion waits for somebody to finish; `None` where deletion is at once.
    fn grace_period(&self, _object: &Object, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Finalizers that are kept outside the metadata and hold the object back.
    fn held_back(&self, _object: &Object) -> bool {
        false
    }

    /// A deletion begins: the object as it will be stored, `deletionTimestamp` set.
    fn begin_delete(&self, _object: &mut Object) {}

    /// Whether a PUT of what does not exist creates it.
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT without a resourceVersion is taken.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Whether the garbage collector looks after objects of the kind; if not a delete's propagation policy says
    /// nothing.
    fn is_collected(&self) -> bool {
        true
    }

    /// What propagation a delete without one means.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// A warning to who deletes without saying what becomes of dependents.
    fn orphan_warning(&self) -> Option<&'static str> {
        None
    }

    /// Seconds after which an object goes by itself.
    fn time_to_live(&self) -> Option<i64> {
        None
    }
}

/// A kind with nothing odd about it.
pub struct Plain;

impl Strategy for Plain {}
