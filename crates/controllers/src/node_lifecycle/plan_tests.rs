use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2025-01-01T00:00:00Z".parse().unwrap()
}

fn node(name: &str, ready: &str, taints: Value) -> Node {
    let conditions = match ready {
        "" => json!([]),
        ready => json!([{"type": "Ready", "status": ready}, {"type": "MemoryPressure", "status": "True"}]),
    };
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints},
        "status": {"conditions": conditions}}))
    .unwrap()
}

fn show(taints: Option<Vec<Taint>>) -> String {
    let Some(taints) = taints else { return "as they are".into() };
    let taints = taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect));
    format!("[{}]", taints.collect::<Vec<_>>().join(" "))
}

fn check_no_schedule(node: &Node, expected: Expect) {
    expected.assert_eq(&show(plan_no_schedule(node, now())));
}

#[test]
fn taints_follow_conditions_and_cordon() {
    let own = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
    check_no_schedule(
        &node("n", "True", own.clone()),
        expect!["[mine:NoSchedule node.kubernetes.io/memory-pressure:NoSchedule]"],
    );
    check_no_schedule(
        &node("n", "Unknown", own),
        expect![
            "[mine:NoSchedule node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/memory-pressure:NoSchedule]"
        ],
    );
    // A node that has not told of itself yet stays as it came.
    let came = json!([{"key": NOT_READY, "effect": "NoSchedule"}]);
    check_no_schedule(&node("n", "", came.clone()), expect!["as they are"]);
    check_no_schedule(&node("n", "True", came), expect!["[node.kubernetes.io/memory-pressure:NoSchedule]"]);
    let mut cordoned = node("n", "", json!([]));
    cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
    check_no_schedule(&cordoned, expect!["[node.kubernetes.io/unschedulable:NoSchedule]"]);
    let steady = json!([{"key": CORDONED, "effect": "NoSchedule", "timeAdded": "2024-01-01T00:00:00Z"}]);
    cordoned.spec.as_mut().unwrap().taints = serde_json::from_value(steady).unwrap();
    check_no_schedule(&cordoned, expect!["as they are"]);
}

#[test]
fn a_silent_node_is_unknown() {
    let silent = plan_silent(&node("n", "True", json!([])), now()).unwrap();
    let shown: Vec<String> =
        silent.iter().map(|c| format!("{} {} {}", c.type_, c.status, c.reason.as_deref().unwrap())).collect();
    expect![[r#"
        Ready Unknown NodeStatusUnknown
        MemoryPressure Unknown NodeStatusUnknown
        DiskPressure Unknown NodeStatusNeverUpdated
        PIDPressure Unknown NodeStatusNeverUpdated"#]]
    .assert_eq(&shown.join("\n"));
    let mut told = node("n", "", json!([]));
    told.status.as_mut().unwrap().conditions = Some(silent);
    assert_eq!(plan_silent(&told, now()), None);
}

fn check_evictions(nodes: &[Node], expected: Expect) {
    let nodes: Vec<_> = nodes.iter().cloned().map(Arc::new).collect();
    let mut next = HashMap::new();
    let (changes, again) = plan_evictions(&nodes, &mut next, now());
    let changes = changes
        .into_iter()
        .map(|(node, taints)| format!("{} {}", node.metadata.name.as_deref().unwrap(), show(Some(taints))));
    let changes: Vec<String> = changes.collect();
    expected.assert_eq(&format!("{} again {:?}", changes.join(", "), again.map(|d| d.as_secs())));
}

#[test]
fn one_node_of_a_zone_at_a_time() {
    let bad = |name| node(name, "Unknown", json!([]));
    let good = |name| node(name, "True", json!([{"key": UNREACHABLE, "effect": "NoExecute"}]));
    check_evictions(
        &[
            bad("a"),
            bad("b"),
            good("c"),
            node("d", "False", json!([{"key": UNREACHABLE, "effect": "NoExecute"}])),
        ],
        // Three of four are unhealthy: a zone this small is then left alone.
        expect!["c [], d [node.kubernetes.io/not-ready:NoExecute] again None"],
    );
    check_evictions(
        &[bad("a"), bad("b"), good("c")],
        expect!["a [node.kubernetes.io/unreachable:NoExecute], c [] again Some(10)"],
    );
}

#[test]
fn nobody_is_driven_out_when_everything_seems_lost() {
    let out = json!([{"key": UNREACHABLE, "effect": "NoExecute"}]);
    check_evictions(
        &[node("a", "Unknown", json!([])), node("b", "Unknown", out)],
        expect!["b [] again None"],
    );
}
