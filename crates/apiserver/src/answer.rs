//! Objects and lists in the form asked for: JSON or YAML; themselves, their metadata, or a table.

use api::{Object, Status};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use registry::{Item, Listed, Written};
use serde::Serialize;
use serde_json::Value;

use crate::body::Body;
use crate::negotiate::{Accepted, Form};
use crate::server::{Call, Endpoint, Server};
use crate::{respond, table};

/// An object as JSON of the endpoint's version.
pub(crate) fn object_bytes(endpoint: &Endpoint, item: &Item) -> Result<Bytes, Status> {
    let version = &endpoint.resource.versions[endpoint.version];
    if version.convert.is_none() {
        return Ok(item.answer(&version.head));
    }
    serde_json::to_vec(&converted(endpoint, item)?.0).map(Into::into).map_err(Status::internal)
}

/// An object in the endpoint's version, where that is not the stored form.
fn converted(endpoint: &Endpoint, item: &Item) -> Result<Object, Status> {
    let mut object = item.object()?;
    show_as(endpoint, &mut object);
    Ok(object)
}

/// Makes an object in the stored form one of the endpoint's version.
pub(crate) fn show_as(endpoint: &Endpoint, object: &mut Object) {
    if let Some(convert) = &endpoint.resource.versions[endpoint.version].convert {
        convert.restore(object);
    }
    object.set_type(&endpoint.resource.api_version(endpoint.version), &endpoint.resource.kind);
}

fn partial_head(accepted: Accepted) -> String {
    format!("\"apiVersion\":\"meta.k8s.io/{}\",\"kind\":\"PartialObjectMetadata\",", accepted.meta)
}

/// An object's metadata alone.
pub(crate) fn partial_bytes(endpoint: &Endpoint, item: &Item, accepted: Accepted) -> Result<Bytes, Status> {
    let mut out = BytesMut::with_capacity(1024);
    write_partial(endpoint, &mut out, &partial_head(accepted), item)?;
    Ok(out.freeze())
}

fn write_partial(endpoint: &Endpoint, out: &mut BytesMut, head: &str, item: &Item) -> Result<(), Status> {
    if endpoint.resource.versioned_annotations.is_empty() {
        item.layout.write_partial(out, head, &item.raw, item.revision.0);
        return Ok(());
    }
    let mut metadata: Value =
        serde_json::from_slice(item.layout.metadata(&item.raw)).map_err(Status::internal)?;
    metadata["resourceVersion"] = item.revision.to_string().into();
    table::take_versioned(endpoint, &mut metadata);
    out.extend_from_slice(format!("{{{head}\"metadata\":{metadata}}}").as_bytes());
    Ok(())
}

impl Server {
    /// A list in the form asked for.
    ///
    /// # Errors
    /// 406 for one object's form, 400 for a table's that is none.
    pub(crate) fn answer_listed(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        listed: &Listed,
        accepted: Accepted,
    ) -> Result<Response<Body>, Status> {
        match accepted.form {
            Form::Table => {
                let objects = listed.items.iter().map(|i| i.object()).collect::<Result<Vec<_>, _>>()?;
                let rows = table::rows(endpoint, &objects, call, accepted, self.engine.now())?;
                Ok(encode(StatusCode::OK, &table::list(endpoint, rows, listed, call, accepted), accepted))
            }
            Form::Metadata { list: false } => Err(Status::not_acceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{}List)",
                go_type(endpoint)
            ))),
            Form::Metadata { list: true } => {
                let head = format!(
                    "\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{}\",",
                    accepted.meta
                );
                let partial = partial_head(accepted);
                let bytes =
                    list_bytes(&head, listed, |out, item| write_partial(endpoint, out, &partial, item))?;
                Ok(yaml_or(StatusCode::OK, bytes, accepted))
            }
            Form::Object => {
                let head = format!(
                    "\"kind\":\"{}List\",\"apiVersion\":\"{}\",",
                    endpoint.resource.kind,
                    endpoint.resource.api_version(endpoint.version)
                );
                let converts = endpoint.resource.versions[endpoint.version].convert.is_some();
                let bytes = list_bytes(&head, listed, |out, item| {
                    if converts {
                        let mut object = converted(endpoint, item)?;
                        object.0.remove("apiVersion");
                        object.0.remove("kind");
                        out.extend_from_slice(&serde_json::to_vec(&object.0).map_err(Status::internal)?);
                    } else {
                        item.layout.write_item(out, &item.raw, item.revision.0);
                    }
                    Ok(())
                })?;
                Ok(yaml_or(StatusCode::OK, bytes, accepted))
            }
        }
    }

    /// The object that a write left, in the form asked for.
    pub(crate) fn answer_written(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        accepted: Accepted,
        written: &Written,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = match accepted.form {
            Form::Object => {
                let mut object = written.object.clone();
                show_as(endpoint, &mut object);
                encode(code, &object.0, accepted)
            }
            Form::Metadata { list: true } => return Err(no_list(endpoint)),
            Form::Metadata { list: false } => {
                let mut metadata = written.object.0.get("metadata").cloned().unwrap_or_default();
                table::take_versioned(endpoint, &mut metadata);
                encode(code, &table::partial(metadata, accepted), accepted)
            }
            Form::Table => {
                let object = &written.object;
                let revision = object.resource_version().parse().map(store::Revision).unwrap_or_default();
                self.answer_table(call, endpoint, object, revision, (accepted, code))?
            }
        };
        respond::warn(response.headers_mut(), warnings);
        Ok(response)
    }

    /// An object as a table of one row.
    fn answer_table(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        object: &Object,
        revision: store::Revision,
        (accepted, code): (Accepted, StatusCode),
    ) -> Result<Response<Body>, Status> {
        let rows = table::rows(endpoint, std::slice::from_ref(object), call, accepted, self.engine.now())?;
        Ok(encode(code, &table::single(endpoint, rows, revision, call, accepted), accepted))
    }

    /// One object in the form asked for.
    ///
    /// # Errors
    /// 406 for a list's form, 400 for a table's that is none.
    pub(crate) fn answer_item(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        item: &Item,
        accepted: Accepted,
    ) -> Result<Response<Body>, Status> {
        let code = StatusCode::OK;
        match accepted.form {
            Form::Object => Ok(yaml_or(code, object_bytes(endpoint, item)?, accepted)),
            Form::Metadata { list: true } => Err(no_list(endpoint)),
            Form::Metadata { list: false } => {
                Ok(yaml_or(code, partial_bytes(endpoint, item, accepted)?, accepted))
            }
            Form::Table => {
                self.answer_table(call, endpoint, &item.object()?, item.revision, (accepted, code))
            }
        }
    }
}

/// The kind's type in upstream's messages.
fn go_type(endpoint: &Endpoint) -> String {
    let resource = &endpoint.resource;
    let package = if resource.group.is_empty() { "core" } else { &resource.group };
    format!("{}.{}", package.split('.').next().unwrap_or(package), resource.kind)
}

fn no_list(endpoint: &Endpoint) -> Status {
    Status::not_acceptable(format!(
        "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
        go_type(endpoint)
    ))
}

/// JSON bytes as they are, or as YAML.
pub(crate) fn yaml_or(code: StatusCode, bytes: Bytes, accepted: Accepted) -> Response<Body> {
    if !accepted.yaml {
        return respond::json_bytes(code, bytes);
    }
    let value: Result<Value, _> = serde_json::from_slice(&bytes);
    let text = value.map_err(|e| e.to_string()).and_then(|v| codec::to_yaml(&v).map_err(|e| e.to_string()));
    match text {
        Ok(text) => {
            let mut response = Response::new(Body::full(text));
            *response.status_mut() = code;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
            response
        }
        Err(error) => respond::status(&Status::internal(error)),
    }
}

pub(crate) fn encode<T: Serialize>(code: StatusCode, value: &T, accepted: Accepted) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => yaml_or(code, bytes.into(), accepted),
        Err(error) => respond::status(&Status::internal(error)),
    }
}

/// A list is its head and its items, one behind the other.
fn list_bytes(
    head: &str,
    listed: &Listed,
    mut write: impl FnMut(&mut BytesMut, &Item) -> Result<(), Status>,
) -> Result<Bytes, Status> {
    let room: usize = listed.items.iter().map(|i| i.layout.size_hint(&i.raw) + 1).sum();
    let mut out = BytesMut::with_capacity(room + 256);
    out.extend_from_slice(b"{");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b"\"metadata\":");
    let metadata = serde_json::to_vec(&list_meta(listed)).map_err(Status::internal)?;
    out.extend_from_slice(&metadata);
    out.extend_from_slice(b",\"items\":[");
    for (i, item) in listed.items.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b",");
        }
        write(&mut out, item)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out.freeze())
}

pub(crate) fn list_meta(listed: &Listed) -> api::status::ListMeta {
    api::status::ListMeta {
        resource_version: listed.revision.to_string(),
        continue_: listed.continue_.clone(),
        remaining_item_count: listed.remaining,
    }
}
