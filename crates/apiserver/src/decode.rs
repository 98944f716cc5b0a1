//! Bodies of requests: which encoding, which kind, and upstream's words for what is wrong with them.

use api::{Object, Status};
use bytes::Bytes;
use codec::{Decoded, decode_json, decode_protobuf, decode_yaml};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use registry::FieldValidation;
use serde_json::{Map, Value};

use crate::server::{Call, Endpoint, Server};

/// What Go's decoder reads first.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
/// Bytes of a body that a message shows.
const SHOWN: usize = 30;

/// The content type without its parameters, lower case.
pub(crate) fn essence(headers: &HeaderMap) -> String {
    let header = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    /// # Errors
    /// 415 for a content type that is not served.
    pub fn of(headers: &HeaderMap) -> Result<Encoding, Status> {
        match essence(headers).as_str() {
            "" | "application/json" | "*/*" => Ok(Encoding::Json),
            "application/yaml" => Ok(Encoding::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
            _ => Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            )),
        }
    }

    /// Decodes a map; protobuf needs the type's name.
    ///
    /// # Errors
    /// What upstream's decoder says.
    pub fn decode(self, body: &Bytes, type_name: &str) -> Result<Decoded, String> {
        let json = |e: &dyn std::fmt::Display| format!("couldn't get version/kind; json parse error: {e}");
        let mut decoded = match self {
            Encoding::Json => decode_json(body).map_err(|e| json(&e))?.from_source(body.clone()),
            Encoding::Yaml => decode_yaml(body).map_err(|e| e.to_string())?,
            Encoding::Protobuf => decode_protobuf(body, type_name).map_err(|e| e.to_string())?,
        };
        match decoded.value {
            Value::Object(_) => {}
            Value::Null => decoded.value = Value::Object(Map::new()),
            other => {
                let word = patch::go::json_word(&other);
                return Err(json(&format!(
                    "json: cannot unmarshal {word} into Go value of type {TYPE_META}"
                )));
            }
        }
        Ok(decoded)
    }
}

/// The start of a body as upstream's messages show it.
fn summary(body: &[u8]) -> String {
    let start = &body[..body.len().min(SHOWN)];
    let rest = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{rest}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{rest}", start.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

fn text<'v>(body: &'v Value, name: &str) -> &'v str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Upstream's word for a kind that its scheme does not have.
pub(crate) fn not_registered(api_version: &str, kind: &str) -> String {
    format!(
        "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        api::field::quote(kind),
        api::field::quote(api_version)
    )
}

impl Server {
    /// Decodes a body that should hold `kind`.
    pub(crate) fn decode(
        &self,
        call: &Call,
        body: &Bytes,
        kind: (&str, &str),
        type_name: &str,
    ) -> Result<Decoded, Status> {
        let decoded = Encoding::of(&call.parts.headers)?.decode(body, type_name).map_err(|why| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): {why} ({})",
                kind.1,
                summary(body)
            ))
        })?;
        self.check_kind(&decoded.value, kind).map_err(|why| {
            let version = text(&decoded.value, "apiVersion").rsplit('/').next().unwrap_or_default();
            Status::bad_request(format!(
                "{} in version {} cannot be handled as a {}: {why}",
                text(&decoded.value, "kind"),
                api::field::quote(version),
                kind.1
            ))
        })?;
        Ok(decoded)
    }

    /// Whether a body that says what it is says that it is this kind. A body that leaves out either
    /// half is taken for what is expected.
    pub(crate) fn check_kind(&self, body: &Value, (group, kind): (&str, &str)) -> Result<(), String> {
        let (api_version, given) = (text(body, "apiVersion"), text(body, "kind"));
        if given.is_empty() || api_version.is_empty() {
            return Ok(());
        }
        let known = self.knows_kind(api_version, given);
        if given == kind {
            let own = api_version.rsplit_once('/').map_or("", |(group, _)| group) == group;
            // Kinds that are no resource (`Eviction`) are known by their group alone.
            let resource = self.kinds_named(kind);
            return if known || own && !resource { Ok(()) } else { Err(not_registered(api_version, given)) };
        }
        if !known {
            return Err(not_registered(api_version, given));
        }
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
        Err(format!("converting ({version}.{given}) to ({package}.{kind}): unknown conversion"))
    }

    pub(crate) fn decode_object(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        body: &Bytes,
    ) -> Result<Decoded, Status> {
        let resource = &endpoint.resource;
        let version = &resource.versions[endpoint.version];
        self.decode(call, body, (&resource.group, &resource.kind), &version.types.get(version.ty).name)
    }

    /// A body of a built-in type that is no resource of its own.
    pub(crate) fn decode_typed(
        &self,
        call: &Call,
        bytes: &Bytes,
        (group, type_name): (&str, &str),
        validation: FieldValidation,
    ) -> Result<Object, Status> {
        let kind = type_name.rsplit('.').next().unwrap_or(type_name);
        let decoded = self.decode(call, bytes, (group, kind), type_name)?;
        let types = schema::builtin();
        let ty =
            types.lookup(type_name).ok_or_else(|| Status::internal(format!("no schema for {type_name}")))?;
        let Value::Object(map) = decoded.value else {
            return Err(Status::internal("a decoded body is a map"));
        };
        let mut object = Object(map);
        let version = type_name.rsplit('.').nth(1).unwrap_or_default();
        let cannot = |why: &str| {
            let version = api::field::quote(version);
            Status::bad_request(format!("{kind} in version {version} cannot be handled as a {kind}: {why}"))
        };
        let found = types.conform(ty, &mut object.0).map_err(|e| cannot(&e.to_string()))?;
        if validation == FieldValidation::Strict && !found.unknown.is_empty() {
            let all: Vec<String> = found.unknown.iter().map(|u| format!("unknown field \"{u}\"")).collect();
            return Err(cannot(&format!("strict decoding error: {}", all.join(", "))));
        }
        types.default(ty, &mut object.0);
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        object.set_type(&api_version, kind);
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_shown_by_their_start() {
        assert_eq!(summary(b""), "<empty>");
        assert_eq!(summary(b"{"), "{");
        assert_eq!(summary(b"\"x\""), "227822");
        assert_eq!(
            summary(br#"{"apiVersion":"v1","kind":"ConfigMap"}"#),
            r#"{"apiVersion":"v1","kind":"Con ..."#
        );
    }

    fn fails(encoding: Encoding, body: &'static [u8], message: &str) {
        assert_eq!(encoding.decode(&Bytes::from_static(body), "").unwrap_err(), message);
    }

    #[test]
    fn faults_read_as_gos() {
        fails(
            Encoding::Json,
            b"[]",
            r#"couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#,
        );
        fails(Encoding::Yaml, b"a: b: c", "yaml: mapping values are not allowed in this context");
        fails(
            Encoding::Protobuf,
            b"x",
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        );
        assert!(Encoding::Json.decode(&Bytes::from_static(b"null"), "").unwrap().value.is_object());
    }
}
