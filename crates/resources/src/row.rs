//! How a row is written down.

use std::sync::Arc;

use api::GroupVersionKind;
use registry::strategy::Plain;
use registry::{
    Act, Action, Connect, Convert, PartHook, Resource, Scope, SelectableField, Strategy, Subresource, Table,
    Verb, Version, View,
};

/// A row under construction. `Row::new(...)` and then only what differs from the common case.
pub struct Row(Resource);

/// The package that a group's Go types (and so its OpenAPI names) are in.
fn package(group: &str) -> String {
    match group {
        "" => "io.k8s.api.core".into(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".into(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".into(),
        other => format!("io.k8s.api.{}", other.split('.').next().unwrap_or(other)),
    }
}

fn version(group: &str, name: &str, kind: &str) -> Version {
    let types = schema::builtin();
    let type_name = format!("{}.{name}.{kind}", package(group));
    let ty = types.lookup(&type_name).unwrap_or_else(|| panic!("schema/kinds.rs has no root {type_name}"));
    let api_version = if group.is_empty() { name.to_owned() } else { format!("{group}/{name}") };
    Version {
        name: name.into(),
        types: types.clone(),
        ty,
        head: codec::stored::type_head(&api_version, kind),
        convert: None,
    }
}

impl Row {
    /// A namespaced kind with every verb, served and stored at `version_name`.
    pub fn new(group: &str, version_name: &str, kind: &str, plural: &str) -> Row {
        Row(Resource {
            group: group.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            kind: kind.into(),
            fault_group: None,
            deprecated: None,
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            versions: vec![version(group, version_name, kind)],
            stored: 0,
            prefix: plural.into(),
            act: None,
            verbs: Verb::ALL.to_vec(),
            subresources: Vec::new(),
            fields: Vec::new(),
            has_status: false,
            has_generation: false,
            versioned_annotations: &[],
            answers_deleted: false,
            stored_api_version: None,
            hashed_api_version: None,
            table: None,
            strategy: Arc::new(Plain),
        })
    }

    pub fn cluster(mut self) -> Row {
        self.0.scope = Scope::Cluster;
        self
    }

    /// The group that messages about faults name, where it is another than the row's.
    pub fn fault_group(mut self, group: &'static str) -> Row {
        self.0.fault_group = Some(group);
        self
    }

    /// See [`Resource::deprecated`].
    pub fn deprecated(mut self, since: &'static str, instead: &'static str) -> Row {
        self.0.deprecated = Some((since, instead));
        self
    }

    pub fn short(mut self, names: &[&'static str]) -> Row {
        self.0.short_names = names.to_vec();
        self
    }

    pub fn categories(mut self, names: &[&'static str]) -> Row {
        self.0.categories = names.to_vec();
        self
    }

    /// Where the store keeps it, if not under the plural.
    pub fn at(mut self, prefix: &str) -> Row {
        self.0.prefix = prefix.into();
        self
    }

    /// Another served version, whose fields differ from the stored one's as `convert` says.
    pub fn also(mut self, name: &str, convert: Arc<dyn Convert>) -> Row {
        let mut other = version(&self.0.group, name, &self.0.kind);
        other.convert = Some(convert);
        self.0.versions.push(other);
        self
    }

    /// Shares the stored objects of another group's row, whose fields differ as `convert` says.
    pub fn stored_as(mut self, api_version: &str, convert: Arc<dyn Convert>) -> Row {
        self.0.versions[0].convert = Some(convert);
        self.0.stored_api_version = Some(api_version.into());
        self
    }

    /// What discovery's hash of the stored version is made of.
    pub fn hashed_as(mut self, api_version: &str) -> Row {
        self.0.hashed_api_version = Some(api_version.into());
        self
    }

    pub fn verbs(mut self, verbs: &[Verb]) -> Row {
        self.0.verbs = verbs.to_vec();
        self
    }

    /// Keeps nothing: a POST is an act.
    pub fn acts(mut self, act: Arc<dyn Act>) -> Row {
        self.0.act = Some(act);
        self.0.verbs = vec![Verb::Create];
        self
    }

    fn sub(mut self, name: &'static str, kind: Option<GroupVersionKind>, action: Action) -> Row {
        self.0.subresources.push(Subresource { name, kind, action });
        self
    }

    pub fn status(mut self) -> Row {
        self.0.has_status = true;
        self.sub("status", None, Action::Status)
    }

    pub fn generation(mut self) -> Row {
        self.0.has_generation = true;
        self
    }

    pub fn part(self, name: &'static str, hook: Arc<dyn PartHook>) -> Row {
        self.sub(name, None, Action::Part(hook))
    }

    pub fn view(self, name: &'static str, kind: GroupVersionKind, view: Arc<dyn View>) -> Row {
        self.sub(name, Some(kind), Action::View(view))
    }

    pub fn create(self, name: &'static str, kind: GroupVersionKind, act: Arc<dyn Act>) -> Row {
        self.sub(name, Some(kind), Action::Create(act))
    }

    pub fn connect(
        self,
        name: &'static str,
        kind: Option<GroupVersionKind>,
        connect: Arc<dyn Connect>,
    ) -> Row {
        self.sub(name, kind, Action::Connect(connect))
    }

    /// Selectable fields whose name is their path; absent ones are empty.
    pub fn fields(mut self, names: &[&'static str]) -> Row {
        for name in names {
            let path: Vec<&'static str> = name.split('.').collect();
            self.0.fields.push(SelectableField { name, path: path.leak(), absent: "" });
        }
        self
    }

    /// A selectable field with another path, or another value where it is absent.
    pub fn field(mut self, name: &'static str, path: &'static [&'static str], absent: &'static str) -> Row {
        self.0.fields.push(SelectableField { name, path, absent });
        self
    }

    /// See [`Resource::versioned_annotations`].
    pub fn versioned_annotations(mut self, names: &'static [&'static str]) -> Row {
        self.0.versioned_annotations = names;
        self
    }

    /// A delete that is done at once answers the object.
    pub fn answers_deleted(mut self) -> Row {
        self.0.answers_deleted = true;
        self
    }

    pub fn table(mut self, table: impl Table + 'static) -> Row {
        self.0.table = Some(Arc::new(table));
        self
    }

    pub fn strategy(mut self, strategy: impl Strategy + 'static) -> Row {
        self.0.strategy = Arc::new(strategy);
        self
    }

    pub fn build(self) -> Resource {
        self.0
    }
}
