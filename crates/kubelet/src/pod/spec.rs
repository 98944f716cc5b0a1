//! Reading a pod's spec.

use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// What part a container plays in its pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before what follows it.
    Init,
    /// An init container that keeps running (KEP-753).
    Sidecar,
    Main,
    /// Added for debugging; never restarted.
    Ephemeral,
}

/// How a container is treated when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub fn parse(text: Option<&str>) -> Restart {
        match text {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        }
    }

    /// Whether a container that exited with `code` is to run again.
    pub fn after(self, code: i32) -> bool {
        match self {
            Restart::Always => true,
            Restart::OnFailure => code != 0,
            Restart::Never => false,
        }
    }
}

static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// The pod's spec; an empty one where it has none.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn init_kind(container: &Container) -> Kind {
    if is_sidecar(container) { Kind::Sidecar } else { Kind::Init }
}

/// The pod's restart policy.
pub fn restart(pod: &Pod) -> Restart {
    Restart::parse(spec(pod).restart_policy.as_deref())
}

/// Whether a regular or init container runs again after it exited with `code`: by its own rules, its own
/// policy, or its pod's (KEP-5307).
pub fn restarts(pod: &Pod, container: &Container, kind: Kind, code: i32) -> bool {
    let by_rule = container.restart_policy_rules.iter().flatten().any(|rule| {
        let Some(codes) = &rule.exit_codes else { return false };
        let among = codes.values.as_ref().is_some_and(|values| values.contains(&code));
        rule.action == "Restart" && among == (codes.operator == "In")
    });
    if by_rule {
        return true;
    }
    let policy = match &container.restart_policy {
        Some(own) => Restart::parse(Some(own)),
        None => restart(pod),
    };
    match kind {
        // An init container that succeeded is done, whatever the policy.
        Kind::Init => code != 0 && policy != Restart::Never,
        Kind::Ephemeral => false,
        Kind::Sidecar | Kind::Main => policy.after(code),
    }
}

/// Every container of the pod with the part it plays, in the order they are started.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (Kind, &Container)> {
    let inits = init_containers(pod).iter().map(|container| (init_kind(container), container));
    inits.chain(spec(pod).containers.iter().map(|container| (Kind::Main, container)))
}

pub fn ephemeral(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// The container of this name with the part it plays.
pub fn find(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    if let Some((kind, container)) = containers(pod).find(|(_, container)| container.name == name) {
        return Some((kind, container.clone()));
    }
    ephemeral(pod).iter().find(|one| one.name == name).map(|one| (Kind::Ephemeral, from_ephemeral(one)))
}

/// The container whose processes an ephemeral container of this name is to see.
pub fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let found = ephemeral(pod).iter().find(|one| one.name == name)?;
    found.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// An ephemeral container in the form of any other.
pub fn from_ephemeral(one: &EphemeralContainer) -> Container {
    Container {
        name: one.name.clone(),
        image: one.image.clone(),
        image_pull_policy: one.image_pull_policy.clone(),
        command: one.command.clone(),
        args: one.args.clone(),
        working_dir: one.working_dir.clone(),
        env: one.env.clone(),
        env_from: one.env_from.clone(),
        volume_mounts: one.volume_mounts.clone(),
        security_context: one.security_context.clone(),
        termination_message_path: one.termination_message_path.clone(),
        termination_message_policy: one.termination_message_policy.clone(),
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        tty: one.tty,
        ..Container::default()
    }
}

/// How long the pod's containers may take to stop; never under a second.
pub fn grace(pod: &Pod) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .filter(|_| pod.metadata.deletion_timestamp.is_some())
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}
