//! Nodes, and the way to their kubelets.

use api::{Object, Status};
use async_trait::async_trait;
use registry::Engine;
use registry::resource::{Connect, Target};
use serde_json::Value;

pub struct Strategy;

impl registry::Strategy for Strategy {}

/// How a node's kubelet is reached, by the addresses and the port of its status.
///
/// # Errors
/// The node is not there, or has told no address yet.
pub fn kubelet(engine: &Engine, name: &str, path: String) -> Result<Target, Status> {
    let nodes = engine.resource("", "nodes").ok_or_else(Status::path_not_found)?;
    let item = engine.cache("", "nodes").and_then(|c| c.get(name));
    let node = item.ok_or_else(|| Status::not_found(&nodes.group_resource(), name))?.object()?;
    address(&node, path)
}

fn address(node: &Object, path: String) -> Result<Target, Status> {
    let all = node.get(&["status", "addresses"]).and_then(Value::as_array);
    let find = |kind: &str| {
        let found = all.into_iter().flatten().find(|a| a.get("type").and_then(Value::as_str) == Some(kind));
        found.and_then(|a| a.get("address")?.as_str())
    };
    let host = find("InternalIP").or_else(|| find("Hostname")).or_else(|| find("ExternalIP"));
    let host =
        host.ok_or_else(|| Status::unavailable(format!("node {} has told no address", node.name())))?;
    let port = node.get(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
    let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(10250);
    Ok(Target { scheme: "https", host: host.to_owned(), port, path, kubelet: true })
}

/// `nodes/NAME/proxy/…`
pub struct Proxy;

#[async_trait]
impl Connect for Proxy {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["create", "delete", "get", "patch", "update"]
    }

    async fn target(&self, _: &Engine, node: &Object, path: &str, query: &str) -> Result<Target, Status> {
        address(node, super::pod::with_query(path, query))
    }
}
