//! A pod's status: a pure function of the pod, what the runtime holds and what the worker knows.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff;
use super::conditions;
use super::memory::Job;
use super::observed::{self, State};
use super::plan::View;
use super::qos;
use super::resize;
use super::spec::{self, Kind};
use crate::names;

/// How long a failure to pull is told by its own name before its back-off is.
pub const FAILURE_SHOWN: Duration = Duration::from_secs(2);

/// What a status says of the node.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Addresses of the node, the primary first.
    pub ips: Vec<String>,
    /// What containers' identifiers begin with: `containerd` in `containerd://…`.
    pub runtime: String,
}

/// See the module. Builds on the status the API holds, which others write to as well.
pub fn status(view: &View<'_>, host: &Host) -> PodStatus {
    let pod = view.pod;
    let before = pod.status.clone().unwrap_or_default();
    let mut status = PodStatus { observed_generation: pod.metadata.generation, ..before.clone() };
    status.start_time.get_or_insert(Time(whole_second(view.now)));
    status.qos_class.get_or_insert_with(|| qos::class(pod).to_owned());
    if let Some(primary) = host.ips.first() {
        status.host_ip = Some(primary.clone());
        status.host_ips = Some(host.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    }
    let ips = if names::host_network(pod) {
        host.ips.clone()
    } else {
        view.observed.sandboxes.first().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    if let Some(primary) = ips.first() {
        status.pod_ip = Some(primary.clone());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
    // Refused now, or before the kubelet started anew.
    let refused_it = view.memory.end.is_some() || before.phase.as_deref() == Some("Failed");
    if refused_it && view.observed.sandboxes.is_empty() && before.container_statuses.is_none() {
        return refused(view, status);
    }
    let builder = Builder { view, host, before: &before };
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let inits = spec::init_containers(pod);
    status.init_container_statuses = some(
        inits.iter().map(|container| builder.container(spec::init_kind(container), container)).collect(),
    );
    let mut mains: Vec<_> =
        spec::spec(pod).containers.iter().map(|container| builder.container(Kind::Main, container)).collect();
    mains.sort_by(|a, b| a.name.cmp(&b.name));
    status.container_statuses = some(mains);
    status.ephemeral_container_statuses = some(
        spec::ephemeral(pod)
            .iter()
            .map(|one| builder.container(Kind::Ephemeral, &spec::from_ephemeral(one)))
            .collect(),
    );
    let phase = phase(view, &status, before.phase.as_deref());
    if matches!(phase, "Succeeded" | "Failed") {
        end_all(inits.is_empty(), &mut status);
    }
    with_end(view, status, phase)
}

/// A pod that is over waits for nothing: what is not known to have ended is told as lost. Before the pod was
/// initialized its containers just never were.
fn end_all(no_inits: bool, status: &mut PodStatus) {
    let Some(mains) = &mut status.container_statuses else { return };
    let begun = |one: &ContainerStatus| {
        let last = one.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
        let now = one.state.as_ref().is_some_and(|now| now.running.is_some() || now.terminated.is_some());
        last || now
    };
    if !no_inits && !mains.iter().any(begun) {
        return;
    }
    for one in mains {
        let waits = one.state.as_ref().is_none_or(|state| state.waiting.is_some());
        if waits {
            let message = "The container could not be located when the pod was terminated";
            one.state = Some(lost(None, message));
            one.ready = false;
            one.started = Some(false);
        }
    }
}

/// The end of a container that nobody saw.
fn lost(id: Option<String>, message: &str) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: id,
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.into()),
        ..Default::default()
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

/// The status of a pod nothing of which was ever made.
fn refused(view: &View<'_>, status: PodStatus) -> PodStatus {
    with_end(view, status, "Failed")
}

/// The status with its phase, the reason where the kubelet ended the pod, and the conditions that follow.
fn with_end(view: &View<'_>, mut status: PodStatus, phase: &'static str) -> PodStatus {
    if let Some(end) = &view.memory.end {
        status.reason = Some(end.reason.clone());
        status.message = Some(end.message.clone());
    }
    status.phase = Some(phase.to_owned());
    status.conditions = Some(conditions::all(view, &status, phase));
    status
}

pub fn whole_second(at: k8s_openapi::jiff::Timestamp) -> k8s_openapi::jiff::Timestamp {
    k8s_openapi::jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The status of the container of this name, of whatever kind.
pub fn find<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

struct Builder<'a> {
    view: &'a View<'a>,
    host: &'a Host,
    before: &'a PodStatus,
}

impl Builder<'_> {
    fn container(&self, kind: Kind, container: &Container) -> ContainerStatus {
        let Some(latest) = self.view.observed.latest(&container.name) else {
            return self.unseen(kind, container);
        };
        let memory = self.view.memory;
        let before = find(self.before, &container.name);
        let mut status = self.blank(container);
        status.restart_count = i32::try_from(latest.restart_count).unwrap_or(i32::MAX);
        if !latest.image.is_empty() && !latest.image.starts_with("sha256:") {
            status.image.clone_from(&latest.image);
        }
        status.image_id.clone_from(&latest.image_id);
        status.container_id = Some(self.id(latest));
        status.user = latest.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()),
            }),
        });
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.clone());
        status.allocated_resources = requests;
        let running = (latest.state == State::Running).then_some(latest);
        status.resources = Some(resize::actual(self.view.pod, container, running, before));
        let previous = || {
            let seen = self.view.observed.previous(&container.name);
            let seen = seen.filter(|one| one.state == State::Exited).map(|one| self.terminated(one));
            seen.or_else(|| before.and_then(|before| before.last_state.clone()))
        };
        match latest.state {
            // It waits for its hook: nobody is to take it for one that serves.
            State::Running if self.view.memory.in_hook(container) => {
                status.state = Some(self.creating(kind));
                status.last_state = Some(previous().unwrap_or_default());
                status.started = Some(false);
            }
            State::Running => {
                let started_at = observed::time(latest.started_at).map(Time);
                let running = Some(ContainerStateRunning { started_at });
                status.state = Some(ContainerState { running, ..Default::default() });
                status.last_state = Some(previous().unwrap_or_default());
                let started = memory.started(container, latest);
                status.started = Some(started);
                status.ready = match kind {
                    Kind::Init | Kind::Ephemeral => false,
                    Kind::Sidecar | Kind::Main => memory.ready(container, latest),
                };
            }
            State::Exited => {
                let dead = self.terminated(latest);
                match self.waiting(kind, container, latest) {
                    Some(waiting) => {
                        status.state = Some(waiting);
                        status.last_state = Some(dead);
                    }
                    None => {
                        status.state = Some(dead);
                        status.last_state = Some(previous().unwrap_or_default());
                    }
                }
                status.ready = kind == Kind::Init && latest.exit_code == 0;
                status.started = Some(false);
            }
            State::Created | State::Unknown => {
                status.state = Some(self.failure(container).unwrap_or_else(|| self.creating(kind)));
                status.last_state = Some(previous().unwrap_or_default());
                status.started = Some(false);
            }
        }
        status
    }

    /// A container the runtime does not have: not made yet, or lost.
    fn unseen(&self, kind: Kind, container: &Container) -> ContainerStatus {
        let mut status = self.blank(container);
        status.started = (kind != Kind::Ephemeral).then_some(false);
        status.state = Some(self.failure(container).unwrap_or_else(|| self.creating(kind)));
        status.last_state = Some(ContainerState::default());
        let Some(before) = find(self.before, &container.name) else { return status };
        let state = before.state.clone().unwrap_or_default();
        if state.terminated.is_some() {
            return before.clone();
        }
        if let Some(id) = before.container_id.as_ref().filter(|_| state.running.is_some()) {
            let message = "The container could not be located when the pod was deleted.  The container used to be Running";
            let lost = lost(Some(id.clone()), message);
            // What runs once, and what ends, has come to its end; the rest runs again.
            if self.view.ending() || kind == Kind::Ephemeral {
                return ContainerStatus {
                    state: Some(lost),
                    ready: false,
                    started: Some(false),
                    ..before.clone()
                };
            }
            status.last_state = Some(lost);
            status.restart_count = before.restart_count + 1;
        } else {
            // One that waited to run again: that is its next run.
            let again = before.container_id.is_some() && !self.view.ending();
            status.last_state.clone_from(&before.last_state);
            status.restart_count = before.restart_count + i32::from(again);
        }
        status
    }

    fn blank(&self, container: &Container) -> ContainerStatus {
        let mounts = container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: mount
                .read_only
                .filter(|read_only| *read_only)
                .map(|_| mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".into())),
            ..Default::default()
        });
        let mounts: Vec<_> = mounts.collect();
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            volume_mounts: (!mounts.is_empty()).then_some(mounts),
            ..Default::default()
        }
    }

    fn id(&self, one: &observed::Container) -> String {
        format!("{}://{}", self.host.runtime, one.id)
    }

    fn terminated(&self, one: &observed::Container) -> ContainerState {
        let reason = match (one.reason.as_str(), one.exit_code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (reason, _) => reason,
        };
        let terminated = ContainerStateTerminated {
            container_id: Some(self.id(one)),
            exit_code: one.exit_code,
            finished_at: observed::time(one.finished_at).map(Time),
            message: (!one.message.is_empty()).then(|| one.message.clone()),
            reason: Some(reason.to_owned()),
            signal: None,
            // What never ran began at the epoch, as upstream tells it.
            started_at: Some(Time(observed::time(one.started_at).unwrap_or_default())),
        };
        ContainerState { terminated: Some(terminated), ..Default::default() }
    }

    /// What a container waits for before it is made.
    fn creating(&self, kind: Kind) -> ContainerState {
        let has_init = !spec::init_containers(self.view.pod).is_empty();
        let reason =
            if has_init && kind != Kind::Ephemeral { "PodInitializing" } else { "ContainerCreating" };
        waiting(reason, None)
    }

    /// The failure that keeps a container from starting.
    fn failure(&self, container: &Container) -> Option<ContainerState> {
        let memory = self.view.memory;
        let failed = memory.failures.get(&container.name)?;
        let shown = failed.at.checked_add(FAILURE_SHOWN).is_ok_and(|until| until <= self.view.now);
        if failed.reason == "ErrImagePull" && shown {
            let image = container.image.as_deref().unwrap_or_default();
            let message = format!("Back-off pulling image {image:?}: ErrImagePull: {}", failed.message);
            return Some(waiting("ImagePullBackOff", Some(message)));
        }
        if shown && failed.of_start() {
            return None;
        }
        Some(waiting(failed.reason, Some(failed.message.clone())))
    }

    /// Why a container that has exited waits to run again; `None` where it does not, or not yet.
    fn waiting(
        &self,
        kind: Kind,
        container: &Container,
        one: &observed::Container,
    ) -> Option<ContainerState> {
        let view = self.view;
        if view.ending() || !spec::restarts(view.pod, container, kind, one.exit_code) {
            return None;
        }
        if let Some(failure) = self.failure(container) {
            return Some(failure);
        }
        if view.memory.busy.contains(&Job::Start(container.name.clone())) {
            // It waits no more; what was told stays told until it runs.
            let told = find(self.before, &container.name)?.state.clone()?;
            return told.waiting.is_some().then_some(told);
        }
        let backoff = view.memory.backoffs.get(&container.name)?;
        let failed = observed::time(one.finished_at)?;
        backoff.until(failed, view.now)?;
        let delay = backoff::shown(backoff.delay());
        let pod = names::full(view.pod);
        let message = format!("back-off {delay} restarting failed container={} pod={pod}", container.name);
        Some(waiting("CrashLoopBackOff", Some(message)))
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// How a container's state counts.
enum Counted {
    Missing,
    Running {
        started: bool,
    },
    Waiting,
    /// Has run; exit code of its last run.
    Stopped(i32),
}

fn count(status: &PodStatus, name: &str) -> Counted {
    let Some(found) = find(status, name) else { return Counted::Missing };
    let state = found.state.as_ref();
    let ended = |state: Option<&ContainerState>| {
        state.and_then(|state| state.terminated.as_ref()).map(|t| t.exit_code)
    };
    if state.is_some_and(|state| state.running.is_some()) {
        return Counted::Running { started: found.started == Some(true) };
    }
    match ended(state).or_else(|| ended(found.last_state.as_ref())) {
        Some(code) => Counted::Stopped(code),
        None => Counted::Waiting,
    }
}

/// The pod's phase. One that is terminal is kept, and not told while anything still runs.
fn phase(view: &View<'_>, status: &PodStatus, before: Option<&str>) -> &'static str {
    match before {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let computed = if view.memory.end.is_some() { "Failed" } else { by_containers(view, status) };
    let runs = view.observed.running().next().is_some();
    match computed {
        "Succeeded" | "Failed" if runs => match before {
            Some("Pending") | None => "Pending",
            _ => "Running",
        },
        computed => computed,
    }
}

fn by_containers(view: &View<'_>, status: &PodStatus) -> &'static str {
    let pod = view.pod;
    let (mut pending_init, mut failed_init) = (0, 0);
    let (mut unknown, mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0, 0);
    for container in spec::init_containers(pod) {
        match (spec::is_sidecar(container), count(status, &container.name)) {
            (false, Counted::Stopped(0)) | (true, Counted::Stopped(_)) => {}
            (false, Counted::Stopped(_)) => failed_init += 1,
            (false, _) => pending_init += 1,
            (true, Counted::Missing) => unknown += 1,
            (true, Counted::Running { started }) => {
                running += 1;
                pending_init += i32::from(!started);
            }
            (true, Counted::Waiting) => {
                pending_init += 1;
                waiting += 1;
            }
        }
    }
    for container in &spec::spec(pod).containers {
        match count(status, &container.name) {
            Counted::Missing => unknown += 1,
            Counted::Running { .. } => running += 1,
            Counted::Waiting => waiting += 1,
            Counted::Stopped(code) => {
                stopped += 1;
                succeeded += i32::from(code == 0);
            }
        }
    }
    let restart = spec::restart(pod);
    if failed_init > 0 && restart == spec::Restart::Never {
        return "Failed";
    }
    let begun = spec::spec(pod).containers.iter().any(|one| view.observed.latest(&one.name).is_some());
    if ((pending_init > 0 || failed_init > 0) && !begun) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let again = spec::spec(pod).containers.iter().any(|container| {
            let code = match count(status, &container.name) {
                Counted::Stopped(code) => code,
                _ => return false,
            };
            spec::restarts(pod, container, Kind::Main, code)
        });
        return match (view.ending(), again, stopped == succeeded) {
            (false, true, _) => "Running",
            (_, _, true) => "Succeeded",
            (_, _, false) => "Failed",
        };
    }
    "Pending"
}
