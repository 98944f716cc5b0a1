//! What a pod asks for and what a node has.

use std::collections::BTreeMap;

use api::Quantity;
use api::containers::together;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a pod that asks for nothing is counted as when nodes are compared.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts: CPU in thousandths, everything else in whole units (bytes, pieces).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    /// Extended resources and huge pages, by name.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut all = Self::default();
        for (name, text) in list.into_iter().flatten() {
            // The server lets no malformed quantity through.
            let quantity = Quantity::parse(&text.0).unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => all.milli_cpu = quantity.milli(),
                "memory" => all.memory = quantity.value(),
                "ephemeral-storage" => all.ephemeral = quantity.value(),
                "pods" => {}
                _ => drop(all.scalar.insert(name.clone(), quantity.value())),
            }
        }
        all
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a + b);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a - b);
    }

    fn at_least(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// What a container counts for: its requests, and what `floor` says of those it leaves out.
fn request(container: &Container, floor: bool) -> Resources {
    let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut all = Resources::of(list);
    let asks = |name: &str| list.is_some_and(|list| list.contains_key(name));
    if floor && !asks("cpu") {
        all.milli_cpu = DEFAULT_MILLI_CPU;
    }
    if floor && !asks("memory") {
        all.memory = DEFAULT_MEMORY;
    }
    all
}

/// What a pod asks for: the sum of its containers and sidecars, or what its init containers need on
/// their way if that is more, and its overhead. With `floor` as nodes are compared, without as they
/// are filtered.
pub fn pod_request(spec: &PodSpec, floor: bool) -> Resources {
    let sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let inits = spec.init_containers.iter().flatten();
    let mut total = together(
        spec.containers.iter().map(|container| request(container, floor)),
        inits.map(|container| (sidecar(container), request(container, floor))),
        Resources::add,
        Resources::at_least,
    );
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        // Requests of the pod as a whole stand for those of its containers.
        let level = Resources::of(Some(whole));
        if whole.contains_key("cpu") {
            total.milli_cpu = level.milli_cpu;
        }
        if whole.contains_key("memory") {
            total.memory = level.memory;
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, floor: bool) -> (i64, i64) {
        let total = pod_request(&serde_json::from_value(spec).unwrap(), floor);
        (total.milli_cpu, total.memory)
    }

    fn container(cpu: &str, restart: Option<&str>) -> Value {
        json!({"name": "c", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_stay() {
        let plain = json!({"containers": [container("100m", None), container("1", None)], "overhead": {"cpu": "10m"}});
        assert_eq!(check(plain, false), (1110, 0));
        let init = json!({"containers": [container("100m", None)],
            "initContainers": [container("200m", Some("Always")), container("500m", None)]});
        assert_eq!(check(init.clone(), false), (700, 0));
        assert_eq!(check(init, true).0, 700);
        assert_eq!(check(json!({"containers": [{"name": "c"}]}), true), (100, 200 * 1024 * 1024));
    }
}
