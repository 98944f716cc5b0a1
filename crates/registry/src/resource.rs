//! A row of the table of resources. Built-in kinds and custom ones are the same struct.

use std::borrow::Cow;
use std::sync::Arc;

use api::{GroupKind, GroupResource, GroupVersionKind, Object};
use schema::{TypeId, Types};
use serde_json::Value;

use crate::strategy::Strategy;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// What may be asked of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    pub const ALL: &[Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// One version of a kind.
pub struct Version {
    pub name: String,
    pub types: Arc<Types>,
    pub ty: TypeId,
    /// `"apiVersion":"v1","kind":"Pod",`, ready for answers.
    pub head: String,
    /// Where fields differ from the stored version's.
    pub convert: Option<Arc<dyn Convert>>,
}

/// Between a version and the stored one.
pub trait Convert: Send + Sync {
    fn store(&self, object: &mut Object);
    fn restore(&self, object: &mut Object);
}

/// `pods/status`, `deployments/scale`, …
#[derive(Clone)]
pub struct Subresource {
    pub name: &'static str,
    /// The kind that it takes and answers, where it is another than the resource's.
    pub kind: Option<GroupVersionKind>,
    pub action: Action,
}

/// What a subresource does.
#[derive(Clone)]
pub enum Action {
    /// Reads the object, writes its status.
    Status,
    /// Reads and writes the object through a hook of its own: `finalize`, `approval`, `resize`.
    Part(Arc<dyn PartHook>),
    /// Shows the object as another kind and takes that kind back: `scale`.
    View(Arc<dyn View>),
    /// Takes an object and acts: `binding`, `eviction`, `token`.
    Create(Arc<dyn Act>),
    /// Streams to somewhere else: `log`, `exec`, `proxy`.
    Connect(Arc<dyn Connect>),
}

impl Subresource {
    /// What may be asked, in discovery's order.
    pub fn verbs(&self) -> Vec<&'static str> {
        match &self.action {
            Action::Status | Action::View(_) => vec!["get", "patch", "update"],
            Action::Part(part) => part.verbs(),
            Action::Create(_) => vec!["create"],
            Action::Connect(connect) => connect.verbs(),
        }
    }
}

/// Which part of the object a subresource may change.
pub trait PartHook: Send + Sync {
    /// Takes from `new` what may change; everything else comes from `old`.
    fn prepare(&self, new: &mut Object, old: &Object);
    fn validate(&self, _new: &Object, _old: &Object, _errors: &mut api::field::Errors) {}
    /// What may be asked, in discovery's order.
    fn verbs(&self) -> Vec<&'static str> {
        vec!["get", "patch", "update"]
    }
    /// Whether who changes something this way comes to hold it.
    fn is_tracked(&self) -> bool {
        true
    }
}

/// The object as another kind.
pub trait View: Send + Sync {
    /// The schema of the other kind.
    fn type_name(&self) -> &'static str;
    fn show(&self, object: &Object) -> Object;
    /// # Errors
    /// What the view asks for is not to be.
    fn take(&self, view: &Object, object: &mut Object) -> Result<(), api::Status>;
    /// Paths of the object's fields that a caller holds who sent `view` where `shown` was the state,
    /// whether or not their values change.
    fn said(&self, _view: &Object, _shown: &Object) -> &'static [&'static [&'static str]] {
        &[]
    }
    /// The group that the 404 of a read names, where it is not the resource's.
    fn fault_group(&self) -> Option<&'static str> {
        None
    }
    /// How the other kind prints.
    fn table(&self) -> Option<&dyn Table> {
        None
    }
}

/// Acts on what is posted: to an object's subresource, or to a resource that keeps nothing.
#[async_trait::async_trait]
pub trait Act: Send + Sync {
    /// The schema of the posted kind.
    fn type_name(&self) -> &'static str;
    /// Whether the answer is what was posted, so that it tells who holds its fields.
    fn answers_posted(&self) -> bool {
        true
    }
    /// Answers an object to the client, or a `Status` as one. `name` is empty for a resource itself.
    ///
    /// # Errors
    /// The act is refused.
    async fn act(
        &self,
        engine: &Arc<crate::Engine>,
        cx: &crate::RequestContext,
        (namespace, name): (&str, &str),
        posted: Object,
    ) -> Result<Object, api::Status>;
}

/// Where a streaming subresource leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `http` or `https`.
    pub scheme: &'static str,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Whether it is a kubelet, which wants the server's own client certificate.
    pub kubelet: bool,
}

/// Finds where a streaming subresource leads.
#[async_trait::async_trait]
pub trait Connect: Send + Sync {
    fn verbs(&self) -> Vec<&'static str>;
    /// Whether requests of all kinds are passed on to a server behind the object, whose scheme and port the
    /// client may name, and whose answers are its own.
    fn is_proxy(&self) -> bool {
        false
    }
    /// Whether a request that becomes a WebSocket asks for the right to create, as it is no mere read
    /// whatever its method: since v1.35.
    fn streams_create(&self) -> bool {
        false
    }
    /// `None` where there is nothing to be had yet, which is no fault.
    ///
    /// # Errors
    /// There is nothing to connect to.
    async fn target(
        &self,
        engine: &crate::Engine,
        object: &Object,
        asked: &Asked<'_>,
    ) -> Result<Option<Target>, api::Status>;
}

/// What a request says of where it is to be led.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// A port's number or name, of `NAME:PORT`; empty where there is none.
    pub port: &'a str,
    /// What stands behind the subresource's name.
    pub path: &'a str,
    /// Without its question mark.
    pub query: &'a str,
}

impl Asked<'_> {
    /// The port by its number, or `default` where none is asked for.
    ///
    /// # Errors
    /// It is no number.
    pub fn port_or(&self, default: u16) -> Result<u16, api::Status> {
        match self.port {
            "" => Ok(default),
            port => port.parse().map_err(|_| api::Status::bad_request(format!("invalid port {port:?}"))),
        }
    }
}

/// A field that field selectors may name, besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug)]
pub struct SelectableField {
    pub name: &'static str,
    pub path: &'static [&'static str],
    /// What an absent field counts as.
    pub absent: &'static str,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `date`, …
    pub kind: Cow<'static, str>,
    /// `name` for the name's column, else mostly empty.
    pub format: Cow<'static, str>,
    pub description: Cow<'static, str>,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
}

/// A cell's value.
pub type Cell = Value;

/// How a kind prints: its columns and a row's cells in their order.
pub trait Table: Send + Sync {
    fn columns(&self) -> &[Column];
    fn cells(&self, object: &Object, now: jiff::Timestamp) -> Vec<Cell>;
    /// What the row says about its object's life, as `TableRowCondition`s.
    fn conditions(&self, _object: &Object) -> Vec<Value> {
        Vec::new()
    }
    /// How two rows of one list stand to each other; equal ones stay as they were listed.
    fn order(&self, _one: &Object, _other: &Object) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// One row.
pub struct Resource {
    pub group: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    /// The group that messages about faults name, where it is another: a kind that has been in
    /// several groups is told of by the first of them.
    pub fault_group: Option<&'static str>,
    /// Since which release it should not be used any more, and what to use instead (may be empty).
    pub deprecated: Option<(&'static str, &'static str)>,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub scope: Scope,
    /// Served versions, best first.
    pub versions: Vec<Version>,
    /// Which of them is stored.
    pub stored: usize,
    /// Where objects are kept: `/registry/<prefix>/…`.
    pub prefix: String,
    /// For a resource that keeps nothing and only acts: reviews, `bindings`.
    pub act: Option<Arc<dyn Act>>,
    pub verbs: Vec<Verb>,
    pub subresources: Vec<Subresource>,
    pub fields: Vec<SelectableField>,
    /// Whether `status` is written through the subresource alone.
    pub has_status: bool,
    /// Whether `metadata.generation` counts changes of the spec.
    pub has_generation: bool,
    /// Annotations that are fields to upstream's own form of the kind and so no part of metadata alone.
    pub versioned_annotations: &'static [&'static str],
    /// Whether a delete that is done at once answers the object (else a `Status`).
    pub answers_deleted: bool,
    /// The `apiVersion` of stored bytes, where another group's row shares them.
    pub stored_api_version: Option<String>,
    /// The `apiVersion` that discovery's hash of the stored version is made of, where clients know it by another.
    pub hashed_api_version: Option<String>,
    pub table: Option<Arc<dyn Table>>,
    pub strategy: Arc<dyn Strategy>,
}

impl Resource {
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.clone(), self.plural.clone())
    }

    /// What messages about faults call the kind.
    pub fn group_kind(&self) -> GroupKind {
        let group = self.fault_group.map_or_else(|| self.group.clone(), str::to_owned);
        GroupKind { group, kind: self.kind.clone() }
    }

    pub fn api_version(&self, version: usize) -> String {
        let name = &self.versions[version].name;
        if self.group.is_empty() { name.clone() } else { format!("{}/{name}", self.group) }
    }

    /// The `apiVersion` that stored bytes carry.
    pub fn stored_type(&self) -> String {
        self.stored_api_version.clone().unwrap_or_else(|| self.api_version(self.stored))
    }

    /// What whoever asks for a deprecated kind is warned of.
    pub fn deprecation(&self, version: usize) -> Option<String> {
        let (since, instead) = self.deprecated?;
        let what = format!("{} {} is deprecated in {since}+", self.api_version(version), self.kind);
        Some(if instead.is_empty() { what } else { format!("{what}; use {instead}") })
    }

    pub fn version(&self, name: &str) -> Option<usize> {
        self.versions.iter().position(|v| v.name == name)
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The key behind the prefix: `namespace/name`, or `name`.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced() { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// The whole key in the store.
    pub fn store_key(&self, namespace: &str, name: &str) -> String {
        format!("/registry/{}/{}", self.prefix, self.key(namespace, name))
    }
}
