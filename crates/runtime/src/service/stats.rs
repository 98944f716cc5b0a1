//! Statistics.

use std::fs;
use std::path::Path;

use cri::{Error, Result, v1};

use super::list::selected;
use super::records::{Container, Sandbox};
use super::{Service, blocking};
use crate::cgroup::{Cgroup, Usage};
use crate::clock;

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(usage: &Usage, timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu), ..v1::CpuUsage::default() }
}

fn memory(usage: &Usage, timestamp: i64) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.working_set),
        available_bytes: usage.memory_limit.and_then(|limit| value(limit.saturating_sub(usage.working_set))),
        usage_bytes: value(usage.memory),
        rss_bytes: value(usage.rss),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
    }
}

/// Bytes and inodes below `path`.
fn disk(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 0);
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += metadata.blocks() * 512;
        inodes += 1;
        if metadata.is_dir() {
            let (more, inner) = disk(&entry.path());
            bytes += more;
            inodes += inner;
        }
    }
    (bytes, inodes)
}

fn measure(container: &Container) -> v1::ContainerStats {
    let at = clock::now();
    let usage = Cgroup::new(&container.record.cgroup).usage();
    let (bytes, inodes) = disk(&container.dir.join("upper"));
    let mountpoint = container.dir.join("upper").to_string_lossy().into_owned();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: container.record.config.metadata.clone(),
            labels: container.record.config.labels.clone(),
            annotations: container.record.config.annotations.clone(),
        }),
        cpu: usage.as_ref().map(|usage| cpu(usage, at)),
        memory: usage.as_ref().map(|usage| memory(usage, at)),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: at,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: value(bytes),
            inodes_used: value(inodes),
        }),
        swap: usage.as_ref().map(|usage| v1::SwapUsage {
            timestamp: at,
            swap_available_bytes: None,
            swap_usage_bytes: value(usage.swap),
        }),
    }
}

/// The counters of a network namespace's interfaces, but for its loopback.
fn network(sandbox: &Sandbox, at: i64) -> Option<v1::NetworkUsage> {
    let shim = sandbox.live.lock().shim;
    if shim == 0 || sandbox.record.namespaces().network == v1::NamespaceMode::Node as i32 {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{shim}/net/dev")).ok()?;
    let interfaces: Vec<_> = text.lines().filter_map(interface).filter(|it| it.name != "lo").collect();
    Some(v1::NetworkUsage { timestamp: at, default_interface: interfaces.first().cloned(), interfaces })
}

/// One line of `/proc/net/dev`: a name, eight counters received, eight sent.
fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    let at = |index: usize| counters.get(index).map(|&value| v1::UInt64Value { value });
    Some(v1::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: at(0),
        rx_errors: at(2),
        tx_bytes: at(8),
        tx_errors: at(10),
    })
}

impl Service {
    pub(super) async fn measure_container(&self, id: &str) -> Result<v1::ContainerStats> {
        let container = self.container(id)?;
        blocking(move || Ok(measure(&container))).await
    }

    pub(super) async fn measure_containers(
        &self,
        filter: &v1::ContainerStatsFilter,
    ) -> Result<Vec<v1::ContainerStats>> {
        let wanted = |it: &Container| {
            (filter.id.is_empty() || it.record.id == filter.id)
                && (filter.pod_sandbox_id.is_empty() || it.record.sandbox == filter.pod_sandbox_id)
                && it.phase.borrow().is_live()
                && selected(&filter.label_selector, &it.record.config.labels)
        };
        let containers: Vec<_> = {
            let state = self.inner.state.lock();
            state.containers.values().filter(|it| wanted(it)).cloned().collect()
        };
        blocking(move || Ok(containers.iter().map(|it| measure(it)).collect())).await
    }

    pub(super) async fn measure_sandbox(&self, id: &str) -> Result<v1::PodSandboxStats> {
        let sandbox = self.sandbox(id)?;
        let containers = self.containers_of(id);
        blocking(move || {
            let at = clock::now();
            let record = &sandbox.record;
            let parent = record.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
            let usage = if parent.is_empty() { None } else { Cgroup::new(parent).usage() };
            Ok(v1::PodSandboxStats {
                attributes: Some(v1::PodSandboxAttributes {
                    id: record.id.clone(),
                    metadata: record.config.metadata.clone(),
                    labels: record.config.labels.clone(),
                    annotations: record.config.annotations.clone(),
                }),
                linux: Some(v1::LinuxPodSandboxStats {
                    cpu: usage.as_ref().map(|usage| cpu(usage, at)),
                    memory: usage.as_ref().map(|usage| memory(usage, at)),
                    network: network(&sandbox, at),
                    process: usage.as_ref().map(|usage| v1::ProcessUsage {
                        timestamp: at,
                        process_count: value(usage.processes),
                    }),
                    containers: containers.iter().map(|it| measure(it)).collect(),
                }),
                windows: None,
            })
        })
        .await
    }

    pub(super) async fn measure_sandboxes(
        &self,
        filter: &v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>> {
        let ids: Vec<String> = {
            let state = self.inner.state.lock();
            let wanted = |it: &&std::sync::Arc<Sandbox>| {
                (filter.id.is_empty() || it.record.id == filter.id)
                    && selected(&filter.label_selector, &it.record.config.labels)
            };
            state.sandboxes.values().filter(wanted).map(|it| it.record.id.clone()).collect()
        };
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            match self.measure_sandbox(&id).await {
                Ok(stats) => all.push(stats),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    pub(super) async fn change_limits(&self, id: &str, change: v1::LinuxContainerResources) -> Result<()> {
        let container = self.container(id)?;
        blocking(move || {
            if container.phase.borrow().is_live() {
                let cgroup = Cgroup::new(&container.record.cgroup);
                cgroup.set(&change).map_err(Error::file("set limits of", &container.record.cgroup))?;
            }
            let mut now = container.resources.lock();
            merge(now.get_or_insert_default(), &change);
            Ok(())
        })
        .await
    }
}

/// Takes over what is not zero or empty in `change`.
fn merge(into: &mut v1::LinuxContainerResources, change: &v1::LinuxContainerResources) {
    let number = |to: &mut i64, from: i64| {
        if from != 0 {
            *to = from;
        }
    };
    number(&mut into.cpu_period, change.cpu_period);
    number(&mut into.cpu_quota, change.cpu_quota);
    number(&mut into.cpu_shares, change.cpu_shares);
    number(&mut into.memory_limit_in_bytes, change.memory_limit_in_bytes);
    number(&mut into.oom_score_adj, change.oom_score_adj);
    for (to, from) in
        [(&mut into.cpuset_cpus, &change.cpuset_cpus), (&mut into.cpuset_mems, &change.cpuset_mems)]
    {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
}
