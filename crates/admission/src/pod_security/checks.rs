//! The checks of the levels, by name, with the versions in which they hold.

use api::Object;
use serde_json::{Map, Value};

use super::level::{Level, Rule};
use super::security;
use crate::{items, text};

/// A pod or a template.
pub(super) struct Pod<'p> {
    pub annotations: Option<&'p Map<String, Value>>,
    pub spec: &'p Value,
}

impl<'p> Pod<'p> {
    /// `value` has metadata and spec.
    pub fn of(value: &'p Value) -> Pod<'p> {
        let annotations = value.get("metadata").and_then(|m| m.get("annotations"));
        Pod {
            annotations: annotations.and_then(Value::as_object),
            spec: value.get("spec").unwrap_or(&Value::Null),
        }
    }

    pub fn of_object(object: &'p Object) -> Pod<'p> {
        let annotations = object.get(&["metadata", "annotations"]);
        Pod {
            annotations: annotations.and_then(Value::as_object),
            spec: object.0.get("spec").unwrap_or(&Value::Null),
        }
    }

    pub fn containers(&self) -> impl Iterator<Item = &'p Value> + use<'p> {
        let spec = self.spec;
        items(spec, "initContainers")
            .chain(items(spec, "containers"))
            .chain(items(spec, "ephemeralContainers"))
    }

    /// The names of the containers of which something is true.
    pub fn named(&self, is: impl Fn(&Value) -> bool) -> Vec<&'p str> {
        self.containers().filter(|c| is(c)).map(|c| text(c, "name")).collect()
    }

    pub fn is_windows(&self) -> bool {
        self.spec.get("os").is_some_and(|os| text(os, "name") == "windows")
    }

    /// Whether root in the pod is nobody outside it.
    pub fn has_own_users(&self) -> bool {
        self.spec.get("hostUsers") == Some(&Value::Bool(false))
    }
}

/// What a pod does that its level forbids.
#[derive(Debug)]
pub(super) struct Violation {
    pub reason: &'static str,
    pub detail: String,
}

pub(super) type Found = Option<Violation>;

/// Finds what is wrong with a pod.
pub(super) type Run = fn(&Pod<'_>) -> Found;

struct Check {
    level: Level,
    /// The first version that has it.
    since: u32,
    /// The first version that has it no more, as it is put otherwise there.
    until: u32,
    /// Since when the restricted level puts it more strictly with a check of its own.
    stricter: Option<u32>,
    run: Run,
}

const fn baseline(run: Run) -> Check {
    between(0, ALWAYS, run)
}

const fn between(since: u32, until: u32, run: Run) -> Check {
    Check { level: Level::Baseline, since, until, stricter: None, run }
}

const fn stricter(since: u32, stricter: u32, run: Run) -> Check {
    Check { level: Level::Baseline, since, until: ALWAYS, stricter: Some(stricter), run }
}

const fn restricted(since: u32, until: u32, run: Run) -> Check {
    Check { level: Level::Restricted, since, until, stricter: None, run }
}

const ALWAYS: u32 = u32::MAX;

/// In upstream's order: those of the baseline, then those of the restricted level, each by name.
const CHECKS: &[Check] = &[
    baseline(security::app_armor),
    stricter(0, 22, security::capabilities_baseline),
    baseline(host_namespaces),
    stricter(0, 0, host_path_volumes),
    baseline(host_ports),
    between(34, ALWAYS, host_probes),
    baseline(privileged),
    between(0, 35, proc_mount),
    stricter(35, 35, proc_mount_own_users),
    baseline(security::selinux),
    between(0, 19, security::seccomp_annotations),
    stricter(19, 19, security::seccomp_baseline),
    between(0, 27, |pod| sysctls(pod, 0)),
    between(27, 29, |pod| sysctls(pod, 27)),
    between(29, 32, |pod| sysctls(pod, 29)),
    between(32, ALWAYS, |pod| sysctls(pod, 32)),
    baseline(security::windows_host_process),
    restricted(8, 25, privilege_escalation),
    restricted(25, ALWAYS, |pod| if pod.is_windows() { None } else { privilege_escalation(pod) }),
    restricted(22, 25, security::capabilities_restricted),
    restricted(
        25,
        ALWAYS,
        |pod| {
            if pod.is_windows() { None } else { security::capabilities_restricted(pod) }
        },
    ),
    restricted(35, ALWAYS, proc_mount),
    restricted(0, ALWAYS, volumes),
    restricted(0, 35, security::run_as_non_root),
    restricted(35, ALWAYS, |pod| if pod.has_own_users() { None } else { security::run_as_non_root(pod) }),
    restricted(23, 35, security::run_as_user),
    restricted(35, ALWAYS, |pod| if pod.has_own_users() { None } else { security::run_as_user(pod) }),
    restricted(19, 25, security::seccomp_restricted),
    restricted(25, ALWAYS, |pod| if pod.is_windows() { None } else { security::seccomp_restricted(pod) }),
];

/// What of a pod a level forbids, in order.
pub(super) fn violations(rule: Rule, pod: &Pod<'_>) -> Vec<Violation> {
    let minor = rule.version.0;
    let holds = |check: &&Check| {
        let replaced = rule.level == Level::Restricted && check.stricter.is_some_and(|since| since <= minor);
        let current = check.since <= minor && (minor < check.until || check.until == ALWAYS);
        check.level <= rule.level && current && !replaced
    };
    CHECKS.iter().filter(holds).filter_map(|check| (check.run)(pod)).collect()
}

/// All of it in a line.
pub(super) fn told(found: &[Violation]) -> String {
    let told = |v: &Violation| {
        if v.detail.is_empty() { v.reason.to_owned() } else { format!("{} ({})", v.reason, v.detail) }
    };
    found.iter().map(told).collect::<Vec<_>>().join(", ")
}

pub(super) fn found(reason: &'static str, detail: String) -> Found {
    Some(Violation { reason, detail })
}

/// `"a", "b"`
pub(super) fn quoted<T: AsRef<str>>(texts: &[T]) -> String {
    let texts: Vec<String> = texts.iter().map(|t| format!("\"{}\"", t.as_ref())).collect();
    texts.join(", ")
}

/// `container "a"`, `containers "a", "b"`
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", if names.len() == 1 { "container" } else { "containers" }, quoted(names))
}

/// A list of distinct texts in order.
pub(super) fn distinct(mut texts: Vec<&str>) -> Vec<&str> {
    texts.sort_unstable();
    texts.dedup();
    texts
}

fn host_namespaces(pod: &Pod<'_>) -> Found {
    let set = |field: &&&str| pod.spec.get(**field) == Some(&Value::Bool(true));
    let all: Vec<String> =
        ["hostNetwork", "hostPID", "hostIPC"].iter().filter(set).map(|f| format!("{f}=true")).collect();
    if all.is_empty() { None } else { found("host namespaces", all.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>) -> Found {
    let volumes = items(pod.spec, "volumes").filter(|v| v.get("hostPath").is_some());
    let names: Vec<&str> = volumes.map(|v| text(v, "name")).collect();
    if names.is_empty() {
        return None;
    }
    let word = if names.len() == 1 { "volume" } else { "volumes" };
    found("hostPath volumes", format!("{word} {}", quoted(&names)))
}

fn host_ports(pod: &Pod<'_>) -> Found {
    let port = |p: &Value| p.get("hostPort").and_then(Value::as_i64).filter(|port| *port != 0);
    let names = pod.named(|c| items(c, "ports").any(|p| port(p).is_some()));
    if names.is_empty() {
        return None;
    }
    let mut ports: Vec<i64> = pod.containers().flat_map(|c| items(c, "ports")).filter_map(port).collect();
    ports.sort_by_key(i64::to_string);
    ports.dedup();
    let (use_, word) = (
        if names.len() == 1 { "uses" } else { "use" },
        if ports.len() == 1 { "hostPort" } else { "hostPorts" },
    );
    let shown: Vec<String> = ports.iter().map(i64::to_string).collect();
    found("hostPort", format!("{} {use_} {word} {}", containers(&names), shown.join(", ")))
}

fn host_probes(pod: &Pod<'_>) -> Found {
    let hosts = |c: &Value| -> Vec<String> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].iter().filter_map(|p| c.get(p));
        let hooks = ["postStart", "preStop"].iter().filter_map(|h| c.get("lifecycle")?.get(h));
        let handlers = probes.chain(hooks);
        let hosts = handlers.flat_map(|h| ["httpGet", "tcpSocket"].into_iter().filter_map(|a| h.get(a)));
        hosts.map(|a| text(a, "host").to_owned()).filter(|host| !host.is_empty()).collect()
    };
    let names = pod.named(|c| !hosts(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let mut all: Vec<String> = pod.containers().flat_map(hosts).collect();
    all.sort_unstable();
    all.dedup();
    let word = if all.len() == 1 { "host" } else { "hosts" };
    let use_ = if names.len() == 1 { "uses" } else { "use" };
    let reason = if all.len() == 1 { "probe or lifecycle host" } else { "probe or lifecycle hosts" };
    found(reason, format!("{} {use_} {word} {}", containers(&names), quoted(&all)))
}

fn privileged(pod: &Pod<'_>) -> Found {
    let names = pod.named(|c| security::context(c).get("privileged") == Some(&Value::Bool(true)));
    if names.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

fn proc_mount(pod: &Pod<'_>) -> Found {
    let other = |c: &Value| {
        let kind = text(security::context(c), "procMount").to_owned();
        (!matches!(kind.as_str(), "" | "Default")).then_some(kind)
    };
    let names = pod.named(|c| other(c).is_some());
    if names.is_empty() {
        return None;
    }
    let mut kinds: Vec<String> = pod.containers().filter_map(other).collect();
    kinds.sort_unstable();
    kinds.dedup();
    found(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&kinds)),
    )
}

fn proc_mount_own_users(pod: &Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

const SYSCTLS: &[(u32, &str)] = &[
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(pod: &Pod<'_>, version: u32) -> Found {
    let allowed = |name: &str| SYSCTLS.iter().any(|(since, known)| *since <= version && *known == name);
    let set = items(security::context(pod.spec), "sysctls").map(|s| text(s, "name"));
    let bad: Vec<&str> = set.filter(|name| !allowed(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn privilege_escalation(pod: &Pod<'_>) -> Found {
    let off = |c: &Value| security::context(c).get("allowPrivilegeEscalation") == Some(&Value::Bool(false));
    let names = pod.named(|c| !off(c));
    if names.is_empty() {
        return None;
    }
    found(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

const VOLUMES: &[&str] = &[
    "configMap",
    "downwardAPI",
    "emptyDir",
    "projected",
    "secret",
    "csi",
    "persistentVolumeClaim",
    "ephemeral",
    "image",
];

fn volumes(pod: &Pod<'_>) -> Found {
    let source = |v: &Value| -> Option<String> {
        let fields = v.as_object()?.keys().find(|k| *k != "name")?;
        (!VOLUMES.contains(&fields.as_str())).then(|| fields.clone())
    };
    let bad: Vec<(&str, String)> =
        items(pod.spec, "volumes").filter_map(|v| Some((text(v, "name"), source(v)?))).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds = distinct(bad.iter().map(|(_, kind)| kind.as_str()).collect());
    let (volume, use_) = if names.len() == 1 { ("volume", "uses") } else { ("volumes", "use") };
    let kind = if kinds.len() == 1 { "type" } else { "types" };
    found(
        "restricted volume types",
        format!("{volume} {} {use_} restricted volume {kind} {}", quoted(&names), quoted(&kinds)),
    )
}
