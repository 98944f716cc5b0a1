//! What a client is warned of, though it is valid.

use crate::at::At;

/// Volume sources that are going or gone: since when, and what became of them.
const DEPRECATED: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Labels of nodes under older names.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Warnings of a pod spec.
pub(crate) fn warnings(spec: &At<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for (key, at) in spec.entries("nodeSelector") {
        if let Some((_, better)) = OLD_LABELS.iter().find(|(old, _)| *old == key) {
            let since = if key.starts_with("beta.kubernetes.io/instance") { "v1.17" } else { "v1.14" };
            let since = if key.starts_with("failure") { "v1.17" } else { since };
            all.push(format!("{}: deprecated since {since}; use \"{better}\" instead", at.path));
        }
    }
    for volume in spec.items("volumes") {
        for (kind, what) in DEPRECATED {
            if let Some(at) = volume.some(kind) {
                all.push(format!("{}: {what}", at.path));
            }
        }
    }
    let aliases = spec.items("hostAliases");
    for (i, alias) in aliases.iter().enumerate() {
        let ip = alias.str("ip");
        if aliases[..i].iter().any(|a| a.str("ip") == ip) {
            all.push(format!("{}: duplicate ip \"{ip}\"", alias.path.child("ip")));
        }
    }
    for secret in spec.items("imagePullSecrets") {
        if secret.str("name").is_empty() {
            all.push(format!("{}: invalid empty name \"\"", secret.path));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec.items(list) {
            container_warnings(&container, &mut all);
        }
    }
    all
}

fn container_warnings(container: &At<'_>, all: &mut Vec<String>) {
    let resources = container.field("resources");
    for kind in ["limits", "requests"] {
        for (name, amount, at) in resources.quantities(kind) {
            let whole_bytes =
                matches!(name, "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if whole_bytes && !amount.is_integer() {
                all.push(format!(
                    "{}: fractional byte value \"{}\" is invalid, must be an integer",
                    at.path,
                    at.text()
                ));
            }
        }
    }
    let variables = container.items("env");
    for (i, variable) in variables.iter().enumerate() {
        let name = variable.str("name");
        if !variables[..i].iter().any(|v| v.str("name") == name) {
            continue;
        }
        let value = variable.str("value");
        if !value.is_empty() && !value.contains(&format!("$({name})")) {
            all.push(format!(
                "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                variable.path
            ));
        }
    }
    let ports = container.items("ports");
    for (i, port) in ports.iter().enumerate() {
        let key = |p: &At<'_>| {
            let number = |f: &str| p.i64(f).unwrap_or(0);
            (
                number("containerPort"),
                number("hostPort"),
                p.str("protocol").to_owned(),
                p.str("hostIP").to_owned(),
            )
        };
        if let Some(first) = ports[..i].iter().find(|p| key(p) == key(port)) {
            all.push(format!("{}: duplicate port definition with {}", port.path, first.path));
        }
    }
}
