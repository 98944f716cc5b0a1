//! Network namespaces: making them, naming them, and running something inside one.
//!
//! The namespace belongs to a thread, so work inside one runs on a thread of its own and the caller's
//! thread never changes its namespace.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Why a namespace could not be made, opened, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {path}: {what}: {source}")]
pub struct Error {
    /// The namespace's path, or what it is where it has none.
    pub path: String,
    /// The step that failed.
    pub what: &'static str,
    /// The system's answer.
    pub source: io::Error,
}

fn failed(path: impl AsRef<Path>, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().display().to_string();
    move |source| Error { path, what, source }
}

/// An open network namespace; lives at least as long as this handle.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Namespace {
    /// The namespace bound at a path (`/run/netns/…`, `/proc/…/ns/net`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let fd = File::open(path).map_err(failed(path, "open"))?.into();
        Ok(Self { fd, path: path.into() })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A new namespace without a name; gone with the last handle, socket and process in it.
    pub fn anonymous() -> Result<Self, Error> {
        on_thread("(new)", || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("(new)", "unshare")(e.into()))?;
            Self::current().map(|ns| Self { path: "(anonymous)".into(), ..ns })
        })?
    }

    /// A new namespace bound at `path`, which outlives this process. The file is made.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let ns = Self::anonymous()?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent, "create directory"))?;
        }
        File::create_new(path).map_err(failed(path, "create"))?;
        let source = format!("/proc/self/fd/{}", ns.as_raw_fd());
        let bound = mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        if let Err(errno) = bound {
            // The error that counts is the mount's; the empty file must not stay either way.
            let _ = fs::remove_file(path);
            return Err(failed(path, "bind")(errno.into()));
        }
        Ok(Self { path: path.into(), ..ns })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a new thread inside this namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(&self.path, || {
            setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|e| failed(&self.path, "setns")(e.into()))?;
            Ok(work())
        })?
    }
}

/// Removes the name of a namespace; one that is absent is no error.
pub fn unbind(path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(failed(path, "unmount")(errno.into())),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "remove")(e)),
        _ => Ok(()),
    }
}

fn on_thread<T: Send>(path: impl AsRef<Path>, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(failed(path, "start a thread"))?;
        // A panic in the work is the caller's panic.
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
