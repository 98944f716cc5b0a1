//! What the node's rooms are told about the objects they follow.

use std::sync::Arc;

/// One step of following a kind of object.
#[derive(Debug, Clone)]
pub enum Event<T> {
    /// The object is there, or has changed.
    Applied(Arc<T>),
    /// The object is gone; this is what it was.
    Deleted(Arc<T>),
    /// Every object that was there at the beginning has been told.
    Synced,
}
