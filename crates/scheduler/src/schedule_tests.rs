use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn pod(value: Value) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
}

fn plain(name: &str, spec: Value) -> Value {
    let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "img"}]}});
    for (key, part) in spec.as_object().unwrap() {
        value["spec"][key] = part.clone();
    }
    value
}

fn node(name: &str, more: Value) -> Value {
    let mut value = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": more.clone(), "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}});
    if let Some(zone) = more.get("zone") {
        value["metadata"]["labels"]["zone"] = zone.clone();
    }
    value
}

fn check(nodes: &[Value], running: &[(Value, &str)], wanted: Value, expected: Expect) {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(&serde_json::from_value(node.clone()).unwrap());
    }
    for (running, node) in running {
        snapshot.set_pod(pod(running.clone()), node);
    }
    let wanted = pod(wanted);
    let answer = match Scheduler::default().schedule(&snapshot, &wanted) {
        Ok(node) => node,
        Err(mut error) => {
            assert!(crate::preemption::plan(&snapshot, &wanted, &mut error, &[]).is_none());
            error.to_string()
        }
    };
    expected.assert_eq(&answer);
}

fn anti_affinity(app: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]}}})
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

#[test]
fn refusals_are_worded_as_upstreams() {
    check(&[], &[], plain("p", json!({})), expect!["no nodes available to schedule pods"]);
    let one = [node("a", json!({}))];
    check(
        &one,
        &[(plain("x", requests("1500m", "3Gi")), "a")],
        plain("p", requests("1", "2Gi")),
        expect![
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        ],
    );
    check(
        &one,
        &[],
        plain("p", json!({"nodeSelector": {"disk": "ssd"}})),
        expect![
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        ],
    );
    let three = ["x", "y", "z"].map(|name| (plain(name, json!({})), "a"));
    check(
        &one,
        &three,
        plain("p", json!({})),
        expect![
            "0/1 nodes are available: 1 Too many pods. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        ],
    );
    let mixed = [
        node("a", json!({"unschedulable": true})),
        node("b", json!({"taints": [{"key": "t", "value": "v", "effect": "NoSchedule"}]})),
    ];
    check(
        &mixed,
        &[],
        plain("p", json!({})),
        expect![
            "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        ],
    );
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    check(
        &one,
        &[(plain("x", port.clone()), "a")],
        plain("p", port),
        expect![
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        ],
    );
}

#[test]
fn anti_affinity_holds_both_ways() {
    let one = [node("a", json!({}))];
    check(
        &one,
        &[(plain("x", json!({})), "a")],
        plain("p", anti_affinity("x")),
        expect![
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        ],
    );
    check(
        &one,
        &[(plain("x", anti_affinity("p")), "a")],
        plain("p", json!({})),
        expect![
            "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        ],
    );
    let two = [node("a", json!({})), node("b", json!({}))];
    check(&two, &[(plain("x", json!({})), "a")], plain("p", anti_affinity("x")), expect!["b"]);
}

#[test]
fn spread_keeps_the_skew() {
    let constraint = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "p"}}}]});
    let nodes = [node("a", json!({"zone": "z1"})), node("b", json!({"zone": "z2"})), node("c", json!({}))];
    let mut there = plain("there", json!({}));
    there["metadata"]["labels"]["app"] = json!("p");
    check(&nodes, &[(there, "a")], plain("p", constraint.clone()), expect!["b"]);
    check(
        &nodes[2..],
        &[],
        plain("p", constraint),
        expect![
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label). no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        ],
    );
}

#[test]
fn the_emptier_node_and_the_one_without_soft_taints_win() {
    let two = [node("a", json!({})), node("b", json!({}))];
    check(&two, &[(plain("x", requests("1", "1Gi")), "a")], plain("p", json!({})), expect!["b"]);
    let soft =
        [node("a", json!({"taints": [{"key": "t", "effect": "PreferNoSchedule"}]})), node("b", json!({}))];
    check(&soft, &[], plain("p", json!({})), expect!["b"]);
}

#[test]
fn a_first_pod_may_ask_to_be_near_its_own_kind() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "p"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
    check(&[node("a", json!({}))], &[], plain("p", near), expect!["a"]);
}
