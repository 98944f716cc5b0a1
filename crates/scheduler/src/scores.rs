//! Which of the nodes that are left is best: each plugin gives 0 to 100, weighted as upstream does.

use crate::filters::tolerated;
use crate::topology::{self, Counts, Meant};
use crate::{NodeInfo, PodInfo, Snapshot};

const MOST: i64 = 100;

/// The weighted sum for each node, in the order of `nodes`.
pub fn score(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut total: Vec<i64> = nodes.iter().map(|node| resources(pod, node)).collect();
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in total.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    if nodes.iter().any(|node| !node.taints.is_empty()) {
        let soft = |node: &&NodeInfo| {
            let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
            soft.filter(|taint| !tolerated(pod, taint)).count() as i64
        };
        add(3, less_is_better(nodes.iter().map(soft).collect()));
    }
    if !pod.node_preferred.is_empty() {
        let preferred = |node: &&NodeInfo| {
            let met = pod.node_preferred.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
            met.map(|(weight, _)| weight).sum()
        };
        add(2, scaled(nodes.iter().map(preferred).collect()));
    }
    if !pod.preferred.is_empty() {
        add(2, neighbours(snapshot, pod, nodes));
    }
    add(2, spread(snapshot, pod, nodes));
    if nodes.iter().any(|node| !node.images.is_empty()) {
        add(1, images(snapshot, pod, nodes));
    }
    total
}

/// Least allocated and most balanced, each by CPU and memory.
fn resources(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let pairs = [
        (node.counted.milli_cpu + pod.counted.milli_cpu, node.allocatable.milli_cpu),
        (node.counted.memory + pod.counted.memory, node.allocatable.memory),
    ];
    let there = pairs.iter().filter(|(_, all)| *all > 0);
    let (mut free, mut kinds) = (0, 0);
    for (used, all) in there {
        free += if used > all { 0 } else { (all - used) * MOST / all };
        kinds += 1;
    }
    let least_allocated = if kinds == 0 { 0 } else { free / kinds };
    let part = |(used, all): (i64, i64)| if all == 0 { 1.0 } else { (used as f64 / all as f64).min(1.0) };
    let deviation = (part(pairs[0]) - part(pairs[1])).abs() / 2.0;
    least_allocated + ((1.0 - deviation) * MOST as f64) as i64
}

/// Scaled so that the highest is 100.
fn scaled(mut scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or_default();
    if most > 0 {
        scores.iter_mut().for_each(|score| *score = *score * MOST / most);
    }
    scores
}

fn less_is_better(scores: Vec<i64>) -> Vec<i64> {
    scaled(scores).into_iter().map(|score| MOST - score).collect()
}

/// Between the lowest (0) and the highest (100).
fn stretched(scores: Vec<i64>) -> Vec<i64> {
    let least = scores.iter().copied().min().unwrap_or_default();
    let most = scores.iter().copied().max().unwrap_or_default();
    let stretch = |score| if most == least { 0 } else { (score - least) * MOST / (most - least) };
    scores.into_iter().map(stretch).collect()
}

/// Preferred inter-pod affinity of the pod itself.
fn neighbours(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let counted = pod.preferred.iter().map(|(weight, term)| (*weight, topology::count(snapshot, term)));
    let counted: Vec<(i64, Counts)> = counted.collect();
    let of = |node: &&NodeInfo| counted.iter().map(|(weight, counts)| weight * counts.at(node)).sum();
    stretched(nodes.iter().map(of).collect())
}

/// Few pods of its kind: by the constraints that are wishes, or, without any, pods of the same
/// controller by node and by zone.
fn spread(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut sums = vec![0; nodes.len()];
    let wishes: Vec<_> = pod.spread.iter().filter(|constraint| !constraint.required).collect();
    if !wishes.is_empty() {
        for constraint in wishes {
            let mut meant = Meant::new(snapshot, |signature| constraint.means(pod, signature));
            let here: Vec<i64> = nodes.iter().map(|node| meant.on(node)).collect();
            add_by(&mut sums, snapshot, nodes, &here, &constraint.topology_key, constraint.max_skew - 1);
        }
    } else if let Some(owner) = pod.signature.owner.as_deref().filter(|_| pod.spread.is_empty()) {
        let mut meant = Meant::new(snapshot, |signature| signature.owner.as_deref() == Some(owner));
        let here: Vec<i64> = nodes.iter().map(|node| meant.on(node)).collect();
        add_by(&mut sums, snapshot, nodes, &here, "kubernetes.io/hostname", 2);
        add_by(&mut sums, snapshot, nodes, &here, "topology.kubernetes.io/zone", 4);
    } else {
        return sums;
    }
    stretched(sums).into_iter().map(|score| MOST - score).collect()
}

/// Adds to each node how many there are in its domain, weighted by the logarithm of the number of
/// domains as upstream does (in hundredths).
fn add_by(sums: &mut [i64], snapshot: &Snapshot, nodes: &[&NodeInfo], here: &[i64], key: &str, slack: i64) {
    let mut counts = Counts::new(snapshot, key);
    for (node, count) in nodes.iter().zip(here) {
        counts.add(node, *count);
    }
    let weight = ((counts.domains() + 2) as f64).ln();
    for (sum, node) in sums.iter_mut().zip(nodes) {
        if let Some(count) = counts.get(node) {
            *sum += ((count as f64 * weight + slack as f64) * 100.0) as i64;
        }
    }
}

/// How much of the pod's images the nodes have, less for images few nodes have.
fn images(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    const MEGABYTE: i64 = 1024 * 1024;
    let all = snapshot.nodes().len().max(1) as f64;
    let names = pod.images.iter().map(|name| normalized(name));
    let holders: Vec<(String, f64)> = names
        .map(|name| {
            let holders = snapshot.known().filter(|node| node.images.contains_key(&name)).count();
            (name, holders as f64 / all)
        })
        .collect();
    let (low, high) = (23 * MEGABYTE, 1000 * MEGABYTE * pod.images.len().max(1) as i64);
    let of = |node: &&NodeInfo| {
        let sizes = holders.iter().filter_map(|(name, part)| Some(*node.images.get(name)? as f64 * part));
        let sum = (sizes.sum::<f64>() as i64).clamp(low, high);
        MOST * (sum - low) / (high - low)
    };
    nodes.iter().map(of).collect()
}

fn normalized(name: &str) -> String {
    let last = name.rfind('/').map_or(name, |at| &name[at..]);
    if last.contains(':') || name.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}
