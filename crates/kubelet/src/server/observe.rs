//! Statistics, metrics and configuration.

use std::collections::BTreeMap;

use bytes::Bytes;
use cri::v1;
use http::{Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Server;
use super::route::{self, Body, Refusal};
use crate::names;
use crate::node;

fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default().to_string()
}

pub(super) fn number(value: Option<&v1::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

fn cpu(usage: Option<&v1::CpuUsage>) -> Value {
    usage.map_or(Value::Null, |usage| {
        json!({
            "time": time(usage.timestamp),
            "usageNanoCores": number(usage.usage_nano_cores.as_ref()),
            "usageCoreNanoSeconds": number(usage.usage_core_nano_seconds.as_ref()),
        })
    })
}

fn memory(usage: Option<&v1::MemoryUsage>) -> Value {
    usage.map_or(Value::Null, |usage| {
        json!({
            "time": time(usage.timestamp),
            "availableBytes": number(usage.available_bytes.as_ref()),
            "usageBytes": number(usage.usage_bytes.as_ref()),
            "workingSetBytes": number(usage.working_set_bytes.as_ref()),
            "rssBytes": number(usage.rss_bytes.as_ref()),
            "pageFaults": number(usage.page_faults.as_ref()),
            "majorPageFaults": number(usage.major_page_faults.as_ref()),
        })
    })
}

impl Server {
    pub(super) async fn stats(&self) -> Result<Vec<v1::PodSandboxStats>, Refusal> {
        let stats = self.ctx.runtime.list_pod_sandbox_stats(v1::PodSandboxStatsFilter::default()).await;
        stats.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    pub(super) async fn summary(&self) -> Result<Response<Body>, Refusal> {
        let pods: Vec<Value> = self.stats().await?.iter().map(|stats| self.pod_stats(stats)).collect();
        let free = node::memory_available().unwrap_or(0);
        let now = Timestamp::now().to_string();
        let disk = node::disk(&self.ctx.config.root_dir).unwrap_or_default();
        route::json(&json!({
            "node": {
                "nodeName": self.ctx.config.node_name,
                "cpu": {
                    "time": now,
                    "usageCoreNanoSeconds": runtime::cgroup::Cgroup::new("/").usage().map(|usage| usage.cpu),
                },
                "memory": {
                    "time": now,
                    "availableBytes": free,
                    "workingSetBytes": self.ctx.memory - free,
                },
                "fs": {
                    "time": now,
                    "capacityBytes": disk.0,
                    "availableBytes": disk.1,
                    "usedBytes": disk.0 - disk.1,
                },
            },
            "pods": pods,
        }))
    }

    fn pod_stats(&self, stats: &v1::PodSandboxStats) -> Value {
        let attributes = stats.attributes.clone().unwrap_or_default();
        let metadata = attributes.metadata.unwrap_or_default();
        let linux = stats.linux.clone().unwrap_or_default();
        let started = self.registry.pod(&metadata.uid);
        let started =
            started.and_then(|pod| pod.status.as_ref()?.start_time.clone()).map(|at| at.0.to_string());
        let containers: Vec<Value> = linux
            .containers
            .iter()
            .map(|one| {
                let attributes = one.attributes.clone().unwrap_or_default();
                json!({
                    "name": attributes.labels.get(names::CONTAINER_NAME),
                    "cpu": cpu(one.cpu.as_ref()),
                    "memory": memory(one.memory.as_ref()),
                })
            })
            .collect();
        let network = linux.network.as_ref().and_then(|network| network.default_interface.as_ref());
        let network = network.map(|link| {
            json!({
                "name": link.name,
                "rxBytes": number(link.rx_bytes.as_ref()),
                "rxErrors": number(link.rx_errors.as_ref()),
                "txBytes": number(link.tx_bytes.as_ref()),
                "txErrors": number(link.tx_errors.as_ref()),
            })
        });
        json!({
            "podRef": { "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid },
            "startTime": started,
            "containers": containers,
            "cpu": cpu(linux.cpu.as_ref()),
            "memory": memory(linux.memory.as_ref()),
            "network": network,
        })
    }

    /// The pods the runtime runs, as it knows them.
    pub(super) async fn running_pods(&self) -> Result<Response<Body>, Refusal> {
        let failed = |error: cri::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 };
        let filter = v1::ContainerFilter { state: Some(running), ..Default::default() };
        let mut pods: BTreeMap<String, Value> = BTreeMap::new();
        for one in self.ctx.runtime.list_containers(filter).await.map_err(failed)? {
            let label = |key: &str| one.labels.get(key).cloned().unwrap_or_default();
            let uid = label(names::POD_UID);
            let pod = pods.entry(uid.clone()).or_insert_with(|| {
                json!({
                    "metadata": {
                        "name": label(names::POD_NAME), "namespace": label(names::POD_NAMESPACE), "uid": uid,
                    },
                    "spec": { "containers": [] },
                    "status": {},
                })
            });
            let image = one.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            let container = json!({ "name": label(names::CONTAINER_NAME), "image": image, "resources": {} });
            if let Some(list) = pod["spec"]["containers"].as_array_mut() {
                list.push(container);
            }
        }
        let items: Vec<Value> = pods.into_values().collect();
        route::json(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
    }

    pub(super) fn metrics(&self) -> Response<Body> {
        let pods = self.registry.pods().len();
        let node = &self.ctx.config.node_name;
        metrics_body(format!(
            "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {pods}\n\
             # TYPE kubelet_node_name gauge\nkubelet_node_name{{node={node:?}}} 1\n"
        ))
    }

    pub(super) fn configz(&self) -> Result<Response<Body>, Refusal> {
        let config = &self.ctx.config;
        route::json(&json!({ "kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "staticPodPath": config.pod_manifest_path,
            "clusterDomain": config.cluster_domain,
            "maxPods": config.max_pods,
            "cgroupRoot": config.cgroup_root,
            "podLogsDir": config.pod_logs_dir,
            "nodeLeaseDurationSeconds": config.node_lease_duration.as_secs(),
            "containerLogMaxSize": config.container_log_max_size.to_string(),
            "containerLogMaxFiles": config.container_log_max_files,
            "imageGCHighThresholdPercent": config.image_gc_high_threshold,
            "imageGCLowThresholdPercent": config.image_gc_low_threshold,
        } }))
    }
}

pub(super) fn metrics_body(lines: String) -> Response<Body> {
    route::body(StatusCode::OK, "text/plain; version=0.0.4", Bytes::from(lines))
}
