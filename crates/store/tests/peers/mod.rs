//! Debian's etcd and etcdctl, and our front, each on a port of its own.

#![allow(dead_code, reason = "each test uses its part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use store::{Store, front};
use testkit::Peer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The program, `None` where this run is to do without such. Its absence fails the test otherwise.
pub fn program(name: &str, package: &str) -> Option<PathBuf> {
    if std::env::var_os("TIPHYS_SKIP_PEERS").is_some() {
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    assert!(
        found.is_some(),
        "{name} is missing (Debian's {package}): run scripts/setup, or set TIPHYS_SKIP_PEERS"
    );
    found
}

/// Our front before an engine, until it is dropped.
pub struct Front {
    pub address: SocketAddr,
    stop: CancellationToken,
    _serving: AbortOnDropHandle<()>,
}

impl Front {
    pub async fn start(store: Arc<dyn Store>) -> Front {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = front::serve(listener, None, store, stop.clone());
        let serving = tokio::spawn(async { serving.await.unwrap() });
        Front { address, stop, _serving: AbortOnDropHandle::new(serving) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A real etcd of one member, until it is dropped.
pub struct Etcd {
    _peer: Peer,
    pub url: String,
}

impl Etcd {
    /// Starts one and waits until it says that it serves.
    pub async fn start(program: &Path, dir: &Path) -> Etcd {
        let url = || {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let (client, peer) = (url(), url());
        let mut command = Command::new(program);
        command
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
            .arg(dir);
        let starting = move || Peer::start(&mut command, &["ready to serve client requests"]).unwrap();
        Etcd { _peer: tokio::task::spawn_blocking(starting).await.unwrap(), url: client }
    }
}
