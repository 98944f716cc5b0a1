//! What a test that failed leaves on the host, and its removal.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the cgroups of this host begin, one directory for each hierarchy.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Ends, when it is dropped, every process of a test with those that come from it, and takes its mounts and
/// cgroups away. A test that went through has none.
pub struct Leftovers {
    /// Shims name it on their command line, and mounts lie below it.
    pub dir: PathBuf,
    pub cgroup: String,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let shims = processes().filter(|&pid| names(pid, &self.dir));
        for pid in shims.flat_map(|pid| std::iter::once(pid).chain(children(pid))).collect::<Vec<_>>() {
            // It may have ended meanwhile, as may the rest here have gone by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for mount in mounts(&self.dir).into_iter().rev() {
            let _ = umount2(&mount, MntFlags::MNT_DETACH);
        }
        for hierarchy in std::fs::read_dir(CGROUPS).into_iter().flatten().flatten() {
            remove_cgroup(&hierarchy.path().join(&self.cgroup[1..]));
        }
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |&pid| pid != own)
}

fn names(pid: i32, dir: &Path) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split('\0').any(|argument| Path::new(argument).starts_with(dir))
}

/// All that come from a process.
fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_task = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let direct: Vec<i32> = of_task
        .flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    direct.into_iter().flat_map(|pid| std::iter::once(pid).chain(children(pid))).collect()
}

/// Mount points below `dir`, in the order of mounting.
pub fn mounts(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

fn remove_cgroup(path: &Path) {
    for child in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    // A process that was just killed may be on its way out of it: then it stays, empty.
    let _ = std::fs::remove_dir(path);
}
