//! `emptyDir`: a directory that lives as long as its pod, on the node's disk or in memory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use api::Quantity;
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::mount::{MountFlags, mount};

use super::Error;
use super::ownership::{self, Access};

/// `most` is what the volume may hold in memory, in bytes, where it sets no smaller limit itself.
pub fn set_up(
    path: &Path,
    source: &EmptyDirVolumeSource,
    most: i64,
    fs_group: Option<i64>,
) -> Result<(), Error> {
    let mut fresh = !path.exists();
    fs::create_dir_all(path).map_err(Error::file("create", path))?;
    if fresh {
        fs::set_permissions(path, Permissions::from_mode(0o777)).map_err(Error::file("chmod", path))?;
    }
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok());
        let limit = limit.map(Quantity::value).filter(|limit| *limit > 0);
        fresh |= in_memory(path, limit.unwrap_or(i64::MAX).min(most))?;
    }
    if fresh {
        ownership::give(path, fs_group, Access::ReadWrite)?;
    }
    Ok(())
}

/// Mounts a file system in memory at `path`, for at most `size` bytes, unless one is there; whether it did.
pub fn in_memory(path: &Path, size: i64) -> Result<bool, Error> {
    if is_mount(path)? {
        return Ok(false);
    }
    // A file system in memory is made sticky, as one mounted without options is.
    let options = if size > 0 { format!("size={size},mode=1777") } else { "mode=1777".to_owned() };
    let options = std::ffi::CString::new(options).map_err(|error| Error::Refused(error.to_string()))?;
    mount("tmpfs", path, "tmpfs", MountFlags::RELATIME, options.as_c_str())
        .map_err(|error| Error::file("mount", path)(error.into()))?;
    Ok(true)
}

/// Whether something is mounted at `path`, rather than it being part of what its parent is on.
fn is_mount(path: &Path) -> Result<bool, Error> {
    let parent = path.parent().unwrap_or(path);
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(Error::file("read", path));
    Ok(device(path)? != device(parent)?)
}
