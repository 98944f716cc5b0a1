//! The service's end of a shim's socket.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cri::{Error, Result};
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::fd;
use crate::clock;
use crate::shim::protocol::{Exit, Numbered, Reply, Request};
use crate::shim::{SOCKET, wire};

/// How long a shim may take over what it does itself. It takes far less than a millisecond; a disk that takes
/// no log may hold it up for seconds. Upstream's kubelet gives a runtime two minutes for the whole call.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to a shim. Requests may be sent by many at once.
pub struct Client {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    closed: bool,
    replies: HashMap<u64, oneshot::Sender<(Reply, Vec<OwnedFd>)>>,
    execs: HashMap<u64, oneshot::Sender<Exit>>,
}

/// The socket's address. Reached through a descriptor of its directory, since an address holds no more
/// than 107 bytes.
fn address(dir: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?)
}

fn open(dir: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Binds the socket that the shim of the sandbox in `dir` will listen on.
pub fn listen(dir: &Path) -> io::Result<OwnedFd> {
    let dir = open(dir)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address(dir.as_fd())?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

impl Client {
    /// Connects to the shim of the sandbox in `dir`.
    ///
    /// # Errors
    /// `ConnectionRefused` or `NotFound` where there is none.
    pub fn connect(dir: &Path) -> io::Result<Arc<Self>> {
        let dir = open(dir)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &address(dir.as_fd())?)?;
        Ok(Arc::new(Self {
            socket: fd::register(socket)?,
            // Execs of a server before this one may still run: the shim must not take ours for them.
            next: AtomicU64::new(u64::try_from(clock::now()).unwrap_or(1)),
            waiting: Mutex::default(),
        }))
    }

    /// A number for a request or an exec.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks and waits for the answer: 30 seconds at most where the shim gives it by itself, without end where
    /// it comes from a process that is being started.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the shim has died, [`Error::DeadlineExceeded`] where it does not answer,
    /// [`Error::Container`] with what it failed with.
    pub async fn call(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>)> {
        let starts = matches!(request, Request::Start { .. } | Request::Exec { .. });
        let answer = self.ask(request, fds);
        if starts {
            return answer.await;
        }
        tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| {
            let what = "a request to the pod's shim".into();
            Err(Error::DeadlineExceeded { what, seconds: ANSWER.as_secs_f64() })
        })
    }

    /// As [`Self::call`], and waits for as long as the shim lives.
    pub async fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>)> {
        let (tell, told) = oneshot::channel();
        let number = self.number();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(gone());
            }
            waiting.replies.insert(number, tell);
        }
        let _asked = Asked { client: self, number };
        let message = Numbered { number, body: request };
        let sent = self
            .socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| wire::send(socket.as_fd(), &message, fds))
            .await;
        if sent.is_err() {
            return Err(gone());
        }
        match told.await {
            Ok((Reply::Failed { message }, _)) => Err(Error::Container(message)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(gone()),
        }
    }

    /// Asks without waiting: for what may as well be lost with a dying shim.
    pub fn notify(&self, request: Request) {
        let message = Numbered { number: self.number(), body: request };
        if let Err(error) = wire::send(self.socket.get_ref().as_fd(), &message, &[]) {
            tracing::debug!(%error, "a request to a shim was lost");
        }
    }

    /// Resolves when the exec of this number has ended, or fails with the shim.
    pub fn expect_exit(&self, exec: u64) -> oneshot::Receiver<Exit> {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
            waiting.execs.insert(exec, tell);
        }
        told
    }

    /// No exit of this exec will come.
    pub fn forget_exit(&self, exec: u64) {
        self.waiting.lock().execs.remove(&exec);
    }

    /// How many wait for answers and for the ends of execs.
    #[cfg(test)]
    pub fn waiting(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.replies.len(), waiting.execs.len())
    }

    /// Reads what the shim says until it hangs up, and tells `exited` the ends of containers.
    pub async fn read(&self, mut exited: impl FnMut(String, Exit)) {
        loop {
            let received = self
                .socket
                .async_io(tokio::io::Interest::READABLE, |socket| {
                    wire::recv::<Numbered<Reply>>(socket.as_fd())
                })
                .await;
            match received {
                Ok(Some((Numbered { body: Reply::Exited { id, exec, exit }, .. }, _))) => match id {
                    Some(id) => exited(id, exit),
                    None => {
                        let waiter = self.waiting.lock().execs.remove(&exec);
                        // Whoever ran it may have lost interest.
                        let _ = waiter.map(|tell| tell.send(exit));
                    }
                },
                Ok(Some((message, fds))) => {
                    let waiter = self.waiting.lock().replies.remove(&message.number);
                    let _ = waiter.map(|tell| tell.send((message.body, fds)));
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "lost the connection to a shim");
                    break;
                }
            }
        }
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.replies.clear();
        waiting.execs.clear();
    }
}

/// A request that waits for its answer; nobody does any more when this is dropped.
struct Asked<'a> {
    client: &'a Client,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.client.waiting.lock().replies.remove(&self.number);
    }
}

fn gone() -> Error {
    Error::Unavailable { what: "shim".into(), message: "it has ended".into() }
}
