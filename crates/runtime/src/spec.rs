//! The OCI runtime configuration (`config.json`) of a container, from its CRI configuration and its image.

mod mounts;
mod process;
mod seccomp;
mod user;

use std::path::Path;

use cri::v1;
use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

pub use user::{User, resolve as resolve_user};

/// All a container's configuration follows from.
pub struct Input<'a> {
    /// What the kubelet asks for.
    pub config: &'a v1::ContainerConfig,
    /// The sandbox it is to run in.
    pub sandbox: &'a v1::PodSandboxConfig,
    /// What the image says.
    pub image: &'a ImageConfiguration,
    /// Whom it runs as.
    pub user: &'a User,
    /// The sandbox's directory with `hosts`, `hostname`, `resolv.conf` and `shm`.
    pub sandbox_dir: &'a Path,
    /// Where its root file system is mounted.
    pub rootfs: &'a Path,
    /// Its cgroup, from the root of each hierarchy.
    pub cgroup: &'a str,
    /// The PID namespace to join; a new one where absent, unless the host's is asked for.
    pub pid_namespace: Option<&'a str>,
}

/// What is wrong with a configuration: the field and why.
pub type Fault = (&'static str, String);

impl Input<'_> {
    fn security(&self) -> v1::LinuxContainerSecurityContext {
        let linux = self.config.linux.as_ref();
        linux.and_then(|linux| linux.security_context.clone()).unwrap_or_default()
    }

    fn namespaces(&self) -> v1::NamespaceOption {
        self.security().namespace_options.unwrap_or_default()
    }
}

/// Builds the configuration.
///
/// # Errors
/// The CRI field that cannot be honoured, and why.
pub fn build(input: &Input<'_>) -> Result<Value, Fault> {
    let security = input.security();
    let mut linux = json!({
        "namespaces": namespaces(input),
        "cgroupsPath": input.cgroup,
        "resources": resources(input),
        "rootfsPropagation": mounts::root_propagation(input.config),
    });
    if !security.privileged {
        linux["maskedPaths"] = json!(security.masked_paths);
        linux["readonlyPaths"] = json!(security.readonly_paths);
        if let Some(filter) = seccomp::profile(&security, &process::capabilities(&security)?)? {
            linux["seccomp"] = filter;
        }
    }
    let devices = mounts::devices(input.config, security.privileged)?;
    linux["devices"] = Value::Array(devices);
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process::process(input)?,
        "root": { "path": input.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts::mounts(input),
        "annotations": input.config.annotations,
        "linux": linux,
    }))
}

/// The shim is in the sandbox's network, IPC and UTS namespaces, and what it starts stays in them.
fn namespaces(input: &Input<'_>) -> Value {
    let mut namespaces = vec![json!({ "type": "mount" })];
    let host_pid = input.namespaces().pid == v1::NamespaceMode::Node as i32;
    match input.pid_namespace {
        Some(path) => namespaces.push(json!({ "type": "pid", "path": path })),
        None if !host_pid => namespaces.push(json!({ "type": "pid" })),
        None => {}
    }
    if !input.security().privileged && crate::cgroup::version() == crate::cgroup::Version::V2 {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    Value::Array(namespaces)
}

fn resources(input: &Input<'_>) -> Value {
    let default = v1::LinuxContainerResources::default();
    let from = input.config.linux.as_ref().and_then(|linux| linux.resources.as_ref()).unwrap_or(&default);
    let mut cpu = json!({});
    if from.cpu_shares > 0 {
        cpu["shares"] = json!(from.cpu_shares);
    }
    if from.cpu_quota != 0 {
        cpu["quota"] = json!(from.cpu_quota);
    }
    if from.cpu_period > 0 {
        cpu["period"] = json!(from.cpu_period);
    }
    if !from.cpuset_cpus.is_empty() {
        cpu["cpus"] = json!(from.cpuset_cpus);
    }
    if !from.cpuset_mems.is_empty() {
        cpu["mems"] = json!(from.cpuset_mems);
    }
    let mut memory = json!({});
    if from.memory_limit_in_bytes != 0 {
        memory["limit"] = json!(from.memory_limit_in_bytes);
    }
    if from.memory_swap_limit_in_bytes != 0 {
        memory["swap"] = json!(from.memory_swap_limit_in_bytes);
    }
    let pages: Vec<Value> = from
        .hugepage_limits
        .iter()
        .map(|limit| json!({ "pageSize": limit.page_size, "limit": limit.limit }))
        .collect();
    let mut resources = json!({
        "cpu": cpu,
        "memory": memory,
        "devices": mounts::device_rules(input.config, input.security().privileged),
    });
    if !pages.is_empty() {
        resources["hugepageLimits"] = json!(pages);
    }
    if !from.unified.is_empty() {
        resources["unified"] = json!(from.unified);
    }
    resources
}
