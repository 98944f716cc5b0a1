//! Who runs at a place: the process that holds the lock on its pid file.
//!
//! The kernel says who holds the lock and lets go of it when that process ends, however it ends. What the file
//! says is for people: a pid may be given to another process, and a program of the same name may be anybody's
//! (a shim, the server of another cluster).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid};

use crate::cluster::Place;

/// That this process is the one at a place, until it ends.
///
/// The lock is fcntl's, which children do not inherit: a shim that outlives its server holds nothing. It is
/// lost when this process closes *any* handle of the file, so nothing else in here may open it.
#[must_use = "the place is free again when this is dropped"]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// # Errors
    /// Another process runs there, or the file cannot be made.
    pub fn take(place: &Place) -> anyhow::Result<Claim> {
        std::fs::create_dir_all(&place.run).with_context(|| format!("making {}", place.run.display()))?;
        let path = place.pid_path();
        let opening = || format!("writing {}", path.display());
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = file.with_context(opening)?;
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::ACCESS | Errno::AGAIN) => {
                    let holder = holder(place)?.map_or_else(String::new, |pid| format!(" (process {pid})"));
                    bail!("another server{holder} runs in {} already", place.run.display());
                }
                Err(error) => return Err(error).with_context(opening),
            }
            // Who went away in this moment has removed the file that is locked now; nobody would see it.
            let there = std::fs::metadata(&path).ok().map(|there| (there.dev(), there.ino()));
            let locked = file.metadata().with_context(opening)?;
            if there != Some((locked.dev(), locked.ino())) {
                continue;
            }
            file.set_len(0).with_context(opening)?;
            file.write_all(std::process::id().to_string().as_bytes()).with_context(opening)?;
            return Ok(Claim { path, _file: file });
        }
    }

    /// At the end: takes the file away.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn release(self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }
}

/// The process that runs at a place; not for a process that runs at one itself.
///
/// # Errors
/// It cannot be found out.
pub fn holder(place: &Place) -> anyhow::Result<Option<Pid>> {
    let path = place.pid_path();
    let asking = || format!("asking who runs in {}", place.run.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(asking)?,
    };
    let lock =
        rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).with_context(asking)?;
    Ok(lock.and_then(|lock| lock.pid))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    const RUN: &str = "TIPHYS_TEST_CLAIM";

    fn place(run: PathBuf) -> Place {
        Place { state: run.clone(), run, namespace: None }
    }

    /// The other process of the test below; alone it does nothing. A thread's lock would be its process' own.
    #[test]
    fn another_process() {
        let Some(run) = std::env::var_os(RUN) else { return };
        let claim = Claim::take(&place(run.into())).unwrap();
        println!("claimed");
        // Until the other end is closed.
        std::io::stdin().read_line(&mut String::new()).unwrap();
        drop(claim);
    }

    #[test]
    fn a_place_is_its_holders_until_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path().join("run"));
        assert_eq!(holder(&place).unwrap(), None);
        let mut other = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "claim::tests::another_process", "--nocapture"])
            .env(RUN, &place.run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("claimed")));
        let pid = Pid::from_child(&other);
        assert_eq!(holder(&place).unwrap(), Some(pid));
        let refused = Claim::take(&place).err().unwrap().to_string();
        assert!(refused.starts_with(&format!("another server (process {pid}) runs in ")), "{refused}");
        // As `kill -9` does: the file stays, and says who it was.
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(std::fs::read_to_string(place.pid_path()).unwrap(), pid.to_string());
        assert_eq!(holder(&place).unwrap(), None);
        Claim::take(&place).unwrap().release().unwrap();
        assert!(!place.pid_path().exists());
    }
}
