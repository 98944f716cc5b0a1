//! A container as its shim knows it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;

use super::super::PROCESS;
use super::super::create::Ends;
use super::super::io::{Next, Source};
use super::super::log::{Log, Output};
use super::super::protocol::{Exit, Process, Stdio};
use crate::cgroup::Cgroup;
use crate::clock;

pub struct Container {
    dir: PathBuf,
    process: Process,
    running: bool,
    pub(super) sources: Vec<Source>,
    log: Option<Log>,
    stdin: Option<OwnedFd>,
    master: Option<OwnedFd>,
}

impl Container {
    /// Opens the log and the streams of the container in `dir`, and returns its ends of them.
    pub fn open(dir: PathBuf, id: &str, stdio: &Stdio) -> io::Result<(Self, Ends)> {
        let log = stdio.log_path.as_ref().map(|path| Log::open(Path::new(path))).transpose()?;
        let mut container = Self {
            dir,
            process: Process { id: id.to_owned(), pid: 0, started_at: 0, exit: None },
            running: false,
            sources: Vec::new(),
            log,
            stdin: None,
            master: None,
        };
        if stdio.tty {
            return Ok((container, Ends { stdin: None, stdout: None, stderr: None }));
        }
        let (stdin, ours) = if stdio.stdin {
            let (theirs, ours) = io::pipe()?;
            (OwnedFd::from(theirs), Some(ours.into()))
        } else {
            (fs::File::open("/dev/null")?.into(), None)
        };
        container.stdin = ours;
        let mut output = |output| -> io::Result<OwnedFd> {
            let (ours, theirs) = io::pipe()?;
            container.sources.push(Source::new(output, ours.into())?);
            Ok(theirs.into())
        };
        let (stdout, stderr) = (output(Output::Stdout)?, output(Output::Stderr)?);
        Ok((container, Ends { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) }))
    }

    /// Its process runs, on the terminal `master` where it has one.
    pub fn started(&mut self, pid: i32, at: i64, master: Option<OwnedFd>) {
        self.process.pid = pid;
        self.process.started_at = at;
        self.running = true;
        if let Some(master) = master {
            match master.try_clone().and_then(|reader| Source::new(Output::Stdout, reader)) {
                Ok(source) => self.sources.push(source),
                Err(error) => eprintln!("container {}: terminal: {error}", self.process.id),
            }
            self.master = Some(master);
        }
        self.save();
    }

    /// Whether `pid` is its process.
    pub fn runs(&self, pid: i32) -> bool {
        self.running && self.process.pid == pid
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.running.then_some(self.process.pid)
    }

    /// What is known of its process, once it was started.
    pub fn process(&self) -> Option<&Process> {
        (self.process.pid != 0).then_some(&self.process)
    }

    /// Its process has ended: what it wrote is written out, and its end is recorded.
    pub fn ended(&mut self, code: i32) -> Exit {
        let exit = Exit { code, oom: self.oom_kills() > 0, at: clock::now() };
        for index in (0..self.sources.len()).rev() {
            let next = self.sources[index].drain(self.log.as_mut());
            self.after(index, next);
        }
        self.running = false;
        self.process.exit = Some(exit);
        self.stdin = None;
        self.save();
        exit
    }

    /// One output has something.
    pub fn read(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index) {
            let next = source.read(self.log.as_mut());
            self.after(index, next);
        }
    }

    /// Someone attached to one output takes bytes again.
    pub fn flush(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index) {
            source.flush();
        }
    }

    fn after(&mut self, index: usize, next: io::Result<Next>) {
        match next {
            Ok(Next::Read) => {}
            Ok(Next::Ended) => {
                let source = self.sources.remove(index);
                let now = clock::rfc3339(clock::now());
                if let Some(Err(error)) = self.log.as_mut().map(|log| log.end(source.output, &now)) {
                    eprintln!("container {}: log: {error}", self.process.id);
                }
            }
            // A full disk loses what does not fit; the container goes on, and the shim's own log says so.
            Err(error) => eprintln!("container {}: log: {error}", self.process.id),
        }
    }

    /// Opens the log anew.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// Copies an output to `to` from now on.
    pub fn attach(&mut self, output: Output, to: OwnedFd) -> io::Result<()> {
        match self.sources.iter_mut().find(|source| source.output == output) {
            Some(source) => source.attach(to),
            // It has ended; so does what is dropped here.
            None => Ok(()),
        }
    }

    /// A descriptor that takes its input, if it has any.
    pub fn input(&self) -> Option<&OwnedFd> {
        self.master.as_ref().or(self.stdin.as_ref())
    }

    /// Lets go of its input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    fn oom_kills(&self) -> u64 {
        let spec = Spec::load(self.dir.join("config.json")).ok();
        let path = spec.as_ref().and_then(|spec| spec.linux().as_ref()?.cgroups_path().clone());
        path.map_or(0, |path| Cgroup::new(path).oom_kills())
    }

    /// Keeps what is known for a service that comes when the shim has gone. A power cut may take it; that the
    /// process does not run then is plain without.
    fn save(&self) {
        let path = self.dir.join(PROCESS);
        let saved = serde_json::to_vec(&self.process)
            .map_err(io::Error::from)
            .and_then(|json| crate::file::replace(&path, &json));
        if let Err(error) = saved {
            eprintln!("{}: {error}", path.display());
        }
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("process", &self.process).finish_non_exhaustive()
    }
}
