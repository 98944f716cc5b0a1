//! Files that are replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces `path` with one that holds `bytes`. Whoever reads it finds the old one or the new, also after the
/// writer was killed. After a power cut it may be old, missing, empty or torn: for records of what does not
/// outlive one either.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, |_| Ok(()))
}

/// As [`replace`], and a power cut leaves the old one or the new, whole; from the return on, the new one.
/// Costs two waits for the disk.
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, File::sync_data)?;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(dir)?.sync_all()
}

fn put(path: &Path, bytes: &[u8], written: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    written(&file)?;
    fs::rename(&new, path)
}

/// Waits until all that was written below `dir`, and on the rest of its file system, survives a power cut.
/// For many files this is far quicker than one by one.
pub fn sync_below(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(replace: impl Fn(&Path, &[u8]) -> io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in ["first and longer", "second", ""] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_are_replaced() {
        check(replace);
        check(replace_durably);
    }
}
