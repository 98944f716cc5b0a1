//! How every server takes connections: so many at once, with a pause where the host lacks something, until
//! told to stop. Start at [`accept`].

mod backoff;

pub use backoff::Backoff;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After how long a silence the other end is asked whether it is there, and then how often: as Go's servers.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A socket that listens.
pub trait Listener: Send + Sync {
    /// What connects.
    type Connection: Send + 'static;

    /// The next connection. May be dropped without losing one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, peer) = TcpListener::accept(self).await?;
        if let Err(error) = stream.set_nodelay(true) {
            // It works without too; most likely its other end has gone.
            tracing::debug!(%peer, %error, "TCP_NODELAY");
        }
        // Who vanished without a word, from a watch of what never changes say, is noticed.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
            tracing::debug!(%peer, %error, "SO_KEEPALIVE");
        }
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Serves the connections of `listener`, `room` at once, until `stop`; cuts them off then, and returns when
/// they have ended. An error never ends it, see [`accept_until`].
pub async fn accept<L: Listener, F>(
    listener: L,
    room: usize,
    stop: CancellationToken,
    mut serve: impl FnMut(L::Connection) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let cut = stop.clone();
    let serve = move |connection| {
        let serving = cut.clone().run_until_cancelled_owned(serve(connection));
        async move {
            serving.await;
        }
    };
    accept_until(listener, room, stop, serve).await;
}

/// As [`accept`], but who serves a connection sees to it that it ends after `stop`.
///
/// An error never ends it: one that concerns a single connection is passed over, and where the host lacks
/// something (descriptors, memory) it tries again after a pause, while connections that end give theirs
/// back.
pub async fn accept_until<L: Listener, F>(
    listener: L,
    room: usize,
    stop: CancellationToken,
    mut serve: impl FnMut(L::Connection) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (room, tasks) = (Arc::new(Semaphore::new(room)), TaskTracker::new());
    let mut backoff = Backoff::default();
    let next = async || {
        let permit = room.clone().acquire_owned().await.expect("nobody closes the semaphore");
        (permit, listener.accept().await)
    };
    while let Some((permit, accepted)) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok(connection) => {
                if !backoff.is_fresh() {
                    tracing::info!("connections are accepted again");
                }
                backoff.succeeded();
                let serving = serve(connection);
                tasks.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                if backoff.is_fresh() {
                    tracing::warn!(%error, "connections cannot be accepted; trying again");
                }
                let pause = tokio::time::sleep(backoff.failed());
                // Stopping is seen by the loop.
                stop.run_until_cancelled(pause).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// Whether the error is that of the connection at the head of the queue, which is thereby gone: accept(2) says
/// to treat errors of the network like an attempt to be made again.
fn concerns_one_connection(error: &io::Error) -> bool {
    let network = [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::EINTR,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::ENONET,
        libc::EPROTO,
        libc::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|errno| network.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// Says what is written down, then nothing.
    struct Script(Mutex<VecDeque<Result<u32, i32>>>);

    impl Listener for Script {
        type Connection = u32;

        async fn accept(&self) -> io::Result<u32> {
            let next = self.0.lock().unwrap().pop_front();
            match next {
                Some(next) => next.map_err(io::Error::from_raw_os_error),
                None => std::future::pending().await,
            }
        }
    }

    /// Counts who lives.
    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn errors_are_passed_and_connections_end_with_it() {
        let script = [Err(libc::ECONNABORTED), Ok(1), Err(libc::EMFILE), Err(libc::ENFILE), Ok(2)];
        let (listener, stop) = (Script(Mutex::new(script.into())), CancellationToken::new());
        let (tell, mut served) = mpsc::channel(8);
        let alive = Arc::new(AtomicUsize::new(0));
        let living = alive.clone();
        let accepting = tokio::spawn(accept(listener, 8, stop.clone(), move |connection| {
            living.fetch_add(1, Ordering::SeqCst);
            let (here, tell) = (Alive(living.clone()), tell.clone());
            async move {
                tell.send(connection).await.unwrap();
                std::future::pending::<()>().await;
                drop(here);
            }
        }));
        assert_eq!((served.recv().await, served.recv().await), (Some(1), Some(2)));
        assert_eq!(alive.load(Ordering::SeqCst), 2);
        stop.cancel();
        accepting.await.unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn there_are_never_more_than_there_is_room_for() {
        let script: VecDeque<_> = (0..20).map(Ok).collect();
        let (listener, stop) = (Script(Mutex::new(script)), CancellationToken::new());
        let (tell, mut served) = mpsc::channel(1);
        let (alive, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (living, highest) = (alive.clone(), most.clone());
        let accepting = tokio::spawn(accept(listener, 3, stop.clone(), move |connection| {
            highest.fetch_max(living.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (here, tell) = (Alive(living.clone()), tell.clone());
            async move {
                tell.send(connection).await.unwrap();
                drop(here);
            }
        }));
        let mut all = Vec::new();
        while all.len() < 20 {
            all.push(served.recv().await.unwrap());
        }
        stop.cancel();
        accepting.await.unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
