//! Labels, annotations and paths that tie what the runtime holds to pods, as upstream's kubelet writes them,
//! so that either kubelet can take over from the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Where a static pod's manifest came from: `file` or `api`.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// The hash of a static pod's manifest, on the static pod.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// The hash of the static pod that a mirror pod shows, on the mirror pod.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// A pod as upstream names it in messages: `name_namespace(uid)`.
pub fn full(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod comes from a manifest on this node rather than from the API.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api")
}

pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The labels of a pod's sandbox.
pub fn sandbox_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

/// The labels of one of a pod's containers.
pub fn container_labels(pod: &Pod, container: &str) -> BTreeMap<String, String> {
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME.into(), container.into());
    labels
}

fn identity(pod: &Pod) -> BTreeMap<String, String> {
    BTreeMap::from([
        (POD_NAME.into(), name(pod).into()),
        (POD_NAMESPACE.into(), namespace(pod).into()),
        (POD_UID.into(), uid(pod).into()),
    ])
}

/// A container's definition as far as a change of it restarts the container: its name and image.
pub fn hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    // FNV-1a, 32 bits: changes are to be noticed, not defended against.
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// Where a pod's logs are kept.
pub fn log_dir(root: &Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
}

/// A container's log file, below its pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}
