//! A container's last words.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::observed::Container;
use crate::names;

/// Most bytes of a termination message.
const LONGEST: u64 = 4096;
/// Most bytes and lines taken from a log instead.
const LOG_BYTES: u64 = 2048;
const LOG_LINES: usize = 80;

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
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    // A line carries its time and stream in front; twice the bytes hold what is wanted of short lines.
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES * 4)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let lines = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let mut end = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    while end.len() as u64 > LOG_BYTES {
        end.remove(0);
    }
    Ok(end)
}
