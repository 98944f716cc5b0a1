//! One suite for the runtime contract, run against every implementation.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod containerd;
mod embedded;
mod image;
mod leftovers;
mod suite;
mod world;

use std::os::unix::process::CommandExt as _;

use libtest_mimic::{Arguments, Trial};

/// Set where this program runs with SIGHUP ignored.
const UNHEEDING: &str = "SUITE_IGNORES_HUP";

/// Becomes this program again, with SIGHUP ignored, as a server has it that `nohup` started: what it runs must not.
/// Returns only where that fails.
fn unheeding() -> std::io::Error {
    let mut command = std::process::Command::new("env");
    command.arg("--ignore-signal=HUP").args(std::env::current_exe().ok()).args(std::env::args_os().skip(1));
    command.env(UNHEEDING, "yes").exec()
}

fn main() {
    let mut args = std::env::args_os();
    if args.nth(1).is_some_and(|argument| argument == "shim") {
        std::process::exit(runtime::shim::main(args));
    }
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    }
    if std::env::var_os("CNI_COMMAND").is_some() {
        std::process::exit(containerd::plugin());
    }
    if std::env::var_os(UNHEEDING).is_none() {
        panic!("{}", unheeding());
    }
    let trial = |name: &str, kind, case: &'static suite::Case| {
        Trial::test(format!("{name}::{}", case.name), move || {
            world::run(kind, case);
            Ok(())
        })
    };
    let embedded = suite::CASES.iter().chain(embedded::CASES);
    let mut trials: Vec<Trial> =
        embedded.map(|case| trial("embedded", world::Kind::Embedded, case)).collect();
    let without = containerd::missing();
    if let Some(missing) = without {
        eprintln!("containerd is not tested: this machine has no {missing}");
    }
    let remote = suite::CASES.iter().map(|case| trial("containerd", world::Kind::Containerd, case));
    trials.extend(remote.map(|trial| trial.with_ignored_flag(without.is_some())));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
