//! Steps, the model, and a store that is led through both at once.

mod naive;
mod step;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use store::{
    Error, Event, KeyValue, LeaseId, Op, OpAnswer, Range, RangeAnswer, Revision, Store, Txn, Watch, Watching,
    embedded,
};

pub use self::step::{Step, steps};

use self::naive::Model;

/// How long a watch may take to tell what has happened.
const PATIENCE: Duration = Duration::from_secs(10);

type Checked<T = ()> = Result<T, String>;

/// A store under test.
pub struct Subject {
    store: Arc<dyn Store>,
    reopen: Option<(Arc<embedded::Engine>, tempfile::TempDir, embedded::Config)>,
    /// A server apart takes up watches of the past in its own time, and a compaction may come before.
    server: Option<Box<dyn Any + Send>>,
}

impl Subject {
    pub fn new(store: Arc<dyn Store>) -> Subject {
        Subject { store, reopen: None, server: None }
    }

    /// One that can be closed and opened again.
    pub fn reopening(
        engine: Arc<embedded::Engine>,
        dir: tempfile::TempDir,
        config: embedded::Config,
    ) -> Subject {
        Subject { store: engine.clone(), reopen: Some((engine, dir, config)), server: None }
    }

    /// Keeps the server that the store is a client of.
    pub fn of_server(self, kept: impl Any + Send) -> Subject {
        Subject { server: Some(Box::new(kept)), ..self }
    }

    async fn restart(&mut self) {
        let Some((engine, dir, config)) = &mut self.reopen else { return };
        engine.close().await;
        *engine = embedded::Engine::open(dir.path(), config.clone()).await.unwrap();
        self.store = engine.clone();
    }
}

/// An open watch, and how far it has told.
struct Followed {
    watch: Watch,
    next: i64,
    /// Whether it has told nothing yet, and may so still have to be taken up.
    may_lag: bool,
    watching: Watching,
}

/// Leads a store and the model through the same steps; the first difference, in words.
pub async fn follow(mut subject: Subject, steps: Vec<Step>) -> Checked {
    let mut model = Model::new();
    let mut watches = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let told = one(&mut subject, &mut model, &mut watches, step).await;
        told.map_err(|difference| format!("step {number}, {step:?}: {difference}"))?;
        for followed in &mut watches {
            let told = catch_up(&model, followed).await;
            told.map_err(|difference| {
                format!("after step {number}, {step:?}: {:?}: {difference}", followed.watch)
            })?;
        }
    }
    drop(watches);
    subject.restart().await;
    every_state(&subject, &model).await.map_err(|difference| format!("in the end: {difference}"))
}

async fn one(subject: &mut Subject, model: &mut Model, watches: &mut Vec<Followed>, step: &Step) -> Checked {
    let store = subject.store.clone();
    match step {
        Step::Txn(txn) => {
            let wanted = model.txn(txn).map(|answer| {
                (answer.revision, answer.succeeded, answer.answers.iter().map(answered).collect::<Vec<_>>())
            });
            let found = store.txn(txn.clone()).await.map(|answer| {
                (answer.revision, answer.succeeded, answer.answers.iter().map(answered).collect::<Vec<_>>())
            });
            same(fault(found), fault(wanted))
        }
        Step::Range(range, at) => {
            let range = Range { revision: at.map(|at| model.pick(at)), ..range.clone() };
            let (wanted, found) = (model.range(&range), store.range(range.clone()).await);
            same(fault(found.map(|answer| ranged(&answer))), fault(wanted.map(|answer| ranged(&answer))))
        }
        Step::Compact(at) => {
            let revision = model.pick(*at);
            same(fault(store.compact(revision).await), fault(model.compact(revision)))
        }
        Step::Grant(id) => {
            let found = store.lease_grant(LeaseId(*id), 10_000).await.map(|(id, _)| id);
            same(fault(found), fault(model.grant(*id)))
        }
        Step::Revoke(id) => same(fault(store.lease_revoke(LeaseId(*id)).await), fault(model.revoke(*id))),
        Step::Watch(watch, at) => {
            let from = at.map(|at| model.pick(at));
            let watch = Watch { from, ..watch.clone() };
            let watching = store.watch(watch.clone()).await.map_err(|error| error.to_string())?;
            let next = from.map_or(model.revision() + 1, |from| from.0);
            let may_lag = subject.server.is_some();
            watches.push(Followed { watch, next, may_lag, watching });
            Ok(())
        }
        Step::Restart => {
            watches.clear();
            subject.restart().await;
            every_state(subject, model).await
        }
    }
}

/// Reads a watch until it has told what the model knows, and no more.
async fn catch_up(model: &Model, followed: &mut Followed) -> Checked {
    if followed.next < 0 {
        // It was refused.
        return Ok(());
    }
    if followed.next < model.compacted() && followed.watch.from == Some(Revision(followed.next)) {
        let told = tokio::time::timeout(PATIENCE, followed.watching.next()).await;
        followed.next = -1;
        return match told {
            Ok(Some(Err(Error::Compacted { .. }))) => Ok(()),
            other => Err(format!("told {other:?} where its start is compacted")),
        };
    }
    let wanted = model.events(&followed.watch, followed.next);
    let mut told: Vec<Event> = Vec::new();
    while told.len() < wanted.len() {
        match tokio::time::timeout(PATIENCE, followed.watching.next()).await {
            Ok(Some(Ok(batch))) => {
                followed.may_lag = false;
                told.extend(batch.events);
            }
            Ok(Some(Err(Error::Compacted { .. }))) if lags(followed, model) => {
                followed.next = -1;
                return Ok(());
            }
            other => return Err(format!("told {told:?}, then {other:?}, wanted {wanted:?}")),
        }
    }
    if let Some(surplus) = followed.watching.next().now_or_never() {
        if matches!(surplus, Some(Err(Error::Compacted { .. }))) && lags(followed, model) {
            followed.next = -1;
            return Ok(());
        }
        return Err(format!("told {surplus:?} after all there was"));
    }
    followed.next = followed.next.max(model.revision() + 1);
    let kept = |event: &Event| event.kv.mod_revision.0 > model.compacted();
    for (told, wanted) in told.iter().zip(&wanted) {
        // Whether the value before is kept is open where the event is at the compacted revision.
        let blind = |event: &Event| Event { prev: None, ..event.clone() };
        if kept(wanted) && told != wanted || blind(told) != blind(wanted) {
            return Err(format!("told {told:?}, wanted {wanted:?}"));
        }
    }
    Ok(())
}

/// Whether a watch may have met a compaction before it was taken up.
fn lags(followed: &Followed, model: &Model) -> bool {
    followed.may_lag && followed.watch.from.is_some_and(|from| from.0 < model.compacted())
}

/// Every revision that can be read, whole, and every lease.
async fn every_state(subject: &Subject, model: &Model) -> Checked {
    for revision in model.compacted().max(1)..=model.revision() {
        let range = Range { revision: Some(Revision(revision)), ..Range::of(store::Keys::all()) };
        let (wanted, found) = (model.range(&range), subject.store.range(range).await);
        same(fault(found.map(|answer| ranged(&answer))), fault(wanted.map(|answer| ranged(&answer))))
            .map_err(|difference| format!("at revision {revision}: {difference}"))?;
    }
    let mut leases = subject.store.leases().await.map_err(|error| error.to_string())?;
    leases.sort_unstable();
    same(leases.iter().map(|id| id.0).collect::<Vec<_>>(), model.leases())?;
    for id in leases {
        let info = subject.store.lease_time_to_live(id, true).await.map_err(|error| error.to_string())?;
        let mut keys = info.keys;
        keys.sort_unstable();
        same(keys, model.leased(id))?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Checked {
    if found == wanted { Ok(()) } else { Err(format!("found {found:?}, wanted {wanted:?}")) }
}

/// An answer or the kind of its refusal; what else a refusal tells differs between engines.
fn fault<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| match error {
        Error::Compacted { .. } => "compacted".to_owned(),
        Error::FutureRevision { .. } => "future".to_owned(),
        other => other.to_string(),
    })
}

type Ranged = (Vec<KeyValue>, usize, bool);

/// A range's answer, but for the store's revision.
fn ranged(answer: &RangeAnswer) -> Ranged {
    (answer.kvs.clone(), answer.count, answer.more)
}

fn answered(answer: &OpAnswer) -> String {
    match answer {
        // Which revision stands inside a transaction is told by none but us.
        OpAnswer::Range(answer) => format!("{:?}", ranged(answer)),
        other => format!("{other:?}"),
    }
}

/// One write as a transaction.
pub fn alone(op: Op) -> Txn {
    Txn { success: vec![op], ..Txn::default() }
}
