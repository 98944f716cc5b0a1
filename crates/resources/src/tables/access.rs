//! Who may do what, and what may pass: bindings, certificates, webhooks, policies, flow control.

use api::Object;
use jiff::Timestamp;
use registry::Cell;
use serde_json::Value;

use super::cells::{self, NONE, UNSET, age, condition, count, is_true, list, number, or, plain, string};
use super::{AGE, NAME, Spec, Table, free, text};

const ROLE_BINDING: &[Spec] = &[
    NAME,
    text("Role", "api.rbac.v1.RoleBinding", "roleRef"),
    AGE,
    free("Users", "string", "Users in the roleBinding").wide(),
    free("Groups", "string", "Groups in the roleBinding").wide(),
    free("ServiceAccounts", "string", "ServiceAccounts in the roleBinding").wide(),
];
const CLUSTER_ROLE_BINDING: &[Spec] = &[
    NAME,
    text("Role", "api.rbac.v1.ClusterRoleBinding", "roleRef"),
    AGE,
    free("Users", "string", "Users in the clusterRoleBinding").wide(),
    free("Groups", "string", "Groups in the clusterRoleBinding").wide(),
    free("ServiceAccounts", "string", "ServiceAccounts in the clusterRoleBinding").wide(),
];

pub fn role_binding() -> Table {
    Table::new(ROLE_BINDING, binding_row)
}

pub fn cluster_role_binding() -> Table {
    Table::new(CLUSTER_ROLE_BINDING, binding_row)
}

fn binding_row(o: &Object, now: Timestamp) -> Vec<Cell> {
    let subjects = |kind: &str| -> Cell {
        let of_kind = list(o, &["subjects"]).iter().filter(|s| string(s, "kind") == kind);
        let names = of_kind.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", string(s, "namespace"), string(s, "name")),
            _ => string(s, "name").to_owned(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    let role = format!("{}/{}", o.get_str(&["roleRef", "kind"]), o.get_str(&["roleRef", "name"]));
    vec![
        o.name().into(),
        role.into(),
        age(o, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub fn certificate_signing_request() -> Table {
    const SPEC: &str = "api.certificates.v1.CertificateSigningRequestSpec";
    const SPECS: &[Spec] = &[
        NAME,
        AGE,
        text("SignerName", SPEC, "signerName"),
        text("Requestor", SPEC, "request"),
        text("RequestedDuration", SPEC, "expirationSeconds"),
        text("Condition", "api.certificates.v1.CertificateSigningRequestStatus", "conditions"),
    ];
    Table::new(SPECS, |o, now| {
        let asked = o.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64);
        let asked = asked.map(|s| cells::short(jiff::SignedDuration::from_secs(s)));
        let has = |kind: &str| condition(o, kind).is_some();
        let mut state = match () {
            () if has("Denied") => "Denied".to_owned(),
            () if has("Approved") => "Approved".to_owned(),
            () => "Pending".to_owned(),
        };
        if has("Failed") {
            state.push_str(",Failed");
        }
        if !o.get_str(&["status", "certificate"]).is_empty() {
            state.push_str(",Issued");
        }
        vec![
            o.name().into(),
            age(o, now),
            cells::text(o, &["spec", "signerName"], NONE),
            o.get_str(&["spec", "username"]).into(),
            asked.unwrap_or_else(|| NONE.into()).into(),
            state.into(),
        ]
    })
}

pub fn webhook_configuration() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free(
            "Webhooks",
            "integer",
            "Webhooks indicates the number of webhooks registered in this configuration",
        ),
        AGE,
    ];
    Table::new(SPECS, |o, now| vec![o.name().into(), count(o, &["webhooks"]).into(), age(o, now)])
}

fn param_kind(o: &Object) -> String {
    let kind = o.get(&["spec", "paramKind"]);
    kind.map_or_else(|| UNSET.into(), |k| format!("{}/{}", string(k, "apiVersion"), string(k, "kind")))
}

pub fn validating_admission_policy() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free(
            "Validations",
            "integer",
            "Validations indicates the number of validation rules defined in this configuration",
        ),
        free(
            "ParamKind",
            "string",
            "ParamKind specifies the kind of resources used to parameterize this policy",
        ),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), count(o, &["spec", "validations"]).into(), param_kind(o).into(), age(o, now)]
    })
}

pub fn mutating_admission_policy() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free(
            "Mutations",
            "integer",
            "Mutation indicates the number of mutations rules defined in this configuration",
        ),
        free(
            "ParamKind",
            "string",
            "ParamKind specifies the kind of resources used to parameterize this policy",
        ),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), count(o, &["spec", "mutations"]).into(), param_kind(o).into(), age(o, now)]
    })
}

/// A label selector with its fields spelled out: the form of Go's generated `String()`.
fn spelled(selector: &Value) -> String {
    use std::fmt::Write as _;
    let mut labels = String::new();
    let mut pairs: Vec<(&String, &Value)> =
        selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten().collect();
    pairs.sort_by_key(|(key, _)| *key);
    for (key, value) in pairs {
        let _ = write!(labels, "{key}: {},", plain(value));
    }
    let mut expressions = String::new();
    for one in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let values = one.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.map(plain).collect::<Vec<_>>().join(" ");
        let (key, operator) = (string(one, "key"), string(one, "operator"));
        let _ = write!(
            expressions,
            "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},"
        );
    }
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// Of both kinds of admission policies.
pub fn policy_binding() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free(
            "PolicyName",
            "string",
            "PolicyName indicates the policy definition which the policy binding binded to",
        ),
        free("ParamRef", "string", "ParamRef indicates the param resource which sets the configration param"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let reference = o.get(&["spec", "paramRef"]).map_or_else(
            || UNSET.to_owned(),
            |p| match (string(p, "namespace"), string(p, "name")) {
                (_, "") => p.get("selector").map_or_else(|| UNSET.to_owned(), spelled),
                ("", name) => format!("*/{name}"),
                (namespace, name) => format!("{namespace}/{name}"),
            },
        );
        vec![o.name().into(), o.get_str(&["spec", "policyName"]).into(), reference.into(), age(o, now)]
    })
}

pub fn flow_schema() -> Table {
    const SPEC: &str = "api.flowcontrol.v1.FlowSchemaSpec";
    const SPECS: &[Spec] = &[
        NAME,
        text("PriorityLevel", "api.flowcontrol.v1.PriorityLevelConfigurationReference", "name"),
        text("MatchingPrecedence", SPEC, "matchingPrecedence"),
        text("DistinguisherMethod", SPEC, "distinguisherMethod"),
        AGE,
        free("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
    ];
    Table::new(SPECS, |o, now| {
        let dangling = condition(o, "Dangling").map(|c| string(c, "status")).unwrap_or_default();
        vec![
            o.name().into(),
            o.get_str(&["spec", "priorityLevelConfiguration", "name"]).into(),
            number(o, &["spec", "matchingPrecedence"]).into(),
            cells::text(o, &["spec", "distinguisherMethod", "type"], NONE),
            age(o, now),
            or(dangling, "?").into(),
        ]
    })
    .order(|one, other| {
        // As they are tried.
        let rank = |o| number(o, &["spec", "matchingPrecedence"]);
        rank(one).cmp(&rank(other)).then_with(|| one.name().cmp(other.name()))
    })
}

pub fn priority_level_configuration() -> Table {
    const LIMITED: &str = "api.flowcontrol.v1.LimitedPriorityLevelConfiguration";
    const QUEUING: &str = "api.flowcontrol.v1.QueuingConfiguration";
    const SPECS: &[Spec] = &[
        NAME,
        text("Type", "api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type"),
        text("NominalConcurrencyShares", LIMITED, "nominalConcurrencyShares"),
        text("Queues", QUEUING, "queues"),
        text("HandSize", QUEUING, "handSize"),
        text("QueueLengthLimit", QUEUING, "queueLengthLimit"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let limited = o.get(&["spec", "limited"]);
        let queuing = limited.and_then(|l| l.get("limitResponse")?.get("queuing"));
        let of = |from: Option<&Value>, field: &str| -> Cell {
            from.map_or_else(|| NONE.into(), |v| v.get(field).cloned().unwrap_or_else(|| 0.into()))
        };
        vec![
            o.name().into(),
            o.get_str(&["spec", "type"]).into(),
            of(limited, "nominalConcurrencyShares"),
            of(queuing, "queues"),
            of(queuing, "handSize"),
            of(queuing, "queueLengthLimit"),
            age(o, now),
        ]
    })
}

pub fn api_service() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Service", "string", "The reference to the service that hosts this API endpoint."),
        free("Available", "string", "Whether this service is available."),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let service = o.get(&["spec", "service"]).map_or_else(
            || "Local".to_owned(),
            |s| format!("{}/{}", string(s, "namespace"), string(s, "name")),
        );
        let available = match condition(o, "Available") {
            None => "Unknown".to_owned(),
            Some(_) if is_true(o, "Available") => "True".to_owned(),
            Some(c) => {
                format!("{} ({})", string(c, "status"), c.get("reason").map(plain).unwrap_or_default())
            }
        };
        vec![o.name().into(), service.into(), available.into(), age(o, now)]
    })
}

pub fn cluster_trust_bundle() -> Table {
    const SPECS: &[Spec] =
        &[NAME, text("SignerName", "api.certificates.v1.ClusterTrustBundleSpec", "signerName")];
    Table::new(SPECS, |o, _| vec![o.name().into(), cells::text(o, &["spec", "signerName"], NONE)])
}

pub fn pod_certificate_request() -> Table {
    const SPEC: &str = "api.certificates.v1.PodCertificateRequestSpec";
    const SPECS: &[Spec] = &[
        NAME,
        text("PodName", SPEC, "podName"),
        text("ServiceAccountName", SPEC, "serviceAccountName"),
        text("NodeName", SPEC, "nodeName"),
        text("SignerName", SPEC, "signerName"),
        free("State", "string", "Whether the request is pending, or how it ended."),
    ];
    Table::new(SPECS, |o, _| {
        let ended = ["Issued", "Denied", "Failed"].into_iter().find(|kind| is_true(o, kind));
        let field = |name: &str| cells::text(o, &["spec", name], "");
        vec![
            o.name().into(),
            field("podName"),
            field("serviceAccountName"),
            field("nodeName"),
            field("signerName"),
            ended.unwrap_or("Pending").into(),
        ]
    })
}

pub fn storage_version_migration() -> Table {
    const SPECS: &[Spec] = &[
        text("Name", super::META, "name"),
        text("Resource", "api.storagemigration.v1.StorageVersionMigrationSpec", "resource"),
    ];
    Table::new(SPECS, |o, _| {
        // Written with the dot for the core group too, as upstream does.
        let part = |name: &str| o.get_str(&["spec", "resource", name]);
        vec![o.name().into(), format!("{}.{}", part("resource"), part("group")).into()]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_of_parameters_are_spelled_out() {
        let selector = json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]});
        assert_eq!(
            spelled(&selector),
            "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
        );
    }

    #[test]
    fn flow_schemas_stand_in_the_order_they_are_tried() {
        let schema = |name: &str, precedence: i64| {
            let value = json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence}});
            let Value::Object(map) = value else { panic!("an object is a map") };
            Object(map)
        };
        let mut all = [schema("b", 9), schema("c", 1), schema("a", 9)];
        all.sort_by(|one, other| registry::Table::order(&flow_schema(), one, other));
        assert_eq!(all.each_ref().map(Object::name), ["c", "a", "b"]);
    }
}
