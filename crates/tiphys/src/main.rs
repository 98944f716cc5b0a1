//! The one binary: `tiphys`, and every component by its own name (`tiphys kube-apiserver …`, or
//! through a link called `kube-apiserver`).

mod access;
mod apiserver;
mod cli;
mod dial;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os().collect())
}
