//! The verbs that create, replace and delete.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use http::{Response, StatusCode};
use registry::{
    DeleteOptions, Deleted, FieldValidation, ListOptions, Part, Preconditions, RequestContext, Resource,
    UpdateOptions, Written,
};
use serde_json::Value;

use crate::answer::encode;
use crate::body::Body;
use crate::decode::Encoding;
use crate::info::Info;
use crate::negotiate::{self, Accepted};
use crate::options::OptionsKind;
use crate::respond;
use crate::server::{Call, Endpoint, Server, read_body};

/// What every write reads of its request before the body.
pub(crate) struct Asked {
    pub cx: RequestContext,
    pub validation: FieldValidation,
    /// Of an apply: take the fields that others hold.
    pub force: bool,
    pub accepted: Accepted,
}

impl Call {
    /// # Errors
    /// 406 where the answer cannot be given as asked, 422 with every fault of the options.
    pub fn asked(&self, endpoint: &Endpoint, kind: OptionsKind) -> Result<Asked, Status> {
        let accepted = negotiate::accepted(&self.parts.headers, false)?;
        let options = self.query.write(kind)?;
        let cx = RequestContext {
            user: self.user.clone(),
            dry_run: options.dry_run,
            field_manager: self.field_manager(),
            api_version: endpoint.resource.api_version(endpoint.version),
        };
        Ok(Asked { cx, validation: options.validation, force: options.force, accepted })
    }
}

/// Whether a changed object is the one that the path names; its namespace is the engine's to look at.
pub(crate) fn check_name(info: &Info, object: &Object) -> Result<(), Status> {
    let (given, wanted) = (object.name(), info.name.as_str());
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != wanted {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({wanted})"
        )));
    }
    Ok(())
}

/// Whether an object that says where it is says what the path says; what is in no namespace may say anything.
pub(crate) fn check_namespace(namespace: &str, object: &Object) -> Result<(), Status> {
    let given = object.namespace();
    if given.is_empty() || namespace.is_empty() || given == namespace {
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

impl Server {
    pub(crate) async fn create(
        self: &Arc<Self>,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let asked = call.asked(endpoint, OptionsKind::Create)?;
        let bytes = read_body(body).await?;
        if let Some(act) = &endpoint.resource.act {
            return self
                .act(call, &**act, (&endpoint.resource.group, "", asked), (&info.namespace, ""), &bytes)
                .await;
        }
        let decoded = self.decode_object(call, endpoint, &bytes)?;
        let (object, mut warnings) =
            endpoint.resource.object_of(endpoint.version, decoded, asked.validation)?;
        let written = self.engine.create(&endpoint.resource, &asked.cx, &info.namespace, object).await?;
        warnings.extend(written.warnings.iter().cloned());
        self.answer_written(call, endpoint, asked.accepted, &written, &warnings)
    }

    pub(crate) async fn replace(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let asked = call.asked(endpoint, OptionsKind::Update)?;
        let bytes = read_body(body).await?;
        let decoded = self.decode_object(call, endpoint, &bytes)?;
        let (object, mut warnings) =
            endpoint.resource.object_of(endpoint.version, decoded, asked.validation)?;
        check_name(info, &object)?;
        let uid = object.uid().to_owned();
        let options = UpdateOptions {
            preconditions: Preconditions { uid: (!uid.is_empty()).then_some(uid), resource_version: None },
            ..UpdateOptions::default()
        };
        let change = |current: Option<&Object>| {
            if current.is_none() {
                self.check_verb(call, info, "create")?;
            }
            Ok((object.clone(), Vec::new()))
        };
        let at = (info.namespace.as_str(), info.name.as_str());
        let written = self.engine.update(&endpoint.resource, &asked.cx, at, part, &change, &options).await?;
        warnings.extend(written.warnings.iter().cloned());
        self.answer_written(call, endpoint, asked.accepted, &written, &warnings)
    }

    pub(crate) async fn delete(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let body = delete_body(call, &read_body(body).await?)?;
        let (options, dry_run) = call.query.delete(body.as_ref())?;
        let cx = call.context_of(endpoint, dry_run);
        let resource = &endpoint.resource;
        let deleted = self.engine.delete(resource, &cx, (&info.namespace, &info.name), &options).await?;
        let mut answer = match deleted {
            Deleted::Gone(object) if !resource.answers_deleted => {
                encode(StatusCode::OK, &resource.deleted_status(&object), accepted)
            }
            Deleted::Gone(object) | Deleted::Pending(object) => {
                let written = Written { object, created: false, warnings: Vec::new() };
                self.answer_written(call, endpoint, accepted, &written, &[])?
            }
        };
        respond::warn(answer.headers_mut(), &orphan_warning(resource, &options));
        Ok(answer)
    }

    pub(crate) async fn delete_collection(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let body = delete_body(call, &read_body(body).await?)?;
        let (options, dry_run) = call.query.delete(body.as_ref())?;
        let chosen: ListOptions = call.query.list(&endpoint.resource, &info.namespace)?;
        let listed = self.engine.list(&endpoint.resource, &chosen).await?;
        let cx = call.context_of(endpoint, dry_run);
        self.engine.delete_collection(&endpoint.resource, &cx, &listed.items, &options).await?;
        let mut answer = self.answer_listed(call, endpoint, &listed, accepted)?;
        if !listed.items.is_empty() {
            respond::warn(answer.headers_mut(), &orphan_warning(&endpoint.resource, &options));
        }
        Ok(answer)
    }
}

/// What who does not say what becomes of dependents is told of it.
fn orphan_warning(resource: &Resource, options: &DeleteOptions) -> Vec<String> {
    let warning = resource.strategy.orphan_warning().filter(|_| options.propagation.is_none());
    warning.map(ToOwned::to_owned).into_iter().collect()
}

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// The kind that a delete's body may name, whatever its group.
const DELETE_KIND: &str = "DeleteOptions";

/// The options in a delete's body. What is wrong with them upstream tells without a reason.
fn delete_body(call: &Call, bytes: &Bytes) -> Result<Option<Value>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let decoded = Encoding::of(&call.parts.headers)?.decode(bytes, DELETE_OPTIONS).map_err(Status::plain)?;
    let Value::Object(mut map) = decoded.value else { return Ok(None) };
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !kind.is_empty() && kind != DELETE_KIND {
        let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        return Err(Status::plain(format!(
            "no kind {} is registered for version {} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
            api::field::quote(kind),
            api::field::quote(version)
        )));
    }
    let types = schema::builtin();
    let ty = types.lookup(DELETE_OPTIONS).ok_or_else(|| Status::internal("no schema for DeleteOptions"))?;
    types.conform(ty, &mut map).map_err(|e| Status::plain(e.to_string()))?;
    Ok(Some(Value::Object(map)))
}
