//! Running a command in a running container, in children of the shim.
//!
//! The first child joins the container's cgroup and namespaces; the second, its sibling, is in the
//! container's PID namespace and becomes the command. libcontainer's own exec would leave the seccomp
//! filter out, and parses and validates the whole bundle each time.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::seccomp::initialize_seccomp;
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};

use super::create::Outcome;
use super::{fork, wire};
use crate::cgroup::Cgroup;

/// What to run, and where.
pub struct Exec<'a> {
    /// The container's bundle.
    pub bundle: &'a Path,
    /// The container's first process.
    pub pid: i32,
    /// The program and its arguments.
    pub command: &'a [String],
    /// Whether `ends` is the one socket over which the terminal's master goes back.
    pub tty: bool,
    /// Input, output and error output.
    pub ends: &'a [OwnedFd],
}

/// Starts the command and tells `report`. Runs in a child of the shim; the command is its sibling.
pub fn run(exec: &Exec<'_>, report: &OwnedFd) -> i32 {
    let outcome = match start(exec) {
        Ok(pid) => Outcome::Running { pid },
        Err(message) => Outcome::Failed { message },
    };
    i32::from(wire::send(report.as_fd(), &outcome, &[]).is_err())
}

fn start(exec: &Exec<'_>) -> Result<i32, String> {
    let spec = Spec::load(exec.bundle.join("config.json")).map_err(|error| error.to_string())?;
    let linux = spec.linux().as_ref().ok_or("the bundle has no linux section")?;
    let process = spec.process().as_ref().ok_or("the bundle has no process")?;
    if let Some(path) = linux.cgroups_path() {
        join_cgroup(&Cgroup::new(path))?;
    }
    let command = Prepared::new(exec, process)?;
    enter(exec.pid).map_err(|error| format!("enter container: {error}"))?;
    let (mut failed, failed_writer) = io::pipe().map_err(|error| format!("pipe: {error}"))?;
    let pid = fork::as_sibling(|| {
        let message = command.become_command(&spec, process);
        let _gone = (&failed_writer).write_all(message.as_bytes());
        // What shells say of a command that cannot be run.
        126
    })
    .map_err(|error| format!("fork: {error}"))?;
    drop(failed_writer);
    let mut message = String::new();
    io::Read::read_to_string(&mut failed, &mut message).map_err(|error| error.to_string())?;
    if message.is_empty() { Ok(pid.as_raw()) } else { Err(message) }
}

fn join_cgroup(cgroup: &Cgroup) -> Result<(), String> {
    cgroup
        .join(i32::try_from(std::process::id()).unwrap_or_default())
        .map_err(|error| format!("join the container's cgroup: {error}"))
}

/// Enters the namespaces of process `pid`. The PID namespace holds for children only.
fn enter(pid: i32) -> io::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    nix::sched::setns(pidfd.as_fd(), all)?;
    Ok(())
}

/// Everything that needs the host's files, made ready before the container's are entered.
struct Prepared<'a> {
    command: &'a [String],
    tty: bool,
    ends: &'a [OwnedFd],
}

impl<'a> Prepared<'a> {
    fn new(exec: &Exec<'a>, process: &Process) -> Result<Self, String> {
        if exec.command.is_empty() {
            return Err("no command".into());
        }
        if let Some(score) = process.oom_score_adj() {
            let _refused = fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        Ok(Self { command: exec.command, tty: exec.tty, ends: exec.ends })
    }

    /// Becomes the command. Returns only where that fails, with the reason.
    fn become_command(&self, spec: &Spec, process: &Process) -> String {
        match self.attempt(spec, process) {
            Ok(error) => match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("exec: \"{}\": executable file not found in $PATH", self.command[0])
                }
                _ => format!("exec: \"{}\": {error}", self.command[0]),
            },
            Err(message) => message,
        }
    }

    fn attempt(&self, spec: &Spec, process: &Process) -> Result<io::Error, String> {
        nix::unistd::setsid().map_err(|error| format!("setsid: {error}"))?;
        let streams = if self.tty { vec![self.terminal()?] } else { Vec::new() };
        let source = if self.tty { &streams } else { self.ends };
        for target in 0..3 {
            let from = source.get(target).or(source.first()).ok_or("no streams")?;
            dup2(from, i32::try_from(target).unwrap_or_default())?;
        }
        let cwd = process.cwd();
        std::env::set_current_dir(cwd)
            .map_err(|error| format!("working directory {}: {error}", cwd.display()))?;
        let syscall = create_syscall();
        for limit in process.rlimits().iter().flatten() {
            syscall.set_rlimit(limit).map_err(|error| format!("rlimit: {error}"))?;
        }
        if process.no_new_privileges() == Some(true) {
            rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
        }
        let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let apply = || match filter {
            Some(filter) => initialize_seccomp(filter).map(drop).map_err(|error| format!("seccomp: {error}")),
            None => Ok(()),
        };
        let user = process.user();
        let groups: Vec<Gid> =
            user.additional_gids().iter().flatten().map(|&gid| Gid::from_raw(gid)).collect();
        nix::unistd::setgroups(&groups).map_err(|error| format!("setgroups: {error}"))?;
        // Setting a filter without no_new_privs needs CAP_SYS_ADMIN, which the command may not keep.
        if process.no_new_privileges() != Some(true) {
            apply()?;
        }
        rustix::thread::set_keep_capabilities(true).map_err(|error| format!("keep capabilities: {error}"))?;
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        nix::unistd::setresgid(gid, gid, gid).map_err(|error| format!("group {gid}: {error}"))?;
        nix::unistd::setresuid(uid, uid, uid).map_err(|error| format!("user {uid}: {error}"))?;
        if let Some(capabilities) = process.capabilities() {
            libcontainer::capabilities::reset_effective(syscall.as_ref())
                .and_then(|()| drop_privileges(capabilities, syscall.as_ref()))
                .map_err(|error| format!("capabilities: {error}"))?;
        }
        if process.no_new_privileges() == Some(true) {
            apply()?;
        }
        let environment = process.env().iter().flatten().filter_map(|entry| entry.split_once('='));
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env_clear().envs(environment);
        if !process.env().iter().flatten().any(|entry| entry.starts_with("HOME=")) {
            command.env("HOME", home(user.uid()));
        }
        Ok(command.exec())
    }

    /// Opens a terminal of the container's, makes it the session's own and sends its master away.
    fn terminal(&self) -> Result<OwnedFd, String> {
        let to = self.ends.first().ok_or("no socket for the terminal")?;
        let pty = nix::pty::openpty(None, None).map_err(|error| format!("terminal: {error}"))?;
        wire::send(to.as_fd(), &(), &[pty.master.as_fd()]).map_err(|error| format!("terminal: {error}"))?;
        // SAFETY: the descriptor is open, and the request takes no pointer.
        if unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
            return Err(format!("controlling terminal: {}", io::Error::last_os_error()));
        }
        Ok(pty.slave)
    }
}

/// The home directory that the container's `/etc/passwd` gives `uid`.
fn home(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
    });
    found.unwrap_or_else(|| "/".into())
}

fn dup2(from: &OwnedFd, to: i32) -> Result<(), String> {
    // SAFETY: both are plain numbers; 0, 1 and 2 belong to nobody in this process any more.
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
        return Err(format!("dup2: {}", io::Error::last_os_error()));
    }
    Ok(())
}
