//! Whether this node takes a pod that was bound to it: what upstream's kubelet checks before it starts one.

use std::collections::HashMap;
use std::sync::Arc;

use client::placement::tolerates;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use scheduler::filters::check;
use scheduler::resources::Resources;
use scheduler::{NodeInfo, PodInfo, Snapshot};

use super::memory::End;
use super::resize::Granted;
use super::spec;
use crate::config::Config;
use crate::names;

/// Kernel parameters that touch nothing but the pod itself, and so need no permission.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Pods that were taken, with what they were granted: two that come at once must not both get the last place.
#[derive(Default)]
pub struct Taken(Mutex<HashMap<String, Arc<Pod>>>);

impl Taken {
    /// Takes `pod`, or says why not. `pods` are all pods of the node as the API has them; one of which
    /// something was `made` already has its place.
    ///
    /// # Errors
    /// Reason and message for the pod's status, as upstream words them.
    pub fn take(
        &self,
        pod: &Arc<Pod>,
        made: bool,
        pods: &[Arc<Pod>],
        node: &Node,
        config: &Config,
    ) -> Result<(), End> {
        let mut taken = self.0.lock();
        if !made && !begun(pod) && !finished(pod) {
            sysctls(pod, &config.allowed_unsafe_sysctls)?;
            operating_system(pod)?;
            place(pod, &others(&taken, pod, pods), node)?;
        }
        taken.insert(identity(pod).to_owned(), pod.clone());
        Ok(())
    }

    /// Grants `pod`, which was taken, what it asks for by now, where there is room among `pods` on `node`.
    pub fn grow(&self, pod: &Arc<Pod>, pods: &[Arc<Pod>], node: &Node) -> Room {
        let mut taken = self.0.lock();
        let room = room(pod, &others(&taken, pod, pods), node);
        if room == Room::Enough {
            taken.insert(identity(pod).to_owned(), pod.clone());
        }
        room
    }

    /// The pod with this uid holds its place no more.
    pub fn release(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

/// The pods that hold a place beside `pod`, with what they were granted.
fn others(taken: &HashMap<String, Arc<Pod>>, pod: &Pod, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let others = pods.iter().filter(|other| identity(other) != identity(pod) && !finished(other));
    others
        .filter_map(|other| match taken.get(identity(other)) {
            Some(granted) => Some(granted.clone()),
            None => begun(other).then(|| Granted::before(other).pod(other)),
        })
        .collect()
}

/// What a pod and its mirror have in common.
fn identity(pod: &Pod) -> &str {
    names::annotation(pod, names::CONFIG_MIRROR).unwrap_or_else(|| names::uid(pod))
}

/// Whether the pod was taken before, by this kubelet or the one before it.
fn begun(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn refuse(reason: impl Into<String>, message: impl Into<String>) -> Result<(), End> {
    Err(End { reason: reason.into(), message: message.into() })
}

fn operating_system(pod: &Pod) -> Result<(), End> {
    let other = |wanted: &str| !wanted.is_empty() && wanted != "linux";
    if spec::spec(pod).os.as_ref().is_some_and(|os| other(&os.name)) {
        return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    let selected = spec::spec(pod).node_selector.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if selected.is_some_and(|os| other(os)) {
        let message = format!(
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label: {selected:?}"
        );
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", message);
    }
    Ok(())
}

fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), End> {
    let context = spec::spec(pod).security_context.as_ref();
    let (network, ipc) = (names::host_network(pod), spec::spec(pod).host_ipc.unwrap_or(false));
    for sysctl in context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
        let name = sysctl.name.replace('/', ".");
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed.iter().any(fits) {
            return refuse("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        let of_host = if name.starts_with("net.") { network.then_some("net") } else { ipc.then_some("ipc") };
        if let Some(namespace) = of_host {
            let message = format!("forbidden sysctl: {name:?} not allowed with host {namespace} enabled");
            return refuse("SysctlForbidden", message);
        }
    }
    Ok(())
}

/// Whether the node has what the pod asks for beside the pods it has.
fn place(pod: &Arc<Pod>, others: &[Arc<Pod>], node: &Node) -> Result<(), End> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut snapshot = Snapshot::default();
    // Cordons and taints keep the scheduler away, and not what is bound already.
    let mut open = node.clone();
    if let Some(spec) = &mut open.spec {
        spec.taints = None;
        spec.unschedulable = None;
    }
    snapshot.set_node(&open);
    for other in others {
        snapshot.set_pod(Arc::new(PodInfo::new(other.clone())), &name);
    }
    let Some(info) = snapshot.node(&name) else { return Ok(()) };
    let asking = PodInfo::new(pod.clone());
    if let Some(short) = short(&asking.request, info) {
        return refuse(format!("OutOf{}", short.resource), short.to_string());
    }
    if let Err(rejection) = check(&asking, info) {
        let why = rejection.reasons.join(", ");
        return refuse(rejection.plugin, format!("Predicate {} failed: {why}", rejection.plugin));
    }
    let tolerations = spec::spec(pod).tolerations.as_deref().unwrap_or_default();
    let unbearable = taints.iter().filter(|taint| taint.effect == "NoExecute");
    let mut unbearable = unbearable.filter(|taint| !tolerations.iter().any(|one| tolerates(one, taint)));
    if !names::is_static(pod) && unbearable.next().is_some() {
        let why = "node(s) had taints that the pod didn't tolerate";
        return refuse("TaintToleration", format!("Predicate TaintToleration failed: {why}"));
    }
    Ok(())
}

/// A resource the node has too little of. Amounts are thousandths of a core, or bytes, or pieces.
#[derive(Debug, PartialEq)]
pub struct Short {
    resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Short { resource, requested, used, capacity } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

fn short(want: &Resources, node: &NodeInfo) -> Option<Short> {
    let (used, all) = (&node.requested, &node.allocatable);
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    let most = i64::try_from(node.max_pods).unwrap_or(i64::MAX);
    let mut rows = vec![
        ("pods".to_owned(), 1, pods, most),
        ("cpu".to_owned(), want.milli_cpu, used.milli_cpu, all.milli_cpu),
        ("memory".to_owned(), want.memory, used.memory, all.memory),
        ("ephemeral-storage".to_owned(), want.ephemeral, used.ephemeral, all.ephemeral),
    ];
    // What this node knows nothing of is for others to count.
    let known = want.scalar.iter().filter(|(name, _)| all.scalar.contains_key(*name));
    let of = |from: &Resources, name: &String| from.scalar.get(name).copied().unwrap_or_default();
    rows.extend(known.map(|(name, amount)| (name.clone(), *amount, of(used, name), of(all, name))));
    rows.into_iter()
        .find(|(_, want, used, all)| *want > 0 && want > &(all - used))
        .map(|(resource, requested, used, capacity)| Short { resource, requested, used, capacity })
}

/// Whether the node could ever, and can now, hold `pod` with other requests than it has.
#[derive(Debug, PartialEq)]
pub enum Room {
    Enough,
    /// Not beside the pods there are.
    NotNow(String),
    /// Not even alone.
    Never(String),
}

/// Whether `pod` as it is to be fits beside `others` on `node`.
fn room(pod: &Arc<Pod>, others: &[Arc<Pod>], node: &Node) -> Room {
    let name = node.metadata.name.clone().unwrap_or_default();
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node);
    let want = PodInfo::new(pod.clone()).request;
    if let Some(alone) = snapshot.node(&name).and_then(|info| short(&want, info)) {
        let Short { resource, requested, capacity, .. } = alone;
        return Room::Never(format!(
            "Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}"
        ));
    }
    for other in others {
        snapshot.set_pod(Arc::new(PodInfo::new(other.clone())), &name);
    }
    match snapshot.node(&name).and_then(|info| short(&want, info)) {
        Some(short) => Room::NotNow(short.to_string()),
        None => Room::Enough,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, spec: Value) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({ "metadata": { "name": uid, "uid": uid }, "spec": spec })).unwrap(),
        )
    }

    fn asks(cpu: &str) -> Value {
        json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] })
    }

    fn check(others: &[Value], spec: Value, want: Result<(), (&str, &str)>) {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "n", "labels": { "disk": "ssd" } },
            "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] },
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3" } },
        }))
        .unwrap();
        let mut config = Config::new("n", Vec::new());
        config.allowed_unsafe_sysctls = vec!["kernel.sem*".into()];
        let taken = Taken::default();
        let mut pods = Vec::new();
        for (index, other) in others.iter().enumerate() {
            let other = pod(&format!("other-{index}"), other.clone());
            taken.take(&other, false, &pods, &node, &config).unwrap();
            pods.push(other);
        }
        let got = taken.take(&pod("new", spec), false, &pods, &node, &config);
        let got = got.map_err(|end| (end.reason, end.message));
        assert_eq!(got, want.map_err(|(reason, message)| (reason.to_owned(), message.to_owned())));
    }

    #[test]
    fn resources_are_counted_with_those_of_the_pods_there_are() {
        check(&[asks("1500m")], asks("500m"), Ok(()));
        let message = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
        check(&[asks("1500m")], asks("600m"), Err(("OutOfcpu", message)));
        let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        check(&[asks("0"), asks("0"), asks("0")], asks("0"), Err(("OutOfpods", message)));
    }

    #[test]
    fn a_pod_has_to_want_this_node() {
        let mut spec = asks("0");
        spec["nodeSelector"] = json!({ "disk": "hdd" });
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        check(&[], spec, Err(("NodeAffinity", message)));
        let mut spec = asks("0");
        spec["containers"][0]["ports"] = json!([{ "containerPort": 1, "hostPort": 2 }]);
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        check(std::slice::from_ref(&spec), spec.clone(), Err(("NodePorts", message)));
        let mut spec = asks("0");
        spec["os"] = json!({ "name": "windows" });
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        check(&[], spec, Err(("PodOSNotSupported", message)));
    }

    #[test]
    fn sysctls_need_permission() {
        let with = |name: &str, network: bool| {
            let mut spec = asks("0");
            spec["hostNetwork"] = json!(network);
            spec["securityContext"] = json!({ "sysctls": [{ "name": name, "value": "1" }] });
            spec
        };
        check(&[], with("kernel.shm_rmid_forced", false), Ok(()));
        check(&[], with("kernel.sem", false), Ok(()));
        let refused = |message: &'static str| Err(("SysctlForbidden", message));
        check(
            &[],
            with("kernel.msgmax", false),
            refused("forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
        );
        let message = "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled";
        check(&[], with("net.ipv4.tcp_syncookies", true), refused(message));
    }
}
