//! Durable puts per second beside Debian's etcd, in the same run.
//!
//! Three are compared: the engine in this process, as the API server uses it; our etcd front in a process
//! of its own; and etcd in a process of its own. The last two are driven by the same client over one gRPC
//! connection each, so they are like for like. They take turns, several rounds of each, for a disk that
//! others use too is not the same from one second to the next: look at the ratio, and at its spread.
//!
//! `cargo bench --workspace --bench puts`; `ROUNDS` and `SECONDS` in the environment for other than 3 and 2.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on ends")]

#[path = "../tests/peers/mod.rs"]
mod peers;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use store::embedded::{Config, Engine};
use store::{Op, Put, Store, Txn};
use tokio::net::TcpStream;

const VALUE: usize = 1024;
const CLIENTS: [usize; 3] = [1, 64, 256];
/// Tells this program to be the front, and where its store is.
const FRONT: &str = "TIPHYS_BENCH_FRONT";

/// What one turn saw.
#[derive(Clone, Copy)]
struct Turn {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

async fn turn<F>(clients: usize, put: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> Turn
where
    F: Future<Output = ()> + Send,
{
    let run = Duration::from_secs(setting("SECONDS", 2));
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let put = put.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < run {
                    let one = Instant::now();
                    put(format!("/registry/bench/{client}/{}", times.len())).await;
                    times.push(one.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort();
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    Turn { rate, p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

async fn in_process(clients: usize) -> Turn {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Config::default()).await.unwrap();
    let shared = engine.clone();
    let seen = turn(clients, move |key| {
        let store = shared.clone();
        async move {
            let put = Put { key: key.into(), value: vec![b'x'; VALUE].into(), ..Put::default() };
            store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
        }
    })
    .await;
    engine.close().await;
    seen
}

/// etcd's `PutRequest`.
#[derive(prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A connection that does no more than a put over gRPC takes: what it costs itself is taken from both sides.
#[derive(Clone)]
struct Connection {
    url: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    async fn open(url: &str) -> Connection {
        let address = url.split_once("//").expect("a URL").1;
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Connection { url: format!("{url}/etcdserverpb.KV/Put"), sender }
    }

    async fn put(&mut self, key: String, value: Vec<u8>) {
        let message = PutRequest { key: key.into(), value };
        let mut body = BytesMut::with_capacity(5 + message.encoded_len());
        body.put_u8(0);
        body.put_u32(message.encoded_len() as u32);
        message.encode(&mut body).unwrap();
        let request = Request::post(&self.url)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let answer = answer.into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().and_then(|trailers| trailers.get("grpc-status")).unwrap(), "0");
    }
}

async fn over_grpc(url: &str, clients: usize) -> Turn {
    let connection = Connection::open(url).await;
    turn(clients, move |key| {
        let mut connection = connection.clone();
        async move { connection.put(key, vec![b'x'; VALUE]).await }
    })
    .await
}

struct Front(Child);

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn front(clients: usize) -> Turn {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(FRONT, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let _front = Front(child);
    over_grpc(url.trim(), clients).await
}

async fn etcd(program: &std::path::Path, clients: usize) -> Turn {
    let dir = tempfile::tempdir().unwrap();
    let etcd = peers::Etcd::start(program, dir.path()).await;
    over_grpc(&etcd.url, clients).await
}

/// Lowest, middle and highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

fn report(name: &str, clients: usize, turns: &[Turn], etcd: &[Turn]) {
    let (low, middle, high) = spread(turns.iter().map(|turn| turn.rate).collect());
    let times = |of: fn(&Turn) -> Duration| {
        let (_, middle, _) = spread(turns.iter().map(|turn| of(turn).as_secs_f64() * 1e3).collect());
        middle
    };
    let (p50, p99) = (times(|turn| turn.p50), times(|turn| turn.p99));
    let ratio = if etcd.is_empty() {
        String::new()
    } else {
        let ratios = turns.iter().zip(etcd).map(|(one, other)| one.rate / other.rate).collect();
        let (low, middle, high) = spread(ratios);
        format!("; {middle:.2} x etcd ({low:.2} - {high:.2})")
    };
    println!(
        "{name:18} {clients:4} clients: {middle:7.0} puts/s ({low:.0} - {high:.0}), p50 {p50:.2} ms, \
         p99 {p99:.2} ms{ratio}"
    );
}

#[tokio::main]
async fn main() {
    if let Some(dir) = std::env::var_os(FRONT) {
        let engine = Engine::open(dir, Config::default()).await.unwrap();
        let front = peers::Front::start(engine as Arc<dyn Store>).await;
        println!("{}", front.url());
        return std::future::pending().await;
    }
    let program = peers::program("etcd", "etcd-server");
    for clients in CLIENTS {
        let (mut ours, mut fronts, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..setting("ROUNDS", 3) {
            ours.push(in_process(clients).await);
            fronts.push(front(clients).await);
            if let Some(program) = &program {
                theirs.push(etcd(program, clients).await);
            }
        }
        report("in process", clients, &ours, &theirs);
        report("our front, gRPC", clients, &fronts, &theirs);
        if !theirs.is_empty() {
            report("etcd, gRPC", clients, &theirs, &[]);
        }
    }
}
