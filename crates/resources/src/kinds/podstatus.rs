//! Faults of a pod's status: what the kubelet may say, and what may follow on what it said before.

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
    let known = spec.items("resourceClaims");
    let all = status.items("resourceClaimStatuses");
    for (i, claim) in all.iter().enumerate() {
        let name = claim.str("name");
        if !known.iter().any(|k| k.str("name") == name) {
            let words = "must match the name of an entry in `spec.resourceClaims`";
            claim.invalid("name", name, words, errors);
        }
        if all[..i].iter().any(|c| c.str("name") == name) {
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
    let now = new.items(list);
    for (i, before) in old.items(list).iter().enumerate() {
        let Some(last) = before.field("state").some("terminated") else { continue };
        let Some(at) = now.iter().find(|c| c.str("name") == before.str("name")) else { continue };
        let again = starts_again(spec, list, before.str("name"), last.i64("exitCode").unwrap_or(0));
        if !again && !at.field("state").has("terminated") {
            let path = new.path.child(list).index(i).child("state");
            errors.forbidden(&path, "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether a container is started again when it ends with a code: by its rules, by its own policy, by the pod's.
fn starts_again(spec: &At<'_>, list: &str, name: &str, code: i64) -> bool {
    let containers = match list {
        "containerStatuses" => "containers",
        "initContainerStatuses" => "initContainers",
        // The kubelet never starts these again.
        _ => return false,
    };
    let mut everyone = ["initContainers", "containers"].iter().flat_map(|list| spec.items(list));
    if everyone.any(|c| c.items(RULES).iter().any(|rule| rule.str("action") == "RestartAllContainers")) {
        return true;
    }
    let all = spec.items(containers);
    let container = all.iter().find(|c| c.str("name") == name);
    let matches = |rule: &At<'_>| {
        let codes = rule.field("exitCodes");
        let listed = codes.items("values").iter().any(|v| v.value.as_i64() == Some(code));
        rule.str("action") == "Restart" && listed == (codes.str("operator") == "In")
    };
    if container.is_some_and(|c| c.items(RULES).iter().any(matches)) {
        return true;
    }
    let own = container.map_or("", |c| c.str("restartPolicy"));
    match if own.is_empty() { spec.str("restartPolicy") } else { own } {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
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
            assert_eq!(
                starts_again(&at, "containerStatuses", "c", *code),
                *wanted,
                "{policy} {fields} {code}"
            );
        }
    }
}
