use std::fmt::Write;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2025-01-01T01:00:00Z";

fn job(spec: Value, status: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": "j", "namespace": "ns", "uid": "j"},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 2,
            "template": {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}},
        "status": status,
    });
    job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(job).unwrap()
}

/// A pod that is tracked; of an index where `index` is one.
fn pod(name: &str, phase: &str, index: Option<i32>) -> Value {
    let annotations = index.map(|at| json!({template::INDEX: at.to_string()}));
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "finalizers": [TRACKING],
        "annotations": annotations, "creationTimestamp": "2025-01-01T00:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": phase}})
}

fn deleting(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2025-01-01T00:59:00Z");
    pod
}

fn names(pods: &[Arc<Pod>]) -> String {
    pods.iter().map(|pod| uid(pod)).collect::<Vec<_>>().join(" ")
}

fn check(job: &Job, pods: Value, expected: Expect) {
    let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let (released, backoff) = (HashSet::new(), Backoff::default());
    let view = View { job, pods: &pods, released: &released, backoff, settled: true };
    let plan = plan(&view, NOW.parse().unwrap());
    let mut text = String::new();
    for (what, pods) in [("stop", &plan.stop), ("discard", &plan.discard), ("release", &plan.release)] {
        if !pods.is_empty() {
            writeln!(text, "{what} {}", names(pods)).unwrap();
        }
    }
    for pod in &plan.create {
        let index = index(pod).map_or(String::new(), |index| format!(" index {index}"));
        writeln!(text, "create {}{index}", pod.metadata.generate_name.as_deref().unwrap()).unwrap();
    }
    let mut status = serde_json::to_value(&plan.status).unwrap();
    let conditions = status.as_object_mut().unwrap().remove("conditions");
    let started = status.as_object_mut().unwrap().remove("startTime");
    writeln!(text, "status {status}").unwrap();
    if started.is_none() {
        writeln!(text, "not started").unwrap();
    }
    for condition in conditions.iter().flat_map(|list| list.as_array().unwrap()) {
        let word = |field: &str| condition[field].as_str().unwrap().to_owned();
        writeln!(text, "{} {} {}", word("type"), word("status"), word("reason")).unwrap();
    }
    if let Some(finish) = &plan.finish {
        writeln!(text, "finish {} {}", finish.type_, finish.reason.as_deref().unwrap()).unwrap();
    }
    for (reason, _) in &plan.events {
        writeln!(text, "event {reason}").unwrap();
    }
    if let Some(again) = plan.again {
        writeln!(text, "again in {} s", again.as_secs()).unwrap();
    }
    expected.assert_eq(&text);
}

#[test]
fn as_many_as_may_run_at_once() {
    check(
        &job(json!({}), json!({})),
        json!([]),
        expect![[r#"
        create j-
        create j-
        status {"active":2,"ready":0,"terminating":0,"uncountedTerminatedPods":{}}
    "#]],
    );
}

#[test]
fn no_more_than_are_left_to_complete() {
    let pods = json!([pod("a", "Succeeded", None), pod("b", "Running", None)]);
    check(
        &job(json!({}), json!({"succeeded": 1})),
        pods,
        expect![[r#"
        release a
        status {"active":1,"ready":0,"succeeded":1,"terminating":0,"uncountedTerminatedPods":{"succeeded":["a"]}}
    "#]],
    );
}

#[test]
fn the_last_success_completes() {
    let status = json!({"succeeded": 2, "uncountedTerminatedPods": {"succeeded": ["gone"]}});
    check(
        &job(json!({}), status),
        json!([]),
        expect![[r#"
        status {"ready":0,"succeeded":3,"terminating":0,"uncountedTerminatedPods":{}}
        SuccessCriteriaMet True CompletionsReached
        finish Complete CompletionsReached
    "#]],
    );
}

#[test]
fn without_completions_one_success_lets_the_others_finish() {
    let mut work_queue = job(json!({}), json!({}));
    work_queue.spec.as_mut().unwrap().completions = None;
    let pods = json!([pod("a", "Succeeded", None), pod("b", "Running", None)]);
    check(
        &work_queue,
        pods,
        expect![[r#"
        release a
        status {"active":1,"ready":0,"terminating":0,"uncountedTerminatedPods":{"succeeded":["a"]}}
    "#]],
    );
}

#[test]
fn a_failure_is_replaced_after_a_while() {
    let mut failed = pod("a", "Failed", None);
    failed["metadata"]["creationTimestamp"] = json!("2025-01-01T00:59:58Z");
    check(
        &job(json!({"parallelism": 1}), json!({})),
        json!([failed]),
        expect![[r#"
        release a
        status {"ready":0,"terminating":0,"uncountedTerminatedPods":{"failed":["a"]}}
        again in 8 s
    "#]],
    );
}

#[test]
fn too_many_failures_end_it() {
    let pods = json!([pod("a", "Failed", None), pod("b", "Running", None)]);
    check(
        &job(json!({}), json!({"failed": 2})),
        pods,
        expect![[r#"
        stop b
        release a b
        status {"failed":2,"ready":0,"terminating":1,"uncountedTerminatedPods":{"failed":["a","b"]}}
        FailureTarget True BackoffLimitExceeded
        finish Failed BackoffLimitExceeded
    "#]],
    );
}

#[test]
fn so_does_the_deadline() {
    let spec = json!({"activeDeadlineSeconds": 60});
    let started = |at: &str| json!({"startTime": at});
    check(
        &job(spec.clone(), started("2025-01-01T00:59:30Z")),
        json!([]),
        expect![[r#"
        create j-
        create j-
        status {"active":2,"ready":0,"terminating":0,"uncountedTerminatedPods":{}}
        again in 30 s
    "#]],
    );
    check(
        &job(spec, started("2025-01-01T00:59:00Z")),
        json!([]),
        expect![[r#"
        status {"ready":0,"terminating":0,"uncountedTerminatedPods":{}}
        FailureTarget True DeadlineExceeded
        finish Failed DeadlineExceeded
    "#]],
    );
}

#[test]
fn suspended_it_discards_its_pods() {
    let pods = json!([pod("a", "Running", None), deleting(pod("b", "Running", None))]);
    check(
        &job(json!({"suspend": true}), json!({"startTime": "2025-01-01T00:30:00Z"})),
        pods,
        expect![[r#"
        discard a
        release b
        status {"ready":0,"terminating":2,"uncountedTerminatedPods":{"failed":["b"]}}
        not started
        Suspended True JobSuspended
        event Suspended
    "#]],
    );
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    check(
        &job(json!({"parallelism": 1}), suspended),
        json!([]),
        expect![[r#"
        create j-
        status {"active":1,"ready":0,"terminating":0,"uncountedTerminatedPods":{}}
        Suspended False JobResumed
        event Resumed
    "#]],
    );
}

#[test]
fn indexes_that_are_missing_are_made_and_doubled_ones_go() {
    let indexed = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3});
    let pods = json!([pod("a", "Succeeded", Some(1)), pod("b", "Running", Some(2))]);
    check(
        &job(indexed.clone(), json!({"completedIndexes": "0", "succeeded": 1})),
        pods,
        expect![[r#"
        release a
        create j-3- index 3
        create j-4- index 4
        status {"active":3,"completedIndexes":"0,1","ready":0,"succeeded":2,"terminating":0,"uncountedTerminatedPods":{}}
    "#]],
    );
    let pods = json!([pod("a", "Pending", Some(2)), pod("b", "Running", Some(2)), pod("c", "Running", None)]);
    check(
        &job(indexed, json!({})),
        pods,
        expect![[r#"
        discard c a
        status {"active":1,"ready":0,"terminating":2,"uncountedTerminatedPods":{}}
    "#]],
    );
}

#[test]
fn failures_by_index() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX});
    let mut again = pod("b", "Failed", Some(1));
    again["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] = json!("1");
    let pods = json!([pod("a", "Failed", Some(0)), again, pod("c", "Running", Some(2))]);
    check(
        &job(spec.clone(), json!({})),
        pods.clone(),
        expect![[r#"
        release b
        create j-0- index 0
        status {"active":2,"failedIndexes":"1","ready":0,"terminating":0,"uncountedTerminatedPods":{"failed":["b"]}}
    "#]],
    );
    let mut strict = spec;
    strict["maxFailedIndexes"] = json!(0);
    check(
        &job(strict, json!({})),
        pods,
        expect![[r#"
        stop c
        release a b c
        status {"failedIndexes":"1","ready":0,"terminating":1,"uncountedTerminatedPods":{"failed":["a","b","c"]}}
        FailureTarget True MaxFailedIndexesExceeded
        finish Failed MaxFailedIndexesExceeded
    "#]],
    );
}

#[test]
fn enough_indexes_meet_the_success_policy() {
    let spec = json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let pods = json!([pod("a", "Succeeded", Some(1)), pod("b", "Running", Some(0))]);
    check(
        &job(spec, json!({})),
        pods,
        expect![[r#"
        stop b
        release b a
        status {"completedIndexes":"1","ready":0,"succeeded":1,"terminating":1,"uncountedTerminatedPods":{}}
        SuccessCriteriaMet True SuccessPolicy
        finish Complete SuccessPolicy
    "#]],
    );
}

#[test]
fn with_a_failure_policy_ends_are_waited_for() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    let spec =
        json!({"podFailurePolicy": {"rules": rules}, "podReplacementPolicy": "Failed", "parallelism": 1});
    let mut evicted = pod("a", "Failed", None);
    evicted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    check(
        &job(spec.clone(), json!({})),
        json!([evicted]),
        expect![[r#"
        release a
        create j-
        status {"active":1,"ready":0,"terminating":0,"uncountedTerminatedPods":{}}
    "#]],
    );
    check(
        &job(spec, json!({})),
        json!([deleting(pod("a", "Running", None))]),
        expect![[r#"
        status {"ready":0,"terminating":1,"uncountedTerminatedPods":{}}
    "#]],
    );
}

#[test]
fn indexed_pods_know_their_index() {
    let indexed = job(json!({"completionMode": "Indexed"}), json!({}));
    let pod = template::indexed_pod(&indexed, 4, None);
    let spec = pod.spec.unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-4"));
    let variable = &spec.containers[0].env.as_ref().unwrap()[0];
    let field = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
    assert_eq!(field.field_path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
    assert_eq!(pod.metadata.labels.unwrap()[template::INDEX], "4");
}
