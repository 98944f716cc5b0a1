//! Files replaced all at once.
//!
//! ```text
//! volume/..2026_11_21_06_00_00.123456789/config.yaml   the files themselves
//! volume/..data -> ..2026_11_21_06_00_00.123456789     what is current; replaced by rename
//! volume/config.yaml -> ..data/config.yaml             what users open
//! ```

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use super::ownership::{self, Access};
use super::{Error, Payload};

const DATA: &str = "..data";
/// How the names of the directories begin that hold the files: with their century.
const STAMPS: &str = "..20";

/// Makes `payload` what `volume` shows. Does nothing where it does already.
///
/// # Errors
/// For a path that leaves the volume, or what the host refuses.
pub fn write(volume: &Path, payload: &Payload, fs_group: Option<i64>) -> Result<(), Error> {
    for path in payload.keys() {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.starts_with(DATA) || path.to_string_lossy().starts_with("..") {
            return Err(Error::Refused(format!("invalid path {:?}", path.display())));
        }
    }
    let data = volume.join(DATA);
    if fs::read_link(&data).is_ok() && shows(&data, payload) {
        return Ok(());
    }
    let stamp = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let fresh = volume.join(&stamp);
    let swapped = write_files(&fresh, payload)
        .and_then(|()| ownership::give(&fresh, fs_group, Access::Read))
        .and_then(|()| ownership::give_one(volume, fs_group, Access::Read))
        .and_then(|()| swap(volume, &stamp));
    if let Err(error) = swapped {
        // The first error is the one to tell; what stays now goes after the next change.
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    let tops: BTreeSet<&Path> = payload
        .keys()
        .filter_map(|path| path.components().next())
        .map(|top| Path::new(top.as_os_str()))
        .collect();
    for top in &tops {
        let link = volume.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link).map_err(Error::file("link", &link))?;
        }
    }
    for entry in fs::read_dir(volume).map_err(Error::file("read", volume))? {
        let entry = entry.map_err(Error::file("read", volume))?;
        let name = entry.file_name();
        let own = name.to_string_lossy().starts_with("..");
        if !own && !tops.contains(Path::new(&name)) {
            remove(&entry.path())?;
        }
        // The one before, and any of which a crash left more.
        if name.to_string_lossy().starts_with(STAMPS) && *name != *stamp {
            let old = entry.path();
            fs::remove_dir_all(&old).or_else(ignore_missing).map_err(Error::file("remove", &old))?;
        }
    }
    Ok(())
}

/// Makes the directory `stamp` the current one.
fn swap(volume: &Path, stamp: &str) -> Result<(), Error> {
    let (data, next) = (volume.join(DATA), volume.join("..data_tmp"));
    remove(&next)?;
    symlink(stamp, &next).map_err(Error::file("link", &next))?;
    fs::rename(&next, &data).map_err(Error::file("rename", &data))
}

fn write_files(dir: &Path, payload: &Payload) -> Result<(), Error> {
    fs::create_dir(dir).map_err(Error::file("create", dir))?;
    fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(Error::file("chmod", dir))?;
    for (path, file) in payload {
        let target = dir.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
        }
        fs::write(&target, &file.data).map_err(Error::file("write", &target))?;
        if let Some(owner) = file.owner {
            lchown(&target, Some(owner), None).map_err(Error::file("chown", &target))?;
        }
        fs::set_permissions(&target, Permissions::from_mode(file.mode))
            .map_err(Error::file("chmod", &target))?;
    }
    Ok(())
}

/// Whether `data` holds exactly what `payload` says.
fn shows(data: &Path, payload: &Payload) -> bool {
    let same = |(path, file): (&PathBuf, &super::payload::File)| {
        fs::read(data.join(path)).is_ok_and(|content| content == file.data)
            && fs::metadata(data.join(path))
                .is_ok_and(|found| found.permissions().mode() & 0o777 & file.mode == file.mode)
    };
    payload.iter().all(same) && count(data) == payload.len()
}

fn count(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).or_else(ignore_missing).map_err(Error::file("remove", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { data: text.into(), mode: 0o644, owner: None };
        files.iter().map(|(path, text)| (PathBuf::from(path), file(text))).collect()
    }

    fn check(files: &[&[(&str, &str)]], want: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        for files in files {
            write(dir.path(), &payload(files), None).unwrap();
        }
        let mut shown: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with(".."))
            .collect();
        shown.sort();
        let mut tops: Vec<_> = want.iter().map(|(path, _)| path.split('/').next().unwrap()).collect();
        tops.dedup();
        assert_eq!(shown, tops);
        for (path, text) in want {
            assert_eq!(fs::read_to_string(dir.path().join(path)).unwrap(), *text);
        }
        let hidden = fs::read_dir(dir.path()).unwrap().count() - shown.len();
        assert_eq!(hidden, 2, "..data and the one directory it points to");
    }

    #[test]
    fn files_are_replaced_together() {
        check(&[&[("a", "1"), ("b/c", "2")]], &[("a", "1"), ("b/c", "2")]);
        check(&[&[("a", "1"), ("b", "2")], &[("a", "3"), ("d", "4")]], &[("a", "3"), ("d", "4")]);
        check(&[&[("a", "1")], &[("a", "1")]], &[("a", "1")]);
        check(&[&[("a", "1")], &[]], &[]);
    }

    fn hidden(volume: &Path) -> usize {
        let names = fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("..")).count()
    }

    #[test]
    fn what_could_not_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        // A file cannot be a directory too.
        write(dir.path(), &payload(&[("a", "2"), ("a/b", "3")]), None).unwrap_err();
        assert_eq!(hidden(dir.path()), 2);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        // Nor can what is current be replaced by rename where it is a directory.
        let blocked = tempfile::tempdir().unwrap();
        fs::create_dir_all(blocked.path().join(DATA).join("full")).unwrap();
        write(blocked.path(), &payload(&[("a", "1")]), None).unwrap_err();
        assert_eq!(hidden(blocked.path()), 2, "..data and ..data_tmp");
    }

    #[test]
    fn what_a_crash_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026_11_21_06_00_00.123456789")).unwrap();
        fs::write(dir.path().join("..2026_11_21_06_00_00.123456789/a"), "0").unwrap();
        fs::create_dir(dir.path().join("..kept")).unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        assert_eq!(hidden(dir.path()), 3, "..data, the one directory it points to, and what is not ours");
    }

    #[test]
    fn a_group_may_read_directories_too() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("b/c", "2")]), Some(1234)).unwrap();
        for (path, mode) in [("", 0o2550), ("..data/", 0o2550), ("b", 0o2550), ("a", 0o444), ("b/c", 0o444)] {
            let found = fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!(found.permissions().mode() & mode, mode, "{path}");
            assert_eq!(found.gid(), 1234, "{path}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "..data/x", "..x"] {
            assert!(write(dir.path(), &payload(&[(path, "")]), None).is_err(), "{path}");
        }
    }
}
