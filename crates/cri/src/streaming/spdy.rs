//! SPDY/3.1 as Kubernetes uses it: streams with headers, data both ways, half-close, ping. Both ends.
//!
//! There is no flow control beyond the connection's own: Kubernetes' peers neither send nor expect window
//! updates. A stream nobody reads holds the whole connection back.

mod frame;
mod headers;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};

use super::channels::{Incoming, Outgoing, PacketWriter, reader};
use crate::{Reader, Writer};
use frame::Frame;

/// Streams a peer may have open at once.
const STREAMS: usize = 4096;
/// Streams opened by the peer that nobody has accepted yet.
const UNACCEPTED: usize = 64;
/// Pieces of data waiting to be read, per stream.
const PIECES: usize = 16;
/// Frames waiting to be sent.
const FRAMES: usize = 64;

/// One stream. Dropping the writer, or shutting it down, half-closes it.
pub struct Stream {
    /// Its headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// From the peer.
    pub reader: Reader,
    /// To the peer.
    pub writer: Writer,
}

/// A connection's streams. Nothing happens but while [`Driver::run`] does.
pub struct Session {
    incoming: mpsc::Receiver<Stream>,
    opener: Opener,
}

/// Opens streams.
#[derive(Clone)]
pub struct Opener {
    out: mpsc::Sender<Frame>,
    data: mpsc::Sender<Outgoing>,
    streams: Streams,
    next: Arc<AtomicU32>,
}

type Streams = Arc<Mutex<HashMap<u32, mpsc::Sender<Incoming>>>>;

/// Moves a connection's frames.
pub struct Driver<T> {
    io: T,
    frames: mpsc::Receiver<Frame>,
    data: mpsc::Receiver<Outgoing>,
    accepted: mpsc::Sender<Stream>,
    opener: Opener,
}

/// Which end of the connection this is: it decides the numbers of the streams it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens odd streams.
    Client,
    /// Opens even ones.
    Server,
}

/// Begins SPDY on a connection.
pub fn session<T: AsyncRead + AsyncWrite + Send>(io: T, role: Role) -> (Session, Driver<T>) {
    let (out, frames) = mpsc::channel(FRAMES);
    let (data_out, data) = mpsc::channel(FRAMES);
    let (accepted, incoming) = mpsc::channel(UNACCEPTED);
    let first = if role == Role::Client { 1 } else { 2 };
    let opener =
        Opener { out, data: data_out, streams: Arc::default(), next: Arc::new(AtomicU32::new(first)) };
    (Session { incoming, opener: opener.clone() }, Driver { io, frames, data, accepted, opener })
}

impl Session {
    /// The next stream that the peer opens; none once the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// What opens streams.
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl Opener {
    /// Opens a stream.
    ///
    /// # Errors
    /// `BrokenPipe` where the connection has ended.
    pub async fn open(&self, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let id = self.next.fetch_add(2, Ordering::Relaxed);
        let headers: HashMap<String, String> =
            headers.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect();
        let stream = self.stream(id, headers.clone()).await;
        let frame = Frame::Open { id, headers, fin: false };
        self.out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(stream)
    }

    async fn stream(&self, id: u32, headers: HashMap<String, String>) -> Stream {
        let (sender, receiver) = mpsc::channel(PIECES);
        self.streams.lock().await.insert(id, sender);
        let writer = Box::pin(PacketWriter::new(id, self.data.clone()));
        Stream { headers, reader: reader(receiver), writer }
    }
}

impl<T: AsyncRead + AsyncWrite + Send> Driver<T> {
    /// Moves frames until the peer ends the connection or `done` resolves. Then what has been written
    /// before is sent, and the connection is shut down.
    ///
    /// # Errors
    /// Where the connection fails or the peer does not speak SPDY.
    pub async fn run(self, done: impl Future<Output = ()> + Send) -> io::Result<()> {
        let (read, write) = tokio::io::split(self.io);
        let streams = Arc::clone(&self.opener.streams);
        let out = self.opener.out.clone();
        let writing = write_frames(write, self.frames, self.data);
        let reading = read_frames(read, self.opener, self.accepted);
        tokio::pin!(writing, reading, done);
        let mut written = None;
        let result = loop {
            tokio::select! {
                result = &mut reading => break result,
                // The peer reads no more; what it sent before is still read.
                result = &mut writing, if written.is_none() => written = Some(result),
                () = &mut done => {
                    // The writer ends after the last frame, having sent the data queued before it.
                    let last = async {
                        match written {
                            Some(result) => result,
                            None if out.send(Frame::GoAway).await.is_ok() => writing.await,
                            None => Ok(()),
                        }
                    };
                    break tokio::select! { result = last => result, result = &mut reading => result };
                }
            }
        };
        // Readers are told that nothing more comes.
        streams.lock().await.clear();
        result
    }
}

async fn write_frames(
    mut to: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
    mut data: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let mut compressor = headers::Compressor::new()?;
    loop {
        // A stream's opening goes before its data, and its data before the end of the connection.
        let frame = tokio::select! {
            biased;
            Some(frame) = frames.recv() => frame,
            Some(packet) = data.recv() => Frame::Data { id: packet.id, bytes: packet.bytes, fin: packet.fin },
            else => return to.shutdown().await,
        };
        let ends = matches!(frame, Frame::GoAway);
        if ends {
            while let Ok(packet) = data.try_recv() {
                let frame = Frame::Data { id: packet.id, bytes: packet.bytes, fin: packet.fin };
                frame.write(&mut to, &mut compressor).await?;
            }
        }
        frame.write(&mut to, &mut compressor).await?;
        to.flush().await?;
        if ends {
            return to.shutdown().await;
        }
    }
}

async fn read_frames(
    mut from: impl AsyncRead + Unpin,
    opener: Opener,
    accepted: mpsc::Sender<Stream>,
) -> io::Result<()> {
    let mut decompressor = headers::Decompressor::new();
    loop {
        let Some(frame) = Frame::read(&mut from, &mut decompressor).await? else { return Ok(()) };
        match frame {
            Frame::Open { id, headers, fin } => {
                if opener.streams.lock().await.len() >= STREAMS {
                    return Err(io::Error::other("the peer opens too many streams"));
                }
                let stream = opener.stream(id, headers).await;
                if fin {
                    opener.streams.lock().await.remove(&id);
                }
                let reply = Frame::Reply { id };
                if opener.out.send(reply).await.is_err() || accepted.send(stream).await.is_err() {
                    return Ok(());
                }
            }
            Frame::Data { id, bytes, fin } => {
                let target = opener.streams.lock().await.get(&id).cloned();
                if let Some(target) = target
                    && !bytes.is_empty()
                {
                    // A reader that has gone wants no more of it.
                    let _ = target.send(Ok(bytes)).await;
                }
                if fin {
                    opener.streams.lock().await.remove(&id);
                }
            }
            Frame::Reset { id, cancel } => {
                let target = opener.streams.lock().await.remove(&id);
                // Kubernetes' servers cancel every stream when a command is over, rather than end them.
                if let Some(target) = target.filter(|_| !cancel) {
                    let _ = target.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                }
            }
            Frame::Ping { id } => {
                if opener.out.send(Frame::Ping { id }).await.is_err() {
                    return Ok(());
                }
            }
            Frame::GoAway => return Ok(()),
            Frame::Reply { .. } | Frame::Other => {}
        }
    }
}

/// Reads exactly `count` bytes.
async fn exactly(from: &mut (impl AsyncRead + Unpin), count: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}
