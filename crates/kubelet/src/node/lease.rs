//! The node's lease: the sign of life that the node controller looks for.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease four times in its duration, until the kubelet stops.
pub async fn renew(ctx: Arc<Context>) {
    let api = Api::<Lease>::namespaced(ctx.client.clone(), NAMESPACE);
    let mut ticks = interval(ctx.config.node_lease_duration / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ctx.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = once(&ctx, &api).await {
            tracing::warn!(%error, "cannot renew the node's lease");
        }
    }
}

async fn once(ctx: &Context, api: &Api<Lease>) -> kube::Result<()> {
    let name = &ctx.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({ "spec": { "renewTime": now } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        renewed => return renewed.map(|_| ()),
    }
    // The lease goes with the node; until there is one, it has no owner yet.
    let node = Api::<Node>::all(ctx.client.clone()).get_opt(name).await?;
    let owner = node.and_then(|node| node.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid,
        ..Default::default()
    });
    let seconds = i32::try_from(ctx.config.node_lease_duration.as_secs()).unwrap_or(i32::MAX);
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now),
            ..Default::default()
        }),
    };
    match api.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => made.map(|_| ()),
    }
}
