//! What to do next for a pod: a pure function of what is wanted and what is there.
//!
//! Called again after every change; it names only work that is not in hand yet, and the time at which it
//! would say something new by itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::memory::{Job, Memory, Torn};
use super::observed::{self, Observed, State};
use super::resize;
use super::spec::{self, Kind};
use crate::names;

/// What is known.
pub struct View<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub now: Timestamp,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    SetUpVolumes,
    /// Makes sandbox number `attempt`, after giving back what is left of `stop`.
    RunSandbox {
        attempt: u32,
        stop: Option<String>,
    },
    EnsureImage {
        container: String,
    },
    Start {
        container: String,
        attempt: u32,
        sandbox: String,
    },
    Stop {
        id: String,
        container: String,
        why: String,
        grace: Duration,
        by: Timestamp,
    },
    /// Gives a running container what it was granted.
    Resize {
        id: String,
        container: String,
    },
    /// Gives back what the pod holds; with `remove`, everything.
    TearDown {
        remove: bool,
    },
    /// Tells the API that the pod is gone.
    Delete,
    /// Tells that a container waits before its next try.
    ReportBackOff {
        container: String,
        attempt: u32,
    },
    /// Tells that an image waits before its next try, after the failure at `failed`.
    ReportPullBackOff {
        container: String,
        failed: Timestamp,
    },
    /// Removes a dead container that nobody needs any more.
    RemoveContainer {
        id: String,
    },
}

impl Action {
    /// What is in hand while the action runs; none for what is done at once.
    pub fn job(&self) -> Option<Job> {
        Some(match self {
            Action::SetUpVolumes => Job::Volumes,
            Action::RunSandbox { .. } => Job::Sandbox,
            Action::EnsureImage { container } => Job::Image(container.clone()),
            Action::Start { container, .. } => Job::Start(container.clone()),
            Action::Stop { id, by, .. } => Job::Stop(id.clone(), *by),
            Action::Resize { id, .. } => Job::Resize(id.clone()),
            Action::TearDown { .. } => Job::TearDown,
            Action::Delete => Job::Delete,
            Action::RemoveContainer { id } => Job::Remove(id.clone()),
            Action::ReportBackOff { .. } | Action::ReportPullBackOff { .. } => return None,
        })
    }
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

impl View<'_> {
    /// Whether the pod is on its way out, by anybody's wish.
    pub fn ending(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some() || self.memory.gone || self.memory.end.is_some()
    }

    /// The sandbox that containers can be started in.
    pub fn sandbox(&self) -> Option<&observed::Sandbox> {
        let newest = self.observed.sandboxes.first()?;
        let connected = names::host_network(self.pod) || !newest.ips.is_empty();
        (newest.ready && connected).then_some(newest)
    }

    /// Whether the pod has run its course: nothing of it will be started again.
    pub fn finished(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return true;
        }
        let over = |kind, container: &Container| {
            self.observed
                .latest(&container.name)
                .filter(|one| one.state == State::Exited)
                .map(|one| (!spec::restarts(self.pod, container, kind, one.exit_code), one.exit_code))
        };
        let failed_init = spec::containers(self.pod)
            .filter(|(kind, _)| *kind == Kind::Init)
            .any(|(kind, container)| matches!(over(kind, container), Some((true, code)) if code != 0));
        let mut mains = spec::spec(self.pod).containers.iter().peekable();
        failed_init
            || (mains.peek().is_some()
                && mains.all(|container| matches!(over(Kind::Main, container), Some((true, _)))))
    }
}

/// See the module.
pub fn plan(view: &View<'_>) -> Plan {
    let mut planner = Planner { view, plan: Plan::default() };
    if view.ending() {
        planner.end();
    } else if view.finished() {
        planner.finish();
    } else {
        planner.deadline();
        planner.run();
        planner.prune();
    }
    planner.plan.actions.retain(|action| action.job().is_none_or(|job| !view.memory.busy.contains(&job)));
    planner.plan
}

/// Whether a status is that of a container that runs or has run. Once its restart is counted, and nothing is
/// left of it, it is not.
fn has_run(status: &ContainerStatus) -> bool {
    let ended = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    status.container_id.is_some() || ended
}

struct Planner<'a> {
    view: &'a View<'a>,
    plan: Plan,
}

impl Planner<'_> {
    fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |before| before.min(at)));
    }

    /// Whether a failure's time to try again has come; asks to be woken for it otherwise.
    fn due(&mut self, retry_at: Option<Timestamp>) -> bool {
        match retry_at {
            Some(at) if at <= self.view.now => true,
            Some(at) => {
                self.wake(at);
                false
            }
            None => false,
        }
    }

    fn deadline(&mut self) {
        let status = self.view.pod.status.as_ref();
        let started = status.and_then(|status| status.start_time.as_ref());
        if let (Some(started), Some(seconds)) = (started, spec::spec(self.view.pod).active_deadline_seconds)
            && let Ok(at) = started.0.checked_add(Duration::from_secs(seconds.unsigned_abs()))
        {
            self.wake(at);
        }
    }

    fn run(&mut self) {
        let view = self.view;
        let usable = view.sandbox().map(|sandbox| sandbox.id.clone());
        let Some(sandbox) = usable else { return self.make_ready() };
        for one in view.observed.running().filter(|one| one.sandbox != sandbox) {
            self.stop(one, format!("Stopping container {}", one.name), spec::grace(view.pod));
        }
        self.volumes();
        let initialized = spec::spec(view.pod)
            .containers
            .iter()
            .any(|container| view.observed.latest_in(&sandbox, &container.name).is_some());
        for container in spec::ephemeral(view.pod) {
            // Each runs once, also where the runtime has forgotten of it.
            if view.observed.latest(&container.name).is_none() && !self.has_run(&container.name) {
                self.start(&spec::from_ephemeral(container), Kind::Ephemeral, &sandbox);
            }
        }
        for container in spec::init_containers(view.pod) {
            if !self.init(container, initialized, &sandbox) {
                return;
            }
        }
        for container in &spec::spec(view.pod).containers {
            self.container(container, Kind::Main, &sandbox);
        }
    }

    /// No sandbox is usable: makes one once there are volumes, with all that can be done beside it.
    fn make_ready(&mut self) {
        let view = self.view;
        let mut stopping = false;
        for one in view.observed.running() {
            stopping = true;
            self.stop(one, format!("Stopping container {}", one.name), spec::grace(view.pod));
        }
        if stopping || view.memory.busy.contains(&Job::Sandbox) {
            return;
        }
        // A pod whose volumes cannot be had gets no address and pulls nothing.
        self.volumes();
        if !view.memory.volumes_ready {
            return;
        }
        if let Some((_, first)) = spec::containers(view.pod).next() {
            let inits = spec::init_containers(view.pod).is_empty();
            if inits {
                for container in &spec::spec(view.pod).containers {
                    self.image(&container.name);
                }
            } else {
                self.image(&first.name);
            }
        }
        if let Some(failed) = &view.memory.sandbox_failed
            && !self.due(failed.retry_at)
        {
            return;
        }
        let newest = view.observed.sandboxes.first();
        self.act(Action::RunSandbox {
            attempt: newest.map_or(0, |sandbox| sandbox.attempt + 1),
            stop: newest.map(|sandbox| sandbox.id.clone()),
        });
    }

    fn volumes(&mut self) {
        if self.view.memory.volumes_ready {
            return;
        }
        if let Some(failed) = &self.view.memory.volumes_failed
            && !self.due(failed.retry_at)
        {
            return;
        }
        self.act(Action::SetUpVolumes);
    }

    /// Asks for a container's image; whether it is there.
    fn image(&mut self, container: &str) -> bool {
        if self.view.memory.images.contains_key(container) {
            return true;
        }
        if let Some(failed) = self.view.memory.failures.get(container) {
            // The waiting reason changes from the failure to its back-off a moment later.
            let shown = failed.at.checked_add(super::status::FAILURE_SHOWN).unwrap_or(failed.at);
            if shown > self.view.now {
                self.wake(shown);
            }
            if !self.due(failed.retry_at) {
                if failed.reason == "ErrImagePull" && shown <= self.view.now {
                    let container = container.to_owned();
                    self.act(Action::ReportPullBackOff { container, failed: failed.at });
                }
                return false;
            }
        }
        self.act(Action::EnsureImage { container: container.to_owned() });
        false
    }

    /// Brings an init container forward; whether those after it may start.
    fn init(&mut self, container: &Container, initialized: bool, sandbox: &str) -> bool {
        let kind = spec::init_kind(container);
        let latest = self.view.observed.latest_in(sandbox, &container.name);
        if kind == Kind::Sidecar {
            self.container(container, kind, sandbox);
            let up = latest.filter(|one| one.state == State::Running);
            return initialized || up.is_some_and(|one| self.view.memory.started(container, one));
        }
        if initialized {
            return true;
        }
        match latest {
            Some(one) if one.state == State::Exited && one.exit_code == 0 => true,
            Some(one) if one.state == State::Running => {
                self.resize(container, one);
                false
            }
            _ => {
                self.container(container, kind, sandbox);
                false
            }
        }
    }

    /// Starts, restarts or stops one container as its state asks for.
    fn container(&mut self, container: &Container, kind: Kind, sandbox: &str) {
        let view = self.view;
        // A sidecar or init container of an earlier sandbox runs anew in this one.
        let latest = match kind {
            Kind::Main => view.observed.latest(&container.name),
            _ => view.observed.latest_in(sandbox, &container.name),
        };
        let Some(one) = latest else { return self.start(container, kind, sandbox) };
        match one.state {
            State::Running if one.sandbox == sandbox => self.check_running(container, one),
            State::Running => {}
            State::Exited => {
                if spec::restarts(view.pod, container, kind, one.exit_code) && self.backed_off(container, one)
                {
                    self.start(container, kind, sandbox);
                }
            }
            State::Unknown => {
                let why =
                    format!("Container {} is in unknown state, try killing it before restart", one.name);
                self.stop(one, why, spec::grace(view.pod));
            }
            State::Created => {
                if !view.memory.busy.contains(&Job::Start(container.name.clone())) {
                    self.start(container, kind, sandbox);
                }
            }
        }
    }

    fn check_running(&mut self, container: &Container, one: &observed::Container) {
        let probed = self.view.memory.probed(&one.id);
        if !one.hash.is_empty() && one.hash != names::hash(container) {
            let why = format!("Container {} definition changed, will be restarted", one.name);
            self.stop(one, why, spec::grace(self.view.pod));
        } else if let Some(dead) = probed.dead {
            let why = format!("Container {} failed {} probe, will be restarted", one.name, dead.probe);
            self.stop(one, why, dead.grace.unwrap_or_else(|| spec::grace(self.view.pod)));
        } else {
            self.resize(container, one);
        }
    }

    /// Gives a running container what it was granted.
    fn resize(&mut self, container: &Container, one: &observed::Container) {
        match resize::change(self.view.pod, container, one) {
            resize::Change::None => {}
            resize::Change::InPlace => {
                self.act(Action::Resize { id: one.id.clone(), container: one.name.clone() });
            }
            resize::Change::Restart => {
                let why = format!("Container {} resize requires restart", one.name);
                self.stop(one, why, spec::grace(self.view.pod));
            }
        }
    }

    /// Whether a container that has exited may run again now.
    fn backed_off(&mut self, container: &Container, one: &observed::Container) -> bool {
        // What it waits is counted from the start that is in hand.
        if self.view.memory.busy.contains(&Job::Start(container.name.clone())) {
            return false;
        }
        let failed = observed::time(one.finished_at).unwrap_or(self.view.now);
        let backoff = self.view.memory.backoffs.get(&container.name);
        let Some(until) = backoff.and_then(|backoff| backoff.until(failed, self.view.now)) else {
            return true;
        };
        self.wake(until);
        // What its start failed with is told first.
        if let Some(failed) = self.view.memory.failures.get(&container.name)
            && let Ok(shown) = failed.at.checked_add(super::status::FAILURE_SHOWN)
            && shown > self.view.now
        {
            self.wake(shown);
        }
        self.act(Action::ReportBackOff { container: container.name.clone(), attempt: one.restart_count });
        false
    }

    /// Whether the API has been told of a run of a container.
    fn has_run(&self, container: &str) -> bool {
        let status = self.view.pod.status.as_ref();
        status.and_then(|status| super::status::find(status, container)).is_some_and(has_run)
    }

    fn start(&mut self, container: &Container, kind: Kind, sandbox: &str) {
        let view = self.view;
        if !self.image(&container.name) || !view.memory.volumes_ready {
            return;
        }
        if let Some(failed) = view.memory.failures.get(&container.name)
            && !self.due(failed.retry_at)
        {
            return;
        }
        // One after the other, so that a postStart hook holds back what follows it.
        let starting = view.memory.busy.iter().any(|job| matches!(job, Job::Start(_)))
            || self.plan.actions.iter().any(|action| matches!(action, Action::Start { .. }));
        if starting && kind != Kind::Ephemeral {
            return;
        }
        let seen = view.observed.latest(&container.name).map(|one| one.restart_count + 1);
        let told = view.pod.status.as_ref().and_then(|status| super::status::find(status, &container.name));
        let told = told.map(|status| status.restart_count.unsigned_abs() + u32::from(has_run(status)));
        let tried = view.memory.attempts.get(&container.name).map(|attempt| attempt + 1);
        let attempt = seen.or(tried).or(told).unwrap_or(0);
        self.act(Action::Start { container: container.name.clone(), attempt, sandbox: sandbox.to_owned() });
    }

    fn stop(&mut self, one: &observed::Container, why: String, grace: Duration) {
        let by = self.view.now.checked_add(grace).unwrap_or(self.view.now);
        // A stop in hand is overtaken only by one that is clearly sooner.
        let sooner = |stopping: Timestamp| stopping.duration_since(by).as_secs() >= 1;
        if self.view.memory.is_stopping(&one.id).is_none_or(sooner) {
            self.act(Action::Stop { id: one.id.clone(), container: one.name.clone(), why, grace, by });
        }
    }

    /// Stops containers: the sidecars when all others are down, the last first. Whether all are down.
    fn stop_all(&mut self) -> bool {
        let view = self.view;
        let since = view.memory.ending_since.unwrap_or(view.now);
        let deadline = since.checked_add(spec::grace(view.pod)).unwrap_or(view.now);
        let left = Duration::try_from(deadline.duration_since(view.now)).unwrap_or_default();
        let grace = left.max(Duration::from_secs(1));
        let is_sidecar = |name: &str| {
            spec::init_containers(view.pod).iter().position(|one| one.name == name && spec::is_sidecar(one))
        };
        let (sidecars, others): (Vec<_>, Vec<_>) =
            view.observed.running().partition(|one| is_sidecar(&one.name).is_some());
        for one in &others {
            self.stop(one, format!("Stopping container {}", one.name), grace);
        }
        if others.is_empty()
            && let Some(last) = sidecars.iter().max_by_key(|one| is_sidecar(&one.name))
        {
            self.stop(last, format!("Stopping container {}", last.name), grace);
        }
        let starting = view
            .memory
            .busy
            .iter()
            .any(|job| matches!(job, Job::Sandbox | Job::Start(_) | Job::Volumes | Job::Stop(..)));
        sidecars.is_empty() && others.is_empty() && !starting
    }

    fn end(&mut self) {
        if !self.stop_all() {
            return;
        }
        let memory = self.view.memory;
        let deleting = self.view.pod.metadata.deletion_timestamp.is_some();
        let wanted = if deleting || memory.gone { Torn::Removed } else { Torn::Stopped };
        if memory.torn < wanted {
            self.act(Action::TearDown { remove: wanted == Torn::Removed });
        } else if deleting && !memory.gone && !memory.deleted && memory.status_written {
            self.act(Action::Delete);
        }
    }

    fn finish(&mut self) {
        if self.stop_all() && self.view.memory.torn < Torn::Stopped {
            self.act(Action::TearDown { remove: false });
        }
    }

    /// Of each container's dead, keeps the newest for `--previous` and removes the others.
    fn prune(&mut self) {
        let view = self.view;
        for (index, one) in view.observed.containers.iter().enumerate() {
            let newer =
                view.observed.containers[..index].iter().filter(|other| other.name == one.name).count();
            if one.state == State::Exited && newer >= 2 {
                self.act(Action::RemoveContainer { id: one.id.clone() });
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
