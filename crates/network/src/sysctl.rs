//! Kernel settings of a network namespace, held by all who need them: the former values come back when the
//! last of them lets go.
//!
//! Two clusters on one host both need forwarding. If each remembered for itself what it found, the first to
//! go would switch it off under the other, and the second believe that it had always been on. So there is one
//! record for the whole host, locked while it is changed:
//!
//! ```text
//! a holds ip_forward   0 → 1   {former: 0, holders: [a]}
//! b holds ip_forward           {former: 0, holders: [a, b]}
//! a lets go                    {former: 0, holders: [b]}
//! b lets go            1 → 0   (no record)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// The record's name in the host's directory.
const RECORD: &str = "settings.json";

/// A setting, or the record of settings, that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Error {
    /// Its file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

fn failed(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error { path, source }
}

fn read(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(failed(path))
}

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Writes where it differs only: settings may be right, and read-only.
fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = file(name);
    if read(&path)? == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed(&path))
}

/// Sets what `holder` wants, in the network namespace of this thread, until it lets go. Whoever holds a setting
/// wants the same value. `dir` is the same for all on this host; `holder` is a directory that lives as long as
/// the holder does: without it, it holds nothing.
pub(crate) fn hold(dir: &Path, holder: &Path, wanted: &[(&str, &str)]) -> Result<(), Error> {
    let holder = std::path::absolute(holder).map_err(failed(holder))?;
    let mut record = Locked::open(dir)?;
    let settings = record.content.namespaces.entry(record.here.clone()).or_default();
    for (name, _) in wanted {
        if !settings.contains_key(*name) {
            let former = read(file(name))?;
            settings.insert((*name).to_owned(), Held { former, holders: BTreeSet::new() });
        }
        let held = settings.get_mut(*name).expect("inserted above");
        held.holders.insert(holder.clone());
    }
    record.restore_unheld()?;
    // Before the first change, so that whatever is set can be put back.
    record.keep()?;
    wanted.iter().try_for_each(|(name, value)| set(name, value))
}

/// `holder` lets go of all it holds, in whichever namespace. Settings that nobody holds any more come back if
/// they are this thread's namespace's; another one's went with it.
pub(crate) fn release(dir: &Path, holder: &Path) -> Result<(), Error> {
    let holder = std::path::absolute(holder).map_err(failed(holder))?;
    let mut record = Locked::open(dir)?;
    for held in record.content.namespaces.values_mut().flat_map(BTreeMap::values_mut) {
        held.holders.remove(&holder);
    }
    record.restore_unheld()?;
    record.keep()
}

/// What is held on this host.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    /// The boot that it was written in: settings do not outlive it.
    boot: String,
    /// By network namespace (`net:[4026531840]`) and setting.
    namespaces: BTreeMap<String, BTreeMap<String, Held>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    /// The value from before the first holder.
    former: String,
    holders: BTreeSet<PathBuf>,
}

/// The record, locked until it is dropped.
struct Locked {
    path: PathBuf,
    content: Content,
    /// The network namespace of this thread.
    here: String,
    /// Of the directory, so that the record itself can be replaced and removed.
    _lock: File,
}

impl Locked {
    fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let lock = File::open(dir).map_err(failed(dir))?;
        lock.lock().map_err(failed(dir))?;
        let path = dir.join(RECORD);
        let mut content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            text => {
                let text = text.map_err(failed(&path))?;
                serde_json::from_slice(&text).map_err(|error| failed(&path)(error.into()))?
            }
        };
        let boot = read("/proc/sys/kernel/random/boot_id")?;
        if content.boot != boot {
            content = Content { boot, namespaces: BTreeMap::new() };
        }
        for held in content.namespaces.values_mut().flat_map(BTreeMap::values_mut) {
            held.holders.retain(|holder| holder.exists());
        }
        let link = Path::new("/proc/thread-self/ns/net");
        let here = fs::read_link(link).map_err(failed(link))?.to_string_lossy().into_owned();
        Ok(Self { path, content, here, _lock: lock })
    }

    fn restore_unheld(&mut self) -> Result<(), Error> {
        for (namespace, settings) in &mut self.content.namespaces {
            for (name, held) in settings.iter().filter(|(_, held)| held.holders.is_empty()) {
                if *namespace == self.here {
                    set(name, &held.former)?;
                }
            }
            settings.retain(|_, held| !held.holders.is_empty());
        }
        self.content.namespaces.retain(|_, settings| !settings.is_empty());
        Ok(())
    }

    fn keep(&self) -> Result<(), Error> {
        if self.content.namespaces.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.path)(error)),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec(&self.content).map_err(|error| failed(&self.path)(error.into()))?;
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).map_err(failed(&beside))?;
        fs::rename(&beside, &self.path).map_err(failed(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Namespace;

    const FORWARD: &str = "net.ipv4.ip_forward";

    fn forwarding() -> String {
        read(file(FORWARD)).unwrap()
    }

    /// The host's directory and two holders, in a namespace where nothing is forwarded.
    fn check(what: impl FnOnce(&Path, &Path, &Path) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let [host, a, b] = ["host", "a", "b"].map(|name| dir.path().join(name));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let inside = || {
            set(FORWARD, "0").unwrap();
            what(&host, &a, &b);
            assert!(!host.join(RECORD).exists(), "something stays");
        };
        Namespace::anonymous().unwrap().run(inside).unwrap();
    }

    #[test]
    fn the_last_holder_puts_the_former_value_back() {
        check(|host, a, b| {
            hold(host, a, &[(FORWARD, "1")]).unwrap();
            hold(host, b, &[(FORWARD, "1")]).unwrap();
            // A server that starts again.
            hold(host, a, &[(FORWARD, "1")]).unwrap();
            release(host, a).unwrap();
            release(host, a).unwrap();
            assert_eq!(forwarding(), "1");
            release(host, b).unwrap();
            assert_eq!(forwarding(), "0");
        });
    }

    #[test]
    fn who_is_gone_holds_nothing() {
        check(|host, a, b| {
            hold(host, a, &[(FORWARD, "1")]).unwrap();
            fs::remove_dir(a).unwrap();
            hold(host, b, &[(FORWARD, "1")]).unwrap();
            release(host, b).unwrap();
            assert_eq!(forwarding(), "0");
        });
    }

    #[test]
    fn other_namespaces_and_former_boots_are_left_alone() {
        check(|host, a, b| {
            hold(host, a, &[(FORWARD, "1")]).unwrap();
            let inside = || {
                set(FORWARD, "1").unwrap();
                hold(host, b, &[(FORWARD, "1")]).unwrap();
                release(host, a).unwrap();
                forwarding()
            };
            assert_eq!(Namespace::anonymous().unwrap().run(inside).unwrap(), "1");
            assert_eq!(forwarding(), "1", "let go of from elsewhere: only its own namespace restores");
            // From here, another one's settings went with it.
            release(host, b).unwrap();
            let held = Held { former: "0".into(), holders: BTreeSet::from([a.to_owned()]) };
            let settings = BTreeMap::from([(FORWARD.to_owned(), held)]);
            let mut record = Locked::open(host).unwrap();
            let namespaces = BTreeMap::from([(record.here.clone(), settings)]);
            record.content = Content { boot: "another".into(), namespaces };
            record.keep().unwrap();
            drop(record);
            release(host, a).unwrap();
            assert_eq!(forwarding(), "1");
        });
    }
}
