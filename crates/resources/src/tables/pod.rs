//! Pods: what the containers' states come to in one line.

use api::Object;
use jiff::Timestamp;
use registry::Cell;
use serde_json::{Value, json};

use super::cells::{self, NONE, condition, list, or, string};
use super::{AGE, NAME, Spec, Table, free, text};

const SPECS: &[Spec] = &[
    NAME,
    free("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    free("Status", "string", "The aggregate status of the containers in this pod."),
    free(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    text("IP", "api.core.v1.PodStatus", "podIP").wide(),
    text("Node", "api.core.v1.PodSpec", "nodeName").wide(),
    text("Nominated Node", "api.core.v1.PodStatus", "nominatedNodeName").wide(),
    text("Readiness Gates", "api.core.v1.PodSpec", "readinessGates").wide(),
];

pub fn table() -> Table {
    Table::new(SPECS, row).conditions(conditions)
}

fn conditions(pod: &Object) -> Vec<Value> {
    let phase = pod.get_str(&["status", "phase"]);
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": phase, "message": message})]
}

/// Restarts, and when the last one was.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        let ended =
            status.get("lastState").and_then(|s| s.get("terminated")).map(|t| string(t, "finishedAt"));
        self.last = self.last.max(ended.and_then(|t| t.parse().ok()));
    }

    fn shown(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count > 0 => {
                format!("{} ({} ago)", self.count, cells::short(now.duration_since(last)))
            }
            _ => self.count.to_string(),
        }
    }
}

/// Why a terminated container ended, in a word.
fn ended(terminated: &Value) -> String {
    let number = |field: &str| terminated.get(field).and_then(Value::as_i64).unwrap_or(0);
    match (string(terminated, "reason"), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn state<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status.get("state")?.get(kind)
}

fn ready(status: &Value) -> bool {
    status.get("ready").and_then(Value::as_bool) == Some(true)
}

struct Summary {
    ready: usize,
    status: String,
    restarts: Restarts,
}

/// The first init container that is not done says what the pod waits for.
fn initializing(pod: &Object, summary: &mut Summary, sidecars: &mut Restarts) -> bool {
    let specs = list(pod, &["spec", "initContainers"]);
    let restarts_always = |name: &str| {
        specs.iter().any(|c| string(c, "name") == name && string(c, "restartPolicy") == "Always")
    };
    for (i, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        summary.restarts.add(status);
        let sidecar = restarts_always(string(status, "name"));
        if sidecar {
            sidecars.add(status);
        }
        let terminated = state(status, "terminated");
        if terminated.is_some_and(|t| t.get("exitCode").and_then(Value::as_i64).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && status.get("started").and_then(Value::as_bool) == Some(true) {
            summary.ready += usize::from(ready(status));
            continue;
        }
        let waiting = state(status, "waiting").map(|w| string(w, "reason"));
        summary.status = match (terminated, waiting) {
            (Some(t), _) => format!("Init:{}", ended(t)),
            (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => {
                format!("Init:{reason}")
            }
            _ => format!("Init:{i}/{}", specs.len()),
        };
        return true;
    }
    false
}

fn running(pod: &Object, summary: &mut Summary) {
    let mut any_running = false;
    let mut fault = None;
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        summary.restarts.add(status);
        let waiting = state(status, "waiting").map(|w| string(w, "reason")).unwrap_or_default();
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(terminated) = state(status, "terminated") {
            summary.status = ended(terminated);
            if terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0) != 0 {
                fault = Some(summary.status.clone());
            }
        } else if ready(status) && state(status, "running").is_some() {
            any_running = true;
            summary.ready += 1;
        }
    }
    if summary.status != "Completed" {
        return;
    }
    // The first container is done: the others have the word, a failed one before one that isn't ready.
    if any_running && cells::is_true(pod, "Ready") {
        summary.status = "Running".into();
    } else if let Some(fault) = fault {
        summary.status = fault;
    } else if any_running {
        summary.status = "NotReady".into();
    }
}

fn summary(pod: &Object) -> Summary {
    let phase = pod.get_str(&["status", "phase"]);
    let reason = pod.get_str(&["status", "reason"]);
    let gated = condition(pod, "PodScheduled").map(|c| string(c, "reason")) == Some("SchedulingGated");
    let status = if gated { "SchedulingGated" } else { or(reason, phase) };
    let mut summary = Summary { ready: 0, status: status.to_owned(), restarts: Restarts::default() };
    let mut sidecars = Restarts::default();
    if !initializing(pod, &mut summary, &mut sidecars) || cells::is_true(pod, "Initialized") {
        summary.restarts = sidecars;
        running(pod, &mut summary);
    }
    if pod.is_deleting() {
        if reason == "NodeLost" {
            summary.status = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.status = "Terminating".into();
        }
    }
    summary
}

fn gates(pod: &Object) -> String {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return NONE.into();
    }
    let open = gates.iter().filter(|g| cells::is_true(pod, string(g, "conditionType"))).count();
    format!("{open}/{}", gates.len())
}

fn row(pod: &Object, now: Timestamp) -> Vec<Cell> {
    let summary = summary(pod);
    let sidecars =
        list(pod, &["spec", "initContainers"]).iter().filter(|c| string(c, "restartPolicy") == "Always");
    let total = list(pod, &["spec", "containers"]).len() + sidecars.count();
    let ip = list(pod, &["status", "podIPs"]).first().map(|i| string(i, "ip")).unwrap_or_default();
    vec![
        pod.name().into(),
        format!("{}/{total}", summary.ready).into(),
        summary.status.into(),
        summary.restarts.shown(now).into(),
        cells::age(pod, now),
        or(ip, NONE).into(),
        cells::text(pod, &["spec", "nodeName"], NONE),
        cells::text(pod, &["status", "nominatedNodeName"], NONE),
        gates(pod).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod: Value, shown: &str) {
        let Value::Object(map) = pod else { panic!("a pod is a map") };
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let cells: Vec<String> = row(&Object(map), now)[1..4].iter().map(cells::plain).collect();
        assert_eq!(cells.join(" | "), shown);
    }

    #[test]
    fn a_line_says_what_the_containers_do() {
        let one = json!([{"name": "c"}]);
        check(json!({"spec": {"containers": one}, "status": {"phase": "Pending"}}), "0/1 | Pending | 0");
        let crashed = json!({"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}});
        check(
            json!({"spec": {"containers": one}, "status": {"phase": "Running", "containerStatuses": [crashed]}}),
            "0/1 | CrashLoopBackOff | 3 (60s ago)",
        );
        let killed = json!({"state": {"terminated": {"signal": 9, "exitCode": 137}}});
        check(
            json!({"spec": {"containers": one}, "status": {"phase": "Failed", "containerStatuses": [killed]}}),
            "0/1 | Signal:9 | 0",
        );
    }

    #[test]
    fn a_completed_container_lets_the_others_speak() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let failed = json!({"name": "b", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        let up = json!({"name": "c", "ready": true, "state": {"running": {}}});
        let with = |statuses: Value, ready: &str| {
            json!({"spec": spec, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": statuses}})
        };
        check(with(json!([done, failed, up]), "True"), "1/3 | Running | 0");
        check(with(json!([done, failed, up]), "False"), "1/3 | Error | 0");
        check(with(json!([done, done, up]), "False"), "1/3 | NotReady | 0");
        check(with(json!([done, failed, done]), "False"), "0/3 | Error | 0");
        check(with(json!([done, done, done]), "False"), "0/3 | Completed | 0");
    }

    #[test]
    fn init_containers_come_first() {
        let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "a"}, {"name": "b"}]});
        let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0}}});
        let next = json!({"name": "b", "state": {"running": {}}});
        check(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [done, next]}}),
            "0/1 | Init:1/2 | 0",
        );
    }
}
