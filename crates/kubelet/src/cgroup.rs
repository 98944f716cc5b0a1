//! The cgroups above the containers': of all pods, of a class of pods, and of each pod.
//!
//! ```text
//! <root>/kubepods                    all pods
//! <root>/kubepods/pod<uid>           a Guaranteed pod
//! <root>/kubepods/burstable/pod<uid> a Burstable pod
//! <root>/kubepods/besteffort/pod<uid>
//! ```

use std::io;
use std::sync::Arc;

use cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::Pod;
use runtime::cgroup::Cgroup;
use scheduler::resources::pod_request;

use crate::names;
use crate::pod::{qos, spec};

/// Makes the cgroup of `pod` with its limits, and brings its class's share of the CPU up to date with all
/// `pods` of the node.
///
/// # Errors
/// The host's.
pub fn make(root: &str, pods: &[Arc<Pod>], pod: &Pod) -> io::Result<()> {
    let all = format!("{}/kubepods", root.trim_end_matches('/'));
    let least = LinuxContainerResources { cpu_shares: qos::shares(0), ..Default::default() };
    match qos::class(pod) {
        "BestEffort" => Cgroup::new(format!("{all}/besteffort")).make(&least)?,
        "Burstable" => Cgroup::new(format!("{all}/burstable")).make(&burstable(pods, pod))?,
        _ => {}
    }
    Cgroup::new(qos::cgroup(root, pod)).make(&qos::pod_resources(pod))
}

/// What all Burstable pods ask for together.
fn burstable(pods: &[Arc<Pod>], pod: &Pod) -> LinuxContainerResources {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let runs = |pod: &Pod| !matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed"));
    let others =
        pods.iter().map(AsRef::as_ref).filter(|other| names::uid(other) != names::uid(pod) && runs(other));
    let burstable = others.chain([pod]).filter(|pod| qos::class(pod) == "Burstable");
    let milli = burstable.map(|pod| pod_request(spec::spec(pod), false).milli_cpu).sum();
    LinuxContainerResources { cpu_shares: qos::shares(milli), ..Default::default() }
}
