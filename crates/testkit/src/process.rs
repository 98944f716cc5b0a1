//! Foreign programs, run to their end.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Standard output of a program that must succeed.
///
/// # Errors
/// The program can't be started, or fails: then with what it wrote to standard error.
pub(crate) fn read(command: &mut Command) -> Result<Vec<u8>> {
    let name = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("couldn't start {name}"))?;
    if !out.status.success() {
        bail!("{name}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out.stdout)
}

/// The same as text.
pub(crate) fn read_text(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    String::from_utf8(read(command)?).with_context(|| format!("{name} printed something that isn't UTF-8"))
}
