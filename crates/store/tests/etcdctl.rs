//! Debian's etcdctl 3.4 against the embedded engine: what an operator types must work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod peers;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use peers::Front;
use store::embedded::{Config, Engine, restore};
use store::{Error, Keys, Range, Revision, Store};

struct Ctl {
    program: PathBuf,
    url: String,
}

impl Ctl {
    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url]).args(line).stdin(Stdio::null());
        command
    }

    /// The same, with the endpoint as etcdctl itself writes its default: an address without a scheme.
    fn at_address(&self) -> Ctl {
        let url = self.url.trim_start_matches("http://").to_owned();
        Ctl { program: self.program.clone(), url }
    }

    /// What it prints; fails where it fails.
    fn run(&self, line: &[&str]) -> String {
        let output = self.command(line).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "etcdctl {line:?}: {text}{complaint}");
        text
    }

    /// What it complains of; fails where it succeeds.
    fn fail(&self, line: &[&str]) -> String {
        let output = self.command(line).output().unwrap();
        assert!(!output.status.success(), "etcdctl {line:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Runs `test` on a thread that may block, with an engine and its front behind it.
async fn with_ctl(test: impl FnOnce(Ctl, &Path) + Send + 'static) {
    let Some(program) = peers::program("etcdctl", "etcd-client") else { return };
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store"), Config::default()).await.unwrap();
    let front = Front::start(engine.clone() as Arc<dyn Store>).await;
    let ctl = Ctl { program, url: front.url() };
    let place = dir.path().to_owned();
    tokio::task::spawn_blocking(move || test(ctl, &place)).await.unwrap();
    drop(front);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    with_ctl(|ctl, _| {
        assert_eq!(ctl.run(&["put", "/a/1", "one"]), "OK\n");
        ctl.run(&["put", "/a/2", "two"]);
        ctl.run(&["put", "/b", "three"]);
        assert_eq!(ctl.run(&["get", "/a/1"]), "/a/1\none\n");
        assert_eq!(ctl.run(&["get", "/", "--prefix", "--keys-only"]), "/a/1\n\n/a/2\n\n/b\n\n");
        assert_eq!(ctl.run(&["get", "", "--prefix", "--print-value-only"]), "one\ntwo\nthree\n");
        assert_eq!(ctl.run(&["get", "/a/2", "--from-key", "--limit", "1"]), "/a/2\ntwo\n");
        let backwards = ["get", "/a", "--prefix", "--order", "DESCEND", "--print-value-only"];
        assert_eq!(ctl.run(&backwards), "two\none\n");
        assert_eq!(ctl.run(&["put", "--prev-kv", "/b", "drei"]), "OK\n/b\nthree\n");
        assert_eq!(ctl.run(&["get", "/b", "--rev", "4", "--print-value-only"]), "three\n");
        assert_eq!(ctl.run(&["del", "/a", "--prefix", "--prev-kv"]), "2\n/a/1\none\n/a/2\ntwo\n");
        assert_eq!(ctl.run(&["compaction", "5"]), "compacted revision 5\n");
        assert!(ctl.fail(&["get", "/b", "--rev", "4"]).contains("required revision has been compacted"));
        assert!(ctl.fail(&["get", "/b", "--rev", "99"]).contains("required revision is a future revision"));
        let mut txn = ctl.command(&["txn"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = "value(\"/b\") = \"drei\"\n\nput /b four\nget /b\n\nput /wrong x\n\n";
        txn.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let told = String::from_utf8(txn.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(told, "SUCCESS\n\nOK\n\n/b\nfour\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches() {
    with_ctl(|ctl, _| {
        ctl.run(&["put", "/a/1", "one"]);
        let line = ["watch", "/a", "--prefix", "--rev", "2", "--prev-kv"];
        let mut watch = ctl.command(&line).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut told = |count: usize| lines.by_ref().take(count).collect::<Vec<_>>().join(" ");
        assert_eq!(told(3), "PUT /a/1 one");
        ctl.run(&["put", "/a/1", "two"]);
        assert_eq!(told(5), "PUT /a/1 one /a/1 two");
        ctl.run(&["put", "/other", "x"]);
        ctl.run(&["del", "/a/1"]);
        assert_eq!(told(5), "DELETE /a/1 two /a/1 ");
        watch.kill().unwrap();
        watch.wait().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases() {
    with_ctl(|ctl, _| {
        let granted = ctl.run(&["lease", "grant", "300"]);
        let id = granted.split(' ').nth(1).unwrap();
        assert_eq!(granted, format!("lease {id} granted with TTL(300s)\n"));
        ctl.run(&["put", "/leased", "x", "--lease", id]);
        let left = ctl.run(&["lease", "timetolive", id, "--keys"]);
        assert!(left.contains("granted with TTL(300s)") && left.contains("[/leased]"), "{left}");
        assert_eq!(ctl.run(&["lease", "list"]), format!("found 1 leases\n{id}\n"));
        let renewed = ctl.run(&["lease", "keep-alive", "--once", id]);
        assert_eq!(renewed, format!("lease {id} keepalived with TTL(300)\n"));
        assert_eq!(ctl.run(&["lease", "revoke", id]), format!("lease {id} revoked\n"));
        assert_eq!(ctl.run(&["get", "/leased"]), "");
        assert_eq!(ctl.run(&["lease", "timetolive", id]), format!("lease {id} already expired\n"));
        assert!(ctl.fail(&["lease", "revoke", id]).contains("requested lease not found"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep() {
    with_ctl(|ctl, _| {
        ctl.run(&["put", "/a", "x"]);
        let members = ctl.run(&["member", "list"]);
        assert!(members.contains(&format!("started, tiphys, , {}, false", ctl.url)), "{members}");
        let id = members.split(',').next().unwrap().to_owned();
        // For these, etcdctl 3.4 sends the whole endpoint as the HTTP/2 authority, which may hold no scheme.
        let ctl = ctl.at_address();
        let table = ctl.run(&["endpoint", "status", "-w", "table"]);
        let cells: Vec<_> = table.lines().nth(3).unwrap().split('|').map(str::trim).collect();
        assert_eq!((cells[1], cells[2], cells[5]), (ctl.url.as_str(), id.as_str(), "true"), "{table}");
        let health = ctl.command(&["endpoint", "health"]).output().unwrap();
        let health = String::from_utf8([health.stdout, health.stderr].concat()).unwrap();
        assert!(health.contains("is healthy"), "{health}");
        assert!(ctl.run(&["endpoint", "hashkv"]).starts_with(&format!("{}, ", ctl.url)));
        assert_eq!(ctl.run(&["alarm", "list"]), "");
        assert!(ctl.run(&["defrag"]).starts_with("Finished defragmenting"));
        // A client that brings a name is told that none is needed, and goes on without.
        assert_eq!(ctl.run(&["--user", "root:x", "get", "/a"]), "/a\nx\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_snapshot_restores() {
    with_ctl(|ctl, place| {
        // Enough for several pieces.
        for n in 0..40 {
            ctl.run(&["put", &format!("/{n}"), &"v".repeat(20_000)]);
        }
        ctl.run(&["del", "/7"]);
        let granted = ctl.run(&["lease", "grant", "300"]);
        ctl.run(&["put", "/leased", "x", "--lease", granted.split(' ').nth(1).unwrap()]);
        let file = place.join("saved");
        let ctl = ctl.at_address();
        let told = ctl.run(&["snapshot", "save", file.to_str().unwrap()]);
        assert!(told.contains("Snapshot saved at"), "{told}");
        let dir = place.join("restored");
        assert_eq!(restore(&file, &dir).unwrap(), Revision(44));
        assert!(matches!(restore(&file, &dir).unwrap_err(), Error::Io { .. }), "it is not empty");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let engine = Engine::open(&dir, Config::default()).await.unwrap();
            let found = engine.range(Range::of(Keys::all())).await.unwrap();
            assert_eq!((found.count, found.revision), (40, Revision(44)));
            let lease = found.kvs.iter().find(|kv| kv.key == "/leased").unwrap().lease;
            let info = engine.lease_time_to_live(lease, true).await.unwrap();
            assert_eq!((info.granted_seconds, info.keys.len()), (300, 1));
            engine.close().await;
        });
        // Any changed byte is found, wherever it is.
        let whole = std::fs::read(&file).unwrap();
        for at in [0, 30, whole.len() / 2, whole.len() - 600, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&file, changed).unwrap();
            let refused = restore(&file, &place.join("other")).unwrap_err();
            assert!(matches!(refused, Error::Damaged { .. }), "byte {at}: {refused}");
        }
        std::fs::write(&file, &whole[..whole.len() - 512]).unwrap();
        assert!(matches!(restore(&file, &place.join("other")).unwrap_err(), Error::Damaged { .. }));
        assert!(!place.join("other").exists() && !place.join("other.restoring").exists());
    })
    .await;
}
