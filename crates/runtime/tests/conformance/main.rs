//! One suite for the runtime contract, run against every implementation.

mod embedded;
mod image;
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
    let trials: Vec<Trial> = suite::CASES
        .iter()
        .chain(embedded::CASES)
        .map(|case| {
            Trial::test(format!("embedded::{}", case.name), move || {
                world::run(case);
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
