//! What objects use of a ResourceQuota: for admission, which takes it, and for the controller, which counts it.
//! After upstream's `quota/v1/evaluator/core`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuotaSpec, ResourceRequirements, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::Quantity;
use crate::containers::together;

/// Amounts by the name a quota has for them, as `requests.cpu`.
pub type Amounts = BTreeMap<String, Quantity>;

fn add(amounts: &mut Amounts, name: &str, amount: Quantity) {
    let slot = amounts.entry(name.to_owned()).or_insert(Quantity::ZERO);
    *slot = *slot + amount;
}

fn one() -> Quantity {
    Quantity::from_i64(1)
}

/// A list of amounts as it is used; the server lets no malformed quantity through.
pub fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let list = list.into_iter().flatten();
    list.map(|(name, text)| (name.clone(), Quantity::parse(&text.0).unwrap_or(Quantity::ZERO))).collect()
}

type Pick = fn(&ResourceRequirements) -> Option<&BTreeMap<String, Text>>;

/// What a pod asks for together.
pub fn requests(spec: &PodSpec) -> Amounts {
    total(spec, |resources| resources.requests.as_ref())
}

/// What a pod asks for together, or may use at most: its containers, or more if starting it takes more. What is
/// said of the whole pod stands for its containers.
fn total(spec: &PodSpec, pick: Pick) -> Amounts {
    let of = |container: &Container| amounts(container.resources.as_ref().and_then(pick));
    let sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let mut all = together(
        spec.containers.iter().map(of),
        spec.init_containers.iter().flatten().map(|container| (sidecar(container), of(container))),
        |into: &mut Amounts, other| other.iter().for_each(|(name, amount)| add(into, name, *amount)),
        |into, other| {
            for (name, amount) in other {
                let slot = into.entry(name.clone()).or_insert(Quantity::ZERO);
                *slot = (*slot).max(*amount);
            }
        },
    );
    all.extend(amounts(spec.resources.as_ref().and_then(pick)));
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        if all.contains_key(&name) {
            add(&mut all, &name, amount);
        }
    }
    all
}

/// What a pod uses. One that has ended uses nothing but its place among all pods there are.
pub fn of_pod(pod: &Pod) -> Amounts {
    let mut amounts = Amounts::from([("count/pods".to_owned(), one())]);
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(spec) = pod.spec.as_ref().filter(|_| !matches!(ended, Some("Succeeded" | "Failed"))) else {
        return amounts;
    };
    add(&mut amounts, "pods", one());
    for (name, amount) in requests(spec) {
        add(&mut amounts, &format!("requests.{name}"), amount);
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if plain {
            add(&mut amounts, &name, amount);
        }
    }
    for (name, amount) in total(spec, |resources| resources.limits.as_ref()) {
        add(&mut amounts, &format!("limits.{name}"), amount);
    }
    amounts
}

/// What a Service uses.
pub fn of_service(service: &Service) -> Amounts {
    let mut amounts = Amounts::from([("count/services".to_owned(), one()), ("services".to_owned(), one())]);
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let with_node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports != Some(false) => ports.len(),
        Some("LoadBalancer") => ports.iter().filter(|port| port.node_port.unwrap_or_default() != 0).count(),
        _ => 0,
    };
    add(&mut amounts, "services.nodeports", Quantity::from_i64(with_node_ports as i64));
    add(&mut amounts, "services.loadbalancers", Quantity::from_i64(balanced.into()));
    amounts
}

/// What a PersistentVolumeClaim uses, under its class's names too.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut amounts = Amounts::new();
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let storage = self::amounts(Some(&requests)).get("storage").copied().unwrap_or(Quantity::ZERO);
    let annotations = claim.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get("volume.beta.kubernetes.io/storage-class").cloned());
    let class = annotated.or(spec.storage_class_name).filter(|name| !name.is_empty());
    for name in ["persistentvolumeclaims", "count/persistentvolumeclaims"] {
        add(&mut amounts, name, one());
    }
    add(&mut amounts, "requests.storage", storage);
    if let Some(class) = class {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        add(&mut amounts, &format!("{prefix}/requests.storage"), storage);
        add(&mut amounts, &format!("{prefix}/persistentvolumeclaims"), one());
    }
    amounts
}

/// Whether a quota speaks of an object: all its scopes must. Only pods are in any.
pub fn in_scope(spec: &ResourceQuotaSpec, pod: Option<&Pod>) -> bool {
    let scopes = spec.scopes.iter().flatten().map(|scope| (scope.as_str(), "Exists", &[][..]));
    let selected =
        spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let selected = selected
        .map(|e| (e.scope_name.as_str(), e.operator.as_str(), e.values.as_deref().unwrap_or_default()));
    scopes
        .chain(selected)
        .all(|(scope, operator, values)| pod.is_some_and(|pod| holds(pod, scope, operator, values)))
}

fn holds(pod: &Pod, scope: &str, operator: &str, values: &[String]) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let timed = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    let asks = |pick: Pick| !total(&spec, pick).is_empty();
    let best_effort = || !asks(|r| r.requests.as_ref()) && !asks(|r| r.limits.as_ref());
    match scope {
        "Terminating" => timed,
        "NotTerminating" => !timed,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_ref().filter(|name| !name.is_empty());
            match operator {
                "In" => class.is_some_and(|class| values.contains(class)),
                "NotIn" => class.is_none_or(|class| !values.contains(class)),
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec),
        _ => false,
    }
}

fn crosses_namespaces(spec: &PodSpec) -> bool {
    let affinity = spec.affinity.clone().unwrap_or_default();
    let (near, away) =
        (affinity.pod_affinity.unwrap_or_default(), affinity.pod_anti_affinity.unwrap_or_default());
    let required = [
        near.required_during_scheduling_ignored_during_execution,
        away.required_during_scheduling_ignored_during_execution,
    ];
    let preferred = [
        near.preferred_during_scheduling_ignored_during_execution,
        away.preferred_during_scheduling_ignored_during_execution,
    ];
    let preferred = preferred.into_iter().flatten().flatten().map(|weighted| weighted.pod_affinity_term);
    let mut terms = required.into_iter().flatten().flatten().chain(preferred);
    terms.any(|term| {
        term.namespace_selector.is_some() || term.namespaces.is_some_and(|namespaces| !namespaces.is_empty())
    })
}

/// Amounts that a pod must state where a quota with `hard` counts them, with the containers that do not:
/// `cpu for: a,b; limits.cpu for: a`. Empty where nothing is missing.
pub fn unspecified(spec: &PodSpec, hard: &Amounts) -> String {
    const STATED: &[(&str, Pick, &str)] = &[
        ("cpu", |r| r.requests.as_ref(), "cpu"),
        ("limits.cpu", |r| r.limits.as_ref(), "cpu"),
        ("limits.memory", |r| r.limits.as_ref(), "memory"),
        ("memory", |r| r.requests.as_ref(), "memory"),
        ("requests.cpu", |r| r.requests.as_ref(), "cpu"),
        ("requests.memory", |r| r.requests.as_ref(), "memory"),
    ];
    let mut told = Vec::new();
    for (name, pick, amount) in STATED.iter().filter(|(name, _, _)| hard.contains_key(*name)) {
        let stated = |of: Option<&ResourceRequirements>| {
            of.and_then(*pick).is_some_and(|list| list.contains_key(*amount))
        };
        if stated(spec.resources.as_ref()) {
            continue;
        }
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let mut silent: Vec<&str> =
            all.filter(|c| !stated(c.resources.as_ref())).map(|c| c.name.as_str()).collect();
        silent.sort_unstable();
        if !silent.is_empty() {
            told.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_uses_what_it_says_of_itself_or_what_its_containers_come_to() {
        let check = |resources: serde_json::Value, expected: &[(&str, &str)]| {
            let asks = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}});
            let container = |name: &str| json!({"name": name, "resources": asks});
            let spec = json!({
                "containers": [container("a"), container("b")], "resources": resources, "overhead": {"cpu": "1m"},
            });
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let used = of_pod(&pod);
            for (name, amount) in expected {
                assert_eq!(used.get(*name).map(ToString::to_string).as_deref(), Some(*amount), "{name}");
            }
        };
        let sums = [("cpu", "2001m"), ("requests.memory", "2Gi"), ("limits.cpu", "4001m"), ("pods", "1")];
        check(json!(null), &sums);
        let whole = json!({"requests": {"cpu": "5"}, "limits": {"memory": "8Gi"}});
        check(
            whole,
            &[("cpu", "5001m"), ("memory", "2Gi"), ("limits.cpu", "4001m"), ("limits.memory", "8Gi")],
        );
    }
}
