//! The streams of exec, attach and port-forward, inside the process.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::Result;

/// Where a process's output comes from.
pub type Reader = std::pin::Pin<Box<dyn AsyncRead + Send>>;
/// Where a process's input goes. Shutting it down closes the input.
pub type Writer = std::pin::Pin<Box<dyn AsyncWrite + Send>>;
/// Resolves to the exit code: the process's own, or 128 plus the signal that ended it.
pub type ExitFuture = BoxFuture<'static, Result<i32>>;

/// Both directions of a connection, as port-forward gives it.
pub struct ByteStream {
    /// From the pod.
    pub reader: Reader,
    /// To the pod.
    pub writer: Writer,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A command to run in a container. With `tty` there is no separate `stderr`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether its streams are a terminal.
    pub tty: bool,
    /// Whether to give it input.
    pub stdin: bool,
    /// Whether to return its output.
    pub stdout: bool,
    /// Whether to return its error output.
    pub stderr: bool,
}

/// Which streams of a container's own process to join. `tty` must be what the container was made with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Whether to give it input.
    pub stdin: bool,
    /// Whether to return its output.
    pub stdout: bool,
    /// Whether to return its error output.
    pub stderr: bool,
}

/// What a command that ran to its end left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its output.
    pub stdout: Bytes,
    /// Its error output.
    pub stderr: Bytes,
    /// Its exit code, as [`ExitFuture`] has it.
    pub exit_code: i32,
}

/// A process's streams. Those that were not asked for are absent.
pub struct Streams {
    /// To the process.
    pub stdin: Option<Writer>,
    /// From the process; with a terminal, all its output.
    pub stdout: Option<Reader>,
    /// From the process.
    pub stderr: Option<Reader>,
    /// Takes the terminal's new sizes; present where there is a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Resolves when the process has ended. Output may still be unread then.
    pub exit: ExitFuture,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByteStream")
    }
}
