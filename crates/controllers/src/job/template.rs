//! The pods a Job makes.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::TRACKING;
use super::indexes::Indexes;
use super::policy::{self, Verdict};
use crate::ownership::controller_ref;
use crate::pod_control::pod_from;

pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const ENVIRONMENT: &str = "JOB_COMPLETION_INDEX";
/// The longest `generateName` whose names are within 63 characters.
const GENERATED_NAME: usize = 58;

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn number(pod: &Pod, key: &str) -> i32 {
    annotation(pod, key).and_then(|text| text.parse().ok()).filter(|n| *n >= 0).unwrap_or_default()
}

/// The completion index of a pod.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// How often the index of a pod had failed when the pod was made.
pub(super) fn failures(pod: &Pod) -> i32 {
    number(pod, FAILURES)
}

/// As [`failures`], with those that were ignored.
pub(super) fn all_failures(pod: &Pod) -> i32 {
    number(pod, FAILURES).saturating_add(number(pod, IGNORED_FAILURES))
}

/// A pod for a Job whose completions are all alike.
pub(super) fn pod(job: &Job) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let mut pod = pod_from(template, controller_ref(job), name);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.into());
    }
    pod
}

/// A pod for one index; `replaced` is the one that failed before it, where failures are counted by
/// index.
pub(super) fn indexed_pod(job: &Job, index: i32, replaced: Option<&Pod>) -> Pod {
    let mut pod = pod(job);
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let suffix = format!("-{index}-");
    let stem: String = name.chars().take(GENERATED_NAME - suffix.len()).collect();
    pod.metadata.generate_name = Some(format!("{stem}{suffix}"));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if let Some(spec) = job.spec.as_ref().filter(|spec| spec.backoff_limit_per_index.is_some()) {
        let (mut counted, mut ignored) = (0, 0);
        if let Some(replaced) = replaced {
            (counted, ignored) = (failures(replaced), number(replaced, IGNORED_FAILURES));
            match policy::verdict(spec, replaced) {
                Verdict::Ignore => ignored += 1,
                _ => counted += 1,
            }
        }
        annotations.insert(FAILURES.into(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.into(), ignored.to_string());
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let init = spec.init_containers.iter_mut().flatten();
        spec.containers.iter_mut().chain(init).for_each(add_environment);
    }
    pod
}

fn add_environment(container: &mut Container) {
    let environment = container.env.get_or_insert_default();
    if environment.iter().any(|variable| variable.name == ENVIRONMENT) {
        return;
    }
    let field_path = format!("metadata.labels['{INDEX}']");
    let field_ref = ObjectFieldSelector { api_version: None, field_path };
    environment.push(EnvVar {
        name: ENVIRONMENT.into(),
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() }),
        value: None,
    });
}

/// The indexes of pods that have a valid one.
pub(super) fn indexes<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Indexes {
    Indexes::default().with(&pods.into_iter().filter_map(index).collect())
}
