//! Memory and processor time of a cluster's processes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::Cluster;

use super::{Budget, Measurement};

/// Processes that run `tiphys` for this cluster: their environment names its state.
fn of(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let mark = format!("TIPHYS_STATE={}", cluster.state_dir().display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let is_ours = fs::read_link(path.join("exe")).is_ok_and(|exe| exe.ends_with("tiphys"));
        let names_it = || {
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        if is_ours && names_it() {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "no process of {} is running", cluster.name());
    Ok(found)
}

/// The proportional set size of all processes, in bytes.
pub fn pss(cluster: &Cluster) -> Result<u64> {
    let mut sum = 0;
    for path in of(cluster)? {
        let text = fs::read_to_string(path.join("smaps_rollup"))?;
        let line = text.lines().find(|line| line.starts_with("Pss:")).context("smaps_rollup has no Pss")?;
        let kilobytes: u64 = line.split_whitespace().nth(1).context("Pss has no value")?.parse()?;
        sum += kilobytes * 1024;
    }
    Ok(sum)
}

/// Processor time that all processes used so far.
fn cpu(cluster: &Cluster) -> Result<Duration> {
    let mut ticks = 0;
    for path in of(cluster)? {
        // proc(5): the name in brackets may hold anything; utime and stime are the 12th and 13th after it.
        let text = fs::read_to_string(path.join("stat"))?;
        let (_, rest) = text.rsplit_once(')').context("a stat without a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        for index in [11, 12] {
            ticks += fields.get(index).context("a short stat")?.parse::<u64>()?;
        }
    }
    // USER_HZ is 100 on every architecture that Linux shows it on.
    Ok(Duration::from_millis(ticks * 10))
}

/// Memory and share of a core after, and during, some time in which nobody asks anything.
pub async fn idle(cluster: &Cluster, quiet: Duration) -> Result<Vec<Measurement>> {
    tokio::time::sleep(quiet).await;
    let (before, start) = (cpu(cluster)?, Instant::now());
    tokio::time::sleep(quiet).await;
    let used = cpu(cluster)?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    let memory = pss(cluster)? as f64 / 1e6;
    Ok(vec![
        Measurement::one("idle memory, PSS of all processes", "MB", Budget::AtMost(64.0), memory),
        Measurement::one("idle CPU", "% of a core", Budget::AtMost(0.3), used * 100.0),
    ])
}
