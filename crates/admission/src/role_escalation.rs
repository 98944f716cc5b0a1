//! Nobody grants by roles and bindings what he does not hold himself, unless RBAC lets him `escalate` or
//! `bind`. Upstream has this in the storage of roles and bindings; it is asked at the same point, when mutating
//! admission is done and nothing is validated yet.

use std::sync::Arc;

use api::{Object, Status};
use auth::Access;
use auth::rbac::escalation::{may_bind, may_escalate};
use auth::user::{MASTERS, User};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use registry::{Operation, Verdict};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Plugin, refuse};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(crate) struct RoleEscalation(pub(crate) Arc<Access>);

impl Plugin for RoleEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        request.resource.group == GROUP
            && matches!(request.operation, Operation::Create | Operation::Update)
            && !request.cx.user.in_group(MASTERS)
    }

    fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
        if request.old.is_some_and(|old| only_owners_differ(old, object)) {
            return Ok(());
        }
        if request.resource.plural.ends_with("bindings") {
            self.binding(request, object)
        } else {
            self.role(request, object)
        }
    }
}

impl RoleEscalation {
    fn role(&self, request: &Verdict<'_>, role: &Object) -> Result<(), Status> {
        let user = &request.cx.user;
        if may_escalate(&self.0.chain, user, request.namespace, request.name) {
            return Ok(());
        }
        let rules: Vec<PolicyRule> = part(role, "rules")?.unwrap_or_default();
        self.holds(request, user, &rules)?;
        if role.0.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
            let every = || Some(vec!["*".to_owned()]);
            let all = [
                PolicyRule {
                    verbs: vec!["*".into()],
                    api_groups: every(),
                    resources: every(),
                    ..PolicyRule::default()
                },
                PolicyRule { verbs: vec!["*".into()], non_resource_urls: every(), ..PolicyRule::default() },
            ];
            let held = self.0.rbac.confirm_no_escalation(user, "", &all);
            let why = "must have cluster-admin privileges to use an aggregationRule";
            held.map_err(|_| refuse(request, why))?;
        }
        Ok(())
    }

    fn binding(&self, request: &Verdict<'_>, binding: &Object) -> Result<(), Status> {
        let Some(role) = part::<RoleRef>(binding, "roleRef")? else { return Ok(()) };
        let user = &request.cx.user;
        let of_cluster = role.kind == "ClusterRole";
        if may_bind(&self.0.chain, user, of_cluster, request.namespace, &role.name) {
            return Ok(());
        }
        let namespace = Some(request.namespace).filter(|namespace| !namespace.is_empty());
        let Some(rules) = self.0.rbac.rules_of(&role, namespace) else {
            let resource = if of_cluster { "clusterroles" } else { "roles" };
            let kind = api::GroupResource { group: GROUP.into(), resource: resource.into() };
            return Err(Status::not_found(&kind, &role.name));
        };
        self.holds(request, user, &rules)
    }

    fn holds(&self, request: &Verdict<'_>, user: &User, rules: &[PolicyRule]) -> Result<(), Status> {
        let held = self.0.rbac.confirm_no_escalation(user, request.namespace, rules);
        held.map_err(|lack| refuse(request, &lack.to_string()))
    }
}

fn part<T: DeserializeOwned>(object: &Object, name: &str) -> Result<Option<T>, Status> {
    let Some(value) = object.0.get(name) else { return Ok(None) };
    T::deserialize(value).map(Some).map_err(|error| Status::bad_request(format!("{name}: {error}")))
}

/// Whether an update touches only what garbage collection needs to: owners and finalizers.
fn only_owners_differ(old: &Object, new: &Object) -> bool {
    let rest = |object: &Object| {
        let mut copy = object.clone();
        if let Some(Value::Object(metadata)) = copy.0.get_mut("metadata") {
            for name in ["ownerReferences", "finalizers", "managedFields"] {
                metadata.remove(name);
            }
        }
        copy
    };
    rest(old) == rest(new)
}
