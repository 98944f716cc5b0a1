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
        for field in ["qosClass"] {
            match old.get(&["status", field]).cloned() {
                Some(value) => new.set(&["status", field], value),
                None => {
                    new.remove(&["status", field]);
                }
            }
        }
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
        match list {
            Some(list) => new.set(&["spec", "ephemeralContainers"], list),
            None => {
                new.remove(&["spec", "ephemeralContainers"]);
            }
        }
    }

    fn validate(&self, new: &Object, old: &Object, errors: &mut Errors) {
        metadata_and_spec(new, errors);
        podannotations::validate_update(new, old, errors);
        if old.annotation(MIRROR).is_some() {
            errors.0.clear();
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
    let number = |name: &str| {
        let found = form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name);
        found.and_then(|(_, v)| v.parse::<i64>().ok())
    };
    let set = |name: &str| form_urlencoded::parse(query.as_bytes()).any(|(k, v)| k == name && !v.is_empty());
    let mut errors = Errors::default();
    if let Some(lines) = number("tailLines").filter(|n| *n < 0) {
        errors.invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = number("limitBytes").filter(|n| *n < 1) {
        errors.invalid(&Path::new("limitBytes"), bytes, "must be greater than 0");
    }
    if set("sinceSeconds") && set("sinceTime") {
        let words = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.forbidden(&Path::unnamed(), words);
    } else if let Some(seconds) = number("sinceSeconds").filter(|n| *n < 1) {
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
