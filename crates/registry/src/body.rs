//! From a request's body to an object of a version: field validation, defaults.

use api::{Object, Status};
use codec::Decoded;
use serde_json::Value;

use crate::resource::{Resource, Version};

/// `?fieldValidation=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Texts for `Warning` headers.
pub type Warnings = Vec<String>;

impl Resource {
    /// Makes a decoded body an object of `version`, in the stored version's form.
    ///
    /// # Errors
    /// 400 for another kind, a value of a wrong type, or (strictly) an unknown or doubled field.
    pub fn object_of(
        &self,
        version: usize,
        body: Decoded,
        validation: FieldValidation,
    ) -> Result<(Object, Warnings), Status> {
        let v = &self.versions[version];
        let strict_duplicates = body.strict_duplicates();
        let source = body.source();
        let duplicates = body.duplicates;
        let mut object = self.typed(version, body.value)?;
        let found = v.types.conform(v.ty, &mut object.0).map_err(|e| self.cannot_be(v, &e.to_string()))?;
        let unknown = codec::in_order(&source, found.unknown);
        let unknown = unknown.iter().map(unknown_field);
        let warnings = match validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn => duplicates.into_iter().chain(unknown).collect(),
            FieldValidation::Strict => {
                let faults: Vec<String> = strict_duplicates.into_iter().chain(unknown).collect();
                if !faults.is_empty() {
                    return Err(self.cannot_be(v, &format!("strict decoding error: {}", faults.join(", "))));
                }
                Vec::new()
            }
        };
        self.finish(version, &mut object);
        Ok((object, warnings))
    }

    /// Conforms and defaults what a patch made. The faults are the caller's to judge.
    ///
    /// # Errors
    /// A value of a wrong type.
    pub fn object_of_patch(&self, version: usize, value: Value) -> Result<(Object, Warnings), String> {
        let v = &self.versions[version];
        let Value::Object(map) = value else { return Err("the patched document is no object".into()) };
        let mut object = Object(map);
        let found = v.types.conform(v.ty, &mut object.0).map_err(|e| e.to_string())?;
        self.finish(version, &mut object);
        Ok((object, found.unknown.iter().map(unknown_field).collect()))
    }

    /// Schema defaults, the strategy's, and the stored version's form.
    fn finish(&self, version: usize, object: &mut Object) {
        let v = &self.versions[version];
        if let Some(convert) = &v.convert {
            convert.store(object);
        }
        object.set_type(&self.stored_type(), &self.kind);
        self.default(object);
    }

    /// See [`schema::Types::null_empty`].
    pub(crate) fn null_empty(&self, object: &mut Object) {
        let v = &self.versions[self.stored];
        v.types.null_empty(v.ty, &mut object.0);
    }

    /// Defaults of the stored version.
    pub fn default(&self, object: &mut Object) {
        let v = &self.versions[self.stored];
        v.types.default(v.ty, &mut object.0);
        self.strategy.default(object);
    }

    fn typed(&self, version: usize, value: Value) -> Result<Object, Status> {
        let Value::Object(map) = value else {
            let what = match value {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                _ => "array",
            };
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                self.kind
            )));
        };
        let mut object = Object(map);
        let (group_version, kind) = (object.api_version().to_owned(), object.kind().to_owned());
        let wanted = self.api_version(version);
        if !kind.is_empty() && kind != self.kind {
            let given = if group_version.is_empty() { wanted } else { group_version };
            let version = given.rsplit('/').next().unwrap_or_default();
            return Err(Status::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {}: no kind \"{kind}\" is registered for version \"{given}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
                self.kind
            )));
        }
        if !group_version.is_empty() && group_version != wanted {
            return Err(Status::bad_request(format!(
                "the API version in the data ({group_version}) does not match the expected API version ({wanted})"
            )));
        }
        object.set_type(&wanted, &self.kind);
        Ok(object)
    }

    fn cannot_be(&self, version: &Version, why: &str) -> Status {
        Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {why}",
            self.kind, version.name, self.kind
        ))
    }
}

fn unknown_field(path: &String) -> String {
    format!("unknown field \"{path}\"")
}
