//! What a host carries that clusters make: mounts, network namespaces, links, routes, packet rules,
//! control groups, processes.
//!
//! A test of leaving nothing behind takes one picture before and one after:
//!
//! ```no_run
//! let before = testkit::Traces::now()?;
//! // … a cluster comes and goes …
//! before.assert_same(&testkit::Traces::now()?);
//! # anyhow::Ok(())
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A picture of a host, one line a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Takes a picture of this host, as this process sees it.
    ///
    /// # Errors
    /// `/proc` or `/sys` can't be read, or `nft` or `ip` fails.
    pub fn now() -> Result<Traces> {
        let mut lines = BTreeSet::new();
        mounts(&mut lines)?;
        links(&mut lines)?;
        rules(&mut lines)?;
        control_groups(Path::new("/sys/fs/cgroup"), &mut lines);
        processes(&mut lines)?;
        Ok(Traces(lines))
    }

    /// What `later` has and this picture doesn't.
    pub fn added(&self, later: &Traces) -> Vec<String> {
        later.0.difference(&self.0).cloned().collect()
    }

    /// What `later` has beyond this picture and which speaks of `word`: a cluster's name, a directory.
    pub fn added_naming(&self, later: &Traces, words: &[&str]) -> Vec<String> {
        let mut added = self.added(later);
        added.retain(|line| words.iter().any(|word| line.contains(word)));
        added
    }

    /// Asserts that nothing came and nothing went.
    ///
    /// # Panics
    /// Something did: the message names each trace.
    pub fn assert_same(&self, later: &Traces) {
        let (came, went) = (self.added(later), later.added(self));
        assert!(came.is_empty() && went.is_empty(), "left behind: {came:#?}\ntaken away: {went:#?}");
    }
}

fn mounts(lines: &mut BTreeSet<String>) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    for line in text.lines() {
        // proc(5): the mount point is the fifth field, the type follows the lone dash.
        let point = line.split(' ').nth(4).context("a mount without a point")?;
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        lines.insert(format!("mount {kind} {point}"));
    }
    Ok(())
}

fn links(lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/sys/class/net")? {
        lines.insert(format!("link {}", entry?.file_name().to_string_lossy()));
    }
    for arguments in [["route", "show", "table", "all"].as_slice(), &["rule", "show"]] {
        let text = process::read_text(Command::new("ip").args(arguments))?;
        lines.extend(text.lines().map(|line| format!("{} {}", arguments[0], line.trim_end())));
    }
    Ok(())
}

fn rules(lines: &mut BTreeSet<String>) -> Result<()> {
    let text = process::read_text(Command::new("nft").args(["list", "tables"]))?;
    lines.extend(text.lines().map(|line| format!("nftables {line}")));
    Ok(())
}

/// Every directory below the control groups' root. One that goes while it is read has gone.
fn control_groups(dir: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lines.insert(format!("cgroup {}", entry.path().display()));
            control_groups(&entry.path(), lines);
        }
    }
}

/// Processes that run our binary, or that live in another mount or network namespace than this one (pods,
/// nodes), with those namespaces. One that ends while it is read has ended.
fn processes(lines: &mut BTreeSet<String>) -> Result<()> {
    let own = [fs::read_link("/proc/self/ns/mnt")?, fs::read_link("/proc/self/ns/net")?];
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read_link(path.join(name));
        let (Ok(program), Ok(mnt), Ok(net)) = (read("exe"), read("ns/mnt"), read("ns/net")) else { continue };
        if net != own[1] {
            lines.insert(format!("netns {}", net.display()));
        }
        if program.file_name().is_some_and(|name| name == "tiphys") || own != [mnt, net] {
            let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            lines.insert(format!("process {pid} {} {}", program.display(), arguments.trim_end()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_shows_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let before = Traces::now().unwrap();
        nix::mount::mount(Some("none"), path, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
            .unwrap();
        let during = Traces::now().unwrap();
        nix::mount::umount(path).unwrap();
        let after = Traces::now().unwrap();
        assert_eq!(before.added_naming(&during, &[path]), [format!("mount tmpfs {path}")]);
        assert_eq!(before.added_naming(&after, &[path]), [""; 0]);
        assert!(std::panic::catch_unwind(|| before.assert_same(&during)).is_err());
    }
}
