//! The objects that every cluster begins with. What is there already is left as it is.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow};
use apiserver::{Health, Hook};
use client::informer::Change;
use client::{Informers, Selection};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::control_plane::Config;

/// Requests under way at once: they share the store's syncs.
const AT_ONCE: usize = 64;

/// What health checks wait for, under upstream's names.
pub struct Hooks {
    namespaces: Hook,
    roles: Hook,
    classes: Hook,
    services: Hook,
}

impl Hooks {
    pub fn new(health: &mut Health) -> Hooks {
        Hooks {
            namespaces: health.hook("start-system-namespaces-controller"),
            roles: health.hook("rbac/bootstrap-roles"),
            classes: health.hook("scheduling/bootstrap-system-priority-classes"),
            services: health.hook("bootstrap-controller"),
        }
    }
}

pub async fn run(client: &Client, config: &Config, hooks: &Hooks) -> anyhow::Result<()> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let namespaces = namespaces.map(|name| typed::<Namespace>(json!({"metadata": {"name": name}})));
    let namespaces: Vec<Namespace> = namespaces.into_iter().collect::<Result<_, _>>()?;
    all(Api::all(client.clone()), namespaces).await?;
    hooks.namespaces.done();
    let policy = auth::bootstrap::policy();
    let system = Api::namespaced(client.clone(), "kube-system");
    let public = Api::namespaced(client.clone(), "kube-public");
    let (mut system_roles, mut public_roles) = (Vec::new(), Vec::new());
    for role in policy.roles {
        let public = role.metadata.namespace.as_deref() == Some("kube-public");
        if public { public_roles.push(role) } else { system_roles.push(role) }
    }
    let (mut system_bindings, mut public_bindings) = (Vec::new(), Vec::new());
    for binding in policy.role_bindings {
        let public = binding.metadata.namespace.as_deref() == Some("kube-public");
        if public { public_bindings.push(binding) } else { system_bindings.push(binding) }
    }
    let public_role_bindings = Api::namespaced(client.clone(), "kube-public");
    let system_role_bindings = Api::namespaced(client.clone(), "kube-system");
    tokio::try_join!(
        all(Api::all(client.clone()), policy.cluster_roles),
        all(Api::all(client.clone()), policy.cluster_role_bindings),
        all(system, system_roles),
        all(public, public_roles),
        all(system_role_bindings, system_bindings),
        all(public_role_bindings, public_bindings),
        all(Api::all(client.clone()), priority_classes()?),
        services(client, config),
    )?;
    for hook in [&hooks.roles, &hooks.classes, &hooks.services] {
        hook.done();
    }
    Ok(())
}

fn typed<K: DeserializeOwned>(value: serde_json::Value) -> anyhow::Result<K> {
    serde_json::from_value(value).context("an object of the bootstrap")
}

fn priority_classes() -> anyhow::Result<Vec<PriorityClass>> {
    let class = |name: &str, value: i64, what: &str| {
        typed(json!({"metadata": {"name": name}, "value": value, "description": what}))
    };
    Ok(vec![
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        )?,
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        )?,
    ])
}

/// Creates what is not there yet.
async fn all<K>(api: Api<K>, objects: Vec<K>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let api = &api;
    let create = |object: K| async move {
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => Err(anyhow!(
                "creating {} {}: {error}",
                K::kind(&()),
                object.meta().name.clone().unwrap_or_default()
            )),
        }
    };
    stream::iter(objects).map(create).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// `kube-dns`, which each node answers itself, and the range that Services have addresses of.
async fn services(client: &Client, config: &Config) -> anyhow::Result<()> {
    let dns = json!({
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns",
            "kubernetes.io/cluster-service": "true",
            "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {"clusterIP": config.dns_ip, "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]},
    });
    let cidr = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [config.service_cidr]}});
    all(Api::<ServiceCIDR>::all(client.clone()), vec![typed(cidr)?]).await?;
    Published::of(config).publish(client).await?;
    all(Api::<Service>::namespaced(client.clone(), "kube-system"), vec![typed(dns)?]).await
}

/// How pods reach the API: the Service `kubernetes` and where it leads.
pub struct Published {
    service: IpAddr,
    server: SocketAddr,
}

impl Published {
    pub fn of(config: &Config) -> Published {
        Published { service: config.kubernetes_ip, server: config.advertise }
    }

    async fn publish(&self, client: &Client) -> anyhow::Result<()> {
        let (ip, port) = (self.server.ip(), self.server.port());
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self.service,
                "ipFamilyPolicy": "SingleStack",
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        });
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
        });
        let slice = json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        all(Api::<Service>::namespaced(client.clone(), "default"), vec![typed(service)?]).await?;
        replace(&Api::<Endpoints>::namespaced(client.clone(), "default"), typed(endpoints)?).await?;
        replace(&Api::<EndpointSlice>::namespaced(client.clone(), "default"), typed(slice)?).await
    }

    /// Publishes again whenever somebody takes it away or changes where it leads.
    pub async fn keep(self, client: Client, stop: CancellationToken) {
        let informers = Informers::new(client.clone(), stop.clone());
        let own = Selection {
            namespace: Some("default".into()),
            fields: Some("metadata.name=kubernetes".into()),
            labels: None,
        };
        let mut services = informers.select::<Service>(own.clone()).subscribe();
        let mut endpoints = informers.select::<Endpoints>(own.clone()).subscribe();
        let mut slices = informers.select::<EndpointSlice>(own).subscribe();
        loop {
            let spoilt = tokio::select! {
                () = stop.cancelled() => return,
                change = services.next() => change.is_deleted(),
                change = endpoints.next() => spoilt(&change, |endpoints| &endpoints.subsets),
                change = slices.next() => spoilt(&change, |slice| &slice.endpoints),
            };
            if spoilt && let Err(error) = self.publish(&client).await {
                tracing::warn!(error = format!("{error:#}"), "the service kubernetes could not be put back");
            }
        }
    }
}

fn spoilt<K, P: PartialEq>(change: &Change<K>, leads_to: impl Fn(&K) -> &P) -> bool {
    match change {
        Change::Added(_) => false,
        Change::Updated { old, new } => leads_to(old) != leads_to(new),
        Change::Deleted(_) => true,
    }
}

/// Creates, or puts in the place of what is there: the host's address may have changed.
async fn replace<K>(api: &Api<K>, object: K) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.replace(&name, &PostParams::default(), &object)
                .await
                .with_context(|| format!("writing {name}"))?;
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("creating {name}")),
    }
}
