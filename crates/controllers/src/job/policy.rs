//! What a Job says about pods that fail, and about when enough have succeeded.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

use super::indexes::Indexes;

/// What becomes of a failed pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It counts towards the backoff limit, as without a policy.
    Count,
    /// It does not count.
    Ignore,
    /// Its index fails.
    FailIndex,
    /// The whole Job fails, with this message.
    FailJob(String),
}

/// The verdict of the first rule that fits.
pub(super) fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    for (at, rule) in rules.enumerate() {
        let fits = if let Some(wanted) = &rule.on_exit_codes {
            exited(pod, wanted).map(|(container, code)| {
                format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            condition(pod, patterns).map(|type_| format!("Pod {namespace}/{name} has condition {type_}"))
        };
        let Some(fits) = fits else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{fits} matching FailJob rule at index {at}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// The container that ended with an exit code as wanted, and the code.
fn exited<'a>(pod: &'a Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let own = status.container_statuses.iter().flatten();
    let mut all = own.chain(status.init_container_statuses.iter().flatten());
    all.find_map(|container| {
        let ContainerStateTerminated { exit_code, .. } = container.state.as_ref()?.terminated.as_ref()?;
        let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = wanted.values.contains(exit_code) == (wanted.operator == "In");
        (named && listed && *exit_code != 0).then_some((container.name.as_str(), *exit_code))
    })
}

fn condition<'a>(pod: &'a Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a str> {
    let mut all = pod.status.as_ref()?.conditions.iter().flatten();
    let found = all.find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(&found.type_)
}

/// The message of the first rule of the success policy that is met.
pub(super) fn success(spec: &JobSpec, succeeded: &Indexes) -> Option<String> {
    let completions = spec.completions.unwrap_or_default();
    let mut rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    let at = rules.position(|rule| match &rule.succeeded_indexes {
        Some(indexes) => {
            let required = Indexes::parse(indexes, completions);
            let enough = rule.succeeded_count.unwrap_or_else(|| required.count());
            required.count_common(succeeded) >= enough
        }
        None => rule.succeeded_count.is_some_and(|enough| succeeded.count() >= enough),
    })?;
    (succeeded.count() > 0).then(|| format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(extra: Value) -> JobSpec {
        let mut value = json!({"template": {}, "completions": 10});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits() {
        let spec = spec(json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}},
        ]}}));
        let check = |status: Value| {
            let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "status": status});
            verdict(&spec, &serde_json::from_value(pod).unwrap())
        };
        let exit = |name: &str, code: i32| {
            json!({"containerStatuses": [{"name": name, "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]})
        };
        let mut evicted = exit("main", 42);
        evicted["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
        assert_eq!(check(evicted), Verdict::Ignore);
        let message = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 1"
            .to_string();
        assert_eq!(check(exit("main", 42)), Verdict::FailJob(message));
        assert_eq!(check(exit("side", 42)), Verdict::Count);
        assert_eq!(check(exit("side", 7)), Verdict::FailIndex);
        assert_eq!(check(exit("side", 0)), Verdict::Count);
    }

    #[test]
    fn enough_successes() {
        let check = |rules: Value, succeeded: &str| {
            success(&spec(json!({"successPolicy": {"rules": rules}})), &Indexes::parse(succeeded, 10))
        };
        let first = Some("Matched rules at index 0".to_string());
        assert_eq!(check(json!([{"succeededIndexes": "0,2"}]), "0-2"), first);
        assert_eq!(check(json!([{"succeededIndexes": "0,2"}]), "0"), None);
        assert_eq!(check(json!([{"succeededIndexes": "0-9", "succeededCount": 2}]), "4,7"), first);
        assert_eq!(check(json!([{"succeededCount": 3}]), "4,7"), None);
        let second = Some("Matched rules at index 1".to_string());
        assert_eq!(check(json!([{"succeededIndexes": "9"}, {"succeededCount": 1}]), "4"), second);
    }
}
