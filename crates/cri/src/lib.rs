//! The container runtime contract, in the words of CRI v1.
//!
//! The kubelet knows one trait, [`Runtime`]. Two things implement it: the embedded runtime (crate `runtime`)
//! and a client which speaks to a containerd or CRI-O over its socket. Messages are the CRI v1
//! protobuf types ([`v1`]), so that nothing is translated on either road; only what CRI leaves to HTTP
//! (exec, attach, port-forward) or to polling (container events) has a shape of its own here: streams of
//! bytes inside the process, and pushed events.
//!
//! Invariants:
//! - Every call may be repeated: stopping what is stopped and removing what is gone succeed.
//! - Events are pushed. A subscriber too slow for its bound is told to list again
//!   ([`Event::Resync`]); it never silently misses one.
//! - Times in messages are nanoseconds since the Unix epoch, as CRI has them; time spans in signatures are
//!   `Duration`s.
//! - Nothing here knows Pods, Services or any API object.
//!
//! Start at [`Runtime`], then [`Streams`] and [`Error`]; [`streaming`] turns upgraded HTTP connections into
//! streams.

mod contract;
mod error;
mod event;
pub mod remote;
pub mod streaming;
mod streams;

pub use contract::{PullProgress, Runtime, STOP_SIGNAL_ANNOTATION};
pub use error::{Error, PullFailure, Result};
pub use event::{Event, EventKind, EventStream};
pub use k8s_cri::v1;
pub use remote::Remote;
pub use streams::{
    AttachOptions, ByteStream, ExecOptions, ExecOutput, ExitFuture, Reader, Streams, TerminalSize, Writer,
};
