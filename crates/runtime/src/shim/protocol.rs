//! What the service and a shim say to each other.
//!
//! The service sends a [`Request`], the shim answers each with one [`Reply`] of the same number, not
//! necessarily in order, and sends [`Reply::Exited`] by itself (number 0) to every connection.

use serde::{Deserialize, Serialize};

/// A request with its number, which is not 0.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Ties a reply to its request.
    pub number: u64,
    /// The message itself.
    pub body: T,
}

/// How a container's process is to be connected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stdio {
    /// Where to write the CRI log; none where the container's output is not kept.
    pub log_path: Option<String>,
    /// Whether there is an input to write to.
    pub stdin: bool,
    /// Whether its streams are a terminal.
    pub tty: bool,
    /// Passed to the process and its children; lowering it needs a right we may not have.
    pub oom_score_adj: Option<i64>,
}

/// What the service asks of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// All containers' states. Also the sign that the sandbox's namespaces are ready.
    State,
    /// Create and start the container in `containers/<id>/`.
    Start {
        /// The container.
        id: String,
        /// Its streams.
        stdio: Stdio,
    },
    /// Send a signal to the container's first process.
    Signal {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Run a command. Descriptors: without a terminal its input, output and error output; with one, a
    /// message socket over which the terminal's master comes back.
    Exec {
        /// The container to run it in.
        id: String,
        /// The program and its arguments.
        command: Vec<String>,
        /// Whether to give it a terminal.
        tty: bool,
        /// The exec's number, for [`Request::KillExec`] and [`Reply::Exited`].
        exec: u64,
    },
    /// Kill what an exec runs, if it still runs, or as soon as it does.
    KillExec {
        /// Its number.
        exec: u64,
    },
    /// Copy the container's output to the descriptors from now on: output, then error output. The reply
    /// brings a descriptor that takes input, where the container has any.
    Attach {
        /// The container.
        id: String,
        /// Whether the first descriptor wants the output.
        stdout: bool,
        /// Whether the next descriptor wants the error output.
        stderr: bool,
    },
    /// Let go of the container's input, so that it reads its end.
    CloseStdin {
        /// The container.
        id: String,
    },
    /// Open the log file anew.
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Connect to a TCP port on the sandbox's loopback address; the reply brings the socket.
    Connect {
        /// The port.
        port: u16,
        /// On `::1` instead of `127.0.0.1`.
        v6: bool,
    },
    /// Forget a container that has exited.
    Forget {
        /// The container.
        id: String,
    },
    /// Kill whatever still runs, and end.
    Shutdown,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done; descriptors as the request says.
    Done,
    /// The answer to [`Request::State`].
    State {
        /// Every container that was started and not forgotten.
        containers: Vec<Process>,
        /// The first process of the sandbox's PID namespace, where the pod shares one.
        pid_one: Option<i32>,
    },
    /// The answer to [`Request::Start`] and [`Request::Exec`].
    Started {
        /// The process, as the host numbers it.
        pid: i32,
        /// When it was started, in nanoseconds since the Unix epoch.
        at: i64,
    },
    /// The answer to anything that failed.
    Failed {
        /// Why.
        message: String,
    },
    /// Something ended.
    Exited {
        /// The container, or none for an exec.
        id: Option<String>,
        /// The exec's number, or 0.
        exec: u64,
        /// How it ended.
        exit: Exit,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, or 128 plus the signal that ended it.
    pub code: i32,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom: bool,
    /// When, in nanoseconds since the Unix epoch.
    pub at: i64,
}

/// A container's first process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// The container.
    pub id: String,
    /// As the host numbers it.
    pub pid: i32,
    /// When it was started, in nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}
