//! `/metrics/resource`: what metrics-server reads.

use std::fmt::Write;

use cri::v1;
use http::Response;
use runtime::cgroup::Cgroup;

use super::Server;
use super::observe::{metrics_body, number};
use super::route::{Body, Refusal};
use crate::names;
use crate::node;

/// Upstream's names, types and help texts, in the order they are shown.
const FAMILIES: [(&str, &str, &str); 8] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes"),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds"),
    ("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds"),
    ("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes"),
    ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds"),
    ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes"),
    (
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    ),
];

/// One value with when it was taken.
struct Sample {
    family: &'static str,
    labels: String,
    value: f64,
    /// Nanoseconds since the Unix epoch.
    at: i64,
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

impl Server {
    pub(super) async fn resource_metrics(&self) -> Result<Response<Body>, Refusal> {
        let mut samples = vec![Sample { family: FAMILIES[7].0, labels: String::new(), value: 0.0, at: 0 }];
        self.of_node(&mut samples);
        for stats in self.stats().await? {
            let metadata = stats.attributes.unwrap_or_default().metadata.unwrap_or_default();
            let pod = format!("namespace={:?},pod={:?}", metadata.namespace, metadata.name);
            let linux = stats.linux.unwrap_or_default();
            usage(
                &mut samples,
                [FAMILIES[5].0, FAMILIES[6].0],
                &pod,
                linux.cpu.as_ref(),
                linux.memory.as_ref(),
            );
            for one in linux.containers {
                let attributes = one.attributes.unwrap_or_default();
                let name = attributes.labels.get(names::CONTAINER_NAME).cloned().unwrap_or_default();
                let labels = format!("container={name:?},{pod}");
                usage(
                    &mut samples,
                    [FAMILIES[0].0, FAMILIES[1].0],
                    &labels,
                    one.cpu.as_ref(),
                    one.memory.as_ref(),
                );
                // One that has gone meanwhile has no start to tell of.
                if let Ok(status) = self.ctx.runtime.container_status(&attributes.id).await {
                    let started = u64::try_from(status.started_at).unwrap_or(0);
                    samples.push(Sample { family: FAMILIES[2].0, labels, value: seconds(started), at: 0 });
                }
            }
        }
        Ok(metrics_body(text(&samples)))
    }

    fn of_node(&self, samples: &mut Vec<Sample>) {
        let used = Cgroup::new("/").usage().map_or(0, |usage| usage.cpu);
        let free = node::memory_available().unwrap_or(0);
        let mut sample = |family, value| samples.push(Sample { family, labels: String::new(), value, at: 0 });
        sample(FAMILIES[3].0, seconds(used));
        sample(FAMILIES[4].0, (self.ctx.memory - free) as f64);
    }
}

fn usage(
    samples: &mut Vec<Sample>,
    families: [&'static str; 2],
    labels: &str,
    cpu: Option<&v1::CpuUsage>,
    memory: Option<&v1::MemoryUsage>,
) {
    let labels = || labels.to_owned();
    if let Some(cpu) = cpu {
        let value = seconds(number(cpu.usage_core_nano_seconds.as_ref()));
        samples.push(Sample { family: families[0], labels: labels(), value, at: cpu.timestamp });
    }
    if let Some(memory) = memory {
        let value = number(memory.working_set_bytes.as_ref()) as f64;
        samples.push(Sample { family: families[1], labels: labels(), value, at: memory.timestamp });
    }
}

fn text(samples: &[Sample]) -> String {
    let mut text = String::new();
    for (family, kind, help) in FAMILIES {
        let mut own = samples.iter().filter(|sample| sample.family == family).peekable();
        if own.peek().is_none() {
            continue;
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {family} [STABLE] {help}\n# TYPE {family} {kind}");
        for Sample { labels, value, at, .. } in own {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let at = if *at == 0 { String::new() } else { format!(" {}", at / 1_000_000) };
            let _ = writeln!(text, "{family}{labels} {value}{at}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn families_have_their_types_and_samples_their_times() {
        let mut samples = Vec::new();
        let cpu = v1::CpuUsage {
            timestamp: 1_700_000_000_123_000_000,
            usage_core_nano_seconds: Some(v1::UInt64Value { value: 1_500_000_000 }),
            ..Default::default()
        };
        usage(&mut samples, [FAMILIES[5].0, FAMILIES[6].0], "namespace=\"a\",pod=\"b\"", Some(&cpu), None);
        samples.push(Sample { family: FAMILIES[7].0, labels: String::new(), value: 0.0, at: 0 });
        expect![[r#"
            # HELP pod_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the pod in core-seconds
            # TYPE pod_cpu_usage_seconds_total counter
            pod_cpu_usage_seconds_total{namespace="a",pod="b"} 1.5 1700000000123
            # HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise
            # TYPE resource_scrape_error gauge
            resource_scrape_error 0
        "#]]
        .assert_eq(&text(&samples));
    }
}
