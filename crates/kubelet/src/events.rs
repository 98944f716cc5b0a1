//! Events about pods and the node, written to the API in the background.
//!
//! An event that repeats raises the count of the first one. When the API cannot keep up, events are
//! dropped, as they are told and not kept.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use crate::names;
use crate::pod::spec::{self, Kind};

/// Most events waiting to be written.
const WAITING: usize = 1024;
/// Most events remembered for counting.
const REMEMBERED: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Normal,
    Warning,
}

/// Where events are told.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Told>,
}

/// Writes what recorders tell.
pub struct Writer {
    client: Client,
    node: String,
    receiver: mpsc::Receiver<Told>,
    known: HashMap<Told, (String, i32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Told {
    kind: Type,
    reason: String,
    message: String,
    about: BTreeMap<&'static str, String>,
}

/// A recorder, and the writer that has to run for it.
pub fn channel(client: Client, node: &str) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Recorder { sender }, Writer { client, node: node.to_owned(), receiver, known: HashMap::new() })
}

impl Recorder {
    /// Tells of something that happened to a pod.
    pub fn pod(&self, pod: &Pod, kind: Type, reason: &str, message: impl Into<String>) {
        self.tell(pod, None, kind, reason, message.into());
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
        self.tell(pod, Some(format!("spec.{list}{{{container}}}")), kind, reason, message.into());
    }

    fn tell(&self, pod: &Pod, field: Option<String>, kind: Type, reason: &str, message: String) {
        let mut about = BTreeMap::from([
            ("apiVersion", "v1".to_owned()),
            ("kind", "Pod".to_owned()),
            ("namespace", names::namespace(pod).to_owned()),
            ("name", names::name(pod).to_owned()),
            ("uid", names::annotation(pod, names::CONFIG_MIRROR).unwrap_or(names::uid(pod)).to_owned()),
        ]);
        about.extend(pod.metadata.resource_version.clone().map(|version| ("resourceVersion", version)));
        about.extend(field.map(|field| ("fieldPath", field)));
        self.send(Told { kind, reason: reason.into(), message, about });
    }

    /// Tells of something that happened to the node.
    pub fn node(&self, node: &str, kind: Type, reason: &str, message: impl Into<String>) {
        let about = BTreeMap::from([
            ("apiVersion", "v1".to_owned()),
            ("kind", "Node".to_owned()),
            ("name", node.to_owned()),
            ("uid", node.to_owned()),
        ]);
        self.send(Told { kind, reason: reason.into(), message: message.into(), about });
    }

    fn send(&self, told: Told) {
        if let Err(error) = self.sender.try_send(told) {
            tracing::warn!(%error, "an event was dropped");
        }
    }
}

impl Writer {
    /// Writes events until no recorder is left.
    pub async fn run(mut self) {
        while let Some(told) = self.receiver.recv().await {
            if let Err(error) = self.write(&told).await {
                tracing::warn!(reason = told.reason, %error, "cannot write an event");
            }
        }
    }

    async fn write(&mut self, told: &Told) -> kube::Result<()> {
        let namespace = told.about.get("namespace").map_or("default", String::as_str);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let now = Timestamp::now();
        let mut key = told.clone();
        key.about.remove("resourceVersion");
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let patch = json!({ "count": *count, "lastTimestamp": Time(now) });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                // It has expired; a new one is written.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let about = |name: &str| told.about.get(name).cloned();
        let name = format!("{}.{:x}", about("name").unwrap_or_default(), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: about("apiVersion"),
                kind: about("kind"),
                namespace: about("namespace"),
                name: about("name"),
                uid: about("uid"),
                resource_version: about("resourceVersion"),
                field_path: about("fieldPath"),
            },
            type_: Some(format!("{:?}", told.kind)),
            reason: Some(told.reason.clone()),
            message: Some(told.message.clone()),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Default::default()
        };
        api.create(&PostParams::default(), &event).await?;
        self.known.insert(key, (name, 1));
        Ok(())
    }
}
