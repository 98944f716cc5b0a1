//! What a cgroup's processes use.

use std::fs;
use std::path::Path;

use super::{Cgroup, Version};

/// A cgroup's use, as its files tell it at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time used so far, in nanoseconds.
    pub cpu: u64,
    /// Memory charged, in bytes.
    pub memory: u64,
    /// The memory limit in bytes, where one is set.
    pub memory_limit: Option<u64>,
    /// Memory that cannot be reclaimed without harm: charged less inactive file pages, in bytes.
    pub working_set: u64,
    /// Anonymous memory, in bytes.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read.
    pub major_page_faults: u64,
    /// Swap in use, in bytes.
    pub swap: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// The number beside `key` in a file of `key value` lines.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file).trim().parse().ok()
}

/// Where v1 says "no limit": the greatest page-aligned number.
const NO_LIMIT_V1: u64 = 1 << 62;

impl Cgroup {
    /// Reads the cgroup's use; zeroes where a controller is absent. `None` where the cgroup is gone.
    pub fn usage(&self) -> Option<Usage> {
        let memory = self.dir("memory");
        if !memory.is_dir() {
            return None;
        }
        let stat = text(&memory, "memory.stat");
        let of = |key| field(&stat, key).unwrap_or(0);
        Some(match self.version {
            Version::V2 => {
                let charged = number(&memory, "memory.current").unwrap_or(0);
                Usage {
                    cpu: field(&text(&memory, "cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
                    memory: charged,
                    memory_limit: number(&memory, "memory.max"),
                    working_set: charged.saturating_sub(of("inactive_file")),
                    rss: of("anon"),
                    page_faults: of("pgfault"),
                    major_page_faults: of("pgmajfault"),
                    swap: number(&memory, "memory.swap.current").unwrap_or(0),
                    processes: number(&memory, "pids.current").unwrap_or(0),
                }
            }
            Version::V1 => {
                let charged = number(&memory, "memory.usage_in_bytes").unwrap_or(0);
                Usage {
                    cpu: number(&self.dir("cpuacct"), "cpuacct.usage").unwrap_or(0),
                    memory: charged,
                    memory_limit: number(&memory, "memory.limit_in_bytes").filter(|&at| at < NO_LIMIT_V1),
                    working_set: charged.saturating_sub(of("total_inactive_file")),
                    rss: of("total_rss"),
                    page_faults: of("total_pgfault"),
                    major_page_faults: of("total_pgmajfault"),
                    swap: of("total_swap"),
                    processes: number(&self.dir("pids"), "pids.current").unwrap_or(0),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, key: &str, want: Option<u64>) {
        assert_eq!(field(text, key), want);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        check("oom 1\noom_kill 2\n", "oom_kill", Some(2));
        check("oom_kill_disable 0\nunder_oom 0\noom_kill 3", "oom_kill", Some(3));
        check("oom_kill_disable 0\n", "oom_kill", None);
    }
}
