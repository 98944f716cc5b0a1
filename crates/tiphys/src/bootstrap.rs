//! The objects that every cluster begins with. What is there already is left as it is, but for the default
//! policy: what a version adds to it comes with the first start of that version.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow, bail};
use apiserver::{Health, Hook};
use auth::rbac::escalation::lacking;
use client::informer::Change;
use client::{Informers, Selection};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::control_plane::Config;

/// Requests under way at once: they share the store's syncs.
const AT_ONCE: usize = 64;
/// Tries to complete an object that others write too.
const TRIES: usize = 8;
/// The label of the default policy's objects.
const DEFAULTS: &str = "kubernetes.io/bootstrapping=rbac-defaults";
/// Set to `false`, it keeps a role or binding from being completed.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

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
    // Much at once makes a large future.
    let made = async {
        tokio::try_join!(
            complete(Api::all(client.clone()), policy.cluster_roles),
            complete(Api::all(client.clone()), policy.cluster_role_bindings),
            complete(system, system_roles),
            complete(public, public_roles),
            complete(system_role_bindings, system_bindings),
            complete(public_role_bindings, public_bindings),
            all(Api::all(client.clone()), priority_classes()?),
            services(client, config),
        )
    };
    Box::pin(made).await?;
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

/// An object of the default policy.
trait Policy:
    Resource<DynamicType = ()> + Clone + PartialEq + Serialize + DeserializeOwned + std::fmt::Debug
{
    /// Adds the rights that `wanted` has and this lacks, and takes nothing away.
    fn add(&mut self, wanted: &Self);

    /// What this is once it has all that `wanted` has; `None` where it has it already, or is not to be
    /// touched (upstream's `component-helpers/auth/rbac/reconciliation`).
    fn completed(&self, wanted: &Self) -> Option<Self> {
        let annotations = self.meta().annotations.as_ref();
        if annotations.and_then(|annotations| annotations.get(AUTOUPDATE)).is_some_and(|is| is == "false") {
            return None;
        }
        let mut done = self.clone();
        let (to, from) = (done.meta_mut(), wanted.meta());
        add_absent(&mut to.labels, from.labels.as_ref());
        add_absent(&mut to.annotations, from.annotations.as_ref());
        done.add(wanted);
        (done != *self).then_some(done)
    }
}

fn add_absent(to: &mut Option<BTreeMap<String, String>>, from: Option<&BTreeMap<String, String>>) {
    for (key, value) in from.into_iter().flatten() {
        to.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn add_rules(to: &mut Option<Vec<PolicyRule>>, wanted: Option<&Vec<PolicyRule>>) {
    let missing = lacking(to.as_deref().unwrap_or_default(), wanted.map_or(&[], Vec::as_slice));
    if !missing.is_empty() {
        to.get_or_insert_default().extend(missing);
    }
}

fn add_new<T: Clone + PartialEq>(to: &mut Option<Vec<T>>, wanted: Option<&Vec<T>>) {
    for one in wanted.into_iter().flatten() {
        if !to.iter().flatten().any(|standing| standing == one) {
            to.get_or_insert_default().push(one.clone());
        }
    }
}

impl Policy for ClusterRole {
    fn add(&mut self, wanted: &Self) {
        // The rules of a role that aggregates are its controller's.
        match &wanted.aggregation_rule {
            Some(rule) => {
                let selectors = &mut self.aggregation_rule.get_or_insert_default().cluster_role_selectors;
                add_new(selectors, rule.cluster_role_selectors.as_ref());
            }
            None if self.aggregation_rule.is_none() => add_rules(&mut self.rules, wanted.rules.as_ref()),
            None => {}
        }
    }
}

impl Policy for Role {
    fn add(&mut self, wanted: &Self) {
        add_rules(&mut self.rules, wanted.rules.as_ref());
    }
}

impl Policy for ClusterRoleBinding {
    fn add(&mut self, wanted: &Self) {
        // One that leads to another role was made so: its subjects are not the default's to name.
        if self.role_ref == wanted.role_ref {
            add_new(&mut self.subjects, wanted.subjects.as_ref());
        }
    }
}

impl Policy for RoleBinding {
    fn add(&mut self, wanted: &Self) {
        if self.role_ref == wanted.role_ref {
            add_new(&mut self.subjects, wanted.subjects.as_ref());
        }
    }
}

/// Creates what is not there yet and completes what is. What stands is read at once, from the
/// cache; nothing is written where nothing is missing.
async fn complete<K: Policy>(api: Api<K>, objects: Vec<K>) -> anyhow::Result<()> {
    let listed = api.list(&ListParams::default().labels(DEFAULTS).match_any()).await;
    let listed = listed.with_context(|| format!("reading every default {}", K::kind(&())))?;
    let name = |object: &K| object.meta().name.clone().unwrap_or_default();
    let mut standing: HashMap<String, K> = listed.items.into_iter().map(|k| (name(&k), k)).collect();
    let api = &api;
    let pairs: Vec<_> = objects.into_iter().map(|k| (standing.remove(&name(&k)), k)).collect();
    let work = |(standing, wanted): (Option<K>, K)| async move {
        let name = wanted.meta().name.clone().unwrap_or_default();
        let done = complete_one(api, &name, standing, &wanted).await;
        done.with_context(|| format!("completing {} {name}", K::kind(&())))
    };
    stream::iter(pairs).map(work).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

async fn complete_one<K: Policy>(
    api: &Api<K>,
    name: &str,
    mut standing: Option<K>,
    wanted: &K,
) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        let written = match &standing {
            None => api.create(&PostParams::default(), wanted).await,
            Some(standing) => match standing.completed(wanted) {
                None => return Ok(()),
                Some(done) => api.replace(name, &PostParams::default(), &done).await,
            },
        };
        match written {
            Ok(_) => return Ok(()),
            // Somebody else was faster: a server beside this one, or who has taken the label off.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                standing = api.get_opt(name).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("others wrote it {TRIES} times meanwhile")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn from<K: DeserializeOwned>(value: serde_json::Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_role_is_given_the_rules_that_it_lacks() {
        let rule = |resources: &[&str], verbs: &[&str]| json!({"apiGroups": [""], "resources": resources, "verbs": verbs});
        let role = |annotations: serde_json::Value, rules: Vec<serde_json::Value>| -> ClusterRole {
            from(json!({"metadata": {"name": "r", "annotations": annotations}, "rules": rules}))
        };
        let wanted = role(
            json!({AUTOUPDATE: "true"}),
            vec![rule(&["pods"], &["get", "list"]), rule(&["nodes"], &["get"])],
        );
        let mine = rule(&["secrets"], &["*"]);
        let poorer = role(json!({"mine": "yes"}), vec![mine.clone(), rule(&["pods"], &["get"])]);
        let done = poorer.completed(&wanted).unwrap();
        let rules =
            vec![mine, rule(&["pods"], &["get"]), rule(&["pods"], &["list"]), rule(&["nodes"], &["get"])];
        assert_eq!(done, role(json!({AUTOUPDATE: "true", "mine": "yes"}), rules));
        assert_eq!(done.completed(&wanted), None);
        let richer = role(json!({AUTOUPDATE: "true"}), vec![rule(&["*"], &["*"])]);
        assert_eq!(richer.completed(&wanted), None);
        assert_eq!(role(json!({AUTOUPDATE: "false"}), Vec::new()).completed(&wanted), None);
    }

    #[test]
    fn an_aggregated_role_is_given_its_selectors_and_no_rules() {
        let role = |labels: &[&str], rules: serde_json::Value| -> ClusterRole {
            let selectors: Vec<_> = labels.iter().map(|l| json!({"matchLabels": {*l: "true"}})).collect();
            from(
                json!({"metadata": {}, "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": rules}),
            )
        };
        let gathered = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let wanted = role(&["a"], json!(null));
        let done = role(&["b"], gathered.clone()).completed(&wanted);
        assert_eq!(done, Some(role(&["b", "a"], gathered)));
        assert_eq!(done.unwrap().completed(&wanted), None);
    }

    #[test]
    fn a_binding_is_given_the_subjects_that_it_lacks() {
        let binding = |role: &str, users: &[&str]| -> RoleBinding {
            let user =
                |name: &&str| json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
            from(json!({"metadata": {}, "subjects": users.iter().map(user).collect::<Vec<_>>(),
                "roleRef": {"kind": "Role", "name": role, "apiGroup": "rbac.authorization.k8s.io"}}))
        };
        let wanted = binding("r", &["a", "b"]);
        assert_eq!(binding("r", &["c", "b"]).completed(&wanted), Some(binding("r", &["c", "b", "a"])));
        assert_eq!(binding("r", &["b", "a"]).completed(&wanted), None);
        assert_eq!(binding("other", &[]).completed(&wanted), None);
    }

    #[test]
    fn the_default_policy_completes_itself_to_nothing() {
        let policy = auth::bootstrap::policy();
        assert!(policy.cluster_roles.iter().all(|k| k.completed(k).is_none()));
        assert!(policy.cluster_role_bindings.iter().all(|k| k.completed(k).is_none()));
        assert!(policy.roles.iter().all(|k| k.completed(k).is_none()));
        assert!(policy.role_bindings.iter().all(|k| k.completed(k).is_none()));
    }
}
