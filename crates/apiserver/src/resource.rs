//! The verbs of a resource itself, and reads.

use std::sync::Arc;

use api::Status;
use bytes::BytesMut;
use http::{Method, Response, StatusCode};
use registry::{Item, Listed, Verb};

use crate::body::Body;
use crate::info::Info;
use crate::negotiate::{self, Accepted, Form};
use crate::server::{Call, Endpoint, Server};
use crate::{respond, table};

const PARTIAL: &str = "\"apiVersion\":\"meta.k8s.io/v1\",\"kind\":\"PartialObjectMetadata\",";

/// An object as JSON of the endpoint's version.
pub(crate) fn object_bytes(endpoint: &Endpoint, item: &Item) -> Result<bytes::Bytes, Status> {
    let version = &endpoint.resource.versions[endpoint.version];
    match &version.convert {
        None => Ok(item.answer(&version.head)),
        Some(convert) => {
            let mut object = item.object()?;
            convert.restore(&mut object);
            object.set_type(&endpoint.resource.api_version(endpoint.version), &endpoint.resource.kind);
            serde_json::to_vec(&object.0).map(Into::into).map_err(Status::internal)
        }
    }
}

pub(crate) fn partial_bytes(item: &Item) -> bytes::Bytes {
    let mut out = BytesMut::with_capacity(1024);
    item.layout.write_partial(&mut out, PARTIAL, &item.raw, item.revision.0);
    out.freeze()
}

impl Server {
    pub(crate) async fn main_request(
        self: Arc<Self>,
        call: Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let named = !info.name.is_empty();
        let watching = info.watch || call.query.flag("watch");
        let verb = match (&call.parts.method, named) {
            (&Method::GET | &Method::HEAD, _) if watching => Verb::Watch,
            (&Method::GET | &Method::HEAD, true) => Verb::Get,
            (&Method::GET | &Method::HEAD, false) => Verb::List,
            (&Method::POST, false) => Verb::Create,
            (&Method::PUT, true) => Verb::Update,
            (&Method::PATCH, true) => Verb::Patch,
            (&Method::DELETE, true) => Verb::Delete,
            (&Method::DELETE, false) => Verb::DeleteCollection,
            _ => return Err(Status::method_not_allowed()),
        };
        if !endpoint.resource.allows(verb) {
            return Err(Status::method_not_allowed());
        }
        match verb {
            Verb::Get => self.get(&call, endpoint, info).await,
            Verb::List => self.list(&call, endpoint, info).await,
            Verb::Watch => self.watch(&call, endpoint, info).await,
            Verb::Create => self.create(&call, endpoint, info, body).await,
            Verb::Update => self.update(&call, endpoint, info, body).await,
            Verb::Patch => self.patch(&call, endpoint, info, body).await,
            Verb::Delete => self.delete(&call, endpoint, info, body).await,
            Verb::DeleteCollection => self.delete_collection(&call, endpoint, info, body).await,
        }
    }

    async fn get(&self, call: &Call, endpoint: &Endpoint, info: &Info) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let revision = call.query.get_revision()?;
        let item = self.engine.get(&endpoint.resource, &info.namespace, &info.name, revision).await?;
        answer_item(self, call, endpoint, &item, accepted, StatusCode::OK)
    }

    async fn list(&self, call: &Call, endpoint: &Endpoint, info: &Info) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, false)?;
        let options = call.query.list(&endpoint.resource, &info.namespace)?;
        let listed = self.engine.list(&endpoint.resource, &options).await?;
        match accepted.form {
            Form::Table => {
                let objects = listed.items.iter().map(|i| i.object()).collect::<Result<Vec<_>, _>>()?;
                let rows = table::rows(endpoint, &objects, call, self.engine.now())?;
                Ok(encode(StatusCode::OK, &table::list(endpoint, rows, &listed, call), accepted))
            }
            Form::Metadata => Ok(yaml_or(
                list_bytes(
                    "\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",",
                    &listed,
                    |out, item| {
                        item.layout.write_partial(out, PARTIAL, &item.raw, item.revision.0);
                        Ok(())
                    },
                )?,
                accepted,
            )),
            Form::Object => {
                let head = format!(
                    "\"kind\":\"{}List\",\"apiVersion\":\"{}\",",
                    endpoint.resource.kind,
                    endpoint.resource.api_version(endpoint.version)
                );
                let converts = endpoint.resource.versions[endpoint.version].convert.is_some();
                let bytes = list_bytes(&head, &listed, |out, item| {
                    if converts {
                        out.extend_from_slice(&object_bytes(endpoint, item)?);
                    } else {
                        item.layout.write_item(out, &item.raw, item.revision.0);
                    }
                    Ok(())
                })?;
                Ok(yaml_or(bytes, accepted))
            }
        }
    }
}

/// One object in the form asked for.
pub(crate) fn answer_item(
    server: &Server,
    call: &Call,
    endpoint: &Endpoint,
    item: &Item,
    accepted: Accepted,
    code: StatusCode,
) -> Result<Response<Body>, Status> {
    match accepted.form {
        Form::Object => Ok(with_code(yaml_or(object_bytes(endpoint, item)?, accepted), code)),
        Form::Metadata => Ok(with_code(yaml_or(partial_bytes(item), accepted), code)),
        Form::Table => {
            let object = item.object()?;
            let rows = table::rows(endpoint, std::slice::from_ref(&object), call, server.engine.now())?;
            Ok(encode(code, &table::single(endpoint, rows, item.revision, call), accepted))
        }
    }
}

fn with_code(mut response: Response<Body>, code: StatusCode) -> Response<Body> {
    *response.status_mut() = code;
    response
}

/// JSON bytes as they are, or as YAML.
pub(crate) fn yaml_or(bytes: bytes::Bytes, accepted: Accepted) -> Response<Body> {
    if !accepted.yaml {
        return respond::json_bytes(StatusCode::OK, bytes);
    }
    let value: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
    let text = value.map_err(|e| e.to_string()).and_then(|v| codec::to_yaml(&v).map_err(|e| e.to_string()));
    match text {
        Ok(text) => {
            let mut response = Response::new(Body::full(text));
            let yaml = http::HeaderValue::from_static("application/yaml");
            response.headers_mut().insert(http::header::CONTENT_TYPE, yaml);
            response
        }
        Err(error) => respond::status(&Status::internal(error)),
    }
}

pub(crate) fn encode<T: serde::Serialize>(code: StatusCode, value: &T, accepted: Accepted) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_code(yaml_or(bytes.into(), accepted), code),
        Err(error) => respond::status(&Status::internal(error)),
    }
}

/// A list is its head and its items, one behind the other.
fn list_bytes(
    head: &str,
    listed: &Listed,
    mut write: impl FnMut(&mut BytesMut, &Item) -> Result<(), Status>,
) -> Result<bytes::Bytes, Status> {
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
