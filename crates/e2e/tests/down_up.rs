//! A cluster that goes down and comes up again: containers end in their own way, and what was asked for is back.

use testkit::{Cluster, host, images};

const COMMAND: &str = "trap 'sleep 0.2; echo ended >> /out/said; exit 0' TERM; sleep 1000 & wait";

#[test]
fn containers_are_asked_to_end_and_pods_come_back() {
    host::enter().unwrap();
    let cluster = Cluster::up("down-up", 1).unwrap();
    let busybox = images::busybox().unwrap();
    cluster.import(&busybox).unwrap();
    let out = cluster.state_dir().with_file_name("out");
    std::fs::create_dir(&out).unwrap();
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "careful" },
        "spec": {
            "containers": [{
                "name": "careful",
                "image": busybox.name,
                "command": ["sh", "-c", COMMAND],
                "volumeMounts": [{ "name": "out", "mountPath": "/out" }],
            }],
            "volumes": [{ "name": "out", "hostPath": { "path": out } }],
        },
    });
    cluster.apply(&manifest.to_string()).unwrap();
    cluster.wait("pod/careful", "condition=Ready").unwrap();

    cluster.tiphys(&["down"]).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("said")).unwrap(), "ended\n");

    cluster.tiphys(&["up"]).unwrap();
    cluster.wait("pod/careful", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    cluster.wait("pod/careful", "condition=Ready").unwrap();
}
