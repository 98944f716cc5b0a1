//! The mounts of a sandbox and its containers.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Longest options `mount(2)` takes: a page, with the closing zero.
const OPTIONS: usize = 4095;

/// Mounts `layers` (the lowest first) at `target`, with what is written going to `upper`.
///
/// # Errors
/// `InvalidInput` where there are too many layers for one mount.
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let mut lower: Vec<String> = layers.iter().rev().map(|layer| escaped(layer)).collect();
    if lower.is_empty() {
        // overlayfs wants a lower directory; an image may have no layer.
        let empty = upper.with_file_name("empty");
        std::fs::create_dir_all(&empty)?;
        lower.push(escaped(&empty));
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), escaped(upper), escaped(work));
    if options.len() > OPTIONS {
        let message = format!("{} layers are more than one overlay mount takes", layers.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let options = std::ffi::CString::new(options)?;
    Ok(mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())?)
}

/// A path as overlayfs reads it in its options, where `:` and `,` separate.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// Mounts the memory that a pod's containers share at `target`: `/dev/shm`, 64 MiB.
pub fn shared_memory(target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("shm", target, "tmpfs", flags, Some(c"mode=1777,size=65536k"))?)
}

/// Undoes every mount at `target`. Succeeds where there is none.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
