//! What form an answer takes, by the `Accept` header.

use api::Status;
use codec::MediaType;
use http::HeaderMap;
use http::header::ACCEPT;

/// How objects are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    /// meta.k8s.io Table.
    Table,
    /// meta.k8s.io PartialObjectMetadata, or its list.
    Metadata {
        list: bool,
    },
}

/// The chosen form and encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub form: Form,
    /// The version of meta.k8s.io in which tables and metadata are answered.
    pub meta: &'static str,
    pub yaml: bool,
}

impl Accepted {
    /// An object as JSON.
    pub const PLAIN: Accepted = Accepted { form: Form::Object, meta: "v1", yaml: false };
}

const SERVED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const SERVED_STREAM: &[&str] = &[
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// # Errors
/// 406 where nothing that is asked for is served.
pub fn accepted(headers: &HeaderMap, streaming: bool) -> Result<Accepted, Status> {
    let header = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    if header.trim().is_empty() {
        return Ok(Accepted::PLAIN);
    }
    let asked = MediaType::accepted(&header);
    if let Some(found) = asked.iter().find_map(choose) {
        return Ok(found);
    }
    let served = if streaming { SERVED_STREAM } else { SERVED }.join(", ");
    // Upstream's router looks at the bare types first, in words of its own.
    if asked.iter().any(|m| m.essence == "*/*" || SERVED.contains(&m.essence.as_str())) {
        return Err(Status::not_acceptable(format!("only the following media types are accepted: {served}")));
    }
    let why = format!("406: Not Acceptable\n\nAvailable representations: {served}");
    Err(Status::not_acceptable(why).with_empty_details())
}

fn choose(media: &MediaType) -> Option<Accepted> {
    let json = media.takes("application/json");
    if !json && !media.takes("application/yaml") {
        return None;
    }
    let meta = if media.parameter("v") == Some("v1beta1") { "v1beta1" } else { "v1" };
    let of_meta = media.parameter("g") == Some("meta.k8s.io") && media.parameter("v") == Some(meta);
    let form = match media.parameter("as") {
        None => Form::Object,
        Some("Table") if of_meta => Form::Table,
        Some("PartialObjectMetadata") if of_meta => Form::Metadata { list: false },
        Some("PartialObjectMetadataList") if of_meta => Form::Metadata { list: true },
        Some(_) => return None,
    };
    Some(Accepted { form, meta, yaml: !json })
}
