//! Reading a log in the CRI format, and waiting for more of it.
//!
//! `2026-11-21T06:00:00.123456789Z stdout F a whole line`, or `P` for a part of one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use k8s_openapi::jiff::Timestamp;

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Lines from the end.
    pub tail: Option<u64>,
    /// Bytes at most.
    pub limit: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    /// `stdout` or `stderr` only.
    pub stream: Option<String>,
}

/// A log being read. Goes on with the new file when it is rotated.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
    wanted: Wanted,
    left: Option<u64>,
    /// The last piece sent did not end its line.
    inside: bool,
}

/// What tells that a log may have more.
pub struct Changes(EventStream<[u8; 4096]>);

impl Changes {
    /// Watches the log at `path` from now on: the directory, as rotation replaces the file; writes to files
    /// in it are told as well.
    ///
    /// # Errors
    /// The host's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        inotify.watches().add(dir, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
        Ok(Self(inotify.into_event_stream([0; 4096])?))
    }

    /// Resolves when the log may have more.
    ///
    /// # Errors
    /// The host's.
    pub async fn next(&mut self) -> io::Result<()> {
        match self.0.next().await {
            Some(event) => event.map(|_| ()),
            None => std::future::pending().await,
        }
    }
}

/// Most bytes given out at once.
const CHUNK: usize = 64 << 10;

impl Reader {
    /// Opens the log at `path`, at the part that is wanted.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path, wanted: Wanted) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = wanted.tail {
            let at = tail(&mut file, lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            partial: Vec::new(),
            left: wanted.limit,
            wanted,
            inside: false,
        })
    }

    /// Whether as much has been given out as was wanted.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// The next lines; `None` at the end of what is there so far.
    ///
    /// # Errors
    /// The host's.
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = Vec::new();
        while out.len() < CHUNK && !self.is_full() {
            let mut raw = std::mem::take(&mut self.partial);
            self.file.read_until(b'\n', &mut raw)?;
            if raw.last() != Some(&b'\n') {
                self.partial = raw;
                if self.reopen()? {
                    continue;
                }
                break;
            }
            self.take(&raw, &mut out);
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// Goes on with the new file where the log has been rotated; whether it has.
    fn reopen(&mut self) -> io::Result<bool> {
        let current = match std::fs::metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let read = self.file.get_ref().metadata()?;
        let position = self.file.stream_position()?;
        if (read.dev(), read.ino()) == (current.dev(), current.ino()) || position < read.len() {
            return Ok(false);
        }
        self.partial.clear();
        self.file = BufReader::new(File::open(&self.path)?);
        Ok(true)
    }

    fn take(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if self.wanted.stream.as_ref().is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.wanted.since {
            let at = std::str::from_utf8(time).ok().and_then(|text| text.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        let mut line = Vec::with_capacity(text.len() + 40);
        if self.wanted.timestamps && !self.inside {
            line.extend_from_slice(time);
            line.push(b' ');
        }
        self.inside = tag.first() == Some(&b'P');
        line.extend_from_slice(if self.inside { &text[..text.len() - 1] } else { text });
        if let Some(left) = &mut self.left {
            line.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= line.len() as u64;
        }
        out.extend_from_slice(&line);
    }
}

/// Where the last `lines` lines of a file begin.
fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 4096;
    let length = file.metadata()?.len();
    if lines == 0 {
        return Ok(length);
    }
    // A newline at the very end closes the last line and is none before it.
    let mut found = 0;
    let mut end = length;
    let mut block = vec![0; 4096];
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let size = usize::try_from(end - begin).unwrap_or(0);
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block[..size])?;
        for index in (0..size).rev() {
            let at = begin + index as u64;
            if block[index] == b'\n' && at + 1 < length {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n\
                       2026-01-01T00:00:01Z stderr F two\n\
                       2026-01-01T00:00:02Z stdout P thr\n\
                       2026-01-01T00:00:02Z stdout F ee\n";

    fn check(wanted: Wanted, want: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let mut reader = Reader::open(&path, wanted.clone()).unwrap();
        let mut got = Vec::new();
        while let Some(bytes) = reader.next().unwrap() {
            got.extend_from_slice(&bytes);
        }
        assert_eq!(String::from_utf8(got).unwrap(), want, "{wanted:?}");
    }

    #[test]
    fn parts_of_a_log() {
        check(Wanted::default(), "one\ntwo\nthree\n");
        check(Wanted { tail: Some(2), ..Wanted::default() }, "three\n");
        check(Wanted { tail: Some(0), ..Wanted::default() }, "");
        check(Wanted { tail: Some(9), ..Wanted::default() }, "one\ntwo\nthree\n");
        check(Wanted { limit: Some(5), ..Wanted::default() }, "one\nt");
        check(Wanted { stream: Some("stderr".into()), ..Wanted::default() }, "two\n");
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        check(
            Wanted { since, timestamps: true, ..Wanted::default() },
            "2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z three\n",
        );
    }

    #[tokio::test]
    async fn rotation_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let mut reader = Reader::open(&path, Wanted { tail: Some(0), ..Wanted::default() }).unwrap();
        let mut changes = Changes::of(&path).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F four\n").unwrap();
        changes.next().await.unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), "four\n");
    }
}
