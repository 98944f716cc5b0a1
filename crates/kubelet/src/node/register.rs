//! Making the Node object and keeping its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::machine::{self, Machine};
use super::status::{self, State};
use crate::config::Config;
use crate::context::Context;
use crate::events::Type;

/// How often the node looks at itself (`nodeStatusUpdateFrequency`).
const LOOK: Duration = Duration::from_secs(10);
/// How soon a failed registration or report is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Memory below which the node says so (`memory.available`).
const MEMORY_FLOOR: i64 = 100 << 20;

/// Registers the node and keeps its status until the kubelet stops: when something changes, and from time
/// to time though nothing does.
pub async fn keep(ctx: Arc<Context>, machine: Machine, port: Option<u16>) {
    let api = Api::<Node>::all(ctx.client.clone());
    let key = client::ObjectKey::cluster(&ctx.config.node_name);
    let mut known: Option<Node> = None;
    let mut written = Instant::now();
    ctx.recorder.node(&ctx.config.node_name, Type::Normal, "Starting", "Starting kubelet.");
    loop {
        let state = look(&ctx, port).await;
        if let Some(known) = &mut known
            && let Some(seen) = ctx.node.get(&key)
            && client::is_newer(&*seen, known)
        {
            // Others write it too: a node that was not heard of for a while is called unknown.
            *known = Node::clone(&seen);
        }
        let wait = match report(&ctx, &api, &machine, &state, known.as_ref(), written).await {
            Ok(Some(node)) => {
                known = Some(node);
                written = Instant::now();
                LOOK
            }
            Ok(None) => LOOK,
            Err(error) => {
                tracing::warn!(%error, "cannot tell the API of the node");
                known = None;
                AGAIN
            }
        };
        // A node that is not ready yet waits for its runtime and network, and is looked at sooner.
        let wait = if state.not_ready.is_some() { wait.min(AGAIN) } else { wait };
        tokio::select! {
            () = ctx.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn look(ctx: &Context, port: Option<u16>) -> State {
    let mut state = State { port, ..State::default() };
    match ctx.runtime.version().await {
        Ok(version) => {
            state.runtime_version = format!("{}://{}", version.runtime_name, version.runtime_version)
        }
        Err(error) => state.not_ready = Some(format!("container runtime is down: {error}")),
    }
    match ctx.runtime.status().await {
        Ok(answer) => {
            state.features = answer.features.unwrap_or_default();
            state.handlers = answer.runtime_handlers;
            let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
            let bad = conditions.iter().find(|condition| !condition.status);
            state.not_ready = bad.map(|bad| match bad.r#type.as_str() {
                "NetworkReady" => format!(
                    "container runtime network not ready: NetworkReady=false reason:{} message:{}",
                    bad.reason, bad.message
                ),
                other => {
                    format!("container runtime status check may not have completed yet: {other} is false")
                }
            });
        }
        Err(error) => state.not_ready = Some(format!("container runtime is down: {error}")),
    }
    state.images = ctx.runtime.list_images(None).await.unwrap_or_default();
    state.memory_pressure = machine::memory_available().is_some_and(|free| free < MEMORY_FLOOR);
    state.disk_pressure =
        machine::disk(&ctx.config.root_dir).is_some_and(|(total, free)| total > 0 && free < total / 10);
    state
}

/// Writes what has changed; the node as written, or nothing where there was nothing to write.
async fn report(
    ctx: &Context,
    api: &Api<Node>,
    machine: &Machine,
    state: &State,
    known: Option<&Node>,
    written: Instant,
) -> kube::Result<Option<Node>> {
    let name = &ctx.config.node_name;
    let now = Timestamp::now();
    let before = match known {
        Some(known) => known.status.clone(),
        None => register(ctx, api, machine, state).await?.status,
    };
    let before = before.unwrap_or_default();
    let next = status::status(&ctx.config, machine, state, &before, now);
    let due = written.elapsed() >= ctx.config.node_status_report_frequency;
    if known.is_some() && !due && !status::differ(&before, &next) {
        return Ok(None);
    }
    let patch = patch(&next);
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(node) => {
            announce(ctx, &before, &next);
            Ok(Some(node))
        }
        Err(error) => Err(error),
    }
}

/// Events of what has changed about the node.
fn announce(ctx: &Context, before: &NodeStatus, after: &NodeStatus) {
    let name = &ctx.config.node_name;
    for reason in status::transitions(before, after) {
        ctx.recorder.node(name, Type::Normal, &reason, format!("Node {name} status is now: {reason}"));
    }
}

/// Addresses are replaced as a whole: the API would merge them by type.
fn patch(status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(addresses) = value.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({ "$patch": "replace" }));
    }
    json!({ "status": value })
}

/// The Node as the API has it, made where it is missing, with this host's labels on it.
async fn register(ctx: &Context, api: &Api<Node>, machine: &Machine, state: &State) -> kube::Result<Node> {
    let name = &ctx.config.node_name;
    let labels = labels(&ctx.config, machine);
    match api.get_opt(name).await? {
        Some(node) => {
            let have = node.metadata.labels.clone().unwrap_or_default();
            if labels.iter().all(|(key, value)| have.get(key) == Some(value)) {
                return Ok(node);
            }
            let patch = json!({ "metadata": { "labels": labels } });
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        None if ctx.config.register_node => {
            let annotations = BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".into(),
                "true".into(),
            )]);
            let taints = ctx.config.register_with_taints.clone();
            let node = Node {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(labels),
                    annotations: Some(annotations),
                    ..Default::default()
                },
                spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..Default::default() }),
                status: Some(status::status(
                    &ctx.config,
                    machine,
                    state,
                    &NodeStatus::default(),
                    Timestamp::now(),
                )),
            };
            match api.create(&PostParams::default(), &node).await {
                Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await,
                made => {
                    if let (Ok(_), Some(status)) = (&made, &node.status) {
                        announce(ctx, &NodeStatus::default(), status);
                    }
                    made
                }
            }
        }
        None => api.get(name).await,
    }
}

/// The node as it is known before the API has it.
pub fn sketch(config: &Config, machine: &Machine) -> Node {
    let state = State::default();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config, machine)),
            ..Default::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(status::status(config, machine, &state, &NodeStatus::default(), Timestamp::now())),
    }
}

fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), machine.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), machine.architecture.clone()),
    ]);
    labels.extend(config.node_labels.clone());
    labels
}
