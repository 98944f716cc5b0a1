//! `fsGroup`: files that a group of the pod's own may read, or write too.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use super::Error;

/// What the group may do with the files of a volume.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

impl Access {
    /// Permissions added to a file's, or to a directory's, which hands the group on to what is made in it.
    fn bits(self, is_dir: bool) -> u32 {
        match (self, is_dir) {
            (Self::Read, false) => 0o440,
            (Self::Read, true) => 0o2550,
            (Self::ReadWrite, false) => 0o660,
            (Self::ReadWrite, true) => 0o2770,
        }
    }
}

/// Gives `path` and all below it to `group`.
pub fn give(path: &Path, group: Option<i64>, access: Access) -> Result<(), Error> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    give_all(path, group, access)
}

/// Gives `path` alone to `group`.
pub fn give_one(path: &Path, group: Option<i64>, access: Access) -> Result<(), Error> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    own(path, group, access).map(drop)
}

fn give_all(path: &Path, group: u32, access: Access) -> Result<(), Error> {
    if own(path, group, access)?.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::file("read", path))? {
            give_all(&entry.map_err(Error::file("read", path))?.path(), group, access)?;
        }
    }
    Ok(())
}

fn own(path: &Path, group: u32, access: Access) -> Result<Metadata, Error> {
    let found = fs::symlink_metadata(path).map_err(Error::file("read", path))?;
    lchown(path, None, Some(group)).map_err(Error::file("chown", path))?;
    if !found.is_symlink() {
        let mode = found.permissions().mode() | access.bits(found.is_dir());
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::file("chmod", path))?;
    }
    Ok(found)
}
