use expect_test::{Expect, expect};
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::json;

use super::*;
use crate::authorize::Chain;
use crate::bootstrap;

fn rbac() -> Rbac {
    let rbac = Rbac::default();
    rbac.put_policy(&bootstrap::policy());
    let role = json!({"metadata": {"name": "r", "namespace": "d"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get", "update"]},
        {"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["*"]},
    ]});
    rbac.put_role(&serde_json::from_value(role).unwrap());
    let binding = json!({"metadata": {"name": "rb", "namespace": "d"},
        "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "sa"}]});
    rbac.put_role_binding(&serde_json::from_value(binding).unwrap());
    rbac
}

fn check(attributes: Attributes, expect: Expect) {
    let verdict = rbac().authorize(&attributes);
    let text = match verdict.decision {
        crate::authorize::Decision::Allow => verdict.reason,
        _ => attributes.forbidden(&verdict.reason).message,
    };
    expect.assert_eq(&text);
}

#[test]
fn decisions_and_their_words() {
    let jane = User::new("jane", ["devs"]);
    let pods = |verb| Attributes::resource(&jane, verb, "", "pods").namespace("d");
    check(pods("list"), expect![[r#"RBAC: allowed by RoleBinding "rb/d" of Role "r" to User "jane""#]]);
    check(
        pods("create"),
        expect![[
            r#"pods is forbidden: User "jane" cannot create resource "pods" in API group "" in the namespace "d""#
        ]],
    );
    check(
        pods("get").subresource("log").name("x"),
        expect![[
            r#"pods "x" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "d""#
        ]],
    );
    check(
        Attributes::resource(&jane, "list", "", "pods"),
        expect![[
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#
        ]],
    );
    check(
        Attributes::resource(&jane, "update", "apps", "deployments").subresource("scale").namespace("d"),
        expect![[r#"RBAC: allowed by RoleBinding "rb/d" of Role "r" to User "jane""#]],
    );
    check(
        Attributes::resource(&jane, "get", "", "configmaps").namespace("d").name("b"),
        expect![[
            r#"configmaps "b" is forbidden: User "jane" cannot get resource "configmaps" in API group "" in the namespace "d""#
        ]],
    );
    check(
        Attributes::path(&jane, "get", "/apis/apps"),
        expect![[
            r#"RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated""#
        ]],
    );
    let nobody = User::anonymous();
    check(
        Attributes::path(&nobody, "get", "/api"),
        expect![[r#"forbidden: User "system:anonymous" cannot get path "/api""#]],
    );
    let account = User::service_account("d", "sa", "1");
    check(
        Attributes::resource(&account, "get", "", "pods").namespace("d"),
        expect![[r#"RBAC: allowed by RoleBinding "rb/d" of Role "r" to ServiceAccount "sa""#]],
    );
}

#[test]
fn what_goes_away_grants_nothing() {
    let rbac = rbac();
    let jane = User::new("jane", ["devs"]);
    let asked = Attributes::resource(&jane, "get", "", "pods").namespace("d");
    assert!(rbac.authorize(&asked).allowed());
    rbac.remove_role("d", "r");
    assert!(!rbac.authorize(&asked).allowed());
    let rbac = self::rbac();
    rbac.remove_role_binding("d", "rb");
    assert!(!rbac.authorize(&asked).allowed());
    assert!(!rbac.read(|index| index.users.contains_key("jane")));
}

#[test]
fn masters_pass_and_the_chain_joins_reasons() {
    struct Says(&'static str);
    impl Authorizer for Says {
        fn authorize(&self, _: &Attributes) -> Verdict {
            Verdict::no_opinion(self.0)
        }
    }
    let chain = Chain::new(vec![Arc::new(Says("a")), Arc::new(rbac()), Arc::new(Says("b"))]);
    let root = User::new("root", ["system:masters"]);
    assert!(chain.authorize(&Attributes::path(&root, "post", "/x")).allowed());
    let jane = User::new("jane", ["devs"]);
    let refused = chain.check(&Attributes::path(&jane, "post", "/x")).unwrap_err();
    assert_eq!(refused.message, "forbidden: User \"jane\" cannot post path \"/x\": a\nb");
    assert_eq!(refused.code, 403);
}

#[test]
fn aggregation_makes_admin_edit_and_view() {
    let mut roles = bootstrap::policy().cluster_roles;
    // The controller goes round until nothing changes: view, then edit, then admin.
    for _ in 0..3 {
        let next: Vec<ClusterRole> = roles
            .iter()
            .map(|role| {
                let rules = escalation::aggregate(role, roles.iter());
                ClusterRole { rules: rules.or(role.rules.clone()), ..role.clone() }
            })
            .collect();
        roles = next;
    }
    let count = |name: &str| {
        let role = roles.iter().find(|r| r.metadata.name.as_deref() == Some(name)).unwrap();
        role.rules.as_ref().unwrap().len()
    };
    let all = count("system:aggregate-to-view")
        + count("system:aggregate-to-edit")
        + count("system:aggregate-to-admin");
    assert_eq!(count("admin"), all);
    assert_eq!(count("view"), count("system:aggregate-to-view"));
}

#[test]
fn nobody_grants_what_he_lacks() {
    let rbac = rbac();
    let jane = User::new("jane", ["devs"]);
    let rules: Vec<PolicyRule> = serde_json::from_value(json!([
        {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "delete"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
    ]))
    .unwrap();
    let refused = rbac.confirm_no_escalation(&jane, "d", &rules).unwrap_err();
    expect![[r#"
        user "jane" (groups=["devs" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:
        {APIGroups:[""], Resources:["configmaps"], Verbs:["get"]}
        {APIGroups:[""], Resources:["pods"], Verbs:["delete"]}
        {APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete"]}"#]]
    .assert_eq(&refused.to_string());
    assert!(rbac.confirm_no_escalation(&jane, "d", &rules[1..2]).is_ok());
    let root = User::new("root", ["system:masters"]);
    assert!(rbac.confirm_no_escalation(&root, "", &rules).is_ok());
    assert!(!escalation::may_escalate(&rbac, &jane, "d", "r"));
    assert!(escalation::may_bind(&rbac, &root, true, "", "cluster-admin"));
}
