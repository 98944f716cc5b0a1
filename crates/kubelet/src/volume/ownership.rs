//! `fsGroup`: files that a group of the pod's own may read and write.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use super::Error;

/// Gives `path` and all below it to `group`: readable and writable as for the owner, with directories
/// handing the group on to what is made in them.
pub fn give(path: &Path, group: Option<i64>) -> Result<(), Error> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    let found = fs::symlink_metadata(path).map_err(Error::file("read", path))?;
    lchown(path, None, Some(group)).map_err(Error::file("chown", path))?;
    if found.is_symlink() {
        return Ok(());
    }
    let add = if found.is_dir() { 0o2770 } else { 0o660 };
    let mode = found.permissions().mode() | add;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::file("chmod", path))?;
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::file("read", path))? {
            give(&entry.map_err(Error::file("read", path))?.path(), Some(group.into()))?;
        }
    }
    Ok(())
}
