//! Unpacking one layer into a directory for overlayfs.
//!
//! Names are followed below the directory only (`openat2` with `RESOLVE_IN_ROOT`), whatever links the
//! archive contains. Whiteouts (OCI image spec, "Representing Changes") become overlayfs's: a character
//! device 0:0 for a removed file, an attribute for an opaque directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chownat, fchmod,
    linkat, makedev, mkdirat, mknodat, openat2, symlinkat, unlinkat, utimensat,
};
use serde::{Deserialize, Serialize};
use tar::EntryType;

/// What an unpacked layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks the uncompressed archive `layer` into `to`, which is made.
pub fn unpack(layer: impl Read, to: &Path) -> io::Result<Unpacked> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let root = rustix::fs::open(to, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut unpacked = Unpacked::default();
    // Times of directories are set last: what is put into them would move them.
    let mut directories = Vec::new();
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = clean(&entry.path()?);
        entry_in(&root, &mut entry, &path, &mut unpacked, &mut directories)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    // The archive's end may be followed by padding that its digest covers.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    for (path, time) in directories.into_iter().rev() {
        let dir = directory(&root, &path)?;
        set_time(dir.as_fd(), OsStr::new("."), time)?;
    }
    Ok(unpacked)
}

/// `path` with nothing but names: no root, no `.`, no `..`.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn open_in(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?)
}

/// Makes a directory below `root`, and those above it, where they are missing; links are followed below
/// `root` only.
pub(crate) fn make_directory(root: &Path, path: &Path) -> io::Result<()> {
    let root = openat2(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())?;
    directory(&root, &clean(path)).map(drop)
}

/// The directory `path` below `root`, made with its parents where it is missing.
fn directory(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    match open_in(root, path, OFlags::DIRECTORY | OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let parent = directory(root, parent)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        // Somebody else was quicker: a volume is many containers'.
        Err(rustix::io::Errno::EXIST) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    open_in(root, path, OFlags::DIRECTORY | OFlags::RDONLY)
}

/// Removes `name` in `parent`, with all below it, so that something else can take its place.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let inner = OsStr::from_bytes(entry.file_name().to_bytes());
        if inner != "." && inner != ".." {
            clear(&dir, inner)?;
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn set_time(dir: impl AsFd, name: &OsStr, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn entry_in(
    root: &OwnedFd,
    entry: &mut tar::Entry<'_, impl Read>,
    path: &Path,
    unpacked: &mut Unpacked,
    directories: &mut Vec<(PathBuf, i64)>,
) -> io::Result<()> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
        return Ok(());
    }
    let mtime = i64::try_from(entry.header().mtime()?).unwrap_or(0);
    let Some(name) = path.file_name() else {
        // The root itself.
        let dir = open_in(root, Path::new("."), OFlags::DIRECTORY | OFlags::RDONLY)?;
        own(root, OsStr::new("."), entry, false)?;
        fchmod(&dir, mode(entry)?)?;
        return Ok(());
    };
    let parent = directory(root, path.parent().unwrap_or(Path::new("")))?;
    if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
        return if name.as_bytes() == OPAQUE {
            Ok(rustix::fs::fsetxattr(&parent, "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
        } else {
            clear(&parent, OsStr::from_bytes(hidden))?;
            let device = Mode::empty();
            Ok(mknodat(&parent, OsStr::from_bytes(hidden), FileType::CharacterDevice, device, makedev(0, 0))?)
        };
    }
    unpacked.inodes += 1;
    if kind == EntryType::Directory {
        if !is_directory(&parent, name) {
            clear(&parent, name)?;
            mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        }
        directories.push((path.to_owned(), mtime));
    } else {
        clear(&parent, name)?;
        match kind {
            EntryType::Symlink => symlinkat(link(entry)?.as_os_str(), &parent, name)?,
            EntryType::Link => {
                // A link has no content and no attributes of its own.
                let target = clean(&link(entry)?);
                let dir = directory(root, target.parent().unwrap_or(Path::new("")))?;
                let from = target.file_name().ok_or(io::ErrorKind::InvalidData)?;
                return Ok(linkat(&dir, from, &parent, name, AtFlags::empty())?);
            }
            EntryType::Fifo => mknodat(&parent, name, FileType::Fifo, mode(entry)?, 0)?,
            EntryType::Char | EntryType::Block => {
                let number = |part: io::Result<Option<u32>>| part.map(Option::unwrap_or_default);
                let device =
                    makedev(number(entry.header().device_major())?, number(entry.header().device_minor())?);
                let file =
                    if kind == EntryType::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
                mknodat(&parent, name, file, mode(entry)?, device)?;
            }
            _ => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
                unpacked.bytes += io::copy(entry, &mut File::from(file))?;
            }
        }
    }
    own(&parent, name, entry, kind == EntryType::Symlink)?;
    attributes(&parent, name, entry, kind)?;
    if kind != EntryType::Directory { set_time(&parent, name, mtime) } else { Ok(()) }
}

fn is_directory(parent: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn mode(entry: &tar::Entry<'_, impl Read>) -> io::Result<Mode> {
    Ok(Mode::from_raw_mode(entry.header().mode()? & 0o7777))
}

fn link(entry: &tar::Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let link = entry.link_name()?.ok_or_else(|| io::Error::other("a link to nothing"))?;
    Ok(link.into_owned())
}

/// Sets owner, then mode: changing the owner would clear set-uid bits.
fn own(parent: &OwnedFd, name: &OsStr, entry: &tar::Entry<'_, impl Read>, link: bool) -> io::Result<()> {
    let id = |id: io::Result<u64>| -> io::Result<u32> { u32::try_from(id?).map_err(io::Error::other) };
    let (uid, gid) = (id(entry.header().uid())?, id(entry.header().gid())?);
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !link {
        rustix::fs::chmodat(parent, name, mode(entry)?, AtFlags::empty())?;
    }
    Ok(())
}

/// Sets extended attributes (`SCHILY.xattr.` records): file capabilities come this way.
fn attributes(
    parent: &OwnedFd,
    name: &OsStr,
    entry: &mut tar::Entry<'_, impl Read>,
    kind: EntryType,
) -> io::Result<()> {
    if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory) {
        return Ok(());
    }
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(attribute) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else {
            continue;
        };
        let file = rustix::fs::openat(parent, name, OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fsetxattr(&file, attribute, extension.value_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}
