//! Defaults of a pod spec that hang on other fields.

use api::field::Path;
use serde_json::{Map, Value, json};

use super::resources::together;
use crate::at::At;

/// In a pod or in a workload's template.
pub fn default(spec: &mut Map<String, Value>) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                default_container(container);
            }
        }
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".into(), account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        spec.insert("serviceAccountName".into(), account);
    }
    spec.entry("securityContext").or_insert_with(|| json!({}));
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(volume) = volume
            && volume.keys().all(|k| k == "name")
        {
            volume.insert("emptyDir".into(), json!({}));
        }
        if let Some(Value::Object(claim)) =
            volume.get_mut("ephemeral").and_then(|e| e.get_mut("volumeClaimTemplate")?.get_mut("spec"))
        {
            default_claim(claim);
        }
        if let Some(Value::Object(image)) = volume.get_mut("image") {
            default_pull_policy(image, "reference", "pullPolicy");
        }
    }
}

fn default_container(container: &mut Map<String, Value>) {
    default_pull_policy(container, "image", "imagePullPolicy");
    container.entry("resources").or_insert_with(|| json!({}));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            default_handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(Value::Object(hook)) = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            default_handler(hook);
        }
    }
}

/// What only a pod itself gets: requests from limits, host ports of the host's network.
pub fn default_pod(spec: &mut Map<String, Value>) {
    spec.entry("enableServiceLinks").or_insert(true.into());
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            if let Some(Value::Object(resources)) = container.get_mut("resources") {
                requests_from_limits(resources);
            }
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if host_network
                    && port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
                    && let Some(number) = port.get("containerPort").cloned()
                {
                    port["hostPort"] = number;
                }
            }
        }
    }
    default_whole(spec);
}

/// A pod that is limited as a whole asks, of each resource, for what its containers ask for together, or for
/// the limit where they ask for nothing.
fn default_whole(spec: &mut Map<String, Value>) {
    let whole = spec.get("resources").cloned().unwrap_or_default();
    let Some(Value::Object(limits)) =
        whole.get("limits").filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
    else {
        return;
    };
    let pod = Value::Object(spec.clone());
    let at = At::new(&pod, Path::root());
    let kinds =
        ["containers", "initContainers"].iter().flat_map(|list| at.items(list)).flat_map(|container| {
            let requests = container.field("resources").entries("requests");
            requests.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        });
    // Each once: a sum looks at every container.
    let kinds: std::collections::BTreeSet<String> =
        kinds.filter(|n| matches!(&**n, "cpu" | "memory") || n.starts_with("hugepages-")).collect();
    let sums: Vec<(String, Value)> = kinds
        .into_iter()
        .filter_map(|name| together(&at, "requests", &name).map(|sum| (name, sum.to_string().into())))
        .collect();
    let resources = api::object::map_entry(spec, "resources");
    let requests = api::object::map_entry(resources, "requests");
    for (name, amount) in sums.into_iter().chain(limits.clone()) {
        if matches!(&*name, "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.entry(name).or_insert(amount);
        }
    }
}

fn requests_from_limits(resources: &mut Map<String, Value>) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = api::object::map_entry(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// A claim that a volume or a template brings along.
pub fn default_claim(spec: &mut Map<String, Value>) {
    spec.entry("volumeMode").or_insert("Filesystem".into());
}

fn default_handler(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(http)) = handler.get_mut("httpGet") {
        http.entry("path").or_insert("/".into());
        http.entry("scheme").or_insert("HTTP".into());
    }
    if let Some(Value::Object(grpc)) = handler.get_mut("grpc") {
        grpc.entry("service").or_insert("".into());
    }
}

fn default_pull_policy(holder: &mut Map<String, Value>, image: &str, policy: &str) {
    if !holder.contains_key(policy) {
        let image = holder.get(image).and_then(Value::as_str).unwrap_or_default();
        let chosen = if pulls_always(image) { "Always" } else { "IfNotPresent" };
        holder.insert(policy.into(), chosen.into());
    }
}

/// Whether an image has the tag `latest`, or none and no digest.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}
