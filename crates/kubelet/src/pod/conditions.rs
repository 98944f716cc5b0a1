//! A pod's conditions, in upstream's order and words.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::State;
use super::plan::View;
use super::resize;
use super::spec::{self, Kind};
use super::status;

/// The conditions the kubelet owns.
pub const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The conditions the kubelet sets only while they hold.
pub const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Whether the kubelet sets this condition.
pub fn is_own(type_: &str) -> bool {
    OWNED.contains(&type_) || PASSING.contains(&type_)
}

/// All conditions of the pod: the kubelet's own, then those of others as they are.
pub fn all(view: &View<'_>, status: &PodStatus, phase: &str) -> Vec<PodCondition> {
    let before = view.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let ready = containers_ready(view, status, phase);
    let gates = pod_ready(view, &before, &ready);
    let verdicts = [
        Verdict::of(view.sandbox().is_some()),
        initialized(view, status, phase),
        gates,
        ready,
        Verdict::of(true),
    ];
    let now = Time(status::whole_second(view.now));
    let mut all: Vec<PodCondition> = OWNED
        .iter()
        .zip(verdicts)
        .map(|(type_, verdict)| {
            let status = if verdict.is { "True" } else { "False" };
            let old = before.iter().find(|old| old.type_ == *type_);
            let since =
                old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
            PodCondition {
                type_: (*type_).to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.map(str::to_owned),
                message: verdict.message,
                observed_generation: view.pod.metadata.generation,
                last_probe_time: None,
                last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            }
        })
        .collect();
    all.extend(passing(view, &before, &now));
    all.extend(before.into_iter().filter(|old| !is_own(&old.type_)));
    all
}

/// What a resize waits for.
fn passing(view: &View<'_>, before: &[PodCondition], now: &Time) -> Vec<PodCondition> {
    let mut held = Vec::new();
    if let Some(pending) = &view.memory.resize {
        held.push(("PodResizePending", Some(pending.reason.to_owned()), Some(pending.message.clone())));
    }
    let under_way = spec::containers(view.pod).any(|(_, container)| {
        let running = view.observed.latest(&container.name).filter(|one| one.state == State::Running);
        running.is_some_and(|one| resize::change(view.pod, container, one) != resize::Change::None)
    });
    if under_way && !view.ending() {
        held.push(("PodResizeInProgress", None, None));
    }
    let since = |type_: &str| {
        let old = before.iter().find(|old| old.type_ == type_);
        old.and_then(|old| old.last_transition_time.clone()).unwrap_or_else(|| now.clone())
    };
    held.into_iter()
        .map(|(type_, reason, message)| PodCondition {
            type_: type_.to_owned(),
            status: "True".into(),
            reason,
            message,
            observed_generation: view.pod.metadata.generation,
            last_probe_time: None,
            last_transition_time: Some(since(type_)),
        })
        .collect()
}

struct Verdict {
    is: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn of(is: bool) -> Verdict {
        Verdict { is, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Verdict {
        Verdict { is: false, reason: Some(reason), message }
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(view: &View<'_>, status: &PodStatus, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let unready: Vec<&str> = spec::containers(view.pod)
        .filter(|(kind, _)| *kind != Kind::Init)
        .map(|(_, container)| container.name.as_str())
        .filter(|name| !status::find(status, name).is_some_and(|status| status.ready))
        .collect();
    if unready.is_empty() {
        return Verdict::of(true);
    }
    let message = format!("containers with unready status: {}", list(&unready));
    Verdict::no("ContainersNotReady", Some(message))
}

fn pod_ready(view: &View<'_>, conditions: &[PodCondition], ready: &Verdict) -> Verdict {
    if !ready.is {
        return Verdict { is: false, reason: ready.reason, message: ready.message.clone() };
    }
    let mut messages = Vec::new();
    for gate in spec::spec(view.pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match conditions.iter().find(|condition| condition.type_ == *name) {
            None => messages
                .push(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
            Some(one) if one.status != "True" => messages.push(format!(
                "the status of pod readiness gate {name:?} is not \"True\", but {}",
                one.status
            )),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        return Verdict::of(true);
    }
    Verdict::no("ReadinessGatesNotReady", Some(messages.join(", ")))
}

fn initialized(view: &View<'_>, status: &PodStatus, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { is: true, reason: Some("PodCompleted"), message: None };
    }
    let begun = |found: &ContainerStatus| {
        let ran = |state: &Option<_>| {
            state.as_ref().is_some_and(|state: &k8s_openapi::api::core::v1::ContainerState| {
                state.running.is_some() || state.terminated.is_some()
            })
        };
        ran(&found.state) || ran(&found.last_state)
    };
    if status.container_statuses.iter().flatten().any(begun) {
        return Verdict::of(true);
    }
    let incomplete: Vec<&str> = spec::init_containers(view.pod)
        .iter()
        .filter(|container| {
            let found = status::find(status, &container.name);
            let done = |found: &ContainerStatus| match spec::init_kind(container) {
                Kind::Sidecar => found.started == Some(true),
                _ => found.ready,
            };
            !found.is_some_and(done)
        })
        .map(|container| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::of(true);
    }
    let message = format!("containers with incomplete status: {}", list(&incomplete));
    Verdict::no("ContainersNotInitialized", Some(message))
}
