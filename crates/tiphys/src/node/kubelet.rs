//! The kubelet's settings out of the node's, and whom its HTTPS server lets in.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::Config;
use crate::tls;

pub fn config(config: &Config, client: &kube::Client) -> anyhow::Result<kubelet::Config> {
    let mut kubelet = kubelet::Config::new(config.node_name.clone(), vec![config.node_ip]);
    kubelet.root_dir = config.paths.kubelet();
    kubelet.pod_logs_dir = config.paths.logs();
    kubelet.pod_manifest_path.clone_from(&config.manifests);
    kubelet.cluster_domain.clone_from(&config.domain);
    kubelet.cgroup_root = format!("/tiphys-{}", config.id);
    let cluster = dns::resolv::Cluster { dns: vec![config.dns_ip], domain: config.domain.clone() };
    let host = host_resolv();
    kubelet.pod_dns = Some(Arc::new(move |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let (found, warnings) = dns::resolv::pod_config(&spec, &namespace, &cluster, &host);
        for warning in warnings {
            tracing::warn!(pod = pod.metadata.name, "{warning}");
        }
        Ok(cri::v1::DnsConfig {
            servers: found.nameservers.iter().map(ToString::to_string).collect(),
            searches: found.searches,
            options: found.options,
        })
    }));
    kubelet.server = Some(kubelet::Server {
        address: SocketAddr::new(config.node_ip, config.kubelet_port),
        certificate: tls::resolver(&config.serving.certificate, &config.serving.key)?,
        client_ca: Arc::new(tls::roots(&config.serving.client_ca)?),
        authorizer: Arc::new(Delegated { client: client.clone(), node: config.node_name.clone() }),
    });
    Ok(kubelet)
}

/// The host's resolvers; none where the file is not there.
pub fn host_resolv() -> dns::resolv::Config {
    match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => dns::resolv::Config::parse(&text),
        Err(error) => {
            tracing::warn!(%error, "/etc/resolv.conf cannot be read; names outside the cluster are not found");
            dns::resolv::Config::default()
        }
    }
}

/// The kubelet asks the API server who a caller is and what he may do.
struct Delegated {
    client: kube::Client,
    node: String,
}

#[async_trait]
impl kubelet::Authorizer for Delegated {
    async fn authenticate(&self, token: &str) -> Option<kubelet::User> {
        let review: TokenReview =
            serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}})).ok()?;
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let status = match answer {
            Ok(review) => review.status?,
            Err(error) => {
                tracing::warn!(%error, "a caller's token could not be reviewed");
                return None;
            }
        };
        let user = status.user.filter(|_| status.authenticated == Some(true))?;
        Some(kubelet::User { name: user.username?, groups: user.groups.unwrap_or_default() })
    }

    async fn authorize(&self, user: &kubelet::User, verb: &str, subresource: &str) -> bool {
        let review = json!({"metadata": {}, "spec": {
            "user": user.name,
            "groups": user.groups,
            "resourceAttributes": {
                "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node,
            },
        }});
        let Ok(review) = serde_json::from_value::<SubjectAccessReview>(review) else { return false };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(review) => review.status.is_some_and(|s| s.allowed),
            Err(error) => {
                tracing::warn!(%error, "a caller's rights could not be reviewed");
                false
            }
        }
    }
}
