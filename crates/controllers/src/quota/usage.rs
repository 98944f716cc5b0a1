//! What objects use of a ResourceQuota.

use std::collections::BTreeMap;

use api::Quantity;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuotaSpec, ResourceRequirements, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::pods;

/// Amounts by the name a quota has for them.
pub(super) type Amounts = BTreeMap<String, Quantity>;

fn add(amounts: &mut Amounts, name: &str, amount: Quantity) {
    let slot = amounts.entry(name.to_owned()).or_insert(Quantity::ZERO);
    *slot = *slot + amount;
}

fn one() -> Quantity {
    Quantity::from_i64(1)
}

pub(super) fn parse(text: &Text) -> Quantity {
    // The server lets no malformed quantity through.
    Quantity::parse(&text.0).unwrap_or(Quantity::ZERO)
}

type Pick = fn(&ResourceRequirements) -> Option<&BTreeMap<String, Text>>;

/// What a pod asks for together, or may use at most: its containers, or more if starting it takes more.
fn total(spec: &PodSpec, pick: Pick) -> Amounts {
    let of = |container: &Container| -> Amounts {
        let list = container.resources.as_ref().and_then(pick);
        list.into_iter().flatten().map(|(name, text)| (name.clone(), parse(text))).collect()
    };
    let most = |into: &mut Amounts, other: &Amounts| {
        for (name, amount) in other {
            let slot = into.entry(name.clone()).or_insert(Quantity::ZERO);
            *slot = (*slot).max(*amount);
        }
    };
    let sum = |into: &mut Amounts, other: &Amounts| {
        other.iter().for_each(|(name, amount)| add(into, name, *amount));
    };
    let (mut all, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    spec.containers.iter().for_each(|container| sum(&mut all, &of(container)));
    for container in spec.init_containers.iter().flatten() {
        let mut need = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum(&mut all, &need);
            sum(&mut sidecars, &need);
            need = sidecars.clone();
        } else {
            sum(&mut need, &sidecars);
        }
        most(&mut peak, &need);
    }
    most(&mut all, &peak);
    for (name, text) in spec.overhead.iter().flatten() {
        if all.contains_key(name) {
            add(&mut all, name, parse(text));
        }
    }
    all
}

/// What a pod uses. One that has ended uses nothing but its place among all pods there are.
pub(super) fn of_pod(pod: &Pod) -> Amounts {
    let mut amounts = Amounts::from([("count/pods".to_owned(), one())]);
    let spec = pod.spec.clone().unwrap_or_default();
    if pods::is_terminal(pod) {
        return amounts;
    }
    add(&mut amounts, "pods", one());
    for (name, amount) in total(&spec, |resources| resources.requests.as_ref()) {
        add(&mut amounts, &format!("requests.{name}"), amount);
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if plain {
            add(&mut amounts, &name, amount);
        }
    }
    for (name, amount) in total(&spec, |resources| resources.limits.as_ref()) {
        add(&mut amounts, &format!("limits.{name}"), amount);
    }
    amounts
}

pub(super) fn of_service(service: &Service) -> Amounts {
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

pub(super) fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut amounts = Amounts::new();
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let storage = requests.get("storage").map_or(Quantity::ZERO, parse);
    let class = spec.storage_class_name.filter(|name| !name.is_empty());
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

/// Whether a quota speaks of a pod: all its scopes must.
pub(super) fn in_scope(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let scopes = spec.scopes.iter().flatten().map(|scope| (scope.as_str(), "Exists", &[][..]));
    let selected =
        spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let selected = selected
        .map(|e| (e.scope_name.as_str(), e.operator.as_str(), e.values.as_deref().unwrap_or_default()));
    scopes.chain(selected).all(|(scope, operator, values)| holds(pod, scope, operator, values))
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
