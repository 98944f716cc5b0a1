//! Changing a cgroup's limits.

use std::fs;
use std::io;
use std::path::PathBuf;

use cri::v1::LinuxContainerResources;

use super::{Cgroup, Version};

/// CPU weight on v2 for `shares` on v1, by the mapping of the OCI runtimes of 2025 on: a quadratic through
/// (2, 1), (1024, 100) and (262144, 10000) in logarithms.
pub fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to 10 000
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight
}

impl Cgroup {
    /// Sets the limits that are not zero or empty in `resources`.
    pub fn set(&self, resources: &LinuxContainerResources) -> io::Result<()> {
        for (file, value) in self.plan(resources) {
            fs::write(&file, &value).map_err(|error| {
                io::Error::new(error.kind(), format!("{} = {value}: {error}", file.display()))
            })?;
        }
        Ok(())
    }

    /// The files to write, in order.
    fn plan(&self, resources: &LinuxContainerResources) -> Vec<(PathBuf, String)> {
        let mut writes = Vec::new();
        let mut write = |controller: &str, file: &str, value: String| {
            writes.push((self.dir(controller).join(file), value));
        };
        let r = resources;
        match self.version {
            Version::V1 => {
                if r.cpu_shares > 0 {
                    write("cpu", "cpu.shares", r.cpu_shares.to_string());
                }
                if r.cpu_period > 0 {
                    write("cpu", "cpu.cfs_period_us", r.cpu_period.to_string());
                }
                if r.cpu_quota != 0 {
                    write("cpu", "cpu.cfs_quota_us", r.cpu_quota.to_string());
                }
                if r.memory_limit_in_bytes != 0 {
                    write("memory", "memory.limit_in_bytes", r.memory_limit_in_bytes.to_string());
                }
            }
            Version::V2 => {
                if let Ok(shares @ 1..) = u64::try_from(r.cpu_shares) {
                    write("cpu", "cpu.weight", weight(shares).to_string());
                }
                if r.cpu_quota != 0 {
                    let period = if r.cpu_period > 0 { r.cpu_period } else { 100_000 };
                    let quota = if r.cpu_quota > 0 { r.cpu_quota.to_string() } else { "max".to_owned() };
                    write("cpu", "cpu.max", format!("{quota} {period}"));
                }
                if r.memory_limit_in_bytes != 0 {
                    let limit = r.memory_limit_in_bytes;
                    let limit = if limit > 0 { limit.to_string() } else { "max".to_owned() };
                    write("memory", "memory.max", limit);
                }
                for (file, value) in &r.unified {
                    write("", file, value.clone());
                }
            }
        }
        if !r.cpuset_cpus.is_empty() {
            write("cpuset", "cpuset.cpus", r.cpuset_cpus.clone());
        }
        if !r.cpuset_mems.is_empty() {
            write("cpuset", "cpuset.mems", r.cpuset_mems.clone());
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(version: Version, resources: &LinuxContainerResources, want: &Expect) {
        let cgroup = Cgroup { version, path: "pod/a".into() };
        let writes: Vec<_> = cgroup
            .plan(resources)
            .iter()
            .map(|(file, value)| format!("{} {value}\n", file.display()))
            .collect();
        want.assert_eq(&writes.concat());
    }

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let resources = LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1 << 20,
            cpuset_cpus: "0-1".into(),
            ..Default::default()
        };
        check(
            Version::V1,
            &resources,
            &expect![[r#"
                /sys/fs/cgroup/cpu/pod/a/cpu.shares 1024
                /sys/fs/cgroup/cpu/pod/a/cpu.cfs_period_us 100000
                /sys/fs/cgroup/cpu/pod/a/cpu.cfs_quota_us 50000
                /sys/fs/cgroup/memory/pod/a/memory.limit_in_bytes 1048576
                /sys/fs/cgroup/cpuset/pod/a/cpuset.cpus 0-1
            "#]],
        );
        check(
            Version::V2,
            &resources,
            &expect![[r#"
                /sys/fs/cgroup/pod/a/cpu.weight 100
                /sys/fs/cgroup/pod/a/cpu.max 50000 100000
                /sys/fs/cgroup/pod/a/memory.max 1048576
                /sys/fs/cgroup/pod/a/cpuset.cpus 0-1
            "#]],
        );
    }

    #[test]
    fn weights_match_the_published_points() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 100, 10_000]);
    }
}
