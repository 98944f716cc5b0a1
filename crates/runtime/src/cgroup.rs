//! Container cgroups, on v2 and on v1 (alone or beside v2, as "hybrid").
//!
//! libcontainer makes a container's cgroups and sets its first limits; joining, counting, changing and
//! removing is done here, since it happens outside libcontainer's process.

mod limits;
mod stats;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use stats::Usage;

/// Where cgroups are mounted.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The hierarchies of v1 that containers have cgroups in.
pub const CONTROLLERS: &[&str] =
    &["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];

/// Which cgroup file systems this host uses for limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Finds out which version limits are set through.
pub fn version() -> Version {
    if Path::new(ROOT).join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 }
}

/// One cgroup, in whichever hierarchies exist.
#[derive(Debug, Clone)]
pub struct Cgroup {
    version: Version,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path` below the root of each hierarchy. It need not exist.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self { version: version(), path: path.strip_prefix("/").unwrap_or(path).to_owned() }
    }

    /// The directory that `controller` is read and set in.
    pub fn dir(&self, controller: &str) -> PathBuf {
        match self.version {
            Version::V2 => Path::new(ROOT).join(&self.path),
            Version::V1 => Path::new(ROOT).join(controller).join(&self.path),
        }
    }

    /// Every directory the cgroup has, each once.
    fn dirs(&self) -> BTreeSet<PathBuf> {
        if self.version == Version::V2 {
            return BTreeSet::from([Path::new(ROOT).join(&self.path)]);
        }
        let Ok(entries) = fs::read_dir(ROOT) else { return BTreeSet::new() };
        entries
            .filter_map(|entry| fs::canonicalize(entry.ok()?.path()).ok())
            .map(|hierarchy| hierarchy.join(&self.path))
            .filter(|dir| dir.is_dir())
            .collect()
    }

    /// Makes it, where it does not exist, in the hierarchies whose limits a pod has, and sets `resources`.
    ///
    /// # Errors
    /// The host's.
    pub fn make(&self, resources: &cri::v1::LinuxContainerResources) -> io::Result<()> {
        match self.version {
            Version::V1 => ["cpu", "memory", "pids"].iter().try_for_each(|controller| {
                if Path::new(ROOT).join(controller).is_dir() {
                    fs::create_dir_all(self.dir(controller))?;
                }
                Ok::<_, io::Error>(())
            })?,
            Version::V2 => {
                let mut dir = PathBuf::from(ROOT);
                for part in &self.path {
                    delegate(&dir)?;
                    dir.push(part);
                    fs::create_dir_all(&dir)?;
                }
            }
        }
        self.set(resources)
    }

    /// Moves process `pid` here, in every hierarchy the cgroup exists in.
    pub fn join(&self, pid: i32) -> io::Result<()> {
        for dir in self.dirs() {
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = BTreeSet::new();
        for dir in self.dirs() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids.into_iter().collect()
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.version {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        let text = fs::read_to_string(self.dir("memory").join(file)).unwrap_or_default();
        stats::field(&text, "oom_kill").unwrap_or(0)
    }

    /// Removes it with the cgroups below it. Succeeds where it does not exist.
    ///
    /// # Errors
    /// `ResourceBusy` while processes are in it.
    pub fn remove(&self) -> io::Result<()> {
        self.dirs().iter().try_for_each(|dir| remove(dir))
    }
}

/// Lets the cgroups below `dir` have the limits it has itself.
fn delegate(dir: &Path) -> io::Result<()> {
    let has = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let given = fs::read_to_string(dir.join("cgroup.subtree_control"))?;
    let missing = has.split_whitespace().filter(|one| !given.split_whitespace().any(|other| other == *one));
    let wanted: Vec<String> = missing.map(|one| format!("+{one}")).collect();
    if wanted.is_empty() { Ok(()) } else { fs::write(dir.join("cgroup.subtree_control"), wanted.join(" ")) }
}

fn remove(dir: &Path) -> io::Result<()> {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path())?;
            }
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
