//! A container's environment and command line.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use super::fields::{self, Allocatable, Place};
use super::spec;
use crate::names;

/// Objects that variables are taken from, by name; `None` for those that do not exist.
#[derive(Debug, Default)]
pub struct Sources {
    pub config_maps: HashMap<String, Option<Arc<ConfigMap>>>,
    pub secrets: HashMap<String, Option<Arc<Secret>>>,
    /// Services of the pod's namespace, and `kubernetes` of `default`.
    pub services: Vec<Arc<Service>>,
}

/// Replaces `$(NAME)` by `get(NAME)` where there is one; `$$` is a dollar sign that stands for itself.
pub fn expand(text: &str, get: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(inner) = after.strip_prefix('(')
            && let Some(end) = inner.find(')')
        {
            let name = &inner[..end];
            out.push_str(&get(name).unwrap_or_else(|| format!("$({name})")));
            rest = &inner[end + 1..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The variables that tell of `services`, as Docker's links did.
pub fn service_variables(services: &[Arc<Service>], links: bool) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for service in services {
        let spec = service.spec.as_ref();
        let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let master = service.metadata.namespace.as_deref() == Some("default") && name == "kubernetes";
        if ip.is_empty() || ip == "None" || !(links || master) {
            continue;
        }
        let prefix = name.to_uppercase().replace('-', "_");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        all.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        all.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        let scheme = |protocol: Option<&str>| protocol.unwrap_or("TCP").to_lowercase();
        all.insert(
            format!("{prefix}_PORT"),
            format!("{}://{host}:{}", scheme(first.protocol.as_deref()), first.port),
        );
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                all.insert(format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string());
            }
            let protocol = scheme(port.protocol.as_deref());
            let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            all.insert(format!("{stem}_PROTO"), protocol.clone());
            all.insert(format!("{stem}_PORT"), port.port.to_string());
            all.insert(format!("{stem}_ADDR"), ip.to_owned());
            all.insert(stem, format!("{protocol}://{host}:{}", port.port));
        }
    }
    all
}

/// The container's variables in the order they are set. Those of services are there for `$(NAME)` first
/// and are appended last, unless the container sets them itself.
///
/// # Errors
/// Upstream's message of `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    place: &Place<'_>,
    node: Allocatable,
) -> Result<Vec<(String, String)>, String> {
    let links = spec::spec(pod).enable_service_links.unwrap_or(true);
    let services = service_variables(&sources.services, links);
    let mut set: Vec<(String, String)> = Vec::new();
    let put = |set: &mut Vec<(String, String)>, name: String, value: String| match set
        .iter_mut()
        .find(|(known, _)| *known == name)
    {
        Some(known) => known.1 = value,
        None => set.push((name, value)),
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in bulk(from, sources)? {
            put(&mut set, format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match variable.value.as_deref().filter(|value| !value.is_empty()) {
            Some(text) => Some(expand(text, |name| {
                let own = set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
                own.or_else(|| services.get(name).cloned())
            })),
            None => value_from(pod, container, variable, sources, place, node)?,
        };
        if let Some(value) = value {
            put(&mut set, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !set.iter().any(|(known, _)| *known == name) {
            set.push((name, value));
        }
    }
    Ok(set)
}

type Pairs = Vec<(String, String)>;

fn bulk(from: &k8s_openapi::api::core::v1::EnvFromSource, sources: &Sources) -> Result<Pairs, String> {
    if let Some(reference) = &from.config_map_ref {
        let optional = reference.optional.unwrap_or(false);
        return match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
            Some(map) => Ok(map.data.clone().unwrap_or_default().into_iter().collect()),
            None if optional => Ok(Vec::new()),
            None => Err(missing("configmap", &reference.name)),
        };
    }
    let Some(reference) = &from.secret_ref else { return Ok(Vec::new()) };
    match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
        Some(secret) => Ok(secret
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
            .collect()),
        None if reference.optional.unwrap_or(false) => Ok(Vec::new()),
        None => Err(missing("secret", &reference.name)),
    }
}

fn missing(kind: &str, name: &str) -> String {
    format!("{kind} {name:?} not found")
}

fn value_from(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &Sources,
    place: &Place<'_>,
    node: Allocatable,
) -> Result<Option<String>, String> {
    let namespace = names::namespace(pod);
    let Some(from) = &variable.value_from else { return Ok(Some(String::new())) };
    if let Some(selector) = &from.field_ref {
        return fields::field(pod, &selector.field_path, place).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return fields::resource(pod, Some(container), selector, node).map(Some);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let optional = selector.optional.unwrap_or(false);
        let Some(map) = sources.config_maps.get(&selector.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(missing("configmap", &selector.name)) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name))
            }
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let optional = selector.optional.unwrap_or(false);
        let Some(secret) = sources.secrets.get(&selector.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(missing("secret", &selector.name)) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name))
            }
        };
    }
    Ok(Some(String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        let get = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand(text, get), want, "{text}");
    }

    #[test]
    fn variables_expand_as_upstream_documents() {
        check("$(A)", "1");
        check("x$(A)y$(A)", "x1y1");
        check("$(B)", "$(B)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$A $", "$A $");
        check("$(A", "$(A");
        check("", "");
    }

    #[test]
    fn services_become_variables() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "my-web", "namespace": "a" },
            "spec": { "clusterIP": "10.96.0.7", "ports": [{ "name": "http", "port": 80 }, { "port": 53, "protocol": "UDP" }] },
        }))
        .unwrap();
        let variables = service_variables(&[Arc::new(service.clone())], true);
        let lines: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        expect_test::expect![[r#"
            MY_WEB_PORT=tcp://10.96.0.7:80
            MY_WEB_PORT_53_UDP=udp://10.96.0.7:53
            MY_WEB_PORT_53_UDP_ADDR=10.96.0.7
            MY_WEB_PORT_53_UDP_PORT=53
            MY_WEB_PORT_53_UDP_PROTO=udp
            MY_WEB_PORT_80_TCP=tcp://10.96.0.7:80
            MY_WEB_PORT_80_TCP_ADDR=10.96.0.7
            MY_WEB_PORT_80_TCP_PORT=80
            MY_WEB_PORT_80_TCP_PROTO=tcp
            MY_WEB_SERVICE_HOST=10.96.0.7
            MY_WEB_SERVICE_PORT=80
            MY_WEB_SERVICE_PORT_HTTP=80
        "#]]
        .assert_eq(&lines.concat());
        assert!(service_variables(&[Arc::new(service)], false).is_empty());
    }
}
