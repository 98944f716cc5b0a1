//! Forking, where it is safe: a shim has one thread.
#![allow(unsafe_code)]

use std::io;

use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid, fork};

/// Runs `child` in a new process, with no signal blocked and none ignored but SIGPIPE, and ends that process
/// with what it returns.
pub fn in_child(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the process has a single thread, so no lock can be held by a thread that the copy lacks.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => end(child),
    }
}

/// As [`in_child`], but the new process is a child of the caller's parent, and starts in the PID namespace
/// that the caller has chosen for its children.
pub fn as_sibling(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    clone(flags, child)
}

/// As [`in_child`], as the first process of a new PID namespace.
pub fn as_pid_one(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    clone(libc::CLONE_NEWPID | libc::SIGCHLD, child)
}

fn clone(flags: libc::c_int, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    let flags = libc::c_long::from(flags);
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: without CLONE_VM and without a stack this is a fork; and see `in_child` for threads.
    match unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => end(child),
        pid => Ok(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

fn end(child: impl FnOnce() -> i32) -> ! {
    let code = match heed_signals() {
        Ok(()) => child(),
        Err(_) => 1,
    };
    // SAFETY: ends the process without running what the parent registered to run at its exit.
    unsafe { libc::_exit(code) }
}

/// Gives every signal but SIGPIPE its default action and blocks none: a program keeps what its starter ignores,
/// such as SIGHUP where the server was started by `nohup`.
fn heed_signals() -> io::Result<()> {
    let others = (1..=libc::SIGRTMAX())
        .filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGPIPE].contains(signal));
    for signal in others {
        heed(signal)?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Gives SIGPIPE its default action, which Rust's programs ignore to see the error instead: to be called when
/// nothing is left to do but to become another program.
pub fn heed_broken_pipes() -> io::Result<()> {
    heed(libc::SIGPIPE)
}

fn heed(signal: libc::c_int) -> io::Result<()> {
    // The kernel's own shape of an action: handler (0 is the default one), flags, restorer, mask. libc's
    // refuses the two signals that it keeps for itself.
    let default = [0_u64; 4];
    let none = std::ptr::null_mut::<libc::c_void>();
    let (signal, mask_size) = (libc::c_long::from(signal), size_of::<u64>());
    // SAFETY: the kernel reads the action, writes nothing, and no handler is left to be called.
    match unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, mask_size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
