//! What form an answer takes, by the `Accept` header.

use api::Status;
use codec::MediaType;
use http::HeaderMap;
use http::header::ACCEPT;

/// How objects are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    /// meta.k8s.io/v1 Table.
    Table,
    /// meta.k8s.io/v1 PartialObjectMetadata(List).
    Metadata,
}

/// The chosen form and encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub form: Form,
    pub yaml: bool,
}

const SERVED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const SERVED_STREAM: &str = "application/json, application/json;stream=watch, application/vnd.kubernetes.protobuf, application/vnd.kubernetes.protobuf;stream=watch";

/// # Errors
/// 406 where nothing that is asked for is served.
pub fn accepted(headers: &HeaderMap, streaming: bool) -> Result<Accepted, Status> {
    let header = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    if header.trim().is_empty() {
        return Ok(Accepted { form: Form::Object, yaml: false });
    }
    let found = MediaType::accepted(&header).iter().find_map(choose);
    found.ok_or_else(|| {
        let served = if streaming { SERVED_STREAM } else { SERVED };
        Status::not_acceptable(format!("only the following media types are accepted: {served}"))
    })
}

fn choose(media: &MediaType) -> Option<Accepted> {
    let json = media.takes("application/json");
    if !json && !media.takes("application/yaml") {
        return None;
    }
    let of_meta =
        media.parameter("g") == Some("meta.k8s.io") && matches!(media.parameter("v"), Some("v1" | "v1beta1"));
    let form = match media.parameter("as") {
        None => Form::Object,
        Some("Table") if of_meta => Form::Table,
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if of_meta => Form::Metadata,
        Some(_) => return None,
    };
    Some(Accepted { form, yaml: !json })
}
