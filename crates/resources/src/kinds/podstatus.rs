//! Faults of a pod's status: what the kubelet may say, and what may follow on what it said before.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{Bare, Errors};
use api::{Object, names};

use crate::at::At;

/// Conditions with a meaning of their own; all others are named `domain/name`.
const CONDITIONS: &[&str] = &["Initialized", "PodScheduled", "Ready"];

const RULES: &str = "restartPolicyRules";

/// Faults of a changed status.
pub(super) fn validate(new: &Object, old: &Object, errors: &mut Errors) {
    let (status, before) = (At::of(new, "status"), At::of(old, "status"));
    let spec = At::of(old, "spec");
    for condition in status.items("conditions") {
        generation(&condition, errors);
        let kind = condition.str("type");
        if !CONDITIONS.contains(&kind) {
            for fault in names::qualified_name(kind) {
                errors.invalid(&condition.path.child("Type"), kind, fault);
            }
        }
    }
    let node = spec.str("nodeName");
    if new.get_str(&["spec", "nodeName"]) != node {
        errors.forbidden(&status.path.child("nodeName"), "may not be changed directly");
    }
    let nominated = status.str("nominatedNodeName");
    if !nominated.is_empty() && nominated != before.str("nominatedNodeName") {
        status.check("nominatedNodeName", names::dns1123_subdomain, errors);
        if !node.is_empty() {
            let words = "may not be set on pods that are already bound to a node";
            errors.forbidden(&status.path.child("nominatedNodeName"), words);
        }
    }
    generation(&status, errors);
    ended(&status, &before, "containerStatuses", &spec, errors);
    ended(&status, &before, "initContainerStatuses", &spec, errors);
    ended(&status, &before, "ephemeralContainerStatuses", &spec, errors);
    claims(&status, &At::of(new, "spec"), errors);
    addresses(&status, "podIP", "podIPs", errors);
    addresses(&status, "hostIP", "hostIPs", errors);
}

fn generation(at: &At<'_>, errors: &mut Errors) {
    if let Some(n) = at.i64("observedGeneration").filter(|n| *n < 0) {
        at.invalid("observedGeneration", n, "must be a non-negative integer", errors);
    }
}

/// What became of each of the pod's claims of devices is said once.
fn claims(status: &At<'_>, spec: &At<'_>, errors: &mut Errors) {
    let known: BTreeSet<&str> = spec.items("resourceClaims").iter().map(|k| k.str("name")).collect();
    let mut seen = BTreeSet::new();
    for claim in status.items("resourceClaimStatuses") {
        let name = claim.str("name");
        let again = !seen.insert(name);
        if !known.contains(name) {
            let words = "must match the name of an entry in `spec.resourceClaims`";
            claim.invalid("name", name, words, errors);
        }
        if again {
            errors.duplicate(&claim.path.child("name"), name);
        }
        if claim.has("resourceClaimName") {
            claim.check("resourceClaimName", names::dns1123_subdomain, errors);
        }
    }
}

/// At most one of each family. The node's address of old is the first of its list; the pod's is made so.
fn addresses(status: &At<'_>, one: &str, list: &str, errors: &mut Errors) {
    let all = status.items(list);
    let path = status.path.child(list);
    if one == "hostIP"
        && let Some(first) = all.first().filter(|first| first.str("ip") != status.str(one))
    {
        first.invalid("ip", first.str("ip"), "must be equal to `hostIP`", errors);
    }
    for at in &all {
        for fault in names::ip_address(at.str("ip")) {
            errors.invalid(&at.path, at.str("ip"), fault);
        }
    }
    if all.len() > 1 {
        let shown: Vec<&serde_json::Value> = all.iter().map(|a| a.value).collect();
        let shown = Bare(serde_json::json!(shown).to_string());
        let v6 = all.iter().filter(|a| a.str("ip").contains(':')).count();
        if all.len() > 2 || v6 != 1 {
            errors.invalid(&path, shown, "may specify no more than one IP for each IP family");
        }
    }
}

/// A container that has ended for good stays so.
fn ended(new: &At<'_>, old: &At<'_>, list: &str, spec: &At<'_>, errors: &mut Errors) {
    let now = by_name(new.items(list));
    let restarts = Restarts::of(spec, list);
    for (i, before) in old.items(list).iter().enumerate() {
        let Some(last) = before.field("state").some("terminated") else { continue };
        let Some(at) = now.get(before.str("name")) else { continue };
        let code = last.i64("exitCode").unwrap_or(0);
        let again = restarts.as_ref().is_some_and(|r| r.start_again(before.str("name"), code));
        if !again && !at.field("state").has("terminated") {
            let path = new.path.child(list).index(i).child("state");
            errors.forbidden(&path, "may not be transitioned to non-terminated state");
        }
    }
}

/// Items by their names; of equal names the first.
fn by_name(all: Vec<At<'_>>) -> BTreeMap<&str, At<'_>> {
    let mut named = BTreeMap::new();
    for at in all {
        named.entry(at.str("name")).or_insert(at);
    }
    named
}

/// What a pod's spec says of how the containers of a list are started again.
struct Restarts<'a> {
    /// A container may have all the others start again.
    everyone: bool,
    containers: BTreeMap<&'a str, At<'a>>,
    policy: &'a str,
}

impl<'a> Restarts<'a> {
    /// Of the containers whose statuses a list has; none where the kubelet never starts them again.
    fn of(spec: &At<'a>, list: &str) -> Option<Restarts<'a>> {
        let containers = match list {
            "containerStatuses" => "containers",
            "initContainerStatuses" => "initContainers",
            _ => return None,
        };
        let mut all = ["initContainers", "containers"].iter().flat_map(|list| spec.items(list));
        let everyone =
            all.any(|c| c.items(RULES).iter().any(|rule| rule.str("action") == "RestartAllContainers"));
        let containers = by_name(spec.items(containers));
        Some(Restarts { everyone, containers, policy: spec.str("restartPolicy") })
    }

    /// Whether a container is started again when it ends with a code: by its rules, by its own policy, by the
    /// pod's.
    fn start_again(&self, name: &str, code: i64) -> bool {
        if self.everyone {
            return true;
        }
        let container = self.containers.get(name);
        let matches = |rule: &At<'_>| {
            let codes = rule.field("exitCodes");
            let listed = codes.items("values").iter().any(|v| v.value.as_i64() == Some(code));
            rule.str("action") == "Restart" && listed == (codes.str("operator") == "In")
        };
        if container.is_some_and(|c| c.items(RULES).iter().any(matches)) {
            return true;
        }
        let own = container.map_or("", |c| c.str("restartPolicy"));
        match if own.is_empty() { self.policy } else { own } {
            "OnFailure" => code != 0,
            "Never" => false,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use api::field::Path;

    use super::*;

    #[test]
    fn what_ended_stays_ended_where_it_is_not_started_again() {
        let table: &[(&str, &str, i64, bool)] = &[
            ("Always", "{}", 0, true),
            ("OnFailure", "{}", 0, false),
            ("OnFailure", "{}", 1, true),
            ("Never", "{}", 1, false),
            ("Never", r#"{"restartPolicy": "Always"}"#, 0, true),
            (
                "Never",
                r#"{"restartPolicy": "Never", "restartPolicyRules":
                    [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]}"#,
                3,
                true,
            ),
        ];
        for (policy, fields, code, wanted) in table {
            let mut container: serde_json::Value = serde_json::from_str(fields).unwrap();
            container["name"] = "c".into();
            let spec = serde_json::json!({"restartPolicy": policy, "containers": [container]});
            let at = At::new(&spec, Path::new("spec"));
            let restarts = Restarts::of(&at, "containerStatuses").unwrap();
            assert_eq!(restarts.start_again("c", *code), *wanted, "{policy} {fields} {code}");
        }
    }
}
