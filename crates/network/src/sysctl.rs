//! Kernel settings of the calling thread's network namespace, remembered so that they can be put back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Error {
    /// Its file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Sets what differs; gives the former values of what was changed.
pub(crate) fn set(wanted: &[(&str, &str)]) -> Result<BTreeMap<String, String>, Error> {
    let mut before = BTreeMap::new();
    for (name, value) in wanted {
        let path = file(name);
        let old = fs::read_to_string(&path).map_err(|source| Error { path: path.clone(), source })?;
        if old.trim() != *value {
            fs::write(&path, value).map_err(|source| Error { path, source })?;
            before.insert((*name).to_string(), old.trim().to_string());
        }
    }
    Ok(before)
}

/// Puts former values back.
pub(crate) fn restore(before: &BTreeMap<String, String>) -> Result<(), Error> {
    let pairs: Vec<_> = before.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    set(&pairs).map(drop)
}
