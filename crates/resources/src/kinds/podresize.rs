//! `pods/NAME/resize`: resources alone, and only what can change while the containers run.

use api::Object;
use api::field::{Errors, Path};
use registry::resource::PartHook;
use serde_json::Value;

use super::pod;
use crate::at::At;

pub struct Resize;

const LISTS: [&str; 2] = ["containers", "initContainers"];

fn items(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The containers of before with the resources that are given for them. Where they are others than before they
/// are as they are given, for their faults to be told.
fn resized(given: Option<Value>, before: Option<&Value>) -> Option<Value> {
    let (asked, was) = (items(given.as_ref()), items(before));
    let same = asked.len() == was.len() && asked.iter().zip(was).all(|(a, b)| a.get("name") == b.get("name"));
    if !same {
        return given;
    }
    let mut all = before.cloned();
    let containers = all.as_mut().and_then(Value::as_array_mut);
    for (container, asked) in containers.into_iter().flatten().zip(asked) {
        let Value::Object(container) = container else { continue };
        for field in ["resources", "resizePolicy"] {
            match asked.get(field).filter(|value| !value.is_null()) {
                Some(value) => container.insert(field.into(), value.clone()),
                None => container.remove(field),
            };
        }
    }
    all
}

impl PartHook for Resize {
    /// Everything else is put back as it was.
    fn prepare(&self, new: &mut Object, old: &Object) {
        let mut given = new.0.remove("spec").unwrap_or_default();
        let mut take = |field: &str| given.get_mut(field).map(Value::take).filter(|value| !value.is_null());
        let lists = LISTS.map(|list| resized(take(list), old.get(&["spec", list])));
        let whole = take("resources");
        pod::keep_all(new, old);
        for (list, containers) in LISTS.iter().zip(lists) {
            pod::put(new, &["spec", list], containers);
        }
        pod::put(new, &["spec", "resources"], whole);
    }

    fn validate(&self, new: &Object, old: &Object, errors: &mut Errors) {
        pod::metadata_and_spec(new, errors);
        // What holds for the whole pod stands at no field, and alone.
        let alone = |words: &str, errors: &mut Errors| {
            errors.clear();
            errors.forbidden(&Path::unnamed(), words);
        };
        if old.annotation(pod::MIRROR).is_some() {
            return alone("static pods cannot be resized", errors);
        }
        if old.get_str(&["spec", "os", "name"]) == "windows" {
            return alone("windows pods cannot be resized", errors);
        }
        let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
        let class = old.get_str(&["status", "qosClass"]);
        let was = if class.is_empty() { pod::qos_class(old) } else { class };
        if pod::qos_class(new) != was {
            errors.invalid(&spec.path, class, "Pod QOS Class may not change as a result of resizing");
        }
        if !tells_resources(old) {
            errors.forbidden(&spec.path, "Pod running on node without support for resize");
        }
        whole(&spec, &before, errors);
        if At::of(old, "status").len("nodeAllocatableResourceClaimStatuses") > 0 {
            let words = "pods with node allocatable resource claims cannot be resized";
            errors.forbidden(&spec.path, words);
        }
        let others = LISTS.iter().filter(|list| has_others(list, &spec, &before, errors)).count();
        if others > 0 {
            return;
        }
        let pairs = |list: &str| spec.items(list).into_iter().zip(before.items(list));
        for (now, was) in pairs("initContainers").chain(pairs("containers")) {
            kept(&now.field("resources"), &was.field("resources"), "", errors);
        }
        for (now, was) in pairs("containers") {
            if changes_others(&now, &was) {
                errors.forbidden(&spec.path, "only cpu and memory resources are mutable");
            }
        }
        for (now, was) in pairs("initContainers") {
            if changes_others(&now, &was) {
                let words = "only cpu and memory resources for init or sidecar containers are mutable";
                errors.forbidden(&now.path, words);
            }
            let restarts = |policy: &At<'_>| policy.str("restartPolicy") == "RestartContainer";
            if now.str("restartPolicy") != "Always"
                && now.value != was.value
                && now.items("resizePolicy").iter().any(restarts)
            {
                let words =
                    "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                errors.forbidden(&now.path, words);
            }
        }
    }
}

/// Whether the node tells what its containers have: one that does not can't change it. Of a pod that doesn't run
/// it isn't known.
fn tells_resources(pod: &Object) -> bool {
    let containers = At::of(pod, "status").items("containerStatuses");
    let running = containers.iter().find(|container| container.field("state").has("running"));
    running.is_none_or(|container| container.has("resources"))
}

/// What the pod may use as a whole.
fn whole(spec: &At<'_>, before: &At<'_>, errors: &mut Errors) {
    let (now, was) = (spec.field("resources"), before.field("resources"));
    let amounts = [&now, &was].iter().map(|at| at.len("requests") + at.len("limits")).sum::<usize>();
    if amounts == 0 {
        return;
    }
    if now.is_absent() {
        return errors.forbidden(&now.path, "pod-level resources cannot be removed");
    }
    kept(&now, &was, "pod-level ", errors);
    if asks_for_others(&now, &was) || now.raw("claims") != was.raw("claims") {
        errors.forbidden(&spec.path, "only cpu and memory resources are mutable at pod-level");
    }
}

/// Whether a list has other containers than before.
fn has_others(list: &str, spec: &At<'_>, before: &At<'_>, errors: &mut Errors) -> bool {
    let (now, was) = (spec.items(list), before.items(list));
    if now.len() != was.len() {
        let words = format!("{list} may not be added or removed on resize");
        errors.forbidden(&spec.path.child(list), words);
        return true;
    }
    let mut others = now.iter().zip(was).filter(|(now, was)| now.str("name") != was.str("name")).peekable();
    let found = others.peek().is_some();
    for (now, _) in others {
        let words = format!("{list} may not be renamed or reordered on resize");
        errors.forbidden(&now.path.child("name"), words);
    }
    found
}

/// What was asked for or limited must be still.
fn kept(new: &At<'_>, old: &At<'_>, level: &str, errors: &mut Errors) {
    for list in ["requests", "limits"] {
        let now = new.field(list);
        if old.entries(list).iter().any(|(name, _)| !now.has(name)) {
            let words = format!("{level}resource {list} cannot be removed");
            errors.forbidden(&now.path, words);
        }
    }
}

/// Whether anything of a container is another but the cpu and the memory it asks for. Whoever claims devices
/// can't change even these.
fn changes_others(new: &At<'_>, old: &At<'_>) -> bool {
    let (now, was) = (new.field("resources"), old.field("resources"));
    now.len("claims") + was.len("claims") > 0
        || asks_for_others(&now, &was)
        || new.raw("resizePolicy") != old.raw("resizePolicy")
}

/// Whether anything but cpu and memory is asked for otherwise.
fn asks_for_others(new: &At<'_>, old: &At<'_>) -> bool {
    ["requests", "limits"].iter().any(|list| {
        let (now, was) = (new.field(list), old.field(list));
        let names = new.entries(list).into_iter().chain(old.entries(list)).map(|(name, _)| name);
        names.filter(|name| !matches!(*name, "cpu" | "memory")).any(|name| now.raw(name) != was.raw(name))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{object, told, with};

    fn pod() -> Value {
        let asks = || json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}});
        let container = |name: &str| json!({"name": name, "image": "i", "resources": asks()});
        let sidecar = with(container("sidecar"), &[("/restartPolicy", json!("Always"))]);
        json!({
            "metadata": {"name": "p", "namespace": "d", "annotations": {}},
            "spec": {
                "containers": [container("main")], "initContainers": [container("init"), sidecar],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            },
            "status": {"qosClass": "Burstable"},
        })
    }

    /// What is said where `changes` are asked of a pod that is as above but for `before`.
    fn check(before: &[(&str, Value)], changes: &[(&str, Value)], faults: &[&str]) {
        let old = with(pod(), before);
        let (mut new, old) = (object(with(old.clone(), changes)), object(old));
        Resize.prepare(&mut new, &old);
        let mut errors = Errors::default();
        Resize.validate(&new, &old, &mut errors);
        assert_eq!(told(&errors), faults, "{before:?} {changes:?}");
    }

    const MAIN: &str = "/spec/containers/0/resources";
    const INIT: &str = "/spec/initContainers/0/resources";
    const SIDECAR: &str = "/spec/initContainers/1/resources";
    const OTHERS: &str = "spec: Forbidden: only cpu and memory resources are mutable";

    #[test]
    fn all_but_resources_is_put_back() {
        let asked = json!({"requests": {"cpu": "9"}});
        let resized = [(MAIN, asked.clone()), (SIDECAR, asked.clone()), ("/spec/resources", asked)];
        let others = [
            ("/metadata/labels", json!({"a": "b"})),
            ("/spec/nodeName", json!("n")),
            ("/spec/containers/0/image", json!("other")),
            ("/spec/initContainers/0/command", json!(["c"])),
            ("/status/phase", json!("Running")),
        ];
        let mut new = object(with(pod(), &[&resized[..], &others[..]].concat()));
        Resize.prepare(&mut new, &object(pod()));
        assert_eq!(new.into_value(), with(pod(), &resized));
    }

    #[test]
    fn cpu_and_memory_change_and_nothing_else() {
        for container in [MAIN, INIT, SIDECAR] {
            let at = |field: &str| format!("{container}/{field}");
            check(&[], &[(&at("requests/cpu"), json!("1500m")), (&at("limits/memory"), json!("3Gi"))], &[]);
            let fields = container.replace("/spec", "spec").replace("/0", "[0]").replace("/1", "[1]");
            let fields = fields.replace('/', ".");
            let gone = |list: &str| format!("{fields}.{list}: Forbidden: resource {list} cannot be removed");
            check(&[], &[(&at("requests/cpu"), Value::Null)], &[&gone("requests")]);
            check(&[], &[(&at("limits"), Value::Null)], &[&gone("limits")]);
            check(&[], &[(container, Value::Null)], &[&gone("requests"), &gone("limits")]);
            let owner = fields.trim_end_matches(".resources");
            let words = "only cpu and memory resources for init or sidecar containers are mutable";
            let others = match container {
                MAIN => OTHERS.to_owned(),
                _ => format!("{owner}: Forbidden: {words}"),
            };
            check(&[], &[(&at("requests/ephemeral-storage"), json!("1Gi"))], &[&others]);
            let policy = container.replace("resources", "resizePolicy");
            let policies = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
            check(&[], &[(&policy, policies.clone())], &[&others]);
            check(&[(&policy, policies)], &[(&at("requests/cpu"), json!("2"))], &[]);
        }
        let claims = [
            ("/spec/resourceClaims", json!([{"name": "c", "resourceClaimName": "x"}])),
            ("/spec/containers/0/resources/claims", json!([{"name": "c"}])),
        ];
        check(&claims, &[("/spec/containers/0/resources/requests/cpu", json!("2"))], &[OTHERS]);
        check(&claims[..1], &claims[1..], &[OTHERS]);
    }

    #[test]
    fn a_container_that_prepares_the_pod_is_not_restarted() {
        let policies = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        let before = [("/spec/initContainers/0/resizePolicy", policies)];
        let at = "spec.initContainers[0]";
        let policy = format!(
            "{at}.resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers"
        );
        let resized = format!(
            "{at}: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
        );
        check(&before, &[("/spec/containers/0/resources/requests/cpu", json!("2"))], &[&policy]);
        check(
            &before,
            &[("/spec/initContainers/0/resources/requests/cpu", json!("2"))],
            &[&policy, &resized],
        );
    }

    #[test]
    fn containers_stay_who_they_are() {
        let more = [pod()["spec"]["containers"][0].clone(), json!({"name": "more", "image": "i"})];
        let table: &[(&str, Value, &str)] = &[
            (
                "/spec/containers",
                json!(more),
                "spec.containers: Forbidden: containers may not be added or removed on resize",
            ),
            (
                "/spec/initContainers",
                Value::Null,
                "spec.initContainers: Forbidden: initContainers may not be added or removed on resize",
            ),
            (
                "/spec/containers/0/name",
                json!("other"),
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (
                "/spec/initContainers/1/name",
                json!("other"),
                "spec.initContainers[1].name: Forbidden: initContainers may not be renamed or reordered on resize",
            ),
        ];
        for (at, value, fault) in table {
            check(&[], &[(at, value.clone())], &[fault]);
        }
    }

    #[test]
    fn some_pods_are_not_resized_at_all() {
        let cpu = [("/spec/containers/0/resources/requests/cpu", json!("2"))];
        let mirror = ("/metadata/annotations/kubernetes.io~1config.mirror", json!("x"));
        check(&[mirror], &cpu, &["[]: Forbidden: static pods cannot be resized"]);
        let windows = ("/spec/os", json!({"name": "windows"}));
        check(&[windows], &cpu, &["[]: Forbidden: windows pods cannot be resized"]);
        let statuses = |of: Value| [("/status/containerStatuses", of)];
        let silent = json!([{"state": {"waiting": {}}}, {"state": {"running": {}}}]);
        let fault = "spec: Forbidden: Pod running on node without support for resize";
        check(&statuses(silent), &cpu, &[fault]);
        check(&statuses(json!([{"state": {"running": {}}, "resources": {}}])), &cpu, &[]);
        check(&statuses(json!([{"state": {"waiting": {}}}])), &cpu, &[]);
        let claims = ("/status/nodeAllocatableResourceClaimStatuses", json!([{"resourceClaimName": "x"}]));
        check(
            &[claims],
            &cpu,
            &["spec: Forbidden: pods with node allocatable resource claims cannot be resized"],
        );
    }

    #[test]
    fn the_class_of_service_stays() {
        let none = [(MAIN, Value::Null), (INIT, Value::Null), (SIDECAR, Value::Null)];
        let asks = [(MAIN, json!({"requests": {"cpu": "1"}}))];
        let fault = |class: &str| {
            format!("spec: Invalid value: \"{class}\": Pod QOS Class may not change as a result of resizing")
        };
        let class = |class: Value| [&none[..], &[("/status/qosClass", class)]].concat();
        check(&class(json!("BestEffort")), &asks, &[&fault("BestEffort")]);
        check(&class(Value::Null), &asks, &[&fault("")]);
        check(&class(json!("Burstable")), &asks, &[]);
    }

    #[test]
    fn the_pod_as_a_whole_changes_likewise() {
        const WHOLE: &str = "/spec/resources";
        let asks = json!({"requests": {"cpu": "4", "memory": "4Gi"}, "limits": {"cpu": "8"}});
        let before = [(WHOLE, asks.clone())];
        check(&before, &[("/spec/resources/requests/cpu", json!("5"))], &[]);
        check(&[], &before, &[]);
        check(
            &before,
            &[(WHOLE, Value::Null)],
            &["spec.resources: Forbidden: pod-level resources cannot be removed"],
        );
        for list in ["requests", "limits"] {
            let gone =
                format!("spec.resources.{list}: Forbidden: pod-level resource {list} cannot be removed");
            check(&before, &[(&format!("{WHOLE}/{list}/cpu"), Value::Null)], &[&gone]);
        }
        let huge = |list: &str| (format!("{WHOLE}/{list}/hugepages-2Mi"), json!("2Mi"));
        let [(requests, two), (limits, _)] = ["requests", "limits"].map(huge);
        check(
            &before,
            &[(&requests, two.clone()), (&limits, two)],
            &["spec: Forbidden: only cpu and memory resources are mutable at pod-level"],
        );
    }
}
