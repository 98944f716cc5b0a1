//! A container's log in the CRI format: `2016-10-06T00:17:09.669794202Z stdout F the line`.
//!
//! Lines longer than [`LINE`] are cut, every part but the last tagged `P` instead of `F`. Bytes that end
//! no line wait for their newline, or for the end of the stream, which leaves them a `P` without its `F`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest part of a line in one log entry, in bytes.
pub const LINE: usize = 16 * 1024;

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or the terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log file of one container.
pub struct Log {
    path: PathBuf,
    file: File,
    waiting: [Vec<u8>; 2],
}

impl Log {
    /// Opens the log at `path` for appending, and makes the directory it is in.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        Ok(Self { path: path.to_owned(), file: open(path)?, waiting: [Vec::new(), Vec::new()] })
    }

    /// Opens the file anew, after it has been moved away.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Takes what a process wrote at `now` and writes the entries it completes.
    pub fn write(&mut self, output: Output, bytes: &[u8], now: &str) -> io::Result<()> {
        let entries = self.entries(output, bytes, now);
        if entries.is_empty() { Ok(()) } else { self.file.write_all(&entries) }
    }

    /// Writes what still waits for its newline: the stream has ended.
    pub fn end(&mut self, output: Output, now: &str) -> io::Result<()> {
        let rest = std::mem::take(&mut self.waiting[output as usize]);
        if rest.is_empty() {
            return Ok(());
        }
        let mut entry = Vec::with_capacity(rest.len() + 48);
        push(&mut entry, output, false, &rest, now);
        self.file.write_all(&entry)
    }

    fn entries(&mut self, output: Output, bytes: &[u8], now: &str) -> Vec<u8> {
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        let waiting = &mut self.waiting[output as usize];
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (mut line, ends) = match piece.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (piece, false),
            };
            while waiting.len() + line.len() > LINE {
                let (part, rest) = line.split_at(LINE - waiting.len());
                waiting.extend_from_slice(part);
                push(&mut entries, output, false, waiting, now);
                waiting.clear();
                line = rest;
            }
            if !ends {
                waiting.extend_from_slice(line);
            } else if waiting.is_empty() {
                push(&mut entries, output, true, line, now);
            } else {
                waiting.extend_from_slice(line);
                push(&mut entries, output, true, waiting, now);
                *waiting = Vec::new();
            }
        }
        entries
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn push(to: &mut Vec<u8>, output: Output, full: bool, line: &[u8], now: &str) {
    to.extend_from_slice(now.as_bytes());
    to.push(b' ');
    to.extend_from_slice(output.name().as_bytes());
    to.extend_from_slice(if full { b" F " } else { b" P " });
    to.extend_from_slice(line);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(writes: &[(Output, &str)], want: &Expect) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        for (output, text) in writes {
            log.write(*output, text.as_bytes(), "T").unwrap();
        }
        log.end(Output::Stdout, "T").unwrap();
        log.end(Output::Stderr, "T").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        want.assert_eq(&text.replace(&"x".repeat(LINE), "<16 KiB>"));
    }

    #[test]
    fn lines_are_entries() {
        check(
            &[(Output::Stdout, "a\nb"), (Output::Stderr, "e\n"), (Output::Stdout, "c\n\nd")],
            &expect![[r#"
                T stdout F a
                T stderr F e
                T stdout F bc
                T stdout F 
                T stdout P d
            "#]],
        );
    }

    #[test]
    fn long_lines_are_cut() {
        let long = "x".repeat(LINE);
        check(
            &[
                (Output::Stdout, &long),
                (Output::Stdout, "y"),
                (Output::Stdout, "z\n"),
                (Output::Stdout, &long),
            ],
            &expect![[r#"
                T stdout P <16 KiB>
                T stdout F yz
                T stdout P <16 KiB>
            "#]],
        );
    }
}
