//! PodSecurity: pods keep to the level that their namespace's labels name (KEP-2579).

mod checks;
mod level;
mod security;

use api::{Object, Status, field};
use registry::{Operation, Verdict};
use serde_json::Value;

use crate::{Plugin, is, items, look_up, refuse, standing};
use checks::Pod;
use level::{Level, Policy, Rule};

/// How many pods of a namespace are looked at when its level changes.
const PODS_CHECKED: usize = 3000;
/// Subresources of pods that do not change what a pod may do.
const HARMLESS: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// Kinds that make pods, with the path of their template.
const TEMPLATES: &[(&str, &str, &[&str])] = &[
    ("", "replicationcontrollers", &["spec", "template"]),
    ("", "podtemplates", &["template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

pub(crate) struct PodSecurity;

fn template(request: &Verdict<'_>) -> Option<&'static [&'static str]> {
    let resource = (request.resource.group.as_str(), request.resource.plural.as_str());
    let found = TEMPLATES.iter().find(|(group, plural, _)| (*group, *plural) == resource);
    found.map(|(_, _, path)| *path).filter(|_| request.subresource.is_none())
}

fn about_pods(request: &Verdict<'_>) -> bool {
    request.resource.group.is_empty()
        && request.resource.plural == "pods"
        && request.subresource.is_none_or(|sub| !HARMLESS.contains(&sub))
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && (about_pods(request)
                || template(request).is_some()
                || is(request, "namespaces", &[Operation::Create, Operation::Update]))
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let Some(object) = object else { return Ok(Vec::new()) };
        if request.resource.plural == "namespaces" {
            return namespace(request, object);
        }
        let labels = look_up(request, "", "namespaces", request.namespace)?;
        let (policy, _) = Policy::of(labels.as_ref().and_then(Object::labels));
        if let Some(path) = template(request) {
            let Some(template) = object.get(path) else { return Ok(Vec::new()) };
            return Ok(warning(policy.warn, &Pod::of(template)).into_iter().collect());
        }
        if request.old.is_some_and(|old| !changes_much(object, old)) {
            return Ok(Vec::new());
        }
        let pod = Pod::of_object(object);
        let found = checks::violations(policy.enforce, &pod);
        if !found.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, checks::told(&found));
            return Err(refuse(request, &why));
        }
        Ok(warning(policy.warn, &pod).into_iter().collect())
    }
}

fn warning(rule: Rule, pod: &Pod<'_>) -> Option<String> {
    let found = checks::violations(rule, pod);
    (!found.is_empty()).then(|| format!("would violate PodSecurity \"{rule}\": {}", checks::told(&found)))
}

/// Labels must be sound; pods that a new level would not let in are told of.
fn namespace(request: &Verdict<'_>, object: &Object) -> Result<Vec<String>, Status> {
    let (new, faults) = Policy::of(object.labels());
    let Some(old) = request.old else { return sound(request, &faults).map(|()| Vec::new()) };
    let (old, before) = Policy::of(old.labels());
    if before.is_empty() || told(&before) != told(&faults) {
        sound(request, &faults)?;
    }
    let eased = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || eased {
        return Ok(Vec::new());
    }
    existing(request, object.name(), new.enforce)
}

fn told(faults: &field::Errors) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn sound(request: &Verdict<'_>, faults: &field::Errors) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&request.resource.group_kind(), request.name, faults))
}

/// Warnings about the pods that are there; those alike are told of by the first by name.
fn existing(request: &Verdict<'_>, namespace: &str, rule: Rule) -> Result<Vec<String>, Status> {
    let pods = standing(request, "", "pods", namespace);
    let mut found: Vec<(String, String, usize)> = Vec::new();
    for item in pods.iter().take(PODS_CHECKED) {
        let pod = item.object()?;
        let violations = checks::violations(rule, &Pod::of_object(&pod));
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = violations.iter().map(|v| v.reason).collect();
        let reasons = reasons.join(", ");
        match found.iter_mut().find(|(r, _, _)| *r == reasons) {
            Some((_, _, others)) => *others += 1,
            None => found.push((reasons, pod.name().to_owned(), 0)),
        }
    }
    let mut lines: Vec<String> = found
        .iter()
        .map(|(reasons, first, others)| match others {
            0 => format!("{first}: {reasons}"),
            1 => format!("{first} (and 1 other pod): {reasons}"),
            n => format!("{first} (and {n} other pods): {reasons}"),
        })
        .collect();
    lines.sort_unstable();
    let mut warnings = Vec::new();
    if pods.len() > PODS_CHECKED {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_CHECKED} of {} existing pods",
            pods.len()
        ));
    }
    if !lines.is_empty() {
        let namespace = field::quote(namespace);
        warnings.push(format!(
            "existing pods in namespace {namespace} violate the new PodSecurity enforce level \"{rule}\""
        ));
    }
    warnings.extend(lines);
    Ok(warnings)
}

/// Whether a change of a pod is one that the level speaks of: a container that is new or has another image.
fn changes_much(new: &Object, old: &Object) -> bool {
    let images = |pod: &Object, list: &str| -> Vec<(String, String)> {
        let spec = pod.0.get("spec").unwrap_or(&Value::Null);
        items(spec, list)
            .map(|c| (crate::text(c, "name").to_owned(), crate::text(c, "image").to_owned()))
            .collect()
    };
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| images(new, list) != images(old, list))
}
