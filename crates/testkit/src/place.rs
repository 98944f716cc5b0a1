//! Where things are in the source tree.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The root of the source tree this crate was built from.
pub fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/testkit is two below the root")
}

/// A directory below the tree's cache, made where absent. Everything in it can be made again.
pub fn cache(name: &str) -> Result<PathBuf> {
    let dir = tree().join(".cache").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("couldn't make {}", dir.display()))?;
    Ok(dir)
}

/// The stock kubectl that `scripts/setup` fetched, or the one named by `KUBECTL`.
pub fn kubectl() -> Result<PathBuf> {
    binary("KUBECTL", || tree().join(".cache/bin/kubectl"), "scripts/setup --test")
}

/// The stock Helm that `scripts/setup --test` fetched, or the one named by `HELM`.
pub fn helm() -> Result<PathBuf> {
    binary("HELM", || tree().join(".cache/bin/helm"), "scripts/setup --test")
}

/// The binary under test: the one named by `TIPHYS`, else the one in the target directory that the
/// running program was built into.
pub fn tiphys() -> Result<PathBuf> {
    binary("TIPHYS", || profile_dir().join("tiphys"), "cargo build --workspace")
}

/// `target/PROFILE` of the running program: programs lie in it, tests one level deeper.
fn profile_dir() -> PathBuf {
    let fallback = tree().join("target/debug");
    let Ok(program) = std::env::current_exe() else { return fallback };
    match program.parent() {
        Some(dir) if dir.ends_with("deps") => dir.parent().map_or(fallback, Path::to_owned),
        Some(dir) => dir.to_owned(),
        None => fallback,
    }
}

fn binary(variable: &str, default: impl Fn() -> PathBuf, made_by: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map_or_else(default, PathBuf::from);
    ensure!(path.is_file(), "{} is missing: run `{made_by}` or set {variable}", path.display());
    Ok(path)
}
