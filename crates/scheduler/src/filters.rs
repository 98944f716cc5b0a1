//! What rules a node out, looked at by itself.

use client::placement::tolerates;
use k8s_openapi::api::core::v1::Taint;

use crate::{NodeInfo, PodInfo};

/// Why a node is ruled out, in upstream's words, and whether removing pods from it could change that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub plugin: &'static str,
    pub reasons: Vec<String>,
    pub resolvable: bool,
}

impl Rejection {
    pub(crate) fn new(plugin: &'static str, reason: &str, resolvable: bool) -> Self {
        Self { plugin, reasons: vec![reason.to_owned()], resolvable }
    }
}

pub(crate) fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// The first taint that keeps a pod off a node.
pub(crate) fn keeping_off<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    let hard = node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.into_iter().find(|taint| !tolerated(pod, taint))
}

pub(crate) fn affinity_fits(pod: &PodInfo, node: &NodeInfo) -> bool {
    let chosen = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = pod.node_required.as_ref();
    chosen && required.is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}

/// Looks at a node by itself: name, cordon, taints, affinity, ports and resources, in upstream's order.
pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let off = |plugin, reason: &str| Err(Rejection::new(plugin, reason, false));
    if node.unschedulable && !tolerated(pod, &cordon()) {
        return off("NodeUnschedulable", "node(s) were unschedulable");
    }
    if pod.node_name.as_ref().is_some_and(|name| *name != node.name) {
        return off("NodeName", "node(s) didn't match the requested node name");
    }
    if keeping_off(pod, node).is_some() {
        return off("TaintToleration", "node(s) had untolerated taint(s)");
    }
    if !affinity_fits(pod, node) {
        return off("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    if pod.ports.iter().any(|port| node.ports.iter().any(|taken| conflict(port, taken))) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::new("NodePorts", reason, true));
    }
    fits(pod, node)
}

fn cordon() -> Taint {
    Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() }
}

fn conflict(a: &crate::pod::HostPort, b: &crate::pod::HostPort) -> bool {
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || any(&a.1) || any(&b.1))
}

fn fits(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut rejection = Rejection { plugin: "NodeResourcesFit", reasons: Vec::new(), resolvable: true };
    if node.pods.len() + 1 > node.max_pods {
        rejection.reasons.push("Too many pods".into());
    }
    let (want, used, all) = (&pod.request, &node.requested, &node.allocatable);
    let mut ask = |name: &str, want: i64, used: i64, all: i64| {
        if want > 0 && want > all - used {
            rejection.reasons.push(format!("Insufficient {name}"));
            // What the node does not have at all no departure can free.
            rejection.resolvable &= want <= all;
        }
    };
    ask("cpu", want.milli_cpu, used.milli_cpu, all.milli_cpu);
    ask("memory", want.memory, used.memory, all.memory);
    ask("ephemeral-storage", want.ephemeral, used.ephemeral, all.ephemeral);
    for (name, amount) in &want.scalar {
        let of = |from: &crate::resources::Resources| from.scalar.get(name).copied().unwrap_or_default();
        ask(name, *amount, of(used), of(all));
    }
    if rejection.reasons.is_empty() { Ok(()) } else { Err(rejection) }
}
