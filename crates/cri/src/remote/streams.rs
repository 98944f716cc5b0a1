//! Exec, attach and port-forward: CRI names a URL for each, where SPDY is spoken as `kubectl` speaks it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Remote;
use super::fault::About;
use crate::streaming::spdy::{Opener, Role, session};
use crate::{
    AttachOptions, ByteStream, Error, ExecOptions, Reader, Result, Streams, TerminalSize, Writer, v1,
};

const COMMAND: &str = "v4.channel.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
/// Terminal sizes that may wait for the terminal.
const SIZES: usize = 8;

/// Which streams a command is to have.
#[derive(Clone, Copy)]
struct Wanted {
    tty: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Unavailable { what: "the runtime's streaming server".into(), message: error.to_string() }
}

impl Remote {
    pub(super) async fn open_exec(&self, container: &str, options: ExecOptions) -> Result<Streams> {
        let ExecOptions { command, tty, stdin, stdout, stderr } = options;
        let stderr = stderr && !tty;
        let container_id = container.to_owned();
        let request = v1::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr };
        let answer = self.runtime().exec(super::soon(request)).await;
        let url = answer.map_err(|it| About::Container(container).fault(it))?.into_inner().url;
        self.command(&url, Wanted { tty, stdin, stdout, stderr }).await
    }

    pub(super) async fn open_attach(&self, container: &str, options: AttachOptions) -> Result<Streams> {
        let AttachOptions { tty, stdin, stdout, stderr } = options;
        let stderr = stderr && !tty;
        let container_id = container.to_owned();
        let request = v1::AttachRequest { container_id, stdin, tty, stdout, stderr };
        let answer = self.runtime().attach(super::soon(request)).await;
        let url = answer.map_err(|it| About::Container(container).fault(it))?.into_inner().url;
        self.command(&url, Wanted { tty, stdin, stdout, stderr }).await
    }

    pub(super) async fn open_port(&self, sandbox: &str, port: u16) -> Result<ByteStream> {
        let request =
            v1::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: vec![i32::from(port)] };
        let answer = self.runtime().port_forward(super::soon(request)).await;
        let url = answer.map_err(|it| About::Sandbox(sandbox).fault(it))?.into_inner().url;
        let (opener, open) = self.connect_streams(&url, PORT_FORWARD).await?;
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        let mut error = opener.open(&headers("error")).await.map_err(failed)?;
        error.writer.shutdown().await.map_err(failed)?;
        let data = opener.open(&headers("data")).await.map_err(failed)?;
        let reader = Forwarded { data: data.reader, error: error.reader, told: Vec::new(), _open: open };
        Ok(ByteStream { reader: Box::pin(reader), writer: data.writer })
    }

    /// The streams of a command at `url`.
    async fn command(&self, url: &str, wanted: Wanted) -> Result<Streams> {
        let (opener, open) = self.connect_streams(url, COMMAND).await?;
        let stream = async |kind: &str, is_wanted: bool| match is_wanted {
            true => opener.open(&[("streamtype", kind)]).await.map(Some).map_err(failed),
            false => Ok(None),
        };
        // In upstream's order; the server waits for all of them.
        let error = stream("error", true).await?.ok_or_else(|| failed("no error stream"))?;
        let stdin = stream("stdin", wanted.stdin).await?;
        let stdout = stream("stdout", wanted.stdout).await?;
        let stderr = stream("stderr", wanted.stderr).await?;
        let resize = stream("resize", wanted.tty).await?.map(|stream| self.sizes(stream.writer));
        let exit = async move {
            let _open = open;
            exit_code(error.reader).await
        };
        Ok(Streams {
            stdin: stdin.map(|stream| stream.writer),
            stdout: stdout.map(|stream| stream.reader),
            stderr: stderr.map(|stream| stream.reader),
            resize,
            exit: Box::pin(exit),
        })
    }

    /// Takes terminal sizes and passes them on.
    fn sizes(&self, mut to: Writer) -> mpsc::Sender<TerminalSize> {
        let (sender, mut sizes) = mpsc::channel::<TerminalSize>(SIZES);
        self.tasks.spawn(async move {
            while let Some(TerminalSize { width, height }) = sizes.recv().await {
                let text = json!({ "Width": width, "Height": height }).to_string();
                if to.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        sender
    }

    /// Connects to the streaming server. The connection ends when what comes with the opener is dropped.
    async fn connect_streams(&self, url: &str, protocol: &str) -> Result<(Opener, DropGuard)> {
        let io = upgrade(url, protocol).await?;
        let (session, driver) = session(io, Role::Client);
        let done = self.stop.child_token();
        let ended = done.clone();
        self.tasks.spawn(async move {
            if let Err(error) = driver.run(wait(ended)).await {
                tracing::debug!(%error, "a stream of the runtime ended badly");
            }
        });
        Ok((session.opener(), done.drop_guard()))
    }
}

async fn wait(ended: CancellationToken) {
    ended.cancelled().await;
}

/// Asks for SPDY at `url`.
async fn upgrade(url: &str, protocol: &str) -> Result<TokioIo<Upgraded>> {
    let uri: Uri = url.parse().map_err(failed)?;
    let authority =
        uri.authority().ok_or_else(|| failed(format!("{url} names no host")))?.as_str().to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let socket = TcpStream::connect(&authority).await.map_err(failed)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, &authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", protocol)
        .header(header::CONTENT_LENGTH, "0")
        .body(Empty::<Bytes>::new())
        .map_err(failed)?;
    let asking = async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
            return Err(failed(format!("{status}: {}", String::from_utf8_lossy(&body).trim())));
        }
        hyper::upgrade::on(response).await.map_err(failed)
    };
    // The connection has to be moved on until it is handed over.
    let moving = async { connection.with_upgrades().await.map_err(failed) };
    let (upgraded, moved) = tokio::join!(asking, moving);
    let upgraded = upgraded?;
    moved?;
    Ok(TokioIo::new(upgraded))
}

/// How a command ended, as its error stream tells once it has.
async fn exit_code(mut from: Reader) -> Result<i32> {
    let mut text = Vec::new();
    from.read_to_end(&mut text).await.map_err(failed)?;
    if text.is_empty() {
        return Err(failed("it ended without telling how the command did"));
    }
    let status: Value = serde_json::from_slice(&text)
        .map_err(|_| Error::Container(String::from_utf8_lossy(&text).into_owned()))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.and_then(|causes| causes.iter().find(|cause| cause["reason"] == "ExitCode"));
    match code.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(Error::Container(status["message"].as_str().unwrap_or_default().to_owned())),
    }
}

/// Most of an error's text that is kept, in bytes.
const LONGEST_FAULT: usize = 4096;

/// What comes from a forwarded port, and then what went wrong. The connection lives as long as this.
///
/// The runtime answers before it has connected: that it could not is told on the error stream, so the end
/// of the data is an end only where nothing is told there.
struct Forwarded {
    data: Reader,
    error: Reader,
    told: Vec<u8>,
    _open: DropGuard,
}

impl Forwarded {
    /// Reads the error stream to its end.
    fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut piece = [0; 512];
            let mut buffer = ReadBuf::new(&mut piece);
            ready!(self.error.as_mut().poll_read(context, &mut buffer))?;
            let room = LONGEST_FAULT - self.told.len();
            match buffer.filled() {
                [] => break,
                filled => self.told.extend(&filled[..filled.len().min(room)]),
            }
        }
        Poll::Ready(match self.told.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&self.told).into_owned())),
        })
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.data.as_mut().poll_read(context, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_told(context)
    }
}
