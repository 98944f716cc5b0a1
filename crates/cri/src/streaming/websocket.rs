//! Channels in WebSocket messages: the first byte is the channel's number, or its digit where the rest is
//! base64. From version 5 on, channel 255 names a channel that the client has closed.

use std::collections::HashMap;
use std::io;

use base64::Engine;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::channels::{Channels, Incoming, Outgoing, PacketWriter, reader};
use super::command::CommandOptions;
use super::negotiate::{BASE64, decode};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Messages waiting, per direction and channel.
const MESSAGES: usize = 32;

/// Moves a connection's messages.
pub(super) struct Driver<T> {
    socket: WebSocketStream<T>,
    base64: bool,
    incoming: HashMap<u8, mpsc::Sender<Incoming>>,
    outgoing: mpsc::Receiver<Outgoing>,
    greeting: u8,
}

/// Makes the channels that `options` ask for. Nothing happens but while [`Driver::run`] does.
pub(super) async fn channels<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    version: u8,
    base64: bool,
    options: CommandOptions,
) -> (Channels, Driver<T>) {
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let (to, outgoing) = mpsc::channel(MESSAGES);
    let mut incoming = HashMap::new();
    let mut input = |channel: u8, wanted: bool| {
        wanted.then(|| {
            let (sender, receiver) = mpsc::channel(MESSAGES);
            incoming.insert(channel, sender);
            reader(receiver)
        })
    };
    let output = |channel: u8| Box::pin(PacketWriter::new(u32::from(channel), to.clone()));
    let channels = Channels {
        stdin: input(STDIN, options.stdin),
        resize: input(RESIZE, options.tty),
        stdout: options.stdout.then(|| output(STDOUT) as _),
        stderr: (options.stderr && !options.tty).then(|| output(STDERR) as _),
        error: output(ERROR),
        status: version >= 4,
    };
    let greeting = match options {
        CommandOptions { stdout: true, .. } => STDOUT,
        CommandOptions { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    (channels, Driver { socket, base64, incoming, outgoing, greeting })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Moves messages until the client goes or `done` resolves. Then what has been written before is sent.
    pub(super) async fn run(mut self, done: impl Future<Output = ()>) -> io::Result<()> {
        let base64 = self.base64;
        let encode = move |id: u32, bytes: &[u8]| {
            let channel = u8::try_from(id).unwrap_or(ERROR);
            if base64 {
                Message::text(format!("{}{}", channel, BASE64.encode(bytes)))
            } else {
                let mut message = Vec::with_capacity(bytes.len() + 1);
                message.push(channel);
                message.extend_from_slice(bytes);
                Message::binary(message)
            }
        };
        // Tells the client that the connection stands.
        self.socket.send(encode(u32::from(self.greeting), &[])).await.map_err(io::Error::other)?;
        let (mut sink, mut source) = self.socket.split();
        let (incoming, mut outgoing) = (self.incoming, self.outgoing);
        let writing = async {
            tokio::pin!(done);
            loop {
                let packet = tokio::select! {
                    biased;
                    Some(packet) = outgoing.recv() => packet,
                    () = &mut done => break,
                };
                if !packet.bytes.is_empty() {
                    sink.send(encode(packet.id, &packet.bytes)).await.map_err(io::Error::other)?;
                }
            }
            while let Ok(packet) = outgoing.try_recv() {
                if !packet.bytes.is_empty() {
                    sink.send(encode(packet.id, &packet.bytes)).await.map_err(io::Error::other)?;
                }
            }
            // Clients take any other code, or none, for a broken connection.
            let normal = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
            match sink.send(Message::Close(Some(normal))).await {
                // The client may have gone first.
                Ok(()) | Err(_) => Ok(()),
            }
        };
        let reading = read(&mut source, incoming, base64);
        tokio::select! { result = writing => result, result = reading => result }
    }
}

async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    source: &mut futures::stream::SplitStream<WebSocketStream<T>>,
    mut incoming: HashMap<u8, mpsc::Sender<Incoming>>,
    base64: bool,
) -> io::Result<()> {
    while let Some(message) = source.next().await {
        let (channel, bytes) = match message.map_err(io::Error::other)? {
            Message::Close(_) => return Ok(()),
            Message::Binary(bytes) if !bytes.is_empty() => (bytes[0], bytes.slice(1..)),
            Message::Text(text) if base64 && !text.is_empty() => {
                let text = text.as_bytes();
                let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a message that is not base64");
                let channel = text[0].checked_sub(b'0').ok_or_else(invalid)?;
                (channel, Bytes::from(decode(&text[1..]).ok_or_else(invalid)?))
            }
            _ => continue,
        };
        if channel == CLOSE {
            if let Some(closed) = bytes.first() {
                incoming.remove(closed);
            }
        } else if let Some(target) = incoming.get(&channel)
            && !bytes.is_empty()
            && target.send(Ok(bytes)).await.is_err()
        {
            // Nobody reads it any more.
            incoming.remove(&channel);
        }
    }
    Ok(())
}
