//! Ends pods from outside: their status tells first what happens to them, then they are deleted.

use client::{ObjectKey, write};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::context::Error;
use crate::pods;

/// The condition `DisruptionTarget` of a pod that is ended for no fault of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disruption {
    pub reason: &'static str,
    pub message: &'static str,
}

/// How a pod is ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ending {
    pub disruption: Option<Disruption>,
    /// Nobody is there who could tell that it has ended: its phase becomes `Failed`, unless it had ended.
    pub fails: bool,
    /// Seconds; its own grace period unless told.
    pub grace: Option<u32>,
}

impl Ending {
    /// What becomes of the pod's status; empty where nothing does.
    fn status(&self, pod: &Pod, now: Timestamp) -> Map<String, Value> {
        let mut status = Map::new();
        let ended = pods::is_terminal(pod);
        if self.fails && !ended {
            status.insert("phase".into(), "Failed".into());
        }
        if let Some(Disruption { reason, message }) = self.disruption.filter(|_| !(self.fails && ended)) {
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": now,
            });
            status.insert("conditions".into(), json!([condition]));
        }
        status
    }

    /// Ends the pod, unless it is gone or another has its name.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn apply(self, client: &Client, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
        let status = self.status(pod, Timestamp::now());
        if !status.is_empty() {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let patched =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            write::found(patched).map_err(Error::api(format!("status of pod {key}")))?;
        }
        let params = DeleteParams {
            grace_period_seconds: self.grace,
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let deleted = api.delete(&key.name, &params).await;
        write::found(deleted.map(drop)).map(drop).map_err(Error::api(format!("deleting pod {key}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ending: Ending, phase: &str, want: &Value) {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"phase": phase}});
        let now = "2025-01-01T00:00:00Z".parse().unwrap();
        let status = ending.status(&serde_json::from_value(pod).unwrap(), now);
        assert_eq!(Value::from(status), *want, "{ending:?} of a pod that is {phase}");
    }

    #[test]
    fn the_status_tells_what_happens() {
        let disruption = Some(Disruption { reason: "R", message: "M" });
        let told = json!([{"type": "DisruptionTarget", "status": "True", "reason": "R", "message": "M",
            "lastTransitionTime": "2025-01-01T00:00:00Z"}]);
        let lost = Ending { disruption, fails: true, grace: Some(0) };
        check(lost, "Running", &json!({"phase": "Failed", "conditions": told}));
        check(lost, "Succeeded", &json!({}));
        check(Ending { disruption: None, ..lost }, "Pending", &json!({"phase": "Failed"}));
        let evicted = Ending { disruption, ..Ending::default() };
        check(evicted, "Running", &json!({"conditions": told}));
        check(Ending::default(), "Running", &json!({}));
    }
}
