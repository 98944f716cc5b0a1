//! Files that are either the old one or the new one, whatever happens.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces `path` with one that holds `bytes`. A crash leaves one or the other.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}
