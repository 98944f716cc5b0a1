//! Byte streams made of the packets of a multiplexed connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;

use crate::{Reader, Writer};

/// Bytes for one stream or channel, on their way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The stream's number or the channel's.
    pub id: u32,
    /// The bytes.
    pub bytes: Bytes,
    /// Whether no more follow.
    pub fin: bool,
}

/// Bytes that came for one stream.
pub(super) type Incoming = io::Result<Bytes>;

/// What comes for one stream, as a reader.
pub(super) fn reader(from: mpsc::Receiver<Incoming>) -> Reader {
    Box::pin(StreamReader::new(ReceiverStream::new(from)))
}

/// Longest packet written at once, in bytes.
const PACKET: usize = 32 * 1024;

/// Writes one stream's packets.
pub(super) struct PacketWriter {
    id: u32,
    to: PollSender<Outgoing>,
    raw: mpsc::Sender<Outgoing>,
    closed: bool,
}

impl PacketWriter {
    pub(super) fn new(id: u32, to: mpsc::Sender<Outgoing>) -> Self {
        Self { id, to: PollSender::new(to.clone()), raw: to, closed: false }
    }
}

fn broken<E>(_: E) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for PacketWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.to.poll_reserve(context)).map_err(broken)?;
        let count = bytes.len().min(PACKET);
        let packet = Outgoing { id: self.id, bytes: Bytes::copy_from_slice(&bytes[..count]), fin: false };
        self.to.send_item(packet).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        ready!(self.to.poll_reserve(context)).map_err(broken)?;
        self.closed = true;
        let packet = Outgoing { id: self.id, bytes: Bytes::new(), fin: true };
        Poll::Ready(self.to.send_item(packet).map_err(broken))
    }
}

impl Drop for PacketWriter {
    fn drop(&mut self) {
        if !self.closed {
            // Where there is no room the end of the connection, which follows, closes it as well.
            let _ = self.raw.try_send(Outgoing { id: self.id, bytes: Bytes::new(), fin: true });
        }
    }
}

/// The streams of one command, whichever transport they come by.
pub(super) struct Channels {
    /// From the client.
    pub stdin: Option<Reader>,
    /// To the client.
    pub stdout: Option<Writer>,
    /// To the client.
    pub stderr: Option<Writer>,
    /// How it ended.
    pub error: Writer,
    /// Terminal sizes, as JSON objects one after the other.
    pub resize: Option<Reader>,
    /// Whether the end is told as a JSON `Status` rather than as text.
    pub status: bool,
}
