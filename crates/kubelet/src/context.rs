//! What all parts of the kubelet share.

use std::sync::Arc;

use client::{Informer, Informers};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::events::Recorder;
use crate::node::Machine;
use crate::pod::admit::Taken;
use crate::pod::fields::Allocatable;
use crate::pod::status::Host;
use crate::source::objects::Objects;
use crate::volume::Tokens;

/// Shared by every worker; nothing in it changes but what is behind its own lock.
pub struct Context {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn cri::Runtime>,
    pub recorder: Recorder,
    pub objects: Objects,
    pub informers: Informers,
    /// The pods bound to this node.
    pub pods: Informer<Pod>,
    pub services: Informer<Service>,
    /// This node alone.
    pub node: Informer<Node>,
    pub taken: Taken,
    /// Told when a pod has given back its place.
    pub freed: watch::Sender<()>,
    pub tokens: Tokens,
    pub host: Host,
    /// The node's memory in bytes.
    pub memory: i64,
    pub allocatable: Allocatable,
    pub machine: Machine,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Context {
    /// This node as the API has it, or as it will be told to the API where it is not there yet.
    pub fn node(&self) -> Arc<Node> {
        let name = client::ObjectKey::cluster(&self.config.node_name);
        self.node.get(&name).unwrap_or_else(|| Arc::new(crate::node::sketch(&self.config, &self.machine)))
    }
}
