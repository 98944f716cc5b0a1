//! The core group's smaller kinds: namespaces, config, quotas, events.

use api::Object;
use jiff::Timestamp;
use registry::Cell;
use serde_json::Value;

use super::cells::{self, UNKNOWN, age, count, label_map, list, number, of_containers, or, string};
use super::{AGE, NAME, Spec, Table, col, free, text};

const EVENT: &str = "api.core.v1.Event";
pub(super) const CONTAINERS: Spec = free("Containers", "string", "Names of each container in the template.");
pub(super) const IMAGES: Spec =
    free("Images", "string", "Images referenced by each container in the template.");

pub fn namespace() -> Table {
    const SPECS: &[Spec] = &[NAME, free("Status", "string", "The status of the namespace"), AGE];
    Table::new(SPECS, |o, now| vec![o.name().into(), o.get_str(&["status", "phase"]).into(), age(o, now)])
}

pub fn secret() -> Table {
    const SECRET: &str = "api.core.v1.Secret";
    const SPECS: &[Spec] = &[NAME, text("Type", SECRET, "type"), text("Data", SECRET, "data"), AGE];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), o.get_str(&["type"]).into(), count(o, &["data"]).into(), age(o, now)]
    })
}

pub fn config_map() -> Table {
    const SPECS: &[Spec] = &[NAME, text("Data", "api.core.v1.ConfigMap", "data"), AGE];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), (count(o, &["data"]) + count(o, &["binaryData"])).into(), age(o, now)]
    })
}

pub fn service_account() -> Table {
    Table::new(&[NAME, AGE], |o, now| vec![o.name().into(), age(o, now)])
}

pub fn pod_template() -> Table {
    const SPECS: &[Spec] =
        &[NAME, CONTAINERS, IMAGES, free("Pod Labels", "string", "The labels for the pod template.")];
    Table::new(SPECS, |o, _| {
        vec![
            o.name().into(),
            of_containers(o, &["template"], "name"),
            of_containers(o, &["template"], "image"),
            label_map(o.get(&["template", "metadata", "labels"])).into(),
        ]
    })
}

pub fn resource_quota() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free(
            "Request",
            "string",
            "Request represents a minimum amount of cpu/memory that a container may consume.",
        ),
        free(
            "Limit",
            "string",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
        ),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let hard = o.get(&["status", "hard"]).and_then(Value::as_object);
        let mut names: Vec<&String> = hard.into_iter().flat_map(|h| h.keys()).collect();
        names.sort();
        for name in names {
            let of = |what: &str| or(o.get_str(&["status", what, name]), "0").to_owned();
            let line = format!("{name}: {}/{}", of("used"), of("hard"));
            if name.starts_with("limits.") { limits.push(line) } else { requests.push(line) }
        }
        vec![o.name().into(), requests.join(", ").into(), limits.join(", ").into(), age(o, now)]
    })
}

pub fn component_status() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Status", "string", "Status of the component conditions"),
        free("Message", "string", "Message of the component conditions"),
        free("Error", "string", "Error of the component conditions"),
    ];
    Table::new(SPECS, |o, _| {
        let healthy = list(o, &["conditions"]).iter().find(|c| string(c, "type") == "Healthy");
        let of = |field: &str| healthy.map(|c| string(c, field)).unwrap_or_default();
        let status = match healthy.map(|c| string(c, "status")) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        vec![o.name().into(), status.into(), of("message").into(), of("error").into()]
    })
}

const EVENT_SPECS: &[Spec] = &[
    text("Last Seen", EVENT, "lastTimestamp"),
    text("Type", EVENT, "type"),
    text("Reason", EVENT, "reason"),
    text("Object", EVENT, "involvedObject"),
    text("Subobject", "api.core.v1.ObjectReference", "fieldPath").wide(),
    text("Source", EVENT, "source").wide(),
    text("Message", EVENT, "message"),
    text("First Seen", EVENT, "firstTimestamp").wide(),
    text("Count", EVENT, "count").wide(),
    NAME.wide(),
];

pub fn event() -> Table {
    Table::new(EVENT_SPECS, event_row)
}

/// Both groups' events, in the core group's form.
fn event_row(event: &Object, now: Timestamp) -> Vec<Cell> {
    let at = |path: &[&str]| {
        let time = event.get_str(path);
        (!time.is_empty()).then(|| cells::since(time, now))
    };
    let first = at(&["firstTimestamp"]).or_else(|| at(&["eventTime"])).unwrap_or_else(|| UNKNOWN.into());
    let series = event.0.contains_key("series");
    // A series tells its own times; an event that came once may not count itself.
    let (last, times) = if series {
        let last = at(&["series", "lastObservedTime"]).unwrap_or_else(|| UNKNOWN.into());
        (last, number(event, &["series", "count"]))
    } else {
        let last = at(&["lastTimestamp"]).unwrap_or_else(|| first.clone());
        (last, number(event, &["count"]).max(1))
    };
    let kind = event.get_str(&["involvedObject", "kind"]).to_lowercase();
    let name = event.get_str(&["involvedObject", "name"]);
    let component =
        or(event.get_str(&["source", "component"]), event.get_str(&["reportingComponent"])).to_owned();
    let host = or(event.get_str(&["source", "host"]), event.get_str(&["reportingInstance"]));
    vec![
        last.into(),
        event.get_str(&["type"]).into(),
        event.get_str(&["reason"]).into(),
        if name.is_empty() { kind } else { format!("{kind}/{name}") }.into(),
        event.get_str(&["involvedObject", "fieldPath"]).into(),
        if host.is_empty() { component } else { format!("{component}, {host}") }.into(),
        event.get_str(&["message"]).trim().into(),
        first.into(),
        times.into(),
        event.name().into(),
    ]
}

pub fn scale() -> Table {
    const SPECS: &[Spec] = &[
        NAME.format(""),
        col("Desired", "integer", "api.autoscaling.v1.ScaleSpec", "replicas"),
        col("Available", "integer", "api.autoscaling.v1.ScaleStatus", "replicas"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        vec![
            o.name().into(),
            number(o, &["spec", "replicas"]).into(),
            number(o, &["status", "replicas"]).into(),
            age(o, now),
        ]
    })
}
