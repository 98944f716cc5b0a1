//! What an object uses of a quota.

use std::collections::BTreeMap;

use api::{Object, Quantity};
use registry::Resource;
use serde_json::Value;

use super::{amounts, count_name};
use crate::{items, text};

/// Amounts by the name a quota has for them.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Kinds of the core group that a quota knows by a plain name too.
const PLAIN: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

fn is(resource: &Resource, plural: &str) -> bool {
    resource.group.is_empty() && resource.plural == plural
}

/// Whether a change of an object may change what it uses.
pub(super) fn changes(resource: &Resource) -> bool {
    ["pods", "services", "persistentvolumeclaims"].iter().any(|plural| is(resource, plural))
}

fn add(amounts: &mut Amounts, name: String, amount: Quantity) {
    let slot = amounts.entry(name).or_insert(Quantity::ZERO);
    *slot = *slot + amount;
}

/// What an object uses, each amount under every name that a quota may have for it.
pub(super) fn of(resource: &Resource, object: &Object) -> Amounts {
    let one = Quantity::from_i64(1);
    let mut used = Amounts::from([(count_name(resource), one)]);
    if resource.group.is_empty() && PLAIN.contains(&resource.plural.as_str()) {
        used.insert(resource.plural.clone(), one);
    }
    let spec = object.0.get("spec").unwrap_or(&Value::Null);
    if is(resource, "pods") {
        pod(object, spec, &mut used);
    } else if is(resource, "services") {
        service(spec, &mut used);
    } else if is(resource, "persistentvolumeclaims") {
        claim(object, spec, &mut used);
    }
    used
}

fn pod(pod: &Object, spec: &Value, used: &mut Amounts) {
    // One that has ended uses nothing but its place among all pods there are.
    if matches!(pod.get_str(&["status", "phase"]), "Succeeded" | "Failed") {
        return;
    }
    used.insert("pods".into(), Quantity::from_i64(1));
    for (name, amount) in total(spec, "requests") {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        add(used, format!("requests.{name}"), amount);
        if plain {
            add(used, name, amount);
        }
    }
    for (name, amount) in total(spec, "limits") {
        add(used, format!("limits.{name}"), amount);
    }
}

/// What a pod's containers come to together, or more where starting it takes more; and its overhead.
fn total(spec: &Value, list: &str) -> Amounts {
    let of = |container: &Value| amounts(container.get("resources").and_then(|r| r.get(list)));
    let most = |into: &mut Amounts, other: &Amounts| {
        for (name, amount) in other {
            let slot = into.entry(name.clone()).or_insert(Quantity::ZERO);
            *slot = (*slot).max(*amount);
        }
    };
    let sum = |into: &mut Amounts, other: &Amounts| {
        other.iter().for_each(|(name, amount)| add(into, name.clone(), *amount));
    };
    let (mut all, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    items(spec, "containers").for_each(|container| sum(&mut all, &of(container)));
    for container in items(spec, "initContainers") {
        let mut need = of(container);
        if text(container, "restartPolicy") == "Always" {
            sum(&mut all, &need);
            sum(&mut sidecars, &need);
            need.clone_from(&sidecars);
        } else {
            sum(&mut need, &sidecars);
        }
        most(&mut peak, &need);
    }
    most(&mut all, &peak);
    for (name, amount) in amounts(spec.get("overhead")) {
        if all.contains_key(&name) {
            add(&mut all, name, amount);
        }
    }
    all
}

fn service(spec: &Value, used: &mut Amounts) {
    let ports: Vec<&Value> = items(spec, "ports").collect();
    let allocates = spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    let kind = text(spec, "type");
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => {
            ports.iter().filter(|p| p.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0).count()
        }
        _ => 0,
    };
    let node_ports = Quantity::from_i64(i64::try_from(node_ports).unwrap_or(i64::MAX));
    add(used, "services.nodeports".into(), node_ports);
    add(used, "services.loadbalancers".into(), Quantity::from_i64((kind == "LoadBalancer").into()));
}

fn claim(object: &Object, spec: &Value, used: &mut Amounts) {
    let requests = amounts(spec.get("resources").and_then(|r| r.get("requests")));
    let storage = requests.get("storage").copied().unwrap_or(Quantity::ZERO);
    add(used, "requests.storage".into(), storage);
    let annotated = object.annotation("volume.beta.kubernetes.io/storage-class");
    let class = annotated.unwrap_or_else(|| text(spec, "storageClassName"));
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        add(used, format!("{prefix}/requests.storage"), storage);
        add(used, format!("{prefix}/persistentvolumeclaims"), Quantity::from_i64(1));
    }
}

/// Whether a quota speaks of an object: all its scopes must. Only pods are in any.
pub(super) fn in_scope(resource: &Resource, quota: &Object, object: &Object) -> bool {
    let spec = quota.0.get("spec").unwrap_or(&Value::Null);
    let plain = items(spec, "scopes").filter_map(Value::as_str).map(|scope| (scope, "Exists", &Value::Null));
    let selector = spec.get("scopeSelector").unwrap_or(&Value::Null);
    let selected =
        items(selector, "matchExpressions").map(|e| (text(e, "scopeName"), text(e, "operator"), e));
    let mut scopes = plain.chain(selected).peekable();
    if scopes.peek().is_none() {
        return true;
    }
    let spec = object.0.get("spec").unwrap_or(&Value::Null);
    is(resource, "pods") && scopes.all(|(scope, operator, values)| holds(spec, scope, operator, values))
}

fn holds(spec: &Value, scope: &str, operator: &str, expression: &Value) -> bool {
    let timed = spec.get("activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|s| s >= 0);
    let best_effort = || total(spec, "requests").is_empty() && total(spec, "limits").is_empty();
    match scope {
        "Terminating" => timed,
        "NotTerminating" => !timed,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = text(spec, "priorityClassName");
            let named = items(expression, "values").any(|v| v.as_str() == Some(class));
            match operator {
                "In" => !class.is_empty() && named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn crosses_namespaces(spec: &Value) -> bool {
    let affinity = spec.get("affinity").unwrap_or(&Value::Null);
    ["podAffinity", "podAntiAffinity"].iter().filter_map(|kind| affinity.get(kind)).any(|kind| {
        let required = items(kind, "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = items(kind, "preferredDuringSchedulingIgnoredDuringExecution");
        required
            .chain(preferred.filter_map(|weighted| weighted.get("podAffinityTerm")))
            .any(|term| term.get("namespaceSelector").is_some() || items(term, "namespaces").next().is_some())
    })
}

/// Amounts that a pod must state where a quota counts them, with the containers that do not.
pub(super) fn unspecified(resource: &Resource, object: &Object, hard: &Amounts) -> String {
    const STATED: &[(&str, &str, &str)] = &[
        ("cpu", "requests", "cpu"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
    ];
    if !is(resource, "pods") {
        return String::new();
    }
    let spec = object.0.get("spec").unwrap_or(&Value::Null);
    let all: Vec<&Value> = items(spec, "containers").chain(items(spec, "initContainers")).collect();
    let mut told = Vec::new();
    for (name, list, amount) in STATED.iter().filter(|(name, _, _)| hard.contains_key(*name)) {
        let stated = |of: &Value| of.get("resources").and_then(|r| r.get(list)?.get(amount)).is_some();
        if stated(spec) {
            continue;
        }
        let mut silent: Vec<&str> = all.iter().filter(|c| !stated(c)).map(|c| text(c, "name")).collect();
        silent.sort_unstable();
        if !silent.is_empty() {
            told.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    told.join("; ")
}
