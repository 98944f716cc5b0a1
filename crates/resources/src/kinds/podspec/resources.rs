//! Faults of resources: their names and amounts, requests against limits, claims of devices.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{Errors, Kind};
use api::{Quantity, names};

use crate::at::At;

/// What holds a resource list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Container,
    /// A pod as a whole.
    Pod,
    Other,
}

/// Resources that have a name of their own, without a domain.
const STANDARD: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];

/// Those of them that are counted in whole numbers.
const WHOLE: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn extended(name: &str) -> bool {
    !native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn overcommittable(name: &str) -> bool {
    native(name) && !huge(name)
}

/// Faults of a resource's name.
pub(crate) fn resource_name(name: &str, at: &At<'_>, place: Place, errors: &mut Errors) {
    let before = errors.len();
    for fault in names::qualified_name(name) {
        errors.invalid(&at.path, name, fault);
    }
    let standard = STANDARD.contains(&name) || huge(name) || name.starts_with("requests.hugepages-");
    if errors.len() == before && !name.contains('/') && !standard {
        errors.invalid(&at.path, name, "must be a standard resource type or fully qualified");
    }
    let is_sound = errors.len() == before;
    match place {
        Place::Pod if is_sound && !matches!(name, "cpu" | "memory") && !huge(name) => {
            errors.not_supported(&at.path, name, &["cpu", "hugepages-", "memory"]);
        }
        Place::Container if name.contains('/') && !native(name) && !extended(name) => {
            errors.invalid(&at.path, name, "doesn't follow extended resource name standard");
        }
        Place::Container
            if !name.contains('/')
                && !matches!(name, "cpu" | "memory" | "ephemeral-storage")
                && !huge(name) =>
        {
            errors.invalid(&at.path, name, "must be a standard resource for containers");
        }
        _ => {}
    }
}

/// Faults of an amount of a resource.
pub(crate) fn quantity(name: &str, amount: Quantity, at: &At<'_>, place: Place, errors: &mut Errors) {
    resource_name(name, at, place, errors);
    if amount.is_negative() {
        errors.invalid(&at.path, at.text(), "must be greater than or equal to 0");
    }
    let whole = WHOLE.contains(&name) || extended(name);
    if whole && !amount.is_integer() {
        errors.invalid(&at.path, at.text(), "must be an integer");
    }
}

/// Huge pages are had by whole pages.
fn pages(name: &str, amount: Quantity, at: &At<'_>, errors: &mut Errors) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let size = Quantity::parse(size).ok().filter(|s| s.is_integer() && s.value() > 0);
    if size.is_none_or(|s| amount.value() % s.value() != 0) {
        let words = format!("{amount} is not positive integer multiple of {name}");
        errors.invalid(&at.path, at.text(), words);
    }
}

/// Faults of `resources`. `claims` are the names of the pod's claims of devices.
pub(super) fn resources(at: &At<'_>, place: Place, claims: &BTreeSet<&str>, errors: &mut Errors) {
    let limits = at.quantities("limits");
    let requests = at.quantities("requests");
    // A request above its limit is told of at the list.
    let asked = at.path.child("requests");
    let limit_of = |name: &str| limits.iter().find(|(n, _, _)| *n == name).map(|(_, q, _)| *q);
    for (name, amount, entry) in &limits {
        quantity(name, *amount, entry, place, errors);
        pages(name, *amount, entry, errors);
    }
    for (name, amount, entry) in &requests {
        quantity(name, *amount, entry, place, errors);
        match limit_of(name) {
            Some(limit) if *amount != limit && !overcommittable(name) => {
                errors.invalid(&asked, entry.text(), format!("must be equal to {name} limit of {limit}"))
            }
            Some(limit) if *amount > limit => errors.invalid(
                &asked,
                entry.text(),
                format!("must be less than or equal to {name} limit of {limit}"),
            ),
            None if !overcommittable(name) => errors
                .required(&at.path.child("limits"), "Limit must be set for non overcommitable resources"),
            _ => {}
        }
        pages(name, *amount, entry, errors);
    }
    let any = |wanted: fn(&str) -> bool| limits.iter().chain(&requests).any(|(name, _, _)| wanted(name));
    if any(huge) && !any(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(&at.path, "HugePages require cpu or memory");
    }
    claim_names(at, claims, errors);
}

/// Each claim that is used is one of the pod's, and is used once.
fn claim_names(at: &At<'_>, known: &BTreeSet<&str>, errors: &mut Errors) {
    let mut which: Option<String> = None;
    // Of a claim's requests: `""` is the whole of it.
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for claim in at.items("claims") {
        let (name, request) = (claim.str("name"), claim.str("request"));
        if name.is_empty() {
            errors.required(&claim.path, "");
            continue;
        }
        let requests = seen.entry(name).or_default();
        if requests.contains("") {
            errors.duplicate(&claim.path, name);
        } else {
            claim.check_if_set("request", names::dns1123_label, errors);
            if request.is_empty() {
                for _ in requests.iter() {
                    errors.duplicate(&claim.path, name);
                }
            } else if requests.contains(request) {
                errors.duplicate(&claim.path, format!("{name}/{request}"));
            }
            requests.insert(request);
        }
        if !known.contains(name) {
            let which = which.get_or_insert_with(|| {
                let names: Vec<&str> = known.iter().copied().collect();
                if names.is_empty() {
                    " which is empty".to_owned()
                } else {
                    format!(": {}", names.join(", "))
                }
            });
            errors.push(Kind::NotFound, &claim.path, || {
                let name = api::field::quote(name);
                format!("Not found: {name}: must be one of the names in pod.spec.resourceClaims{which}")
            });
        }
    }
}

/// Resources of the pod as a whole: of a few kinds, and not less than its containers ask for together.
pub(super) fn of_pod(spec: &At<'_>, claims: &BTreeSet<&str>, errors: &mut Errors) {
    let Some(at) = spec.some("resources") else { return };
    if spec.field("os").str("name") == "windows" {
        errors.forbidden(&at.path, "may not be set for a windows pod");
        return;
    }
    if at.has("claims") {
        errors.forbidden(&at.path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    resources(&at, Place::Pod, claims, errors);
    for (name, amount, entry) in at.quantities("requests") {
        if let Some(sum) = together(spec, "requests", name).filter(|sum| *sum > amount) {
            let words = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&entry.path, entry.text(), words);
        }
    }
    let limits = at.quantities("limits");
    for (name, amount, entry) in limits.iter().filter(|(name, _, _)| huge(name)) {
        if let Some(sum) = together(spec, "limits", name).filter(|sum| sum > amount) {
            let words = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(&entry.path, entry.text(), words);
        }
    }
    let path = at.path.child("containers");
    for (i, container) in spec.items("containers").iter().enumerate() {
        for (name, own, entry) in container.field("resources").quantities("limits") {
            let whole = limits.iter().find(|(n, _, _)| *n == name).map(|(_, q, _)| *q);
            if let Some(whole) = whole.filter(|whole| own > *whole) {
                let words = format!("must be less than or equal to pod limits of {whole}");
                errors.invalid(&path.index(i).key(name).child("limits"), entry.text(), words);
            }
        }
    }
}

/// How much of a resource the containers have in a list together: those that run at the same time, or one
/// that prepares the pod, if that is more. Nothing where none names the resource.
pub(super) fn together(spec: &At<'_>, list: &str, name: &str) -> Option<Quantity> {
    let amount = |container: &At<'_>| {
        let resources = container.field("resources").field(list);
        resources.raw(name).and_then(crate::at::quantity)
    };
    let mut named = false;
    let mut running = Quantity::ZERO;
    for own in spec.items("containers").iter().filter_map(amount) {
        named = true;
        running = running + own;
    }
    let (mut sidecars, mut most) = (Quantity::ZERO, Quantity::ZERO);
    for container in spec.items("initContainers") {
        let Some(own) = amount(&container) else { continue };
        named = true;
        let now = sidecars + own;
        if container.str("restartPolicy") == "Always" {
            running = running + own;
            sidecars = now;
        }
        most = most.max(now);
    }
    named.then(|| running.max(most))
}
