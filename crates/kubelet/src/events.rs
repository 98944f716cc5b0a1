//! Events about pods and the node, told through the recorder every client of the API shares.

use client::events::{Occurrence, Source};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::names;
use crate::pod::spec::{self, Kind};

pub use client::events::Severity as Type;

/// Where events are told.
#[derive(Clone)]
pub struct Recorder(client::Recorder);

/// A recorder for the kubelet of `node`, and the loop that writes what it is told until `stop`.
pub fn channel(
    client: Client,
    node: &str,
    stop: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send + use<>) {
    let source = Source { component: "kubelet".into(), host: node.to_owned(), series: false };
    let (recorder, writer) = client::Recorder::new(client, source, stop);
    (Recorder(recorder), writer)
}

impl Recorder {
    /// Tells of something that happened to a pod.
    pub fn pod(&self, pod: &Pod, kind: Type, reason: &str, message: impl Into<String>) {
        self.tell(about(pod), kind, reason, message.into());
    }

    /// Tells of something that happened to one of a pod's containers.
    pub fn container(
        &self,
        pod: &Pod,
        container: &str,
        kind: Type,
        reason: &str,
        message: impl Into<String>,
    ) {
        let list = match spec::find(pod, container) {
            Some((Kind::Init | Kind::Sidecar, _)) => "initContainers",
            Some((Kind::Ephemeral, _)) => "ephemeralContainers",
            _ => "containers",
        };
        let field_path = Some(format!("spec.{list}{{{container}}}"));
        self.tell(ObjectReference { field_path, ..about(pod) }, kind, reason, message.into());
    }

    /// Tells of something that happened to the node.
    pub fn node(&self, node: &str, kind: Type, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            // The kubelet knows its node by name alone, and says so in place of the uid.
            uid: Some(node.to_owned()),
            ..Default::default()
        };
        self.tell(about, kind, reason, message.into());
    }

    fn tell(&self, about: ObjectReference, severity: Type, reason: &str, message: String) {
        self.0.record(Occurrence { about, severity, reason: reason.into(), message, action: None });
    }
}

/// A pod as events refer to it: a static pod by what ties its mirror to it.
fn about(pod: &Pod) -> ObjectReference {
    let uid = names::annotation(pod, names::CONFIG_MIRROR).unwrap_or(names::uid(pod));
    ObjectReference { uid: Some(uid.to_owned()), ..client::events::reference(pod) }
}
