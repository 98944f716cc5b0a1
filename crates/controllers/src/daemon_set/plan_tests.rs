use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"selector": {}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [], "nodeSelector": {"role": "x"}}}},
    }))
    .unwrap()
}

fn node(name: &str, taint: Option<&str>) -> Arc<Node> {
    let taints: Vec<Value> = taint.iter().map(|effect| json!({"key": "k", "effect": effect})).collect();
    let labels = json!({"role": if name.starts_with('x') { "x" } else { "y" }});
    let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(node).unwrap())
}

/// A pod on a node: `hash` of its template, `phase`, or `Ready`.
fn pod(name: &str, node: &str, hash: &str, phase: &str) -> Value {
    let ready = phase == "Ready";
    let phase = if ready { "Running" } else { phase };
    let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" },
        "lastTransitionTime": "2025-01-01T00:00:00Z"}]);
    json!({"metadata": {"name": name, "uid": name, "labels": {"controller-revision-hash": hash},
        "creationTimestamp": "2025-01-01T00:00:00Z"},
        "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase, "conditions": conditions}})
}

fn show(plan: &Plan) -> String {
    let create = plan.create.iter().filter_map(target).collect::<Vec<_>>().join(" ");
    let delete = plan.delete.iter().map(|pod| pod.metadata.name.as_deref().unwrap());
    format!("create [{create}] delete [{}]", delete.collect::<Vec<_>>().join(" "))
}

fn check(set: &DaemonSet, nodes: &[Arc<Node>], pods: Value, expected: Expect) {
    let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let now = "2025-01-01T00:01:00Z".parse().unwrap();
    let view = View { set, nodes, pods: &pods, hash: "new", resting: &HashMap::new(), now };
    let (status, _) = plan_status(&view);
    let mut status = serde_json::to_value(&status).unwrap();
    status.as_object_mut().unwrap().remove("observedGeneration");
    let text = format!("pods {}\nrollout {}\n{status}", show(&plan_pods(&view)), show(&plan_rollout(&view)));
    expected.assert_eq(&text);
}

#[test]
fn one_on_each_node_that_is_chosen_and_tolerated() {
    let nodes =
        [node("x1", None), node("x2", Some("NoSchedule")), node("x3", Some("NoExecute")), node("y1", None)];
    let pods = json!([
        pod("a", "x2", "new", "Ready"),
        pod("b", "x3", "new", "Ready"),
        pod("c", "y1", "new", "Ready"),
    ]);
    check(
        &set(json!({})),
        &nodes,
        pods,
        expect![[r#"
        pods create [x1] delete [b c]
        rollout create [] delete []
        {"currentNumberScheduled":0,"desiredNumberScheduled":1,"numberMisscheduled":3,"numberReady":0,"numberUnavailable":1}"#]],
    );
}

#[test]
fn failed_and_doubled_pods_go() {
    let nodes = [node("x1", None), node("x2", None)];
    let pods = json!([
        pod("a", "x1", "new", "Failed"),
        pod("b", "x2", "new", "Ready"),
        pod("c", "x2", "new", "Ready"),
    ]);
    check(
        &set(json!({})),
        &nodes,
        pods,
        expect![[r#"
        pods create [] delete [a c]
        rollout create [] delete []
        {"currentNumberScheduled":2,"desiredNumberScheduled":2,"numberAvailable":1,"numberMisscheduled":0,"numberReady":1,"numberUnavailable":1,"updatedNumberScheduled":2}"#]],
    );
}

#[test]
fn old_pods_are_replaced_as_far_as_may_be_unavailable() {
    let nodes = [node("x1", None), node("x2", None), node("x3", None)];
    let pods = json!([
        pod("a", "x1", "old", "Ready"),
        pod("b", "x2", "old", "Ready"),
        pod("c", "x3", "new", "Ready"),
    ]);
    let two = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}});
    check(
        &set(two),
        &nodes,
        pods.clone(),
        expect![[r#"
        pods create [] delete []
        rollout create [] delete [a b]
        {"currentNumberScheduled":3,"desiredNumberScheduled":3,"numberAvailable":3,"numberMisscheduled":0,"numberReady":3,"updatedNumberScheduled":1}"#]],
    );
    let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    check(
        &set(surge),
        &nodes,
        pods.clone(),
        expect![[r#"
        pods create [] delete []
        rollout create [x1] delete []
        {"currentNumberScheduled":3,"desiredNumberScheduled":3,"numberAvailable":3,"numberMisscheduled":0,"numberReady":3,"updatedNumberScheduled":1}"#]],
    );
    check(
        &set(json!({"type": "OnDelete"})),
        &nodes,
        pods,
        expect![[r#"
        pods create [] delete []
        rollout create [] delete []
        {"currentNumberScheduled":3,"desiredNumberScheduled":3,"numberAvailable":3,"numberMisscheduled":0,"numberReady":3,"updatedNumberScheduled":1}"#]],
    );
}
