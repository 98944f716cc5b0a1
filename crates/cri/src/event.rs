//! Container events.

use std::pin::Pin;

use futures::Stream;

/// What has become of a container or sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It exists.
    Created,
    /// Its process runs.
    Started,
    /// Its process has exited; its status says how.
    Stopped,
    /// It is no more.
    Deleted,
}

/// News from the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container, or the sandbox itself where `container` equals `sandbox`, has changed.
    Container {
        /// The sandbox it belongs to.
        sandbox: String,
        /// The container.
        container: String,
        /// The change.
        kind: EventKind,
        /// When, in nanoseconds since the Unix epoch.
        at: i64,
    },
    /// Events may have been missed: list everything again.
    Resync,
}

/// Events from the moment of subscribing on. Ends with the runtime.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;
