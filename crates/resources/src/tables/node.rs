//! Nodes and what runs on them: runtime classes, priority classes.

use api::Object;
use jiff::Timestamp;
use registry::Cell;
use serde_json::Value;

use super::cells::{NONE, UNKNOWN, age, condition, list, number, or, string, text as cell};
use super::{AGE, NAME, Spec, Table, col, free, text};

const STATUS: &str = "api.core.v1.NodeStatus";
const INFO: &str = "api.core.v1.NodeSystemInfo";

const NODE: &[Spec] = &[
    NAME,
    free("Status", "string", "The status of the node"),
    free("Roles", "string", "The roles of the node"),
    AGE,
    text("Version", INFO, "kubeletVersion"),
    text("Internal-IP", STATUS, "addresses").wide(),
    text("External-IP", STATUS, "addresses").wide(),
    text("OS-Image", INFO, "osImage").wide(),
    text("Kernel-Version", INFO, "kernelVersion").wide(),
    text("Container-Runtime", INFO, "containerRuntimeVersion").wide(),
];

pub fn node() -> Table {
    Table::new(NODE, row)
}

fn status(node: &Object) -> String {
    let ready = match condition(node, "Ready").map(|c| string(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = node.get(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true);
    if closed { format!("{ready},SchedulingDisabled") } else { ready.into() }
}

fn roles(node: &Object) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node.labels().into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => continue,
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), NONE).to_owned()
}

fn row(node: &Object, now: Timestamp) -> Vec<Cell> {
    let address = |kind: &str| -> Cell {
        let found = list(node, &["status", "addresses"]).iter().find(|a| string(a, "type") == kind);
        or(found.map(|a| string(a, "address")).unwrap_or_default(), NONE).into()
    };
    vec![
        node.name().into(),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        cell(node, &["status", "nodeInfo", "kubeletVersion"], ""),
        address("InternalIP"),
        address("ExternalIP"),
        cell(node, &["status", "nodeInfo", "osImage"], UNKNOWN),
        cell(node, &["status", "nodeInfo", "kernelVersion"], UNKNOWN),
        cell(node, &["status", "nodeInfo", "containerRuntimeVersion"], UNKNOWN),
    ]
}

pub fn runtime_class() -> Table {
    const SPECS: &[Spec] = &[NAME, text("Handler", "api.node.v1.RuntimeClass", "handler"), AGE];
    Table::new(SPECS, |o, now| vec![o.name().into(), o.get_str(&["handler"]).into(), age(o, now)])
}

pub fn priority_class() -> Table {
    const CLASS: &str = "api.scheduling.v1.PriorityClass";
    const SPECS: &[Spec] = &[
        NAME,
        col("Value", "integer", CLASS, "value"),
        col("Global-Default", "boolean", CLASS, "globalDefault"),
        AGE,
        text("PreemptionPolicy", CLASS, "preemptionPolicy"),
    ];
    Table::new(SPECS, |o, now| {
        vec![
            o.name().into(),
            number(o, &["value"]).into(),
            (o.get(&["globalDefault"]).and_then(Value::as_bool) == Some(true)).into(),
            age(o, now),
            o.get_str(&["preemptionPolicy"]).into(),
        ]
    })
}

pub fn lease() -> Table {
    const SPECS: &[Spec] = &[NAME, text("Holder", "api.coordination.v1.LeaseSpec", "holderIdentity"), AGE];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), o.get_str(&["spec", "holderIdentity"]).into(), age(o, now)]
    })
}
