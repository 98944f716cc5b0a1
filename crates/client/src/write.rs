//! Writes that are not made when they would change nothing.

use std::fmt::Debug;

use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces the status of `old` by that of `new`, unless they are equal. The write is guarded by the
/// resourceVersion in `new`: on a conflict the caller looks again.
///
/// Returns what was written, or `None` when there was nothing to write.
pub async fn replace_status<K>(api: &Api<K>, old: &K, new: &K) -> kube::Result<Option<K>>
where
    K: Resource + Clone + PartialEq + Debug + DeserializeOwned + Serialize,
{
    if old == new {
        return Ok(None);
    }
    let name = new.meta().name.as_deref().unwrap_or_default();
    api.replace_status(name, &PostParams::default(), new).await.map(Some)
}

/// Replaces `old` by `new`, unless they are equal; otherwise as [`replace_status`].
pub async fn replace<K>(api: &Api<K>, old: &K, new: &K) -> kube::Result<Option<K>>
where
    K: Resource + Clone + PartialEq + Debug + DeserializeOwned + Serialize,
{
    if old == new {
        return Ok(None);
    }
    let name = new.meta().name.as_deref().unwrap_or_default();
    api.replace(name, &PostParams::default(), new).await.map(Some)
}

/// The code of the `Status` the server answered with, if it answered.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The reason of the `Status` the server answered with, or "".
pub fn reason(error: &kube::Error) -> &str {
    match error {
        kube::Error::Api(status) => &status.reason,
        _ => "",
    }
}

/// What the server said, without the rest of its `Status`; else what went wrong.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

pub fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

pub fn is_conflict(error: &kube::Error) -> bool {
    reason(error) == "Conflict"
}

pub fn already_exists(error: &kube::Error) -> bool {
    reason(error) == "AlreadyExists"
}

/// Whether an object cannot be made because its namespace is being deleted.
pub fn namespace_terminating(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        }
        _ => false,
    }
}

/// Takes "it is not there" as an answer.
pub fn found<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
