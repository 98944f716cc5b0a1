//! `Status`: what the API answers where it does not answer an object. The one error of every
//! layer that speaks to clients; domain errors become one here and nowhere else.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::field;
use crate::gvk::{GroupKind, GroupResource};

/// metav1.Status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct Status {
    pub kind: String,
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    #[serde(default)]
    pub metadata: ListMeta,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

/// metav1.ListMeta.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

/// metav1.StatusDetails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// metav1.StatusCause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Status {
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            code,
            ..Status::default()
        }
    }

    /// `{"status":"Success"}`, as a delete answers.
    pub fn success(details: Details) -> Status {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            status: "Success".into(),
            details: Some(Box::new(details)),
            ..Status::default()
        }
    }

    pub fn about(mut self, resource: &GroupResource, name: &str) -> Status {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        }));
        self
    }

    /// `details: {}`, as upstream's router answers.
    #[must_use]
    pub fn with_empty_details(mut self) -> Status {
        self.details = Some(Box::default());
        self
    }

    /// 400: a parameter that is no integer, in Go's words.
    pub fn not_an_integer(text: &str) -> Status {
        let quoted = crate::field::quote(text);
        Status::bad_request(format!("strconv.ParseInt: parsing {quoted}: invalid syntax"))
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }

    /// `detail` says who may not do what.
    pub fn forbidden(resource: &GroupResource, name: &str, detail: &str) -> Status {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {detail}"),
            (false, true) => format!("{resource} is forbidden: {detail}"),
            (false, false) => format!("{resource} {} is forbidden: {detail}", field::quote(name)),
        };
        Status::failure(403, "Forbidden", message).about(resource, name)
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Status {
        Status::failure(404, "NotFound", format!("{resource} {} not found", field::quote(name)))
            .about(resource, name)
    }

    /// No such path.
    pub fn path_not_found() -> Status {
        Status::failure(404, "NotFound", "the server could not find the requested resource")
            .with_empty_details()
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Status {
        Status::failure(409, "AlreadyExists", format!("{resource} {} already exists", field::quote(name)))
            .about(resource, name)
    }

    pub fn conflict(resource: &GroupResource, name: &str, detail: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {detail}", field::quote(name));
        Status::failure(409, "Conflict", message).about(resource, name)
    }

    /// The caller's resourceVersion is not the newest.
    pub fn modified(resource: &GroupResource, name: &str) -> Status {
        Status::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Every fault of an object; `errors` must not be empty.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &field::Errors) -> Status {
        let mut told = HashSet::new();
        let texts = errors.iter().map(ToString::to_string);
        let mut texts: Vec<String> = texts.filter(|text| told.insert(text.clone())).collect();
        let all = if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{kind} {} is invalid: {all}", field::quote(name));
        let causes = errors.iter().map(|e| Cause {
            reason: e.kind.reason().into(),
            message: e.body.clone(),
            field: e.field.clone(),
        });
        let mut status = Status::failure(422, "Invalid", message);
        status.details = Some(Box::new(Details {
            name: name.into(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes: causes.collect(),
            ..Details::default()
        }));
        status
    }

    pub fn method_not_allowed() -> Status {
        let why = "the server does not allow this method on the requested resource";
        Status::failure(405, "MethodNotAllowed", why).with_empty_details()
    }

    pub fn not_acceptable(message: impl Into<String>) -> Status {
        Status::failure(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Status {
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// The revision asked for is gone.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::failure(410, "Expired", message)
    }

    pub fn gone(message: impl Into<String>) -> Status {
        Status::failure(410, "Gone", message)
    }

    pub fn too_large(message: impl Into<String>) -> Status {
        Status::failure(413, "RequestEntityTooLarge", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut status = Status::failure(429, "TooManyRequests", message);
        status.details =
            Some(Box::new(Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() }));
        status
    }

    pub fn internal(message: impl std::fmt::Display) -> Status {
        let text = message.to_string();
        let mut status = Status::failure(500, "InternalError", format!("Internal error occurred: {text}"));
        status.details = Some(Box::new(Details {
            causes: vec![Cause { message: text, ..Cause::default() }],
            ..Details::default()
        }));
        status
    }

    /// A fault that upstream tells without a reason.
    pub fn plain(message: impl Into<String>) -> Status {
        Status::failure(500, "", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::failure(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl Into<String>) -> Status {
        Status::failure(504, "Timeout", message)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }
}
