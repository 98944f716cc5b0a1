//! The conditions of a Job.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> JobCondition {
    JobCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn find<'a>(list: &'a [JobCondition], type_: &str) -> Option<&'a JobCondition> {
    list.iter().find(|condition| condition.type_ == type_)
}

pub(super) fn is_true(condition: &JobCondition) -> bool {
    condition.status == "True"
}

/// Sets a condition; whether that changed anything. One that was never there need not be told to be
/// false.
pub(super) fn ensure(list: &mut Vec<JobCondition>, new: JobCondition) -> bool {
    let Some(old) = list.iter_mut().find(|old| old.type_ == new.type_) else {
        let tell = new.status != "False";
        list.extend(tell.then_some(new));
        return tell;
    };
    if old.status == new.status && old.reason == new.reason && old.message == new.message {
        return false;
    }
    *old = new;
    true
}

/// The condition that ended a Job.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let list = job.status.as_ref()?.conditions.as_ref()?;
    list.iter()
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && is_true(condition))
}
