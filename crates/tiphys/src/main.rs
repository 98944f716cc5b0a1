//! The one binary: `tiphys`, and every component by its own name (`tiphys kube-apiserver …`, or
//! through a link called `kube-apiserver`).
//!
//! This crate only puts the rooms together: [`control_plane`] is store, engine and API server,
//! [`server`] the whole of one machine, [`up`] and [`down`] a cluster on this host as a user means
//! it. To find a command: its flags and its `run` stand in the module of its name.

mod apiserver;
mod bootstrap;
mod cli;
mod cluster;
mod control_plane;
mod dial;
mod policy;
mod tls;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os().collect())
}
