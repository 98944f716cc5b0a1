//! Deletes Jobs some time after they ended: `.spec.ttlSecondsAfterFinished`.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use crate::context::{Context, Error};
use crate::job;

struct Controller {
    context: Context,
    jobs: Informer<Job>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let jobs = context.informers.of::<Job>();
    jobs.enqueue(&queue, |change| {
        let job = change.object();
        let due = !change.is_deleted() && ttl(job).is_some() && job::finished(job).is_some();
        due.then(|| ObjectKey::of(&**job))
    });
    jobs.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    client::run("ttl-after-finished", queue, workers, Arc::new(Controller { context, jobs }), cancel).await;
}

fn ttl(job: &Job) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// How long a Job stays yet; `None` when it stays for good.
fn plan(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (ttl, ended) = (ttl(job)?, job::finished_at(job)?);
    let since = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
    Some(ttl.saturating_sub(since))
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(left) = self.jobs.get(key).and_then(|job| plan(&job, Timestamp::now())) else {
            return Ok(None);
        };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // The time may have been lengthened since the cache saw it.
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let live = api.get_opt(&key.name).await.map_err(Error::api(format!("reading job {key}")))?;
        let Some(live) = live else { return Ok(None) };
        match plan(&live, Timestamp::now()) {
            Some(Duration::ZERO) => {}
            other => return Ok(other),
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: live.metadata.uid, resource_version: None }),
            ..DeleteParams::foreground()
        };
        let deleted = api.delete(&key.name, &params).await;
        write::found(deleted.map(drop)).map_err(Error::api(format!("deleting job {key}")))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(ttl: Option<i32>, ended: bool) -> Option<u64> {
        let status = if ended { "True" } else { "False" };
        let job = json!({"metadata": {}, "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
            "status": {"conditions": [{"type": "Failed", "status": status, "lastTransitionTime": "2025-01-01T00:00:00Z"}]}});
        let job: Job = serde_json::from_value(job).unwrap();
        plan(&job, "2025-01-01T00:00:20Z".parse().unwrap()).map(|left| left.as_secs())
    }

    #[test]
    fn counts_from_the_end() {
        assert_eq!(check(Some(60), true), Some(40));
        assert_eq!(check(Some(20), true), Some(0));
        assert_eq!(check(Some(0), true), Some(0));
        assert_eq!(check(Some(0), false), None);
        assert_eq!(check(None, true), None);
    }
}
