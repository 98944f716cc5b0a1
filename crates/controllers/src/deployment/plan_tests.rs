use std::fmt::Write;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2025-01-01T01:00:00Z";

fn deployment(replicas: i32, image: &str, more: Value) -> Value {
    let mut spec = json!({
        "replicas": replicas, "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
                     "spec": {"containers": [{"name": "c", "image": image}]}},
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1}, "spec": spec})
}

/// A set of size, pods and available pods.
fn set(name: &str, image: &str, revision: i64, sizes: [i32; 3], desired: i32, max: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "generation": 1,
            "creationTimestamp": format!("2025-01-01T00:0{revision}:00Z"),
            "annotations": {revision::REVISION: revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": max.to_string()}},
        "spec": {"replicas": sizes[0], "selector": {},
            "template": {"metadata": {"labels": {"app": "web", "pod-template-hash": name}},
                         "spec": {"containers": [{"name": "c", "image": image}]}}},
        "status": {"replicas": sizes[1], "readyReplicas": sizes[2], "availableReplicas": sizes[2],
                   "observedGeneration": 1},
    })
}

fn check(deployment: Value, sets: Value, running: bool, expected: Expect) {
    let deployment: Deployment = serde_json::from_value(deployment).unwrap();
    let sets: Vec<ReplicaSet> = serde_json::from_value(sets).unwrap();
    let plan = plan(&deployment, sets, |_| running, NOW.parse().unwrap());
    let mut text = String::new();
    for action in &plan.actions {
        match action {
            Action::Create { set, message } => {
                assert!(set.metadata.name.as_ref().unwrap().starts_with("web-"));
                let message = message.as_deref().unwrap_or("-");
                let message = message.replace(set.metadata.name.as_ref().unwrap(), "NEW");
                writeln!(text, "create {} revision {}: {message}", size(set), revision::revision(set))
                    .unwrap();
            }
            Action::Update { new, message, .. } => {
                let message = message.as_deref().unwrap_or("annotations only");
                let name = new.metadata.name.as_deref().unwrap();
                writeln!(text, "update {name} revision {}: {message}", revision::revision(new)).unwrap();
            }
            Action::Delete(set) => {
                writeln!(text, "delete {}", set.metadata.name.as_deref().unwrap()).unwrap()
            }
        }
    }
    writeln!(text, "revision {:?} again {:?}", plan.revision, plan.again.map(|d| d.as_secs())).unwrap();
    for condition in plan.status.conditions.iter().flatten() {
        writeln!(
            text,
            "{} {} {}",
            condition.type_.as_deref().unwrap(),
            condition.status.as_deref().unwrap(),
            condition.reason.as_deref().unwrap()
        )
        .unwrap();
    }
    expected.assert_eq(&text);
}

#[test]
fn a_first_rollout_makes_the_set_at_full_size() {
    check(
        deployment(3, "a", json!({})),
        json!([]),
        false,
        expect![[r#"
        create 3 revision 1: Scaled up replica set NEW from 0 to 3
        revision Some("1") again Some(601)
        Progressing True NewReplicaSetCreated
        Available False MinimumReplicasUnavailable
    "#]],
    );
}

#[test]
fn a_new_template_makes_a_set_within_the_surge() {
    let old = set("old", "a", 1, [4, 4, 4], 4, 5);
    check(
        deployment(4, "b", json!({})),
        json!([old]),
        true,
        expect![[r#"
            create 1 revision 2: Scaled up replica set NEW from 0 to 1
            update old revision 1: Scaled down replica set old from 4 to 3
            revision Some("2") again Some(601)
            Available True MinimumReplicasAvailable
            Progressing True ReplicaSetUpdated
        "#]],
    );
}

#[test]
fn the_old_shrinks_as_the_new_becomes_available() {
    let sets = json!([set("old", "a", 1, [3, 3, 3], 4, 5), set("new", "b", 2, [2, 2, 1], 4, 5)]);
    check(
        deployment(4, "b", json!({})),
        sets,
        true,
        expect![[r#"
            update old revision 1: Scaled down replica set old from 3 to 2
            revision Some("2") again Some(601)
            Available True MinimumReplicasAvailable
            Progressing True ReplicaSetUpdated
        "#]],
    );
}

#[test]
fn a_finished_rollout_keeps_no_more_history_than_asked_for() {
    let sets = json!([
        set("older", "a", 1, [0, 0, 0], 2, 3),
        set("old", "b", 2, [0, 0, 0], 2, 3),
        set("new", "c", 3, [2, 2, 2], 2, 3),
    ]);
    check(
        deployment(2, "c", json!({})),
        sets,
        false,
        expect![[r#"
            delete older
            revision Some("3") again None
            Available True MinimumReplicasAvailable
            Progressing True NewReplicaSetAvailable
        "#]],
    );
}

#[test]
fn going_back_renumbers_the_old_set() {
    let sets = json!([set("first", "a", 1, [0, 0, 0], 2, 3), set("second", "b", 2, [2, 2, 2], 2, 3)]);
    check(
        deployment(2, "a", json!({})),
        sets,
        true,
        expect![[r#"
            update first revision 3: Scaled up replica set first from 0 to 1
            revision Some("3") again Some(601)
            Available True MinimumReplicasAvailable
            Progressing True ReplicaSetUpdated
        "#]],
    );
}

#[test]
fn scaling_in_the_midst_of_a_rollout_is_shared() {
    let sets = json!([set("old", "a", 1, [8, 8, 8], 10, 13), set("new", "b", 2, [5, 5, 5], 10, 13)]);
    check(
        deployment(20, "b", json!({})),
        sets,
        true,
        expect![[r#"
        update old revision 1: Scaled up replica set old from 8 to 15
        update new revision 2: Scaled up replica set new from 5 to 10
        revision Some("2") again None
        Progressing True FoundNewReplicaSet
        Available False MinimumReplicasUnavailable
    "#]],
    );
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let recreate = json!({"strategy": {"type": "Recreate"}});
    let old = set("old", "a", 1, [2, 2, 2], 2, 2);
    check(
        deployment(2, "b", recreate.clone()),
        json!([old]),
        true,
        expect![[r#"
            update old revision 1: Scaled down replica set old from 2 to 0
            revision None again Some(601)
            Available True MinimumReplicasAvailable
            Progressing True ReplicaSetUpdated
        "#]],
    );
    let old = set("old", "a", 1, [0, 0, 0], 2, 2);
    check(
        deployment(2, "b", recreate),
        json!([old]),
        false,
        expect![[r#"
        create 2 revision 2: Scaled up replica set NEW from 0 to 2
        revision Some("2") again Some(601)
        Progressing True NewReplicaSetCreated
        Available False MinimumReplicasUnavailable
    "#]],
    );
}

#[test]
fn a_paused_deployment_makes_nothing_new() {
    let old = set("old", "a", 1, [2, 2, 2], 2, 3);
    check(
        deployment(2, "b", json!({"paused": true})),
        json!([old]),
        true,
        expect![[r#"
        revision None again None
        Progressing Unknown DeploymentPaused
        Available True MinimumReplicasAvailable
    "#]],
    );
}
