//! Why libcontainer failed.
//!
//! Its errors often name the step only; the cause goes to `tracing`, and in the container's own process
//! at that. This subscriber keeps what is logged as an error in an anonymous file that all the processes
//! of a start share. The first entry is the innermost.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write as _};

use rustix::fs::MemfdFlags;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// The file.
pub struct Reasons {
    file: File,
}

impl Reasons {
    /// Begins to keep errors in this process and its children to come.
    pub fn keep() -> std::io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("reasons", MemfdFlags::CLOEXEC)?);
        let keeper = Keeper { file: file.try_clone()? };
        // Only a process that keeps them already has one.
        let _ = tracing::subscriber::set_global_default(keeper);
        Ok(Self { file })
    }

    /// The innermost error, if any was logged.
    pub fn first(mut self) -> Option<String> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut text).ok()?;
        text.lines().next().map(str::to_owned)
    }
}

struct Keeper {
    file: File,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{separator}{value:?}")
        } else {
            write!(self.0, "{separator}{}={value:?}", field.name())
        };
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let line = line.0.replace('\n', " ");
        // Without room for the reason there is still the error itself.
        let _ = (&self.file).write_all(format!("{line}\n").as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
