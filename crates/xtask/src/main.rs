//! `cargo xtask COMMAND`: every check and measurement of the tree that isn't a unit test.
//!
//! The checks read sources and `cargo metadata` and need no build of the product; `replay`, `walk` and
//! `bench` use the built binary as anybody would, through its command line and HTTPS. What doesn't belong:
//! anything the product needs at run time.
//!
//! Start at [`Command`]; each command is a module.

mod bench;
mod differences;
mod kinds;
mod layers;
mod licences;
mod replay;
mod sizes;
mod source;
mod walk;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Checks and measurements of the Tiphys source tree.
#[derive(Parser)]
#[command(name = "xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every check of the sources: layers, kinds, sizes, licences.
    Check,
    /// Arrows between crates point down DESIGN's list, and only there.
    CheckLayers,
    /// The engine names no kind.
    CheckKinds,
    /// No source file is too long.
    CheckSize,
    /// Every dependency has a licence that deny.toml allows.
    CheckLicences,
    /// Makes the images that tests and examples run and prints their names and archives.
    Images {
        /// Only this one, such as nginx:1.22.
        name: Option<String>,
    },
    /// Plays the recorded requests against a server and compares with the ratchet.
    Replay(replay::Arguments),
    /// Runs the commands of docs/walk.md and compares what they print.
    Walk(walk::Arguments),
    /// Measures, and prints the table of budgets.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Check => {
            // Each is run, so that one go shows every fault.
            let results = [layers::check(), kinds::check(), sizes::check(), licences::check()];
            let faults: Vec<String> =
                results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
            anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
            Ok(())
        }
        Command::CheckLayers => layers::check(),
        Command::CheckKinds => kinds::check(),
        Command::CheckSize => sizes::check(),
        Command::CheckLicences => licences::check(),
        Command::Images { name } => images(name.as_deref()),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Walk(arguments) => walk::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}

fn images(name: Option<&str>) -> Result<()> {
    let all = testkit::images::all()?;
    let chosen: Vec<_> = all.iter().filter(|image| name.is_none_or(|name| image.name == name)).collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "no image {name:?}; there are {:?}",
        all.iter().map(|i| &i.name).collect::<Vec<_>>()
    );
    for image in chosen {
        println!("{} {}", image.name, image.oci.display());
    }
    Ok(())
}
