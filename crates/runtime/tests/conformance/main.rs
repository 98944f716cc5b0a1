//! One suite for the runtime contract, run against every implementation.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod containerd;
mod embedded;
mod image;
mod leftovers;
mod suite;
mod world;

use libtest_mimic::{Arguments, Trial};

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
