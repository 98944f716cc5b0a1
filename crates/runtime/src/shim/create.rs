//! Creating and starting a container, in a child of the shim.
//!
//! libcontainer allocates megabytes, changes its own process (dumpable, OOM score) and may block, so it
//! never runs in the shim itself. The container's first process still becomes the shim's child
//! (`as_sibling`), so that the shim reaps it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError, default::get_executor};
use serde::{Deserialize, Serialize};

use super::protocol::Stdio;
use super::reasons::Reasons;
use super::{fork, wire};

/// What the child tells the shim, with the terminal's master where there is one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The container's own program runs.
    Running {
        /// Its process, as the host numbers it.
        pid: i32,
    },
    /// It does not.
    Failed {
        /// Why.
        message: String,
    },
}

/// The container's ends of its streams; empty where it has a terminal.
pub struct Ends {
    /// Input.
    pub stdin: Option<OwnedFd>,
    /// Output.
    pub stdout: Option<OwnedFd>,
    /// Error output.
    pub stderr: Option<OwnedFd>,
}

/// Creates and starts the container whose bundle is `dir`, and tells `report`. Runs in a child process.
pub fn run(dir: &Path, id: &str, stdio: &Stdio, ends: Ends, report: &OwnedFd) -> i32 {
    if let Some(score) = stdio.oom_score_adj {
        // Only a process with CAP_SYS_RESOURCE may lower its score. A container is better run with a
        // higher one than not at all, as the OCI runtimes of rootless set-ups do.
        let _refused = fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    let reasons = Reasons::keep();
    let (outcome, master) = match create(dir, id, stdio.tty, ends) {
        Ok((pid, master)) => (Outcome::Running { pid }, master),
        Err(message) => {
            let reason = reasons.ok().and_then(Reasons::first).filter(|reason| !message.contains(reason));
            let message = reason.map_or(message.clone(), |reason| format!("{message}: {reason}"));
            (Outcome::Failed { message }, None)
        }
    };
    let fds: Vec<_> = master.iter().map(AsFd::as_fd).collect();
    i32::from(wire::send(report.as_fd(), &outcome, &fds).is_err())
}

fn create(dir: &Path, id: &str, tty: bool, ends: Ends) -> Result<(i32, Option<OwnedFd>), String> {
    let (mut failure, exec_failed) = io::pipe().map_err(|error| format!("pipe: {error}"))?;
    let console = tty.then(|| listen(dir)).transpose().map_err(|error| format!("console: {error}"))?;
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
        .with_root_path(dir.join("runtime"))
        .map_err(full)?
        .with_executor(Program { failed: Rc::new(exec_failed.into()) });
    if tty {
        builder = builder.with_console_socket(Some(dir.join(CONSOLE)));
    }
    builder.stdin = ends.stdin;
    builder.stdout = ends.stdout;
    builder.stderr = ends.stderr;
    let mut container = builder.as_init(dir).with_systemd(false).as_sibling(true).build().map_err(full)?;
    let master = match &console {
        Some(listener) => Some(master(listener).map_err(|error| format!("console: {error}"))?),
        None => None,
    };
    container.start().map_err(full)?;
    // Every copy of the other end closes when the program takes the process over, or tells why not.
    let mut message = String::new();
    failure.read_to_string(&mut message).map_err(|error| format!("start: {error}"))?;
    let pid = container.pid().ok_or("the container has no process")?.as_raw();
    if message.is_empty() { Ok((pid, master)) } else { Err(message) }
}

/// An error with its causes; libcontainer's own texts often name only the outermost.
fn full(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

const CONSOLE: &str = "console.sock";

/// Listens for the terminal. By a relative path, since a socket's path holds 107 bytes at most.
fn listen(dir: &Path) -> io::Result<UnixListener> {
    std::env::set_current_dir(dir)?;
    match fs::remove_file(CONSOLE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(CONSOLE)?;
    std::env::set_current_dir("/")?;
    Ok(listener)
}

fn master(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _) = listener.accept()?;
    wire::recv_fd(socket.as_fd())?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Runs the container's program, and tells where that fails: libcontainer's own does not.
#[derive(Clone)]
struct Program {
    failed: Rc<OwnedFd>,
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let ran = fork::heed_broken_pipes()
            .map_err(|error| ExecutorError::Execution(error.into()))
            .and_then(|()| get_executor().exec(spec));
        let Err(error) = ran else { return Ok(()) };
        let text = full(&error);
        if let Ok(failed) = self.failed.try_clone() {
            // The shim learns of it by the exit code too; the text is what it lacks.
            let _gone = fs::File::from(failed).write_all(text.as_bytes());
        }
        Err(error)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }
}
