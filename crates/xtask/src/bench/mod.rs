//! The table of budgets, measured from outside: a cluster of the built binary, kubeconfig, HTTPS.
//!
//! Build with `--release` first; the figures of another profile say little. Store, proxy and scheduler have
//! programs of their own beside their code, which are run after this.

mod cluster;
mod objects;
mod pods;
mod processes;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, Target, images, place};

#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds that the cluster is left alone before its idle cost is taken, and while it is.
    #[arg(long, default_value_t = 120)]
    quiet: u64,
    /// Only measurements whose name holds this text.
    #[arg(long)]
    only: Option<String>,
    /// Leave out the programs of single crates.
    #[arg(long)]
    no_crates: bool,
}

/// What DESIGN asks of a measurement.
#[derive(Clone, Copy, Debug)]
enum Budget {
    AtMost(f64),
    AtLeast(f64),
    /// No figure is asked for; it says where the rest goes.
    None,
}

/// One line of the table.
#[derive(Debug)]
struct Measurement {
    name: String,
    unit: &'static str,
    budget: Budget,
    /// One value a run or an operation; never empty.
    values: Vec<f64>,
}

impl Measurement {
    fn new(name: impl Into<String>, unit: &'static str, budget: Budget, mut values: Vec<f64>) -> Measurement {
        values.sort_by(f64::total_cmp);
        Measurement { name: name.into(), unit, budget, values }
    }

    fn one(name: impl Into<String>, unit: &'static str, budget: Budget, value: f64) -> Measurement {
        Measurement::new(name, unit, budget, vec![value])
    }

    /// Times of many operations: their median and their 99th percentile as two lines.
    fn times(name: &str, p50: Budget, p99: Budget, times: &[Duration]) -> [Measurement; 2] {
        let mut all: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() - 1) as f64 * share).ceil() as usize];
        [
            Measurement {
                name: format!("{name}, p50"),
                unit: "ms",
                budget: p50,
                values: vec![all[0], at(0.5), at(1.0)],
            },
            Measurement { name: format!("{name}, p99"), unit: "ms", budget: p99, values: vec![at(0.99)] },
        ]
    }

    fn median(&self) -> f64 {
        self.values[self.values.len() / 2]
    }

    fn row(&self) -> String {
        let (asked, met) = match self.budget {
            Budget::AtMost(limit) => (format!("≤ {}", figure(limit)), self.median() <= limit),
            Budget::AtLeast(limit) => (format!("≥ {}", figure(limit)), self.median() >= limit),
            Budget::None => ("–".to_owned(), true),
        };
        let spread = match self.values.as_slice() {
            [_] => "–".to_owned(),
            values => format!("{} – {}", figure(values[0]), figure(values[values.len() - 1])),
        };
        let verdict = if met { "" } else { "over" };
        format!(
            "| {} | {} | {} | {spread} | {} | {verdict} |",
            self.name,
            figure(self.median()),
            self.unit,
            asked
        )
    }
}

/// Three significant digits, or all of a whole number.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("{}\n", machine()?);
    println!("| what | median | unit | min – max | budget | |\n| --- | --- | --- | --- | --- | --- |");
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let print = |measurements: Vec<Measurement>| {
        for measurement in measurements {
            println!("{}", measurement.row());
        }
    };
    if wanted("binary") {
        let size = std::fs::metadata(place::tiphys()?)?.len() as f64 / 1e6;
        print(vec![Measurement::one("binary", "MB", Budget::AtMost(40.0), size)]);
    }
    if wanted("ready") {
        print(cluster::ready()?);
    }
    let cluster = Cluster::up("bench", 1)?;
    cluster.import(&images::busybox()?)?;
    if wanted("idle") {
        print(runtime.block_on(processes::idle(&cluster, Duration::from_secs(arguments.quiet)))?);
    }
    let target = Target::from_kubeconfig(&cluster.kubeconfig())?;
    if wanted("pods") {
        print(runtime.block_on(pods::one_by_one(&target, 50))?);
        print(runtime.block_on(pods::at_once(&target, 50, Budget::AtMost(2.0)))?);
        print(runtime.block_on(pods::at_once(&target, 100, Budget::None))?);
    }
    if wanted("objects") {
        print(runtime.block_on(objects::all(&target, || processes::pss(&cluster)))?);
    }
    cluster.down()?;
    if !arguments.no_crates && arguments.only.is_none() {
        crates()?;
    }
    Ok(())
}

/// What the figures were made on.
fn machine() -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("couldn't read {path}"));
    let info = read("/proc/cpuinfo")?;
    let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(value).unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let memory = read("/proc/meminfo")?;
    let kilobytes: f64 =
        memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).context("no MemTotal")?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let profile = if cfg!(debug_assertions) { "dev profile: not for comparing" } else { "release profile" };
    Ok(format!("{model}, {cores} cores, {:.0} GB, Linux {}, {profile}", kilobytes / 1e6, kernel.trim()))
}

/// The programs of single crates, whose output stands for itself.
fn crates() -> Result<()> {
    println!();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(cargo)
        .args(["bench", "--workspace", "--bench", "*", "--quiet"])
        .current_dir(place::tree())
        .status()
        .context("couldn't start cargo")?;
    ensure!(status.success(), "cargo bench: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let slow = Measurement::new("a", "s", Budget::AtMost(1.0), vec![3.0, 1.0, 2.0]);
        assert_eq!(slow.row(), "| a | 2.00 | s | 1.00 – 3.00 | ≤ 1.00 | over |");
        let quick = Measurement::one("b", "per s", Budget::AtLeast(100.0), 12_345.6);
        assert_eq!(quick.row(), "| b | 12346 | per s | – | ≥ 100 |  |");
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let [p50, p99] = Measurement::times("c", Budget::None, Budget::AtMost(100.0), &times);
        assert_eq!(p50.row(), "| c, p50 | 51.0 | ms | 1.00 – 100 | – |  |");
        assert_eq!(p99.row(), "| c, p99 | 100 | ms | – | ≤ 100 |  |");
    }
}
