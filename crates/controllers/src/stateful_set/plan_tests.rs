use std::fmt::Write;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn set(spec: Value) -> StatefulSet {
    let mut set = json!({
        "metadata": {"name": "s", "namespace": "ns", "uid": "s"},
        "spec": {"replicas": 3, "selector": {}, "serviceName": "svc",
            "template": {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": []}}},
        "status": {"replicas": 0, "currentReplicas": 0},
    });
    set["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(set).unwrap()
}

/// `state`: Ready, Running, Failed, or Going (Ready, and being deleted).
fn pod(ordinal: i32, revision: &str, state: &str) -> Value {
    let name = format!("s-{ordinal}");
    let ready = matches!(state, "Ready" | "Going");
    let phase = if ready { "Running" } else { state };
    let deleted = (state == "Going").then_some("2025-01-01T00:00:00Z");
    json!({"metadata": {"name": name, "uid": name, "deletionTimestamp": deleted, "labels": {
            "controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": ordinal.to_string()}},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
}

fn check(set: &StatefulSet, pods: &[Value], expected: Expect) {
    let pods: Vec<_> =
        pods.iter().map(|pod| Arc::new(serde_json::from_value::<Pod>(pod.clone()).unwrap())).collect();
    let version = |name| Version { template: &set.spec.template, name };
    let now = "2025-01-01T00:01:00Z".parse().unwrap();
    let view = View { set, pods: &pods, current: version("old"), update: version("new"), now };
    let plan = plan(&view);
    let mut text = String::new();
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    for action in &plan.actions {
        match action {
            Action::Create { pod, .. } => writeln!(text, "create {} {}", name(pod), revision(pod)).unwrap(),
            Action::Claim { ordinal } => writeln!(text, "claim {ordinal}").unwrap(),
            Action::Identify { pod, .. } => writeln!(text, "identify {}", name(pod)).unwrap(),
            Action::Delete(pod) => writeln!(text, "delete {}", name(pod)).unwrap(),
        }
    }
    let s = &plan.status;
    let n = |count: Option<i32>| count.unwrap_or_default();
    writeln!(
        text,
        "replicas {} ready {} current {} updated {} {}",
        s.replicas,
        n(s.ready_replicas),
        n(s.current_replicas),
        n(s.updated_replicas),
        s.current_revision.as_deref().unwrap()
    )
    .unwrap();
    expected.assert_eq(&text);
}

#[test]
fn one_after_the_other_or_all_at_once() {
    check(
        &set(json!({})),
        &[pod(0, "new", "Running")],
        expect![[r#"
        replicas 1 ready 0 current 0 updated 1 old
    "#]],
    );
    check(
        &set(json!({})),
        &[pod(0, "new", "Ready")],
        expect![[r#"
        create s-1 new
        replicas 2 ready 1 current 0 updated 2 old
    "#]],
    );
    check(
        &set(json!({"podManagementPolicy": "Parallel"})),
        &[pod(0, "new", "Running")],
        expect![[r#"
        create s-1 new
        create s-2 new
        replicas 3 ready 0 current 0 updated 3 old
    "#]],
    );
}

#[test]
fn a_failed_pod_goes_before_another_comes() {
    check(
        &set(json!({})),
        &[pod(0, "new", "Failed")],
        expect![[r#"
        delete s-0
        replicas 1 ready 0 current 0 updated 0 old
    "#]],
    );
}

#[test]
fn the_last_goes_first() {
    let five = [0, 1, 2, 3, 4].map(|at| pod(at, "new", "Ready"));
    check(
        &set(json!({})),
        &five,
        expect![[r#"
        delete s-4
        replicas 5 ready 5 current 0 updated 4 old
    "#]],
    );
    let mut unwell = five.clone();
    unwell[1] = pod(1, "new", "Running");
    check(
        &set(json!({})),
        &unwell,
        expect![[r#"
        replicas 5 ready 4 current 0 updated 5 old
    "#]],
    );
    check(
        &set(json!({"podManagementPolicy": "Parallel"})),
        &five,
        expect![[r#"
        delete s-4
        delete s-3
        replicas 5 ready 5 current 0 updated 3 old
    "#]],
    );
    let other_start = set(json!({"replicas": 2, "ordinals": {"start": 3}}));
    check(
        &other_start,
        &five,
        expect![[r#"
        delete s-2
        replicas 5 ready 5 current 0 updated 4 old
    "#]],
    );
}

#[test]
fn a_rollout_goes_down_to_its_partition() {
    let three = [0, 1, 2].map(|at| pod(at, "old", "Ready"));
    check(
        &set(json!({})),
        &three,
        expect![[r#"
        delete s-2
        replicas 3 ready 3 current 2 updated 0 old
    "#]],
    );
    let partition = |spec| set(json!({"updateStrategy": {"rollingUpdate": spec}}));
    check(
        &partition(json!({"partition": 3})),
        &three,
        expect![[r#"
        replicas 3 ready 3 current 3 updated 0 old
    "#]],
    );
    check(
        &partition(json!({"partition": 1, "maxUnavailable": 3})),
        &three,
        expect![[r#"
        delete s-2
        delete s-1
        replicas 3 ready 3 current 1 updated 0 old
    "#]],
    );
    check(
        &set(json!({"updateStrategy": {"type": "OnDelete"}})),
        &three,
        expect![[r#"
        replicas 3 ready 3 current 3 updated 0 old
    "#]],
    );
    let below = [pod(1, "old", "Ready"), pod(2, "new", "Ready")];
    check(
        &partition(json!({"partition": 1})),
        &below,
        expect![[r#"
        create s-0 old
        replicas 3 ready 2 current 2 updated 1 old
    "#]],
    );
}

#[test]
fn it_waits_for_what_is_going_and_settles_at_the_end() {
    let going = [pod(0, "old", "Ready"), pod(1, "old", "Ready"), pod(2, "old", "Going")];
    check(
        &set(json!({})),
        &going,
        expect![[r#"
        replicas 3 ready 3 current 2 updated 0 old
    "#]],
    );
    let through = [0, 1, 2].map(|at| pod(at, "new", "Ready"));
    check(
        &set(json!({})),
        &through,
        expect![[r#"
        replicas 3 ready 3 current 3 updated 3 new
    "#]],
    );
}

#[test]
fn pods_have_their_claims() {
    let templates = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    let set = set(json!({"volumeClaimTemplates": templates}));
    let pod = template::pod(&set, &set.spec.template, "new", 1);
    let spec = pod.spec.as_ref().unwrap();
    let volume = spec.volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap();
    assert_eq!(volume.claim_name, "data-s-1");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("s-1"), Some("svc")));
    assert!(is_identified(&set, &pod, 1) && !is_identified(&set, &pod, 2));
    assert_eq!(template::claims(&set, 1)[0].metadata.name.as_deref(), Some("data-s-1"));
}
