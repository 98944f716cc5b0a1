//! Why a patch was refused, and the `Status` that says so.

use api::field::{Errors, Path};
use api::{GroupKind, Status};

use crate::json;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch's JSON is not of the form that its media type asks for.
    #[error("{context}json: cannot unmarshal {found} into Go {into}")]
    Format { context: &'static str, found: &'static str, into: String },
    #[error("The allowed maximum operations in a JSON patch is {max}, got {0}", max = json::MAX_OPERATIONS)]
    TooManyOperations(usize),
    /// An operation of a JSON patch, counted from 0, cannot be done.
    #[error("operation {index} ({op} {path:?}): {why}")]
    Operation { index: usize, op: String, path: String, why: &'static str },
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// A strategic merge patch that cannot be merged; upstream answers 500.
    #[error("{0}")]
    Merge(String),
    /// The result of a strategic merge patch does not fit its type.
    #[error("{detail}")]
    Restore { patch: String, detail: String },
}

/// A 422 that tells nothing, as upstream answers where its JSON patch library fails.
fn unprocessable() -> Status {
    let mut status =
        Status::failure(422, "Invalid", "the server rejected our request due to an error in our request");
    status.details = Some(Box::default());
    status
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match &error {
            Error::Format { .. } | Error::PrimitiveList | Error::RetainKeys | Error::SetElementOrder => {
                Status::bad_request(error.to_string())
            }
            Error::TooManyOperations(_) => Status::too_large(error.to_string()),
            Error::Operation { .. } | Error::ListOfLists => unprocessable(),
            Error::Merge(message) => Status::failure(500, "", message.clone()),
            Error::Restore { patch, detail } => {
                let mut errors = Errors::default();
                errors.invalid(&Path::new("patch"), patch.clone(), detail);
                Status::invalid(&GroupKind { group: String::new(), kind: String::new() }, "", &errors)
            }
        }
    }
}
