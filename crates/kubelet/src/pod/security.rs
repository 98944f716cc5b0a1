//! Security contexts of pod and container, merged into the runtime's.

use cri::v1::security_profile::ProfileType;
use cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SecurityProfile, UserNamespace,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use super::spec;

/// Parts of `/proc` and `/sys` hidden from containers, unless `procMount` is `Unmasked`.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Parts of `/proc` that containers cannot write to.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn namespaces(pod: &Pod, target: Option<&str>) -> NamespaceOption {
    let spec = spec::spec(pod);
    let node_if = |set: Option<bool>, otherwise| {
        (if set.unwrap_or(false) { NamespaceMode::Node } else { otherwise }) as i32
    };
    let own_pid = if spec.share_process_namespace.unwrap_or(false) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    let pid = node_if(spec.host_pid, own_pid);
    let seen = target.filter(|_| pid == NamespaceMode::Container as i32);
    // Users of the pod's own are asked for without numbers: which it gets is the runtime's to say.
    let users = UserNamespace { mode: NamespaceMode::Pod as i32, ..Default::default() };
    NamespaceOption {
        network: node_if(spec.host_network, NamespaceMode::Pod),
        pid: if seen.is_some() { NamespaceMode::Target as i32 } else { pid },
        ipc: node_if(spec.host_ipc, NamespaceMode::Pod),
        target_id: seen.unwrap_or_default().to_owned(),
        userns_options: (spec.host_users == Some(false)).then_some(users),
    }
}

fn seccomp(profile: Option<&SeccompProfile>) -> SecurityProfile {
    let (kind, reference) = match profile {
        Some(profile) if profile.type_ == "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        Some(profile) if profile.type_ == "Localhost" => {
            (ProfileType::Localhost, profile.localhost_profile.clone().unwrap_or_default())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    SecurityProfile { profile_type: kind as i32, localhost_ref: reference }
}

fn supplemental(context: &PodSecurityContext) -> Vec<i64> {
    let mut groups = context.supplemental_groups.clone().unwrap_or_default();
    groups.extend(context.fs_group);
    groups
}

fn int(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    let strict = context.supplemental_groups_policy.as_deref() == Some("Strict");
    i32::from(strict)
}

pub fn sandbox(pod: &Pod) -> LinuxSandboxSecurityContext {
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    let privileged = spec::containers(pod).any(|(_, container)| is_privileged(container));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group.filter(|_| context.run_as_user.is_some())),
        supplemental_groups: supplemental(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        ..Default::default()
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
}

/// The user an image runs as.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

/// Refuses a container that would run as root though it must not.
///
/// # Errors
/// Upstream's message of `CreateContainerConfigError`.
pub fn verify_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), String> {
    let context = spec::spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let non_root =
        own.and_then(|own| own.run_as_non_root).or(context.and_then(|context| context.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let user = own.and_then(|own| own.run_as_user).or(context.and_then(|context| context.run_as_user));
    let place = format!("(pod: {:?}, container: {})", crate::names::full(pod), container.name);
    match (user, image.uid, image.name.as_str()) {
        (Some(0), ..) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, None, name) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        )),
        (None, None, _) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, Some(_), _) => Ok(()),
    }
}

pub fn container(pod: &Pod, container: &Container, target: Option<&str>) -> LinuxContainerSecurityContext {
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own: SecurityContext = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| {
        if unmasked { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() }
    };
    let profile = own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref());
    let capabilities = own.capabilities.clone().map(|capabilities| Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..Default::default()
    });
    LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: int(own.run_as_user.or(context.run_as_user)),
        run_as_group: int(own.run_as_group.or(context.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental(&context),
        supplemental_groups_policy: groups_policy(&context),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        seccomp: Some(if privileged { seccomp(None) } else { seccomp(profile) }),
        ..Default::default()
    }
}
