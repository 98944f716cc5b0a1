//! A worker's jobs: set going as the plan says, and what became of them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::super::backoff::{self, Backoff};
use super::super::memory::{Failure, Job, Torn};
use super::super::observed::{self, State};
use super::super::plan::Action;
use super::super::work::{Attempt, Done, Finished};
use super::super::{images, spec};
use super::Worker;
use crate::events::Type;
use crate::names;

/// The backoff of a pod's volumes.
const VOLUMES: &str = "volumes";

impl Worker {
    pub(super) fn act(&mut self, action: Action, now: Timestamp) {
        let job = action.job();
        let again = match &action {
            Action::Stop { id, .. } => self.memory.is_stopping(id).is_some(),
            _ => false,
        };
        let work = self.work();
        let observed = self.observed.clone();
        let starting = self.starting.clone();
        let done: futures::future::BoxFuture<'static, Done> = match action {
            Action::SetUpVolumes => Box::pin(work.volumes()),
            Action::RunSandbox { attempt, stop } => Box::pin(work.sandbox(attempt, stop)),
            Action::EnsureImage { container } => Box::pin(async move {
                let name = container.clone();
                let ended = || Done::Image {
                    container: name,
                    result: Err(images::Missing { reason: "ErrImagePull", message: "pull canceled".into() }),
                };
                starting.run_until_cancelled(work.image(container)).await.unwrap_or_else(ended)
            }),
            Action::Start { container, attempt, sandbox } => {
                let target = spec::target(&self.pod, &container).and_then(|name| observed.latest(name));
                let target = target.map(|one| one.id.clone());
                self.count_restart(&container, now);
                self.memory.attempts.insert(container.clone(), attempt);
                let Some(image) = self.memory.images.get(&container).cloned() else { return };
                let number = observed.sandboxes.first().map_or(0, |sandbox| sandbox.attempt);
                Box::pin(work.start(Attempt {
                    container,
                    attempt,
                    sandbox,
                    sandbox_attempt: number,
                    image,
                    target,
                }))
            }
            Action::Stop { .. } => Box::pin(work.stop(action, again)),
            Action::Resize { id, container } => Box::pin(work.resize(id, container)),
            Action::RemoveContainer { id } => {
                let log_path = observed.container(&id).map(|one| one.log_path.clone()).unwrap_or_default();
                Box::pin(work.remove(id, log_path))
            }
            Action::TearDown { remove } => Box::pin(work.tear_down(observed, remove)),
            Action::Delete => Box::pin(work.delete()),
            Action::ReportBackOff { container, attempt } => {
                if self.reported.insert((container.clone(), attempt.into())) {
                    let pod = names::full(&self.pod);
                    let text = format!("Back-off restarting failed container {container} in pod {pod}");
                    self.ctx.recorder.container(&self.pod, &container, Type::Warning, "BackOff", text);
                }
                return;
            }
            Action::ReportPullBackOff { container, failed } => {
                return self.report_pull_back_off(&container, failed);
            }
        };
        self.memory.busy.extend(job.clone());
        self.jobs.spawn(async move { (job, done.await) });
    }

    fn report_pull_back_off(&mut self, container: &str, failed: Timestamp) {
        if !self.reported.insert((format!("image/{container}"), failed.as_second())) {
            return;
        }
        let image = spec::find(&self.pod, container).and_then(|(_, found)| found.image).unwrap_or_default();
        let tell = |kind, reason: &str, text: String| {
            self.ctx.recorder.container(&self.pod, container, kind, reason, text);
        };
        tell(Type::Normal, "BackOff", format!("Back-off pulling image {image:?}"));
        tell(Type::Warning, "Failed", "Error: ImagePullBackOff".into());
    }

    /// A container that has run before is started again: the next time it waits longer.
    fn count_restart(&mut self, name: &str, now: Timestamp) {
        let Some(last) = self.observed.latest(name).filter(|one| one.state == State::Exited) else { return };
        let failed = observed::time(last.finished_at).unwrap_or(now);
        let next = Backoff::next(self.memory.backoffs.get(name), failed, now);
        self.memory.backoffs.insert(name.to_owned(), next);
    }

    /// A failure of this reason, with the time of its next try.
    fn failure(&mut self, key: &str, reason: &'static str, message: String) -> Failure {
        let now = Timestamp::now();
        let before = self.memory.backoffs.get(key);
        let next = match key {
            VOLUMES => Backoff::next_short(before, now, now),
            _ => Backoff::next(before, now, now),
        };
        let retry_at = now.checked_add(next.delay()).ok();
        self.memory.backoffs.insert(key.to_owned(), next);
        Failure { reason, message, at: now, retry_at }
    }

    pub(super) async fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let (job, done) = match finished {
            Ok(finished) => finished,
            // A task that panicked leaves its job in hand: the panic has been told, and nothing loops.
            Err(error) => return tracing::error!(pod = names::full(&self.pod), %error, "work ended badly"),
        };
        if let Some(job) = &job {
            self.memory.busy.remove(job);
        }
        match done {
            Done::Sandbox(result) => {
                self.memory.sandbox_failed =
                    result.err().map(|message| self.failure("sandbox", "FailedCreatePodSandBox", message));
                self.observe().await;
            }
            Done::Volumes(Ok(())) => {
                self.memory.volumes_ready = true;
                self.memory.volumes_failed = None;
                self.memory.backoffs.remove(VOLUMES);
            }
            Done::Volumes(Err(message)) => {
                self.memory.volumes_failed = Some(self.failure(VOLUMES, "FailedMount", message));
            }
            Done::Image { container, result: Ok(image) } => {
                self.memory.backoffs.remove(&format!("image/{container}"));
                self.memory.failures.remove(&container);
                self.memory.images.insert(container, image);
            }
            Done::Image { container, result: Err(missing) } => {
                let failure = self.failure(&format!("image/{container}"), missing.reason, missing.message);
                self.memory.failures.insert(container, failure);
            }
            Done::Start { container, result } => {
                self.memory.images.remove(&container);
                self.memory.failures.remove(&container);
                if let Err(refused) = result {
                    let mut failure =
                        self.failure(&format!("start/{container}"), refused.reason, refused.message);
                    if failure.of_start() {
                        // The back-off of what has run decides.
                        failure.retry_at = Some(failure.at);
                    }
                    self.memory.failures.insert(container, failure);
                }
                self.observe().await;
            }
            Done::Resize(Ok(())) => self.observe().await,
            Done::Resize(Err(message)) => {
                let id = job.as_ref().map(|job| format!("{job:?}")).unwrap_or_default();
                if let Some(job) = job {
                    self.pause(job, &id, message);
                }
            }
            Done::Stop(result) | Done::Remove(result) => {
                if let Err(error) = result {
                    tracing::warn!(pod = names::full(&self.pod), ?job, %error, "the runtime refuses");
                    self.look_again = Timestamp::now().checked_add(Duration::from_secs(1)).ok();
                }
                self.observe().await;
            }
            Done::TearDown { remove, result: Ok(()) } => {
                self.memory.torn = if remove { Torn::Removed } else { Torn::Stopped };
            }
            Done::TearDown { result: Err(message), .. } => self.pause(Job::TearDown, "teardown", message),
            Done::Delete(Ok(())) => self.memory.deleted = true,
            Done::Delete(Err(error)) => self.pause(Job::Delete, "delete", error.to_string()),
            Done::Status(written) => self.written(*written),
        }
    }

    /// Keeps a job that failed in hand until its next try is due.
    fn pause(&mut self, job: Job, key: &str, message: String) {
        let failure = self.failure(key, "Failed", message);
        tracing::warn!(pod = names::full(&self.pod), ?job, message = failure.message, "will be tried again");
        let wait = failure.retry_at.map(|at| at.duration_since(failure.at)).unwrap_or_default();
        let wait = Duration::try_from(wait).unwrap_or_default();
        self.memory.busy.insert(job.clone());
        self.jobs.spawn(async move {
            tokio::time::sleep(wait).await;
            (Some(job), Done::Remove(Ok(())))
        });
    }

    fn written(&mut self, written: kube::Result<Option<Pod>>) {
        self.writing = false;
        match written {
            Ok(Some(pod)) => {
                self.write_failures = None;
                // By now the watch may have told of a later state, or of another mirror.
                if !names::is_static(&self.pod) {
                    self.take_pod(Arc::new(pod));
                } else if self.mirror.as_ref().is_some_and(|known| known.metadata.uid == pod.metadata.uid) {
                    self.take_mirror(Arc::new(pod));
                }
            }
            // The pod is gone or another one by now; the watch will say so.
            Ok(None) => self.note_write_failure(),
            Err(error) => {
                tracing::warn!(pod = names::full(&self.pod), %error, "cannot write the status");
                self.note_write_failure();
            }
        }
    }

    fn note_write_failure(&mut self) {
        let now = Timestamp::now();
        let before = self.write_failures.as_ref().map(|(backoff, _)| backoff);
        let next = Backoff::next(before, now, now);
        tracing::debug!(delay = backoff::shown(next.delay()), "status will be written again");
        self.write_failures = Some((next, now));
    }
}
