//! The verb `PATCH` with JSON, merge and strategic merge patches.

use api::field::{Bare, Errors, Path};
use api::{GroupKind, Object, Status};
use codec::{Decoded, decode_json};
use http::{HeaderMap, Response};
use registry::{FieldValidation, Part, UpdateOptions};
use schema::{TypeId, Types};
use serde_json::Value;

use crate::body::Body;
use crate::decode::essence;
use crate::info::Info;
use crate::options::OptionsKind;
use crate::server::{Call, Endpoint, Server, read_body};
use crate::write::check_name;

/// The patches, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Patch {
    /// # Errors
    /// 415 for a content type that is no patch's.
    pub fn of(headers: &HeaderMap) -> Result<Patch, Status> {
        match essence(headers).as_str() {
            "application/json-patch+json" => Ok(Patch::Json),
            "application/merge-patch+json" => Ok(Patch::Merge),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic),
            "application/apply-patch+yaml" => Ok(Patch::Apply),
            _ => Err(Status::unsupported_media_type("415: Unsupported Media Type").with_empty_details()),
        }
    }

    /// Reads a patch's document.
    ///
    /// # Errors
    /// 400 for what is no JSON.
    pub fn document(self, bytes: &[u8]) -> Result<Decoded, Status> {
        decode_json(bytes).map_err(|e| {
            let front = if self == Patch::Strategic { "" } else { "error decoding patch: " };
            Status::bad_request(format!("{front}{e}"))
        })
    }

    /// The patched value; its type is not looked at yet.
    ///
    /// # Errors
    /// The patch does not fit the value.
    pub fn patched(
        self,
        (types, ty): (&Types, TypeId),
        current: Value,
        document: &Value,
    ) -> Result<Value, Status> {
        let patched = match self {
            Patch::Json => patch::json_patch(current, document),
            Patch::Merge => patch::merge_patch(current, document),
            Patch::Strategic => patch::strategic_merge(types, ty, current, document),
            Patch::Apply => return Err(Status::internal("an apply has a road of its own")),
        };
        patched.map_err(Status::from)
    }

    /// The 422 for a patched object that is none of its kind. Upstream shows the patch itself where
    /// it is a strategic one.
    pub fn refuse(self, document: &Value, why: &str) -> Status {
        let shown = match self {
            Patch::Strategic => api::field::quote(&patch::go::shown(document)),
            _ => "\"<object>\"".to_owned(),
        };
        let mut errors = Errors::default();
        errors.invalid(&Path::new("patch"), Bare(shown), why);
        Status::invalid(&GroupKind { group: String::new(), kind: String::new() }, "", &errors)
    }
}

impl Server {
    pub(crate) async fn patch(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
        body: Body,
        part: Part<'_>,
    ) -> Result<Response<Body>, Status> {
        let patch = Patch::of(&call.parts.headers)?;
        if patch == Patch::Apply {
            return self.apply(call, endpoint, info, body, part).await;
        }
        let asked = call.asked(endpoint, OptionsKind::Patch)?;
        let document = patch.document(&read_body(body).await?)?;
        let resource = &endpoint.resource;
        let change = |current: Option<&Object>| {
            let current = current.ok_or_else(|| Status::not_found(&resource.group_resource(), &info.name))?;
            let version = current.resource_version().to_owned();
            let (mut object, warnings) =
                self.patched(endpoint, current, (patch, &document), asked.validation)?;
            check_name(info, &object)?;
            // A patch that does not speak of the version does not guard it.
            if object.resource_version() == version {
                object.remove_meta("resourceVersion");
            }
            Ok((object, warnings))
        };
        let options = UpdateOptions { from_newest: true, ..UpdateOptions::default() };
        let written = self
            .engine
            .update(resource, &asked.cx, (&info.namespace, &info.name), part, &change, &options)
            .await?;
        self.answer_written(call, endpoint, asked.accepted, &written, &written.warnings)
    }

    /// The patched object in the stored form, with warnings.
    fn patched(
        &self,
        endpoint: &Endpoint,
        current: &Object,
        (patch, document): (Patch, &Decoded),
        validation: FieldValidation,
    ) -> Result<(Object, Vec<String>), Status> {
        let resource = &endpoint.resource;
        let version = &resource.versions[endpoint.version];
        let mut current = current.clone();
        if let Some(convert) = &version.convert {
            convert.restore(&mut current);
            current.set_type(&resource.api_version(endpoint.version), &resource.kind);
        }
        let patched = patch.patched((&version.types, version.ty), current.into_value(), &document.value)?;
        let refuse = |why: &str| patch.refuse(&document.value, why);
        // A strategic patch is laid over the type, which what the patch calls it does not change.
        if patch != Patch::Strategic {
            self.check_kind(&patched, (&resource.group, &resource.kind))
                .map_err(|why| refuse(&self.as_its_kind(&patched).err().unwrap_or(why)))?;
        }
        let (object, unknown) =
            resource.object_of_patch(endpoint.version, patched).map_err(|why| refuse(&why))?;
        match validation {
            FieldValidation::Ignore => Ok((object, Vec::new())),
            FieldValidation::Warn => {
                Ok((object, document.duplicates.iter().cloned().chain(unknown).collect()))
            }
            FieldValidation::Strict => {
                let faults: Vec<String> = document.strict_duplicates().into_iter().chain(unknown).collect();
                if faults.is_empty() {
                    return Ok((object, Vec::new()));
                }
                Err(refuse(&format!("strict decoding error: {}", faults.join(", "))))
            }
        }
    }

    /// Upstream decodes an object as the kind that it says it is before it finds that another was wanted.
    fn as_its_kind(&self, object: &Value) -> Result<(), String> {
        let word = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some((resource, version)) = self.kind(word("apiVersion"), word("kind")) else { return Ok(()) };
        resource.object_of_patch(*version, object.clone()).map(|_| ())
    }
}
