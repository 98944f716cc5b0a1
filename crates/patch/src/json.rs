//! JSON patch (RFC 6902), with the freedoms of upstream's library that clients may lean on: indexes
//! count from the end where negative, `replace` puts a member that was absent, an absent `value` is
//! null, and an absent member equals null in a `test`.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::Error;
use crate::go;

/// A patch of more operations is refused.
pub const MAX_OPERATIONS: usize = 10_000;
/// What a patch may copy in all, in bytes of JSON: as much as a request may send.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// What it may move, each move counted with all that is in it.
const MAX_MOVED: usize = 64 * 1024 * 1024;
/// How deep a document may become: deeper ones no decoder reads.
const MAX_DEPTH: usize = 120;

type Done<T> = Result<T, &'static str>;

const NO_PATH: &str = "missing path";
const NO_KEY: &str = "nonexistent key";
const BAD_INDEX: &str = "invalid array index";

/// One operation, checked for its form.
struct Operation<'a> {
    op: &'a str,
    path: Option<&'a str>,
    from: Option<&'a str>,
    value: &'a Value,
}

/// Applies a JSON patch: all of its operations, or none.
///
/// # Errors
/// [`Error::Format`] for a patch that is no list of operations, [`Error::TooManyOperations`], and
/// [`Error::Operation`] for the first operation that cannot be done.
pub fn json_patch(mut doc: Value, patch: &Value) -> Result<Value, Error> {
    let operations = read(patch)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooManyOperations(operations.len()));
    }
    let mut room = Room { copied: MAX_COPIED, moved: MAX_MOVED };
    for (index, operation) in operations.iter().enumerate() {
        operation.apply(&mut doc, &mut room).map_err(|why| Error::Operation {
            index,
            op: operation.op.to_owned(),
            path: operation.path.unwrap_or_default().to_owned(),
            why,
        })?;
    }
    Ok(doc)
}

fn read(patch: &Value) -> Result<Vec<Operation<'_>>, Error> {
    let wrong = |found: &Value, into: &str| Error::Format {
        context: "error decoding patch: ",
        found: go::json_word(found),
        into: into.to_owned(),
    };
    let list = match patch {
        Value::Array(list) => list,
        Value::Null => return Ok(Vec::new()),
        other => return Err(wrong(other, "value of type []handlers.jsonPatchOp")),
    };
    let mut operations = Vec::with_capacity(list.len());
    for item in list {
        let map = item.as_object().ok_or_else(|| wrong(item, "value of type handlers.jsonPatchOp"))?;
        let text = |name: &str| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.as_str())),
            Some(other) => Err(wrong(other, &format!("struct field jsonPatchOp.{name} of type string"))),
        };
        operations.push(Operation {
            op: text("op")?.unwrap_or_default(),
            path: text("path")?,
            from: text("from")?,
            value: map.get("value").unwrap_or(&Value::Null),
        });
    }
    Ok(operations)
}

/// What is left of the bounds, in bytes.
struct Room {
    copied: usize,
    moved: usize,
}

impl Room {
    /// Whether a value may come to stand at a path.
    fn check_depth(path: &str, depth: usize) -> Done<()> {
        if path.matches('/').count() + depth > MAX_DEPTH {
            Err("the document would be too deep")
        } else {
            Ok(())
        }
    }

    fn copy(&mut self, path: &str, value: &Value) -> Done<()> {
        let (bytes, depth) = measure(value);
        self.copied = self.copied.checked_sub(bytes).ok_or("too much is copied")?;
        Room::check_depth(path, depth)
    }

    fn shift(&mut self, path: &str, value: &Value) -> Done<()> {
        let (bytes, depth) = measure(value);
        self.moved = self.moved.checked_sub(bytes).ok_or("too much is moved")?;
        Room::check_depth(path, depth)
    }
}

/// About the bytes that a value takes as JSON, and how many containers stand in each other. Walks without
/// recursion, as what it measures may be too deep for that.
fn measure(value: &Value) -> (usize, usize) {
    let (mut bytes, mut deepest) = (0, 0);
    let mut left = vec![(value, 0)];
    while let Some((value, depth)) = left.pop() {
        deepest = deepest.max(depth);
        bytes += match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 4,
            Value::String(text) => text.len() + 2,
            Value::Array(items) => {
                left.extend(items.iter().map(|item| (item, depth + 1)));
                items.len() + 2
            }
            Value::Object(map) => {
                left.extend(map.values().map(|value| (value, depth + 1)));
                map.keys().map(|key| key.len() + 4).sum::<usize>() + 2
            }
        };
    }
    (bytes, deepest)
}

impl Operation<'_> {
    fn apply(&self, doc: &mut Value, room: &mut Room) -> Done<()> {
        let path = self.path.ok_or("missing field: path")?;
        let from = || self.from.ok_or("missing field: from");
        if matches!(self.op, "add" | "replace") {
            Room::check_depth(path, measure(self.value).1)?;
        }
        match self.op {
            "add" => add(doc, path, self.value.clone()),
            "remove" => remove(doc, path).map(drop),
            "replace" if path.is_empty() => {
                *doc = self.value.clone();
                Ok(())
            }
            "replace" => replace(doc, path, self.value.clone()),
            "move" => {
                let value = remove(doc, from()?)?;
                room.shift(path, &value)?;
                add(doc, path, value)
            }
            "copy" => {
                let found = get(doc, from()?)?.ok_or(NO_KEY)?;
                room.copy(path, found)?;
                let value = found.clone();
                add(doc, path, value)
            }
            "test" => {
                let found = get(doc, path)?.unwrap_or(&Value::Null);
                if found == self.value { Ok(()) } else { Err("testing value failed") }
            }
            _ => Err("unexpected kind of operation"),
        }
    }
}

/// Undoes the escapes of a pointer's part.
fn key(part: &str) -> Cow<'_, str> {
    if part.contains('~') { part.replace("~1", "/").replace("~0", "~").into() } else { part.into() }
}

/// The container that a path leads into, and the key in it.
fn parent<'d, 'p>(doc: &'d mut Value, path: &'p str) -> Done<(&'d mut Value, Cow<'p, str>)> {
    let (way, last) = path.strip_prefix('/').ok_or(NO_PATH)?.rsplit_once('/').unwrap_or(("", &path[1..]));
    let parts = if path.matches('/').count() > 1 { Some(way.split('/')) } else { None };
    let mut at = doc;
    for part in parts.into_iter().flatten() {
        at = match at {
            Value::Object(map) => map.get_mut(&*key(part)).ok_or(NO_PATH)?,
            Value::Array(list) => {
                let index = index(part, list.len()).ok_or(NO_PATH)?;
                list.get_mut(index).ok_or(NO_PATH)?
            }
            _ => return Err(NO_PATH),
        };
    }
    Ok((at, key(last)))
}

/// An index among `len` places; counted from the end where negative.
fn index(text: &str, len: usize) -> Option<usize> {
    let number: i64 = text.parse().ok()?;
    let len = i64::try_from(len).ok()?;
    let index = if number < 0 { number + len } else { number };
    if (0..len).contains(&index) { usize::try_from(index).ok() } else { None }
}

fn get<'a>(doc: &'a mut Value, path: &str) -> Done<Option<&'a Value>> {
    let (parent, key) = parent(doc, path)?;
    match parent {
        Value::Object(map) => Ok(map.get(&*key)),
        Value::Array(list) => Ok(Some(&list[index(&key, list.len()).ok_or(BAD_INDEX)?])),
        _ => Err(NO_PATH),
    }
}

fn add(doc: &mut Value, path: &str, value: Value) -> Done<()> {
    let (parent, key) = parent(doc, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(key.into_owned(), value);
        }
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let index = index(&key, list.len() + 1).ok_or(BAD_INDEX)?;
            list.insert(index, value);
        }
        _ => return Err(NO_PATH),
    }
    Ok(())
}

fn replace(doc: &mut Value, path: &str, value: Value) -> Done<()> {
    let (parent, key) = parent(doc, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(key.into_owned(), value);
        }
        Value::Array(list) => {
            let index = index(&key, list.len()).ok_or(BAD_INDEX)?;
            list[index] = value;
        }
        _ => return Err(NO_PATH),
    }
    Ok(())
}

fn remove(doc: &mut Value, path: &str) -> Done<Value> {
    let (parent, key) = parent(doc, path)?;
    match parent {
        Value::Object(map) => map.remove(&*key).ok_or(NO_KEY),
        Value::Array(list) => Ok(list.remove(index(&key, list.len()).ok_or(BAD_INDEX)?)),
        _ => Err(NO_PATH),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(patch: Value, expect: Expect) {
        let doc = json!({"data": {"a": "b", "k/~": 1}, "list": ["x", "y", {"in": 1}]});
        let text = match json_patch(doc, &patch) {
            Ok(value) => value.to_string(),
            Err(error) => {
                let text = error.to_string();
                let status = api::Status::from(error);
                format!("{} {}: {text}", status.code, status.reason)
            }
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn operations() {
        check(
            json!([{"op": "add", "path": "/data/n"}, {"op": "replace", "path": "/data/none", "value": "v"}]),
            expect![[r#"{"data":{"a":"b","k/~":1,"n":null,"none":"v"},"list":["x","y",{"in":1}]}"#]],
        );
        check(
            json!([{"op": "move", "from": "/list/0", "path": "/list/1"}, {"op": "remove", "path": "/list/-1"}]),
            expect![[r#"{"data":{"a":"b","k/~":1},"list":["y","x"]}"#]],
        );
        check(
            json!([{"op": "copy", "from": "/data/k~1~0", "path": "/list/-"}, {"op": "remove", "path": "/data"}]),
            expect![[r#"{"list":["x","y",{"in":1},1]}"#]],
        );
        check(
            json!([{"op": "test", "path": "/data/none", "value": null},
                {"op": "add", "path": "/list/2/in", "value": 2}, {"op": "replace", "path": "/list/0", "value": "z"}]),
            expect![[r#"{"data":{"a":"b","k/~":1},"list":["z","y",{"in":2}]}"#]],
        );
        check(
            json!([{"op": "add", "path": "/", "value": 1}]),
            expect![[r#"{"":1,"data":{"a":"b","k/~":1},"list":["x","y",{"in":1}]}"#]],
        );
        check(json!([{"op": "replace", "path": "", "value": {}}]), expect!["{}"]);
        check(json!([]), expect![[r#"{"data":{"a":"b","k/~":1},"list":["x","y",{"in":1}]}"#]]);
    }

    #[test]
    fn refusals() {
        check(
            json!({"data": 1}),
            expect![
                "400 BadRequest: error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
            ],
        );
        check(
            json!([{"op": 1}]),
            expect![
                "400 BadRequest: error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"
            ],
        );
        for (patch, why) in [
            (
                json!({"op": "bad", "path": "/data/a"}),
                expect![[r#"422 Invalid: operation 0 (bad "/data/a"): unexpected kind of operation"#]],
            ),
            (
                json!({"op": "remove", "path": "/data/none"}),
                expect![[r#"422 Invalid: operation 0 (remove "/data/none"): nonexistent key"#]],
            ),
            (
                json!({"op": "test", "path": "/data/a", "value": "z"}),
                expect![[r#"422 Invalid: operation 0 (test "/data/a"): testing value failed"#]],
            ),
            (
                json!({"op": "add", "value": "x"}),
                expect![[r#"422 Invalid: operation 0 (add ""): missing field: path"#]],
            ),
            (
                json!({"op": "add", "path": "data"}),
                expect![[r#"422 Invalid: operation 0 (add "data"): missing path"#]],
            ),
            (
                json!({"op": "remove", "path": "/list/x"}),
                expect![[r#"422 Invalid: operation 0 (remove "/list/x"): invalid array index"#]],
            ),
            (
                json!({"op": "replace", "path": "/list/9/a", "value": 1}),
                expect![[r#"422 Invalid: operation 0 (replace "/list/9/a"): missing path"#]],
            ),
        ] {
            check(json!([patch]), why);
        }
    }

    #[test]
    fn what_is_copied_and_how_deep_is_bounded() {
        let twice = |i: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/{i}")});
        let doubling: Vec<Value> = (0..40).map(twice).collect();
        let error = json_patch(json!({"data": {"a": "b"}}), &json!(doubling)).unwrap_err();
        assert!(matches!(
            error,
            Error::Operation { why: "too much is copied" | "the document would be too deep", .. }
        ));
        let wide: Vec<Value> =
            (0..40).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/b/{i}")})).collect();
        let long = json!({"a": "x".repeat(100_000), "b": {}});
        let error = json_patch(long.clone(), &json!(wide)).unwrap_err();
        assert!(matches!(error, Error::Operation { index: 31, why: "too much is copied", .. }), "{error:?}");
        assert!(json_patch(long, &json!(wide[..31])).is_ok());
        let chain = (0..100).fold(json!(1), |inner, _| json!({"a": inner}));
        let under = "/a".repeat(30);
        let moved = json!([{"op": "move", "from": "/other", "path": under}]);
        let doc = json!({"a": chain.clone(), "other": chain});
        let error = json_patch(doc, &moved).unwrap_err();
        assert!(matches!(error, Error::Operation { why: "the document would be too deep", .. }));
    }
}
