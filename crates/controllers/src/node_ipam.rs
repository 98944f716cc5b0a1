//! A range of pod addresses for each node, out of the cluster's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::{Context, Error};

struct Controller {
    context: Context,
    cluster: IpNet,
    nodes: Informer<Node>,
    /// Ranges given out and not yet seen on their node.
    given: parking_lot::Mutex<std::collections::HashMap<String, IpNet>>,
}

pub async fn run(context: Context) {
    let Some(cluster) = context.config.cluster_cidr else {
        tracing::info!("no cluster CIDR given, nodes get none");
        return;
    };
    let queue = WorkQueue::default();
    let nodes = context.informers.of::<Node>();
    nodes.enqueue(&queue, |change| change.object().metadata.name.clone());
    nodes.synced().await;
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, cluster, nodes, given: Default::default() });
    // One at a time: a range is chosen among those that are left.
    client::run("nodeipam", queue, Workers(1), controller, cancel).await;
}

fn range(node: &Node) -> Option<IpNet> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

/// The first range of `mask` bits in the cluster's that is not taken.
fn plan(cluster: IpNet, mask: u8, taken: &HashSet<IpNet>) -> Option<IpNet> {
    cluster.subnets(mask).ok()?.find(|range| !taken.contains(range))
}

impl Reconcile for Controller {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, key: &String) -> Result<Option<Duration>, Error> {
        let node = self.nodes.get(&ObjectKey::cluster(key));
        let Some(node) = node.filter(|node| range(node).is_none()) else {
            self.given.lock().remove(key);
            return Ok(None);
        };
        let mut taken: HashSet<IpNet> = self.nodes.list().iter().filter_map(|node| range(node)).collect();
        let chosen = {
            let mut given = self.given.lock();
            taken.extend(given.values());
            let again = given.get(key).copied();
            let chosen = again.or_else(|| plan(self.cluster, self.context.config.node_cidr_mask, &taken));
            let Some(chosen) = chosen else {
                let message = format!("Node {key} status is now: CIDRNotAvailable");
                self.context.recorder.normal(&*node, "CIDRNotAvailable", message);
                return Err(Error::Waiting(format!("no range is left in {} for node {key}", self.cluster)));
            };
            given.insert(key.clone(), chosen);
            chosen
        };
        let api: Api<Node> = Api::all(self.context.client.clone());
        let range = chosen.to_string();
        let patch =
            json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        let patched = api.patch(key, &PatchParams::default(), &Patch::Strategic(patch)).await;
        write::found(patched).map_err(Error::api(format!("podCIDR of node {key}")))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, mask: u8, taken: &[&str]) -> Option<String> {
        let taken = taken.iter().map(|range| range.parse().unwrap()).collect();
        plan(cluster.parse().unwrap(), mask, &taken).map(|range| range.to_string())
    }

    #[test]
    fn the_first_free_range_until_none_is_left() {
        assert_eq!(check("10.244.0.0/16", 24, &[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(
            check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"]).as_deref(),
            Some("10.244.1.0/24")
        );
        assert_eq!(check("10.244.0.0/23", 24, &["10.244.0.0/24", "10.244.1.0/24"]), None);
        assert_eq!(check("fd00::/48", 64, &["fd00::/64"]).as_deref(), Some("fd00:0:0:1::/64"));
    }
}
