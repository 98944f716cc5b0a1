//! One pod's owner: wakes on news, looks, plans, and sets work going.

mod jobs;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::admit::Room;
use super::backoff::Backoff;
use super::memory::{Dead, End, Job, Memory, Torn};
use super::observed::{Observed, State};
use super::plan::{Plan, View, plan};
use super::resize::{Granted, Pending};
use super::work::{Finished, Work};
use super::{container, patch, references, spec, status, termination};
use crate::context::Context;
use crate::events::Type;
use crate::names;
use crate::probe::{self, Report};
use crate::source::objects::Held;
use crate::volume;
use crate::workers::Registry;

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The mirror pod of a static pod, where the API has it.
    pub mirror: Option<Arc<Pod>>,
    /// The pod exists no more where it came from.
    pub gone: bool,
}

pub struct Worker {
    ctx: Arc<Context>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    /// Told when there may be room again.
    freed: watch::Receiver<()>,
    /// Told when an object the pod refers to has come or changed.
    objects: Arc<Notify>,
    registry: Arc<Registry>,
    pod: Arc<Pod>,
    mirror: Option<Arc<Pod>>,
    held: Arc<Held>,
    references: references::References,
    observed: Observed,
    /// What the node has granted of what the pod asks for.
    granted: Granted,
    memory: Memory,
    jobs: JoinSet<Finished>,
    writing: bool,
    write_failures: Option<(Backoff, Timestamp)>,
    look_again: Option<Timestamp>,
    probes: probe::Set,
    reports: mpsc::Receiver<Report>,
    /// What was told already: a container with its attempt, or an image with the time of its failure.
    reported: BTreeSet<(String, i64)>,
    /// Cancelled when nothing of the pod is to be started any more.
    starting: CancellationToken,
}

impl Worker {
    pub fn new(
        ctx: Arc<Context>,
        desired: watch::Receiver<Desired>,
        wake: Arc<Notify>,
        registry: Arc<Registry>,
    ) -> Self {
        let first = desired.borrow().clone();
        let references = references::of(&first.pod);
        let objects = Arc::new(Notify::new());
        let held = hold(&ctx, &first.pod, &references, &objects);
        let (probes, reports) = probe::Set::new(ctx.clone());
        let starting = CancellationToken::new();
        Self {
            desired,
            wake,
            freed: ctx.freed.subscribe(),
            objects,
            registry,
            granted: Granted::before(&first.pod),
            pod: first.pod,
            mirror: first.mirror,
            held,
            references,
            observed: Observed::default(),
            memory: Memory { gone: first.gone, ..Memory::default() },
            jobs: JoinSet::new(),
            writing: false,
            write_failures: None,
            look_again: None,
            probes,
            reports,
            reported: BTreeSet::new(),
            starting,
            ctx,
        }
    }

    /// Runs until the pod is gone, or the kubelet stops, which leaves the pod as it is.
    pub async fn run(mut self) {
        let stop = self.ctx.stop.clone();
        self.observe().await;
        self.admit().await;
        loop {
            let wake_at = self.step();
            if self.memory.gone && self.memory.torn == Torn::Removed && self.jobs.is_empty() {
                return;
            }
            let sleep =
                wake_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
            let deferred = self.memory.resize.as_ref().is_some_and(|pending| pending.reason == "Deferred");
            let timer = async {
                match sleep {
                    // A little late rather than a little early, which would make it two.
                    Some(sleep) => tokio::time::sleep(sleep + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.desire(),
                    Err(_) => return,
                },
                () = self.wake.notified() => self.observe().await,
                Ok(()) = self.freed.changed(), if deferred => self.resize(),
                () = self.objects.notified() => self.retry_missing(),
                Some(finished) = self.jobs.join_next() => self.finish(finished).await,
                Some(report) = self.reports.recv() => self.report(&report),
                () = timer => {
                    if self.look_again.is_some() {
                        self.observe().await;
                    }
                }
            }
        }
    }

    /// Gives the pod its place on the node, or ends it before anything of it was made.
    async fn admit(&mut self) {
        let ctx = self.ctx.clone();
        if self.memory.gone {
            return;
        }
        if !names::is_static(&self.pod) {
            let known = async { tokio::join!(ctx.node.synced(), ctx.pods.synced()) };
            if ctx.stop.run_until_cancelled(known).await.is_none() {
                return;
            }
        }
        let begun = !self.observed.sandboxes.is_empty();
        let taken = ctx.taken.take(&self.known(), begun, &ctx.pods.list(), &ctx.node(), &ctx.config);
        if let Err(End { reason, message }) = taken {
            ctx.recorder.pod(&self.pod, Type::Warning, &reason, message.clone());
            self.memory.end = Some(End { reason, message: format!("Pod was rejected: {message}") });
        }
    }

    /// Takes what the pod is to be now.
    fn desire(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        self.memory.gone |= desired.gone;
        match desired.mirror {
            Some(mirror) => self.take_mirror(mirror),
            None => self.mirror = None,
        }
        if !desired.gone {
            self.take_pod(desired.pod);
        }
    }

    /// Takes a state of the mirror pod that the API has had.
    fn take_mirror(&mut self, mirror: Arc<Pod>) {
        let known = self.mirror.as_ref();
        let another = known.is_none_or(|known| known.metadata.uid != mirror.metadata.uid);
        if another {
            // What failed for the one before says nothing of this one.
            self.write_failures = None;
        }
        if another || known.is_some_and(|known| client::is_newer(&*mirror, &**known)) {
            self.mirror = Some(mirror);
        }
    }

    /// Takes a state of the pod that the API has had, unless a later one is known.
    fn take_pod(&mut self, pod: Arc<Pod>) {
        if !client::is_newer(&*pod, &*self.pod) {
            return;
        }
        let changed = pod.spec != self.pod.spec;
        let resized = changed && Granted::wanted(&pod) != Granted::wanted(&self.pod);
        let relabelled = pod.metadata.labels != self.pod.metadata.labels
            || pod.metadata.annotations != self.pod.metadata.annotations;
        self.pod = pod;
        if resized {
            self.resize();
        }
        if changed {
            self.memory.failures.clear();
            self.memory.images.clear();
            let references = references::of(&self.pod);
            if references != self.references {
                self.held = hold(&self.ctx, &self.pod, &references, &self.objects);
                self.references = references;
            }
        }
        if changed || relabelled {
            // Labels and annotations may be part of files.
            self.memory.volumes_ready = false;
            self.memory.volumes_failed = None;
        }
    }

    /// Grants what the pod asks for by now, where there is room.
    fn resize(&mut self) {
        let wanted = Granted::wanted(&self.pod);
        if wanted == self.granted {
            self.memory.resize = None;
            return;
        }
        let pending = |reason, message| Some(Pending { reason, message });
        let told = match self.ctx.taken.grow(&self.pod, &self.ctx.pods.list(), &self.ctx.node()) {
            Room::Enough => {
                self.granted = wanted;
                None
            }
            Room::NotNow(message) => pending("Deferred", message),
            Room::Never(message) => pending("Infeasible", message),
        };
        if let Some(Pending { reason, message }) = &told
            && told != self.memory.resize
        {
            let reason = format!("Resize{reason}");
            self.ctx.recorder.pod(&self.pod, Type::Warning, &reason, message.clone());
        }
        self.memory.resize = told;
    }

    /// An object the pod refers to may have come or changed: files and what waits for it are tried again.
    fn retry_missing(&mut self) {
        if self.references != references::References::default() {
            self.memory.volumes_ready = false;
            self.memory.volumes_failed = None;
            self.memory.failures.retain(|_, failure| failure.reason != "CreateContainerConfigError");
        }
    }

    /// Looks at what the runtime has.
    async fn observe(&mut self) {
        let uid = names::uid(&self.pod).to_owned();
        match Observed::load(self.ctx.runtime.as_ref(), &uid, &self.observed).await {
            Ok(observed) => self.seen(observed),
            Err(error) => {
                tracing::warn!(pod = names::full(&self.pod), %error, "cannot ask the runtime");
                self.look_again = Timestamp::now().checked_add(Duration::from_secs(1)).ok();
            }
        }
    }

    fn seen(&mut self, mut observed: Observed) {
        self.look_again = None;
        let pod_dir = self.ctx.config.pod_dir(names::uid(&self.pod));
        for one in &mut observed.containers {
            let known = self.observed.container(&one.id).is_some_and(|known| known.state == State::Exited);
            if one.state == State::Exited && !known {
                let file = container::termination_file(&pod_dir, &one.name, one.restart_count);
                match termination::message(one, &file) {
                    Ok(message) if !message.is_empty() => one.message = message,
                    Ok(_) => {}
                    Err(error) => one.message = format!("Error reading termination log: {error}"),
                }
            }
        }
        self.registry
            .sandboxes(names::uid(&self.pod), observed.sandboxes.iter().map(|sandbox| sandbox.id.as_str()));
        self.observed = observed;
        let running: BTreeSet<&str> = self
            .observed
            .containers
            .iter()
            .filter(|one| one.state == State::Running)
            .map(|one| one.id.as_str())
            .collect();
        self.probes.retain(|id| running.contains(id));
        self.memory.probes.retain(|id, _| running.contains(id.as_str()));
        self.start_probes();
    }

    fn start_probes(&mut self) {
        let ip = self.ips().first().cloned().unwrap_or_default();
        for one in self.observed.containers.iter().filter(|one| one.state == State::Running) {
            let Some((kind, container)) = spec::find(&self.pod, &one.name) else { continue };
            // A container whose hook runs is not looked at: it may not do anything yet.
            if matches!(kind, spec::Kind::Sidecar | spec::Kind::Main) && !self.memory.in_hook(&container) {
                let started = self.memory.started(&container, one);
                self.probes.start(&self.pod, &container, &one.id, &ip, started);
            }
        }
    }

    /// Addresses the pod is reached at.
    fn ips(&self) -> Vec<String> {
        if names::host_network(&self.pod) {
            return self.ctx.host.ips.clone();
        }
        self.observed.sandboxes.first().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    fn report(&mut self, report: &Report) {
        let Some(one) = self.observed.container(&report.container) else { return };
        let container = spec::find(&self.pod, &one.name).map(|(_, container)| container);
        let probed = self.memory.probes.entry(report.container.clone()).or_default();
        let grace = |probe: Option<k8s_openapi::api::core::v1::Probe>| {
            let seconds = probe.and_then(|probe| probe.termination_grace_period_seconds)?;
            u64::try_from(seconds).ok().map(Duration::from_secs)
        };
        match (report.probe, report.ok) {
            (probe::Kind::Startup, true) => probed.started = Some(true),
            (probe::Kind::Startup, false) => {
                let grace = grace(container.and_then(|container| container.startup_probe));
                probed.dead = Some(Dead { probe: "startup", grace });
            }
            (probe::Kind::Liveness, true) => probed.dead = None,
            (probe::Kind::Liveness, false) => {
                let grace = grace(container.and_then(|container| container.liveness_probe));
                probed.dead = Some(Dead { probe: "liveness", grace });
            }
            (probe::Kind::Readiness, ok) => probed.ready = Some(ok),
        }
        self.start_probes();
    }

    /// The pod with what it was granted, and with the status the API holds, wherever that is kept.
    fn known(&self) -> Arc<Pod> {
        let granted = self.granted.pod(&self.pod);
        if !names::is_static(&self.pod) {
            return granted;
        }
        let mut pod = granted.as_ref().clone();
        if let Some(mirror) = &self.mirror {
            pod.status.clone_from(&mirror.status);
        }
        Arc::new(pod)
    }

    /// Plans, sets work going, and writes what has changed; when to plan again at the latest.
    fn step(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let pod = self.known();
        self.check_deadline(&pod, now);
        let view = View { pod: &pod, observed: &self.observed, memory: &self.memory, now };
        if view.ending() && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(now);
            self.starting.cancel();
        }
        let view = View { pod: &pod, observed: &self.observed, memory: &self.memory, now };
        let status = status::status(&view, &self.ctx.host);
        let write_at = self.write(&pod, status, now);
        let view = View { pod: &pod, observed: &self.observed, memory: &self.memory, now };
        let Plan { actions, wake_at } = plan(&view);
        for action in actions {
            self.act(action, now);
        }
        let renewal = self.renewal(now);
        [wake_at, write_at, self.look_again, renewal].into_iter().flatten().min()
    }

    /// When tokens among the files are due; those that are make the volumes be set up again.
    fn renewal(&mut self, now: Timestamp) -> Option<Timestamp> {
        // Where it failed, its own time to try again counts.
        if self.memory.torn != Torn::No || self.memory.volumes_failed.is_some() {
            return None;
        }
        let due = volume::renew_at(&self.pod, &self.ctx.tokens)?;
        if due <= now && !self.memory.busy.contains(&Job::Volumes) {
            self.memory.volumes_ready = false;
            return Some(now);
        }
        Some(due.max(now.checked_add(Duration::from_secs(1)).unwrap_or(due)))
    }

    fn check_deadline(&mut self, pod: &Pod, now: Timestamp) {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(started), Some(seconds)) = (started, spec::spec(pod).active_deadline_seconds) else {
            return;
        };
        let over =
            started.0.checked_add(Duration::from_secs(seconds.unsigned_abs())).is_ok_and(|at| at <= now);
        let terminal = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if over && self.memory.end.is_none() && !matches!(terminal, Some("Succeeded" | "Failed")) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.ctx.recorder.pod(pod, Type::Normal, "DeadlineExceeded", message);
            self.memory.end = Some(End { reason: "DeadlineExceeded".into(), message: message.into() });
        }
    }

    /// Writes the status where it is not what the API has; when to try again at the latest.
    fn write(&mut self, pod: &Arc<Pod>, status: PodStatus, now: Timestamp) -> Option<Timestamp> {
        let target = if names::is_static(pod) { self.mirror.clone() } else { Some(self.pod.clone()) };
        let Some(target) = target.filter(|_| !self.memory.gone) else {
            self.memory.status_written = true;
            return None;
        };
        let old = target.status.clone().unwrap_or_default();
        let same = patch::status("", &old, &status).is_none();
        self.memory.status_written = same;
        if same || self.writing {
            return None;
        }
        if let Some((backoff, failed)) = &self.write_failures
            && let Some(until) = backoff.until(*failed, now)
        {
            return Some(until);
        }
        self.writing = true;
        let work = self.work();
        self.jobs.spawn(async move { (None, work.status(target, status).await) });
        None
    }

    fn work(&self) -> Work {
        Work {
            ctx: self.ctx.clone(),
            pod: self.granted.pod(&self.pod),
            held: self.held.clone(),
            ips: self.ips(),
        }
    }
}

fn hold(ctx: &Context, pod: &Pod, references: &references::References, wake: &Arc<Notify>) -> Arc<Held> {
    let config_maps = references.config_maps.iter().cloned();
    let secrets = references.secrets.iter().cloned();
    Arc::new(Held::new(&ctx.objects, names::namespace(pod), config_maps, secrets, wake))
}
