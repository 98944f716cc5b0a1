//! Who holds which fields (`metadata.managedFields`), and server-side apply.
//!
//! Follows KEP-555 and upstream's structured-merge-diff:
//! - a create, an update or another patch takes the fields that it changes ([`track`]);
//! - an apply takes the fields that it names, conflicts where another holder has another value, and
//!   takes out what it named before and names no more, if nobody else holds it ([`apply`]).
//!
//! Values are compared in the version in which a holder's fields are named; [`Versions`] makes them.
//! Start at [`apply`].

mod check;
mod compare;
mod entry;
mod last_applied;
mod merge;
mod schema;
mod set;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use ::schema::{TypeId, Types};
use api::Status;
use api::status::Cause;
use serde_json::{Map, Value};

use compare::{Comparison, compare, fields_of};
pub use entry::{Held, Managed, Operation, Owner, same_but_times};
use schema::Place;
pub use set::Set;

/// Holds what stood in an object before anybody's fields were kept.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The versions of a kind.
pub trait Versions {
    /// The types of a version; `None` for one that is not served.
    fn types(&self, api_version: &str) -> Option<(&Types, TypeId)>;
    /// An object of one version in another.
    fn convert<'v>(&self, value: &'v Value, from: &str, to: &str) -> Cow<'v, Value>;
}

/// What a request is to the fields of an object.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub versions: &'a dyn Versions,
    pub manager: &'a str,
    /// The version in which the object is sent.
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
    /// Fields that this request cannot change, whatever it says.
    pub ignored: &'a Set,
    /// Fields that the manager holds after an update, changed or not.
    pub said: &'a Set,
}

/// Fields that nobody holds.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    let mut set = Set::of_fields(["apiVersion", "kind", "metadata"]);
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.below_mut("f:metadata").insert(&format!("f:{name}"));
    }
    set
});

fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

fn read_managed(object: &Value) -> Managed {
    managed_fields(object).and_then(Managed::read).unwrap_or_default()
}

/// An object without its entries, in the form that is compared.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        meta.remove("managedFields");
    }
    object
}

/// Whether the client asks for all entries to be forgotten: a list of one empty entry.
fn is_reset(list: Option<&Value>) -> bool {
    list.and_then(Value::as_array)
        .is_some_and(|l| l.len() == 1 && l[0].as_object().is_some_and(Map::is_empty))
}

/// The entries of an object after a create (`live` is then the empty object, `created` set) or an
/// update, both objects in the request's version. `None` where no entries are kept.
pub fn track(request: &Request<'_>, live: &Value, new: &Value, created: bool) -> Option<Value> {
    let given = managed_fields(new);
    let mut managed = if !request.subresource.is_empty() {
        read_managed(live)
    } else if is_reset(given) {
        Managed::default()
    } else {
        let given = given.and_then(Managed::read).filter(|m| !m.0.is_empty());
        given.unwrap_or_else(|| read_managed(live))
    };
    // An object whose entries were taken away stays without, until somebody applies.
    if managed.0.is_empty() && !created {
        return None;
    }
    take_changes(request, live, new, &mut managed);
    managed.cap();
    (!managed.0.is_empty()).then(|| managed.write())
}

/// Gives the manager what changed between two objects.
fn take_changes(request: &Request<'_>, live: &Value, new: &Value, managed: &mut Managed) {
    let Some((types, ty)) = request.versions.types(request.api_version) else { return };
    let changes = compare(Place::root(types, ty), live, new).without(request.ignored);
    let owner = Owner::new(Operation::Update, request.manager, request.api_version, request.subresource);
    settle(request, (live, new), &changes, managed, None);
    let taken =
        changes.modified.union(&changes.added).recursive_difference(request.ignored).difference(&UNOWNED);
    let taken = taken.union(request.said);
    if taken.is_empty() {
        return;
    }
    let held = managed.0.entry(owner).or_default();
    held.fields = held.fields.union(&taken);
    held.api_version = request.api_version.to_owned();
    held.time = request.now.to_owned();
}

/// A field that an apply would change while another holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub owner: Owner,
    pub fields: Set,
}

/// Who else holds what an operation changes.
fn conflicts(
    request: &Request<'_>,
    objects: (&Value, &Value),
    changes: &Comparison,
    managed: &Managed,
    but: Option<&Owner>,
) -> (Vec<Conflict>, BTreeMap<String, Comparison>) {
    let mut versions: BTreeMap<String, Comparison> = BTreeMap::new();
    versions.insert(request.api_version.to_owned(), changes.clone());
    let mut found = Vec::new();
    for (owner, held) in managed.0.iter().filter(|(owner, _)| Some(*owner) != but) {
        if !versions.contains_key(&held.api_version) {
            let Some((types, ty)) = request.versions.types(&held.api_version) else { continue };
            let (from, to) = (request.api_version, held.api_version.as_str());
            let old = request.versions.convert(objects.0, from, to);
            let new = request.versions.convert(objects.1, from, to);
            let found = compare(Place::root(types, ty), &old, &new);
            versions.insert(held.api_version.clone(), found.without(request.ignored));
        }
        let changes = &versions[&held.api_version];
        let fields = held.fields.intersection(&changes.modified.union(&changes.added));
        if !fields.is_empty() {
            found.push(Conflict { owner: owner.clone(), fields });
        }
    }
    (found, versions)
}

/// Takes from everybody else what was changed, and what is gone.
fn settle(
    request: &Request<'_>,
    objects: (&Value, &Value),
    changes: &Comparison,
    managed: &mut Managed,
    but: Option<&Owner>,
) {
    let own = Owner::new(Operation::Update, request.manager, request.api_version, request.subresource);
    let (found, versions) = conflicts(request, objects, changes, managed, but);
    for conflict in found.iter().filter(|c| but.is_some() || c.owner != own) {
        if let Some(held) = managed.0.get_mut(&conflict.owner) {
            held.fields = held.fields.difference(&conflict.fields);
        }
    }
    managed.0.retain(|owner, held| {
        if Some(owner) == but {
            return true;
        }
        // Fields in a version that is no longer served say nothing any more.
        let Some(changes) = versions.get(&held.api_version) else { return false };
        held.fields = held.fields.difference(&changes.removed);
        !held.fields.is_empty()
    });
}

/// Applies a configuration. `live` is the empty object where there is none yet. Answers the object
/// in the request's version, its entries in it.
///
/// # Errors
/// 400 for a configuration of another version or with entries, 409 with every conflict, 500 where
/// it does not fit the schema.
pub fn apply(request: &Request<'_>, live: &Value, config: &Value, force: bool) -> Result<Value, Status> {
    let given = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if given != request.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {}",
            request.api_version
        )));
    }
    if managed_fields(config).is_some_and(|list| !list.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let applied = match apply_once(request, live, config, force) {
        Err(Refused::Conflicts(found)) if request.manager == last_applied::KUBECTL => {
            let left = last_applied::not_allowed(request, live, found);
            if !left.is_empty() {
                return Err(conflict_status(&left));
            }
            apply_once(request, live, config, true)
        }
        other => other,
    };
    let mut object = match applied {
        Ok(object) => object,
        Err(Refused::Conflicts(found)) => return Err(conflict_status(&found)),
        Err(Refused::Other(status)) => return Err(*status),
    };
    if request.manager == last_applied::KUBECTL {
        last_applied::sync(&mut object, config);
    }
    Ok(object)
}

enum Refused {
    Conflicts(Vec<Conflict>),
    Other(Box<Status>),
}

fn apply_once(request: &Request<'_>, live: &Value, config: &Value, force: bool) -> Result<Value, Refused> {
    let refuse = |why: String| Refused::Other(Box::new(Status::plain(why)));
    let Some((types, ty)) = request.versions.types(request.api_version) else {
        return Err(refuse(format!("no types for {}", request.api_version)));
    };
    let place = Place::root(types, ty);
    let faults = check::faults(place, config);
    if !faults.is_empty() {
        let what = subject(config);
        return Err(refuse(format!(
            "failed to create typed patch object ({what}): {}",
            check::message(&faults)
        )));
    }
    let mut managed = read_managed(live);
    let live = bare(live);
    if managed.0.is_empty() {
        let before = Request { manager: BEFORE_FIRST_APPLY, ..*request };
        take_changes(&before, &empty(types, ty), &live, &mut managed);
    }
    let owner = Owner::new(Operation::Apply, request.manager, request.api_version, request.subresource);
    let last = managed.0.get(&owner).cloned();
    let merged = merge::merge(place, &live, config);
    let fields = fields_of(place, config).recursive_difference(request.ignored);
    let time = last.as_ref().map(|l| l.time.clone()).unwrap_or_default();
    managed.0.insert(owner.clone(), Held { api_version: request.api_version.to_owned(), fields, time });
    let merged = prune(request, merged, &managed, last.as_ref());
    let changes = compare(place, &live, &merged).without(request.ignored);
    // As upstream: what differs in nothing that is compared, the order of items say, stays as it is.
    let merged = if changes.is_same() { live.clone() } else { merged };
    let (found, _) = conflicts(request, (&live, &merged), &changes, &managed, Some(&owner));
    if !force && !found.is_empty() {
        return Err(Refused::Conflicts(found));
    }
    settle(request, (&live, &merged), &changes, &mut managed, Some(&owner));
    if let Some(held) = managed.0.get_mut(&owner) {
        held.fields = held.fields.difference(&UNOWNED);
        // As upstream: who applies what is there already holds it, since no time.
        if !changes.is_same() {
            held.time = request.now.to_owned();
        }
        if held.fields.is_empty() {
            managed.0.remove(&owner);
        }
    }
    Ok(with_entries(merged, &managed))
}

fn with_entries(mut object: Value, managed: &Managed) -> Value {
    if let Value::Object(map) = &mut object
        && !managed.0.is_empty()
    {
        api::object::map_entry(map, "metadata").insert("managedFields".into(), managed.write());
    }
    object
}

/// What Go's empty object of a type holds.
pub fn empty(types: &Types, ty: TypeId) -> Value {
    let mut map = Map::new();
    // An empty map has nothing that could be of a wrong type.
    let _ = types.conform(ty, &mut map);
    Value::Object(map)
}

/// `namespace/name; group/version, Kind=Kind`
fn subject(config: &Value) -> String {
    let text = |path: &str| config.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let api_version = text("/apiVersion");
    let at = if namespace.is_empty() { format!("/{name}") } else { format!("{namespace}/{name}") };
    let version =
        if api_version.contains('/') { Cow::from(api_version) } else { Cow::from(format!("/{api_version}")) };
    format!("{at}; {version}, Kind={}", text("/kind"))
}

/// Takes out what the applier named before and names no more, but not what others hold.
fn prune(request: &Request<'_>, merged: Value, managed: &Managed, last: Option<&Held>) -> Value {
    let Some(last) = last.filter(|l| !l.fields.is_empty()) else { return merged };
    let Some((types, ty)) = request.versions.types(&last.api_version) else { return merged };
    let place = Place::root(types, ty);
    let named = |set: &Set, place: Place<'_>| set.with_named_fields(place);
    let whole = request.versions.convert(&merged, request.api_version, &last.api_version);
    let mut pruned = merge::remove(place, &whole, &named(&last.fields, place));
    let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
    for held in managed.0.values() {
        let all = by_version.entry(&held.api_version).or_default();
        *all = all.union(&held.fields);
    }
    // The version of what was pruned first: others may need its fields to be made from it.
    let mut order: Vec<(&str, Set)> = by_version.into_iter().collect();
    order.sort_by_key(|(version, _)| *version != last.api_version);
    for (version, held) in order {
        let Some((types, ty)) = request.versions.types(version) else { continue };
        let place = Place::root(types, ty);
        let all = request.versions.convert(&whole, &last.api_version, version);
        let left = request.versions.convert(&pruned, &last.api_version, version);
        let keep = named(&fields_of(place, &left), place).union(&named(&held, place));
        let gone = named(&fields_of(place, &all), place).difference(&keep);
        let rest = merge::remove(place, &all, &gone);
        pruned = request.versions.convert(&rest, version, &last.api_version).into_owned();
    }
    // What stands in nobody's entry and was not the applier's either stays.
    let left = named(&fields_of(place, &pruned), place);
    let gone = named(&fields_of(place, &whole), place).difference(&left);
    let gone = gone.intersection(&named(&last.fields, place));
    let pruned = merge::remove(place, &whole, &gone);
    request.versions.convert(&pruned, &last.api_version, request.api_version).into_owned()
}

fn conflict_status(found: &[Conflict]) -> Status {
    let each: Vec<(&Conflict, Vec<String>)> = found.iter().map(|c| (c, c.fields.paths())).collect();
    let count: usize = each.iter().map(|(_, paths)| paths.len()).sum();
    let message = if let [(conflict, paths)] = &each[..]
        && let [path] = &paths[..]
    {
        format!("Apply failed with 1 conflict: conflict with {}: {path}", conflict.owner)
    } else {
        let blocks: Vec<String> = (each.iter())
            .map(|(c, paths)| format!("conflicts with {}:\n- {}", c.owner, paths.join("\n- ")))
            .collect();
        format!("Apply failed with {count} conflicts: {}", blocks.join("\n"))
    };
    let causes = each.iter().flat_map(|(conflict, paths)| {
        paths.iter().map(|path| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", conflict.owner),
            field: path.clone(),
        })
    });
    let mut status = Status::failure(409, "Conflict", message);
    let details = api::status::Details { causes: causes.collect(), ..Default::default() };
    status.details = Some(Box::new(details));
    status
}

#[cfg(test)]
mod tests;
