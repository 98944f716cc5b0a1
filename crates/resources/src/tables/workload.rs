//! apps, batch, autoscaling, policy.

use api::Object;
use jiff::Timestamp;
use registry::Cell;
use serde_json::Value;

use super::cells::{
    self, NONE, UNKNOWN, UNSET, age, count, is_true, label_map, list, number, of_containers, or, plain,
    selector, string,
};
use super::core::{CONTAINERS, IMAGES};
use super::{AGE, NAME, Spec, Table, col, free, text};

const TEMPLATE: &[&str] = &["spec", "template"];

fn images(o: &Object, template: &[&str]) -> [Cell; 2] {
    [of_containers(o, template, "name"), of_containers(o, template, "image")]
}

/// `ready/desired`
fn ready(o: &Object) -> Cell {
    format!("{}/{}", number(o, &["status", "readyReplicas"]), number(o, &["spec", "replicas"])).into()
}

fn replicas(o: &Object, now: Timestamp, selector: String) -> Vec<Cell> {
    let mut row = vec![
        o.name().into(),
        number(o, &["spec", "replicas"]).into(),
        number(o, &["status", "replicas"]).into(),
        number(o, &["status", "readyReplicas"]).into(),
        age(o, now),
    ];
    row.extend(images(o, TEMPLATE));
    row.push(selector.into());
    row
}

pub fn replication_controller() -> Table {
    const SPEC: &str = "api.core.v1.ReplicationControllerSpec";
    const STATUS: &str = "api.core.v1.ReplicationControllerStatus";
    const SPECS: &[Spec] = &[
        NAME,
        col("Desired", "integer", SPEC, "replicas"),
        col("Current", "integer", STATUS, "replicas"),
        col("Ready", "integer", STATUS, "readyReplicas"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        text("Selector", SPEC, "selector").wide(),
    ];
    Table::new(SPECS, |o, now| replicas(o, now, label_map(o.get(&["spec", "selector"]))))
}

pub fn replica_set() -> Table {
    const SPEC: &str = "api.apps.v1.ReplicaSetSpec";
    const STATUS: &str = "api.apps.v1.ReplicaSetStatus";
    const SPECS: &[Spec] = &[
        NAME,
        col("Desired", "integer", SPEC, "replicas"),
        col("Current", "integer", STATUS, "replicas"),
        col("Ready", "integer", STATUS, "readyReplicas"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        text("Selector", SPEC, "selector").wide(),
    ];
    Table::new(SPECS, |o, now| replicas(o, now, selector(o.get(&["spec", "selector"]), NONE)))
}

pub fn deployment() -> Table {
    const STATUS: &str = "api.apps.v1.DeploymentStatus";
    const SPECS: &[Spec] = &[
        NAME,
        free("Ready", "string", "Number of the pod with ready state"),
        text("Up-to-date", STATUS, "updatedReplicas"),
        text("Available", STATUS, "availableReplicas"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        text("Selector", "api.apps.v1.DeploymentSpec", "selector").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let mut row = vec![
            o.name().into(),
            ready(o),
            number(o, &["status", "updatedReplicas"]).into(),
            number(o, &["status", "availableReplicas"]).into(),
            age(o, now),
        ];
        row.extend(images(o, TEMPLATE));
        row.push(selector(o.get(&["spec", "selector"]), "").into());
        row
    })
}

pub fn stateful_set() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Ready", "string", "Number of the pod with ready state"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
    ];
    Table::new(SPECS, |o, now| {
        let mut row = vec![o.name().into(), ready(o), age(o, now)];
        row.extend(images(o, TEMPLATE));
        row
    })
}

pub fn daemon_set() -> Table {
    const SPEC: &str = "api.apps.v1.DaemonSetSpec";
    const STATUS: &str = "api.apps.v1.DaemonSetStatus";
    const SPECS: &[Spec] = &[
        NAME,
        col("Desired", "integer", STATUS, "desiredNumberScheduled"),
        col("Current", "integer", STATUS, "currentNumberScheduled"),
        col("Ready", "integer", STATUS, "numberReady"),
        col("Up-to-date", "integer", STATUS, "updatedNumberScheduled"),
        col("Available", "integer", STATUS, "numberAvailable"),
        text("Node Selector", "api.core.v1.PodSpec", "nodeSelector"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        text("Selector", SPEC, "selector").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let mut row: Vec<Cell> = vec![o.name().into()];
        let counts = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ];
        row.extend(counts.map(|field| Cell::from(number(o, &["status", field]))));
        row.push(label_map(o.get(&["spec", "template", "spec", "nodeSelector"])).into());
        row.push(age(o, now));
        row.extend(images(o, TEMPLATE));
        row.push(selector(o.get(&["spec", "selector"]), NONE).into());
        row
    })
}

pub fn controller_revision() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Controller", "string", "Controller of the object"),
        text("Revision", "api.apps.v1.ControllerRevision", "revision"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let owners = list(o, &["metadata", "ownerReferences"]).iter();
        let owner = owners.into_iter().find(|r| r.get("controller").and_then(Value::as_bool) == Some(true));
        let controller = owner.map_or_else(
            || NONE.to_owned(),
            |r| {
                let group = string(r, "apiVersion").split_once('/').map(|(g, _)| g);
                let kind = string(r, "kind").to_lowercase();
                let kind = group.map_or(kind.clone(), |g| format!("{kind}.{g}"));
                format!("{kind}/{}", string(r, "name"))
            },
        );
        vec![o.name().into(), controller.into(), number(o, &["revision"]).into(), age(o, now)]
    })
}

fn job_status(o: &Object) -> &'static str {
    match () {
        () if is_true(o, "Complete") => "Complete",
        () if is_true(o, "Failed") => "Failed",
        () if o.is_deleting() => "Terminating",
        () if is_true(o, "Suspended") => "Suspended",
        () if is_true(o, "FailureTarget") => "FailureTarget",
        () if is_true(o, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub fn job() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Status", "string", "Status of the job."),
        text("Completions", "api.batch.v1.JobStatus", "succeeded"),
        free("Duration", "string", "Time required to complete the job."),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        text("Selector", "api.batch.v1.JobSpec", "selector").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let succeeded = number(o, &["status", "succeeded"]);
        let completions = match o.get(&["spec", "completions"]).and_then(Value::as_i64) {
            Some(wanted) => format!("{succeeded}/{wanted}"),
            None if number(o, &["spec", "parallelism"]) > 1 => {
                format!("{succeeded}/1 of {}", number(o, &["spec", "parallelism"]))
            }
            None => format!("{succeeded}/1"),
        };
        let time = |field: &str| o.get_str(&["status", field]).parse::<Timestamp>().ok();
        let duration = time("startTime")
            .map(|start| cells::short(time("completionTime").unwrap_or(now).duration_since(start)));
        let mut row = vec![
            o.name().into(),
            job_status(o).into(),
            completions.into(),
            duration.unwrap_or_default().into(),
            age(o, now),
        ];
        row.extend(images(o, TEMPLATE));
        row.push(selector(o.get(&["spec", "selector"]), NONE).into());
        row
    })
}

pub fn cron_job() -> Table {
    const SPEC: &str = "api.batch.v1.CronJobSpec";
    const STATUS: &str = "api.batch.v1.CronJobStatus";
    const SPECS: &[Spec] = &[
        NAME,
        text("Schedule", SPEC, "schedule"),
        text("Timezone", SPEC, "timeZone"),
        col("Suspend", "boolean", SPEC, "suspend"),
        col("Active", "integer", STATUS, "active"),
        text("Last Schedule", STATUS, "lastScheduleTime"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        text("Selector", "api.batch.v1.JobSpec", "selector").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let suspend = match o.get(&["spec", "suspend"]).and_then(Value::as_bool) {
            Some(true) => "True",
            Some(false) => "False",
            None => UNSET,
        };
        let last = o.get_str(&["status", "lastScheduleTime"]);
        let last = if last.is_empty() { NONE.to_owned() } else { cells::since(last, now) };
        let mut row = vec![
            o.name().into(),
            o.get_str(&["spec", "schedule"]).into(),
            cells::text(o, &["spec", "timeZone"], NONE),
            suspend.into(),
            count(o, &["status", "active"]).into(),
            last.into(),
            age(o, now),
        ];
        row.extend(images(o, &["spec", "jobTemplate", "spec", "template"]));
        row.push(selector(o.get(&["spec", "jobTemplate", "spec", "selector"]), NONE).into());
        row
    })
}

pub fn pod_disruption_budget() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Min Available", "string", "The minimum number of pods that must be available."),
        free("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
        free(
            "Allowed Disruptions",
            "integer",
            "Calculated number of pods that may be disrupted at this time.",
        ),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let amount =
            |field: &str| -> Cell { o.get(&["spec", field]).map_or_else(|| "N/A".to_owned(), plain).into() };
        vec![
            o.name().into(),
            amount("minAvailable"),
            amount("maxUnavailable"),
            number(o, &["status", "disruptionsAllowed"]).into(),
            age(o, now),
        ]
    })
}

pub fn horizontal_pod_autoscaler() -> Table {
    const SPEC: &str = "api.autoscaling.v2.HorizontalPodAutoscalerSpec";
    const STATUS: &str = "api.autoscaling.v2.HorizontalPodAutoscalerStatus";
    const SPECS: &[Spec] = &[
        NAME,
        text("Reference", SPEC, "scaleTargetRef"),
        text("Targets", SPEC, "metrics"),
        text("MinPods", SPEC, "minReplicas"),
        text("MaxPods", SPEC, "maxReplicas"),
        text("Replicas", STATUS, "currentReplicas"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let target = |field: &str| o.get_str(&["spec", "scaleTargetRef", field]);
        vec![
            o.name().into(),
            format!("{}/{}", target("kind"), target("name")).into(),
            hpa_targets(o).into(),
            o.get(&["spec", "minReplicas"]).map_or_else(|| UNSET.to_owned(), plain).into(),
            number(o, &["spec", "maxReplicas"]).into(),
            number(o, &["status", "currentReplicas"]).into(),
            age(o, now),
        ]
    })
}

fn hpa_targets(o: &Object) -> String {
    let metrics = list(o, &["spec", "metrics"]);
    if metrics.is_empty() {
        return NONE.into();
    }
    let current = list(o, &["status", "currentMetrics"]);
    let shown: Vec<String> =
        metrics.iter().enumerate().take(2).map(|(i, m)| hpa_metric(m, current.get(i))).collect();
    let shown = shown.join(", ");
    if metrics.len() > 2 { format!("{shown} + {} more...", metrics.len() - 2) } else { shown }
}

/// A quantity that isn't there.
const NIL: &str = "<nil>";

fn hpa_metric(metric: &Value, current: Option<&Value>) -> String {
    let (source, named) = match string(metric, "type") {
        "External" => ("external", false),
        "Object" => ("object", false),
        "Pods" => ("pods", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let Some(metric) = metric.get(source) else { return UNKNOWN.into() };
    let target = |field: &str| metric.get("target").and_then(|t| t.get(field)).map(plain);
    let measured = current.and_then(|c| c.get(source)?.get("current"));
    let known = |field: &str| measured.and_then(|m| m.get(field)).map(plain);
    let now = |field: &str| known(field).unwrap_or_else(|| UNKNOWN.into());
    // A metric that was measured in another way than its target is told in has no such value.
    let here = |field: &str| known(field).unwrap_or_else(|| measured.map_or(UNKNOWN, |_| NIL).into());
    if named {
        let name = string(metric, "name");
        if let Some(average) = target("averageValue") {
            return format!("{name}: {}/{average}", here("averageValue"));
        }
        let wanted = target("averageUtilization").map_or_else(|| "<auto>".into(), |p| p + "%");
        let used = known("averageUtilization").map_or_else(|| UNKNOWN.into(), |p| p + "%");
        return format!("{name}: {used}/{wanted}");
    }
    match (source, target("averageValue")) {
        ("pods", average) => format!("{}/{}", here("averageValue"), average.unwrap_or_default()),
        (_, Some(average)) => format!("{}/{average} (avg)", now("averageValue")),
        (_, None) => format!("{}/{}", here("value"), or(&target("value").unwrap_or_default(), NIL)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_tell_what_is_measured() {
        let check = |metric: Value, current: Value, shown: &str| {
            assert_eq!(hpa_metric(&metric, Some(&current)), shown);
        };
        let cpu =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        check(cpu.clone(), json!({"type": ""}), "cpu: <unknown>/80%");
        check(cpu, json!({"resource": {"current": {"averageUtilization": 0}}}), "cpu: 0%/80%");
        let memory =
            json!({"type": "Resource", "resource": {"name": "memory", "target": {"averageValue": "1Gi"}}});
        check(memory.clone(), json!({"resource": {"current": {"averageValue": "0"}}}), "memory: 0/1Gi");
        check(memory, json!({"type": ""}), "memory: <unknown>/1Gi");
        let queue = json!({"type": "External", "external": {"target": {"averageValue": "30"}}});
        check(queue, json!({"external": {"current": {"averageValue": "12"}}}), "12/30 (avg)");
        let hits = json!({"type": "Object", "object": {"target": {"value": "10k"}}});
        check(hits, json!({"object": {"current": {}}}), "<nil>/10k");
    }
}
