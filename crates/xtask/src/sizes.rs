//! Lengths of source files. Functions are clippy's to measure (`too_many_lines`).

use anyhow::{Result, ensure};
use testkit::place;

use crate::source;

/// Above this a file needs a reason: a warning.
const LONG: usize = 600;
/// Above this it doesn't pass.
const TOO_LONG: usize = 1000;

/// Fails if a file is too long; prints which are long, and the median.
pub fn check() -> Result<()> {
    let mut sizes = Vec::new();
    for path in source::files(&place::tree().join("crates"))? {
        let lines = std::fs::read_to_string(&path)?.lines().count();
        sizes.push((lines, path.strip_prefix(place::tree()).unwrap_or(&path).display().to_string()));
    }
    sizes.sort();
    let above = |limit: usize| sizes.iter().filter(move |(lines, _)| *lines > limit);
    for (lines, path) in above(LONG) {
        println!("check-size: warning: {path} has {lines} lines");
    }
    let faults: Vec<String> =
        above(TOO_LONG).map(|(lines, path)| format!("{path} has {lines} lines")).collect();
    ensure!(faults.is_empty(), "files over {TOO_LONG} lines:\n{}", faults.join("\n"));
    let median = sizes.get(sizes.len() / 2).map_or(0, |(lines, _)| *lines);
    println!("check-size: {} files, median {median} lines, none over {TOO_LONG}", sizes.len());
    Ok(())
}
