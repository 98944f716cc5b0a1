//! One output of a container on its way to the log and to whoever is attached.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use super::log::{Log, Output};
use crate::clock;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// A container's output and those who read it along.
///
/// A reader that does not keep up holds the container back, as a full pipe would, until it reads on or
/// goes; nothing is buffered without bound and nothing is lost.
pub struct Source {
    /// Which output it is.
    pub output: Output,
    /// Its reading end, which does not block.
    pub from: File,
    sinks: Vec<Sink>,
}

struct Sink {
    to: File,
    behind: Vec<u8>,
}

/// What a source needs next.
pub enum Next {
    /// It is to be read when it has something.
    Read,
    /// It has ended.
    Ended,
}

impl Source {
    /// A source that reads `from`.
    pub fn new(output: Output, from: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&from, true)?;
        Ok(Self { output, from: from.into(), sinks: Vec::new() })
    }

    /// Copies what comes from now on to `to`, which must not block.
    pub fn attach(&mut self, to: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&to, true)?;
        self.sinks.push(Sink { to: to.into(), behind: Vec::new() });
        Ok(())
    }

    /// The sinks that hold the source back: to be polled for writing.
    pub fn blocked(&self) -> impl Iterator<Item = &File> {
        self.sinks.iter().filter(|sink| !sink.behind.is_empty()).map(|sink| &sink.to)
    }

    /// Writes what sinks are behind with, as far as they take it.
    pub fn flush(&mut self) {
        self.sinks.retain_mut(Sink::flush);
    }

    /// Reads what there is, at most one chunk, and passes it on.
    pub fn read(&mut self, log: Option<&mut Log>) -> io::Result<Next> {
        let mut chunk = [0; CHUNK];
        match self.from.read(&mut chunk) {
            Ok(0) => Ok(Next::Ended),
            Ok(count) => {
                self.pass(&chunk[..count], log)?;
                Ok(Next::Read)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Next::Read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Next::Read),
            // A terminal whose last user has gone.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(Next::Ended),
            Err(error) => Err(error),
        }
    }

    /// Reads all there is, without waiting for more.
    pub fn drain(&mut self, mut log: Option<&mut Log>) -> io::Result<Next> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.from.read(&mut chunk) {
                Ok(0) => return Ok(Next::Ended),
                Ok(count) => self.pass(&chunk[..count], log.as_deref_mut())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(Next::Ended),
                Err(error) => return Err(error),
            }
        }
    }

    fn pass(&mut self, bytes: &[u8], log: Option<&mut Log>) -> io::Result<()> {
        self.sinks.retain_mut(|sink| {
            sink.behind.extend_from_slice(bytes);
            sink.flush()
        });
        match log {
            Some(log) => log.write(self.output, bytes, &clock::rfc3339(clock::now())),
            None => Ok(()),
        }
    }
}

impl Sink {
    /// Returns whether the sink is still there.
    fn flush(&mut self) -> bool {
        while !self.behind.is_empty() {
            match self.to.write(&self.behind) {
                Ok(count) => {
                    self.behind.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.behind = Vec::new();
        true
    }
}
