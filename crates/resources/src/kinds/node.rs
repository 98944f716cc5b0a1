//! Nodes, and the way to their kubelets.

use std::collections::BTreeSet;

use api::field::{Errors, Kind, Path, Shown as _};
use api::{Object, Status, names};
use async_trait::async_trait;
use registry::resource::{Asked, Connect, Target};
use registry::{Engine, RequestContext};
use serde_json::Value;

use crate::at::At;

pub struct Strategy;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        if object.get(&["status", "allocatable"]).is_none()
            && let Some(capacity) = object.get(&["status", "capacity"]).cloned()
        {
            object.set(&["status", "allocatable"], capacity);
        }
        // The range of old and the first of the list are the same; where they differ the old one holds.
        let one = object.get_str(&["spec", "podCIDR"]).to_owned();
        let first = object.get(&["spec", "podCIDRs"]).and_then(|l| l.get(0)?.as_str()).map(str::to_owned);
        match first {
            Some(first) if one.is_empty() => object.set(&["spec", "podCIDR"], first),
            Some(first) if first == one => {}
            _ if one.is_empty() => {}
            _ => object.set(&["spec", "podCIDRs"], serde_json::json!([one])),
        }
    }

    fn keeps_new_status(&self) -> bool {
        true
    }

    /// The kubelet is not configured through its node any more: the field is kept where it is in use.
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        object.remove(&["spec", "configSource"]);
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        if old.get(&["spec", "configSource"]).is_none() {
            new.remove(&["spec", "configSource"]);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        taints(&spec, errors);
        amounts(&At::of(object, "status"), errors);
        pod_cidrs(&spec, errors);
    }

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        let status = At::of(new, "status");
        amounts(&status, errors);
        let mut seen = BTreeSet::new();
        for at in status.items("addresses") {
            let again = !seen.insert(at.value.to_string());
            if again {
                errors.duplicate(&at.path, at.value);
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let path = Path::new("spec");
        let (is, was) = (At::of(new, "spec"), At::of(old, "spec"));
        let (after, before) = (is.items("podCIDRs"), was.items("podCIDRs"));
        // A fault for each range that differs, or one where their number does.
        let faults = match before.len() {
            0 => 0,
            n if n != after.len() => 1,
            _ => before.iter().zip(&after).filter(|(b, a)| b.text() != a.text()).count(),
        };
        for _ in 0..faults {
            let words = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), words);
        }
        let provider = old.get_str(&["spec", "providerID"]);
        if !provider.is_empty() && new.get_str(&["spec", "providerID"]) != provider {
            errors.forbidden(
                &path.child("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
        // Taints are looked at once more than the rest.
        taints(&is, errors);
        if is.str("externalID") != was.str("externalID") {
            errors.forbidden(&path.child("externalID"), "may not be updated");
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        if new.get_str(&["spec", "externalID"]).is_empty() {
            return Vec::new();
        }
        vec!["spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned()]
    }
}

/// Faults of what a node has of each resource; nothing is said of the names.
fn amounts(status: &At<'_>, errors: &mut Errors) {
    for list in ["capacity", "allocatable"] {
        let path = status.path.child(list);
        for (name, amount, at) in status.quantities(list) {
            let extended = name.contains('/') && !name.contains("kubernetes.io/");
            if amount.is_negative() {
                errors.invalid(&path.child(name), at.text(), "must be greater than or equal to 0");
            }
            if (name == "pods" || extended) && !amount.is_integer() {
                errors.invalid(&path.child(name), at.text(), "must be an integer");
            }
        }
    }
}

fn taints(spec: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in spec.items("taints").iter().enumerate() {
        // Their faults have stood under the metadata since the first release.
        let at = At::new(taint.value, Path::new("metadata.taints").index(i));
        at.check("key", names::qualified_name, errors);
        let faults = names::label_value(at.str("value"));
        if !faults.is_empty() {
            at.invalid("value", at.str("value"), &faults.join(";"), errors);
        }
        match at.str("effect") {
            "" => errors.required(&at.path.child("effect"), ""),
            effect if EFFECTS.contains(&effect) => {}
            other => errors.not_supported(&at.path.child("effect"), other, EFFECTS),
        }
        let again = !seen.insert((at.str("key"), at.str("effect")));
        if again {
            errors.push(Kind::Duplicate, &at.path, || {
                format!("Duplicate value: {}: taints must be unique by key and effect pair", at.value.shown())
            });
        }
    }
}

fn pod_cidrs(spec: &At<'_>, errors: &mut Errors) {
    let all = spec.items("podCIDRs");
    let shown = spec.raw("podCIDRs").cloned().unwrap_or_default();
    for at in &all {
        if at.text().parse::<ipnet::IpNet>().is_err() {
            let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&at.path, at.text(), words);
        }
    }
    if all.len() > 1 {
        let v6 = all.iter().filter(|a| a.text().contains(':')).count();
        if all.len() > 2 || v6 != 1 {
            spec.invalid("podCIDRs", &shown, "may specify no more than one CIDR for each IP family", errors);
        }
    }
    let mut seen = BTreeSet::new();
    for at in &all {
        let again = !seen.insert(at.text());
        if again {
            errors.duplicate(&at.path, at.text());
        }
    }
}

/// How a node's kubelet is reached, by the addresses and the port of its status.
///
/// # Errors
/// The node is not there, or has told no address yet.
pub fn kubelet(engine: &Engine, name: &str, path: String) -> Result<Target, Status> {
    let nodes = engine.resource("", "nodes").ok_or_else(Status::path_not_found)?;
    let item = engine.cache("", "nodes").and_then(|c| c.get(name));
    let node = item.ok_or_else(|| Status::not_found(&nodes.group_resource(), name))?.object()?;
    address(&node, path)
}

fn address(node: &Object, path: String) -> Result<Target, Status> {
    let all = node.get(&["status", "addresses"]).and_then(Value::as_array);
    let find = |kind: &str| {
        let found = all.into_iter().flatten().find(|a| a.get("type").and_then(Value::as_str) == Some(kind));
        found.and_then(|a| a.get("address")?.as_str())
    };
    let host = find("InternalIP").or_else(|| find("Hostname")).or_else(|| find("ExternalIP"));
    let host =
        host.ok_or_else(|| Status::unavailable(format!("node {} has told no address", node.name())))?;
    let port = node.get(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
    let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(10250);
    Ok(Target { scheme: "https", host: host.to_owned(), port, path, kubelet: true })
}

/// `nodes/NAME/proxy/…`
pub struct Proxy;

#[async_trait]
impl Connect for Proxy {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["create", "delete", "get", "patch", "update"]
    }

    fn is_proxy(&self) -> bool {
        true
    }

    async fn target(&self, _: &Engine, node: &Object, asked: &Asked<'_>) -> Result<Option<Target>, Status> {
        let own = address(node, super::pod::with_query(asked.path, asked.query))?;
        let port = asked.port_or(own.port)?;
        // A kubelet's own port is spoken to as a kubelet, whatever scheme is asked for.
        let kubelet = port == own.port;
        let scheme = if kubelet { own.scheme } else { "http" };
        Ok(Some(Target { scheme, port, kubelet, ..own }))
    }
}

#[cfg(test)]
mod tests {
    use registry::Strategy as _;
    use serde_json::json;

    use super::*;
    use crate::testing::{object, told};

    /// What is said where a node with one spec gets another, each as it is after defaulting.
    fn check(old: Value, new: Value, faults: &[&str]) {
        let node = |spec: &Value| {
            let mut node = object(json!({"metadata": {"name": "n"}, "spec": spec}));
            Strategy.default(&mut node);
            node
        };
        let mut errors = Errors::default();
        Strategy.validate_update(&node(&new), &node(&old), &mut errors);
        assert_eq!(told(&errors), faults, "{old} {new}");
    }

    #[test]
    fn ranges_of_pods_are_set_once() {
        const KEPT: &str =
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid";
        let one = || json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]});
        let two = || json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]});
        check(json!({}), one(), &[]);
        check(json!({}), json!({"podCIDR": "10.0.0.0/24"}), &[]);
        check(json!({}), two(), &[]);
        check(one(), one(), &[]);
        check(one(), json!({"podCIDR": "10.0.0.0/24"}), &[]);
        check(one(), json!({}), &[KEPT]);
        check(one(), json!({"podCIDR": "10.0.1.0/24"}), &[KEPT]);
        check(one(), json!({"podCIDRs": ["10.0.1.0/24"]}), &[KEPT]);
        check(one(), two(), &[KEPT]);
        check(two(), one(), &[KEPT]);
        // Each range that differs is told of.
        check(two(), json!({"podCIDRs": ["fd00::/64", "10.0.0.0/24"]}), &[KEPT, KEPT]);
        check(two(), json!({"podCIDRs": ["10.0.0.0/24", "fd01::/64"]}), &[KEPT]);
    }

    #[test]
    fn ranges_of_pods_are_ranges_one_of_each_family() {
        let check = |ranges: &[&str], faults: &[&str]| check(json!({}), json!({"podCIDRs": ranges}), faults);
        let of_family = |shown: &str| {
            format!(
                "spec.podCIDRs: Invalid value: {shown}: may specify no more than one CIDR for each IP family"
            )
        };
        check(
            &["bad"],
            &[
                "spec.podCIDRs[0]: Invalid value: \"bad\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
        );
        check(&["10.0.0.0/24", "10.0.1.0/24"], &[&of_family(r#"["10.0.0.0/24","10.0.1.0/24"]"#)]);
        check(
            &["10.0.0.0/24", "fd00::/64", "10.0.1.0/24"],
            &[&of_family(r#"["10.0.0.0/24","fd00::/64","10.0.1.0/24"]"#)],
        );
    }
}
