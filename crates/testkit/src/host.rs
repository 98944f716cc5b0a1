//! A host of a test's own, as far as the network goes.

use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use crate::process;

/// The address of a host's one link.
pub const ADDRESS: &str = "192.0.2.10";

/// Moves this thread, and whatever it starts, to a network of its own: a loopback and one link with
/// [`ADDRESS`] and the default route, which leads nowhere. Ports and packet rules are nobody else's there.
///
/// # Errors
/// Not root, or the kernel refuses.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of the test's own")?;
    let address = format!("{ADDRESS}/24");
    let lines: [&[&str]; 5] = [
        &["link", "set", "lo", "up"],
        // Every kernel that runs pods has bridges; not every one has dummy links.
        &["link", "add", "eth0", "type", "bridge"],
        &["addr", "add", &address, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        &["route", "add", "default", "via", "192.0.2.1"],
    ];
    for line in lines {
        process::read(Command::new("ip").args(line))?;
    }
    Ok(())
}
