//! `subPath`: part of a volume, mounted so that nobody can swap it for something else meanwhile.
//!
//! Each step of the path is opened without following symbolic links that lead out of the volume
//! (`openat2` with `RESOLVE_IN_ROOT` semantics would follow them inside; upstream refuses those that leave,
//! so `RESOLVE_BENEATH` it is), and what was opened is what is bind-mounted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::Error;

/// Mounts `sub_path` of `volume` at `place` and returns `place`. A missing `sub_path` becomes a directory.
/// Repeatable: what is mounted already stays, unless it is not what is there now. A file of a ConfigMap is
/// another one after each change, and the one mounted then is one that was removed. What runs keeps it.
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
    let wanted = fs::metadata(&source).map_err(Error::file("read", sub_path))?;
    let mounted = super::mounts_below(place)?.iter().filter(|mounted| *mounted == place).count();
    if mounted > 0 {
        let shown = fs::metadata(place).map_err(Error::file("read", place))?;
        if (shown.dev(), shown.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(place.to_owned());
        }
    }
    for _ in 0..mounted {
        unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| Error::file("unmount", place)(error.into()))?;
    }
    make(place, wanted.is_dir())?;
    mount_bind(&source, place).map_err(|error| Error::file("mount", place)(error.into()))?;
    mount_change(place, MountPropagationFlags::PRIVATE)
        .map_err(|error| Error::file("mount", place)(error.into()))?;
    Ok(place.to_owned())
}

/// Makes what can be mounted over: a directory, or else a file.
fn make(place: &Path, directory: bool) -> Result<(), Error> {
    match fs::symlink_metadata(place) {
        Ok(found) if found.is_dir() == directory => return Ok(()),
        // Of another mount, before this one. Neither holds anything.
        Ok(found) if found.is_dir() => fs::remove_dir(place).map_err(Error::file("remove", place))?,
        Ok(_) => fs::remove_file(place).map_err(Error::file("remove", place))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::file("read", place)(error)),
    }
    if directory {
        return fs::create_dir_all(place).map_err(Error::file("create", place));
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    fs::File::create(place).map(drop).map_err(Error::file("create", place))
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

#[cfg(test)]
mod tests {
    use super::super::payload::{File, Payload};
    use super::super::{atomic, mounts_below, tear_down};
    use super::*;

    fn write(volume: &Path, path: &str, text: &str) {
        let file = File { data: text.into(), mode: 0o644, owner: None };
        let payload: Payload = [(PathBuf::from(path), file)].into();
        atomic::write(volume, &payload, None).unwrap();
    }

    /// Binds `sub_path` after each of `writes`, and checks what is shown then, below one mount.
    fn check(sub_path: &str, shown: &str, writes: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        let place = dir.path().join("place/0");
        fs::create_dir(&volume).unwrap();
        for (path, text) in writes {
            write(&volume, path, text);
            for _again in 0..2 {
                bind(&volume, Path::new(sub_path), &place).unwrap();
                let file = if shown.is_empty() { place.clone() } else { place.join(shown) };
                assert_eq!(fs::read_to_string(file).unwrap(), *text, "{sub_path}");
                assert_eq!(mounts_below(&place).unwrap(), std::slice::from_ref(&place));
            }
        }
        tear_down(dir.path()).unwrap();
    }

    /// Mounting is for root only.
    fn root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn what_is_there_now_is_mounted() {
        if root() {
            check("config", "", &[("config", "1"), ("config", "2"), ("config", "2"), ("config", "3")]);
            check("dir", "config", &[("dir/config", "1"), ("dir/config", "2")]);
        }
    }

    #[test]
    fn what_runs_keeps_what_it_has() {
        if root() {
            let dir = tempfile::tempdir().unwrap();
            let (volume, place) = (dir.path().join("volume"), dir.path().join("place/0"));
            fs::create_dir(&volume).unwrap();
            write(&volume, "config", "1");
            bind(&volume, Path::new("config"), &place).unwrap();
            let open = fs::File::open(&place).unwrap();
            write(&volume, "config", "2");
            bind(&volume, Path::new("config"), &place).unwrap();
            assert_eq!(io::read_to_string(open).unwrap(), "1");
            tear_down(dir.path()).unwrap();
        }
    }
}
