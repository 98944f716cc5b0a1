//! `subPath`: part of a volume, mounted so that nobody can swap it for something else meanwhile.
//!
//! Each step of the path is opened without following symbolic links that lead out of the volume
//! (`openat2` with `RESOLVE_IN_ROOT` semantics would follow them inside; upstream refuses those that leave,
//! so `RESOLVE_BENEATH` it is), and what was opened is what is bind-mounted.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use super::Error;

/// Mounts `sub_path` of `volume` at `place` and returns `place`. A missing `sub_path` becomes a directory.
/// Repeatable: what is mounted already stays.
///
/// # Errors
/// For a path that leaves the volume, or what the host refuses.
pub fn bind(volume: &Path, sub_path: &Path, place: &Path) -> Result<PathBuf, Error> {
    let inside = sub_path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(Error::Refused(format!("subPath {:?} is outside of the volume", sub_path.display())));
    }
    let opened = open(volume, sub_path)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let is_dir = fs::metadata(&source).map_err(Error::file("read", sub_path))?.is_dir();
    match super::mounts_below(place)?.iter().any(|mounted| mounted == place) {
        true => return Ok(place.to_owned()),
        false if is_dir => fs::create_dir_all(place).map_err(Error::file("create", place))?,
        false => {
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
            }
            fs::File::create(place).map_err(Error::file("create", place))?;
        }
    }
    mount_bind(&source, place).map_err(|error| Error::file("mount", place)(error.into()))?;
    mount_change(place, MountPropagationFlags::PRIVATE)
        .map_err(|error| Error::file("mount", place)(error.into()))?;
    Ok(place.to_owned())
}

fn open(volume: &Path, sub_path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |error: rustix::io::Errno| match error {
            rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
                Error::Refused(format!("subPath {:?} leads out of the volume", path.display()))
            }
            error => Error::file("open", path)(error.into()),
        }
    };
    let mut at = openat2(CWD, volume, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())
        .map_err(refused(volume))?;
    match openat2(&at, sub_path, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(found) => return Ok(found),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(refused(sub_path)(error)),
    }
    // Who may use the volume may use its part.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&at).map_err(refused(volume))?.st_mode & 0o7777);
    for part in sub_path.components().filter(|part| matches!(part, Component::Normal(_))) {
        let part = Path::new(part.as_os_str());
        let made = match mkdirat(&at, part, mode) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(error) => return Err(refused(sub_path)(error)),
        };
        at = openat2(&at, part, flags, Mode::empty(), ResolveFlags::BENEATH).map_err(refused(sub_path))?;
        if made {
            // The mode asked for passed the umask; the descriptor itself is one of a path only.
            let made = format!("/proc/self/fd/{}", at.as_raw_fd());
            rustix::fs::chmod(&made, mode).map_err(refused(sub_path))?;
        }
    }
    Ok(at)
}
