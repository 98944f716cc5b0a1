//! The one binary: `tiphys`, and every component by its own name (`tiphys kube-apiserver …`, or
//! through a link called `kube-apiserver`).
//!
//! This crate only puts the rooms together: [`control_plane`] is store, engine and API server,
//! [`server`] the whole of one machine, [`up`] and [`down`] a cluster on this host as a user means
//! it. To find a command: its flags and its `run` stand in the module of its name; those of the controllers, the
//! scheduler and the proxy alone are in [`components`], the nodes beyond the first in [`nodes`] and [`agent`].

mod agent;
mod apiserver;
mod bootstrap;
mod claim;
mod cli;
mod cluster;
mod components;
mod control;
mod control_plane;
mod controllers;
mod dial;
mod etcd;
mod node;
mod nodes;
mod policy;
mod server;
mod teardown;
mod tls;
mod up;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // Before anything starts a thread: a shim forks.
    if args.get(1).is_some_and(|a| a == "shim") {
        std::process::exit(runtime::shim::main(args.into_iter().skip(2)));
    }
    cli::run(args)
}
