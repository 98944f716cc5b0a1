//! OpenAPI v2 and v3, made from the table when somebody asks, and not kept.

mod gnostic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::MediaType;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Response, StatusCode};
use registry::{Action, Resource, Subresource, Verb};
use schema::{Docs, Field, ListType, Shape, Type, TypeId, Types};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::body::Body;
use crate::options::Query;
use crate::respond;

/// One version of one group: `api/v1`, `apis/apps/v1`.
struct Document {
    path: String,
    group: String,
    version: String,
    resources: Vec<Arc<Resource>>,
}

pub(crate) struct OpenApi {
    documents: Vec<Document>,
    version: String,
    hash: String,
}

impl OpenApi {
    pub(crate) fn new(resources: &[Arc<Resource>], version: &str) -> OpenApi {
        let mut documents: BTreeMap<String, Document> = BTreeMap::new();
        for resource in resources {
            for v in &resource.versions {
                let path = if resource.group.is_empty() {
                    format!("api/{}", v.name)
                } else {
                    format!("apis/{}/{}", resource.group, v.name)
                };
                let document = documents.entry(path.clone()).or_insert_with(|| Document {
                    path,
                    group: resource.group.clone(),
                    version: v.name.clone(),
                    resources: Vec::new(),
                });
                document.resources.push(resource.clone());
            }
        }
        // The built-in table changes with the build alone.
        let digest = Sha256::digest(format!("{version} {}", env!("CARGO_PKG_VERSION")));
        let hash = digest.iter().map(|b| format!("{b:02X}")).collect();
        OpenApi { documents: documents.into_values().collect(), version: version.to_owned(), hash }
    }

    pub(crate) fn answer(&self, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response<Body>> {
        if path == "/openapi/v2" {
            let mut response = match form(headers) {
                None => bare(StatusCode::NOT_ACCEPTABLE),
                Some(_) if self.is_known(headers) => self.tagged(bare(StatusCode::NOT_MODIFIED)),
                Some(Encoding::Json) => self.tagged(respond::json(StatusCode::OK, &self.v2())),
                Some(Encoding::Protobuf) => {
                    let mut response = Response::new(Body::full(gnostic::encode(&self.v2())));
                    let kind = HeaderValue::from_static(gnostic::CONTENT_TYPE);
                    response.headers_mut().insert(CONTENT_TYPE, kind);
                    self.tagged(response)
                }
            };
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return Some(response);
        }
        let rest = path.strip_prefix("/openapi/v3")?;
        if rest.is_empty() {
            return Some(respond::json(StatusCode::OK, &self.index()));
        }
        let Some(document) = self.documents.iter().find(|d| d.path == rest.trim_start_matches('/')) else {
            return Some(bare(StatusCode::NOT_FOUND));
        };
        let mut response = if self.is_known(headers) {
            self.tagged(bare(StatusCode::NOT_MODIFIED))
        } else {
            self.tagged(respond::json(StatusCode::OK, &self.v3(document)))
        };
        if query.get("hash") == self.hash {
            // What has a name of its own need never be asked for again.
            let forever = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(CACHE_CONTROL, forever);
        }
        Some(response)
    }

    fn tag(&self) -> String {
        format!("\"{}\"", self.hash)
    }

    /// Whether the client has the document already.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = given.flat_map(|value| value.split(',')).map(str::trim);
        tags.any(|tag| tag == self.tag() || tag == "*")
    }

    fn tagged(&self, mut response: Response<Body>) -> Response<Body> {
        if let Ok(tag) = HeaderValue::from_str(&self.tag()) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }

    fn index(&self) -> Value {
        let paths: Map<String, Value> = self
            .documents
            .iter()
            .map(|d| {
                let url = format!("/openapi/v3/{}?hash={}", d.path, self.hash);
                (d.path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths})
    }

    fn v3(&self, document: &Document) -> Value {
        let docs = Docs::unpack();
        let mut writer = Writer::new(schema::builtin(), &docs, "#/components/schemas/");
        let mut paths = Map::new();
        for resource in &document.resources {
            add_paths(&mut paths, &mut writer, resource, document, Form::V3);
        }
        let schemas = writer.finish(self.kinds());
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": self.version},
            "paths": paths,
            "components": {"schemas": schemas},
        })
    }

    fn v2(&self) -> Value {
        let docs = Docs::unpack();
        let mut writer = Writer::new(schema::builtin(), &docs, "#/definitions/");
        let mut paths = Map::new();
        for document in &self.documents {
            for resource in &document.resources {
                add_paths(&mut paths, &mut writer, resource, document, Form::V2);
            }
        }
        let definitions = writer.finish(self.kinds());
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": self.version},
            "paths": paths,
            "definitions": definitions,
        })
    }

    /// The kinds that each root type is served as.
    fn kinds(&self) -> BTreeMap<TypeId, Value> {
        let mut kinds = BTreeMap::new();
        for document in &self.documents {
            for resource in &document.resources {
                if let Some(v) = resource.versions.iter().find(|v| v.name == document.version) {
                    kinds.insert(v.ty, gvk(&document.group, &document.version, &resource.kind));
                }
            }
        }
        kinds
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Json,
    Protobuf,
}

/// How the document of v2 is asked for; `None` where it isn't served so.
fn form(headers: &HeaderMap) -> Option<Encoding> {
    let header: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if header.is_empty() {
        return Some(Encoding::Json);
    }
    MediaType::accepted(&header.join(",")).iter().find_map(|media| {
        if media.takes("application/json") {
            return Some(Encoding::Json);
        }
        [gnostic::ASKED, gnostic::CONTENT_TYPE]
            .contains(&media.essence.as_str())
            .then_some(Encoding::Protobuf)
    })
}

fn bare(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = code;
    response
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

fn parameter(name: &str, kind: &str, form: Form) -> Value {
    match form {
        Form::V2 => json!({"name": name, "in": "query", "type": kind, "uniqueItems": true}),
        Form::V3 => json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}}),
    }
}

/// An operation, as far as clients read it: what it is on, its options, its body's kind.
fn operation(action: &str, kind: &Value, schema: Option<&str>, form: Form) -> Value {
    let mut names: Vec<(&str, &str)> = vec![("pretty", "string")];
    match action {
        "post" | "put" | "patch" => {
            names.extend([("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]);
            if action == "patch" {
                names.push(("force", "boolean"));
            }
        }
        "delete" | "deletecollection" => names.extend([
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ]),
        "list" => names.extend([
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ]),
        _ => {}
    }
    let mut parameters: Vec<Value> = names.into_iter().map(|(n, t)| parameter(n, t, form)).collect();
    let reference = schema.map(|name| {
        let root = if form == Form::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({"$ref": format!("{root}{name}")})
    });
    let mut value = json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind});
    let answer = match (&reference, form) {
        (Some(schema), Form::V2) => json!({"description": "OK", "schema": schema}),
        (Some(schema), Form::V3) => {
            json!({"description": "OK", "content": {"application/json": {"schema": schema}}})
        }
        (None, _) => json!({"description": "OK"}),
    };
    value["responses"] = json!({"200": answer});
    if let (true, Some(schema)) = (matches!(action, "post" | "put"), reference) {
        match form {
            Form::V2 => {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}))
            }
            Form::V3 => {
                value["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": schema}}})
            }
        }
    }
    value["parameters"] = parameters.into();
    value
}

fn add_paths(
    paths: &mut Map<String, Value>,
    writer: &mut Writer<'_>,
    resource: &Resource,
    document: &Document,
    form: Form,
) {
    let Some(version) = resource.versions.iter().find(|v| v.name == document.version) else { return };
    writer.need(version.ty);
    let name = writer.types.get(version.ty).name.to_string();
    let kind = gvk(&document.group, &document.version, &resource.kind);
    let root = if resource.namespaced() {
        format!("/{}/namespaces/{{namespace}}/{}", document.path, resource.plural)
    } else {
        format!("/{}/{}", document.path, resource.plural)
    };
    let mut put = |path: &str, method: &str, action: &str| {
        let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        entry[method] = operation(action, &kind, Some(&name), form);
    };
    let one = format!("{root}/{{name}}");
    for verb in &resource.verbs {
        match verb {
            Verb::Create => put(&root, "post", "post"),
            Verb::List => put(&root, "get", "list"),
            Verb::DeleteCollection => put(&root, "delete", "deletecollection"),
            Verb::Get => put(&one, "get", "get"),
            Verb::Update => put(&one, "put", "put"),
            Verb::Patch => put(&one, "patch", "patch"),
            Verb::Delete => put(&one, "delete", "delete"),
            Verb::Watch => {}
        }
    }
    for sub in &resource.subresources {
        sub_paths(paths, writer, sub, &one, (&name, &kind), form);
    }
}

fn sub_paths(
    paths: &mut Map<String, Value>,
    writer: &mut Writer<'_>,
    sub: &Subresource,
    one: &str,
    (own, kind): (&str, &Value),
    form: Form,
) {
    let path = format!("{one}/{}", sub.name);
    let kind = sub.kind.as_ref().map_or_else(|| kind.clone(), |k| gvk(&k.group, &k.version, &k.kind));
    let (schema, methods): (Option<String>, &[(&str, &str)]) = match &sub.action {
        Action::Status | Action::Part(_) => {
            (Some(own.to_owned()), &[("get", "get"), ("put", "put"), ("patch", "patch")])
        }
        Action::View(view) => {
            (Some(view.type_name().to_owned()), &[("get", "get"), ("put", "put"), ("patch", "patch")])
        }
        Action::Create(act) => (Some(act.type_name().to_owned()), &[("post", "post")]),
        Action::Connect(_) => (None, &[("get", "connect"), ("post", "connect")]),
    };
    if let Some(id) = schema.as_deref().and_then(|s| writer.types.lookup(s)) {
        writer.need(id);
    }
    let entry = paths.entry(path).or_insert_with(|| json!({}));
    for (method, action) in methods {
        entry[*method] = operation(action, &kind, schema.as_deref(), form);
    }
}

/// Writes types down, and those that they need.
struct Writer<'a> {
    types: &'a Types,
    docs: &'a Docs,
    root: &'static str,
    needed: BTreeSet<u32>,
    open: Vec<TypeId>,
}

impl<'a> Writer<'a> {
    fn new(types: &'a Types, docs: &'a Docs, root: &'static str) -> Writer<'a> {
        Writer { types, docs, root, needed: BTreeSet::new(), open: Vec::new() }
    }

    fn need(&mut self, id: TypeId) {
        if self.needed.insert(id.0) {
            self.open.push(id);
        }
    }

    fn finish(mut self, kinds: BTreeMap<TypeId, Value>) -> Map<String, Value> {
        let mut all = Map::new();
        while let Some(id) = self.open.pop() {
            let ty = self.types.get(id);
            let mut value = self.write(ty);
            if let Some(kind) = kinds.get(&id) {
                value["x-kubernetes-group-version-kind"] = json!([kind]);
            }
            all.insert(ty.name.to_string(), value);
        }
        all
    }

    fn write(&mut self, ty: &Type) -> Value {
        let mut value = match &ty.alias {
            Some(shape) => self.shape(shape),
            None => json!({"type": "object"}),
        };
        if let Some(text) = self.docs.of_type(&ty.name) {
            value["description"] = text.into();
        }
        if !ty.fields.is_empty() {
            let properties: Map<String, Value> =
                ty.fields.iter().map(|f| (f.name.to_string(), self.field(ty, f))).collect();
            value["properties"] = properties.into();
        }
        let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| &*f.name).collect();
        if !required.is_empty() {
            value["required"] = json!(required);
        }
        if ty.atomic {
            value["x-kubernetes-map-type"] = "atomic".into();
        }
        value
    }

    fn field(&mut self, ty: &Type, field: &Field) -> Value {
        let shape = self.shape(&field.shape);
        let mut value = if shape.get("$ref").is_some() && self.root.starts_with("#/components") {
            json!({"allOf": [shape]})
        } else {
            shape
        };
        if let Some(text) = self.docs.of_field(&ty.name, &field.name) {
            value["description"] = text.into();
        }
        if let Some(values) = self.docs.values_of(&ty.name, &field.name) {
            let one = if matches!(field.shape, Shape::List(_)) { &mut value["items"] } else { &mut value };
            one["enum"] = json!(values);
        }
        if let Some(default) = &field.default {
            value["default"] = default.clone();
        }
        match &field.list_type {
            ListType::Map(keys) => {
                value["x-kubernetes-list-type"] = "map".into();
                value["x-kubernetes-list-map-keys"] = json!(keys);
            }
            ListType::Set => value["x-kubernetes-list-type"] = "set".into(),
            ListType::Atomic if field.atomic && matches!(field.shape, Shape::List(_)) => {
                value["x-kubernetes-list-type"] = "atomic".into();
            }
            ListType::Atomic if field.atomic => value["x-kubernetes-map-type"] = "atomic".into(),
            ListType::Atomic => {}
        }
        if let Some(key) = &field.patch_merge_key {
            value["x-kubernetes-patch-merge-key"] = json!(key);
        }
        if !field.patch_strategy.is_empty() {
            value["x-kubernetes-patch-strategy"] = field.patch_strategy.join(",").into();
        }
        value
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Quantity => json!({"type": "string"}),
            Shape::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Shape::Any => json!({"type": "object"}),
            Shape::List(item) => json!({"type": "array", "items": self.shape(item)}),
            Shape::Map(item) => json!({"type": "object", "additionalProperties": self.shape(item)}),
            Shape::Ref(id) => {
                self.need(*id);
                json!({"$ref": format!("{}{}", self.root, self.types.get(*id).name)})
            }
        }
    }
}
