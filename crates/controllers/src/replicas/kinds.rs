//! The two kinds the core serves.

use api::selector::{Labels, Requirement};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ownership::Owner;

/// A kind that asks for a number of pods like its template.
pub trait Replicated: Owner {
    const NAME: &'static str;

    fn replicas(&self) -> usize;
    fn min_ready_seconds(&self) -> u64;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> Status;
    fn set_status(&mut self, status: Status);
}

/// The status both kinds have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub replicas: usize,
    pub fully_labeled: usize,
    pub ready: usize,
    pub available: usize,
    pub terminating: usize,
    pub observed_generation: Option<i64>,
    pub conditions: Vec<ReplicationControllerCondition>,
}

impl Status {
    /// Tells of a failure, or that there is none any more.
    pub fn with_failure(mut self, fault: Option<(&str, String)>, now: Timestamp) -> Self {
        let at = self.conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
        match (fault, at) {
            (None, Some(at)) => {
                self.conditions.remove(at);
            }
            // The first failure stays until it is over: the next one says mostly the same.
            (Some((reason, message)), None) => self.conditions.push(ReplicationControllerCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            }),
            _ => {}
        }
        self
    }
}

fn count(value: Option<i32>) -> usize {
    usize::try_from(value.unwrap_or_default()).unwrap_or_default()
}

fn number(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn some(value: usize) -> Option<i32> {
    (value > 0).then(|| number(value))
}

impl Owner for ReplicaSet {
    fn selector(&self) -> Labels {
        Labels::from_label_selector(&self.spec.selector)
    }
}

impl Owner for ReplicationController {
    fn selector(&self) -> Labels {
        let pairs = self.spec.iter().flat_map(|spec| spec.selector.iter().flatten());
        Labels(pairs.map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect())
    }
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset";

    fn replicas(&self) -> usize {
        count(self.spec.replicas.or(Some(1)))
    }

    fn min_ready_seconds(&self) -> u64 {
        count(self.spec.min_ready_seconds) as u64
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default().into_iter();
        Status {
            replicas: count(Some(status.replicas)),
            fully_labeled: count(status.fully_labeled_replicas),
            ready: count(status.ready_replicas),
            available: count(status.available_replicas),
            terminating: count(status.terminating_replicas),
            observed_generation: status.observed_generation,
            conditions: conditions
                .map(|c| ReplicationControllerCondition {
                    type_: c.type_.unwrap_or_default(),
                    status: c.status.unwrap_or_default(),
                    reason: c.reason,
                    message: c.message,
                    last_transition_time: c.last_transition_time,
                })
                .collect(),
        }
    }

    fn set_status(&mut self, status: Status) {
        if status == Self::status(self) && self.status.is_some() {
            return;
        }
        let conditions = status.conditions.into_iter().map(|c| ReplicaSetCondition {
            type_: Some(c.type_),
            status: Some(c.status),
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        });
        let conditions: Vec<_> = conditions.collect();
        self.status = Some(ReplicaSetStatus {
            replicas: number(status.replicas),
            fully_labeled_replicas: some(status.fully_labeled),
            ready_replicas: some(status.ready),
            available_replicas: some(status.available),
            terminating_replicas: Some(number(status.terminating)),
            observed_generation: status.observed_generation,
            conditions: Some(conditions).filter(|list| !list.is_empty()),
        });
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replicationcontroller";

    fn replicas(&self) -> usize {
        self.spec.as_ref().map_or(0, |spec| count(spec.replicas.or(Some(1))))
    }

    fn min_ready_seconds(&self) -> u64 {
        self.spec.as_ref().map_or(0, |spec| count(spec.min_ready_seconds)) as u64
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: count(Some(status.replicas)),
            fully_labeled: count(status.fully_labeled_replicas),
            ready: count(status.ready_replicas),
            available: count(status.available_replicas),
            terminating: 0,
            observed_generation: status.observed_generation,
            conditions: status.conditions.unwrap_or_default(),
        }
    }

    fn set_status(&mut self, mut status: Status) {
        status.terminating = 0;
        if status == Self::status(self) && self.status.is_some() {
            return;
        }
        self.status = Some(ReplicationControllerStatus {
            replicas: number(status.replicas),
            fully_labeled_replicas: some(status.fully_labeled),
            ready_replicas: some(status.ready),
            available_replicas: some(status.available),
            observed_generation: status.observed_generation,
            conditions: Some(status.conditions).filter(|list| !list.is_empty()),
        });
    }
}
