//! The shim's one loop: requests, outputs and the ends of processes.

mod containers;
mod requests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};

use super::create::Outcome;
use super::protocol::{Numbered, Reply, Request};
use super::wire;
use crate::clock;
use containers::Container;

/// Most ends of processes kept for a starting process that has not told its number yet.
const UNCLAIMED: usize = 64;

pub(super) struct Server {
    dir: PathBuf,
    listener: OwnedFd,
    signals: SignalFd,
    clients: Vec<Client>,
    containers: BTreeMap<String, Container>,
    execs: Vec<Running>,
    starting: Vec<Starting>,
    /// Processes that ended before who started them told whose they are.
    unclaimed: Vec<(i32, i32)>,
    pid_one: Option<Pid>,
    ends: bool,
}

struct Client {
    key: u64,
    socket: OwnedFd,
}

/// A command that runs.
struct Running {
    exec: u64,
    pid: i32,
    container: String,
}

/// A child that starts a container or a command and will tell how it went.
struct Starting {
    report: OwnedFd,
    client: u64,
    number: u64,
    container: String,
    /// The exec's number, or none for the container itself.
    exec: Option<u64>,
    /// Whether the command is to be killed as soon as it runs.
    unwanted: bool,
}

/// What a polled descriptor belongs to.
enum Token {
    Listener,
    Signals,
    Client(u64),
    Starting(usize),
    Source(String, usize),
    Sinks(String, usize),
}

impl Server {
    pub(super) fn new(dir: PathBuf, listener: OwnedFd, pid_one: Option<Pid>) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Self {
            dir,
            listener,
            signals,
            clients: Vec::new(),
            containers: BTreeMap::new(),
            execs: Vec::new(),
            starting: Vec::new(),
            unclaimed: Vec::new(),
            pid_one,
            ends: false,
        })
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.ends {
            for token in self.wait()? {
                self.handle(token)?;
            }
        }
        Ok(())
    }

    /// Waits for anything to happen and tells to whom.
    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut tokens = vec![Token::Listener, Token::Signals];
        let mut polled =
            vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |token, fd, flags| {
            tokens.push(token);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        };
        for client in &self.clients {
            add(Token::Client(client.key), client.socket.as_fd(), PollFlags::IN);
        }
        for (index, starting) in self.starting.iter().enumerate() {
            add(Token::Starting(index), starting.report.as_fd(), PollFlags::IN);
        }
        for (id, container) in &self.containers {
            for (index, source) in container.sources.iter().enumerate() {
                let mut free = true;
                for sink in source.blocked() {
                    add(Token::Sinks(id.clone(), index), sink.as_fd(), PollFlags::OUT);
                    free = false;
                }
                if free {
                    add(Token::Source(id.clone(), index), source.from.as_fd(), PollFlags::IN);
                }
            }
        }
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let mut ready: Vec<Token> = tokens
            .into_iter()
            .zip(&polled)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(token, _)| token)
            .collect();
        // Indices stay valid while handled from the back; the ends of processes come after the reports
        // and outputs that precede them.
        ready.reverse();
        Ok(ready)
    }

    fn handle(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => {
                while self.signals.read_signal()?.is_some() {}
                self.reap();
                Ok(())
            }
            Token::Client(key) => {
                self.serve(key);
                Ok(())
            }
            Token::Starting(index) => {
                self.started(index);
                Ok(())
            }
            Token::Source(id, index) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.read(index);
                }
                Ok(())
            }
            Token::Sinks(id, index) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.flush(index);
                }
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let flags = rustix::net::SocketFlags::CLOEXEC;
        match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => {
                rustix::io::ioctl_fionbio(&socket, true)?;
                let key = self.clients.last().map_or(1, |client| client.key + 1);
                self.clients.push(Client { key, socket });
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn serve(&mut self, key: u64) {
        let Some(client) = self.clients.iter().find(|client| client.key == key) else { return };
        match wire::recv::<Numbered<Request>>(client.socket.as_fd()) {
            Ok(Some((request, fds))) => self.request(key, request, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) => self.clients.retain(|client| client.key != key),
            Err(error) => {
                eprintln!("request: {error}");
                self.clients.retain(|client| client.key != key);
            }
        }
    }

    /// Answers one client, and drops it if it has gone or does not read: it will ask for the state when
    /// it comes again.
    fn reply(&mut self, key: u64, number: u64, body: Reply, fds: &[BorrowedFd<'_>]) {
        let message = Numbered { number, body };
        self.clients
            .retain(|client| client.key != key || wire::send(client.socket.as_fd(), &message, fds).is_ok());
    }

    fn fail(&mut self, key: u64, number: u64, message: impl Into<String>) {
        self.reply(key, number, Reply::Failed { message: message.into() }, &[]);
    }

    fn tell_all(&mut self, body: Reply) {
        let message = Numbered { number: 0, body };
        self.clients.retain(|client| wire::send(client.socket.as_fd(), &message, &[]).is_ok());
    }

    /// A child has told how starting something went.
    fn started(&mut self, index: usize) {
        let starting = self.starting.remove(index);
        let (outcome, mut fds) = match wire::recv::<Outcome>(starting.report.as_fd()) {
            Ok(Some(told)) => told,
            Ok(None) => (Outcome::Failed { message: "the starting process has died".into() }, Vec::new()),
            Err(error) => (Outcome::Failed { message: error.to_string() }, Vec::new()),
        };
        let Starting { client, number, container, exec, unwanted, .. } = starting;
        match (outcome, exec) {
            (Outcome::Running { pid }, exec) => {
                let at = clock::now();
                self.reply(client, number, Reply::Started { pid, at }, &[]);
                match exec {
                    Some(exec) => self.execs.push(Running { exec, pid, container }),
                    None => {
                        if let Some(container) = self.containers.get_mut(&container) {
                            container.started(pid, at, fds.pop());
                        }
                    }
                }
                if let Some(at) = self.unclaimed.iter().position(|(ended, _)| *ended == pid) {
                    let (pid, code) = self.unclaimed.swap_remove(at);
                    self.ended(pid, code);
                }
                if let Some(exec) = exec.filter(|_| unwanted)
                    && let Err(message) = self.kill_exec(exec)
                {
                    eprintln!("{message}");
                }
            }
            (Outcome::Failed { message }, Some(_)) => self.fail(client, number, message),
            (Outcome::Failed { message }, None) => {
                self.containers.remove(&container);
                self.fail(client, number, message);
            }
        }
        if self.starting.is_empty() {
            self.unclaimed.clear();
        }
    }

    /// Collects every process that has ended.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn ended(&mut self, pid: i32, code: i32) {
        if let Some(index) = self.execs.iter().position(|running| running.pid == pid) {
            let running = self.execs.swap_remove(index);
            let exit = super::protocol::Exit { code, oom: false, at: clock::now() };
            self.tell_all(Reply::Exited { id: None, exec: running.exec, exit });
            return;
        }
        let found = self.containers.iter_mut().find(|(_, container)| container.runs(pid));
        if let Some((id, container)) = found {
            let (id, exit) = (id.clone(), container.ended(code));
            self.tell_all(Reply::Exited { id: Some(id), exec: 0, exit });
        } else if !self.starting.is_empty() && self.unclaimed.len() < UNCLAIMED {
            self.unclaimed.push((pid, code));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_command_killed_while_it_is_being_started_does_not_run_on() {
        let dir = tempfile::tempdir().unwrap();
        let (listener, _) = wire::pair().unwrap();
        let mut server = Server::new(dir.path().to_owned(), listener, None).unwrap();
        let (report, child) = wire::pair().unwrap();
        server.starting.push(Starting {
            report,
            client: 1,
            number: 1,
            container: "c".into(),
            exec: Some(7),
            unwanted: false,
        });
        server.kill_exec(7).unwrap();
        // It ends by itself only when its input does.
        let mut command = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let input = command.stdin.take();
        let pid = command.id().try_into().unwrap();
        wire::send(child.as_fd(), &Outcome::Running { pid }, &[]).unwrap();
        server.started(0);
        // Both ways it ends; what was there first says how.
        drop(input);
        assert_eq!(command.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }
}
