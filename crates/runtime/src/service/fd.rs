//! Pipes, terminals and sockets of containers as asynchronous streams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A descriptor that can be waited for. Shutting it down closes it.
pub struct Fd {
    file: Option<AsyncFd<File>>,
    closed: Option<Box<dyn FnOnce() + Send>>,
}

/// Watches what owns a descriptor.
#[allow(unsafe_code)]
pub fn register<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owner` answers with the one descriptor it owns, open for as long as it lives.
    Ok(unsafe { AsyncFd::register(owner) }?)
}

/// Owns one descriptor, always the same.
pub trait Owner: AsRawFd {}
impl Owner for File {}
impl Owner for OwnedFd {}

impl Fd {
    /// Takes over `fd`, which will not block from now on.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { file: Some(register(File::from(fd))?), closed: None })
    }

    /// Calls `closed` once the descriptor is closed, by whichever way.
    pub fn on_close(mut self, closed: impl FnOnce() + Send + 'static) -> Self {
        self.closed = Some(Box::new(closed));
        self
    }

    /// Reads what is there, without waiting. `None` where there is nothing, or nothing any more.
    pub fn read_now(&self, buffer: &mut [u8]) -> Option<usize> {
        let count = self.file.as_ref()?.get_ref().read(buffer).ok()?;
        (count > 0).then_some(count)
    }

    fn close(&mut self) {
        self.file = None;
        if let Some(closed) = self.closed.take() {
            closed();
        }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.close();
    }
}

impl AsyncRead for Fd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(file) = &self.file else { return Poll::Ready(Ok(())) };
        loop {
            let mut ready = ready!(file.poll_read_ready(context))?;
            let result = ready.try_io(|file| {
                let mut file = file.get_ref();
                file.read(buffer.initialize_unfilled())
            });
            match result {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose last user has gone.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Fd {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(file) = &self.file else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            let mut ready = ready!(file.poll_write_ready(context))?;
            if let Ok(result) = ready.try_io(|file| {
                let mut file = file.get_ref();
                file.write(bytes)
            }) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}
