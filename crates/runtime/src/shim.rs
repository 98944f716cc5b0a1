//! The shim: one small process per pod.
//!
//! It holds the pod's namespaces, starts containers, reaps them, writes their logs, and outlives the
//! server, which finds it again by its socket. It has one thread, so that forking is sound, and waits in
//! one `poll`; what allocates much happens in short-lived children ([`create`], [`exec`]).
//!
//! The service binds the socket before the shim exists and hands it over as standard input, so there is
//! never a moment without one to connect to.

mod create;
mod exec;
mod fork;
mod io;
mod log;
pub(crate) mod protocol;
mod reasons;
mod sandbox;
mod server;
pub(crate) mod wire;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(crate) use sandbox::Setup;

/// Name of the shim's socket in the sandbox's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// Name of the file in the sandbox's directory that tells the shim what to set up.
pub(crate) const SETUP: &str = "shim.json";
/// Name of the file in a container's directory that outlives the shim and tells what became of it.
pub(crate) const PROCESS: &str = "process.json";

/// Runs a shim: what the program does when it is started as [`crate::Config::shim`] says. `args` are the
/// arguments after those configured; the first is the sandbox's directory. Returns the exit code once the
/// service has asked the shim to end.
///
/// To be called before anything starts a thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let Some(dir) = args.into_iter().next().map(PathBuf::from) else {
        eprintln!("shim: the sandbox's directory is missing");
        return 2;
    };
    match run(&dir) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shim {}: {error}", dir.display());
            1
        }
    }
}

fn run(dir: &Path) -> std::io::Result<()> {
    let listener = sandbox::take_listener()?;
    let setup: Setup = serde_json::from_slice(&std::fs::read(dir.join(SETUP))?)?;
    let pid_one = sandbox::prepare(&setup)?;
    server::Server::new(dir.to_owned(), listener, pid_one)?.run()
}
