//! The cases. Each gets an empty store at revision 1.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use store::{
    Compare, Error, EventKind, Keys, LeaseId, Op, OpAnswer, Ordering, Put, Range, Revision, Store, Target,
    Txn, Watch, Watching,
};

type Engine = Arc<dyn Store>;

/// Runs every case on a store of its own.
pub async fn all<F, K>(make: impl Fn() -> F)
where
    F: Future<Output = (Engine, K)>,
{
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let (engine, _kept) = make().await;
            let case = tokio::time::timeout(Duration::from_secs(20), $case(engine));
            assert!(case.await.is_ok(), concat!(stringify!($case), " did not end"));
        )*};
    }
    cases![
        revisions_and_versions,
        reads_of_the_past,
        limits_and_counts,
        conditions,
        transactions_are_whole,
        refusals,
        watch_from_the_past_and_now,
        watch_sees_whole_revisions,
        watch_tells_progress,
        compaction,
        leases_hold_keys,
        leases_end,
    ];
}

fn key(key: &str) -> Keys {
    Keys::One(Bytes::copy_from_slice(key.as_bytes()))
}

fn put(key: &str, value: &str) -> Op {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Op::Put(Put { key: Bytes::copy_from_slice(key.as_bytes()), value, ..Put::default() })
}

fn delete(keys: Keys) -> Op {
    Op::Delete { keys, prev: true }
}

async fn run(store: &Engine, ops: Vec<Op>) -> Revision {
    store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap().revision
}

async fn read(store: &Engine, keys: Keys, revision: Option<i64>) -> String {
    let range = Range { revision: revision.map(Revision), ..Range::of(keys) };
    match store.range(range).await {
        Ok(answer) => answer
            .kvs
            .iter()
            .map(|kv| {
                format!(
                    "{}={} c{} m{} v{};",
                    kv.key.escape_ascii(),
                    kv.value.escape_ascii(),
                    kv.create_revision,
                    kv.mod_revision,
                    kv.version
                )
            })
            .collect(),
        Err(Error::Compacted { .. }) => "compacted".into(),
        Err(Error::FutureRevision { .. }) => "future".into(),
        Err(error) => panic!("{error}"),
    }
}

/// Reads a watch until it has told `count` events.
async fn events(watching: &mut Watching, count: usize) -> String {
    let mut told = Vec::new();
    while told.len() < count {
        for event in watching.next().await.unwrap().unwrap().events {
            let prev = event.prev.map_or(String::new(), |prev| format!(" was {}", prev.value.escape_ascii()));
            let (key, revision) = (event.kv.key.escape_ascii().to_string(), event.kv.mod_revision);
            told.push(match event.kind {
                EventKind::Put => format!("{revision} {key}={}{prev}", event.kv.value.escape_ascii()),
                EventKind::Delete => format!("{revision} -{key}{prev}"),
            });
        }
    }
    told.join("; ")
}

async fn revisions_and_versions(store: Engine) {
    assert_eq!(read(&store, Keys::all(), None).await, "");
    assert_eq!(store.status().await.unwrap().revision, Revision(1));
    assert_eq!(run(&store, vec![put("/a", "x")]).await, Revision(2));
    assert_eq!(run(&store, vec![put("/a", "y")]).await, Revision(3));
    assert_eq!(read(&store, key("/a"), None).await, "/a=y c2 m3 v2;");
    assert_eq!(run(&store, vec![delete(key("/a"))]).await, Revision(4));
    assert_eq!(run(&store, vec![delete(key("/a"))]).await, Revision(4), "nothing to delete is no write");
    assert_eq!(run(&store, vec![put("/a", "z")]).await, Revision(5));
    assert_eq!(read(&store, key("/a"), None).await, "/a=z c5 m5 v1;", "a life of its own");
    assert_eq!(run(&store, vec![]).await, Revision(5), "an empty transaction writes nothing");
}

async fn reads_of_the_past(store: Engine) {
    run(&store, vec![put("/a", "1"), put("/b", "1")]).await;
    run(&store, vec![put("/a", "2"), delete(key("/b"))]).await;
    assert_eq!(read(&store, Keys::all(), Some(1)).await, "");
    assert_eq!(read(&store, Keys::all(), Some(2)).await, "/a=1 c2 m2 v1;/b=1 c2 m2 v1;");
    assert_eq!(read(&store, Keys::all(), Some(3)).await, "/a=2 c2 m3 v2;");
    assert_eq!(read(&store, Keys::all(), Some(4)).await, "future");
}

async fn limits_and_counts(store: Engine) {
    run(&store, ["/a/1", "/a/2", "/a/3", "/b"].map(|key| put(key, "v")).to_vec()).await;
    let all = Range::of(Keys::prefix("/a/"));
    let answer = store.range(Range { limit: 2, ..all.clone() }).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.count, answer.more), (2, 3, true));
    let answer = store.range(Range { limit: 3, ..all.clone() }).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.count, answer.more), (3, 3, false));
    let answer = store.range(Range { count_only: true, ..all.clone() }).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.count), (0, 3));
    let answer = store.range(Range { keys_only: true, ..all }).await.unwrap();
    assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));
    let backwards = Keys::Range("/b".into(), "/a".into());
    assert_eq!(store.range(Range::of(backwards)).await.unwrap().count, 0);
    assert_eq!(read(&store, Keys::From("/a/3".into()), None).await, "/a/3=v c2 m2 v1;/b=v c2 m2 v1;");
}

async fn conditions(store: Engine) {
    run(&store, vec![put("/a", "m")]).await;
    run(&store, vec![put("/a", "m"), put("/b", "n")]).await;
    let check = |keys: Keys, target: Target, op: Ordering| {
        let store = store.clone();
        async move {
            let compare = vec![Compare { keys, target, op }];
            store.txn(Txn { compare, ..Txn::default() }).await.unwrap().succeeded
        }
    };
    use Ordering::{Equal, Greater, Less, NotEqual};
    assert!(check(key("/a"), Target::Version(2), Equal).await);
    assert!(check(key("/a"), Target::CreateRevision(Revision(2)), Equal).await);
    assert!(check(key("/a"), Target::ModRevision(Revision(3)), Equal).await);
    assert!(!check(key("/a"), Target::ModRevision(Revision(3)), Less).await);
    assert!(check(key("/a"), Target::ModRevision(Revision(2)), Greater).await);
    assert!(check(key("/a"), Target::Value("l".into()), Greater).await);
    assert!(check(key("/a"), Target::Value("n".into()), NotEqual).await);
    assert!(check(key("/a"), Target::Lease(LeaseId(0)), Equal).await);
    assert!(check(key("/none"), Target::ModRevision(Revision(0)), Equal).await);
    assert!(check(key("/none"), Target::Version(0), Equal).await);
    assert!(!check(key("/none"), Target::Value(Bytes::new()), NotEqual).await, "no value, no comparison");
    assert!(check(Keys::prefix("/"), Target::ModRevision(Revision(3)), Equal).await);
    assert!(!check(Keys::prefix("/"), Target::Version(2), Equal).await, "for every key there is");
    assert!(check(Keys::prefix("/none"), Target::Version(0), Equal).await);
}

async fn transactions_are_whole(store: Engine) {
    run(&store, vec![put("/a", "1")]).await;
    let txn = Txn {
        compare: vec![Compare::mod_revision("/a", Revision(9))],
        success: vec![put("/a", "no")],
        failure: vec![
            put("/b", "2"),
            Op::Range(Range::of(Keys::all())),
            delete(key("/a")),
            Op::Txn(Box::new(Txn {
                // Judged as the store stood before: /b was not there.
                compare: vec![Compare::mod_revision("/b", Revision(0))],
                success: vec![put("/c", "3"), Op::Range(Range::of(Keys::all()))],
                failure: vec![put("/c", "no")],
            })),
        ],
    };
    let answer = store.txn(txn).await.unwrap();
    assert_eq!((answer.revision, answer.succeeded), (Revision(3), false));
    let [
        OpAnswer::Put { prev: None },
        OpAnswer::Range(all),
        OpAnswer::Delete { deleted: 1, prev },
        OpAnswer::Txn(nested),
    ] = &answer.answers[..]
    else {
        panic!("{answer:?}")
    };
    assert_eq!(all.kvs.len(), 2, "a transaction reads its own writes");
    assert_eq!(prev[0].value, "1");
    assert!(nested.succeeded);
    assert_eq!(read(&store, Keys::all(), None).await, "/b=2 c3 m3 v1;/c=3 c3 m3 v1;");
}

async fn refusals(store: Engine) {
    run(&store, vec![put("/a", "1")]).await;
    let refuse = async |ops: Vec<Op>| store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap_err();
    assert!(matches!(refuse(vec![put("", "x")]).await, Error::EmptyKey));
    assert!(matches!(refuse(vec![put("/x", "1"), put("/x", "2")]).await, Error::DuplicateKey));
    assert!(matches!(refuse(vec![put("/x", "1"), delete(Keys::prefix("/"))]).await, Error::DuplicateKey));
    let leased = Op::Put(Put { key: "/x".into(), lease: LeaseId(77), ..Put::default() });
    assert!(matches!(refuse(vec![put("/y", "1"), leased]).await, Error::LeaseNotFound));
    let kept = Op::Put(Put { key: "/x".into(), ignore_value: true, ..Put::default() });
    assert!(matches!(refuse(vec![put("/y", "1"), kept]).await, Error::KeyNotFound));
    let future = Op::Range(Range { revision: Some(Revision(99)), ..Range::of(key("/a")) });
    assert!(matches!(refuse(vec![put("/y", "1"), future]).await, Error::FutureRevision { .. }));
    let large = "x".repeat(3 << 20);
    assert!(matches!(refuse(vec![put("/x", &large)]).await, Error::TooLarge { .. }));
    assert_eq!(read(&store, Keys::all(), None).await, "/a=1 c2 m2 v1;", "what is refused leaves nothing");
    let missing = store.lease_revoke(LeaseId(5)).await.unwrap_err();
    assert!(matches!(missing, Error::LeaseNotFound));
}

async fn watch_from_the_past_and_now(store: Engine) {
    run(&store, vec![put("/a", "1")]).await;
    run(&store, vec![put("/a", "2"), put("/other", "x")]).await;
    let mut past =
        store.watch(Watch { prev: true, ..Watch::of(Keys::prefix("/a"), Some(Revision(2))) }).await.unwrap();
    let mut now = store.watch(Watch::of(key("/a"), None)).await.unwrap();
    let mut ahead = store.watch(Watch::of(Keys::From("/".into()), Some(Revision(5)))).await.unwrap();
    run(&store, vec![delete(key("/a"))]).await;
    run(&store, vec![put("/ab", "3")]).await;
    assert_eq!(events(&mut past, 4).await, "2 /a=1; 3 /a=2 was 1; 4 -/a was 2; 5 /ab=3");
    assert_eq!(events(&mut now, 1).await, "4 -/a");
    assert_eq!(events(&mut ahead, 1).await, "5 /ab=3");
}

async fn watch_sees_whole_revisions(store: Engine) {
    let mut watching = store.watch(Watch::of(Keys::prefix("/"), None)).await.unwrap();
    for round in 0..50 {
        let value = round.to_string();
        run(&store, (0..5).map(|n| put(&format!("/{n}"), &value)).collect()).await;
    }
    let mut seen = 0;
    let mut last = Revision(1);
    while seen < 250 {
        let batch = watching.next().await.unwrap().unwrap();
        assert_eq!(batch.events.len() % 5, 0, "no revision is cut");
        for event in &batch.events {
            assert!(event.kv.mod_revision >= last && event.kv.mod_revision <= batch.revision);
            last = event.kv.mod_revision;
        }
        seen += batch.events.len();
    }
    assert_eq!(last, Revision(51));
}

async fn watch_tells_progress(store: Engine) {
    let watch = Watch { progress: true, ..Watch::of(Keys::prefix("/quiet/"), None) };
    let mut watching = store.watch(watch).await.unwrap();
    let written = run(&store, vec![put("/loud", "x")]).await;
    store.progress().await.unwrap();
    loop {
        let batch = watching.next().await.unwrap().unwrap();
        assert!(batch.events.is_empty());
        if batch.revision >= written {
            break;
        }
    }
}

async fn compaction(store: Engine) {
    run(&store, vec![put("/a", "x"), put("/kept", "k")]).await;
    run(&store, vec![put("/a", "y")]).await;
    run(&store, vec![delete(key("/a"))]).await;
    assert!(matches!(store.compact(Revision(9)).await.unwrap_err(), Error::FutureRevision { .. }));
    store.compact(Revision(3)).await.unwrap();
    assert!(matches!(store.compact(Revision(3)).await.unwrap_err(), Error::Compacted { .. }));
    assert_eq!(read(&store, key("/a"), Some(2)).await, "compacted");
    assert_eq!(read(&store, key("/a"), Some(3)).await, "/a=y c2 m3 v2;");
    assert_eq!(read(&store, Keys::all(), Some(4)).await, "/kept=k c2 m2 v1;");
    let mut old = store.watch(Watch::of(key("/a"), Some(Revision(2)))).await.unwrap();
    assert!(matches!(old.next().await.unwrap().unwrap_err(), Error::Compacted { .. }));
    assert!(old.next().await.is_none());
    let mut rest = store.watch(Watch::of(key("/a"), Some(Revision(3)))).await.unwrap();
    assert_eq!(events(&mut rest, 2).await, "3 /a=y; 4 -/a");
    store.compact(Revision(4)).await.unwrap();
    assert_eq!(read(&store, Keys::all(), None).await, "/kept=k c2 m2 v1;");
}

async fn leases_hold_keys(store: Engine) {
    let (id, ttl) = store.lease_grant(LeaseId(0), 100).await.unwrap();
    assert_eq!(ttl, 100);
    assert!(matches!(store.lease_grant(id, 5).await.unwrap_err(), Error::LeaseExists));
    let leased = |key: &str| {
        let key = Bytes::copy_from_slice(key.as_bytes());
        Op::Put(Put { key, value: "v".into(), lease: id, ..Put::default() })
    };
    run(&store, vec![leased("/a"), leased("/b"), leased("/c")]).await;
    run(&store, vec![put("/b", "free")]).await;
    let kept = Put { key: "/c".into(), value: "w".into(), ignore_lease: true, ..Put::default() };
    run(&store, vec![Op::Put(kept)]).await;
    let info = store.lease_time_to_live(id, true).await.unwrap();
    assert_eq!((info.granted_seconds, info.keys.len()), (100, 2));
    assert_eq!(store.lease_keep_alive(id).await.unwrap(), 100);
    assert_eq!(store.leases().await.unwrap(), [id]);
    let mut watching = store.watch(Watch::of(Keys::all(), None)).await.unwrap();
    store.lease_revoke(id).await.unwrap();
    assert_eq!(events(&mut watching, 2).await, "5 -/a; 5 -/c");
    assert_eq!(read(&store, Keys::all(), None).await, "/b=free c2 m3 v2;");
    assert!(matches!(store.lease_keep_alive(id).await.unwrap_err(), Error::LeaseNotFound));
    assert!(matches!(store.lease_time_to_live(id, false).await.unwrap_err(), Error::LeaseNotFound));
}

async fn leases_end(store: Engine) {
    let (id, _) = store.lease_grant(LeaseId(7), 1).await.unwrap();
    let mut watching = store.watch(Watch::of(key("/a"), None)).await.unwrap();
    let leased = Put { key: "/a".into(), value: "v".into(), lease: id, ..Put::default() };
    run(&store, vec![Op::Put(leased)]).await;
    assert_eq!(events(&mut watching, 2).await, "2 /a=v; 3 -/a");
    assert!(store.leases().await.unwrap().is_empty());
}
