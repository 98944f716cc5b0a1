//! What the host is made of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use api::Quantity;

use crate::config::Config;

/// The host, as far as a Node tells of it. What cannot be read is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of the file system that holds the kubelet's root directory.
    pub disk: i64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of `KEY=value` or `KEY: value` in a file of such lines.
fn entry<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(|rest| rest.trim_matches([':', '=', '"', ' ', '\t']))
}

impl Machine {
    /// Looks at this host.
    pub fn probe(root_dir: &Path) -> Machine {
        let meminfo = read("/proc/meminfo");
        let kilobytes =
            entry(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<i64>().ok());
        let release = read("/etc/os-release");
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine {
            cpus: i64::try_from(cpus).unwrap_or(1),
            memory: kilobytes.unwrap_or(0) * 1024,
            disk: disk(root_dir).map_or(0, |(total, _)| total),
            machine_id: read("/etc/machine-id"),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: entry(&release, "PRETTY_NAME").unwrap_or("Linux").to_owned(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
        }
    }

    /// What the node has, by resource.
    pub fn capacity(&self, config: &Config) -> BTreeMap<String, Quantity> {
        BTreeMap::from([
            ("cpu".into(), Quantity::from_i64(self.cpus)),
            ("memory".into(), Quantity::from_bytes(self.memory)),
            ("ephemeral-storage".into(), Quantity::from_bytes(self.disk)),
            ("hugepages-1Gi".into(), Quantity::ZERO),
            ("hugepages-2Mi".into(), Quantity::ZERO),
            ("pods".into(), Quantity::from_i64(config.max_pods.into())),
        ])
    }

    /// What pods may use of it: less what is reserved, and a tenth of the disk kept free for eviction.
    pub fn allocatable(&self, config: &Config) -> BTreeMap<String, Quantity> {
        const EVICTION_MEMORY: i64 = 100 << 20;
        let mut all = self.capacity(config);
        for (name, reserved) in &config.reserved {
            if let Some(amount) = all.get_mut(name) {
                *amount = Quantity::from_milli((amount.milli() - reserved.milli()).max(0));
            }
        }
        let less = |amount: Quantity, by: i64| Quantity::from_bytes((amount.value() - by).max(0));
        if let Some(memory) = all.get_mut("memory") {
            *memory = less(*memory, EVICTION_MEMORY);
        }
        if let Some(disk) = all.get_mut("ephemeral-storage") {
            *disk = Quantity::from_i64(less(*disk, self.disk / 10).value());
        }
        all
    }
}

/// Bytes in all and free of the file system that holds `path`, or its nearest parent that exists. What is
/// kept back for the system is in neither: a disk is as full as `df` shows it.
pub fn disk(path: &Path) -> Option<(i64, i64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let found = rustix::fs::statvfs(existing).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
    let kept_back = found.f_bfree.saturating_sub(found.f_bavail);
    Some((bytes(found.f_blocks.saturating_sub(kept_back)), bytes(found.f_bavail)))
}

/// Bytes of memory that could still be used.
pub fn memory_available() -> Option<i64> {
    let meminfo = read("/proc/meminfo");
    let text = entry(&meminfo, "MemAvailable")?;
    Some(text.split(' ').next()?.parse::<i64>().ok()? * 1024)
}
