//! How many replicas each ReplicaSet gets while one replaces another.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision;
use crate::amount;

pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// The most pods above, and below, the wanted number: maxSurge rounded up, maxUnavailable down, and
/// never both zero.
pub(super) fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let replicas = wanted(deployment);
    let resolve = |value: Option<&IntOrString>, up: bool| match value {
        None => amount::share("25%", replicas, up),
        Some(value) => amount::resolve(value, replicas, up),
    };
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// maxUnavailable, no more than there are replicas; zero where the strategy has none.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) || wanted(deployment) == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(wanted(deployment))
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    fenceposts(deployment).0
}

/// The size of the new set, given that of all.
pub(super) fn new_size(deployment: &Deployment, all: i32, new: i32) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let most = wanted + max_surge(deployment);
    if all >= most { new } else { new + (most - all).min(wanted - new) }
}

/// The sizes of the old sets (oldest first) after as much scaling down as availability allows.
pub(super) fn old_sizes(deployment: &Deployment, new: &ReplicaSet, old: &[&ReplicaSet]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| size(set)).collect();
    let least = wanted(deployment) - max_unavailable(deployment);
    let new_unavailable = size(new) - available(new);
    let mut spare = sizes.iter().sum::<i32>() + size(new) - least - new_unavailable;
    if spare <= 0 {
        return sizes;
    }
    // Pods that do not serve anyway go first.
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (*size - available(set)).clamp(0, spare.max(0));
        *size -= unhealthy;
        spare -= unhealthy;
    }
    let serving = available(new) + old.iter().map(|set| available(set)).sum::<i32>();
    let mut spare = serving - least;
    for size in &mut sizes {
        let down = (*size).min(spare.max(0));
        *size -= down;
        spare -= down;
    }
    sizes
}

/// The sizes after a change of the wanted number in the midst of a rollout: each set gets its share.
/// `sets` are those with replicas; the answer is in their order.
pub(super) fn proportional(deployment: &Deployment, sets: &[&ReplicaSet]) -> Vec<i32> {
    let wanted = wanted(deployment);
    let allowed = if wanted > 0 { wanted + max_surge(deployment) } else { 0 };
    let to_add = allowed - sets.iter().map(|set| size(set)).sum::<i32>();
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (sets[*a], sets[*b]);
        let by_age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
        size(b).cmp(&size(a)).then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut sizes: Vec<i32> = sets.iter().map(|set| size(set)).collect();
    let mut added = 0;
    for at in &order {
        let left = to_add - added;
        if left == 0 {
            break;
        }
        let share = share(deployment, sets[*at], allowed);
        let share = if to_add > 0 { share.min(left) } else { share.max(left) };
        sizes[*at] += share;
        added += share;
    }
    if let Some(first) = order.first() {
        sizes[*first] = (sizes[*first] + to_add - added).max(0);
    }
    sizes
}

/// By how much a set grows when the whole grows from what it was when the set was last scaled.
fn share(deployment: &Deployment, set: &ReplicaSet, allowed: i32) -> i32 {
    if wanted(deployment) == 0 {
        return -size(set);
    }
    let before = revision::max(set).filter(|before| *before > 0);
    let before = before.or(deployment.status.as_ref().and_then(|status| status.replicas)).unwrap_or_default();
    if before == 0 {
        return 0;
    }
    let grown = f64::from(size(set)) * f64::from(allowed) / f64::from(before);
    grown.round() as i32 - size(set)
}
