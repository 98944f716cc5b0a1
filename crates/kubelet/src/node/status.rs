//! The Node's status: a pure function of the host and its state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Quantity;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::machine::Machine;
use crate::config::Config;

/// Most images a status lists (`nodeStatusMaxImages`).
const IMAGES: usize = 50;

/// How the host is now.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Why the node is not ready; none where it is.
    pub not_ready: Option<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
    pub runtime_version: String,
    /// What the runtime can do, beside what each handler can.
    pub features: cri::v1::RuntimeFeatures,
    pub handlers: Vec<cri::v1::RuntimeHandler>,
    pub images: Vec<cri::v1::Image>,
    /// The port the kubelet answers on.
    pub port: Option<u16>,
}

/// See the module. `before` is the status the API holds.
pub fn status(
    config: &Config,
    machine: &Machine,
    state: &State,
    before: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let texts = |all: BTreeMap<String, Quantity>| -> BTreeMap<String, Text> {
        all.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect()
    };
    let mut addresses: Vec<NodeAddress> =
        config.node_ips.iter().map(|ip| address("InternalIP", *ip)).collect();
    addresses.push(NodeAddress { address: config.node_name.clone(), type_: "Hostname".into() });
    let mut images: Vec<&cri::v1::Image> = state.images.iter().collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    let images = images.into_iter().take(IMAGES).map(|image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(texts(machine.capacity(config))),
        allocatable: Some(texts(machine.allocatable(config))),
        conditions: Some(conditions(state, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: state.port.map(|port| DaemonEndpoint { port: port.into() }),
        }),
        images: Some(images.collect()),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: state.runtime_version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: crate::VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            running_in_user_namespace: None,
            swap: None,
            system_uuid: machine.system_uuid.clone(),
        }),
        // What the server lets pods ask of a node that declares it alone, in order.
        declared_features: Some(vec!["InPlacePodVerticalScalingInitContainers".into()]),
        runtime_handlers: Some(state.handlers.iter().map(handler).collect()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(state.features.supplemental_groups_policy),
        }),
        ..before.clone()
    }
}

fn handler(handler: &cri::v1::RuntimeHandler) -> NodeRuntimeHandler {
    let features = handler.features.unwrap_or_default();
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    }
}

fn address(kind: &str, ip: IpAddr) -> NodeAddress {
    NodeAddress { address: ip.to_string(), type_: kind.into() }
}

fn conditions(state: &State, before: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |type_: &'static str, is, reason: [&'static str; 2], message: [&'static str; 2]| {
        let index = usize::from(is);
        (type_, is, reason[index], message[index].to_owned())
    };
    let ready = match &state.not_ready {
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("Ready", false, "KubeletNotReady", why.clone()),
    };
    let own = [
        pressure(
            "MemoryPressure",
            state.memory_pressure,
            ["KubeletHasSufficientMemory", "KubeletHasInsufficientMemory"],
            ["kubelet has sufficient memory available", "kubelet has insufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            state.disk_pressure,
            ["KubeletHasNoDiskPressure", "KubeletHasDiskPressure"],
            ["kubelet has no disk pressure", "kubelet has disk pressure"],
        ),
        pressure(
            "PIDPressure",
            state.pid_pressure,
            ["KubeletHasSufficientPID", "KubeletHasInsufficientPID"],
            ["kubelet has sufficient PID available", "kubelet has insufficient PID available"],
        ),
        ready,
    ];
    let before = before.conditions.as_deref().unwrap_or_default();
    let others = before.iter().filter(|old| !own.iter().any(|(type_, ..)| *type_ == old.type_)).cloned();
    let made = own.iter().map(|(type_, is, reason, message)| {
        let status = if *is { "True" } else { "False" };
        let old = before.iter().find(|old| old.type_ == *type_ && old.status == status);
        NodeCondition {
            type_: (*type_).to_owned(),
            status: status.to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: old.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        }
    });
    others.chain(made).collect()
}

/// The reasons of events for the kubelet's own conditions that are new or others than before, such as
/// `NodeHasSufficientMemory`.
pub fn transitions(before: &NodeStatus, after: &NodeStatus) -> Vec<String> {
    let was = |type_: &str| {
        let mut conditions = before.conditions.iter().flatten();
        conditions.find(|one| one.type_ == type_).map(|one| one.status.as_str())
    };
    let changed = after.conditions.iter().flatten().filter(|one| was(&one.type_) != Some(&one.status));
    changed
        .filter_map(|one| match (one.type_.as_str(), one.status.as_str()) {
            ("Ready", "True") => Some("NodeReady".to_owned()),
            ("Ready", _) => Some("NodeNotReady".to_owned()),
            _ => one.reason.as_ref()?.strip_prefix("Kubelet").map(|rest| format!("Node{rest}")),
        })
        .collect()
}

/// Whether two statuses differ in anything but the time they were made.
pub fn differ(a: &NodeStatus, b: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().flatten().for_each(|condition| condition.last_heartbeat_time = None);
        serde_json::to_value(&status).unwrap_or_default()
    };
    timeless(a) != timeless(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_conditions_are_told() {
        let status = |state: State| NodeStatus {
            conditions: Some(conditions(&state, &NodeStatus::default(), Timestamp::UNIX_EPOCH)),
            ..NodeStatus::default()
        };
        let check = |before: &NodeStatus, after: &NodeStatus, want: &[&str]| {
            assert_eq!(transitions(before, after), want);
        };
        let well = status(State::default());
        let ill = status(State {
            memory_pressure: true,
            not_ready: Some("container runtime is down".into()),
            ..State::default()
        });
        let first = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
        check(&NodeStatus::default(), &well, &first);
        check(&well, &well, &[]);
        check(&well, &ill, &["NodeHasInsufficientMemory", "NodeNotReady"]);
    }
}
