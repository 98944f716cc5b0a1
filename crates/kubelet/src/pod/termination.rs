//! A container's last words.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::observed::Container;
use crate::logs::read::{Reader, Wanted};
use crate::names;

/// Most bytes of a termination message.
const LONGEST: u64 = 4096;
/// Most bytes and lines taken from a log instead.
const LOG_BYTES: usize = 2048;
const LOG_LINES: u64 = 80;

/// What an exited container left as its message: its termination file, or the end of its log where it failed
/// silently and asks for that.
pub fn message(container: &Container, file: &Path) -> io::Result<String> {
    let written = match File::open(file) {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(LONGEST).read_to_end(&mut text)?;
            String::from_utf8_lossy(&text).into_owned()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let policy = container.annotations.get(names::TERMINATION_POLICY);
    let from_log = policy.is_some_and(|policy| policy == "FallbackToLogsOnError");
    if written.is_empty() && from_log && container.exit_code != 0 {
        return log_end(Path::new(&container.log_path));
    }
    Ok(written)
}

fn log_end(path: &Path) -> io::Result<String> {
    let wanted = Wanted { tail: Some(LOG_LINES), ..Wanted::default() };
    let mut reader = match Reader::open(path, wanted) {
        Ok(reader) => reader,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut end = Vec::new();
    while let Some(bytes) = reader.next()? {
        end.extend_from_slice(&bytes);
        end.drain(..end.len().saturating_sub(LOG_BYTES));
    }
    Ok(String::from_utf8_lossy(&end).into_owned())
}
