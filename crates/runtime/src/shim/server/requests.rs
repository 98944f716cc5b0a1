//! What the service asks for.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::exec::{self, Exec};
use super::super::log::Output;
use super::super::protocol::{Numbered, Reply, Request, Stdio};
use super::super::{create, fork, wire};
use super::containers::Container;
use super::{Server, Starting};

impl Server {
    pub(super) fn request(&mut self, key: u64, request: Numbered<Request>, fds: Vec<OwnedFd>) {
        let number = request.number;
        let result = match request.body {
            Request::State => {
                let containers = self.containers.values().filter_map(Container::process).cloned().collect();
                let pid_one = self.pid_one.map(Pid::as_raw);
                self.reply(key, number, Reply::State { containers, pid_one }, &[]);
                return;
            }
            Request::Start { id, stdio } => match self.start(key, number, &id, &stdio) {
                // The child's report brings the answer.
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Exec { id, command, tty, exec } => {
                match self.exec(key, number, &id, &command, tty, exec, &fds) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            Request::Attach { id, stdout, stderr } => match self.attach(&id, stdout, stderr, fds) {
                Ok(input) => {
                    let fds: Vec<_> = input.iter().map(AsFd::as_fd).collect();
                    self.reply(key, number, Reply::Done, &fds);
                    return;
                }
                Err(error) => Err(error),
            },
            Request::Connect { port, v6 } => match connect(port, v6) {
                Ok(socket) => {
                    self.reply(key, number, Reply::Done, &[socket.as_fd()]);
                    return;
                }
                Err(error) => Err(error),
            },
            Request::Signal { id, signal } => self.signal(&id, signal),
            Request::KillExec { exec } => self.kill_exec(exec),
            Request::CloseStdin { id } => self.known(&id).map(Container::close_stdin),
            Request::ReopenLog { id } => {
                self.known(&id).and_then(|it| it.reopen().map_err(|error| error.to_string()))
            }
            Request::Forget { id } => {
                self.containers.remove(&id);
                Ok(())
            }
            Request::Shutdown => {
                self.shutdown();
                Ok(())
            }
        };
        match result {
            Ok(()) => self.reply(key, number, Reply::Done, &[]),
            Err(message) => self.fail(key, number, message),
        }
    }

    fn known(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers.get_mut(id).ok_or_else(|| format!("container {id} was not started"))
    }

    fn start(&mut self, key: u64, number: u64, id: &str, stdio: &Stdio) -> Result<(), String> {
        if self.containers.contains_key(id) {
            return Err(format!("container {id} was started already"));
        }
        let dir = self.dir.join("containers").join(id);
        let (container, ends) =
            Container::open(dir.clone(), id, stdio).map_err(|error| format!("streams: {error}"))?;
        let (ours, theirs) = wire::pair().map_err(|error| format!("socket: {error}"))?;
        let ends = std::cell::Cell::new(Some(ends));
        fork::in_child(|| match ends.take() {
            Some(ends) => create::run(&dir, id, stdio, ends, &theirs),
            None => 1,
        })
        .map_err(|error| format!("fork: {error}"))?;
        self.containers.insert(id.to_owned(), container);
        self.starting.push(Starting {
            report: ours,
            client: key,
            number,
            container: id.to_owned(),
            exec: None,
            unwanted: false,
        });
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the fields of one request
    fn exec(
        &mut self,
        key: u64,
        number: u64,
        id: &str,
        command: &[String],
        tty: bool,
        exec: u64,
        ends: &[OwnedFd],
    ) -> Result<(), String> {
        let container = self.known(id)?;
        let pid = container.pid().ok_or_else(|| format!("container {id} is not running"))?;
        let bundle = container.dir().to_owned();
        let (ours, theirs) = wire::pair().map_err(|error| format!("socket: {error}"))?;
        fork::in_child(|| exec::run(&Exec { bundle: &bundle, pid, command, tty, ends }, &theirs))
            .map_err(|error| format!("fork: {error}"))?;
        self.starting.push(Starting {
            report: ours,
            client: key,
            number,
            container: id.to_owned(),
            exec: Some(exec),
            unwanted: false,
        });
        Ok(())
    }

    fn attach(
        &mut self,
        id: &str,
        stdout: bool,
        stderr: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, String> {
        let container = self.known(id)?;
        if container.pid().is_none() {
            return Err(format!("container {id} is not running"));
        }
        let wanted = [(stdout, Output::Stdout), (stderr, Output::Stderr)];
        let outputs = wanted.into_iter().filter(|(wanted, _)| *wanted);
        for ((_, output), to) in outputs.zip(fds) {
            container.attach(output, to).map_err(|error| error.to_string())?;
        }
        container.input().map(OwnedFd::try_clone).transpose().map_err(|error| error.to_string())
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<(), String> {
        let signal = Signal::try_from(signal).map_err(|_| format!("no signal has number {signal}"))?;
        match self.known(id)?.pid() {
            // The shim is the parent and has not reaped it, so the number is still its own.
            Some(pid) => kill(Pid::from_raw(pid), signal).map_err(|error| format!("kill: {error}")),
            None => Ok(()),
        }
    }

    pub(super) fn kill_exec(&mut self, exec: u64) -> Result<(), String> {
        if let Some(starting) = self.starting.iter_mut().find(|starting| starting.exec == Some(exec)) {
            starting.unwanted = true;
            return Ok(());
        }
        match self.execs.iter().find(|running| running.exec == exec) {
            Some(running) => kill(Pid::from_raw(running.pid), Signal::SIGKILL)
                .map_err(|error| format!("kill in {}: {error}", running.container)),
            None => Ok(()),
        }
    }

    fn shutdown(&mut self) {
        let pids = self.containers.values().filter_map(Container::pid);
        for pid in pids.chain(self.pid_one.map(Pid::as_raw)) {
            if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                eprintln!("kill {pid}: {error}");
            }
        }
        self.ends = true;
    }
}

/// Begins to connect to a loopback address. The service waits for the end of it, should there be any wait.
fn connect(port: u16, v6: bool) -> Result<OwnedFd, String> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
        .map_err(|error| format!("socket: {error}"))?;
    let to: SocketAddr =
        if v6 { (Ipv6Addr::LOCALHOST, port).into() } else { (Ipv4Addr::LOCALHOST, port).into() };
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(format!("connect to {to}: {error}")),
    }
}
