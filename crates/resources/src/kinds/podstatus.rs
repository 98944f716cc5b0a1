//! Faults of a pod's status: what the kubelet may say, and what may follow on what it said before.

use api::field::{Bare, Errors, Path};
use api::{Object, names};
use serde_json::Value;

use crate::at::At;

/// Conditions with a meaning of their own; all others are named `domain/name`.
const CONDITIONS: &[&str] = &[
    "AllContainersRestarting",
    "ContainersReady",
    "DisruptionTarget",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "PodScheduled",
    "Ready",
];

/// Faults of a changed status.
pub(super) fn validate(new: &Object, old: &Object, errors: &mut Errors) {
    let (status, before) = (At::of(new, "status"), At::of(old, "status"));
    let node = new.get_str(&["spec", "nodeName"]);
    if node != old.get_str(&["spec", "nodeName"]) {
        errors.forbidden(&Path::new("status.nodeName"), "may not be changed directly");
    }
    status.check_if_set("nominatedNodeName", names::dns1123_subdomain, errors);
    for condition in status.items("conditions") {
        if !CONDITIONS.contains(&condition.str("type")) {
            condition.check("type", names::qualified_name, errors);
        }
    }
    addresses(&status, "podIP", "podIPs", errors);
    addresses(&status, "hostIP", "hostIPs", errors);
    let restarts = new.get_str(&["spec", "restartPolicy"]).to_owned();
    ended(&status, &before, "containerStatuses", &restarts, errors);
    ended(&status, &before, "initContainerStatuses", &restarts, errors);
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in status.items(list) {
            container.required("name", errors);
        }
    }
}

/// The address of old and the list say the same; at most one of each family.
fn addresses(status: &At<'_>, one: &str, list: &str, errors: &mut Errors) {
    let all = status.items(list);
    let path = status.path.child(list);
    for at in &all {
        at.check("ip", names::ip_address, errors);
    }
    if all.len() > 1 {
        let shown: Vec<String> = all.iter().map(|a| a.str("ip").to_owned()).collect();
        let shown = Bare(Value::from(shown).to_string());
        let v6 = all.iter().filter(|a| a.str("ip").contains(':')).count();
        if all.len() > 2 || v6 != 1 {
            errors.invalid(&path, shown, "may specify no more than one IP for each IP family");
        }
    }
    let first = status.str(one);
    if !all.is_empty() && !first.is_empty() && all[0].str("ip") != first {
        let words = format!("must be equal to `{one}`");
        errors.invalid(&path.index(0).child("ip"), all[0].str("ip"), words);
    }
}

/// A container that has ended for good stays so.
fn ended(new: &At<'_>, old: &At<'_>, list: &str, restarts: &str, errors: &mut Errors) {
    if restarts == "Always" || restarts.is_empty() {
        return;
    }
    let now = new.items(list);
    for before in old.items(list) {
        let Some(last) = before.field("state").some("terminated") else { continue };
        if restarts == "OnFailure" && last.i64("exitCode").unwrap_or(0) != 0 {
            continue;
        }
        let Some(at) = now.iter().find(|c| c.str("name") == before.str("name")) else { continue };
        if !at.field("state").has("terminated") {
            errors.forbidden(&at.path.child("state"), "may not be transitioned to non-terminated state");
        }
    }
}
