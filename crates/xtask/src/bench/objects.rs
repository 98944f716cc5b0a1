//! Objects of 1 KiB over TLS with client certificates: creates, gets, lists, watch events.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Connection, Target, Watch};

use super::{Budget, Measurement};

const CLIENTS: usize = 16;
const CREATES: usize = 30_000;
const LISTED: usize = 10_000;
const LISTS: usize = 20;
const GETTING: Duration = Duration::from_secs(5);
/// Events that each watcher gets; each client writes its share.
const EVENTS: usize = 50 * CLIENTS;

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn object(name: &str) -> Bytes {
    let document = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x".repeat(1024)},
    });
    Bytes::from(document.to_string())
}

/// Everything in this order, for each leaves what the next needs; `memory` says what the cluster uses, bytes.
pub async fn all(target: &Target, memory: impl Fn() -> Result<u64>) -> Result<Vec<Measurement>> {
    let mut connection = target.connect().await?;
    for namespace in ["bench", "listed", "watched"] {
        let document = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        connection.put_json(Method::POST, "/api/v1/namespaces", &document).await?;
    }
    let mut rows = creates(target).await?;
    let megabytes = memory()? as f64 / 1e6;
    rows.push(Measurement::one(
        format!("memory after {CREATES} creates"),
        "MB",
        Budget::AtMost(150.0),
        megabytes,
    ));
    rows.extend(gets(target).await?);
    rows.extend(lists(target, &mut connection).await?);
    for watchers in [100, 1000] {
        rows.extend(fan_out(target, &mut connection, watchers).await?);
    }
    Ok(rows)
}

/// Creates `count` objects with all clients; how long each took.
async fn create(target: &Target, namespace: &str, count: usize) -> Result<Vec<Duration>> {
    let clients = (0..CLIENTS).map(|client| {
        let (target, path) = (target.clone(), path(namespace));
        tokio::spawn(async move {
            let mut connection = target.connect().await?;
            let mut times = Vec::new();
            for index in 0..count / CLIENTS {
                let body = object(&format!("o-{client}-{index}"));
                let start = Instant::now();
                let (status, answer) = connection.send(Method::POST, &path, body).await?;
                ensure!(
                    status == StatusCode::CREATED,
                    "create: {status}: {}",
                    String::from_utf8_lossy(&answer)
                );
                times.push(start.elapsed());
            }
            Ok(times)
        })
    });
    join(clients).await.map(|times| times.concat())
}

async fn join<T>(tasks: impl Iterator<Item = tokio::task::JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    try_join_all(tasks).await?.into_iter().collect()
}

async fn creates(target: &Target) -> Result<Vec<Measurement>> {
    let start = Instant::now();
    let times = create(target, "bench", CREATES).await?;
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    let mut rows =
        vec![Measurement::one("objects created, 16 clients", "per s", Budget::AtLeast(10_000.0), rate)];
    rows.extend(Measurement::times("one create", Budget::None, Budget::AtMost(5.0), &times));
    Ok(rows)
}

async fn gets(target: &Target) -> Result<Vec<Measurement>> {
    let start = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let target = target.clone();
        tokio::spawn(async move {
            let mut connection = target.connect().await?;
            let mut count = 0usize;
            while start.elapsed() < GETTING {
                let path = format!("{}/o-{client}-{}", path("bench"), count % (CREATES / CLIENTS));
                let (status, _) = connection.send(Method::GET, &path, Bytes::new()).await?;
                ensure!(status == StatusCode::OK, "GET {path}: {status}");
                count += 1;
            }
            Ok(count)
        })
    });
    let count: usize = join(clients).await?.iter().sum();
    let rate = count as f64 / start.elapsed().as_secs_f64();
    Ok(vec![Measurement::one("GET, 16 clients", "per s", Budget::AtLeast(25_000.0), rate)])
}

async fn lists(target: &Target, connection: &mut Connection) -> Result<Vec<Measurement>> {
    create(target, "listed", LISTED).await?;
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..LISTS {
        let start = Instant::now();
        let (status, body) = connection.send(Method::GET, &path("listed"), Bytes::new()).await?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        ensure!(status == StatusCode::OK, "LIST: {status}");
        size = body.len();
    }
    let name = format!("LIST of {LISTED} ({:.1} MB)", size as f64 / 1e6);
    Ok(vec![Measurement::new(name, "ms", Budget::AtMost(15.0), times)])
}

/// Every client updates an object of its own again and again while many watch all of them; each update carries
/// its own time.
async fn fan_out(target: &Target, connection: &mut Connection, watchers: usize) -> Result<Vec<Measurement>> {
    let list = connection.get(&path("watched")).await?;
    let revision =
        list["metadata"]["resourceVersion"].as_str().context("a list without a resourceVersion")?;
    let watch_path = format!("{}?watch=true&resourceVersion={revision}", path("watched"));
    let mut watches = Vec::new();
    for _ in 0..watchers {
        watches.push(target.connect().await?.watch(&watch_path).await?);
    }
    let start = Instant::now();
    let readers: Vec<_> = watches.into_iter().map(|watch| tokio::spawn(read(watch))).collect();
    let writers =
        (0..CLIENTS).map(|client| tokio::spawn(update(target.clone(), format!("w-{watchers}-{client}"))));
    join(writers).await?;
    let delays = join(readers.into_iter()).await?.concat();
    let rate = delays.len() as f64 / start.elapsed().as_secs_f64();
    let (least, most) = if watchers == 100 {
        (Budget::AtLeast(200_000.0), Budget::AtMost(5.0))
    } else {
        (Budget::None, Budget::None)
    };
    let mut rows =
        vec![Measurement::one(format!("watch events to {watchers} watchers"), "per s", least, rate)];
    rows.extend(Measurement::times(&format!("delay to {watchers} watchers"), Budget::None, most, &delays));
    Ok(rows)
}

/// Makes an object and updates it, one client's share of the events.
async fn update(target: Target, name: String) -> Result<()> {
    let mut connection = target.connect().await?;
    for index in 0..EVENTS / CLIENTS {
        let document = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"sent": micros()?.to_string()},
        });
        let (method, url) = match index {
            0 => (Method::POST, path("watched")),
            _ => (Method::PUT, format!("{}/{name}", path("watched"))),
        };
        connection.put_json(method, &url, &document).await?;
    }
    Ok(())
}

/// How long after its sending each event came.
async fn read(mut watch: Watch) -> Result<Vec<Duration>> {
    let mut delays = Vec::with_capacity(EVENTS);
    while delays.len() < EVENTS {
        let line = watch.next_line().await?.context("the watch ended")?;
        let now = micros()?;
        let event: Value = serde_json::from_slice(&line)?;
        let sent: u64 =
            event["object"]["data"]["sent"].as_str().context("an event of another object")?.parse()?;
        delays.push(Duration::from_micros(now.saturating_sub(sent)));
    }
    Ok(delays)
}

fn micros() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}
