//! What a sandbox is made of: namespaces, a host name, kernel parameters, a loopback interface.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::fork;

/// What the shim makes before it serves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// A network namespace of its own.
    pub network: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// A PID namespace that the pod's containers share.
    pub pid: bool,
    /// The host name; with none the host's stays.
    pub hostname: Option<String>,
    /// Kernel parameters, by their dotted names.
    pub sysctls: BTreeMap<String, String>,
}

/// Takes the listening socket that came as standard input, and leaves `/dev/null` there.
pub(super) fn take_listener() -> io::Result<OwnedFd> {
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(listener)
}

/// Makes the sandbox; returns the first process of its PID namespace, where it has one.
pub(super) fn prepare(setup: &Setup) -> io::Result<Option<Pid>> {
    // Not to die with the terminal or the process group of who started it.
    nix::unistd::setsid()?;
    // Nor to become a killed pod's first victim: what a shim uses is its pod's overhead.
    let _refused = fs::write("/proc/self/oom_score_adj", "-998");
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, setup.network);
    flags.set(CloneFlags::CLONE_NEWIPC, setup.ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, setup.hostname.is_some());
    unshare(flags)?;
    if let Some(hostname) = &setup.hostname {
        nix::unistd::sethostname(hostname)?;
    }
    if setup.network {
        loopback_up()?;
    }
    for (name, value) in &setup.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))?;
    }
    if setup.pid { fork::as_pid_one(pid_one).map(Some) } else { Ok(None) }
}

/// The first process of a shared PID namespace: reaps orphans and otherwise waits to be killed.
fn pid_one() -> i32 {
    // SAFETY: no handler is installed; ignoring SIGCHLD makes the kernel reap children itself.
    if unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.is_err() {
        return 1;
    }
    // SAFETY: asks the kernel to end this process with the shim.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        nix::unistd::pause();
    }
}

fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is valid: it is made of integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: the descriptor is open, and the request points to a whole `ifreq` that outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
