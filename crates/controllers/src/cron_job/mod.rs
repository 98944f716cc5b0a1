//! Makes Jobs on a schedule: the CronJob controller.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, Written, write};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::context::{Context, Error};
use crate::ownership::controller_of;
use plan::{Plan, note_active, plan};

struct Controller {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    written: Written,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let crons = context.informers.of::<CronJob>();
    let jobs = context.informers.of::<Job>();
    crons.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    jobs.enqueue(&queue, |change| {
        let job = change.object();
        let owner = controller_of(&**job).filter(|owner| owner.kind == "CronJob");
        owner.map(|owner| ObjectKey::new(job.metadata.namespace.clone().unwrap_or_default(), &owner.name))
    });
    crons.synced().await;
    jobs.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Controller { context, crons, jobs, written: Written::default() };
    client::run("cronjob", queue, workers, Arc::new(controller), cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(cron) = self.crons.get(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.is_shown(&*cron) {
            return Ok(None);
        }
        let jobs = self.jobs.controlled_by(cron.metadata.uid.as_deref().unwrap_or_default());
        let Plan { delete, replace, create, status, events, again } = plan(&cron, &jobs, Timestamp::now());
        // First what was seen: what is told once must not be told again when the rest fails.
        let cron = self.write(key, CronJob::clone(&cron), status).await?;
        for (severity, reason, message) in events {
            self.context.recorder.event(&cron, severity, reason, message);
        }
        for job in delete {
            self.delete(&cron, &job).await?;
        }
        let Some((job, due)) = create else { return Ok(again) };
        let mut status = cron.status.clone().unwrap_or_default();
        for job in replace {
            self.delete(&cron, &job).await?;
            let active = status.active.get_or_insert_default();
            active.retain(|reference| reference.uid != job.metadata.uid);
        }
        if let Some(made) = self.create(key, &cron, &job).await? {
            note_active(&mut status, &made, due);
        }
        self.write(key, cron, status).await?;
        Ok(again)
    }
}

impl Controller {
    async fn write(&self, key: &ObjectKey, cron: CronJob, status: CronJobStatus) -> Result<CronJob, Error> {
        let mut wanted = cron.clone();
        wanted.status = Some(status);
        let api: Api<CronJob> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, &cron, &wanted).await;
        let written = written.map_err(Error::api(format!("status of cron job {key}")))?;
        written.iter().for_each(|cron| self.written.note(cron));
        Ok(written.unwrap_or(cron))
    }

    /// Makes a Job; `None` when there can be none.
    async fn create(&self, key: &ObjectKey, cron: &CronJob, job: &Job) -> Result<Option<Job>, Error> {
        let recorder = &self.context.recorder;
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let error = match api.create(&PostParams::default(), job).await {
            Ok(made) => {
                recorder.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                return Ok(Some(made));
            }
            Err(error) => error,
        };
        if write::namespace_terminating(&error) {
            return Ok(None);
        }
        if write::already_exists(&error) {
            // Made before, and the status was not written.
            let found = api.get_opt(name).await.map_err(Error::api(format!("reading job {name}")))?;
            let ours = |job: &Job| controller_of(job).map(|owner| &owner.uid) == cron.metadata.uid.as_ref();
            if let Some(found) = found.filter(ours) {
                return Ok(Some(found));
            }
        }
        recorder.warning(cron, "FailedCreate", format!("Error creating job: {error}"));
        Err(Error::api(format!("creating job {name}"))(error))
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let key = ObjectKey::of(job);
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: job.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::background()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => {
                self.context.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {}", key.name));
                Ok(())
            }
            Err(error) if write::is_not_found(&error) => Ok(()),
            Err(error) => {
                self.context.recorder.warning(cron, "FailedDelete", format!("Deleted job: {error}"));
                Err(Error::api(format!("deleting job {key}"))(error))
            }
        }
    }
}
