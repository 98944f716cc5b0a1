//! NodeRestriction and TaintNodesByCondition.

use std::collections::BTreeSet;

use api::field::quote;
use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::{Value, json};

use crate::{Plugin, is, look_up, refuse, text};

const NODE_USER: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const MIRROR: &str = "kubernetes.io/config.mirror";
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// The labels under `kubernetes.io` that a kubelet tells of its own node (upstream's `kubelet/pkg/apis`).
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
];
/// And those under which it may tell whatever it likes.
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// A kubelet changes its own node, its own pods, its own lease and CSINode alone, and of its node neither
/// taints, owners nor labels that say which pods may come.
pub(crate) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        request.cx.user.groups.iter().any(|g| g == NODES_GROUP)
            && request.operation != Operation::Connect
            && Kind::of(request).is_some()
    }

    // As upstream, before the parts that a subresource does not change are put back.
    fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
        judge(request, Some(object))
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        if object.is_none() {
            judge(request, None)?;
        }
        Ok(Vec::new())
    }
}

/// What a node is restricted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    Pod,
    Lease,
    CsiNode,
    ResourceSlice,
}

impl Kind {
    fn of(request: &Verdict<'_>) -> Option<Kind> {
        match (request.resource.group.as_str(), request.resource.plural.as_str()) {
            ("", "nodes") => Some(Kind::Node),
            ("", "pods") => Some(Kind::Pod),
            ("coordination.k8s.io", "leases") => Some(Kind::Lease),
            ("storage.k8s.io", "csinodes") => Some(Kind::CsiNode),
            ("resource.k8s.io", "resourceslices") => Some(Kind::ResourceSlice),
            _ => None,
        }
    }
}

/// One request of a node.
struct Asked<'a> {
    node: &'a str,
    kind: Kind,
    operation: Operation,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    old: Option<&'a Object>,
    /// None for a delete.
    new: Option<&'a Object>,
}

fn judge(request: &Verdict<'_>, new: Option<&Object>) -> Result<(), Status> {
    let Some(kind) = Kind::of(request) else { return Ok(()) };
    let Some(node) = request.cx.user.name.strip_prefix(NODE_USER).filter(|node| !node.is_empty()) else {
        let why = format!("could not determine node from user {}", quote(&request.cx.user.name));
        return Err(refuse(request, &why));
    };
    let asked = Asked {
        node,
        kind,
        operation: request.operation,
        subresource: request.subresource.unwrap_or_default(),
        namespace: request.namespace,
        name: request.name,
        old: request.old,
        new,
    };
    asked.judge().map_err(|why| refuse(request, &why))?;
    let Some(owner) = asked.mirrors_owner() else { return Ok(()) };
    let standing = look_up(request, "", "nodes", node)?;
    let standing = standing.ok_or_else(|| Status::not_found(&api::GroupResource::new("", "nodes"), node))?;
    if text(owner, "uid") == standing.uid() {
        return Ok(());
    }
    let why = format!("node {node} UID mismatch: expected {} got {}", text(owner, "uid"), standing.uid());
    Err(refuse(request, &why))
}

impl Asked<'_> {
    /// # Errors
    /// Why not, in upstream's words.
    fn judge(&self) -> Result<(), String> {
        match self.kind {
            Kind::Node => self.own_node(),
            Kind::Pod => self.own_pod(),
            Kind::Lease if self.namespace != LEASE_NAMESPACE => {
                Err(format!("can only access leases in the {} system namespace", quote(LEASE_NAMESPACE)))
            }
            Kind::Lease if self.name != self.node => {
                Err("can only access node lease with the same name as the requesting node".into())
            }
            Kind::CsiNode if self.name != self.node => {
                Err("can only access CSINode with the same name as the requesting node".into())
            }
            Kind::Lease | Kind::CsiNode => Ok(()),
            Kind::ResourceSlice => self.own_slice(),
        }
    }

    fn own_node(&self) -> Result<(), String> {
        let node = quote(self.node);
        if self.name != self.node {
            return Err(format!("node {node} is not allowed to modify node {}", quote(self.name)));
        }
        let Some(new) = self.new else { return Ok(()) };
        let source = |object: &Object| object.get(&["spec", "configSource"]).cloned();
        let Some(old) = self.old.filter(|_| self.operation == Operation::Update) else {
            if source(new).is_some() {
                return Err(format!("node {node} is not allowed to create pods with a non-nil configSource"));
            }
            let labels = forbidden_labels(new, None);
            if !labels.is_empty() {
                return Err(format!("node {node} is not allowed to set the following labels: {labels}"));
            }
            return Ok(());
        };
        if source(new).is_some_and(|new| Some(new) != source(old)) {
            return Err(format!(
                "node {node} is not allowed to update configSource to a new non-nil configSource"
            ));
        }
        if list(new, &["spec", "taints"]) != list(old, &["spec", "taints"]) {
            return Err(format!("node {node} is not allowed to modify taints"));
        }
        let owners = &["metadata", "ownerReferences"];
        if list(new, owners) != list(old, owners) {
            return Err(format!("node {node} is not allowed to modify ownerReferences"));
        }
        let labels = forbidden_labels(new, Some(old));
        if labels.is_empty() { Ok(()) } else { Err(format!("is not allowed to modify labels: {labels}")) }
    }

    fn own_pod(&self) -> Result<(), String> {
        let node = quote(self.node);
        let own =
            |pod: Option<&Object>| pod.is_some_and(|pod| pod.get_str(&["spec", "nodeName"]) == self.node);
        match (self.operation, self.subresource) {
            (Operation::Create, "") => self.mirror(),
            (Operation::Delete, _) if own(self.old) => Ok(()),
            (Operation::Delete, _) => {
                Err(format!("node {node} can only delete pods with spec.nodeName set to itself"))
            }
            (Operation::Update, "status") if !own(self.old) => Err(format!(
                "node {node} can only update pod status for pods with spec.nodeName set to itself"
            )),
            (Operation::Update, "status") => self.pod_status(),
            (_, "eviction") if own(self.old) => Ok(()),
            (_, "eviction") => {
                Err(format!("node {} can only evict pods with spec.nodeName set to itself", self.node))
            }
            (_, "") => Err(format!(
                "unexpected operation \"UPDATE\", node {node} can only create and delete mirror pods"
            )),
            (_, other) => Err(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                quote(other)
            )),
        }
    }

    fn pod_status(&self) -> Result<(), String> {
        let node = quote(self.node);
        let (Some(new), Some(old)) = (self.new, self.old) else { return Ok(()) };
        if changed_labels(new, Some(old)).next().is_some() {
            return Err(format!("node {node} cannot update labels through pod status"));
        }
        let claims = &["status", "resourceClaimStatuses"];
        if list(new, claims) != list(old, claims) {
            return Err(format!("node {node} cannot update resource claim statues"));
        }
        Ok(())
    }

    /// A mirror shows what runs on the node anyway: it gets the node nothing that it has no right to.
    fn mirror(&self) -> Result<(), String> {
        let node = quote(self.node);
        let Some(pod) = self.new else { return Ok(()) };
        if pod.annotation(MIRROR).is_none() {
            return Err(format!(
                "pod does not have {} annotation, node {node} can only create mirror pods",
                quote(MIRROR)
            ));
        }
        if pod.get_str(&["spec", "nodeName"]) != self.node {
            return Err(format!("node {node} can only create pods with spec.nodeName set to itself"));
        }
        let owners = list(pod, &["metadata", "ownerReferences"]);
        if owners.len() > 1 {
            return Err(format!(
                "node {node} can only create pods with a single owner reference set to itself"
            ));
        }
        // Upstream wants an owner always. A static pod may be seen before its node is registered.
        for owner in owners {
            let is_node = text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node";
            if !is_node || text(owner, "name") != self.node {
                return Err(format!(
                    "node {node} can only create pods with an owner reference set to itself"
                ));
            }
            if owner.get("controller") != Some(&Value::Bool(true)) {
                return Err(format!(
                    "node {node} can only create pods with a controller owner reference set to itself"
                ));
            }
            if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
                return Err(format!("node {node} must not set blockOwnerDeletion on an owner reference"));
            }
        }
        match auth::node::referenced(pod).first() {
            Some(what) => Err(format!("node {node} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    /// The owner of a mirror pod to be made.
    fn mirrors_owner(&self) -> Option<&Value> {
        let makes =
            self.kind == Kind::Pod && self.operation == Operation::Create && self.subresource.is_empty();
        list(self.new.filter(|_| makes)?, &["metadata", "ownerReferences"]).first()
    }

    fn own_slice(&self) -> Result<(), String> {
        let verb = match self.operation {
            Operation::Create => "create",
            Operation::Delete => "delete",
            Operation::Update | Operation::Connect => return Ok(()),
        };
        let slice = self.new.or(self.old);
        if slice.is_some_and(|slice| slice.get_str(&["spec", "nodeName"]) == self.node) {
            return Ok(());
        }
        Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }
}

/// A list of an object; empty where it is absent.
fn list<'o>(object: &'o Object, path: &[&str]) -> &'o [Value] {
    object.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The labels that are in one of two objects, or have another value in it.
fn changed_labels<'o>(new: &'o Object, old: Option<&'o Object>) -> impl Iterator<Item = &'o str> {
    let old = old.and_then(Object::labels);
    let new = new.labels();
    let keys = new.into_iter().chain(old).flatten().map(|(key, _)| key.as_str());
    keys.filter(move |key| new.and_then(|l| l.get(*key)) != old.and_then(|l| l.get(*key)))
}

/// The changed labels that are not a kubelet's to change, in order.
fn forbidden_labels(new: &Object, old: Option<&Object>) -> String {
    let forbidden: BTreeSet<&str> = changed_labels(new, old).filter(|key| !is_kubelets(key)).collect();
    forbidden.into_iter().collect::<Vec<_>>().join(", ")
}

/// Whether a kubelet may set a label on its node: others than Kubernetes' own, and of those the ones that
/// kubelets know.
fn is_kubelets(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |parent: &str| {
        namespace.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within(RESTRICTED) {
        return false;
    }
    !(within("kubernetes.io") || within("k8s.io"))
        || KUBELET_LABELS.contains(&label)
        || KUBELET_NAMESPACES.iter().any(|parent| within(parent))
}

/// A new node takes no pods until its lifecycle controller has seen it ready.
pub(crate) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "nodes", &[Operation::Create])
    }

    fn mutate(&self, _: &Verdict<'_>, node: &mut Object) -> Result<(), Status> {
        let spec = api::object::map_entry(&mut node.0, "spec");
        let Value::Array(list) = spec.entry("taints").or_insert_with(|| json!([])) else { return Ok(()) };
        let taint = "node.kubernetes.io/not-ready";
        if !list.iter().any(|t| t.get("key").and_then(Value::as_str) == Some(taint)) {
            list.push(json!({"key": taint, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    /// What is said of a write by node `n`; nothing where it may.
    fn check(kind: Kind, place: &str, subresource: &str, old: Option<Value>, new: Option<Value>, said: &str) {
        let (old, new) = (old.map(object), new.map(object));
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        let operation = match (&old, &new) {
            (None, _) => Operation::Create,
            (_, None) => Operation::Delete,
            _ => Operation::Update,
        };
        let (old, new) = (old.as_ref(), new.as_ref());
        let asked = Asked { node: "n", kind, operation, subresource, namespace, name, old, new };
        assert_eq!(asked.judge().err().unwrap_or_default(), said, "{kind:?} {place} {old:?} {new:?}");
    }

    fn node(labels: Value, taints: Value) -> Option<Value> {
        Some(json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}}))
    }

    #[test]
    fn a_node_tells_of_itself_and_not_who_may_come() {
        let taint = || json!([{"key": "k", "effect": "NoSchedule"}]);
        let registered = || {
            json!({
                "kubernetes.io/hostname": "n", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": "z", "node.kubernetes.io/instance-type": "t",
                "x.node.kubernetes.io/y": "", "kubelet.kubernetes.io/z": "", "example.com/a": "", "plain": "",
            })
        };
        check(Kind::Node, "n", "", None, node(registered(), taint()), "");
        check(Kind::Node, "n", "", node(json!({}), taint()), node(registered(), taint()), "");
        check(Kind::Node, "n", "status", node(registered(), Value::Null), node(registered(), json!([])), "");
        let forbidden = || {
            json!({"node-restriction.kubernetes.io/b": "", "x.node-restriction.kubernetes.io/c": "",
                "node-role.kubernetes.io/control-plane": "", "a.k8s.io/a": "", "plain": ""})
        };
        let labels = "a.k8s.io/a, node-restriction.kubernetes.io/b, node-role.kubernetes.io/control-plane, \
            x.node-restriction.kubernetes.io/c";
        let said = format!("node \"n\" is not allowed to set the following labels: {labels}");
        check(Kind::Node, "n", "", None, node(forbidden(), Value::Null), &said);
        let said = format!("is not allowed to modify labels: {labels}");
        for subresource in ["", "status"] {
            let (with, without) = (|| node(forbidden(), Value::Null), || node(json!({}), Value::Null));
            check(Kind::Node, "n", subresource, without(), with(), &said);
            check(Kind::Node, "n", subresource, with(), without(), &said);
            check(Kind::Node, "n", subresource, with(), with(), "");
            let said = "node \"n\" is not allowed to modify taints";
            check(Kind::Node, "n", subresource, node(json!({}), taint()), without(), said);
        }
        let mut owned = node(json!({}), Value::Null).unwrap();
        owned["metadata"]["ownerReferences"] = json!([{"kind": "ConfigMap", "name": "none"}]);
        let said = "node \"n\" is not allowed to modify ownerReferences";
        check(Kind::Node, "n", "", node(json!({}), Value::Null), Some(owned), said);
        let said = "node \"n\" is not allowed to modify node \"m\"";
        check(Kind::Node, "m", "", None, node(json!({}), Value::Null), said);
        check(Kind::Node, "m", "", node(json!({}), Value::Null), None, said);
    }

    #[test]
    fn a_node_keeps_its_own_lease_and_csi_node() {
        let any = || Some(json!({}));
        for (old, new) in [(None, any()), (any(), any()), (any(), None)] {
            let write = |kind, place, said| check(kind, place, "", old.clone(), new.clone(), said);
            write(Kind::Lease, "kube-node-lease/n", "");
            let said = "can only access node lease with the same name as the requesting node";
            write(Kind::Lease, "kube-node-lease/m", said);
            let said = "can only access leases in the \"kube-node-lease\" system namespace";
            write(Kind::Lease, "kube-system/n", said);
            write(Kind::CsiNode, "n", "");
            write(Kind::CsiNode, "m", "can only access CSINode with the same name as the requesting node");
        }
        let slice = |node: &str| Some(json!({"spec": {"nodeName": node}}));
        check(Kind::ResourceSlice, "s", "", None, slice("n"), "");
        let said = "can only create ResourceSlice with the same NodeName as the requesting node";
        check(Kind::ResourceSlice, "s", "", None, slice("m"), said);
        let said = "can only delete ResourceSlice with the same NodeName as the requesting node";
        check(Kind::ResourceSlice, "s", "", slice("m"), None, said);
    }

    #[test]
    fn a_node_makes_mirrors_and_changes_what_it_runs() {
        let pod = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        let mirror = |at: &str, what: Value| {
            let mut pod = pod("n");
            pod["metadata"]["annotations"] = json!({MIRROR: "hash"});
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true}]);
            if let Some(slot) = pod.pointer_mut(at) {
                *slot = what.clone();
            } else if let Some(field) = at.strip_prefix("/spec/") {
                pod["spec"][field] = what.clone();
            }
            Some(pod)
        };
        let create = |new, said| check(Kind::Pod, "d/p", "", None, new, said);
        let said = "pod does not have \"kubernetes.io/config.mirror\" annotation, \
            node \"n\" can only create mirror pods";
        create(Some(pod("n")), said);
        create(mirror("/spec/containers", json!([])), "");
        create(mirror("/metadata/ownerReferences", json!([])), "");
        let said = "node \"n\" can only create pods with spec.nodeName set to itself";
        create(mirror("/spec/nodeName", json!("m")), said);
        let said = "node \"n\" can only create pods with an owner reference set to itself";
        create(mirror("/metadata/ownerReferences/0/name", json!("m")), said);
        let said = "node \"n\" can only create pods with a controller owner reference set to itself";
        create(mirror("/metadata/ownerReferences/0/controller", json!(false)), said);
        let said = "node \"n\" can not create pods that reference a service account";
        create(mirror("/spec/serviceAccountName", json!("sa")), said);
        let said = "node \"n\" can not create pods that reference secrets";
        create(mirror("/spec/volumes", json!([{"name": "v", "secret": {"secretName": "s"}}])), said);
        let said = "node \"n\" can not create pods that reference persistentvolumeclaims";
        let claim = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        create(mirror("/spec/volumes", claim), said);

        let update = |sub, old, new, said| check(Kind::Pod, "d/p", sub, Some(old), Some(new), said);
        update("status", pod("n"), pod("n"), "");
        update("eviction", pod("n"), pod("n"), "");
        let said = "node \"n\" can only update pod status for pods with spec.nodeName set to itself";
        update("status", pod("m"), pod("n"), said);
        let mut labelled = pod("n");
        labelled["metadata"]["labels"] = json!({"a": "b"});
        update("status", pod("n"), labelled, "node \"n\" cannot update labels through pod status");
        let said = "unexpected operation \"UPDATE\", node \"n\" can only create and delete mirror pods";
        update("", pod("n"), pod("n"), said);
        let said = "unexpected pod subresource \"binding\", only 'status' and 'eviction' are allowed";
        update("binding", pod("n"), pod("n"), said);
        check(Kind::Pod, "d/p", "", Some(pod("n")), None, "");
        let said = "node \"n\" can only delete pods with spec.nodeName set to itself";
        check(Kind::Pod, "d/p", "", Some(pod("m")), None, said);
    }
}
