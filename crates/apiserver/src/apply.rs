//! Server-side apply: `PATCH` with `application/apply-patch+yaml`.

use api::{GroupKind, Object, Status, field};
use http::Response;
use registry::{FieldValidation, Part, UpdateOptions};

use crate::body::Body;
use crate::info::Info;
use crate::server::{Call, Endpoint, Server, read_body};

impl Server {
    pub(crate) async fn apply(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let cx = call.context_of(endpoint, call.query.dry_run()?);
        let validation = call.query.field_validation()?;
        if call.query.get("fieldManager").is_empty() {
            let mut errors = field::Errors::default();
            errors.required(&field::Path::new("fieldManager"), "is required for apply patch");
            let kind = GroupKind { group: "meta.k8s.io".into(), kind: "PatchOptions".into() };
            return Err(Status::invalid(&kind, "", &errors));
        }
        let force = call.query.flag("force");
        let bytes = read_body(body).await?;
        let config = codec::decode_yaml(&bytes)
            .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
        if validation == FieldValidation::Strict && !config.duplicates.is_empty() {
            let all: Vec<String> =
                config.duplicates.iter().map(|d| format!("key {d:?} already set in map")).collect();
            return Err(Status::bad_request(format!("error strict decoding YAML: {}", all.join(", "))));
        }
        let resource = &endpoint.resource;
        let change = |current: Option<&Object>| {
            let applied = self.engine.apply(resource, &cx, part, current, &config.value, force)?;
            let (mut object, faults) =
                resource.object_of_patch(endpoint.version, applied).map_err(Status::bad_request)?;
            if object.name().is_empty() {
                return Err(Status::bad_request(format!(
                    "the name of the object ({} based on URL) was undeterminable: name must be provided",
                    info.name
                )));
            }
            if object.name() != info.name {
                return Err(Status::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    object.name(),
                    info.name
                )));
            }
            // Only the configuration guards the version.
            match config.value.pointer("/metadata/resourceVersion").and_then(|v| v.as_str()) {
                Some(version) => object.set_meta("resourceVersion", version),
                None => object.remove_meta("resourceVersion"),
            }
            Ok((object, faults))
        };
        let options =
            UpdateOptions { create: matches!(part, Part::Main), applied: true, ..UpdateOptions::default() };
        let written =
            self.engine.update(resource, &cx, (&info.namespace, &info.name), part, &change, &options).await?;
        self.answer_written(call, endpoint, &written, &written.warnings)
    }
}
