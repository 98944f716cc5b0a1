//! What pods do on a node.

use std::time::Instant;

use cri::Runtime;
use serde_json::{Value, json};

use crate::world::{World, condition, container, ready};

const TERM: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done";

pub async fn runs_and_goes(world: &mut World) {
    world.api.until("/api/v1/nodes/n1", "ready", |node| condition(node, "Ready") == "True").await;
    let began = Instant::now();
    // A first process without a handler does not hear TERM: Ready only once it has one.
    let heeds = TERM.replacen("echo up", "touch /tmp/up", 1);
    let path = world.pod("web", &heeds, |pod| {
        pod["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"] =
            json!(["sh", "-c", "until [ -e /tmp/up ]; do :; done"]);
    });
    let pod = world.api.until(&path, "ready", ready).await;
    let up = began.elapsed();
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.1.2.3");
    assert_eq!(pod["status"]["hostIP"], "192.0.2.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    let order: Vec<_> =
        pod["status"]["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(
        order,
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    );
    let began = Instant::now();
    world.api.delete_pod(&path, 30);
    world.api.until(&path, "gone", Value::is_null).await;
    println!("bound to Ready {up:?}, deleted to gone {:?}", began.elapsed());
    let messages = world.api.messages();
    for message in
        ["Created: Container created", "Started: Container started", "Killing: Stopping container main"]
    {
        assert!(messages.iter().any(|one| one == message), "{message}: {messages:#?}");
    }
}

/// Deleted as soon as the API has their last status: the answer to that is older than the deletion, and may
/// come after the watch has told of it.
pub async fn late_answers(world: &mut World) {
    let pods = (0..16).map(|number| {
        world.pod(&format!("late-{number}"), "exit 0", |pod| pod["spec"]["restartPolicy"] = json!("Never"))
    });
    let api = &world.api;
    let gone = pods.map(|path| async move {
        api.until(&path, "Succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
        api.delete_pod(&path, 1);
        api.until(&path, "gone", Value::is_null).await;
    });
    futures::future::join_all(gone).await;
}

pub async fn succeeds(world: &mut World) {
    let path = world.pod("job", "echo -n done > /dev/termination-log", |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
    });
    let pod = world.api.until(&path, "Succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
    let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["reason"], &terminated["message"]), (&json!("Completed"), &json!("done")));
    assert_eq!(condition(&pod, "Ready"), "False");
}

pub async fn backs_off(world: &mut World) {
    let path = world.pod("bad", "exit 3", |_| {});
    let waits = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let pod = world.api.until(&path, "backing off", waits).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["restartCount"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let want = format!("back-off 10s restarting failed container=main pod=bad_default({uid})");
    assert_eq!(status["state"]["waiting"]["message"], want);
}

pub async fn init_and_volumes(world: &mut World) {
    world.api.put(
        "/api/v1/namespaces/default/configmaps/conf",
        json!({ "metadata": { "name": "conf", "namespace": "default" }, "data": { "a": "1", "b": "2" } }),
    );
    world.api.put(
        "/api/v1/namespaces/default/services/db",
        json!({ "metadata": { "name": "db", "namespace": "default" },
                "spec": { "clusterIP": "10.96.0.9", "ports": [{ "port": 5432 }] } }),
    );
    let script = "cat /shared/x /conf/a /sa/token /etc/hosts; echo; echo $A $B $DB_SERVICE_HOST $POD $(id -u); \
                  [ $(cat /one) = 2 ] && touch /shared/ok; sleep 1000";
    let path = world.pod("full", script, |pod| {
        let spec = &mut pod["spec"];
        spec["initContainers"] = json!([container("first", "sleep 0.05; echo -n hello > /shared/x")]);
        spec["initContainers"][0]["volumeMounts"] = json!([{ "name": "shared", "mountPath": "/shared" }]);
        spec["volumes"] = json!([
            { "name": "shared", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "conf", "configMap": { "name": "conf" } },
            { "name": "sa", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
        ]);
        let main = &mut spec["containers"][0];
        main["env"] = json!([
            { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "conf", "key": "b" } } },
            { "name": "B", "value": "$(A)$(A)" },
            { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        ]);
        main["volumeMounts"] = json!([
            { "name": "shared", "mountPath": "/shared" },
            { "name": "conf", "mountPath": "/conf" },
            { "name": "conf", "mountPath": "/one", "subPath": "b" },
            { "name": "sa", "mountPath": "/sa", "readOnly": true },
        ]);
        main["securityContext"] = json!({ "runAsUser": 1000 });
        main["resources"] = json!({ "requests": { "cpu": "100m" }, "limits": { "memory": "32Mi" } });
        main["readinessProbe"] = json!({
            "exec": { "command": ["sh", "-c", "[ -e /shared/ok ]"] }, "periodSeconds": 1
        });
    });
    let pod = world.api.until(&path, "ready", ready).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let log = world.config.pod_logs_dir.join(format!("default_full_{uid}/main/0.log"));
    let log = std::fs::read_to_string(log).unwrap();
    for want in
        ["hello1a-token# Kubernetes-managed hosts file.", "10.1.2.3\tfull", "2 22 10.96.0.9 full 1000"]
    {
        assert!(log.contains(want), "{want}: {log}");
    }
    // What changes in the API changes in the volume.
    let map = json!({ "metadata": { "name": "conf", "namespace": "default" }, "data": { "a": "3" } });
    world.api.put("/api/v1/namespaces/default/configmaps/conf", map);
    let volume = world.config.root_dir.join(format!("pods/{uid}/volumes/kubernetes.io~configmap/conf"));
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while std::fs::read_to_string(volume.join("a")).unwrap_or_default() != "3" {
        assert!(Instant::now() < deadline, "the volume never changes");
        tokio::task::yield_now().await;
    }
    assert!(!volume.join("b").exists());
}

pub async fn failures_are_named(world: &mut World) {
    let never = world.pod("never", "true", |pod| {
        pod["spec"]["containers"][0]["image"] = json!("example.com/none:1");
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    });
    let config = world.pod("config", "true", |pod| {
        pod["spec"]["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": "later" } }]);
    });
    let root = world.pod("root", "true", |pod| {
        pod["spec"]["containers"][0]["securityContext"] = json!({ "runAsNonRoot": true });
    });
    for (path, reason) in [
        (&never, "ErrImageNeverPull"),
        (&config, "CreateContainerConfigError"),
        (&root, "CreateContainerConfigError"),
    ] {
        let waits =
            |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason;
        let pod = world.api.until(path, reason, waits).await;
        assert_eq!(pod["status"]["phase"], "Pending");
    }
    let map = json!({ "metadata": { "name": "later", "namespace": "default" }, "data": {} });
    world.api.put("/api/v1/namespaces/default/configmaps/later", map);
    world
        .api
        .until(&config, "restarted", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        .await;
}

/// Nothing is made of a pod, and no image pulled for it, before its volumes are there.
pub async fn volumes_come_first(world: &mut World) {
    let path = world.pod("lacks", TERM, |pod| {
        pod["spec"]["volumes"] = json!([{ "name": "files", "configMap": { "name": "files" } }]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "files", "mountPath": "/files" }]);
    });
    let told = |what: &str| world.api.messages().iter().any(|message| message.starts_with(what));
    let lacks = |pod: &Value| told("FailedMount:") && condition(pod, "PodReadyToStartContainers") == "False";
    let pod = world.api.until(&path, "told of its volume", lacks).await;
    assert!(pod["status"]["podIP"].is_null() && !told("Pulled:"), "{pod:#}");
    let made = world.service.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await.unwrap();
    assert!(made.is_empty(), "{made:?}");
    let map = json!({ "metadata": { "name": "files", "namespace": "default" }, "data": {} });
    world.api.put("/api/v1/namespaces/default/configmaps/files", map);
    world.api.until(&path, "ready", ready).await;
}

pub async fn liveness_restarts(world: &mut World) {
    let path = world.pod("live", TERM, |pod| {
        pod["spec"]["containers"][0]["livenessProbe"] = json!({
            "exec": { "command": ["sh", "-c", "echo no; false"] }, "periodSeconds": 1, "failureThreshold": 1
        });
    });
    world
        .api
        .until(&path, "restarted", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        .await;
    let messages = world.api.messages();
    let want = "Killing: Container main failed liveness probe, will be restarted";
    assert!(messages.iter().any(|one| one == want), "{messages:#?}");
    assert!(messages.iter().any(|one| one == "Unhealthy: Liveness probe failed: no\n"), "{messages:#?}");
}

pub async fn survives_restart(world: &mut World) {
    let path = world.pod("keep", TERM, |_| {});
    let orphan = world.pod("orphan", TERM, |_| {});
    let before = world.api.until(&path, "ready", ready).await;
    world.api.until(&orphan, "ready", ready).await;
    world.stop().await;
    world.api.remove(&orphan);
    world.start();
    let limit = Instant::now() + std::time::Duration::from_secs(20);
    loop {
        use cri::Runtime;
        let left = world.service.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await.unwrap();
        if left.len() == 1 {
            break;
        }
        assert!(Instant::now() < limit, "the deleted pod is never ended");
        tokio::task::yield_now().await;
    }
    let after = world.api.get(&path).unwrap();
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(
        (id(&before), json!(0)),
        (id(&after), after["status"]["containerStatuses"][0]["restartCount"].clone())
    );
}

/// The host went down, and nothing is left of what ran: each container's next run is counted.
pub async fn what_is_lost_runs_again(world: &mut World) {
    let path = world.pod("lost", TERM, |_| {});
    let once = world.pod("once", TERM, |pod| pod["spec"]["restartPolicy"] = json!("Never"));
    world.api.until(&once, "ready", ready).await;
    let filter = cri::v1::PodSandboxFilter::default;
    for lost in 0..3 {
        let pod = world.api.until(&path, "ready", ready).await;
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], lost, "{status:#}");
        if lost > 0 {
            assert_eq!(status["lastState"]["terminated"]["reason"], "ContainerStatusUnknown", "{status:#}");
        }
        world.stop().await;
        for sandbox in world.service.list_pod_sandboxes(filter()).await.unwrap() {
            world.service.stop_pod_sandbox(&sandbox.id).await.unwrap();
            world.service.remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        let id = status["containerID"].clone();
        world.start();
        let another = |pod: &Value| ready(pod) && pod["status"]["containerStatuses"][0]["containerID"] != id;
        world.api.until(&path, "run again", another).await;
    }
    let over = world.api.until(&once, "over", |pod| pod["status"]["phase"] == "Failed").await;
    let ended = &over["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
}

pub async fn static_pods(world: &mut World) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "fixed" },
        // TERM may come before the shell has its trap, and is then not heard.
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [container("main", TERM)] },
    });
    let file = world.dir.path().join("manifests/fixed.yaml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, pod.to_string()).unwrap();
    let path = "/api/v1/namespaces/default/pods/fixed-n1";
    let first = world.api.until(path, "ready", ready).await;
    assert!(first["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    world.api.remove(path);
    let again = world
        .api
        .until(path, "back", |pod| ready(pod) && pod["metadata"]["uid"] != first["metadata"]["uid"])
        .await;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(id(&first), id(&again), "the container was not touched");
    std::fs::remove_file(&file).unwrap();
    world.api.until(path, "gone", Value::is_null).await;
    let left = world.service.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await.unwrap();
    assert!(left.is_empty(), "the mirror went before the pod: {left:?}");
}

pub async fn sidecars(world: &mut World) {
    let path = world.pod("side", "[ -e /s/up ] || exit 9; sleep 0.2", |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
        let mut side =
            container("side", "trap 'exit 0' TERM; touch /s/up; while :; do sleep 1000 & wait; done");
        side["restartPolicy"] = json!("Always");
        side["startupProbe"] = json!({ "exec": { "command": ["ls", "/s/up"] }, "periodSeconds": 1 });
        side["volumeMounts"] = json!([{ "name": "s", "mountPath": "/s" }]);
        pod["spec"]["initContainers"] = json!([side]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "s", "mountPath": "/s" }]);
        pod["spec"]["volumes"] = json!([{ "name": "s", "emptyDir": {} }]);
    });
    let pod = world.api.until(&path, "Succeeded", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["restartCount"], 0, "{pod:#}");
}
