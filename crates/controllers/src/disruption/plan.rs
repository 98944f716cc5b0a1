//! What a PodDisruptionBudget allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{amount, pods};

/// How long an eviction may take to become a deletion before it is not believed any more.
const DELETION: Duration = Duration::from_secs(2 * 60);

#[derive(Debug)]
pub(super) struct Plan {
    pub status: PodDisruptionBudgetStatus,
    /// Pods that were to be deleted and were not.
    pub not_deleted: Vec<Arc<Pod>>,
    /// When an eviction is not believed any more.
    pub again: Option<Duration>,
}

/// Whether the number of pods there should be is needed, rather than that of those there are.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.clone().unwrap_or_default();
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// `pods` are those selected; `scale` is how many there should be, or why that is not known.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: Result<i32, String>,
    now: Timestamp,
) -> Plan {
    let old = budget.status.clone().unwrap_or_default();
    let spec = budget.spec.clone().unwrap_or_default();
    let mut plan = Plan { status: old.clone(), not_deleted: Vec::new(), again: None };
    let expected = match scale {
        Ok(expected) => expected,
        Err(why) => {
            plan.status.disruptions_allowed = Some(0);
            plan.status.observed_generation = budget.metadata.generation;
            plan.allow(budget, "False", "SyncFailed", &why, now);
            return plan;
        }
    };
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (expected - amount::resolve(most, expected, true)).max(0),
        (None, Some(least)) => amount::resolve(least, expected, true),
        (None, None) => 0,
    };
    let disrupted = plan.disrupted(old.disrupted_pods.unwrap_or_default(), pods, now);
    let healthy = pods.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !pods::is_deleting(pod) && !disrupted.contains_key(name) && pods::is_ready(pod)
    });
    let healthy = healthy.count() as i32;
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    plan.status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|all| !all.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: old.conditions,
    };
    if allowed > 0 {
        plan.allow(budget, "True", "SufficientPods", "", now);
    } else {
        plan.allow(budget, "False", "InsufficientPods", "", now);
    }
    plan
}

impl Plan {
    /// The evictions that are still believed.
    fn disrupted(
        &mut self,
        noted: BTreeMap<String, Time>,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> BTreeMap<String, Time> {
        let mut left = BTreeMap::new();
        for (name, since) in noted {
            let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(&name));
            let Some(pod) = pod.filter(|pod| !pods::is_deleting(pod)) else { continue };
            let waited = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
            let patience = DELETION.saturating_sub(waited);
            if patience.is_zero() {
                self.not_deleted.push(pod.clone());
                continue;
            }
            self.again = Some(self.again.map_or(patience, |again| again.min(patience)));
            left.insert(name, since);
        }
        left
    }

    fn allow(
        &mut self,
        budget: &PodDisruptionBudget,
        status: &str,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) {
        let conditions = self.status.conditions.get_or_insert_default();
        let old = conditions.iter().position(|condition| condition.type_ == "DisruptionAllowed");
        let since = old.map(|at| conditions.remove(at)).filter(|old| old.status == status);
        conditions.push(Condition {
            type_: "DisruptionAllowed".into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: budget.metadata.generation,
            last_transition_time: since.map_or(Time(now), |old| old.last_transition_time),
        });
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    /// Four pods: three ready, of which one was evicted; one not ready.
    fn check(spec: Value, expected: i32, evicted: &str, golden: Expect) {
        let budget = json!({"metadata": {"generation": 2}, "spec": spec,
            "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
                "disruptedPods": {"a": evicted, "gone": evicted}}});
        let pods = ["a", "b", "c", "d"].map(|name| {
            let ready = if name == "d" { "False" } else { "True" };
            let pod = json!({"metadata": {"name": name},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        });
        let now = "2025-01-01T00:01:00Z".parse().unwrap();
        let plan = plan(&serde_json::from_value(budget).unwrap(), &pods, Ok(expected), now);
        let PodDisruptionBudgetStatus { current_healthy, desired_healthy, disruptions_allowed, .. } =
            plan.status;
        let reason = &plan.status.conditions.unwrap()[0].reason;
        golden.assert_eq(&format!(
            "healthy {} desired {} allowed {} {reason}, not deleted {}, again {:?}",
            current_healthy.unwrap(),
            desired_healthy.unwrap(),
            disruptions_allowed.unwrap(),
            plan.not_deleted.len(),
            plan.again.map(|d| d.as_secs())
        ));
    }

    #[test]
    fn what_is_allowed() {
        let recent = "2025-01-01T00:00:30Z";
        let golden = expect!["healthy 2 desired 2 allowed 0 InsufficientPods, not deleted 0, again Some(90)"];
        check(json!({"minAvailable": 2}), 4, recent, golden);
        let golden = expect!["healthy 3 desired 2 allowed 1 SufficientPods, not deleted 1, again None"];
        check(json!({"minAvailable": "50%"}), 4, "2024-12-31T23:59:00Z", golden);
        let golden = expect!["healthy 2 desired 1 allowed 1 SufficientPods, not deleted 0, again Some(90)"];
        check(json!({"maxUnavailable": "50%"}), 3, recent, golden);
        let golden = expect!["healthy 2 desired 2 allowed 0 InsufficientPods, not deleted 0, again Some(90)"];
        check(json!({"maxUnavailable": 2}), 4, recent, golden);
    }
}
