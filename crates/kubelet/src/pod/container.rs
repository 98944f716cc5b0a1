//! A container in the runtime's words.

use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{env, qos, security};
use crate::names;

/// What a container is made from, beside its own definition.
pub struct Parts<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    /// As the runtime named it.
    pub image: &'a str,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    /// The container whose processes it is to see.
    pub target: Option<&'a str>,
    /// The node's memory in bytes.
    pub memory: i64,
}

/// Where a container leaves its last words on the host.
pub fn termination_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

pub fn config(parts: Parts<'_>) -> v1::ContainerConfig {
    let Parts { pod, container, attempt, image, env, mounts, target, memory } = parts;
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let get = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        words.iter().flatten().map(|word| env::expand(word, get)).collect()
    };
    let grace = super::spec::grace(pod).as_secs().to_string();
    let mut annotations = std::collections::HashMap::from([
        (names::CONTAINER_HASH.to_owned(), names::hash(container)),
        (names::RESTART_COUNT.to_owned(), attempt.to_string()),
        (names::TERMINATION_PATH.to_owned(), container.termination_message_path.clone().unwrap_or_default()),
        (
            names::TERMINATION_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_default(),
        ),
        (names::POD_GRACE.to_owned(), grace),
    ]);
    let signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    annotations.extend(signal.map(|signal| (cri::STOP_SIGNAL_ANNOTATION.to_owned(), signal)));
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        labels: names::container_labels(pod, &container.name).into_iter().collect(),
        annotations,
        log_path: names::log_path(&container.name, attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(qos::resources(pod, container, memory)),
            security_context: Some(security::container(pod, container, target)),
        }),
        envs: env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        ..Default::default()
    }
}
