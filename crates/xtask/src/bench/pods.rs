//! Pods, from their creation to Ready and from their deletion to gone, as a watch tells it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};
use testkit::{Connection, Target, Watch};

use super::{Budget, Measurement};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod whose one process ends on TERM.
fn pod(name: &str) -> Value {
    let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"bench": "pods"}},
        "spec": {"containers": [{"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", script]}]},
    })
}

async fn watch(target: &Target) -> Result<(Connection, Watch)> {
    let mut connection = target.connect().await?;
    let list = connection.get(PODS).await?;
    let revision =
        list["metadata"]["resourceVersion"].as_str().context("a list without a resourceVersion")?;
    let path = format!("{PODS}?watch=true&labelSelector=bench%3Dpods&resourceVersion={revision}");
    Ok((connection, target.connect().await?.watch(&path).await?))
}

fn is_ready(event: &Value) -> bool {
    let conditions = event["object"]["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn name(event: &Value) -> &str {
    event["object"]["metadata"]["name"].as_str().unwrap_or_default()
}

/// Creates and deletes `count` pods, one after another.
pub async fn one_by_one(target: &Target, count: usize) -> Result<Vec<Measurement>> {
    let (mut connection, mut watch) = watch(target).await?;
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for index in 0..count {
        let pod_name = format!("one-{index}");
        let start = Instant::now();
        connection.put_json(Method::POST, PODS, &pod(&pod_name)).await?;
        while !is_ready(&watch.next().await?) {}
        ready.push(start.elapsed());
        let start = Instant::now();
        connection.put_json(Method::DELETE, &format!("{PODS}/{pod_name}"), &json!({})).await?;
        while watch.next().await?["type"] != "DELETED" {}
        gone.push(start.elapsed());
    }
    let created =
        Measurement::times("pods: create → Ready", Budget::AtMost(50.0), Budget::AtMost(200.0), &ready);
    let deleted = Measurement::times("pods: delete → gone", Budget::AtMost(60.0), Budget::None, &gone);
    Ok(created.into_iter().chain(deleted).collect())
}

/// Creates `count` pods at once and waits until all are Ready; then deletes them.
pub async fn at_once(target: &Target, count: usize, budget: Budget) -> Result<Vec<Measurement>> {
    let (mut connection, mut watch) = watch(target).await?;
    let start = Instant::now();
    let mut waiting = BTreeSet::new();
    for index in 0..count {
        let pod_name = format!("all-{count}-{index}");
        connection.put_json(Method::POST, PODS, &pod(&pod_name)).await?;
        waiting.insert(pod_name);
    }
    while !waiting.is_empty() {
        let event = watch.next().await?;
        if is_ready(&event) {
            waiting.remove(name(&event));
        }
    }
    let took = start.elapsed();
    let mut left = count;
    connection.put_json(Method::DELETE, &format!("{PODS}?labelSelector=bench%3Dpods"), &json!({})).await?;
    while left > 0 {
        left -= usize::from(watch.next().await?["type"] == "DELETED");
    }
    Ok(vec![Measurement::one(format!("pods: {count} at once, all Ready"), "s", budget, seconds(took))])
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
