//! QoS class, cgroup limits and OOM score of a pod's containers, by upstream's arithmetic.

use std::collections::BTreeMap;

use api::Quantity;
use api::containers::together;
use cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::spec;
use crate::names;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(pod: &Pod) -> &'static str {
    let all = || spec::containers(pod).map(|(_, container)| container);
    let resources = ["cpu", "memory"];
    let any = all()
        .any(|one| resources.iter().any(|name| !request(one, name).is_zero() || !limit(one, name).is_zero()));
    let exact = |one: &Container| {
        resources.iter().all(|name| {
            let limit = limit(one, name);
            !limit.is_zero() && request(one, name) == limit
        })
    };
    match (any, all().all(exact)) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(list: Option<&BTreeMap<String, Text>>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

/// What a container asks for; its limit where it only has that.
pub fn request(container: &Container, name: &str) -> Quantity {
    let resources = container.resources.as_ref();
    amount(resources.and_then(|r| r.requests.as_ref()), name).unwrap_or_else(|| limit(container, name))
}

/// A container's limit; zero where it has none.
pub fn limit(container: &Container, name: &str) -> Quantity {
    amount(container.resources.as_ref().and_then(|r| r.limits.as_ref()), name).unwrap_or(Quantity::ZERO)
}

/// CPU shares for a request in thousandths of a core.
pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(2, 262_144)
}

/// CPU time per [`PERIOD`] for a limit in thousandths of a core; 0 for no limit.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * PERIOD / 1000).max(1000) }
}

/// The period CPU quotas are counted over, in microseconds.
pub const PERIOD: i64 = 100_000;

/// What a container may use. `memory` is the node's, for the OOM score.
pub fn resources(pod: &Pod, container: &Container, memory: i64) -> LinuxContainerResources {
    let cpu = limit(container, "cpu").milli();
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(cpu),
        cpu_shares: shares(request(container, "cpu").milli()),
        memory_limit_in_bytes: limit(container, "memory").value(),
        oom_score_adj: oom_score(pod, container, memory),
        ..Default::default()
    }
}

/// How willingly the kernel kills the container for memory: -997 (last) to 1000 (first).
pub fn oom_score(pod: &Pod, container: &Container, memory: i64) -> i64 {
    let critical = spec::spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000);
    if critical
        || names::is_static(pod)
            && spec::spec(pod).priority_class_name.as_deref() == Some("system-node-critical")
    {
        return -997;
    }
    match class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let own = request(container, "memory").value();
            let score = if memory > 0 { 1000 - 1000 * own / memory } else { 1000 };
            // A sidecar is at least as hard to kill as the pod's easiest main container.
            let mains = spec::spec(pod).containers.iter().map(|main| request(main, "memory").value()).min();
            let score = match mains {
                Some(least) if spec::is_sidecar(container) && memory > 0 => {
                    score.min(1000 - 1000 * least / memory)
                }
                _ => score,
            };
            score.clamp(3, 999)
        }
    }
}

/// The cgroup of a pod, below `root`.
pub fn cgroup(root: &str, pod: &Pod) -> String {
    let root = root.trim_end_matches('/');
    let pod_dir = format!("pod{}", names::uid(pod));
    match class(pod) {
        "Guaranteed" => format!("{root}/kubepods/{pod_dir}"),
        "Burstable" => format!("{root}/kubepods/burstable/{pod_dir}"),
        _ => format!("{root}/kubepods/besteffort/{pod_dir}"),
    }
}

/// Limits of the whole pod: sums over its containers, limits only where every container has one.
pub fn pod_resources(pod: &Pod) -> LinuxContainerResources {
    let spec = spec::spec(pod);
    let effective = |get: &dyn Fn(&Container) -> i64| {
        let inits = spec::init_containers(pod).iter().map(|one| (spec::is_sidecar(one), get(one)));
        together(spec.containers.iter().map(get), inits, |sum, one| *sum += one, |a, b| *a = (*a).max(*b))
    };
    let limited = |name: &str| spec::containers(pod).all(|(_, one)| !limit(one, name).is_zero());
    let own = |name: &str, limits: bool| {
        let resources = spec.resources.as_ref()?;
        amount(if limits { resources.limits.as_ref() } else { resources.requests.as_ref() }, name)
    };
    let cpu = own("cpu", true).map(Quantity::milli);
    let cpu = cpu.or_else(|| limited("cpu").then(|| effective(&|one| limit(one, "cpu").milli())));
    let memory = own("memory", true).map(Quantity::value);
    let memory = memory.or_else(|| limited("memory").then(|| effective(&|one| limit(one, "memory").value())));
    let request = own("cpu", false).map(Quantity::milli);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_shares: shares(request.unwrap_or_else(|| effective(&|one| self::request(one, "cpu").milli()))),
        cpu_quota: quota(cpu.unwrap_or(0)),
        memory_limit_in_bytes: memory.unwrap_or(0),
        ..Default::default()
    }
}
