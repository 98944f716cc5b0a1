//! Exec and attach.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::channels::Channels;
use super::negotiate::{Accepted, Transport};
use super::{spdy, websocket};
use crate::{Reader, Result, Streams, TerminalSize, Writer};

/// How long a client may take to open its streams.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client with a terminal may take to say its size. A command may be over sooner, and a client that
/// speaks after the end complains of its own words.
const FIRST_SIZE: Duration = Duration::from_millis(100);

/// What a client asks for, by the request's query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommandOptions {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Error output; absent with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// Serves one exec or attach on the upgraded connection `io`, from streams that `begin` gives, to its
/// end. The exit code, or why there is none, is told to the client as upstream tells it.
///
/// # Errors
/// Where the connection fails. What fails beyond it is told to the client and is no error here.
pub async fn serve_command<T>(
    io: T,
    accepted: &Accepted,
    options: CommandOptions,
    begin: impl Future<Output = Result<Streams>> + Send,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    match accepted.transport {
        Transport::WebSocket(version, base64) => {
            let (channels, driver) = websocket::channels(io, version, base64, options).await;
            let (done, finished) = oneshot::channel::<()>();
            let work = async {
                run(channels, begin).await;
                drop(done);
                std::future::pending::<()>().await;
            };
            let finished = async {
                // Dropped, not sent.
                let _ = finished.await;
            };
            tokio::select! { result = driver.run(finished) => result, () = work => Ok(()) }
        }
        Transport::Spdy(version) => {
            let (mut session, driver) = spdy::session(io, spdy::Role::Server);
            let (done, finished) = oneshot::channel::<()>();
            let work = async {
                match tokio::time::timeout(PATIENCE, collect(&mut session, version, options)).await {
                    Ok(Some(channels)) => run(channels, begin).await,
                    Ok(None) => {}
                    Err(_) => tracing::debug!("a client has not opened its streams in time"),
                }
                drop(done);
                std::future::pending::<()>().await;
            };
            let finished = async {
                let _ = finished.await;
            };
            tokio::select! { result = driver.run(finished) => result, () = work => Ok(()) }
        }
        Transport::Tunnel => Err(io::Error::new(io::ErrorKind::Unsupported, "commands are not tunnelled")),
    }
}

/// Waits for the streams that a SPDY client opens, each named by its header.
async fn collect(session: &mut spdy::Session, version: u8, options: CommandOptions) -> Option<Channels> {
    let resizes = options.tty && version >= 3;
    let outputs = [options.stdin, options.stdout, options.stderr && !options.tty, resizes];
    let mut missing = 1 + outputs.iter().filter(|wanted| **wanted).count();
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    while missing > 0 {
        let stream = session.accept().await?;
        let taken = match stream.headers.get("streamtype").map(String::as_str) {
            Some("stdin") => stdin.replace(stream.reader).is_none(),
            Some("stdout") => stdout.replace(stream.writer).is_none(),
            Some("stderr") => stderr.replace(stream.writer).is_none(),
            Some("error") => error.replace(stream.writer).is_none(),
            Some("resize") => resize.replace(stream.reader).is_none(),
            _ => false,
        };
        missing -= usize::from(taken);
    }
    Some(Channels { stdin, stdout, stderr, error: error?, resize, status: version >= 4 })
}

/// Connects a client's channels with a process's streams until the process has ended and its output is
/// delivered.
async fn run(mut channels: Channels, begin: impl Future<Output = Result<Streams>> + Send) {
    let streams = match begin.await {
        Ok(streams) => streams,
        Err(error) => return tell(&mut channels, Err(error.to_string())).await,
    };
    let input = async {
        if let (Some(from), Some(to)) = (channels.stdin.take(), streams.stdin) {
            pump(from, to).await;
        }
    };
    let latest = Instant::now() + FIRST_SIZE;
    let (sized, first) = oneshot::channel();
    let sizes = async {
        if let (Some(from), Some(to)) = (channels.resize.take(), streams.resize) {
            resize(from, to, sized).await;
        }
    };
    let (stdout, stderr) = (channels.stdout.take(), channels.stderr.take());
    let output = async {
        let out = async {
            if let (Some(from), Some(to)) = (streams.stdout, stdout) {
                pump(from, to).await;
            }
        };
        let err = async {
            if let (Some(from), Some(to)) = (streams.stderr, stderr) {
                pump(from, to).await;
            }
        };
        let (exit, (), ()) = tokio::join!(streams.exit, out, err);
        let _ = tokio::time::timeout_at(latest, first).await;
        exit
    };
    let forever = async {
        tokio::join!(input, sizes);
        std::future::pending::<()>().await;
    };
    let exit = tokio::select! {
        exit = output => exit.map_err(|error| error.to_string()),
        () = forever => return,
    };
    tell(&mut channels, exit).await;
}

/// Copies until the source ends or the target does not want more, and closes the target.
async fn pump(mut from: Reader, mut to: Writer) {
    if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
        tracing::trace!(%error, "a stream ends early");
    }
    // It may have gone already.
    let _ = to.shutdown().await;
}

/// Passes terminal sizes on: `{"Width":80,"Height":24}`, one after the other; `sized` hears of the first.
async fn resize(mut from: Reader, to: mpsc::Sender<TerminalSize>, sized: oneshot::Sender<()>) {
    #[derive(serde::Deserialize)]
    struct Size {
        #[serde(rename = "Width", alias = "width")]
        width: u16,
        #[serde(rename = "Height", alias = "height")]
        height: u16,
    }
    /// Longest text that is still no size, in bytes.
    const LONGEST: usize = 4096;
    let (mut text, mut sized) = (Vec::new(), Some(sized));
    while let Ok(1..) = from.read_buf(&mut text).await {
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        while let Some(Ok(Size { width, height })) = sizes.next() {
            if let Some(sized) = sized.take() {
                // Nobody may be waiting for it.
                let _ = sized.send(());
            }
            if to.send(TerminalSize { width, height }).await.is_err() {
                return;
            }
        }
        let taken = sizes.byte_offset();
        text.drain(..taken);
        if text.len() > LONGEST {
            return;
        }
    }
}

/// Tells the client how it ended.
async fn tell(channels: &mut Channels, exit: Result<i32, String>) {
    let text = match (channels.status, &exit) {
        (true, _) => status(&exit).to_string(),
        (false, Ok(0)) => String::new(),
        (false, Ok(code)) => {
            format!(
                "error executing remote command: command terminated with non-zero exit code: exit status {code}"
            )
        }
        (false, Err(message)) => format!("error executing remote command: {message}"),
    };
    if let Err(error) = channels.error.write_all(text.as_bytes()).await {
        tracing::debug!(%error, "the client has gone before the end");
    }
    let _ = channels.error.shutdown().await;
}

/// The metav1 `Status` of an end.
fn status(exit: &Result<i32, String>) -> Value {
    match exit {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(message) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: error executing command in container: {message}"),
            "reason": "InternalError",
            "details": { "causes": [{ "message": format!("error executing command in container: {message}") }] },
            "code": 500,
        }),
    }
}
