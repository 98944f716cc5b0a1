//! The patches of the Kubernetes API, as pure functions on JSON values.
//!
//! [`json_patch`] (RFC 6902, with the freedoms of upstream's library), [`merge_patch`] (RFC 7396),
//! [`strategic_merge`] (upstream's own form, led by the merge keys of the schema) and its reverse,
//! [`strategic_diff`].
//!
//! Invariants: a function either gives the whole result or an error, and what a patch may touch is
//! not decided here: the registry decodes, defaults and validates the result as it would an update.
//! Every [`Error`] becomes the `Status` that upstream answers, word for word.
//!
//! Not here: reading bytes (crate `codec`), whether the result fits its type for JSON and merge
//! patches (`schema::Types::conform`).

mod diff;
mod error;
pub mod go;
mod json;
pub mod managed;
mod restore;
mod strategic;

pub use diff::strategic_diff;
pub use error::Error;
pub use json::{MAX_OPERATIONS, json_patch};
pub use strategic::strategic_merge;

use serde_json::Value;

/// Applies a JSON merge patch (RFC 7396). A patch of `null` changes nothing, as upstream.
///
/// # Errors
/// [`Error::Format`] where the patch is no object.
pub fn merge_patch(mut doc: Value, patch: &Value) -> Result<Value, Error> {
    match patch {
        Value::Null => {}
        Value::Object(_) => json_patch::merge(&mut doc, patch),
        other => {
            return Err(Error::Format {
                context: "error decoding patch: ",
                found: go::json_word(other),
                into: "value of type map[string]interface {}".into(),
            });
        }
    }
    Ok(doc)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Any JSON of a few levels.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(doc in values(), patch in values()) {
            prop_assume!(patch.is_object());
            let once = merge_patch(doc, &patch).unwrap();
            prop_assert_eq!(&merge_patch(once.clone(), &patch).unwrap(), &once);
        }
    }

    #[test]
    fn a_merge_patch_is_an_object_or_null() {
        assert_eq!(merge_patch(json!({"a": 1}), &Value::Null).unwrap(), json!({"a": 1}));
        assert_eq!(
            merge_patch(json!({"a": 1}), &json!([])).unwrap_err().to_string(),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
    }
}
