//! Debian's packages: which there are, what they need, what is in them.
//!
//! The package lists of the machine are the catalogue (`apt-cache`), its sources the store
//! (`apt-get download`); nothing is installed, and what is installed does not count: it may come from a
//! source the machine no longer has.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{place, process};

/// The sources do not have a version that the lists name: the lists are older than they.
#[derive(Debug, thiserror::Error)]
#[error("no {0} {1} to download")]
pub struct Outdated(String, String);

/// Makes something of packages, with new package lists where the old ones were [`Outdated`]. Of many who find that
/// at once one fetches them.
///
/// # Errors
/// What `make` fails with, and with it why the lists could not be had.
pub fn with_lists<T>(make: impl Fn() -> Result<T>) -> Result<T> {
    let is_outdated = |made: &Result<T>| made.as_ref().is_err_and(anyhow::Error::is::<Outdated>);
    let mut made = make();
    if is_outdated(&made) {
        let lock = std::fs::File::create(place::cache("packages")?.join("lock"))?;
        lock.lock()?;
        made = make();
        if let Err(outdated) = &made
            && is_outdated(&made)
        {
            let update = process::read(Command::new("apt-get").args(["-q", "update"]));
            update.with_context(|| format!("{outdated:#}"))?;
            made = make();
        }
    }
    made
}

/// One package at the newest version that the sources have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its Debian version, with epoch and revision.
    pub version: String,
    /// `libs` for shared libraries.
    section: String,
    /// Names it depends on; of alternatives, the first.
    depends: Vec<String>,
}

impl Package {
    /// The packages named, and the shared libraries that any of them needs, by name.
    ///
    /// Dependencies of other kinds (debconf, adduser, …) serve installation and stay away.
    ///
    /// # Errors
    /// A package isn't in the machine's lists, or `apt-cache` fails.
    pub fn with_libraries(names: &[&str]) -> Result<Vec<Package>> {
        let mut found: BTreeMap<String, Package> = BTreeMap::new();
        let mut wanted: Vec<String> = names.iter().map(ToString::to_string).collect();
        while !wanted.is_empty() {
            let mut next = Vec::new();
            for package in show(&wanted)? {
                let asked_for = names.contains(&package.name.as_str());
                if (asked_for || package.section == "libs") && !found.contains_key(&package.name) {
                    next.extend(package.depends.iter().cloned());
                    found.insert(package.name.clone(), package);
                }
            }
            next.sort();
            next.dedup();
            next.retain(|name| !found.contains_key(name));
            wanted = next;
        }
        for name in names {
            ensure!(found.contains_key(*name), "no package {name} in this machine's lists (apt-get update?)");
        }
        Ok(found.into_values().collect())
    }

    /// The package's files as a tar stream.
    ///
    /// # Errors
    /// The package can't be downloaded or unpacked.
    pub fn files(&self) -> Result<Vec<u8>> {
        process::read(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(self.archive()?))
    }

    /// The downloaded package, kept in the cache under its version.
    fn archive(&self) -> Result<PathBuf> {
        let kept = place::cache("packages")?.join(format!("{}_{}.deb", self.name, self.version));
        if kept.is_file() {
            return Ok(kept);
        }
        let work = tempfile::tempdir_in(place::cache("packages")?)?;
        let downloaded = process::read(
            Command::new("apt-get")
                .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
                .arg(format!("{}={}", self.name, self.version))
                .current_dir(work.path()),
        );
        if let Err(error) = downloaded {
            let text = error.to_string();
            let is_gone = ["404  Not Found", "was not found", "Can't find a source"];
            return Err(match is_gone.iter().any(|words| text.contains(words)) {
                true => error.context(Outdated(self.name.clone(), self.version.clone())),
                false => error,
            });
        }
        let mut files = std::fs::read_dir(work.path())?;
        let file = files.next().with_context(|| format!("apt-get download {} left nothing", self.name))??;
        std::fs::rename(file.path(), &kept)?;
        Ok(kept)
    }
}

/// What the lists say of some packages; names that no real package has are left out.
fn show(names: &[String]) -> Result<Vec<Package>> {
    // Its index is kept here, since a machine made for containers doesn't keep it and takes a second each time.
    let index = |kind: &str| {
        Ok::<_, anyhow::Error>(format!(
            "Dir::Cache::{kind}={}",
            place::cache("packages")?.join(kind).display()
        ))
    };
    // apt-cache exits non-zero if one name is virtual, with the others printed all the same.
    let out = Command::new("apt-cache")
        .args(["-o", &index("pkgcache")?, "-o", &index("srcpkgcache")?])
        .args(["-o", "Dir::State::status=/dev/null", "show", "--no-all-versions"])
        .args(names)
        .output()
        .context("couldn't start apt-cache")?;
    Ok(String::from_utf8_lossy(&out.stdout).split("\n\n").filter_map(parse).collect())
}

/// One paragraph of `apt-cache show`.
fn parse(paragraph: &str) -> Option<Package> {
    let field = |name: &str| {
        paragraph
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(ToString::to_string)
    };
    let depends = ["Depends", "Pre-Depends"]
        .iter()
        .filter_map(|name| field(name))
        .flat_map(|list| list.split(',').map(first_alternative).collect::<Vec<_>>())
        .collect();
    Some(Package { name: field("Package")?, version: field("Version")?, section: field("Section")?, depends })
}

/// `libc6 (>= 2.34) | libc6.1` is `libc6`.
fn first_alternative(entry: &str) -> String {
    let end = |c: char| c.is_whitespace() || matches!(c, '(' | '|' | ':');
    entry.trim().split(end).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paragraph: &str, expect: expect_test::Expect) {
        expect.assert_debug_eq(&parse(paragraph));
    }

    #[test]
    fn reads_a_paragraph() {
        check(
            "Package: nginx\nVersion: 1.22.1-9\nSection: httpd\nPre-Depends: dpkg (>= 1)\n\
             Depends: libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0, python3:any\nDescription: x",
            expect_test::expect![[r#"
                Some(
                    Package {
                        name: "nginx",
                        version: "1.22.1-9",
                        section: "httpd",
                        depends: [
                            "libc6",
                            "debconf",
                            "python3",
                            "dpkg",
                        ],
                    },
                )
            "#]],
        );
        check(
            "Description: nothing of use",
            expect_test::expect![[r"
            None
        "]],
        );
    }
}
