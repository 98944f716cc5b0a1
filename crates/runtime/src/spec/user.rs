//! Whom a container runs as, by the numbers and names of its own `/etc/passwd` and `/etc/group`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::Fault;

/// Numeric identity of a container's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
}

/// Longest file of users or groups read, in bytes.
const LONGEST: u64 = 4 << 20;

/// Decides whom to run as: what the kubelet asks for, else what the image says, else root.
///
/// # Errors
/// Where a name is in neither file.
pub fn resolve(
    rootfs: &Path,
    security: &LinuxContainerSecurityContext,
    image_user: Option<&str>,
) -> Result<User, Fault> {
    let passwd = read_in(rootfs, "etc/passwd").map_err(|error| ("user", error.to_string()))?;
    let group = read_in(rootfs, "etc/group").map_err(|error| ("user", error.to_string()))?;
    decide(&passwd, &group, security, image_user.unwrap_or(""))
}

/// The text of a file below `rootfs`, links followed there and nowhere else. Empty where it is missing.
fn read_in(rootfs: &Path, path: &str) -> io::Result<String> {
    let root = rustix::fs::open(rootfs, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => {
            let mut bytes = Vec::new();
            File::from(file).take(LONGEST).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn decide(
    passwd: &str,
    group: &str,
    security: &LinuxContainerSecurityContext,
    image_user: &str,
) -> Result<User, Fault> {
    let number = |value: i64, field| {
        u32::try_from(value).map_err(|_| (field, format!("{value} is no user or group number")))
    };
    let asked = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => number(uid.value, "run_as_user")?.to_string(),
        (None, "") => image_user.to_owned(),
        (None, name) => name.to_owned(),
    };
    let (user, wanted_group) = asked.split_once(':').map_or((asked.as_str(), None), |(u, g)| (u, Some(g)));
    let by_number = user.parse::<u32>().ok();
    let row = rows(passwd).find(|row| match by_number {
        Some(uid) => row.get(2).and_then(|it| it.parse().ok()) == Some(uid),
        None => row.first() == Some(&user),
    });
    let (uid, passwd_gid, name) = match (&row, by_number, user) {
        (Some(row), ..) => {
            let field = |index: usize| row.get(index).and_then(|it| it.parse::<u32>().ok()).unwrap_or(0);
            (field(2), field(3), row.first().copied().unwrap_or(""))
        }
        (None, Some(uid), _) => (uid, 0, ""),
        (None, None, "") => (0, 0, "root"),
        (None, None, name) => {
            return Err(("user", format!("unable to find user {name}: no matching entries in passwd file")));
        }
    };
    let gid = match (&security.run_as_group, wanted_group) {
        (Some(gid), _) => number(gid.value, "run_as_group")?,
        (None, Some(wanted)) => match wanted.parse() {
            Ok(gid) => gid,
            Err(_) => rows(group)
                .find(|row| row.first() == Some(&wanted))
                .and_then(|row| row.get(2)?.parse().ok())
                .ok_or_else(|| {
                    ("user", format!("unable to find group {wanted}: no matching entries in group file"))
                })?,
        },
        (None, None) => passwd_gid,
    };
    let mut groups = vec![gid];
    if security.supplemental_groups_policy != SupplementalGroupsPolicy::Strict as i32 && !name.is_empty() {
        let member =
            |row: &Vec<&str>| row.get(3).is_some_and(|it| it.split(',').any(|member| member == name));
        groups.extend(rows(group).filter(member).filter_map(|row| row.get(2)?.parse::<u32>().ok()));
    }
    for group in &security.supplemental_groups {
        groups.push(number(*group, "supplemental_groups")?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use cri::v1::Int64Value;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:other,web\n";

    fn check(user: Option<i64>, group: Option<i64>, image: &str, want: Result<(u32, u32, &[u32]), &str>) {
        let value = |value| Int64Value { value };
        let security = LinuxContainerSecurityContext {
            run_as_user: user.map(value),
            run_as_group: group.map(value),
            supplemental_groups: vec![7],
            ..Default::default()
        };
        let got = decide(PASSWD, GROUP, &security, image);
        match want {
            Ok((uid, gid, groups)) => assert_eq!(got, Ok(User { uid, gid, groups: groups.to_vec() })),
            Err(text) => assert!(got.unwrap_err().1.contains(text)),
        }
    }

    #[test]
    fn users_come_from_the_request_then_the_image_then_root() {
        check(None, None, "", Ok((0, 0, &[0, 7])));
        check(None, None, "web", Ok((33, 34, &[7, 34, 40])));
        check(None, None, "33", Ok((33, 34, &[7, 34, 40])));
        check(None, None, "web:logs", Ok((33, 40, &[7, 40])));
        check(None, None, "1000:5", Ok((1000, 5, &[5, 7])));
        check(Some(1000), None, "web", Ok((1000, 0, &[0, 7])));
        check(Some(33), Some(9), "", Ok((33, 9, &[7, 9, 40])));
        check(None, None, "nobody", Err("unable to find user nobody"));
        check(None, None, "web:staff", Err("unable to find group staff"));
        check(Some(-1), None, "", Err("no user"));
    }
}
