//! The node authoriser: a kubelet may read only what the pods bound to its node need, and write only
//! what is its own. Upstream's `plugin/pkg/auth/authorizer/node`, as counted references instead of a
//! graph: every read is two look-ups.
//!
//! Worked example: pod `d/p` on node `n1` mounts secret `s` and claim `c`, which is bound to volume
//! `v`. References: `(secret, d, s) -> n1`, `(claim, d, c) -> n1`; volume `v -> (d, c)`. So `n1` may get
//! secret `d/s`, claim `d/c` and volume `v`; `n2` may not.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use api::Object;
use serde_json::Value;

use crate::authorize::{Attributes, Authorizer, Verdict};
use crate::bootstrap;
use crate::rbac::Rules;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What a pod needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Need {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

type Name = (String, String);
type Target = (Need, String, String);

#[derive(Debug, Default)]
struct Graph {
    pods: HashMap<Name, Bound>,
    /// How many pods of each node need a thing.
    needed: HashMap<Target, HashMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    /// The volumes that need a secret.
    volume_secrets: HashMap<Name, HashSet<String>>,
    attachments: HashMap<String, String>,
}

#[derive(Debug)]
struct Bound {
    node: String,
    needs: Vec<Target>,
}

#[derive(Debug)]
struct Volume {
    claim: Name,
    secrets: Vec<Name>,
}

/// Fed with pods, persistent volumes and volume attachments as they come and go.
#[derive(Debug)]
pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    /// The rules of `system:node`, for what is not judged by relation.
    rules: Rules,
}

impl Default for NodeAuthorizer {
    fn default() -> NodeAuthorizer {
        let roles = bootstrap::policy().cluster_roles;
        let role = roles.into_iter().find(|role| role.metadata.name.as_deref() == Some("system:node"));
        let rules = Rules::new(role.and_then(|role| role.rules).unwrap_or_default());
        NodeAuthorizer { graph: RwLock::default(), rules }
    }
}

impl NodeAuthorizer {
    fn write(&self, change: impl FnOnce(&mut Graph)) {
        change(&mut self.graph.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn read<T>(&self, look: impl FnOnce(&Graph) -> T) -> T {
        look(&self.graph.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn put_pod(&self, pod: &Object) {
        let name = (pod.namespace().to_owned(), pod.name().to_owned());
        let node = pod.get_str(&["spec", "nodeName"]).to_owned();
        let needs = if pod.annotation(MIRROR_ANNOTATION).is_some() { Vec::new() } else { needs(pod) };
        self.write(|graph| {
            graph.remove_pod(&name);
            if !node.is_empty() {
                graph.put_pod(name, Bound { node, needs });
            }
        });
    }

    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.write(|graph| graph.remove_pod(&(namespace.to_owned(), name.to_owned())));
    }

    pub fn put_persistent_volume(&self, volume: &Object) {
        let claim = (
            volume.get_str(&["spec", "claimRef", "namespace"]).to_owned(),
            volume.get_str(&["spec", "claimRef", "name"]).to_owned(),
        );
        let mut secrets = Vec::new();
        if let Some(spec) = volume.get(&["spec"]) {
            secret_references(spec, &claim.0, &mut secrets);
        }
        self.write(|graph| {
            graph.remove_volume(volume.name());
            for secret in &secrets {
                graph.volume_secrets.entry(secret.clone()).or_default().insert(volume.name().to_owned());
            }
            graph.volumes.insert(volume.name().to_owned(), Volume { claim, secrets });
        });
    }

    pub fn remove_persistent_volume(&self, name: &str) {
        self.write(|graph| graph.remove_volume(name));
    }

    pub fn put_volume_attachment(&self, attachment: &Object) {
        let node = attachment.get_str(&["spec", "nodeName"]).to_owned();
        self.write(|graph| drop(graph.attachments.insert(attachment.name().to_owned(), node)));
    }

    pub fn remove_volume_attachment(&self, name: &str) {
        self.write(|graph| drop(graph.attachments.remove(name)));
    }

    /// Takes out the pods whose namespace and name are not to be kept: the state is told anew.
    pub fn retain_pods(&self, keep: impl Fn(&str, &str) -> bool) {
        self.write(|graph| {
            let gone: Vec<Name> = graph.pods.keys().filter(|(n, k)| !keep(n, k)).cloned().collect();
            gone.iter().for_each(|name| graph.remove_pod(name));
        });
    }

    /// Takes out the persistent volumes whose name is not to be kept.
    pub fn retain_persistent_volumes(&self, keep: impl Fn(&str) -> bool) {
        self.write(|graph| {
            let gone: Vec<String> = graph.volumes.keys().filter(|name| !keep(name)).cloned().collect();
            gone.iter().for_each(|name| graph.remove_volume(name));
        });
    }

    /// Takes out the volume attachments whose name is not to be kept.
    pub fn retain_volume_attachments(&self, keep: impl Fn(&str) -> bool) {
        self.write(|graph| graph.attachments.retain(|name, _| keep(name)));
    }
}

impl Graph {
    fn put_pod(&mut self, name: Name, bound: Bound) {
        for need in &bound.needs {
            *self.needed.entry(need.clone()).or_default().entry(bound.node.clone()).or_default() += 1;
        }
        self.pods.insert(name, bound);
    }

    fn remove_pod(&mut self, name: &Name) {
        let Some(bound) = self.pods.remove(name) else { return };
        for need in bound.needs {
            let Some(nodes) = self.needed.get_mut(&need) else { continue };
            if let Some(count) = nodes.get_mut(&bound.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&bound.node);
                }
            }
            if nodes.is_empty() {
                self.needed.remove(&need);
            }
        }
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            if let Some(volumes) = self.volume_secrets.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.volume_secrets.remove(&secret);
                }
            }
        }
    }

    fn needs(&self, node: &str, need: Need, namespace: &str, name: &str) -> bool {
        let nodes = self.needed.get(&(need, namespace.to_owned(), name.to_owned()));
        nodes.is_some_and(|nodes| nodes.contains_key(node))
    }

    fn needs_volume(&self, node: &str, name: &str) -> bool {
        self.volumes.get(name).is_some_and(|v| self.needs(node, Need::Claim, &v.claim.0, &v.claim.1))
    }

    fn needs_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.needs(node, Need::Secret, namespace, name)
            || self
                .volume_secrets
                .get(&(namespace.to_owned(), name.to_owned()))
                .is_some_and(|volumes| volumes.iter().any(|v| self.needs_volume(node, v)))
    }
}

/// Everything that a pod's spec refers to in its own namespace.
fn needs(pod: &Object) -> Vec<Target> {
    let mut found = HashSet::new();
    for part in ["containers", "initContainers", "ephemeralContainers", "volumes"] {
        if let Some(value) = pod.get(&["spec", part]) {
            references(value, &mut found);
        }
    }
    let items = |path: &[&str]| pod.get(path).and_then(Value::as_array).into_iter().flatten();
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    found.extend(items(&["spec", "imagePullSecrets"]).filter_map(|i| Some((Need::Secret, text(i, "name")?))));
    for volume in items(&["spec", "volumes"]).filter(|v| v.get("ephemeral").is_some()) {
        found.extend(text(volume, "name").map(|v| (Need::Claim, format!("{}-{v}", pod.name()))));
    }
    for claim in items(&["spec", "resourceClaims"]).chain(items(&["status", "resourceClaimStatuses"])) {
        found.extend(text(claim, "resourceClaimName").map(|name| (Need::ResourceClaim, name)));
    }
    let account = pod.get_str(&["spec", "serviceAccountName"]);
    if !account.is_empty() {
        found.insert((Need::ServiceAccount, account.to_owned()));
    }
    found.into_iter().map(|(need, name)| (need, pod.namespace().to_owned(), name)).collect()
}

/// What a pod refers to that a node must not give its own pods a right to, in upstream's words.
pub fn referenced(pod: &Object) -> Vec<&'static str> {
    let needs: HashSet<Need> = needs(pod).into_iter().map(|(need, ..)| need).collect();
    let volumes = || pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let bundles = |volume: &Value| {
        let sources = volume["projected"]["sources"].as_array();
        sources.into_iter().flatten().any(|source| source.get("clusterTrustBundle").is_some())
    };
    let claims = |volume: &Value| volume.get("persistentVolumeClaim").is_some();
    [
        ("a service account", needs.contains(&Need::ServiceAccount)),
        ("secrets", needs.contains(&Need::Secret)),
        ("configmaps", needs.contains(&Need::ConfigMap)),
        ("clustertrustbundles", volumes().any(bundles)),
        ("persistentvolumeclaims", volumes().any(claims)),
    ]
    .into_iter()
    .filter_map(|(what, is)| is.then_some(what))
    .collect()
}

/// Finds references by the names that the API gives them, wherever they stand.
fn references(value: &Value, found: &mut HashSet<(Need, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(map) => {
            for (key, value) in map {
                let name = match key.as_str() {
                    "secretName" => value.as_str().map(|n| (Need::Secret, n)),
                    "claimName" => value.as_str().map(|n| (Need::Claim, n)),
                    "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                        value["name"].as_str().map(|n| (Need::Secret, n))
                    }
                    "configMap" | "configMapRef" | "configMapKeyRef" => {
                        value["name"].as_str().map(|n| (Need::ConfigMap, n))
                    }
                    _ => None,
                };
                found.extend(name.map(|(need, name)| (need, name.to_owned())));
                references(value, found);
            }
        }
        _ => {}
    }
}

/// The secrets of a volume's driver: `…SecretRef: {name, namespace}`, in the claim's namespace where
/// none is given.
fn secret_references(value: &Value, namespace: &str, found: &mut Vec<Name>) {
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        let place = |field: &str| value[field].as_str().filter(|n| !n.is_empty()).unwrap_or(namespace);
        if key.ends_with("ecretRef") && value["name"].is_string() {
            found.push((place("namespace").to_owned(), place("name").to_owned()));
        } else if let ("azureFile", Some(name)) = (key.as_str(), value["secretName"].as_str()) {
            found.push((place("secretNamespace").to_owned(), name.to_owned()));
        }
        secret_references(value, namespace, found);
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, asked: &Attributes) -> Verdict {
        let Some(node) = asked.user.node() else { return Verdict::no_opinion("") };
        if node.is_empty() {
            return Verdict::no_opinion(format!(
                "unknown node for user {}",
                api::field::quote(&asked.user.name)
            ));
        }
        let by_rules = || if self.rules.allow(asked) { Verdict::allow("") } else { Verdict::no_opinion("") };
        if !asked.is_resource {
            return by_rules();
        }
        let judged = match (asked.group, asked.resource) {
            ("", "secrets") => read_only(asked).and_then(|()| self.related(asked, node)),
            ("", "configmaps") => read_only(asked).and_then(|()| self.related(asked, node)),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => match asked.verb {
                "update" | "patch" => self.related(asked, node),
                _ => Err("can only get/update/patch this type".into()),
            },
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => {
                get_only(asked).and_then(|()| self.related(asked, node))
            }
            ("", "serviceaccounts") => token_only(asked).and_then(|()| self.related(asked, node)),
            ("coordination.k8s.io", "leases") => own_lease(asked, node),
            ("storage.k8s.io", "csinodes") => own_csi_node(asked, node),
            ("", "nodes") => return own_node(asked, node).map_or_else(Verdict::no_opinion, |()| by_rules()),
            ("", "pods") => {
                return self.own_pods(asked, node).map_or_else(Verdict::no_opinion, |()| by_rules());
            }
            _ => return by_rules(),
        };
        judged.map_or_else(Verdict::no_opinion, |()| Verdict::allow(""))
    }
}

impl NodeAuthorizer {
    fn related(&self, asked: &Attributes, node: &str) -> Result<(), String> {
        let (namespace, name) = (asked.namespace, asked.name);
        if name.is_empty() {
            return Err("No Object name found".into());
        }
        let related = self.read(|graph| match asked.resource {
            "secrets" => graph.needs_secret(node, namespace, name),
            "configmaps" => graph.needs(node, Need::ConfigMap, namespace, name),
            "persistentvolumeclaims" => graph.needs(node, Need::Claim, namespace, name),
            "resourceclaims" => graph.needs(node, Need::ResourceClaim, namespace, name),
            "serviceaccounts" => graph.needs(node, Need::ServiceAccount, namespace, name),
            "persistentvolumes" => graph.needs_volume(node, name),
            "volumeattachments" => graph.attachments.get(name).is_some_and(|n| n == node),
            "pods" => {
                graph.pods.get(&(namespace.to_owned(), name.to_owned())).is_some_and(|b| b.node == node)
            }
            _ => false,
        });
        let refusal = || format!("no relationship found between node '{node}' and this object");
        if related { Ok(()) } else { Err(refusal()) }
    }

    fn own_pods(&self, asked: &Attributes, node: &str) -> Result<(), String> {
        match asked.verb {
            "get" => self.related(asked, node),
            "list" | "watch" if !asked.fields.contains(&("spec.nodeName", node)) => {
                Err("can only list/watch pods with spec.nodeName field selector".into())
            }
            _ => Ok(()),
        }
    }
}

fn read_only(asked: &Attributes) -> Result<(), String> {
    match (asked.verb, asked.subresource, asked.namespace) {
        ("get" | "list" | "watch", "", "") => Err("can only read namespaced object of this type".into()),
        ("get" | "list" | "watch", "", _) => Ok(()),
        ("get" | "list" | "watch", ..) => Err("cannot read subresource".into()),
        _ => Err("can only read resources of this type".into()),
    }
}

fn get_only(asked: &Attributes) -> Result<(), String> {
    match (asked.verb, asked.subresource) {
        ("get", "") => Ok(()),
        ("get", _) => Err("cannot get subresource".into()),
        _ => Err("can only get individual resources of this type".into()),
    }
}

fn token_only(asked: &Attributes) -> Result<(), String> {
    match (asked.verb, asked.subresource, asked.name) {
        ("create", _, "") => Err("can only create tokens for individual service accounts".into()),
        ("create", "token", _) => Ok(()),
        ("create", ..) => Err("can only create token subresource of service account".into()),
        _ => Err("can only create tokens for individual service accounts".into()),
    }
}

fn own_lease(asked: &Attributes, node: &str) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if asked.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_csi_node(asked: &Attributes, node: &str) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_node(asked: &Attributes, node: &str) -> Result<(), String> {
    match asked.verb {
        "get" if asked.name != node => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        "list" | "watch" if asked.name != node => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::user::User;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(map) => Object(map),
            other => panic!("{other}"),
        }
    }

    fn authorizer() -> NodeAuthorizer {
        let authorizer = NodeAuthorizer::default();
        authorizer.put_pod(&object(json!({
            "metadata": {"name": "p", "namespace": "d"},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"envFrom": [{"secretRef": {"name": "env"}}],
                    "env": [{"valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "vol"}}, {"name": "e", "ephemeral": {}},
                    {"name": "w", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "x", "projected": {"sources": [{"secret": {"name": "proj"}}]}}]},
        })));
        authorizer.put_persistent_volume(&object(json!({
            "metadata": {"name": "pv"},
            "spec": {"claimRef": {"namespace": "d", "name": "c"},
                "csi": {"nodeStageSecretRef": {"name": "stage", "namespace": "sys"}}},
        })));
        authorizer
    }

    fn check(node: &str, asked: impl Fn(&User) -> Verdict, expect: Expect) {
        let verdict = asked(&User::new(format!("system:node:{node}"), ["system:nodes"]));
        expect.assert_eq(if verdict.allowed() { "allowed" } else { &verdict.reason });
    }

    #[test]
    fn reads_what_its_pods_need() {
        let authorizer = authorizer();
        let get = |resource: &'static str, namespace: &'static str, name: &'static str| {
            let authorizer = &authorizer;
            move |user: &User| {
                let asked = Attributes::resource(user, "get", "", resource).namespace(namespace).name(name);
                authorizer.authorize(&asked)
            }
        };
        for name in ["pull", "env", "vol", "proj"] {
            check("n1", get("secrets", "d", name), expect!["allowed"]);
        }
        check("n1", get("secrets", "sys", "stage"), expect!["allowed"]);
        check("n1", get("configmaps", "d", "cm"), expect!["allowed"]);
        check("n1", get("persistentvolumeclaims", "d", "c"), expect!["allowed"]);
        check("n1", get("persistentvolumeclaims", "d", "p-e"), expect!["allowed"]);
        check("n1", get("persistentvolumes", "", "pv"), expect!["allowed"]);
        check("n1", get("pods", "d", "p"), expect!["allowed"]);
        check(
            "n2",
            get("secrets", "d", "vol"),
            expect!["no relationship found between node 'n2' and this object"],
        );
        check("n1", get("secrets", "d", ""), expect!["No Object name found"]);
        authorizer.remove_pod("d", "p");
        check(
            "n1",
            get("persistentvolumes", "", "pv"),
            expect!["no relationship found between node 'n1' and this object"],
        );
        assert!(authorizer.read(|graph| graph.needed.is_empty()));
    }

    #[test]
    fn writes_what_is_its_own() {
        let authorizer = authorizer();
        let lease = |verb: &'static str, name: &'static str| {
            let authorizer = &authorizer;
            move |user: &User| {
                let asked = Attributes::resource(user, verb, "coordination.k8s.io", "leases");
                authorizer.authorize(&asked.namespace("kube-node-lease").name(name))
            }
        };
        check("n1", lease("update", "n1"), expect!["allowed"]);
        check(
            "n1",
            lease("update", "n2"),
            expect!["can only access node lease with the same name as the requesting node"],
        );
        let token = |user: &User| {
            let asked = Attributes::resource(user, "create", "", "serviceaccounts").subresource("token");
            authorizer.authorize(&asked.namespace("d").name("sa"))
        };
        check("n1", token, expect!["allowed"]);
        check("n2", token, expect!["no relationship found between node 'n2' and this object"]);
        let pods = |fields: &'static [(&'static str, &'static str)]| {
            let authorizer = &authorizer;
            move |user: &User| {
                let asked = Attributes::resource(user, "watch", "", "pods");
                authorizer.authorize(&Attributes { fields, ..asked })
            }
        };
        check("n1", pods(&[("spec.nodeName", "n1")]), expect!["allowed"]);
        check("n1", pods(&[]), expect!["can only list/watch pods with spec.nodeName field selector"]);
        let status = |user: &User| {
            authorizer.authorize(&Attributes::resource(user, "patch", "", "nodes").subresource("status"))
        };
        check("n1", status, expect!["allowed"]);
    }
}
