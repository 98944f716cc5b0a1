//! Checks of what pods and containers set in their security context.

use serde_json::Value;

use super::checks::{Found, Pod, containers, distinct, found, quoted};
use crate::{items, text};

/// The security context of a container or of a pod's spec.
pub(super) fn context(of: &Value) -> &Value {
    of.get("securityContext").unwrap_or(&Value::Null)
}

/// The pod and the containers that set something bad.
struct Setters<'p> {
    pod: bool,
    containers: Vec<&'p str>,
}

impl<'p> Setters<'p> {
    /// `bad` is asked of each security context.
    fn of(pod: &Pod<'p>, bad: impl Fn(&Value) -> bool) -> Setters<'p> {
        Setters { pod: bad(context(pod.spec)), containers: pod.named(|c| bad(context(c))) }
    }

    fn is_empty(&self) -> bool {
        !self.pod && self.containers.is_empty()
    }

    fn told(&self) -> Vec<String> {
        let pod = self.pod.then(|| "pod".to_owned());
        let rest = (!self.containers.is_empty()).then(|| containers(&self.containers));
        pod.into_iter().chain(rest).collect()
    }
}

/// What every security context sets, the pod's first.
fn values<'p>(pod: &Pod<'p>, pick: impl Fn(&'p Value) -> &'p str) -> Vec<&'p str> {
    let all = std::iter::once(context(pod.spec)).chain(pod.containers().map(context));
    all.map(pick).collect()
}

fn kind_of<'v>(context: &'v Value, profile: &str) -> &'v str {
    context.get(profile).map_or("", |p| text(p, "type"))
}

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn app_armor(pod: &Pod<'_>) -> Found {
    let bad = |kind: &str| !matches!(kind, "" | "RuntimeDefault" | "Localhost");
    let setters = Setters::of(pod, |c| bad(kind_of(c, "appArmorProfile")));
    let set = values(pod, |c| kind_of(c, "appArmorProfile"));
    let set: Vec<&str> = distinct(set.into_iter().filter(|kind| bad(kind)).collect());
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let noted = pod.annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(APP_ARMOR));
    let noted = noted.filter_map(|(key, v)| Some((key, v.as_str().filter(|v| !allowed(v))?)));
    let noted: Vec<String> = noted.map(|(key, v)| format!("{key}={}", api::field::quote(v))).collect();
    let mut who = setters.told();
    match noted.len() {
        0 => {}
        1 => who.push("annotation".into()),
        _ => who.push("annotations".into()),
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<&str> = set.into_iter().chain(noted.iter().map(String::as_str)).collect();
    let reason = if all.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    found(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&all)))
}

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What a container adds or drops.
fn capabilities<'v>(container: &'v Value, list: &str) -> impl Iterator<Item = &'v str> {
    let all = context(container).get("capabilities").unwrap_or(&Value::Null);
    items(all, list).filter_map(Value::as_str)
}

/// Who adds what is not among these.
fn added<'p>(pod: &Pod<'p>, allowed: &[&str]) -> Option<String> {
    let bad = |name: &&str| !allowed.contains(name);
    let names = pod.named(|c| capabilities(c, "add").any(|name| bad(&name)));
    if names.is_empty() {
        return None;
    }
    let all: Vec<&'p str> = pod.containers().flat_map(|c| capabilities(c, "add")).filter(bad).collect();
    let all = distinct(all);
    Some(format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quoted(&all)
    ))
}

pub(super) fn capabilities_baseline(pod: &Pod<'_>) -> Found {
    found("non-default capabilities", added(pod, CAPABILITIES)?)
}

pub(super) fn capabilities_restricted(pod: &Pod<'_>) -> Found {
    let mut told = Vec::new();
    let names = pod.named(|c| !capabilities(c, "drop").any(|name| name == "ALL"));
    if !names.is_empty() {
        told.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&names)));
    }
    told.extend(added(pod, &["NET_BIND_SERVICE"]));
    if told.is_empty() { None } else { found("unrestricted capabilities", told.join("; ")) }
}

const SELINUX_TYPES: &[&str] =
    &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

pub(super) fn selinux(pod: &Pod<'_>) -> Found {
    let option = |c: &Value, field: &str| c.get("seLinuxOptions").map_or("", |o| text(o, field)).to_owned();
    let bad_type = |c: &Value| !SELINUX_TYPES.contains(&option(c, "type").as_str());
    let set = |c: &Value, field: &str| !option(c, field).is_empty();
    let setters = Setters::of(pod, |c| bad_type(c) || set(c, "user") || set(c, "role"));
    if setters.is_empty() {
        return None;
    }
    let types = values(pod, |c| c.get("seLinuxOptions").map_or("", |o| text(o, "type")));
    let types = distinct(types.into_iter().filter(|t| !SELINUX_TYPES.contains(t)).collect());
    let mut told = Vec::new();
    if !types.is_empty() {
        told.push(format!("{} {}", if types.len() == 1 { "type" } else { "types" }, quoted(&types)));
    }
    for field in ["user", "role"] {
        let all = std::iter::once(context(pod.spec)).chain(pod.containers().map(context));
        if all.into_iter().any(|c| set(c, field)) {
            told.push(format!("{field} may not be set"));
        }
    }
    let who = setters.told().join(" and ");
    found(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", told.join("; ")),
    )
}

pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Found {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let allowed = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let about = |key: &str| key == POD || key.starts_with(CONTAINER);
    let all = pod.annotations.into_iter().flatten().filter(|(key, _)| about(key));
    let all = all.filter_map(|(key, v)| Some((key, v.as_str().filter(|v| !allowed(v))?)));
    let bad: Vec<String> = all.map(|(key, v)| format!("{key}={}", api::field::quote(v))).collect();
    if bad.is_empty() {
        return None;
    }
    let word = if bad.len() == 1 { "annotation" } else { "annotations" };
    found("seccompProfile", format!("forbidden {word} {}", bad.join(", ")))
}

fn bad_seccomp(context: &Value) -> bool {
    context.get("seccompProfile").is_some()
        && !matches!(kind_of(context, "seccompProfile"), "Localhost" | "RuntimeDefault")
}

pub(super) fn seccomp_baseline(pod: &Pod<'_>) -> Found {
    let setters = Setters::of(pod, bad_seccomp);
    if setters.is_empty() {
        return None;
    }
    let all = std::iter::once(context(pod.spec)).chain(pod.containers().map(context));
    let kinds = all.filter(|c| bad_seccomp(c)).map(|c| kind_of(c, "seccompProfile")).collect();
    let who = setters.told().join(" and ");
    let kinds = quoted(&distinct(kinds));
    found("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {kinds}"))
}

pub(super) fn seccomp_restricted(pod: &Pod<'_>) -> Found {
    if let Some(bad) = seccomp_baseline(pod) {
        return Some(bad);
    }
    if context(pod.spec).get("seccompProfile").is_some() {
        return None;
    }
    let names = pod.named(|c| context(c).get("seccompProfile").is_none());
    if names.is_empty() {
        return None;
    }
    found(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&names)
        ),
    )
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Found {
    let setters = Setters::of(pod, |c| {
        c.get("windowsOptions").and_then(|o| o.get("hostProcess")) == Some(&Value::Bool(true))
    });
    if setters.is_empty() {
        return None;
    }
    let who = setters.told().join(" and ");
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Found {
    let says = |c: &Value| c.get("runAsNonRoot").and_then(Value::as_bool);
    let setters = Setters::of(pod, |c| says(c) == Some(false));
    if !setters.is_empty() {
        let who = setters.told().join(" and ");
        return found(
            "runAsNonRoot != true",
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    if says(context(pod.spec)) == Some(true) {
        return None;
    }
    let names = pod.named(|c| says(context(c)).is_none());
    if names.is_empty() {
        return None;
    }
    found(
        "runAsNonRoot != true",
        format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names)),
    )
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Found {
    let setters = Setters::of(pod, |c| c.get("runAsUser").and_then(Value::as_i64) == Some(0));
    if setters.is_empty() {
        return None;
    }
    found("runAsUser=0", format!("{} must not set runAsUser=0", setters.told().join(" and ")))
}
