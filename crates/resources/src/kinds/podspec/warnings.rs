//! What a client is warned of, though it is valid.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{Path, quote};
use api::{Object, names};

use super::annotations::{self, Notes, SECCOMP, SECCOMP_OF};
use crate::at::At;

/// Volume sources that are going or gone: the name they are told of under, since when, and what became of them.
const DEPRECATED: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Labels of nodes under older names: the label, since when it is old, and its name of today.
const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Annotations that fields took the place of.
const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// More than these are not looked for: no client is told as many.
const WARNINGS_MAX: usize = 1000;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Warnings of a workload's `template`.
pub(crate) fn template_warnings(template: &At<'_>) -> Vec<String> {
    let meta = template.field("metadata");
    let notes = annotations::of(meta.map("annotations"));
    all(&template.field("spec"), &notes, &meta.path.child("annotations"))
}

/// Warnings of a pod that is made.
pub(crate) fn pod_warnings(pod: &Object) -> Vec<String> {
    let mut found = Vec::new();
    let faults = names::dns1123_label(pod.name());
    if !faults.is_empty() {
        let faults = faults.join(" ");
        found.push(format!("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{faults}]"));
    }
    let meta = At::of(pod, "metadata");
    let notes = annotations::of(meta.map("annotations"));
    found.extend(all(&At::of(pod, "spec"), &notes, &meta.path.child("annotations")));
    found
}

/// `path` is where annotations are told of.
fn all(spec: &At<'_>, notes: &Notes<'_>, path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (key, at) in spec.entries("nodeSelector") {
        found.extend(old_label(key).map(|what| format!("{}: {what}", at.path)));
    }
    node_affinity(&spec.field("affinity").field("nodeAffinity"), &mut found);
    for at in spec.items("topologySpreadConstraints") {
        is_old_label(&at.field("topologyKey"), &mut found);
    }
    for (key, what) in OLD_ANNOTATIONS {
        if notes.iter().any(|(k, _)| k == key) {
            found.push(format!("{}: {what}", path.key(key)));
        }
    }
    for volume in spec.items("volumes") {
        for (kind, told, what) in DEPRECATED {
            if volume.has(kind) {
                found.push(format!("{}: {what}", volume.path.child(told)));
            }
        }
        let claim = volume.field("ephemeral").field("volumeClaimTemplate").field("spec").field("resources");
        for kind in ["requests", "limits"] {
            fraction(&claim.field(kind), "storage", &mut found);
        }
    }
    twice(spec, "hostAliases", "ip", &mut found);
    twice(spec, "imagePullSecrets", "name", &mut found);
    for secret in spec.items("imagePullSecrets") {
        if secret.str("name").is_empty() {
            found.push(format!("{}: invalid empty name \"\"", secret.path.child("name")));
        }
    }
    for name in ["memory", "ephemeral-storage"] {
        fraction(&spec.field("overhead"), name, &mut found);
    }
    seccomp(&spec.field("securityContext"), notes, SECCOMP, path, &mut found);
    let containers: Vec<At<'_>> = LISTS.iter().flat_map(|list| spec.items(list)).collect();
    for container in &containers {
        let key = format!("{SECCOMP_OF}{}", container.str("name"));
        seccomp(&container.field("securityContext"), notes, &key, path, &mut found);
        of_container(container, &mut found);
    }
    ports(&containers, &mut found);
    port_names(spec, &mut found);
    found
}

fn old_label(key: &str) -> Option<String> {
    let (_, since, better) = OLD_LABELS.iter().find(|(old, _, _)| *old == key)?;
    Some(format!("deprecated since {since}; use \"{better}\" instead"))
}

fn is_old_label(key: &At<'_>, found: &mut Vec<String>) {
    found.extend(old_label(key.text()).map(|what| format!("{}: {} is {what}", key.path, key.text())));
}

fn node_affinity(affinity: &At<'_>, found: &mut Vec<String>) {
    let required = affinity.field("requiredDuringSchedulingIgnoredDuringExecution");
    for term in required.items("nodeSelectorTerms") {
        for expression in term.items("matchExpressions") {
            is_old_label(&expression.field("key"), found);
        }
    }
    for preferred in affinity.items("preferredDuringSchedulingIgnoredDuringExecution") {
        for expression in preferred.field("preference").items("matchExpressions") {
            is_old_label(&expression.field("key"), found);
            for value in expression.items("values") {
                for fault in names::label_value(value.text()) {
                    found.push(format!("{}: {} is invalid, {fault}", value.path, value.text()));
                }
            }
        }
    }
}

/// Items of a list of which one before is named alike.
fn twice(spec: &At<'_>, list: &str, field: &str, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for item in spec.items(list) {
        let text = item.str(field);
        if !seen.insert(text) {
            found.push(format!("{}: duplicate {field} {}", item.path.child(field), quote(text)));
        }
    }
}

/// Bytes are whole.
fn fraction(list: &At<'_>, name: &str, found: &mut Vec<String>) {
    let Some(value) = list.raw(name) else { return };
    if crate::at::quantity(value).is_some_and(|q| !q.is_integer()) {
        let text = quote(value.as_str().unwrap_or_default());
        let path = list.path.key(name);
        found.push(format!("{path}: fractional byte value {text} is invalid, must be an integer"));
    }
}

fn seccomp(context: &At<'_>, notes: &Notes<'_>, key: &str, path: &Path, found: &mut Vec<String>) {
    if !context.has("seccompProfile") && notes.iter().any(|(k, _)| *k == key) {
        let words = r#"non-functional in v1.27+; use the \"seccompProfile\" field instead"#;
        found.push(format!("{}: {words}", path.key(key)));
    }
}

fn of_container(container: &At<'_>, found: &mut Vec<String>) {
    let resources = container.field("resources");
    for name in ["memory", "ephemeral-storage"] {
        for kind in ["limits", "requests"] {
            fraction(&resources.field(kind), name, found);
        }
    }
    let mut seen = BTreeSet::new();
    for variable in container.items("env") {
        let name = variable.str("name");
        if seen.insert(name) {
            continue;
        }
        // A value that is made of the one before hides nothing.
        let (value, before) = (variable.str("value"), format!("$({name})"));
        if variable.has("valueFrom") || value == before || !value.contains(&before) {
            found.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                variable.path,
                quote(name)
            ));
        }
    }
}

/// A container's port, as far as others may get in its way.
struct Port<'a> {
    host: i64,
    ip: &'a str,
    path: &'a Path,
}

/// Ports of any of the containers that get in each other's way: of as many pairs as are told at most.
fn ports(containers: &[At<'_>], found: &mut Vec<String>) {
    let all: Vec<At<'_>> = containers.iter().flat_map(|c| c.items("ports")).collect();
    let number = |port: &At<'_>, field: &str| port.i64(field).unwrap_or(0);
    let mut alike: BTreeMap<(i64, &str), Vec<Port<'_>>> = BTreeMap::new();
    for at in &all {
        let container = number(at, "containerPort");
        let port = Port { host: number(at, "hostPort"), ip: at.str("hostIP"), path: &at.path };
        if !port.ip.is_empty() && port.host == 0 {
            found.push(format!(
                "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{container} Protocol:{} HostIP:{}}}",
                port.path,
                at.str("name"),
                at.str("protocol"),
                port.ip,
            ));
        }
        let before = alike.entry((container, at.str("protocol"))).or_default();
        for other in before.iter() {
            if found.len() >= WARNINGS_MAX {
                return;
            }
            if let Some(how) = in_the_way(&port, other) {
                found.push(format!("{}: {how} port definition with {}", port.path, other.path));
            }
        }
        before.push(port);
    }
}

fn in_the_way(port: &Port<'_>, other: &Port<'_>) -> Option<&'static str> {
    if port.host == other.host && port.ip == other.ip {
        Some("duplicate")
    } else if port.host == 0 || other.host == 0 {
        Some("overlapping")
    } else if port.host == other.host && port.ip.is_empty() != other.ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// Names of ports that containers which run together share.
fn port_names(spec: &At<'_>, found: &mut Vec<String>) {
    let beside = spec.items("initContainers").into_iter().filter(|c| c.str("restartPolicy") == "Always");
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    for port in beside.chain(spec.items("containers")).flat_map(|c| c.items("ports")) {
        let name = port.str("name");
        if name.is_empty() {
            continue;
        }
        match seen.get(name) {
            Some(first) => found.push(format!(
                "{}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                port.path,
                quote(name)
            )),
            None => {
                seen.insert(name, port.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of_spec(spec: Value) -> Vec<String> {
        all(&At::new(&spec, Path::new("spec")), &Notes::new(), &Path::root())
    }

    #[test]
    fn what_is_odd_is_told() {
        let container = |fields: Value| json!({"containers": [fields]});
        let table: &[(Value, &[&str])] = &[
            (json!({"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}), &[]),
            (
                json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}),
                &[
                    "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                    "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                ],
            ),
            (container(json!({"env": [{"name": "A", "value": "b"}, {"name": "A", "value": "$(A)c"}]})), &[]),
            (
                container(json!({"env": [{"name": "A", "value": "b"}, {"name": "A"}]})),
                &[
                    "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                ],
            ),
            (
                container(json!({"ports": [
                    {"containerPort": 1, "protocol": "TCP"},
                    {"containerPort": 1, "protocol": "TCP"},
                    {"containerPort": 1, "protocol": "TCP", "hostPort": 2},
                ]})),
                &[
                    "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
                ],
            ),
            (
                json!({"volumes": [{"name": "v", "storageos": {}}]}),
                &["spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+"],
            ),
        ];
        for (spec, wanted) in table {
            assert_eq!(of_spec(spec.clone()), *wanted);
        }
    }
}
