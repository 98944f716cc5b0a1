//! What an act answers that makes no object.

use api::{Object, Status};
use serde_json::Value;

/// `Success`, as a POST answers it.
///
/// # Errors
/// None that a sound `Status` could give.
pub(super) fn success() -> Result<Object, Status> {
    let done = Status {
        kind: "Status".into(),
        api_version: "v1".into(),
        status: "Success".into(),
        code: 201,
        ..Status::default()
    };
    match serde_json::to_value(done).map_err(Status::internal)? {
        Value::Object(map) => Ok(Object(map)),
        _ => Err(Status::internal("a Status is no map")),
    }
}
