//! What every pod spec shares, in a pod or in a workload's template.

use serde_json::{Map, Value, json};

/// Defaults of a pod spec that hang on other fields.
pub fn default(spec: &mut Map<String, Value>) {
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                default_container(container, host_network);
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
    }
}

fn default_container(container: &mut Map<String, Value>, host_network: bool) {
    if !container.contains_key("imagePullPolicy") {
        let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
        let policy = if pulls_always(image) { "Always" } else { "IfNotPresent" };
        container.insert("imagePullPolicy".into(), policy.into());
    }
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    if let Some(Value::Object(limits)) = resources.get("limits").cloned() {
        let requests = api::object::map_entry(
            resources.as_object_mut().expect("just made or decoded as a map"),
            "requests",
        );
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if host_network
            && port.get("hostPort").is_none()
            && let Some(number) = port.get("containerPort").cloned()
        {
            port["hostPort"] = number;
        }
    }
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

fn default_handler(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(http)) = handler.get_mut("httpGet") {
        http.entry("path").or_insert("/".into());
        http.entry("scheme").or_insert("HTTP".into());
    }
    if let Some(Value::Object(grpc)) = handler.get_mut("grpc") {
        grpc.entry("service").or_insert("".into());
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
