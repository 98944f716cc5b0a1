//! Deployments, replica sets, stateful sets, daemon sets, replication controllers, pod templates.

use std::collections::BTreeSet;

use api::field::{Errors, Path};
use api::{Object, names};
use registry::RequestContext;
use serde_json::{Value, json};

use super::{podspec, replicastatus};
use crate::at::{
    At, at_most_100_percent, count_of, immutable, label_selector, non_negative_int_or_percent,
    selector_is_sound, selector_matches,
};

/// Defaults of a pod template that stands at a path.
pub(super) fn default_template(object: &mut Object, path: &[&str]) {
    let found = path.iter().try_fold(object.0.get_mut("spec"), |at, name| at.map(|v| v.get_mut(*name)));
    if let Some(Some(template)) = found
        && let Some(Value::Object(spec)) = template.get_mut("spec")
    {
        podspec::default(spec);
    }
}

/// Faults of `spec.selector` and whether the template's labels match it.
/// Answers whether the selector is one at all: where it is not, upstream says nothing of the template.
fn selector(spec: &At<'_>, kind: &str, required: bool, errors: &mut Errors) -> bool {
    let at = spec.field("selector");
    let template = spec.field("template");
    let labels = template.field("metadata");
    if at.is_absent() {
        if required {
            errors.required(&at.path, "");
        }
    } else {
        label_selector(&at, errors);
        if at.len("matchLabels") + at.len("matchExpressions") == 0 {
            errors.invalid(&at.path, at.value, format!("empty selector is invalid for {kind}"));
        }
    }
    if !selector_is_sound(&at) {
        // Daemon sets leave it at the faults themselves.
        if kind != "daemonset" {
            let words = if kind == "statefulset" { "" } else { "invalid label selector" };
            errors.invalid(&at.path, at.value, words);
        }
        return false;
    } else {
        let empty = at.len("matchLabels") + at.len("matchExpressions") == 0;
        // A selector that is not there matches nothing.
        if (at.is_absent() || !empty) && (at.is_absent() || !selector_matches(at.value, labels.map("labels")))
        {
            mismatch(&template, errors);
        }
    }
    true
}

fn mismatch(template: &At<'_>, errors: &mut Errors) {
    let labels = template.field("metadata").raw("labels").cloned().unwrap_or_default();
    errors.invalid(
        &template.path.child("metadata").child("labels"),
        &labels,
        "`selector` does not match template `labels`",
    );
}

/// Pods of these workloads are always started again.
fn always_restarts(spec: &At<'_>, errors: &mut Errors) {
    let pod = spec.field("template").field("spec");
    if !matches!(pod.str("restartPolicy"), "" | "Always") {
        errors.not_supported(&pod.path.child("restartPolicy"), pod.str("restartPolicy"), &["Always"]);
    }
}

fn no_deadline(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let pod = spec.field("template").field("spec");
    if pod.has("activeDeadlineSeconds") {
        errors.forbidden(
            &pod.path.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

fn keep_selector(new: &Object, old: &Object, errors: &mut Errors) {
    let path = ["spec", "selector"];
    immutable(new.get(&path), old.get(&path), &Path::new("spec.selector"), errors);
}

/// What is warned of in a template, where something of the object's spec is new.
fn template_warnings(object: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some_and(|old| old.generation() == object.generation()) {
        return Vec::new();
    }
    podspec::template_warnings(&At::of(object, "spec").field("template"))
}

pub struct Deployment;

impl registry::Strategy for Deployment {
    /// Annotations count as the spec does: revisions are copied from them.
    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        let annotations = |o: &Object| o.get(&["metadata", "annotations"]).cloned();
        if annotations(new) != annotations(old) {
            new.set_meta("generation", old.generation() + 1);
        }
    }

    fn reset_fields(&self, status: bool) -> &'static [&'static [&'static str]] {
        if status { &[&["metadata", "labels"]] } else { &[] }
    }

    /// A change of the status leaves the labels as they are.
    fn prepare_status(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        match old.get(&["metadata", "labels"]) {
            Some(labels) => new.set_meta("labels", labels.clone()),
            None => new.remove_meta("labels"),
        }
    }

    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        replicastatus::validate(new, old, &replicastatus::DEPLOYMENT, errors);
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        let strategy = api::object::map_entry(spec, "strategy");
        crate::at::fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = api::object::map_entry(strategy, "rollingUpdate");
            rolling.entry("maxUnavailable").or_insert("25%".into());
            rolling.entry("maxSurge").or_insert("25%".into());
        }
        default_template(object, &["template"]);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        spec.non_negative("replicas", errors);
        if selector(&spec, "deployment", true, errors) {
            podspec::template(&spec.field("template"), errors);
            always_restarts(&spec, errors);
            no_deadline(&spec, "ReplicaSet", errors);
        }
        deployment_strategy(&spec.field("strategy"), errors);
        spec.all_non_negative(&["minReadySeconds", "revisionHistoryLimit"], errors);
        if let Some(deadline) = spec.i64("progressDeadlineSeconds") {
            spec.non_negative("progressDeadlineSeconds", errors);
            if deadline <= spec.i64("minReadySeconds").unwrap_or(0) {
                spec.invalid(
                    "progressDeadlineSeconds",
                    deadline,
                    "must be greater than minReadySeconds",
                    errors,
                );
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        keep_selector(new, old, errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

fn deployment_strategy(at: &At<'_>, errors: &mut Errors) {
    match at.str("type") {
        "Recreate" => {
            if at.has("rollingUpdate") {
                errors.forbidden(
                    &at.path.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => rolling(&at.field("rollingUpdate"), errors),
        _ => errors.not_supported(&at.path, at.value, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling(at: &At<'_>, errors: &mut Errors) {
    let (unavailable, surge) = (at.field("maxUnavailable"), at.field("maxSurge"));
    non_negative_int_or_percent(&unavailable, errors);
    non_negative_int_or_percent(&surge, errors);
    if count_of(unavailable.value) == 0 && count_of(surge.value) == 0 {
        errors.invalid(&unavailable.path, unavailable.value, "may not be 0 when `maxSurge` is 0");
    }
    at_most_100_percent(&unavailable, errors);
}

pub struct ReplicaSet;

impl registry::Strategy for ReplicaSet {
    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        replicastatus::validate(new, old, &replicastatus::REPLICA_SET, errors);
    }

    fn default(&self, object: &mut Object) {
        default_template(object, &["template"]);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        spec.all_non_negative(&["replicas", "minReadySeconds"], errors);
        if selector(&spec, "deployment", true, errors) {
            podspec::template(&spec.field("template"), errors);
            always_restarts(&spec, errors);
            no_deadline(&spec, "ReplicaSet", errors);
        }
    }

    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        // As a new one, and once more as a changed one.
        self.validate(new, errors);
        self.validate(new, errors);
        keep_selector(new, old, errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

pub struct ReplicationController;

impl registry::Strategy for ReplicationController {
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        replicastatus::validate(new, old, &replicastatus::REPLICA_SET, errors);
    }

    fn default(&self, object: &mut Object) {
        default_template(object, &["template"]);
        let Some(labels) = object.get(&["spec", "template", "metadata", "labels"]).cloned() else { return };
        if object.get(&["spec", "selector"]).and_then(Value::as_object).is_none_or(|s| s.is_empty()) {
            object.set(&["spec", "selector"], labels.clone());
        }
        if object.labels().is_none_or(|l| l.is_empty()) {
            object.set_meta("labels", labels);
        }
    }

    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        // As a new one, and once more as a changed one.
        self.validate(new, errors);
        self.validate(new, errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        spec.non_negative("minReadySeconds", errors);
        if spec.len("selector") == 0 {
            errors.required(&spec.path.child("selector"), "");
        }
        spec.non_negative("replicas", errors);
        let template = spec.field("template");
        if template.is_absent() {
            errors.required(&template.path, "");
            return;
        }
        let selector = json!({"matchLabels": spec.raw("selector")});
        if spec.len("selector") > 0 && !selector_matches(&selector, template.field("metadata").map("labels"))
        {
            mismatch(&template, errors);
        }
        podspec::template(&template, errors);
        always_restarts(&spec, errors);
        no_deadline(&spec, "ReplicationController", errors);
    }
}

pub struct DaemonSet;

impl registry::Strategy for DaemonSet {
    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        replicastatus::validate(new, old, &replicastatus::DAEMON_SET, errors);
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        let strategy = api::object::map_entry(spec, "updateStrategy");
        crate::at::fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = api::object::map_entry(strategy, "rollingUpdate");
            rolling.entry("maxUnavailable").or_insert(json!(1));
            rolling.entry("maxSurge").or_insert(json!(0));
        }
        default_template(object, &["template"]);
        // Every client's version of the kind has the annotation, so that whoever sends one holds it.
        if object.annotation(TEMPLATE_GENERATION).is_none() {
            set_template_generation(object, "0");
        }
    }

    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        set_template_generation(object, "1");
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        let before = old.annotation(TEMPLATE_GENERATION).unwrap_or("0").to_owned();
        let changed = new.get(&["spec", "template"]) != old.get(&["spec", "template"]);
        match before.parse::<i64>() {
            Ok(n) if changed => set_template_generation(new, &(n + 1).to_string()),
            _ => set_template_generation(new, &before),
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        selector(&spec, "daemonset", false, errors);
        podspec::template(&spec.field("template"), errors);
        always_restarts(&spec, errors);
        no_deadline(&spec, "DaemonSet", errors);
        spec.non_negative("minReadySeconds", errors);
        let at = spec.field("updateStrategy");
        match at.str("type") {
            "OnDelete" => {}
            "RollingUpdate" => {
                let rolling = at.field("rollingUpdate");
                let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
                non_negative_int_or_percent(&unavailable, errors);
                non_negative_int_or_percent(&surge, errors);
                at_most_100_percent(&unavailable, errors);
                at_most_100_percent(&surge, errors);
                let (u, s) = (count_of(unavailable.value), count_of(surge.value));
                if u != 0 && s != 0 {
                    errors.invalid(
                        &surge.path,
                        surge.value,
                        "may not be set when maxUnavailable is non-zero",
                    );
                } else if u == 0 && s == 0 {
                    errors.required(&unavailable.path, "cannot be 0 when maxSurge is 0");
                }
            }
            _ => errors.not_supported(&at.path, at.value, &["RollingUpdate", "OnDelete"]),
        }
        spec.non_negative("revisionHistoryLimit", errors);
    }

    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        // As a new one, and once more as a changed one.
        self.validate(new, errors);
        self.validate(new, errors);
        keep_selector(new, old, errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

/// A stateful set's template as its pods will have it: with a volume for each template of a claim.
fn with_claims(spec: &At<'_>) -> Value {
    let mut template = spec.field("template").value.clone();
    let claims: Vec<String> = spec
        .items("volumeClaimTemplates")
        .iter()
        .map(|claim| claim.field("metadata").str("name").to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if claims.is_empty() || !template.get("spec").is_some_and(Value::is_object) {
        return template;
    }
    let volumes = &mut template["spec"]["volumes"];
    let mut all = volumes.as_array().cloned().unwrap_or_default();
    let named: BTreeSet<&str> = claims.iter().map(String::as_str).collect();
    all.retain(|volume| volume["name"].as_str().is_none_or(|name| !named.contains(name)));
    all.extend(claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})));
    *volumes = all.into();
    template
}

pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn set_template_generation(object: &mut Object, text: &str) {
    let annotations = api::object::map_entry(object.metadata_mut(), "annotations");
    annotations.insert(TEMPLATE_GENERATION.into(), text.into());
}

pub struct StatefulSet;

impl registry::Strategy for StatefulSet {
    /// Its pods are called after it, and their hosts are labels.
    fn name_faults(&self, name: &str, generated: bool) -> Vec<String> {
        names::dns1123_label(if generated { name.trim_end_matches('-') } else { name })
    }

    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        replicastatus::validate(new, old, &replicastatus::STATEFUL_SET, errors);
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        let strategy = api::object::map_entry(spec, "updateStrategy");
        if strategy.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            strategy.insert("type".into(), "RollingUpdate".into());
            api::object::map_entry(strategy, "rollingUpdate");
        }
        if strategy["type"] == "RollingUpdate"
            && let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate")
        {
            rolling.entry("partition").or_insert(json!(0));
            rolling.entry("maxUnavailable").or_insert(json!(1));
        }
        let claims = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut);
        for claim in claims.into_iter().flatten() {
            let Value::Object(claim) = claim else { continue };
            podspec::default_claim(api::object::map_entry(claim, "spec"));
            crate::at::fill(api::object::map_entry(claim, "status"), "phase", "Pending");
            claim.entry("apiVersion").or_insert("v1".into());
            claim.entry("kind").or_insert("PersistentVolumeClaim".into());
        }
        default_template(object, &["template"]);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        match spec.str("podManagementPolicy") {
            "" => errors.required(&spec.path.child("podManagementPolicy"), ""),
            "OrderedReady" | "Parallel" => {}
            other => {
                spec.invalid("podManagementPolicy", other, "must be 'OrderedReady' or 'Parallel'", errors)
            }
        }
        let at = spec.field("updateStrategy");
        match at.str("type") {
            "OnDelete" => {
                if let Some(rolling) = at.some("rollingUpdate") {
                    errors.invalid(
                        &rolling.path,
                        rolling.value,
                        "only allowed for updateStrategy 'RollingUpdate'",
                    );
                }
            }
            "RollingUpdate" => {
                let rolling = at.field("rollingUpdate");
                rolling.non_negative("partition", errors);
                if let Some(most) = rolling.some("maxUnavailable") {
                    non_negative_int_or_percent(&most, errors);
                    if count_of(most.value) == 0 {
                        errors.invalid(&most.path, most.value, "cannot be 0");
                    }
                    at_most_100_percent(&most, errors);
                }
            }
            _ => errors.invalid(&at.path, at.value, "must be 'RollingUpdate' or 'OnDelete'"),
        }
        let retention = spec.field("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            retention.one_of_if_set(field, &["Retain", "Delete"], errors);
        }
        spec.all_non_negative(&["replicas", "minReadySeconds"], errors);
        spec.field("ordinals").non_negative("start", errors);
        if selector(&spec, "statefulset", true, errors) {
            let template = with_claims(&spec);
            podspec::template(&At::new(&template, spec.field("template").path), errors);
        }
        always_restarts(&spec, errors);
        no_deadline(&spec, "StatefulSet", errors);
    }

    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        let rest = |o: &Object| {
            let mut spec = o.0.get("spec").cloned().unwrap_or_default();
            if let Value::Object(spec) = &mut spec {
                for field in CHANGEABLE {
                    spec.remove(*field);
                }
            }
            spec
        };
        self.validate(new, errors);
        if rest(new) != rest(old) {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(new, old)
    }
}

const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub struct PodTemplate;

impl registry::Strategy for PodTemplate {
    fn default(&self, object: &mut Object) {
        if let Some(Value::Object(spec)) = object.0.get_mut("template").and_then(|t| t.get_mut("spec")) {
            podspec::default(spec);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        podspec::template(&At::of(object, "template"), errors);
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        podspec::template_warnings(&At::of(new, "template"))
    }
}

pub struct ControllerRevision;

impl registry::Strategy for ControllerRevision {
    fn validate(&self, object: &Object, errors: &mut Errors) {
        let revision = object.get(&["revision"]).and_then(Value::as_i64).unwrap_or(0);
        if revision < 0 {
            errors.invalid(&Path::new("revision"), revision, "must be greater than or equal to 0");
        }
        if object.get(&["data"]).is_none_or(Value::is_null) {
            errors.required(&Path::new("data"), "data is mandatory");
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        immutable(new.get(&["data"]), old.get(&["data"]), &Path::new("data"), errors);
    }
}
