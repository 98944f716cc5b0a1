//! Jobs and cron jobs.

use api::field::{Errors, Path};
use api::{Object, Status};
use async_trait::async_trait;
use registry::{Claims, Engine, RequestContext};
use serde_json::{Value, json};

use super::{jobspec, jobstatus, podspec};
use crate::at::{At, immutable, label_selector, selector_matches};

pub struct Job;

const UID: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
/// Above these an indexed job may lose sight of what failed.
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_SOFT_MAX: i64 = 10_000;
const MANAGER_MAX: usize = 63;

#[async_trait]
impl registry::Strategy for Job {
    fn name_faults(&self, name: &str, generated: bool) -> Vec<String> {
        api::names::dns1123_subdomain(if generated { name.trim_end_matches('-') } else { name })
    }

    fn default(&self, object: &mut Object) {
        let labels = object.get(&["spec", "template", "metadata", "labels"]).cloned();
        let spec = api::object::map_entry(&mut object.0, "spec");
        if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
            spec.insert("completions".into(), json!(1));
        }
        spec.entry("parallelism").or_insert(json!(1));
        let limit = if spec.contains_key("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
        spec.entry("backoffLimit").or_insert(json!(limit));
        let replace = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        spec.entry("podReplacementPolicy").or_insert(replace.into());
        spec.entry("manualSelector").or_insert(json!(false));
        spec.entry("suspend").or_insert(json!(false));
        spec.entry("completionMode").or_insert("NonIndexed".into());
        let rules = spec.get_mut("podFailurePolicy").and_then(|p| p.get_mut("rules")?.as_array_mut());
        for rule in rules.into_iter().flatten() {
            let patterns = rule.get_mut("onPodConditions").and_then(Value::as_array_mut);
            for pattern in patterns.into_iter().flatten() {
                if let Value::Object(pattern) = pattern {
                    crate::at::fill(pattern, "status", "True");
                }
            }
        }
        super::workload::default_template(object, &["template"]);
        if let Some(labels) = labels
            && object.labels().is_none_or(|l| l.is_empty())
        {
            object.set_meta("labels", labels);
        }
    }

    /// A job without labels shows its template's, whose generated ones are known by now.
    async fn claim(
        &self,
        _engine: &Engine,
        new: &mut Object,
        _old: Option<&Object>,
    ) -> Result<Claims, Status> {
        let labels = new.get(&["spec", "template", "metadata", "labels"]).cloned();
        if let (Some(labels), true) = (labels, new.labels().is_none_or(|l| l.is_empty())) {
            new.set_meta("labels", labels);
        }
        Ok(Claims::default())
    }

    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        if object.get(&["spec", "manualSelector"]).and_then(Value::as_bool) != Some(true) {
            generate_selector(object);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        generated_selector(object, errors);
        spec_with_selector(object, errors);
        // The last pod of an indexed job has its index behind the name.
        let spec = At::of(object, "spec");
        let count = spec.i64("completions").filter(|n| *n > 0 && spec.str("completionMode") == "Indexed");
        if let Some(last) = count.map(|n| format!("{}-{}", object.name(), n - 1))
            && !api::names::dns1123_label(&last).is_empty()
        {
            let words = format!("will not able to create pod with invalid DNS label: {last}");
            errors.invalid(&Path::new("metadata.name"), object.name(), words);
        }
    }

    /// A changed job is looked at as a new one and then once more against the old.
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        spec_with_selector(new, errors);
        let (a, b) = (At::of(new, "spec"), At::of(old, "spec"));
        let keep = |field: &str, errors: &mut Errors| {
            immutable(a.raw(field), b.raw(field), &a.path.child(field), errors);
        };
        // An indexed job may grow and shrink together with its parallelism.
        if a.str("completionMode") != "Indexed" {
            keep("completions", errors);
        } else if let Some(count) = a.i64("completions")
            && a.i64("completions") != b.i64("completions")
            && a.i64("completions") != a.i64("parallelism")
        {
            let words = "can only be modified in tandem with spec.parallelism";
            a.invalid("completions", count, words, errors);
        }
        keep("selector", errors);
        keep_template(&a, &b, old, errors);
        keep("completionMode", errors);
        keep("podFailurePolicy", errors);
        keep("backoffLimitPerIndex", errors);
        keep("managedBy", errors);
        keep("successPolicy", errors);
    }

    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        jobstatus::validate(new, old, errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some_and(|old| old.generation() == new.generation()) {
            return Vec::new();
        }
        let mut all = if old.is_none() { name_warnings(new) } else { Vec::new() };
        let spec = At::of(new, "spec");
        let number = |field: &str| spec.i64(field).unwrap_or(0);
        if spec.str("completionMode") == "Indexed"
            && number("completions") > COMPLETIONS_SOFT_MAX
            && number("parallelism") > PARALLELISM_SOFT_MAX
        {
            all.push("In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
        }
        all.extend(podspec::template_warnings(&spec.field("template")));
        all
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn orphan_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        )
    }
}

/// A warning for a name that its pods can't have as theirs.
fn name_warnings(object: &Object) -> Vec<String> {
    let faults = api::names::dns1123_label(object.name());
    if faults.is_empty() {
        return Vec::new();
    }
    let words = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    vec![format!("metadata.name: {words}: [{}]", faults.join(" "))]
}

/// Faults of a job's spec, whose selector must match what it makes.
fn spec_with_selector(job: &Object, errors: &mut Errors) {
    let spec = At::of(job, "spec");
    validate_spec(&spec, errors);
    if !spec.has("selector") {
        errors.required(&spec.path.child("selector"), "");
    } else {
        label_selector(&spec.field("selector"), errors);
    }
    let template = spec.field("template");
    let labels = template.field("metadata").map("labels");
    let matches = spec.raw("selector").is_some_and(|s| selector_matches(s, labels));
    if !matches {
        let shown = template.field("metadata").raw("labels").cloned().unwrap_or_default();
        errors.invalid(
            &template.path.child("metadata").child("labels"),
            &shown,
            "`selector` does not match template `labels`",
        );
    }
}

fn generate_selector(job: &mut Object) {
    let (uid, name) = (job.uid().to_owned(), job.name().to_owned());
    // Labels that came from the template are the same map: what is put into one is in both.
    let shared = job.labels().is_some_and(|l| !l.is_empty())
        && job.labels() == job.get(&["spec", "template", "metadata", "labels"]).and_then(Value::as_object);
    let given = job.get(&["spec", "selector"]).is_some_and(|s| !s.is_null());
    let Some(Value::Object(template)) = job.0.get_mut("spec").and_then(|s| s.get_mut("template")) else {
        return;
    };
    let labels = api::object::map_entry(api::object::map_entry(template, "metadata"), "labels");
    for (keys, value) in [(NAME, name), (UID, uid.clone())] {
        for key in keys {
            labels.entry(key).or_insert(value.clone().into());
        }
    }
    if !given {
        job.set(&["spec", "selector"], json!({"matchLabels": {UID[1]: uid}}));
    }
    if shared {
        let labels = job.get(&["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
        job.set_meta("labels", labels);
    }
}

/// What the server put in must have stayed.
fn generated_selector(job: &Object, errors: &mut Errors) {
    if job.get(&["spec", "manualSelector"]).and_then(Value::as_bool) == Some(true) {
        return;
    }
    let spec = At::of(job, "spec");
    let selector = spec.field("selector");
    if selector.is_absent() {
        return;
    }
    let labels = spec.field("template").field("metadata");
    let path = labels.path.child("labels");
    for (uid, name) in UID.into_iter().zip(NAME) {
        for (key, value) in [(uid, job.uid()), (name, job.name())] {
            let held = labels.map("labels").and_then(|l| l.get(key)).and_then(Value::as_str);
            if held.is_some_and(|h| h != value) {
                let shown = labels.raw("labels").cloned().unwrap_or_default();
                errors.invalid(&path.key(key), &shown, format!("must be '{value}'"));
            }
        }
    }
    let ours = |key: &str| {
        selector
            .map("matchLabels")
            .is_some_and(|m| m.len() == 1 && m.get(key).and_then(Value::as_str) == Some(job.uid()))
    };
    if !(UID.iter().any(|k| ours(k)) && selector.len("matchExpressions") == 0) {
        errors.invalid(&selector.path, selector.value, "`selector` not auto-generated");
    }
}

/// The template may change only while the job is suspended and none of its pods runs, and then in part (KEP-2926,
/// KEP-5440).
fn keep_template(new: &At<'_>, old: &At<'_>, job: &Object, errors: &mut Errors) {
    let status = At::of(job, "status");
    let never_ran = !status.has("startTime") || jobstatus::is(&status, "Suspended");
    let template = new.field("template");
    if !(old.is("suspend") && never_ran && status.i64("active").unwrap_or(0) == 0) {
        return immutable(new.raw("template"), old.raw("template"), &template.path, errors);
    }
    // Of the rest of the template nothing matters to pods that are still to be made.
    let kept = |template: &At<'_>| {
        let mut spec = template.raw("spec").cloned().unwrap_or_default();
        strip_changeable(&mut spec);
        spec
    };
    if kept(&template) != kept(&old.field("template")) {
        let pod = template.field("spec");
        errors.invalid(&pod.path, pod.value, "field is immutable");
    }
}

/// Takes out where a suspended job's pods may go and what they ask for.
fn strip_changeable(pod: &mut Value) {
    let Some(spec) = pod.as_object_mut() else { return };
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        spec.remove(field);
    }
    if let Some(Value::Object(affinity)) = spec.get_mut("affinity") {
        affinity.remove("nodeAffinity");
    }
    if spec.get("affinity").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        spec.remove("affinity");
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("resources");
            }
        }
    }
}

/// Faults of a job's spec, in a job or in a cron job's template.
fn validate_spec(spec: &At<'_>, errors: &mut Errors) {
    spec.all_non_negative(
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
        errors,
    );
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.required(&spec.path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if spec.has("managedBy") {
        spec.check("managedBy", api::names::domain_prefixed_path, errors);
        if spec.str("managedBy").len() > MANAGER_MAX {
            errors.too_long(&spec.path.child("managedBy"), MANAGER_MAX);
        }
    }
    jobspec::completion(spec, errors);
    let template = spec.field("template");
    jobspec::failure_policy(spec, errors);
    jobspec::success_policy(spec, errors);
    jobspec::replacement_policy(spec, errors);
    podspec::template(&template, errors);
    let pod = template.field("spec");
    let restart = pod.str("restartPolicy");
    let path = pod.path.child("restartPolicy");
    match restart {
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.invalid(&path, restart, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&path, other, &["OnFailure", "Never"]),
    }
}

pub struct CronJob;

impl registry::Strategy for CronJob {
    fn default(&self, object: &mut Object) {
        super::workload::default_template(object, &["jobTemplate", "spec", "template"]);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        cron_spec(object, errors);
        // The jobs have eleven characters more.
        if object.name().len() > CRON_NAME_MAX {
            let words = format!("must be no more than {CRON_NAME_MAX} bytes");
            errors.invalid(&Path::new("metadata.name"), object.name(), words);
        }
    }

    fn validate_update(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        cron_spec(new, errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some_and(|old| old.generation() == new.generation()) {
            return Vec::new();
        }
        let mut all = if old.is_none() { name_warnings(new) } else { Vec::new() };
        let spec = At::of(new, "spec");
        all.extend(podspec::template_warnings(&spec.field("jobTemplate").field("spec").field("template")));
        all
    }
}

const CRON_NAME_MAX: usize = 52;

fn cron_spec(object: &Object, errors: &mut Errors) {
    let spec = At::of(object, "spec");
    let (schedule, zone) = (spec.str("schedule"), spec.str("timeZone"));
    if spec.required("schedule", errors) {
        if let Err(why) = api::cron::Schedule::parse(schedule) {
            spec.invalid("schedule", schedule, &why, errors);
        }
        if !zone.is_empty() && schedule.contains("TZ") {
            let words = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            spec.invalid("schedule", schedule, words, errors);
        } else if schedule.contains("TZ") {
            let words = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            spec.invalid("schedule", schedule, words, errors);
        }
    }
    spec.non_negative("startingDeadlineSeconds", errors);
    if spec.has("timeZone") {
        time_zone(&spec, zone, errors);
    }
    spec.one_of("concurrencyPolicy", &["Allow", "Forbid", "Replace"], errors);
    let job = spec.field("jobTemplate").field("spec");
    validate_spec(&job, errors);
    if let Some(selector) = job.some("selector") {
        errors.invalid(&selector.path, selector.value, "`selector` will be auto-generated");
    }
    if job.is("manualSelector") {
        errors.not_supported(&job.path.child("manualSelector"), true, &["nil", "false"]);
    }
    spec.all_non_negative(&["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
}

fn time_zone(spec: &At<'_>, zone: &str, errors: &mut Errors) {
    if zone.is_empty() {
        spec.invalid("timeZone", zone, "timeZone must be nil or non-empty string", errors);
    } else if zone.eq_ignore_ascii_case("local") {
        let words = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        spec.invalid("timeZone", zone, words, errors);
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        spec.invalid("timeZone", zone, &format!("unknown time zone {zone}"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, told, with};

    fn job(status: &Value) -> Value {
        json!({"status": status, "spec": {"suspend": true, "template": {
            "metadata": {"labels": {"a": "b"}, "annotations": {}},
            "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"name": "i", "image": "i"}],
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
                "tolerations": [{"key": "k", "operator": "Exists"}],
                "restartPolicy": "Never",
            },
        }}})
    }

    /// The fields at fault where `changes` are made to a job that is as above but for `before`.
    fn check(status: &Value, before: &[(&str, Value)], changes: &[(&str, Value)], faults: &[&str]) {
        let old = with(job(status), before);
        let (new, old) = (object(with(old.clone(), changes)), object(old));
        let mut errors = Errors::default();
        keep_template(&At::of(&new, "spec"), &At::of(&old, "spec"), &old, &mut errors);
        let said: Vec<String> = told(&errors)
            .iter()
            .map(|fault| {
                let (field, rest) = fault.split_once(": Invalid value: ").unwrap();
                assert!(rest.ends_with(": field is immutable"), "{fault}");
                field.to_owned()
            })
            .collect();
        assert_eq!(said, faults, "{status} {before:?} {changes:?}");
    }

    const TEMPLATE: &str = "spec.template";
    const POD: &str = "spec.template.spec";

    #[test]
    fn where_pods_go_and_what_they_ask_for_may_change_before_there_are_any() {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}});
        let free: &[(&str, Value)] = &[
            ("/spec/template/metadata/labels", json!({"c": "d"})),
            ("/spec/template/metadata/annotations", json!({"c": "d"})),
            ("/spec/template/spec/nodeSelector", json!({"c": "d"})),
            ("/spec/template/spec/tolerations", Value::Null),
            ("/spec/template/spec/schedulingGates", json!([{"name": "g"}])),
            ("/spec/template/spec/affinity/nodeAffinity", required),
            ("/spec/template/spec/affinity/nodeAffinity", Value::Null),
            ("/spec/template/spec/affinity", Value::Null),
            ("/spec/template/spec/containers/0/resources", json!({"limits": {"cpu": "2"}, "claims": []})),
            ("/spec/template/spec/initContainers/0/resources", json!({"requests": {"memory": "1Gi"}})),
        ];
        let never = json!({});
        for change in free {
            check(&never, &[], std::slice::from_ref(change), &[]);
            check(&never, &[("/spec/suspend", json!(false))], std::slice::from_ref(change), &[TEMPLATE]);
        }
        check(&never, &[], free, &[]);
        // It may begin to run with the same change.
        check(&never, &[], &[("/spec/suspend", json!(false)), free[0].clone()], &[]);
        // No affinity, an empty one and one to nodes alone are the same.
        let affinities = [Value::Null, json!({}), json!({"nodeAffinity": {}})];
        for (old, new) in affinities.iter().flat_map(|old| affinities.iter().map(move |new| (old, new))) {
            let set = |to: &Value| [("/spec/template/spec/affinity", to.clone())];
            check(&never, &set(old), &set(new), &[]);
        }
    }

    #[test]
    fn the_rest_of_a_template_stays() {
        let fixed: &[(&str, Value)] = &[
            ("/spec/template/spec/containers/0/image", json!("other")),
            ("/spec/template/spec/containers/0/name", json!("other")),
            ("/spec/template/spec/containers/0/resizePolicy", json!([{"resourceName": "cpu"}])),
            ("/spec/template/spec/initContainers", Value::Null),
            ("/spec/template/spec/affinity/podAffinity", json!({})),
            ("/spec/template/spec/resources", json!({"requests": {"cpu": "1"}})),
            ("/spec/template/spec/restartPolicy", json!("OnFailure")),
            ("/spec/template/spec/priorityClassName", json!("other")),
        ];
        for change in fixed {
            check(&json!({}), &[], std::slice::from_ref(change), &[POD]);
            check(&json!({"active": 1}), &[], std::slice::from_ref(change), &[TEMPLATE]);
        }
        check(&json!({}), &[], &[], &[]);
        check(&json!({"active": 1}), &[], &[], &[]);
    }

    #[test]
    fn a_job_that_ran_must_have_stopped() {
        let stopped = |status: &str| json!([{"type": "Suspended", "status": status}]);
        let started = "2026-01-02T03:04:05Z";
        let table: &[(Value, &[&str])] = &[
            (json!({}), &[]),
            (json!({"active": 1}), &[TEMPLATE]),
            (json!({"startTime": started}), &[TEMPLATE]),
            (json!({"startTime": started, "conditions": stopped("False")}), &[TEMPLATE]),
            (json!({"startTime": started, "conditions": stopped("True")}), &[]),
            (json!({"startTime": started, "conditions": stopped("True"), "active": 1}), &[TEMPLATE]),
            (json!({"conditions": stopped("True"), "active": 0}), &[]),
        ];
        for (status, faults) in table {
            check(status, &[], &[("/spec/template/spec/nodeSelector", json!({"c": "d"}))], faults);
        }
    }
}
