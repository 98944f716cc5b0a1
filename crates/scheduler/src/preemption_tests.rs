use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::Scheduler;

fn pod(name: &str, priority: i32, cpu: &str, more: Value) -> Arc<PodInfo> {
    let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
    value["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
}

fn budget(app: &str, allowed: i32) -> Budget {
    let value = json!({"metadata": {"namespace": "ns"}, "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}});
    Budget::of(&serde_json::from_value(value).unwrap())
}

/// Two nodes of two CPUs each.
fn check(running: &[(Arc<PodInfo>, &str)], budgets: &[Budget], wanted: &PodInfo, expected: Expect) {
    let mut snapshot = Snapshot::default();
    for name in ["a", "b"] {
        let node = json!({"metadata": {"name": name, "labels": {"host": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "9"}}});
        snapshot.set_node(&serde_json::from_value(node).unwrap());
    }
    for (running, node) in running {
        snapshot.set_pod(running.clone(), node);
    }
    let mut error = Scheduler::default().schedule(&snapshot, wanted).unwrap_err();
    let text = match plan(&snapshot, wanted, &mut error, budgets) {
        None => error.to_string(),
        Some(choice) => {
            let victims = choice.victims.iter().map(|victim| victim.key.name.as_str());
            format!("{} without {}", choice.node, victims.collect::<Vec<_>>().join(" "))
        }
    };
    expected.assert_eq(&text);
}

#[test]
fn the_least_important_go_and_no_more_than_needed() {
    let none = json!({});
    let running = [
        (pod("a1", 5, "1", none.clone()), "a"),
        (pod("a2", 1, "1", none.clone()), "a"),
        (pod("b1", 9, "2", none.clone()), "b"),
    ];
    check(&running, &[], &pod("p", 10, "1", none.clone()), expect!["a without a2"]);
    check(&running, &[], &pod("p", 10, "2", none.clone()), expect!["a without a1 a2"]);
    check(
        &running,
        &[],
        &pod("p", 3, "2", none.clone()),
        expect![
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod."
        ],
    );
    check(
        &running,
        &[],
        &pod("p", 10, "1", json!({"preemptionPolicy": "Never"})),
        expect![
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
        ],
    );
}

#[test]
fn budgets_are_kept_where_they_can_be() {
    let none = json!({});
    let running = [(pod("a1", 1, "2", none.clone()), "a"), (pod("b1", 5, "2", none.clone()), "b")];
    let wanted = pod("p", 10, "1", none);
    check(&running, &[budget("a1", 1)], &wanted, expect!["a without a1"]);
    check(&running, &[budget("a1", 0)], &wanted, expect!["b without b1"]);
    check(&running, &[budget("a1", 0), budget("b1", 0)], &wanted, expect!["a without a1"]);
}

#[test]
fn anti_affinity_ends_with_the_pod_it_is_about() {
    let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a1", "b1"]}]},
         "topologyKey": "host"}]}}});
    let running = [(pod("a1", 1, "1", json!({})), "a"), (pod("b1", 50, "1", json!({})), "b")];
    check(&running, &[], &pod("p", 10, "1", away), expect!["a without a1"]);
}
