//! What a CronJob needs next.

use std::sync::Arc;
use std::time::Duration;

use api::cron::Schedule;
use client::events::{Severity, reference};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;

use crate::job;
use crate::ownership::controller_ref;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told of: the clock may be wrong.
const MANY_MISSED: usize = 100;
/// Looked at a little after the time, so that it has come for sure.
const LATER: Duration = Duration::from_millis(100);

pub(super) type Told = (Severity, &'static str, String);

/// What there is to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Jobs that ended, more than are kept.
    pub delete: Vec<Arc<Job>>,
    /// Jobs that the new one replaces.
    pub replace: Vec<Arc<Job>>,
    /// The Job that is due, and the time it is due for.
    pub create: Option<(Job, Timestamp)>,
    /// The status before any of it.
    pub status: CronJobStatus,
    pub events: Vec<Told>,
    pub again: Option<Duration>,
}

/// `jobs` are those that the CronJob controls.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    plan.follow(jobs);
    plan.delete = surplus(spec, jobs);
    if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    let zone = match zone(spec) {
        Ok(zone) => zone,
        Err(why) => {
            plan.warn("UnknownTimeZone", why);
            return plan;
        }
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            plan.warn("UnparseableSchedule", format!("unparseable schedule: {:?} : {why}", spec.schedule));
            return plan;
        }
    };
    let next = schedule.next(now, &zone);
    plan.again = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok()).map(|d| d + LATER);
    if let Some(due) = plan.due(cron, spec, &schedule, &zone, now) {
        plan.start(cron, spec, jobs, due, &zone);
    }
    plan
}

fn uid(job: &Job) -> &str {
    job.metadata.uid.as_deref().unwrap_or_default()
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

fn zone(spec: &CronJobSpec) -> Result<TimeZone, String> {
    let Some(name) = spec.time_zone.as_deref() else { return Ok(TimeZone::system()) };
    TimeZone::get(name).map_err(|error| format!("invalid timeZone: {name:?}: {error}"))
}

/// Jobs that ended beyond the history limits, the oldest of each kind.
fn surplus(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut surplus = Vec::new();
    for (outcome, limit) in
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let ended = jobs.iter().filter(|job| job::finished(job).is_some_and(|c| c.type_ == outcome));
        let mut ended: Vec<_> = ended.cloned().collect();
        let started = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone());
        ended.sort_by_cached_key(|job| (started(job), job.metadata.name.clone()));
        ended.truncate(ended.len().saturating_sub(limit));
        surplus.extend(ended);
    }
    surplus
}

impl Plan {
    fn warn(&mut self, reason: &'static str, message: String) {
        self.events.push((Severity::Warning, reason, message));
    }

    fn tell(&mut self, reason: &'static str, message: String) {
        self.events.push((Severity::Normal, reason, message));
    }

    /// Takes note of Jobs that ended or went missing.
    fn follow(&mut self, jobs: &[Arc<Job>]) {
        let mut active = self.status.active.take().unwrap_or_default();
        for job in jobs {
            let listed = active.iter().any(|r| r.uid.as_deref() == Some(uid(job)));
            let ended = job::finished(job);
            match ended {
                None if !listed => {
                    let message = "Saw a job that the controller did not create or forgot: ";
                    self.warn("UnexpectedJob", format!("{message}{}", name(job)));
                }
                Some(ended) if listed => {
                    active.retain(|r| r.uid.as_deref() != Some(uid(job)));
                    let message = format!("Saw completed job: {}, condition: {}", name(job), ended.type_);
                    self.tell("SawCompletedJob", message);
                }
                _ => {}
            }
            if ended.is_some_and(|ended| ended.type_ == "Complete") {
                let at = job.status.as_ref().and_then(|status| status.completion_time.clone());
                if at > self.status.last_successful_time {
                    self.status.last_successful_time = at;
                }
            }
        }
        let known = |r: &k8s_openapi::api::core::v1::ObjectReference| {
            jobs.iter().any(|job| r.uid.as_deref() == Some(uid(job)))
        };
        for missing in active.iter().filter(|r| !known(r)) {
            let name = missing.name.clone().unwrap_or_default();
            self.events.push((Severity::Normal, "MissingJob", format!("Active job went missing: {name}")));
        }
        active.retain(known);
        self.status.active = Some(active).filter(|active| !active.is_empty());
    }

    /// The latest time that has come and was not seen to, unless it is too late for it.
    fn due(
        &mut self,
        cron: &CronJob,
        spec: &CronJobSpec,
        schedule: &Schedule,
        zone: &TimeZone,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let last = self.status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
        let mut earliest = last.map_or(now, |time| time.0);
        let patience = spec.starting_deadline_seconds.map(jiff::SignedDuration::from_secs);
        if let Some(limit) = patience.and_then(|patience| now.checked_sub(patience).ok()) {
            earliest = earliest.max(limit);
        }
        let (mut due, mut missed) = (None, 0usize);
        let mut next = schedule.next(earliest, zone)?;
        while next <= now {
            missed += 1;
            // The rest is found from near the end: what lies between is of no interest.
            if missed == MANY_MISSED {
                let gap = schedule.next(next, zone)?.duration_since(next);
                let near = now.checked_sub(gap.checked_mul(3)?).ok().filter(|near| *near > next);
                next = near
                    .and_then(|near| schedule.next(near, zone))
                    .filter(|found| *found <= now)
                    .unwrap_or(next);
            }
            due = Some(next);
            next = schedule.next(next, zone)?;
        }
        if missed > MANY_MISSED {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or \
                           check clock skew";
            self.warn("TooManyMissedTimes", message.into());
        }
        due
    }

    /// Plans the Job for a time, as the concurrency policy allows.
    fn start(
        &mut self,
        cron: &CronJob,
        spec: &CronJobSpec,
        jobs: &[Arc<Job>],
        due: Timestamp,
        zone: &TimeZone,
    ) {
        let new = job_for(cron, spec, due, zone);
        let active = self.status.active.clone().unwrap_or_default();
        let seen_to = self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due)
            || active.iter().any(|r| r.name == new.metadata.name);
        if seen_to {
            return;
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.tell("JobAlreadyActive", message.into());
            }
            Some("Replace") => {
                let listed = |job: &&Arc<Job>| active.iter().any(|r| r.uid.as_deref() == Some(uid(job)));
                self.replace = jobs.iter().filter(listed).cloned().collect();
            }
            _ => {}
        }
        self.create = Some((new, due));
    }
}

/// The Job of a time. Its name tells the time, so that none is made twice.
fn job_for(cron: &CronJob, spec: &CronJobSpec, due: Timestamp, zone: &TimeZone) -> Job {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let shown = due.to_zoned(zone.clone());
    let shown = match shown.offset().seconds() {
        0 => shown.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        _ => shown.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    annotations.insert(SCHEDULED.into(), shown);
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// Notes a Job as active.
pub(super) fn note_active(status: &mut CronJobStatus, job: &Job, due: Timestamp) {
    status.active.get_or_insert_default().push(reference(job));
    status.last_schedule_time = Some(Time(due));
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
