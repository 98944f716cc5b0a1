//! The verbs that write, and subresources.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use codec::{Decoded, decode_json, decode_protobuf, decode_yaml};
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use registry::resource::Act;
use registry::{
    Action, Deleted, FieldValidation, ListOptions, Part, Subresource, UpdateOptions, View, Written,
};
use serde_json::Value;

use crate::body::Body;
use crate::info::Info;
use crate::negotiate::{self, Form};
use crate::resource::{encode, list_meta};
use crate::server::{Call, Endpoint, Server, read_body};
use crate::{respond, table};

/// The patches, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patch {
    Json,
    Merge,
    Strategic,
}

const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

fn essence(call: &Call) -> String {
    let header = call.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Decodes a body by its content type; protobuf needs the type's name.
fn decode(call: &Call, body: &[u8], kind: &str, type_name: &str) -> Result<Decoded, Status> {
    let essence = essence(call);
    let (decoded, what) = match essence.as_str() {
        "" | "application/json" | "*/*" => (decode_json(body), "json"),
        "application/yaml" => (decode_yaml(body), "yaml"),
        "application/vnd.kubernetes.protobuf" => (decode_protobuf(body, type_name), "protobuf"),
        _ => {
            return Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    decoded.map_err(|e| {
        let shown = String::from_utf8_lossy(body);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {what} parse error: {e} ({})",
            shown_body(&shown)
        ))
    })
}

impl Endpoint {
    fn decode(&self, call: &Call, body: &[u8]) -> Result<Decoded, Status> {
        let version = &self.resource.versions[self.version];
        decode(call, body, &self.resource.kind, &version.types.get(version.ty).name)
    }
}

/// The start of a body as upstream shows it in messages: text, or hex where it is long.
fn shown_body(body: &str) -> String {
    if body.len() > 10 && body.contains(|c: char| c.is_control()) { "…".into() } else { body.to_owned() }
}

impl Server {
    pub(crate) async fn create(
        self: &Arc<Self>,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let dry_run = call.query.dry_run()?;
        let validation = call.query.field_validation()?;
        let bytes = read_body(body).await?;
        if let Some(act) = &endpoint.resource.act {
            let act = act.clone();
            return self.act(call, &*act, (&info.namespace, ""), &bytes, validation).await;
        }
        let decoded = endpoint.decode(call, &bytes)?;
        let (object, mut warnings) = endpoint.resource.object_of(endpoint.version, decoded, validation)?;
        let cx = call.context(dry_run);
        let namespace = self.namespace_of(endpoint, info, &object)?;
        let written = self.engine.create(&endpoint.resource, &cx, &namespace, object).await?;
        warnings.extend(written.warnings.iter().cloned());
        self.answer_written(call, endpoint, &written, &warnings)
    }

    /// A POST to a namespaced collection without a namespace in its path takes the body's.
    fn namespace_of(&self, endpoint: &Endpoint, info: &Info, object: &Object) -> Result<String, Status> {
        if !endpoint.resource.namespaced() || !info.namespace.is_empty() {
            return Ok(info.namespace.clone());
        }
        let _ = object;
        Err(Status::method_not_allowed())
    }

    pub(crate) async fn update(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        self.put(call, endpoint, info, body, Part::Main).await
    }

    async fn put(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let cx = call.context(call.query.dry_run()?);
        let validation = call.query.field_validation()?;
        let bytes = read_body(body).await?;
        let decoded = endpoint.decode(call, &bytes)?;
        let (object, mut warnings) = endpoint.resource.object_of(endpoint.version, decoded, validation)?;
        if object.name() != info.name {
            let (given, wanted) = (object.name(), info.name.as_str());
            let why = if given.is_empty() {
                "name must be provided".to_owned()
            } else {
                format!("the name of the object ({given}) does not match the name on the URL ({wanted})")
            };
            return Err(Status::bad_request(if given.is_empty() {
                format!("the name of the object ({given} based on URL) was undeterminable: {why}")
            } else {
                why
            }));
        }
        let uid = object.uid().to_owned();
        let options = UpdateOptions {
            preconditions: registry::Preconditions {
                uid: (!uid.is_empty()).then_some(uid),
                resource_version: None,
            },
            ..UpdateOptions::default()
        };
        let change = |_: Option<&Object>| Ok((object.clone(), Vec::new()));
        let written = self
            .engine
            .update(&endpoint.resource, &cx, (&info.namespace, &info.name), part, &change, &options)
            .await?;
        warnings.extend(written.warnings.iter().cloned());
        self.answer_written(call, endpoint, &written, &warnings)
    }

    pub(crate) async fn patch(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        self.patch_part(call, endpoint, info, body, Part::Main).await
    }

    async fn patch_part(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let cx = call.context(call.query.dry_run()?);
        let validation = call.query.field_validation()?;
        let patch = patch_type(call)?;
        let bytes = read_body(body).await?;
        let document = patch_document(&bytes)?;
        let resource = &endpoint.resource;
        let version = &resource.versions[endpoint.version];
        let change = |current: Option<&Object>| {
            let mut current =
                current.cloned().ok_or_else(|| Status::not_found(&resource.group_resource(), &info.name))?;
            if let Some(convert) = &version.convert {
                convert.restore(&mut current);
            }
            let name = current.name().to_owned();
            let version_before = current.resource_version().to_owned();
            let patched = apply(patch, version, current.into_value(), &document, &resource.kind)?;
            let shown =
                if patch == Patch::Strategic { go_shown(&document.value) } else { "\"<object>\"".to_owned() };
            let refuse = |why: &str| {
                let mut errors = api::field::Errors::default();
                errors.invalid(&api::field::Path::new("patch"), api::field::Bare(shown.clone()), why);
                Status::invalid(&api::GroupKind { group: String::new(), kind: String::new() }, "", &errors)
            };
            let (mut object, faults) =
                resource.object_of_patch(endpoint.version, patched).map_err(|e| refuse(&e))?;
            let duplicates = document.duplicates.iter().map(|d| format!("duplicate field \"{d}\""));
            let faults: Vec<String> = duplicates.chain(faults).collect();
            let warnings = match validation {
                FieldValidation::Strict if !faults.is_empty() => {
                    return Err(refuse(&format!("strict decoding error: {}", faults.join(", "))));
                }
                FieldValidation::Warn => faults,
                _ => Vec::new(),
            };
            if object.name() != name {
                return Err(Status::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({name})",
                    object.name()
                )));
            }
            // A patch that does not speak of the version does not guard it.
            if object.resource_version() == version_before {
                object.remove_meta("resourceVersion");
            }
            Ok((object, warnings))
        };
        let written = self
            .engine
            .update(
                resource,
                &cx,
                (&info.namespace, &info.name),
                part,
                &change,
                &UpdateOptions { from_newest: true, ..UpdateOptions::default() },
            )
            .await?;
        self.answer_written(call, endpoint, &written, &written.warnings)
    }

    pub(crate) async fn delete(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let bytes = read_body(body).await?;
        let body = delete_body(call, &bytes)?;
        let (options, dry_run) = call.query.delete(body.as_ref())?;
        let cx = call.context(dry_run);
        let resource = &endpoint.resource;
        let deleted = self.engine.delete(resource, &cx, (&info.namespace, &info.name), &options).await?;
        match &deleted {
            Deleted::Gone(object) if !resource.answers_deleted => {
                Ok(respond::json(StatusCode::OK, &resource.deleted_status(object)))
            }
            Deleted::Gone(object) | Deleted::Pending(object) => {
                let written = Written { object: object.clone(), created: false, warnings: Vec::new() };
                self.answer_written(call, endpoint, &written, &[])
            }
        }
    }

    pub(crate) async fn delete_collection(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let bytes = read_body(body).await?;
        let body = delete_body(call, &bytes)?;
        let (options, dry_run) = call.query.delete(body.as_ref())?;
        let chosen: ListOptions = call.query.list(&endpoint.resource, &info.namespace)?;
        let listed = self.engine.list(&endpoint.resource, &chosen).await?;
        let cx = call.context(dry_run);
        self.engine.delete_collection(&endpoint.resource, &cx, &listed.items, &options).await?;
        let items: Vec<Value> = listed
            .items
            .iter()
            .map(|i| {
                i.object().map(|mut o| {
                    o.0.remove("kind");
                    o.0.remove("apiVersion");
                    o.into_value()
                })
            })
            .collect::<Result<_, _>>()?;
        let list = serde_json::json!({
            "kind": format!("{}List", endpoint.resource.kind),
            "apiVersion": endpoint.resource.api_version(endpoint.version),
            "metadata": list_meta(&listed),
            "items": items,
        });
        Ok(encode(StatusCode::OK, &list, accepted))
    }

    pub(crate) async fn subresource_request(
        self: Arc<Self>,
        call: Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let sub: Subresource =
            endpoint.resource.subresource(&info.subresource).cloned().ok_or_else(Status::path_not_found)?;
        let method = call.parts.method.clone();
        match &sub.action {
            Action::Connect(connect) => self.connect(call, endpoint, info, &**connect, body).await,
            Action::Create(act) if method == Method::POST => {
                let validation = call.query.field_validation()?;
                let bytes = read_body(body).await?;
                self.act(&call, &**act, (&info.namespace, &info.name), &bytes, validation).await
            }
            Action::Create(_) => Err(Status::method_not_allowed()),
            Action::View(view) => self.view(&call, endpoint, info, &sub, &**view, body).await,
            Action::Status | Action::Part(_) => {
                let part = match &sub.action {
                    Action::Part(hook) => Part::Hook(sub.name, &**hook),
                    _ => Part::Status,
                };
                match method {
                    Method::PUT => self.put(&call, endpoint, info, body, part).await,
                    Method::PATCH => self.patch_part(&call, endpoint, info, body, part).await,
                    Method::GET | Method::HEAD => {
                        let accepted = negotiate::accepted(&call.parts.headers, false)?;
                        let item =
                            self.engine.get(&endpoint.resource, &info.namespace, &info.name, None).await?;
                        crate::resource::answer_item(&self, &call, endpoint, &item, accepted, StatusCode::OK)
                    }
                    _ => Err(Status::method_not_allowed()),
                }
            }
        }
    }

    /// Posts to something that acts.
    async fn act(
        self: &Arc<Self>,
        call: &Call,
        act: &dyn Act,
        (namespace, name): (&str, &str),
        bytes: &[u8],
        validation: FieldValidation,
    ) -> Result<Response<Body>, Status> {
        let posted = typed(call, bytes, act.type_name(), validation)?;
        let cx = call.context(call.query.dry_run()?);
        let answer = act.act(&self.engine, &cx, (namespace, name), posted).await?;
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        Ok(encode(StatusCode::CREATED, &answer.0, accepted))
    }

    /// Reads and writes an object as another kind.
    async fn view(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        sub: &Subresource,
        view: &dyn View,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let resource = &endpoint.resource;
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let at = (info.namespace.as_str(), info.name.as_str());
        let object = match call.parts.method {
            Method::GET | Method::HEAD => self.engine.get(resource, at.0, at.1, None).await?.object()?,
            Method::PUT | Method::PATCH => {
                let cx = call.context(call.query.dry_run()?);
                let validation = call.query.field_validation()?;
                let patch = (call.parts.method == Method::PATCH).then(|| patch_type(call)).transpose()?;
                let bytes = read_body(body).await?;
                let change = |current: Option<&Object>| {
                    let mut object = current
                        .cloned()
                        .ok_or_else(|| Status::not_found(&resource.group_resource(), at.1))?;
                    let asked = match patch {
                        None => typed(call, &bytes, view.type_name(), validation)?,
                        Some(patch) => {
                            let mut shown = view.show(&object);
                            shown.remove_meta("resourceVersion");
                            patched_view(patch, &bytes, shown, view.type_name())?
                        }
                    };
                    view.take(&asked, &mut object)?;
                    Ok((object, Vec::new()))
                };
                let written = self
                    .engine
                    .update(resource, &cx, at, Part::Main, &change, &UpdateOptions::default())
                    .await?;
                written.object
            }
            _ => return Err(Status::method_not_allowed()),
        };
        let _ = sub;
        Ok(encode(StatusCode::OK, &view.show(&object).0, accepted))
    }

    /// The object that a write left, in the form asked for.
    fn answer_written(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        written: &Written,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut object = written.object.clone();
        if let Some(convert) = &endpoint.resource.versions[endpoint.version].convert {
            convert.restore(&mut object);
        }
        object.set_type(&endpoint.resource.api_version(endpoint.version), &endpoint.resource.kind);
        let mut response = match accepted.form {
            Form::Object => encode(code, &object.0, accepted),
            Form::Metadata => {
                let metadata = object.0.remove("metadata").unwrap_or_default();
                let partial = serde_json::json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                });
                encode(code, &partial, accepted)
            }
            Form::Table => {
                let revision = object.resource_version().parse().map(store::Revision).unwrap_or_default();
                let rows = table::rows(endpoint, std::slice::from_ref(&object), call, self.engine.now())?;
                encode(code, &table::single(endpoint, rows, revision, call), accepted)
            }
        };
        respond::warn(response.headers_mut(), warnings);
        Ok(response)
    }
}

/// A body of a built-in type that is no resource of its own.
fn typed(call: &Call, bytes: &[u8], type_name: &str, validation: FieldValidation) -> Result<Object, Status> {
    let kind = type_name.rsplit('.').next().unwrap_or(type_name);
    let decoded = decode(call, bytes, kind, type_name)?;
    let types = schema::builtin();
    let ty = types.lookup(type_name).ok_or_else(|| Status::internal(format!("no schema for {type_name}")))?;
    let Value::Object(map) = decoded.value else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind})"
        )));
    };
    let mut object = Object(map);
    let cannot = |why: &str| {
        let version = type_name.rsplit('.').nth(1).unwrap_or_default();
        Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
    };
    if !object.kind().is_empty() && object.kind() != kind {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): it is a {}",
            object.kind()
        )));
    }
    let found = types.conform(ty, &mut object.0).map_err(|e| cannot(&e.to_string()))?;
    if validation == FieldValidation::Strict && !found.unknown.is_empty() {
        let all: Vec<String> = found.unknown.iter().map(|u| format!("unknown field \"{u}\"")).collect();
        return Err(cannot(&format!("strict decoding error: {}", all.join(", "))));
    }
    types.default(ty, &mut object.0);
    Ok(object)
}

fn patched_view(patch: Patch, bytes: &[u8], shown: Object, type_name: &str) -> Result<Object, Status> {
    let document = patch_document(bytes)?;
    let types = schema::builtin();
    let ty = types.lookup(type_name).ok_or_else(|| Status::internal(format!("no schema for {type_name}")))?;
    let value = match patch {
        Patch::Json => patch::json_patch(shown.into_value(), &document.value),
        Patch::Merge => patch::merge_patch(shown.into_value(), &document.value),
        Patch::Strategic => patch::strategic_merge(types, ty, shown.into_value(), &document.value),
    };
    let Value::Object(mut map) = value.map_err(Status::from)? else {
        return Err(Status::bad_request("the patched document is no object"));
    };
    types.conform(ty, &mut map).map_err(|e| Status::bad_request(e.to_string()))?;
    Ok(Object(map))
}

fn patch_type(call: &Call) -> Result<Patch, Status> {
    match essence(call).as_str() {
        "application/json-patch+json" => Ok(Patch::Json),
        "application/merge-patch+json" => Ok(Patch::Merge),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic),
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {PATCH_TYPES}"
        ))),
    }
}

fn patch_document(bytes: &[u8]) -> Result<Decoded, Status> {
    decode_json(bytes).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
}

fn apply(
    patch: Patch,
    version: &registry::Version,
    current: Value,
    document: &Decoded,
    _kind: &str,
) -> Result<Value, Status> {
    let patched = match patch {
        Patch::Json => patch::json_patch(current, &document.value),
        Patch::Merge => patch::merge_patch(current, &document.value),
        Patch::Strategic => patch::strategic_merge(&version.types, version.ty, current, &document.value),
    };
    patched.map_err(Status::from)
}

/// A patch as Go prints a map: quoted.
fn go_shown(value: &Value) -> String {
    api::field::quote(&patch::go::shown(value))
}

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

fn delete_body(call: &Call, bytes: &Bytes) -> Result<Option<Value>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut value = decode(call, bytes, "DeleteOptions", DELETE_OPTIONS)?.value;
    let types = schema::builtin();
    let ty = types.lookup(DELETE_OPTIONS);
    if let (Some(ty), Value::Object(map)) = (ty, &mut value) {
        types.conform(ty, map).map_err(|e| Status::bad_request(e.to_string()))?;
    }
    Ok(Some(value))
}
