//! When the change happened that endpoints are written for: upstream's measure of how long they take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;

use crate::pods;

pub(super) const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What was seen of each service.
#[derive(Debug, Default)]
pub(super) struct Triggers(Mutex<HashMap<ObjectKey, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    /// By pod: since when its readiness is what it is.
    pods: HashMap<String, Timestamp>,
}

impl Triggers {
    /// The earliest change since the last call: the service's making, or a pod's readiness turning.
    pub fn earliest(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let made = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let turned = pods.iter().filter_map(|pod| {
            let since = pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
            Some((pod.metadata.name.clone().unwrap_or_default(), since))
        });
        let now = Seen { service: made, pods: turned.collect() };
        let before = self.0.lock().remove(key).unwrap_or_default();
        let newer = now.pods.iter().filter(|(pod, since)| before.pods.get(*pod) < Some(*since));
        let newer = newer.map(|(_, since)| *since).chain(made.filter(|made| before.service < Some(*made)));
        let earliest = newer.min();
        self.0.lock().insert(key.clone(), now);
        earliest
    }

    pub fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}

/// Notes the time among an object's annotations, or that none is known.
pub(super) fn note(annotations: &mut Option<BTreeMap<String, String>>, time: Option<Timestamp>) {
    match (time, annotations.as_mut()) {
        (Some(time), _) => {
            annotations.get_or_insert_default().insert(ANNOTATION.into(), time.to_string());
        }
        (None, Some(all)) => {
            all.remove(ANNOTATION);
        }
        (None, None) => {}
    }
    if annotations.as_ref().is_some_and(BTreeMap::is_empty) {
        *annotations = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, turned: Option<&str>) -> Arc<Pod> {
        let value = json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": turned}]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_earliest_change_is_told_once() {
        let triggers = Triggers::default();
        let key = ObjectKey::new("ns", "web");
        let service = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:03Z"}});
        let service: Service = serde_json::from_value(service).unwrap();
        let told = |pods: &[Arc<Pod>]| triggers.earliest(&key, &service, pods).map(|t| t.to_string());
        let (early, late) = ("2026-01-01T00:00:02Z", "2026-01-01T00:00:09Z");
        assert_eq!(told(&[pod("a", Some(early)), pod("b", None)]).as_deref(), Some(early));
        assert_eq!(told(&[pod("a", Some(early))]), None);
        assert_eq!(told(&[pod("a", Some(late))]).as_deref(), Some(late));
        triggers.forget(&key);
        assert_eq!(told(&[]).as_deref(), Some("2026-01-01T00:00:03Z"));
    }

    #[test]
    fn a_time_not_known_takes_the_note_away() {
        let mut annotations = None;
        note(&mut annotations, "2026-01-01T00:00:02Z".parse().ok());
        assert_eq!(annotations.as_ref().unwrap()[ANNOTATION], "2026-01-01T00:00:02Z");
        note(&mut annotations, None);
        assert_eq!(annotations, None);
    }
}
