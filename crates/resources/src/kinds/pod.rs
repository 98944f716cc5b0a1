//! Pods: default fields, QoS, graceful deletion, streaming to the kubelet.

use std::collections::BTreeMap;

use api::field::{Errors, Path};
use api::{Object, Status};
use async_trait::async_trait;
use registry::resource::{Asked, Connect, PartHook, Target};
use registry::{Engine, RequestContext};
use serde_json::{Value, json};

use super::{node, podannotations, podspec, podstatus, podupdate};
use crate::at::{At, difference};

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        if let Some(Value::Object(spec)) = object.0.get_mut("spec") {
            podspec::default(spec);
            podspec::default_pod(spec);
        }
        for (one, list) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
            addresses_agree(object, one, list);
        }
    }

    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        write_label_keys(object);
        let qos = qos_class(object);
        let mut status = json!({"phase": "Pending", "qosClass": qos});
        if At::of(object, "spec").len("schedulingGates") > 0 {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": null,
            }]);
        }
        object.0.insert("status".into(), status);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        metadata_and_spec(object, errors);
        if spec.len("ephemeralContainers") > 0 {
            errors.forbidden(&spec.path.child("ephemeralContainers"), "cannot be set on create");
        }
        if spec.len("schedulingGates") > 0 && !spec.str("nodeName").is_empty() {
            let words = "cannot be set until all schedulingGates have been cleared";
            errors.forbidden(&spec.path.child("nodeName"), words);
        }
        let notes = podannotations::all(object);
        podspec::annotations::seccomp_agrees(&notes, &spec, errors);
        podspec::annotations::app_armor_agrees(&notes, &spec, errors);
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        metadata_and_spec(new, errors);
        podannotations::validate_update(new, old, errors);
        podupdate::validate(new, old, errors);
    }

    /// What of the status is the API's own to say.
    fn prepare_status(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        let class = ["status", "qosClass"];
        put(new, &class, old.get(&class).cloned());
    }

    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        podannotations::validate_update(new, old, errors);
        podstatus::validate(new, old, errors);
    }

    /// Only of those that are made: programs change pods all the time.
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some() { Vec::new() } else { podspec::pod_warnings(new) }
    }

    fn grace_period(&self, object: &Object, asked: Option<i64>) -> Option<i64> {
        let standing = object.get(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
        let seconds = asked.or(standing).unwrap_or(30);
        let seconds = if seconds < 0 { 1 } else { seconds };
        let unscheduled = object.get_str(&["spec", "nodeName"]).is_empty();
        let ended = matches!(object.get_str(&["status", "phase"]), "Failed" | "Succeeded");
        Some(if unscheduled || ended { 0 } else { seconds })
    }
}

/// The address of old and the first of the list are the same; where they differ the old one holds.
fn addresses_agree(pod: &mut Object, one: &str, list: &str) {
    let address = pod.get_str(&["status", one]).to_owned();
    let first = pod.get(&["status", list]).and_then(|l| l.get(0)?.get("ip")?.as_str()).map(str::to_owned);
    match first {
        Some(first) if address.is_empty() => pod.set(&["status", one], first),
        Some(first) if first == address => {}
        _ if address.is_empty() => {}
        _ => pod.set(&["status", list], json!([{"ip": address}])),
    }
}

pub(super) use super::podspec::annotations::MIRROR;

/// Labels that the pod's terms name by key alone are written into their selectors with the pod's values.
fn write_label_keys(pod: &mut Object) {
    let labels = pod.labels().cloned().unwrap_or_default();
    let Some(Value::Object(spec)) = pod.0.get_mut("spec") else { return };
    let mut terms: Vec<&mut Value> = Vec::new();
    for (field, value) in spec.iter_mut() {
        match field.as_str() {
            "topologySpreadConstraints" => terms.extend(value.as_array_mut().into_iter().flatten()),
            "affinity" => {
                for (_, kind) in
                    value.as_object_mut().into_iter().flatten().filter(|(k, _)| *k != "nodeAffinity")
                {
                    for (when, list) in kind.as_object_mut().into_iter().flatten() {
                        let wrapped = when.starts_with("preferred");
                        for item in list.as_array_mut().into_iter().flatten() {
                            terms.extend(if wrapped { item.get_mut("podAffinityTerm") } else { Some(item) });
                        }
                    }
                }
            }
            _ => {}
        }
    }
    for term in terms {
        let mut written: Vec<Value> = Vec::new();
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in term.get(field).and_then(Value::as_array).into_iter().flatten() {
                if let Some(value) = key.as_str().and_then(|key| labels.get(key)) {
                    written.push(json!({"key": key, "operator": operator, "values": [value]}));
                }
            }
        }
        if let Some(Value::Object(selector)) = term.get_mut("labelSelector").filter(|_| !written.is_empty()) {
            let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
            expressions.as_array_mut().into_iter().for_each(|all| all.append(&mut written));
        }
    }
}

/// What holds for a pod whenever it is written.
pub(super) fn metadata_and_spec(pod: &Object, errors: &mut Errors) {
    let spec = At::of(pod, "spec");
    podannotations::validate(pod, errors);
    podspec::validate(&spec, Some(pod.name()), errors);
    if spec.str("serviceAccountName").is_empty() {
        for volume in spec.items("volumes") {
            for source in volume.field("projected").items("sources") {
                if let Some(token) = source.some("serviceAccountToken") {
                    errors.forbidden(&token.path, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    podspec::validate_of_pod(&spec, errors);
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by the requests and limits of cpu and memory: the pod's as a
/// whole, where it has any, or each container's.
pub fn qos_class(pod: &Object) -> &'static str {
    let mut requested = false;
    let mut guaranteed = true;
    let spec = At::of(pod, "spec");
    let whole = spec.field("resources");
    let holders: Vec<At<'_>> = if whole.len("requests") + whole.len("limits") > 0 {
        vec![spec]
    } else {
        ["initContainers", "containers"].iter().flat_map(|list| spec.items(list)).collect()
    };
    for resources in holders.iter().map(|holder| holder.field("resources")) {
        for resource in ["cpu", "memory"] {
            let amount = |of: &str| {
                resources.field(of).raw(resource).and_then(crate::at::quantity).filter(|q| !q.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            requested |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (requested, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

/// `pods/ephemeralcontainers`: that list alone.
pub struct EphemeralContainers;

impl PartHook for EphemeralContainers {
    /// Upstream takes the list alone out of the change, whose managed fields are lost with the rest.
    fn is_tracked(&self) -> bool {
        false
    }

    fn prepare(&self, new: &mut Object, old: &Object) {
        let list = new.get(&["spec", "ephemeralContainers"]).cloned();
        keep_all(new, old);
        put(new, &["spec", "ephemeralContainers"], list);
    }

    fn validate(&self, new: &Object, old: &Object, errors: &mut Errors) {
        metadata_and_spec(new, errors);
        podannotations::validate_update(new, old, errors);
        if old.annotation(MIRROR).is_some() {
            errors.clear();
            errors.forbidden(&Path::unnamed(), "static pods do not support ephemeral containers");
            return;
        }
        let (all, before) = (At::of(new, "spec"), At::of(old, "spec"));
        let path = all.path.child("ephemeralContainers");
        // Of equal names the first.
        let mut named = BTreeMap::new();
        for is in all.items("ephemeralContainers") {
            named.entry(is.str("name")).or_insert(is);
        }
        for was in before.items("ephemeralContainers") {
            let name = api::field::quote(was.str("name"));
            match named.get(was.str("name")) {
                None => {
                    let words = format!("existing ephemeral containers {name} may not be removed\n");
                    errors.forbidden(&path, words);
                }
                Some(is) if is.value != was.value => {
                    let words = format!(
                        "existing ephemeral containers {name} may not be changed\n{}",
                        difference(was.value, is.value)
                    );
                    errors.forbidden(&path, words);
                }
                Some(_) => {}
            }
        }
    }
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    pod.get(&["spec", "containers"]).and_then(Value::as_array).into_iter().flatten()
}

/// Makes what stands at a path this value, or nothing.
pub(super) fn put(object: &mut Object, path: &[&str], value: Option<Value>) {
    match value {
        Some(value) => object.set(path, value),
        None => {
            object.remove(path);
        }
    }
}

/// Takes of a change which object it means and who made it, and nothing else.
pub(super) fn keep_all(new: &mut Object, old: &Object) {
    let mut given = new.0.remove("metadata");
    new.0.clone_from(&old.0);
    for field in ["name", "namespace", "uid", "resourceVersion", "managedFields"] {
        match given.as_mut().and_then(|metadata| metadata.get_mut(field)).map(Value::take) {
            Some(value) => new.set_meta(field, value),
            None => new.remove_meta(field),
        }
    }
}

fn container_of<'a>(pod: &'a Object, query: &str) -> Result<String, Status> {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == "container");
    if let Some((_, name)) = asked.filter(|(_, v)| !v.is_empty()) {
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let all = lists.iter().filter_map(|l| pod.get(&["spec", l]).and_then(Value::as_array)).flatten();
        let known = all.into_iter().any(|c: &'a Value| c.get("name").and_then(Value::as_str) == Some(&*name));
        if known {
            return Ok(name.into_owned());
        }
        return Err(Status::bad_request(format!("container {name} is not valid for pod {}", pod.name())));
    }
    let names: Vec<&str> = containers(pod).filter_map(|c| c.get("name")?.as_str()).collect();
    if let Some(default) =
        pod.annotation("kubectl.kubernetes.io/default-container").filter(|d| names.contains(d))
    {
        return Ok(default.to_owned());
    }
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            names.join(" ")
        ))),
    }
}

fn kubelet_path(pod: &Object, what: &str, container: Option<&str>, query: &str) -> String {
    let mut path = format!("/{what}/{}/{}", pod.namespace(), pod.name());
    if let Some(container) = container {
        path.push('/');
        path.push_str(container);
    }
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (k, v) in form_urlencoded::parse(query.as_bytes()).filter(|(k, _)| k != "container") {
        // The kubelet's own names of the streams.
        let k = match (&*k, what) {
            ("stdin", "exec" | "attach") => "input".into(),
            ("stdout", "exec" | "attach") => "output".into(),
            ("stderr", "exec" | "attach") => "error".into(),
            _ => k,
        };
        let v = match (&*k, &*v) {
            ("input" | "output" | "error" | "tty", "true") => "1".into(),
            ("input" | "output" | "error" | "tty", "false") => continue,
            _ => v,
        };
        out.append_pair(&k, &v);
    }
    let query = out.finish();
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn on_kubelet(engine: &Engine, pod: &Object, path: String) -> Result<Target, Status> {
    let node = pod.get_str(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    node::kubelet(engine, node, path)
}

/// `exec`, `attach`, `portforward`: a connection that is handed over whole.
pub struct Stream(pub &'static str);

#[async_trait]
impl Connect for Stream {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["create", "get"]
    }

    fn streams_create(&self) -> bool {
        true
    }

    async fn target(
        &self,
        engine: &Engine,
        pod: &Object,
        asked: &Asked<'_>,
    ) -> Result<Option<Target>, Status> {
        let container = if self.0 == "portForward" { None } else { Some(container_of(pod, asked.query)?) };
        on_kubelet(engine, pod, kubelet_path(pod, self.0, container.as_deref(), asked.query)).map(Some)
    }
}

/// `log`
pub struct Log;

#[async_trait]
impl Connect for Log {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["get"]
    }

    async fn target(
        &self,
        engine: &Engine,
        pod: &Object,
        asked: &Asked<'_>,
    ) -> Result<Option<Target>, Status> {
        log_options(pod, asked.query)?;
        let container = container_of(pod, asked.query)?;
        // A pod that has no node yet has no log yet: that is an empty answer.
        if pod.get_str(&["spec", "nodeName"]).is_empty() {
            return Ok(None);
        }
        on_kubelet(engine, pod, kubelet_path(pod, "containerLogs", Some(&container), asked.query)).map(Some)
    }
}

/// What may be asked of a log.
fn log_options(pod: &Object, query: &str) -> Result<(), Status> {
    let given = |name: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, value)| value)
    };
    let number = |name: &str| -> Result<Option<i64>, Status> {
        let text = given(name);
        text.map(|text| text.parse().map_err(|_| Status::not_an_integer(&text))).transpose()
    };
    let (lines, bytes, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let time = given("sinceTime").filter(|text| !text.is_empty());
    if let Some(text) = time.as_ref().filter(|text| text.parse::<jiff::Timestamp>().is_err()) {
        let text = api::field::quote(text);
        return Err(Status::bad_request(format!(
            "parsing time {text} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text} as \"2006\""
        )));
    }
    let mut errors = Errors::default();
    if let Some(lines) = lines.filter(|n| *n < 0) {
        errors.invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = bytes.filter(|n| *n < 1) {
        errors.invalid(&Path::new("limitBytes"), bytes, "must be greater than 0");
    }
    if seconds.is_some() && time.is_some() {
        let words = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.forbidden(&Path::unnamed(), words);
    } else if let Some(seconds) = seconds.filter(|n| *n < 1) {
        errors.invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0");
    }
    if errors.is_empty() {
        return Ok(());
    }
    let kind = api::GroupKind { group: String::new(), kind: "PodLogOptions".into() };
    Err(Status::invalid(&kind, pod.name(), &errors))
}

/// `proxy`: HTTP to the pod itself; the name may be `scheme:name:port`.
pub struct Proxy;

#[async_trait]
impl Connect for Proxy {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["create", "delete", "get", "patch", "update"]
    }

    fn is_proxy(&self) -> bool {
        true
    }

    async fn target(&self, _: &Engine, pod: &Object, asked: &Asked<'_>) -> Result<Option<Target>, Status> {
        let host = pod.get_str(&["status", "podIP"]);
        if host.is_empty() {
            return Err(Status::bad_request(format!("address not allowed: pod {} has no IP", pod.name())));
        }
        let port = containers(pod).find_map(|c| c.get("ports")?.get(0)?.get("containerPort")?.as_u64());
        Ok(Some(Target {
            scheme: "http",
            host: host.to_owned(),
            port: asked.port_or(port.and_then(|p| u16::try_from(p).ok()).unwrap_or(80))?,
            path: with_query(asked.path, asked.query),
            kubelet: false,
        }))
    }
}

pub(super) fn with_query(path: &str, query: &str) -> String {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::object;

    fn check(query: &str, expected: Expect) {
        let mut pod = Object::default();
        pod.set_meta("name", "p");
        let answer =
            log_options(&pod, query).map_or_else(|s| format!("{}: {}", s.code, s.message), |()| "".into());
        expected.assert_eq(&answer);
    }

    #[test]
    fn what_may_be_asked_of_a_log() {
        check("tailLines=0&limitBytes=1&sinceSeconds=1&follow=yes", expect![""]);
        check("sinceTime=2026-01-02T03:04:05Z&tailLines=3", expect![""]);
        check("tailLines=all", expect![[r#"400: strconv.ParseInt: parsing "all": invalid syntax"#]]);
        check(
            "sinceTime=now",
            expect![[
                r#"400: parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#
            ]],
        );
        check(
            "tailLines=-1&limitBytes=0&sinceSeconds=0",
            expect![[
                r#"422: PodLogOptions "p" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be greater than 0, sinceSeconds: Invalid value: 0: must be greater than 0]"#
            ]],
        );
        check(
            "sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z",
            expect![[
                r#"422: PodLogOptions "p" is invalid: []: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"#
            ]],
        );
    }

    /// Selectors after a pod with these labels was made, one for each place that `term` stands in.
    fn written(labels: Value, term: &Value) -> Vec<Value> {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let both = json!({required: [term], preferred: [{"weight": 1, "podAffinityTerm": term}]});
        let mut pod = object(json!({"metadata": {"labels": labels}, "spec": {
            "affinity": {"podAffinity": both, "podAntiAffinity": both},
            "topologySpreadConstraints": [term],
        }}));
        write_label_keys(&mut pod);
        let pod = pod.into_value();
        let at = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
            let kind = format!("/spec/affinity/{kind}");
            [format!("{kind}/{required}/0"), format!("{kind}/{preferred}/0/podAffinityTerm")]
        });
        let at = at.chain(["/spec/topologySpreadConstraints/0".to_owned()]);
        at.map(|at| pod.pointer(&at).unwrap()["labelSelector"].clone()).collect()
    }

    #[test]
    fn keys_of_labels_become_part_of_selectors() {
        let own = json!({"key": "k", "operator": "Exists"});
        let is = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
        let is_not = |key: &str, value: &str| json!({"key": key, "operator": "NotIn", "values": [value]});
        let labels = || json!({"a": "1", "b": "2", "c": "3"});
        let table: &[(Value, Value)] = &[
            (json!({"labelSelector": {}}), json!({})),
            (
                json!({"labelSelector": {}, "matchLabelKeys": ["b", "a"]}),
                json!({"matchExpressions": [is("b", "2"), is("a", "1")]}),
            ),
            (
                json!({"labelSelector": {}, "mismatchLabelKeys": ["c"], "matchLabelKeys": ["a"]}),
                json!({"matchExpressions": [is("a", "1"), is_not("c", "3")]}),
            ),
            // What is there stays in front, and what the pod does not have is left out.
            (
                json!({
                    "labelSelector": {"matchLabels": {"x": "y"}, "matchExpressions": [own]},
                    "matchLabelKeys": ["none", "a"],
                }),
                json!({"matchLabels": {"x": "y"}, "matchExpressions": [own, is("a", "1")]}),
            ),
            (json!({"labelSelector": {}, "matchLabelKeys": ["none"]}), json!({})),
            // Without a selector a term means no pod at all.
            (json!({"matchLabelKeys": ["a"], "mismatchLabelKeys": ["b"]}), Value::Null),
        ];
        for (term, selector) in table {
            assert_eq!(written(labels(), term), vec![selector.clone(); 5], "{term}");
            let unlabelled = term.get("labelSelector").cloned().unwrap_or_default();
            assert_eq!(written(Value::Null, term), vec![unlabelled; 5], "{term}");
        }
    }

    #[test]
    fn terms_for_nodes_have_no_keys_of_labels() {
        let term = json!({"labelSelector": {}, "matchLabelKeys": ["a"]});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let mut pod = object(json!({"metadata": {"labels": {"a": "1"}}, "spec": {"affinity": affinity}}));
        write_label_keys(&mut pod);
        assert_eq!(pod.0["spec"]["affinity"], affinity);
    }
}
