//! `hostPath`: a file or directory of the host, checked or made as its type says.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::Error;

pub fn check(source: &HostPathVolumeSource) -> Result<(), Error> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path);
    let refuse = |what: &str| {
        Err(Error::Refused(format!("hostPath type check failed: {} is not {what}", source.path)))
    };
    match (kind, found) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", Err(_)) => {
            fs::create_dir_all(path).map_err(Error::file("create", path))?;
            fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::file("chmod", path))
        }
        ("FileOrCreate", Err(_)) => {
            fs::File::create(path).map_err(Error::file("create", path))?;
            fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(Error::file("chmod", path))
        }
        ("Directory" | "DirectoryOrCreate", Ok(found)) if found.is_dir() => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => refuse("a directory"),
        ("File" | "FileOrCreate", Ok(found)) if found.is_file() => Ok(()),
        ("File" | "FileOrCreate", _) => refuse("a file"),
        ("Socket", Ok(found)) if found.file_type().is_socket() => Ok(()),
        ("Socket", _) => refuse("a socket file"),
        ("CharDevice", Ok(found)) if found.file_type().is_char_device() => Ok(()),
        ("CharDevice", _) => refuse("a character device"),
        ("BlockDevice", Ok(found)) if found.file_type().is_block_device() => Ok(()),
        ("BlockDevice", _) => refuse("a block device"),
        (other, _) => Err(Error::Refused(format!("unknown hostPath type {other:?}"))),
    }
}
