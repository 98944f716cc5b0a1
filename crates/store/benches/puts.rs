//! Durable puts per second: the embedded engine, and Debian's etcd in the same run where it is installed.
//!
//! `cargo bench -p store --bench puts`

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use store::embedded::{Config, Engine};
use store::{Op, Put, Store, Txn};

const VALUE: usize = 1024;
const RUN: Duration = Duration::from_secs(3);
const CLIENTS: [usize; 3] = [1, 64, 256];

async fn measure<F>(name: &str, clients: usize, put: impl Fn(usize, u64) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let put = put.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < RUN {
                    let one = Instant::now();
                    put(client, times.len() as u64).await;
                    times.push(one.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client does not panic"));
    }
    times.sort();
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{name:9} {clients:4} clients: {rate:7.0} puts/s, p50 {p50:?}, p99 {p99:?}");
}

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    listener.local_addr().expect("it is bound").port()
}

async fn etcd(dir: &std::path::Path) -> Option<(Etcd, etcd_client::Client)> {
    let (client, peer) = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let child = Command::new("etcd")
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
        .arg(dir)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let child = Etcd(child);
    loop {
        if let Ok(mut connected) = etcd_client::Client::connect([&client], None).await
            && connected.get("health", None).await.is_ok()
        {
            return Some((child, connected));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main]
async fn main() {
    let key = |client: usize, n: u64| format!("/registry/bench/{client}/{n}");
    for clients in CLIENTS {
        let dir = tempfile::tempdir().expect("a directory for the store");
        let store = Engine::open(dir.path(), Config::default()).await.expect("the store opens");
        let shared = store.clone();
        measure("embedded", clients, move |client, n| {
            let store = shared.clone();
            async move {
                let put =
                    Put { key: key(client, n).into(), value: vec![b'x'; VALUE].into(), ..Put::default() };
                let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
                store.txn(txn).await.expect("the store takes it");
            }
        })
        .await;
        store.close().await;
    }
    for clients in CLIENTS {
        let dir = tempfile::tempdir().expect("a directory for etcd");
        let Some((_etcd, connected)) = etcd(dir.path()).await else {
            return println!("etcd      is not installed (package etcd-server)");
        };
        measure("etcd", clients, move |client, n| {
            let mut connected = connected.clone();
            async move {
                connected.put(key(client, n), vec![b'x'; VALUE], None).await.expect("etcd takes it");
            }
        })
        .await;
    }
}
