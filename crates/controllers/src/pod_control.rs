//! Makes and deletes the pods of an owner, notes what to expect and tells of it in events.

use std::sync::Arc;

use client::{Expectations, ObjectKey, Recorder, write};
use futures::future::{join, join_all};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};

use crate::context::Context;
use crate::ownership::Owner;

/// The most pods made or deleted in one go.
pub const BURST: usize = 500;

/// Why pods were not made or deleted.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How many were made all the same.
    pub made: usize,
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// What the server said.
    pub message: String,
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[derive(Clone)]
pub struct PodControl {
    client: Client,
    recorder: Recorder,
    pub expectations: Arc<Expectations>,
}

impl PodControl {
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            expectations: Arc::default(),
        }
    }

    /// Makes and deletes pods of the owner `key`, at most [`BURST`] of each, and expects to see it.
    pub async fn apply<O: Owner>(
        &self,
        key: &ObjectKey,
        owner: &O,
        create: &[Pod],
        delete: &[Arc<Pod>],
    ) -> Result<(), Failure> {
        let create = &create[..create.len().min(BURST)];
        let delete = &delete[..delete.len().min(BURST)];
        if create.is_empty() && delete.is_empty() {
            return Ok(());
        }
        let uids = delete.iter().filter_map(|pod| pod.metadata.uid.clone());
        self.expectations.expect(key, create.len(), uids);
        let (made, deleted) = join(self.create(key, owner, create), self.delete(key, owner, delete)).await;
        made?;
        deleted.map_err(|failure| Failure { made: create.len(), ..failure })
    }

    /// One, then two, then four at a time, so that what is refused is refused few times.
    async fn create<O: Owner>(&self, key: &ObjectKey, owner: &O, pods: &[Pod]) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let (mut left, mut batch, mut made) = (pods, 1, 0);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let params = PostParams::default();
            let results = join_all(now.iter().map(|pod| api.create(&params, pod))).await;
            left = later;
            batch *= 2;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(pod) => {
                        made += 1;
                        let name = pod.metadata.name.unwrap_or_default();
                        let message = format!("Created pod: {name}");
                        self.recorder.normal(owner, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        self.expectations.creation_observed(key);
                        if !write::namespace_terminating(&error) {
                            let message = format!("Error creating: {}", said(&error));
                            self.recorder.warning(owner, "FailedCreate", message);
                            failure = Some(said(&error));
                        }
                    }
                }
            }
            if let Some(message) = failure {
                self.expectations.creations_observed(key, left.len());
                return Err(Failure { made, reason: "FailedCreate", message });
            }
        }
        Ok(())
    }

    async fn delete<O: Owner>(&self, key: &ObjectKey, owner: &O, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let deletions = pods.iter().map(|pod| async move { (pod, self.delete_one(owner, pod).await) });
        let mut failure = Ok(());
        for (pod, result) in join_all(deletions).await {
            let Err(error) = result else { continue };
            self.expectations.deletion_observed(key, pod.metadata.uid.as_deref().unwrap_or_default());
            if !write::is_not_found(&error) {
                failure = Err(Failure { made: 0, reason: "FailedDelete", message: said(&error) });
            }
        }
        failure
    }

    /// Deletes one pod, without expecting to see it, and tells of it.
    pub async fn delete_one<O: Owner>(&self, owner: &O, pod: &Pod) -> kube::Result<()> {
        let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => {
                self.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                if !write::is_not_found(&error) {
                    let message = format!("Error deleting: {}", said(&error));
                    self.recorder.warning(owner, "FailedDelete", message);
                }
                Err(error)
            }
        }
    }
}

/// A pod as a template describes it.
pub fn pod_from(template: Option<&PodTemplateSpec>, owner: OwnerReference, owner_name: &str) -> Pod {
    let meta = template.and_then(|template| template.metadata.as_ref());
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            labels: meta.and_then(|meta| meta.labels.clone()),
            annotations: meta.and_then(|meta| meta.annotations.clone()),
            finalizers: meta.and_then(|meta| meta.finalizers.clone()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.and_then(|template| template.spec.clone()),
        status: None,
    }
}
