//! How fast decisions are made: pods per second on clusters of several sizes, one thread.

use std::sync::Arc;
use std::time::Instant;

use scheduler::{PodInfo, Scheduler, Snapshot};
use serde_json::json;

fn cluster(nodes: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..nodes {
        let node = json!({"metadata": {"name": format!("n{n}"), "labels": {
                "kubernetes.io/hostname": format!("n{n}"), "topology.kubernetes.io/zone": format!("z{}", n % 3)}},
            "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"}}});
        snapshot.set_node(&serde_json::from_value(node).expect("a node"));
    }
    snapshot
}

/// A pod of one of so many ReplicaSets.
fn pod(n: usize, sets: usize, affinity: bool) -> Arc<PodInfo> {
    let set = format!("a{}", n % sets);
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": set, "controller": true});
    let mut pod = json!({"metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}"),
            "labels": {"app": set}, "ownerReferences": [owner]},
        "spec": {"containers": [{"name": "c", "image": "img",
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]}});
    if affinity {
        pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": set}},
             "topologyKey": "kubernetes.io/hostname"}]}});
    }
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
}

fn measure(nodes: usize, pods: usize, sets: usize, affinity: bool) {
    let mut snapshot = cluster(nodes);
    let mut scheduler = Scheduler::default();
    let waiting: Vec<_> = (0..pods).map(|n| pod(n, sets, affinity)).collect();
    let start = Instant::now();
    for pod in waiting {
        let node = scheduler.schedule(&snapshot, &pod).expect("there is room");
        snapshot.set_pod(pod, &node);
    }
    let rate = pods as f64 / start.elapsed().as_secs_f64();
    let kind = if affinity { "required anti-affinity" } else { "basic" };
    println!("{nodes:>5} nodes, {pods:>6} pods of {sets:>5} sets, {kind}: {rate:.0} pods/s");
}

fn main() {
    measure(1000, 10_000, 100, false);
    measure(5000, 10_000, 100, false);
    measure(5000, 2000, 100, true);
    // The worst: no two pods are alike.
    measure(5000, 10_000, 10_000, false);
    measure(5000, 2000, 2000, true);
}
