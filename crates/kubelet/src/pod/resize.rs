//! Resources of running containers changed in place (KEP-1287).
//!
//! The spec says what is wanted. What the node has granted follows when there is room for it, and what the
//! containers have follows that: by a change of their cgroups, or by a restart where their `resizePolicy`
//! asks for one.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};

use super::{observed, qos, spec, status};

/// What each container was granted, by its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Granted(BTreeMap<String, ResourceRequirements>);

impl Granted {
    /// All that the spec asks for.
    pub fn wanted(pod: &Pod) -> Granted {
        let all = spec::containers(pod);
        Granted(all.map(|(_, one)| (one.name.clone(), one.resources.clone().unwrap_or_default())).collect())
    }

    /// What a kubelet before this one granted, as the pod's status tells: all, where it tells nothing.
    pub fn before(pod: &Pod) -> Granted {
        let mut granted = Granted::wanted(pod);
        let Some(status) = &pod.status else { return granted };
        for (name, resources) in &mut granted.0 {
            let Some(told) = status::find(status, name) else { continue };
            if let (Some(actual), Some(requests)) = (&told.resources, &told.allocated_resources) {
                resources.requests = Some(requests.clone()).filter(|requests| !requests.is_empty());
                resources.limits.clone_from(&actual.limits);
            }
        }
        granted
    }

    /// The pod as if it asked for what it was granted.
    pub fn pod(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if *self == Granted::wanted(pod) {
            return pod.clone();
        }
        let mut granted = pod.as_ref().clone();
        let spec = granted.spec.get_or_insert_default();
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(resources) = self.0.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
        Arc::new(granted)
    }
}

/// Why a container's resources are not what was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    pub message: String,
}

/// How a running container comes to have what it was granted.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    None,
    InPlace,
    Restart,
}

/// Compares what `container` was granted with what its process has.
pub fn change(pod: &Pod, container: &Container, running: &observed::Container) -> Change {
    let Some(have) = &running.resources else { return Change::None };
    let want = qos::resources(pod, container, 0);
    let cpu = has_cpu(&want) != has_cpu(have);
    let memory = want.memory_limit_in_bytes != have.memory_limit_in_bytes;
    let restarts = |name: &str| {
        let policies = container.resize_policy.iter().flatten();
        policies.into_iter().any(|one| one.resource_name == name && one.restart_policy == "RestartContainer")
    };
    match (cpu, memory) {
        (false, false) => Change::None,
        _ if cpu && restarts("cpu") || memory && restarts("memory") => Change::Restart,
        _ => Change::InPlace,
    }
}

fn has_cpu(resources: &LinuxContainerResources) -> (i64, i64) {
    (resources.cpu_shares, resources.cpu_quota.max(0))
}

/// What a container's status says it has: what it was granted, or what it had while that is under way.
pub fn actual(
    pod: &Pod,
    container: &Container,
    running: Option<&observed::Container>,
    before: Option<&ContainerStatus>,
) -> ResourceRequirements {
    let granted = container.resources.clone().unwrap_or_default();
    match running.map(|one| change(pod, container, one)) {
        None | Some(Change::None) => granted,
        Some(_) => before.and_then(|before| before.resources.clone()).unwrap_or(granted),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, policy: &str) -> Pod {
        let resources = json!({ "requests": { "cpu": cpu }, "limits": { "cpu": cpu, "memory": "64Mi" } });
        let policy = json!([{ "resourceName": "cpu", "restartPolicy": policy }]);
        let container = json!({ "name": "a", "resources": resources, "resizePolicy": policy });
        serde_json::from_value(json!({ "metadata": { "uid": "u" }, "spec": { "containers": [container] } }))
            .unwrap()
    }

    fn check(have: &str, want: &str, policy: &str, expected: Change) {
        let had = pod(have, policy);
        let resources = qos::resources(&had, &spec::spec(&had).containers[0], 0);
        let running = observed::Container { resources: Some(resources), ..Default::default() };
        let wanted = pod(want, policy);
        assert_eq!(change(&wanted, &spec::spec(&wanted).containers[0], &running), expected);
    }

    #[test]
    fn what_differs_is_changed_as_its_policy_says() {
        check("100m", "100m", "NotRequired", Change::None);
        check("100m", "200m", "NotRequired", Change::InPlace);
        check("100m", "200m", "RestartContainer", Change::Restart);
    }

    #[test]
    fn a_status_tells_what_was_granted() {
        let mut pod = pod("200m", "NotRequired");
        pod.status = serde_json::from_value(json!({ "containerStatuses": [{
            "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": { "cpu": "100m" },
            "resources": { "requests": { "cpu": "100m" }, "limits": { "cpu": "100m", "memory": "64Mi" } },
        }] }))
        .unwrap();
        let granted = Granted::before(&pod);
        let shown = granted.pod(&Arc::new(pod));
        assert_eq!(qos::request(&spec::spec(&shown).containers[0], "cpu").milli(), 100);
    }
}
