//! Strategic merge patch, as upstream's `apimachinery/pkg/util/strategicpatch`.
//!
//! The schema says of each list whether a patch merges into it, and by which key. Directives in the
//! patch steer the rest: `$patch: replace|delete` on an object, `$retainKeys`, and beside a list
//! `name` its `$setElementOrder/name` and `$deleteFromPrimitiveList/name`.
//!
//! Worked example, `containers` merging by `name`:
//!
//! ```text
//! live   containers: [{name: a, image: 1}, {name: b, image: 1}]
//! patch  containers: [{name: b, image: 2}, {name: c, image: 1}, {name: a, $patch: delete}]
//! result containers: [{name: b, image: 2}, {name: c, image: 1}]
//! ```

use schema::{Field, Shape, TypeId, Types};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::{go, restore};

pub(crate) const DIRECTIVE: &str = "$patch";
pub(crate) const RETAIN_KEYS: &str = "$retainKeys";
pub(crate) const DELETE_FROM: &str = "$deleteFromPrimitiveList";
pub(crate) const SET_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of type `ty`. A patch of `null` changes nothing.
///
/// # Errors
/// What upstream answers for a patch that is no object, has malformed or contradicting directives,
/// lacks a merge key, or gives a result that does not fit the type.
pub fn strategic_merge(types: &Types, ty: TypeId, doc: Value, patch: &Value) -> Result<Value, Error> {
    let patch_map = match patch {
        Value::Null => Object::new(),
        Value::Object(map) => map.clone(),
        other => {
            return Err(Error::Format {
                context: "",
                found: go::json_word(other),
                into: "value of type map[string]interface {}".into(),
            });
        }
    };
    let doc = match doc {
        Value::Object(map) => map,
        _ => Object::new(),
    };
    let shape = Shape::Ref(ty);
    let merged = Value::Object(Merge { types }.maps(doc, patch_map, &shape)?);
    restore::check(types, &shape, &merged)
        .map_err(|detail| Error::Restore { patch: go::shown(patch), detail })?;
    Ok(merged)
}

/// What the schema says of one member of an object.
pub(crate) struct Member<'a> {
    pub shape: &'a Shape,
    field: Option<&'a Field>,
}

impl<'a> Member<'a> {
    pub fn replaced(&self) -> bool {
        self.field.is_some_and(|f| f.strategy("replace"))
    }

    /// Whether a patch of this list is merged into it; `Some(None)` for lists without a key.
    pub fn list_key(&self) -> Option<Option<&'a str>> {
        let field = self.field.filter(|f| f.strategy("merge"))?;
        Some(field.patch_merge_key.as_deref())
    }
}

/// Looks up a member; none where the type has no such field.
pub(crate) fn member<'a>(types: &'a Types, shape: &'a Shape, name: &str) -> Option<Member<'a>> {
    match types.resolve(shape) {
        Shape::Ref(id) => {
            types.get(*id).field(name).map(|field| Member { shape: &field.shape, field: Some(field) })
        }
        Shape::Map(inner) => Some(Member { shape: inner, field: None }),
        _ => Some(Member { shape: &Shape::Any, field: None }),
    }
}

pub(crate) fn element<'a>(types: &'a Types, shape: &'a Shape) -> &'a Shape {
    match types.resolve(shape) {
        Shape::List(inner) => inner,
        _ => &Shape::Any,
    }
}

struct Merge<'a> {
    types: &'a Types,
}

impl<'a> Merge<'a> {
    fn member(&self, shape: &'a Shape, name: &str) -> Result<Member<'a>, Error> {
        member(self.types, shape, name).ok_or_else(|| {
            let holder = self.types.object(shape).map(|t| t.go_name()).unwrap_or_default();
            Error::Merge(format!(
                "unable to find api field in struct {} for the json field {}",
                holder.rsplit('.').next().unwrap_or(holder),
                api::field::quote(name)
            ))
        })
    }

    fn maps(&self, mut original: Object, mut patch: Object, shape: &'a Shape) -> Result<Object, Error> {
        match patch.get(DIRECTIVE) {
            None => {}
            Some(Value::String(d)) if d == "replace" => {
                patch.remove(DIRECTIVE);
                return Ok(patch);
            }
            Some(Value::String(d)) if d == "delete" => return Ok(Object::new()),
            Some(other) => return Err(bad_directive(other, &Value::Object(patch.clone()))),
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, shape)?;
        for (key, change) in patch {
            let deleted_from = key.strip_prefix(DELETE_FROM);
            let name = match deleted_from {
                Some(rest) => rest.strip_prefix('/').ok_or(Error::PrimitiveList)?,
                None => key.as_str(),
            };
            if change.is_null() {
                original.remove(name);
                continue;
            }
            match (original.get_mut(name), change) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let member = self.member(shape, name)?;
                    *old = if member.replaced() {
                        new
                    } else {
                        self.maps(std::mem::take(old), new, member.shape)?
                    };
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    let member = self.member(shape, name)?;
                    *old = self.lists(std::mem::take(old), new, &member, deleted_from.is_some())?;
                }
                (_, new) if deleted_from.is_none() => match clean(new) {
                    Some(new) => {
                        original.insert(name.to_owned(), new);
                    }
                    None => {
                        original.remove(name);
                    }
                },
                _ => {}
            }
        }
        Ok(original)
    }

    /// Does the lists whose order the patch sets, and takes them out of the patch.
    fn ordered_lists(
        &self,
        original: &mut Object,
        patch: &mut Object,
        shape: &'a Shape,
    ) -> Result<(), Error> {
        let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
        for key in directives {
            let order = list_of(patch.remove(&key))?.unwrap_or_default();
            let name = key
                .strip_prefix(SET_ORDER)
                .and_then(|k| k.strip_prefix('/'))
                .ok_or(Error::SetElementOrder)?;
            let live = list_of(original.get(name).cloned())?;
            let change = list_of(patch.get(name).cloned())?;
            let member = self.member(shape, name)?;
            let merge_key = member.list_key().flatten();
            if let Some(change) = &change {
                check_order(change, &order, merge_key)?;
            }
            let merged = match (live.clone(), change.clone()) {
                (None, None) => continue,
                (Some(live), None) => live,
                (None, Some(change)) => match clean(Value::Array(change)) {
                    Some(Value::Array(list)) => list,
                    _ => Vec::new(),
                },
                (Some(live), Some(change)) => self.lists(live, change, &member, false)?,
            };
            element_kind(live.iter().chain(change.iter()).flatten())?;
            let ordered = in_order(merged, &order, &live.unwrap_or_default(), merge_key)?;
            original.insert(name.to_owned(), Value::Array(ordered));
            patch.remove(name);
        }
        Ok(())
    }

    /// `deleting`: the patch is a list of what to take out.
    fn lists(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        member: &Member<'a>,
        deleting: bool,
    ) -> Result<Vec<Value>, Error> {
        let Some(merge_key) = member.list_key() else {
            return Ok(patch);
        };
        let Some(kind) = element_kind(original.iter().chain(&patch))? else {
            return Ok(original);
        };
        if kind != "map" {
            if deleting {
                return Ok(original.into_iter().filter(|v| !patch.contains(v)).collect());
            }
            let mut both = original.clone();
            both.extend(patch.iter().cloned());
            return in_order(dedup(both), &patch, &original, None);
        }
        let elements = element(self.types, member.shape);
        let merge_key = merge_key
            .ok_or_else(|| Error::Merge("cannot merge lists without merge key for type struct".into()))?;
        let (original, patch) = directives_in_list(original, patch, merge_key)?;
        let mut merged = original.clone();
        for item in &patch {
            let key = item.get(merge_key).ok_or_else(|| no_key(item, merge_key))?;
            let found = merged.iter().position(|old| old.get(merge_key) == Some(key));
            match (found, item) {
                (Some(at), Value::Object(change)) => {
                    let old = std::mem::take(&mut merged[at]);
                    let Value::Object(old) = old else { continue };
                    merged[at] = Value::Object(self.maps(old, change.clone(), elements)?);
                }
                _ => merged.extend(clean(item.clone())),
            }
        }
        in_order(merged, &patch, &original, Some(merge_key))
    }
}

fn no_key(item: &Value, merge_key: &str) -> Error {
    Error::Merge(format!("map: {} does not contain declared merge key: {merge_key}", go::shown(item)))
}

fn bad_directive(directive: &Value, map: &Value) -> Error {
    Error::Merge(format!("unknown patch type: {} in map: {}", go::shown(directive), go::shown(map)))
}

fn list_of(value: Option<Value>) -> Result<Option<Vec<Value>>, Error> {
    match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(Error::Merge(format!(
            "expected a []interface {{}}, but received a {}",
            go::type_name(&other)
        ))),
    }
}

/// What every item of a list is; none for an empty one.
fn element_kind<'v>(items: impl Iterator<Item = &'v Value> + Clone) -> Result<Option<&'static str>, Error> {
    let mut kind: Option<&'static str> = None;
    for item in items.clone() {
        let this = go::kind(item);
        if this == "slice" {
            return Err(Error::ListOfLists);
        }
        if kind.is_some_and(|k| k != this) {
            let all = Value::Array(items.cloned().collect());
            return Err(Error::Merge(format!("list element types are not identical: {}", go::shown(&all))));
        }
        kind = Some(this);
    }
    Ok(kind)
}

/// Takes out what `$retainKeys` does not name.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else { return Err(Error::RetainKeys) };
    let kept = |name: &str| keys.iter().any(|k| k.as_str() == Some(name));
    let stray = patch.iter().any(|(name, value)| {
        !value.is_null() && !name.starts_with(DELETE_FROM) && !name.starts_with(SET_ORDER) && !kept(name)
    });
    if stray {
        return Err(Error::RetainKeys);
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// Obeys the directives of a list's items; gives the list and the patch without them.
fn directives_in_list(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(|d| (d, d.as_str())) {
            None => rest.push(item),
            Some((_, Some("delete"))) => {
                let key = item.get(merge_key).ok_or_else(|| no_key(&item, merge_key))?;
                original.retain(|old| old.get(merge_key) != Some(key));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err(Error::Merge("merging lists cannot yet be specified in the patch".into()));
            }
            Some((other, _)) => return Err(bad_directive(other, &item)),
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (original, rest) })
}

/// Takes directives and nulls out of a value that comes into a place where nothing was; none where
/// only directives were in it.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let had = map.len();
            if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            let mut directives = 0;
            let mut out = Object::new();
            for (key, value) in map {
                if is_directive(&key) {
                    directives += 1;
                } else if !value.is_null()
                    && let Some(value) = clean(value)
                {
                    out.insert(key, value);
                }
            }
            if had > 0 && directives == had { None } else { Some(Value::Object(out)) }
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(clean).collect())),
        other => Some(other),
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

/// Where an item stands in a list, by its merge key if it has one.
fn place(list: &[Value], item: &Value, merge_key: Option<&str>) -> Option<usize> {
    match merge_key {
        Some(key) => list.iter().position(|other| other.get(key) == item.get(key)),
        None => list.iter().position(|other| other == item),
    }
}

/// Orders a merged list: what the patch names in the patch's order, what only the server has in the
/// server's, and the two woven together by the server's order.
fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, Error> {
    if let Some(key) = merge_key
        && let Some(item) = merged.iter().chain(order).find(|item| item.get(key).is_none())
    {
        return Err(no_key(item, key));
    }
    let (mut patched, mut kept): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(order, item, merge_key).is_some());
    patched.sort_by_key(|item| place(order, item, merge_key));
    kept.sort_by_key(|item| place(server, item, merge_key));
    let mut out = Vec::with_capacity(patched.len() + kept.len());
    let mut kept = kept.into_iter().peekable();
    for item in patched {
        let at = place(server, &item, merge_key);
        while let Some(next) = kept.peek() {
            match (place(server, next, merge_key), at) {
                (Some(l), Some(r)) if l < r => out.extend(kept.next()),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(kept);
    Ok(out)
}

/// Takes out doubles in upstream's way: the last item takes the place of each double.
fn dedup(mut items: Vec<Value>) -> Vec<Value> {
    let mut at = 0;
    while at < items.len() {
        let mut next = at + 1;
        while next < items.len() {
            if items[at] == items[next] {
                items.swap_remove(next);
            } else {
                next += 1;
            }
        }
        at += 1;
    }
    items
}

/// The items of a patch must stand in the order that its own `$setElementOrder` asks for.
fn check_order(patch: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), Error> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if let Some(key) = merge_key
            && item.get(key).is_none()
        {
            return Err(no_key(item, key));
        }
        if !places.any(|place| self::place(std::slice::from_ref(place), item, merge_key).is_some()) {
            return Err(Error::Merge(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                go::shown(&Value::Array(patch.to_vec())),
                go::shown(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
