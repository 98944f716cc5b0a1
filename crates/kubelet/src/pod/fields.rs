//! Fields of a pod and resources of a container, as the downward API gives them.

use api::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::qos;
use super::spec;
use crate::names;

/// What a field of a pod may say beyond the object itself.
#[derive(Debug, Clone, Default)]
pub struct Place<'a> {
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    pub node: &'a str,
}

/// The text of `path`, such as `metadata.name` or `metadata.labels['app']`.
///
/// # Errors
/// Upstream's words for a path that names nothing.
pub fn field(pod: &Pod, path: &str, place: &Place<'_>) -> Result<String, String> {
    let metadata = &pod.metadata;
    if let Some((base, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match base {
            "metadata.annotations" => &metadata.annotations,
            "metadata.labels" => &metadata.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: &Option<std::collections::BTreeMap<String, String>>| {
        let lines: Vec<_> =
            map.iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => names::name(pod).to_owned(),
        "metadata.namespace" => names::namespace(pod).to_owned(),
        "metadata.uid" => names::uid(pod).to_owned(),
        "metadata.annotations" => lines(&metadata.annotations),
        "metadata.labels" => lines(&metadata.labels),
        "spec.nodeName" => place.node.to_owned(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => place.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => place.host_ips.join(","),
        "status.podIP" => place.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => place.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A string as Go quotes it.
fn quoted(text: &str) -> String {
    api::field::quote(text)
}

/// What the node can give, for limits a container does not set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocatable {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
}

/// A container's request or limit, divided and rounded up as asked.
///
/// # Errors
/// For a container or resource that is not there.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    node: Allocatable,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let found = named.and_then(|name| spec::find(pod, name)).map(|(_, container)| container);
    let container = match (named, &found, own) {
        (None, _, Some(own)) => own,
        (_, Some(found), _) => found,
        _ => return Err(format!("container {} not found", named.unwrap_or_default())),
    };
    let (kind, name) = selector.resource.split_once('.').unwrap_or_default();
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let has_limit = limits.is_some_and(|limits| limits.contains_key(name));
    let value = match kind {
        "requests" => qos::request(container, name),
        "limits" if has_limit => qos::limit(container, name),
        "limits" => match name {
            "cpu" => Quantity::from_milli(node.cpu_milli),
            "memory" => Quantity::from_bytes(node.memory),
            "ephemeral-storage" => Quantity::from_bytes(node.ephemeral_storage),
            _ => Quantity::ZERO,
        },
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero()).unwrap_or_else(|| Quantity::from_i64(1));
    let (value, divisor) =
        if name == "cpu" { (value.milli(), divisor.milli()) } else { (value.value(), divisor.value()) };
    Ok(((value + divisor - 1) / divisor).to_string())
}
