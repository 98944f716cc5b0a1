//! The kubelet on the embedded runtime, against an API in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod api;
mod cases;
#[allow(dead_code, reason = "the runtime's own tests use more of it")]
#[path = "../../../runtime/tests/conformance/image.rs"]
mod image;
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
    macro_rules! trials {
        ($($case:ident),* $(,)?) => {
            vec![$(Trial::test(stringify!($case), || {
                world::run(stringify!($case), cases::$case);
                Ok(())
            })),*]
        };
    }
    let trials = trials![
        runs_and_goes,
        late_answers,
        succeeds,
        backs_off,
        init_and_volumes,
        failures_are_named,
        volumes_come_first,
        liveness_restarts,
        survives_restart,
        what_is_lost_runs_again,
        static_pods,
        sidecars,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
