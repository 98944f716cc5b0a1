//! A cluster leaves a host as it found it.
//!
//! Alone in its file: cargo runs test programs one after another, so nothing else comes and goes meanwhile.

use testkit::{Cluster, Traces, images};

const PODS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'nginx:1.22', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80}]
";

#[test]
fn nothing_stays_of_three_nodes_with_pods_and_services() {
    let before = Traces::now().unwrap();
    let cluster = Cluster::up("leaks", 3).unwrap();
    cluster.import(&images::nginx().unwrap()).unwrap();
    cluster.apply(PODS).unwrap();
    cluster.wait("deployment/web", "condition=Available").unwrap();
    assert!(!before.added(&Traces::now().unwrap()).is_empty(), "a cluster that leaves no trace isn't there");
    cluster.down().unwrap();
    before.assert_same(&Traces::now().unwrap());
}
