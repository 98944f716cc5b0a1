//! Statuses and lists, as CRI has them.

use std::collections::HashMap;

use cri::{Result, v1};

use super::Service;
use super::records::{Container, Phase, Sandbox};

/// Whether `labels` has all of `selector`.
pub(super) fn selected(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn sandbox_state(sandbox: &Sandbox) -> i32 {
    let ready = sandbox.is_ready();
    (if ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }) as i32
}

fn container_state(phase: &Phase) -> i32 {
    (match phase {
        Phase::Created | Phase::Starting => v1::ContainerState::ContainerCreated,
        Phase::Running { .. } => v1::ContainerState::ContainerRunning,
        Phase::Exited { .. } => v1::ContainerState::ContainerExited,
    }) as i32
}

impl Service {
    pub(super) fn describe_sandbox(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let sandbox = self.sandbox(id)?;
        let record = &sandbox.record;
        let ip = |ip: &std::net::IpAddr| v1::PodIp { ip: ip.to_string() };
        let network = record.ips.split_first().map(|(first, rest)| v1::PodSandboxNetworkStatus {
            ip: first.to_string(),
            additional_ips: rest.iter().map(ip).collect(),
        });
        Ok(v1::PodSandboxStatus {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: sandbox_state(&sandbox),
            created_at: record.created_at,
            network: Some(network.unwrap_or_default()),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: Some(record.namespaces()) }),
            }),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        })
    }

    pub(super) fn sandboxes(&self, filter: &v1::PodSandboxFilter) -> Vec<v1::PodSandbox> {
        let state = self.inner.state.lock();
        let mut found: Vec<v1::PodSandbox> = state
            .sandboxes
            .values()
            .filter(|it| filter.id.is_empty() || it.record.id == filter.id)
            .filter(|it| filter.state.as_ref().is_none_or(|state| state.state == sandbox_state(it)))
            .filter(|it| selected(&filter.label_selector, &it.record.config.labels))
            .map(|it| v1::PodSandbox {
                id: it.record.id.clone(),
                metadata: it.record.config.metadata.clone(),
                state: sandbox_state(it),
                created_at: it.record.created_at,
                labels: it.record.config.labels.clone(),
                annotations: it.record.config.annotations.clone(),
                runtime_handler: it.record.runtime_handler.clone(),
            })
            .collect();
        found.sort_by_key(|it| std::cmp::Reverse(it.created_at));
        found
    }

    pub(super) fn describe_container(&self, id: &str) -> Result<v1::ContainerStatus> {
        let container = self.container(id)?;
        let record = &container.record;
        let phase = container.phase.borrow().clone();
        let (uid, gid, groups) = &record.user;
        let mut status = v1::ContainerStatus {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: container_state(&phase),
            created_at: record.created_at,
            image: record.config.image.clone(),
            image_ref: record.image_ref.clone(),
            image_id: record.image.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            mounts: record.config.mounts.clone(),
            log_path: record.log_path.clone().unwrap_or_default(),
            resources: container
                .resources
                .lock()
                .clone()
                .map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
            user: Some(v1::ContainerUser {
                linux: Some(v1::LinuxContainerUser {
                    uid: i64::from(*uid),
                    gid: i64::from(*gid),
                    supplemental_groups: groups.iter().map(|&group| i64::from(group)).collect(),
                }),
            }),
            ..v1::ContainerStatus::default()
        };
        match phase {
            Phase::Created | Phase::Starting => {}
            Phase::Running { started_at, .. } => status.started_at = started_at,
            Phase::Exited { started_at, exit, reason, message } => {
                status.started_at = started_at;
                status.finished_at = exit.at;
                status.exit_code = exit.code;
                status.reason = reason.to_owned();
                status.message = message;
            }
        }
        Ok(status)
    }

    pub(super) fn containers(&self, filter: &v1::ContainerFilter) -> Vec<v1::Container> {
        let state = self.inner.state.lock();
        let matches = |it: &&std::sync::Arc<Container>| {
            let wanted = filter.state.as_ref();
            (filter.id.is_empty() || it.record.id == filter.id)
                && (filter.pod_sandbox_id.is_empty() || it.record.sandbox == filter.pod_sandbox_id)
                && wanted.is_none_or(|state| state.state == container_state(&it.phase.borrow()))
                && selected(&filter.label_selector, &it.record.config.labels)
        };
        let mut found: Vec<v1::Container> = state
            .containers
            .values()
            .filter(matches)
            .map(|it| v1::Container {
                id: it.record.id.clone(),
                pod_sandbox_id: it.record.sandbox.clone(),
                metadata: it.record.config.metadata.clone(),
                image: it.record.config.image.clone(),
                image_ref: it.record.image_ref.clone(),
                image_id: it.record.image.clone(),
                state: container_state(&it.phase.borrow()),
                created_at: it.record.created_at,
                labels: it.record.config.labels.clone(),
                annotations: it.record.config.annotations.clone(),
            })
            .collect();
        found.sort_by_key(|it| std::cmp::Reverse(it.created_at));
        found
    }
}
