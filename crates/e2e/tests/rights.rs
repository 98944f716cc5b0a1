//! Who may do what, where one request does more than its verb says; against an API server alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use testkit::{ApiServer, Output};

const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: few, namespace: default}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [update]}
- {apiGroups: [""], resources: [pods, pods/exec], verbs: [get]}
- {apiGroups: [""], resources: [pods/ephemeralcontainers], verbs: [get, update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: few, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: few}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: default, labels: {a: b}}
spec: {containers: [{name: c, image: i}]}
"#;

struct Server(ApiServer);

impl Server {
    /// The `which`th of this program's.
    fn start(which: u8) -> Server {
        let server = Server(ApiServer::start(which, 6443, &[]).unwrap());
        // Roles take effect a moment after they are answered; what is asked below waits for them.
        server.admin(&["apply", "-f", "-"], Some(RIGHTS));
        let can = ["auth", "can-i", "patch", "configmaps", "--as=jane"];
        let may = (0..200).any(|_| server.0.try_kubectl(&can, None).unwrap().code == 0);
        assert!(may, "the role never takes effect");
        server
    }

    fn admin(&self, arguments: &[&str], input: Option<&str>) -> Output {
        self.0.try_kubectl(arguments, input).unwrap().success(&arguments.join(" ")).unwrap()
    }

    /// What jane is told.
    fn jane(&self, arguments: &[&str], input: Option<&str>) -> Output {
        let arguments: Vec<&str> = ["--as=jane"].into_iter().chain(arguments.iter().copied()).collect();
        self.0.try_kubectl(&arguments, input).unwrap()
    }
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    assert_ne!(output.code, 0, "{}", output.stdout);
    assert!(output.stderr.contains(words), "{}", output.stderr);
}

#[test]
fn a_request_needs_the_right_to_all_it_does() {
    let server = Server::start(1);
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: default}, data: {k: v}}";
    // Applying what is not there is a create.
    let apply = ["apply", "--server-side", "-f", "-"];
    refused(&server.jane(&apply, Some(map)), "cannot create resource \"configmaps\"");
    server.admin(&["create", "-f", "-"], Some(map));
    let applied = server.jane(&["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(map));
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    // So is a PUT of what is not there, where that creates.
    let lease = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l","namespace":"default"}}"#;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    refused(
        &server.jane(&["replace", "--raw", path, "-f", "-"], Some(lease)),
        "cannot create resource \"leases\"",
    );
    server.admin(&["create", "-f", "-"], Some(lease));
    let lease = server.admin(&["get", "lease", "l", "-ojson"], None).stdout;
    let replaced = server.jane(&["replace", "--raw", path, "-f", "-"], Some(&lease));
    assert_eq!(replaced.code, 0, "{}", replaced.stderr);
    // A GET that becomes a stream is no mere read.
    refused(&server.jane(&["exec", "p", "--", "true"], None), "cannot create resource \"pods/exec\"");
}

#[test]
fn a_part_of_a_pod_is_that_part_alone() {
    let server = Server::start(2);
    let path = "/api/v1/namespaces/default/pods/p/ephemeralcontainers";
    let mut pod: serde_json::Value =
        serde_json::from_str(&server.admin(&["get", "pod", "p", "-ojson"], None).stdout).unwrap();
    pod["metadata"]["labels"] = serde_json::json!({"stolen": "yes"});
    pod["metadata"]["annotations"] = serde_json::json!({"kubernetes.io/config.mirror": "x"});
    pod["spec"]["ephemeralContainers"] = serde_json::json!([{"name": "e", "image": "i"}]);
    let replaced = server.jane(&["replace", "--raw", path, "-f", "-"], Some(&pod.to_string()));
    assert_eq!(replaced.code, 0, "{}", replaced.stderr);
    let shown = "-ojsonpath={.metadata.labels} {.metadata.annotations.kubernetes\\.io/config\\.mirror} \
                 {.spec.ephemeralContainers[0].name}";
    let now = server.admin(&["get", "pod", "p", shown], None).stdout;
    assert_eq!(now, r#"{"a":"b"}  e"#);
    server.admin(
        &["patch", "pod", "p", "--subresource=resize", "-p", r#"{"metadata":{"labels":{"x":"y"}}}"#],
        None,
    );
    assert_eq!(server.admin(&["get", "pod", "p", shown], None).stdout, r#"{"a":"b"}  e"#);
}

#[test]
fn events_are_deleted_whatever_the_propagation_and_shown_in_the_version_asked_for() {
    let server = Server::start(3);
    let event = |name: &str, note: &str| {
        format!(
            "{{apiVersion: v1, kind: Event, metadata: {{name: {name}, namespace: default}}, message: {note}, \
             involvedObject: {{kind: Pod, name: p, namespace: default}}, reason: R, type: Normal}}"
        )
    };
    for (name, note) in [("one", "zebra"), ("two", "ant")] {
        server.admin(&["create", "-f", "-"], Some(&event(name, note)));
    }
    // Sorted by a field of this version alone, which the table's objects must have.
    let newer = ["get", "events.v1.events.k8s.io", "--sort-by=.note", "--no-headers"];
    let listed = server.admin(&newer, None).stdout;
    assert!(listed.find("ant").unwrap() < listed.find("zebra").unwrap(), "{listed}");
    for (name, cascade) in [("one", "orphan"), ("two", "foreground")] {
        server.admin(&["delete", "event", name, &format!("--cascade={cascade}"), "--timeout=20s"], None);
    }
    assert_eq!(server.admin(&["get", "events", "-oname"], None).stdout, "");
}
