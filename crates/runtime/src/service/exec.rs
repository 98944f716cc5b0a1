//! Streams: exec, attach, port-forward.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::{AttachOptions, ByteStream, Error, ExecOptions, ExecOutput, Result, Streams, TerminalSize};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

use super::Service;
use super::client::Client;
use super::containers::ended;
use super::fd::Fd;
use super::records::Phase;
use crate::shim::protocol::{Exit, Request};
use crate::shim::wire;

/// Most that is kept of each output of [`Service::run_command`], in bytes.
const KEPT: usize = 16 << 20;
/// Terminal sizes that may wait for the terminal.
const SIZES: usize = 8;

/// A command in a container, running or being started; killed when this is dropped before it ended.
struct Running {
    client: Arc<Client>,
    exec: u64,
    exit: Option<oneshot::Receiver<Exit>>,
}

impl Running {
    async fn wait(&mut self) -> Result<i32> {
        let Some(exit) = &mut self.exit else {
            return Err(Error::Other("the command's end was waited for twice".into()));
        };
        let result = exit.await;
        self.exit = None;
        result.map(|exit| exit.code).map_err(|_| Error::Unavailable {
            what: "shim".into(),
            message: "it ended before the command".into(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit.is_some() {
            self.client.forget_exit(self.exec);
            self.client.notify(Request::KillExec { exec: self.exec });
        }
    }
}

/// Our ends of a command's streams.
#[derive(Default)]
struct Ends {
    stdin: Option<Fd>,
    stdout: Option<Fd>,
    stderr: Option<Fd>,
    master: Option<OwnedFd>,
}

fn streams_error(error: io::Error) -> Error {
    Error::Other(format!("streams: {error}"))
}

/// Both ends of a pipe: ours to read, theirs to write; or only theirs, which goes nowhere.
fn output(wanted: bool) -> io::Result<(Option<Fd>, OwnedFd)> {
    if !wanted {
        return Ok((None, File::options().write(true).open("/dev/null")?.into()));
    }
    let (ours, theirs) = io::pipe()?;
    Ok((Some(Fd::new(ours.into())?), theirs.into()))
}

fn input(wanted: bool) -> io::Result<(Option<Fd>, OwnedFd)> {
    if !wanted {
        return Ok((None, File::open("/dev/null")?.into()));
    }
    let (theirs, ours) = io::pipe()?;
    Ok((Some(Fd::new(ours.into())?), theirs.into()))
}

impl Service {
    async fn spawn(&self, container: &str, options: &ExecOptions) -> Result<(Running, Ends)> {
        let container = self.container(container)?;
        container.pid()?;
        let client = self.sandbox(&container.record.sandbox)?.client()?;
        let exec = client.number();
        let request = Request::Exec {
            id: container.record.id.clone(),
            command: options.command.clone(),
            tty: options.tty,
            exec,
        };
        // From here on: whoever gives up while the command is being started leaves nothing behind.
        let exit = Some(client.expect_exit(exec));
        let running = Running { client: Arc::clone(&client), exec, exit };
        let mut ends = Ends::default();
        if options.tty {
            let (ours, theirs) = wire::pair().map_err(streams_error)?;
            client.call(request, &[theirs.as_fd()]).await?;
            drop(theirs);
            // It was sent before the command began, so it is here.
            ends.master = wire::recv_fd(ours.as_fd()).map_err(streams_error)?;
        } else {
            let (stdin, in_theirs) = input(options.stdin).map_err(streams_error)?;
            let (stdout, out_theirs) = output(options.stdout).map_err(streams_error)?;
            let (stderr, error_theirs) = output(options.stderr).map_err(streams_error)?;
            ends = Ends { stdin, stdout, stderr, master: None };
            client.call(request, &[in_theirs.as_fd(), out_theirs.as_fd(), error_theirs.as_fd()]).await?;
        }
        Ok((running, ends))
    }

    pub(super) async fn run_command(
        &self,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let options =
            ExecOptions { command: command.to_vec(), stdout: true, stderr: true, ..ExecOptions::default() };
        let work = async {
            let (mut running, ends) = self.spawn(container, &options).await?;
            let (Some(mut stdout), Some(mut stderr)) = (ends.stdout, ends.stderr) else {
                return Err(Error::Other("the command has no streams".into()));
            };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let exit_code = {
                let reads = async {
                    tokio::join!(collect(&mut stdout, &mut out), collect(&mut stderr, &mut err));
                    // Its outputs may end before it does.
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    code = running.wait() => code?,
                    () = reads => return Err(Error::Other("unreachable".into())),
                }
            };
            // What it wrote is in the pipes; who else holds them is not waited for.
            for (from, to) in [(&stdout, &mut out), (&stderr, &mut err)] {
                let mut chunk = [0; 16 * 1024];
                while let Some(count) = from.read_now(&mut chunk) {
                    keep(to, &chunk[..count]);
                }
            }
            Ok(ExecOutput { stdout: Bytes::from(out), stderr: Bytes::from(err), exit_code })
        };
        let Some(timeout) = timeout else { return work.await };
        tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            let what = format!("command {command:?}");
            Err(Error::DeadlineExceeded { what, seconds: timeout.as_secs_f64() })
        })
    }

    pub(super) async fn open_exec(&self, container: &str, options: ExecOptions) -> Result<Streams> {
        let (mut running, ends) = self.spawn(container, &options).await?;
        let exit = Box::pin(async move { running.wait().await });
        let mut streams = Streams {
            stdin: ends.stdin.map(|it| Box::pin(it) as _),
            stdout: ends.stdout.map(|it| Box::pin(it) as _),
            stderr: ends.stderr.map(|it| Box::pin(it) as _),
            resize: None,
            exit,
        };
        if let Some(master) = ends.master {
            let side = |wanted: bool| wanted.then(|| master.try_clone().and_then(Fd::new)).transpose();
            streams.stdin = side(options.stdin).map_err(streams_error)?.map(|it| Box::pin(it) as _);
            streams.stdout = side(options.stdout).map_err(streams_error)?.map(|it| Box::pin(it) as _);
            streams.resize = Some(self.sizes(master));
        }
        Ok(streams)
    }

    /// Takes sizes and sets them on the terminal, until nobody is left to send any.
    fn sizes(&self, master: OwnedFd) -> mpsc::Sender<TerminalSize> {
        let (sender, mut receiver) = mpsc::channel::<TerminalSize>(SIZES);
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            let work = async {
                while let Some(size) = receiver.recv().await {
                    let size = rustix::termios::Winsize {
                        ws_row: size.height,
                        ws_col: size.width,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    if let Err(error) = rustix::termios::tcsetwinsize(&master, size) {
                        tracing::debug!(%error, "resize of a terminal");
                    }
                }
            };
            tokio::select! { () = work => {}, () = cancel.cancelled() => {} }
        });
        sender
    }

    pub(super) async fn join_streams(&self, id: &str, options: AttachOptions) -> Result<Streams> {
        let container = self.container(id)?;
        container.pid()?;
        let config = &container.record.config;
        if options.tty != config.tty {
            let message = format!("is {} but the container was made with {}", options.tty, config.tty);
            return Err(Error::InvalidArgument { field: "tty", message });
        }
        let client = self.sandbox(&container.record.sandbox)?.client()?;
        let (stdout, out_theirs) = output(options.stdout).map_err(streams_error)?;
        let wants_stderr = options.stderr && !options.tty;
        let (stderr, error_theirs) = output(wants_stderr).map_err(streams_error)?;
        let sinks = [(options.stdout, &out_theirs), (wants_stderr, &error_theirs)];
        let fds: Vec<_> = sinks.iter().filter(|(wanted, _)| *wanted).map(|(_, fd)| fd.as_fd()).collect();
        let request = Request::Attach { id: id.to_owned(), stdout: options.stdout, stderr: wants_stderr };
        let (_, mut received) = client.call(request, &fds).await?;
        drop((out_theirs, error_theirs));
        let mut streams = Streams {
            stdin: None,
            stdout: stdout.map(|it| Box::pin(it) as _),
            stderr: stderr.map(|it| Box::pin(it) as _),
            resize: None,
            exit: Box::pin({
                let container = Arc::clone(&container);
                async move {
                    ended(&container).await;
                    match *container.phase.borrow() {
                        Phase::Exited { exit, .. } => Ok(exit.code),
                        _ => Err(Error::not_found("container", container.record.id.clone())),
                    }
                }
            }),
        };
        let Some(taken) = received.pop() else { return Ok(streams) };
        if options.tty {
            let copy = taken.try_clone().map_err(streams_error)?;
            streams.resize = Some(self.sizes(copy));
        }
        if options.stdin && config.stdin {
            let mut stdin = Fd::new(taken).map_err(streams_error)?;
            if config.stdin_once {
                let id = id.to_owned();
                stdin = stdin.on_close(move || client.notify(Request::CloseStdin { id }));
            }
            streams.stdin = Some(Box::pin(stdin));
        }
        Ok(streams)
    }

    pub(super) async fn connect_port(&self, sandbox: &str, port: u16) -> Result<ByteStream> {
        let client = self.sandbox(sandbox)?.client()?;
        let mut refused = None;
        for v6 in [false, true] {
            match connect(&client, port, v6).await {
                Ok(stream) => {
                    let (reader, writer) = stream.into_split();
                    return Ok(ByteStream { reader: Box::pin(reader), writer: Box::pin(writer) });
                }
                Err(error) => {
                    refused.get_or_insert(error);
                }
            }
        }
        Err(refused.unwrap_or_else(|| Error::Other("no address to connect to".into())))
    }
}

async fn connect(client: &Client, port: u16, v6: bool) -> Result<tokio::net::TcpStream> {
    let (_, fds) = client.call(Request::Connect { port, v6 }, &[]).await?;
    let fault = |error: io::Error| Error::Container(format!("connect to port {port}: {error}"));
    let socket = fds.into_iter().next().ok_or_else(|| fault(io::ErrorKind::NotConnected.into()))?;
    let stream = std::net::TcpStream::from(socket);
    let stream = tokio::net::TcpStream::from_std(stream).map_err(fault)?;
    stream.writable().await.map_err(fault)?;
    match stream.take_error().map_err(fault)? {
        Some(error) => Err(fault(error)),
        None => Ok(stream),
    }
}

async fn collect(from: &mut Fd, to: &mut Vec<u8>) {
    let mut chunk = vec![0; 16 * 1024];
    // An output that cannot be read any more has ended.
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        keep(to, &chunk[..count]);
    }
}

fn keep(to: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT.saturating_sub(to.len());
    to.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
