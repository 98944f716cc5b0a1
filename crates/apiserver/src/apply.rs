//! Server-side apply: `PATCH` with `application/apply-patch+yaml`.

use api::{Object, Status};
use http::Response;
use registry::{FieldValidation, Part, UpdateOptions};

use crate::body::Body;
use crate::info::Info;
use crate::options::OptionsKind;
use crate::server::{Call, Endpoint, Server, read_body};
use crate::write::check_name;

impl Server {
    pub(crate) async fn apply(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let asked = call.asked(endpoint, OptionsKind::Apply)?;
        let bytes = read_body(body).await?;
        let config = codec::decode_yaml(&bytes).map_err(|e| {
            Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {e}"))
        })?;
        if asked.validation == FieldValidation::Strict && !config.duplicates.is_empty() {
            let all = config.strict_duplicates().join(", ");
            return Err(Status::bad_request(format!("error strict decoding YAML: {all}")));
        }
        let resource = &endpoint.resource;
        let given = config.value.get("kind").and_then(|k| k.as_str()).unwrap_or_default();
        if given != resource.kind {
            return Err(Status::plain(format!(
                "failed to merge config: expected objects of the same type, but got {} and {given}",
                resource.kind
            )));
        }
        let change = |current: Option<&Object>| {
            if current.is_none() {
                self.check_verb(call, info, "create")?;
            }
            let applied =
                self.engine.apply(resource, &asked.cx, part, current, &config.value, asked.force)?;
            let (mut object, unknown) =
                resource.object_of_patch(endpoint.version, applied).map_err(Status::bad_request)?;
            check_name(info, &object)?;
            // Only the configuration guards the version.
            match config.value.pointer("/metadata/resourceVersion").and_then(|v| v.as_str()) {
                Some(version) => object.set_meta("resourceVersion", version),
                None => object.remove_meta("resourceVersion"),
            }
            let mut warnings = Vec::new();
            if asked.validation == FieldValidation::Warn {
                warnings.extend(config.duplicates.iter().cloned().chain(unknown));
            }
            Ok((object, warnings))
        };
        let options = UpdateOptions {
            create: matches!(part, Part::Main),
            applied: true,
            from_newest: true,
            ..UpdateOptions::default()
        };
        let at = (info.namespace.as_str(), info.name.as_str());
        let written = self.engine.update(resource, &asked.cx, at, part, &change, &options).await?;
        self.answer_written(call, endpoint, asked.accepted, &written, &written.warnings)
    }
}
