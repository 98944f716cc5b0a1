//! One probe's life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::count::Count;
use super::{Kind, grpc, http, port};
use crate::context::Context;
use crate::events::Type;

/// A probe's verdict has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The container's identifier.
    pub container: String,
    pub probe: Kind,
    pub ok: bool,
}

/// The probes of one pod.
pub struct Set {
    ctx: Arc<Context>,
    tasks: JoinSet<()>,
    /// By the container's identifier.
    running: HashMap<String, Running>,
    sender: mpsc::Sender<Report>,
}

struct Running {
    tasks: Vec<AbortHandle>,
    started: watch::Sender<bool>,
}

/// What a probe is asked of.
#[derive(Clone)]
struct Target {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    host: String,
}

impl Set {
    /// The set, and where its reports come out.
    pub fn new(ctx: Arc<Context>) -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self { ctx, tasks: JoinSet::new(), running: HashMap::new(), sender }, receiver)
    }

    /// Starts the probes of a running container; those that run already stay as they are.
    pub fn start(&mut self, pod: &Arc<Pod>, container: &Container, id: &str, ip: &str, started: bool) {
        if let Some(running) = self.running.get(id) {
            if started {
                running.started.send_replace(true);
            }
            return;
        }
        let (sender, receiver) = watch::channel(started);
        let target = Target {
            ctx: self.ctx.clone(),
            pod: pod.clone(),
            container: container.clone(),
            id: id.to_owned(),
            host: ip.to_owned(),
        };
        let probes = [
            (Kind::Startup, &container.startup_probe),
            (Kind::Liveness, &container.liveness_probe),
            (Kind::Readiness, &container.readiness_probe),
        ];
        let tasks = probes.into_iter().filter_map(|(kind, probe)| {
            let probe = probe.clone()?;
            let task = run(target.clone(), kind, probe, receiver.clone(), self.sender.clone());
            Some(self.tasks.spawn(task))
        });
        let tasks = tasks.collect();
        self.running.insert(id.to_owned(), Running { tasks, started: sender });
    }

    /// Ends the probes of containers that do not run any more.
    pub fn retain(&mut self, runs: impl Fn(&str) -> bool) {
        self.running.retain(|id, running| {
            let keep = runs(id);
            if !keep {
                running.tasks.iter().for_each(AbortHandle::abort);
            }
            keep
        });
        while self.tasks.try_join_next().is_some() {}
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

async fn run(
    target: Target,
    kind: Kind,
    probe: Probe,
    mut started: watch::Receiver<bool>,
    reports: mpsc::Sender<Report>,
) {
    let born = Instant::now();
    if kind != Kind::Startup && started.wait_for(|started| *started).await.is_err() {
        return;
    }
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let first = (born + seconds(probe.initial_delay_seconds, 0)).max(Instant::now());
    let mut ticks = interval_at(first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = Count::new(probe.success_threshold, probe.failure_threshold);
    let mut told = None;
    let mut hurry = Hurry::of(kind);
    loop {
        let on_time = tokio::select! {
            biased;
            _ = ticks.tick() => true,
            () = hurry.due() => false,
        };
        let result = target.ask(&probe).await;
        hurry.told(result.is_ok(), period);
        if let Err(message) = &result {
            if !on_time {
                continue;
            }
            let text = format!("{} probe failed: {message}", kind.shown());
            target.ctx.recorder.container(
                &target.pod,
                &target.container.name,
                Type::Warning,
                "Unhealthy",
                text,
            );
        }
        let Some(ok) = count.take(result.is_ok()) else { continue };
        if told != Some(ok) {
            told = Some(ok);
            let report = Report { container: target.id.clone(), probe: kind, ok };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        // A startup probe has done its work; one that failed for good ends with its container, as a
        // liveness probe does.
        if kind == Kind::Startup || kind == Kind::Liveness && !ok {
            return;
        }
    }
}

/// Between the first probe and the first success of a container that comes up, it is asked more often than
/// its period says: most are a moment late only, and a whole period would be lost. Nothing but success counts
/// of what is asked between.
struct Hurry {
    /// How long after the last answer; none where the period is enough.
    wait: Option<Duration>,
    /// Whether success is still waited for.
    coming_up: bool,
}

impl Hurry {
    const FIRST: Duration = Duration::from_millis(50);

    fn of(kind: Kind) -> Self {
        // Liveness has nothing to gain from an early success.
        Self { wait: None, coming_up: kind != Kind::Liveness }
    }

    async fn due(&self) {
        match self.wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    }

    fn told(&mut self, ok: bool, period: Duration) {
        self.coming_up &= !ok;
        let next = self.wait.map_or(Self::FIRST, |wait| wait * 2);
        self.wait = (self.coming_up && next < period).then_some(next);
        // Once as slow as the period, it stays so.
        self.coming_up &= self.wait.is_some();
    }
}

impl Target {
    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let late = |_| format!("command timed out after {}s", limit.as_secs());
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let output = match self.ctx.runtime.exec_sync(&self.id, &command, Some(limit)).await {
                Ok(output) => output,
                Err(cri::Error::DeadlineExceeded { .. }) => {
                    return Err(format!(
                        "command timed out: {:?} timed out after {}s",
                        command.join(" "),
                        limit.as_secs()
                    ));
                }
                Err(error) => return Err(error.to_string()),
            };
            if output.exit_code == 0 {
                return Ok(());
            }
            let said = [&output.stdout[..], &output.stderr[..]].concat();
            return Err(String::from_utf8_lossy(&said).into_owned());
        }
        if let Some(get) = &probe.http_get {
            let request = http::Request::new(get, &self.host, port(&self.container, &get.port)?);
            return http::get(&request, limit).await.map(|_| ());
        }
        if let Some(socket) = &probe.tcp_socket {
            let number = port(&self.container, &socket.port)?;
            let host = socket.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&self.host);
            let dial = timeout(limit, http::connect(host, number)).await;
            return dial
                .unwrap_or_else(|_| Err(format!("dial tcp {host}:{number}: i/o timeout")))
                .map(|_| ());
        }
        if let Some(check) = &probe.grpc {
            let number = u16::try_from(check.port).map_err(|_| format!("invalid port: {}", check.port))?;
            let service = check.service.as_deref().unwrap_or_default();
            return timeout(limit, grpc::check(&self.host, number, service)).await.map_err(late)?;
        }
        Err("missing probe handler".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, period: u64, results: &str, want: &[Option<u64>]) {
        let mut hurry = Hurry::of(kind);
        let waits = results.chars().map(|result| {
            hurry.told(result == '+', Duration::from_secs(period));
            hurry.wait.and_then(|wait| u64::try_from(wait.as_millis()).ok())
        });
        assert_eq!(waits.collect::<Vec<_>>(), want, "{results}");
    }

    #[test]
    fn one_that_comes_up_is_asked_again_soon() {
        check(Kind::Readiness, 1, "------", &[Some(50), Some(100), Some(200), Some(400), Some(800), None]);
        check(Kind::Startup, 10, "--+-", &[Some(50), Some(100), None, None]);
        check(Kind::Readiness, 10, "+-", &[None, None]);
        check(Kind::Liveness, 10, "--", &[None, None]);
    }
}
