//! Who holds which fields: the one place where a write is told to [`patch::managed`].

use std::borrow::Cow;

use api::{Object, Status};
use patch::managed::{self, Request, Set, Versions};
use schema::{TypeId, Types};
use serde_json::Value;

use crate::engine::{Engine, RequestContext};
use crate::names;
use crate::resource::Resource;
use crate::update::Part;

/// A resource's versions, as managed fields name them.
struct OfResource<'r>(&'r Resource);

impl OfResource<'_> {
    fn index(&self, api_version: &str) -> Option<usize> {
        (0..self.0.versions.len()).find(|i| self.0.api_version(*i) == api_version)
    }
}

impl OfResource<'_> {
    /// An object in the stored form, in a version.
    fn show<'v>(&self, value: &'v Value, to: &str) -> Cow<'v, Value> {
        let convert = self.index(to).and_then(|i| self.0.versions[i].convert.as_ref());
        let (Some(convert), Value::Object(map)) = (convert, value) else { return Cow::Borrowed(value) };
        let mut object = Object(map.clone());
        convert.restore(&mut object);
        object.set_type(to, &self.0.kind);
        Cow::Owned(object.into_value())
    }
}

impl Versions for OfResource<'_> {
    fn types(&self, api_version: &str) -> Option<(&Types, TypeId)> {
        let version = &self.0.versions[self.index(api_version)?];
        Some((&version.types, version.ty))
    }

    fn convert<'v>(&self, value: &'v Value, from: &str, to: &str) -> Cow<'v, Value> {
        let Value::Object(map) = value else { return Cow::Borrowed(value) };
        if from == to {
            return Cow::Borrowed(value);
        }
        let mut object = Object(map.clone());
        if let Some(convert) = self.index(from).and_then(|i| self.0.versions[i].convert.as_ref()) {
            convert.store(&mut object);
        }
        if let Some(convert) = self.index(to).and_then(|i| self.0.versions[i].convert.as_ref()) {
            convert.restore(&mut object);
        }
        object.set_type(to, &self.0.kind);
        Cow::Owned(object.into_value())
    }
}

/// Fields that a write to this part cannot change, whatever it says.
fn ignored(resource: &Resource, part: Part<'_>) -> Set {
    let mut set = match part {
        Part::Status => {
            let version = &resource.versions[resource.stored];
            let fields = version.types.get(version.ty).fields.iter().map(|f| &*f.name);
            Set::of_fields(fields.filter(|f| !matches!(*f, "metadata" | "status")))
        }
        _ if resource.has_status => Set::of_fields(["status"]),
        _ => Set::default(),
    };
    insert_paths(&mut set, resource.strategy.reset_fields(matches!(part, Part::Status)));
    set
}

fn insert_paths(set: &mut Set, paths: &[&[&str]]) {
    for path in paths {
        let Some((last, way)) = path.split_last() else { continue };
        let mut at = &mut *set;
        for name in way {
            at = at.below_mut(&format!("f:{name}"));
        }
        at.insert(&format!("f:{last}"));
    }
}

/// Fields that the caller holds from this write on, changed or not.
fn said(part: Part<'_>, old: Option<&Object>) -> Set {
    let mut set = Set::default();
    if let (Part::View(_, said), Some(old)) = (part, old) {
        insert_paths(&mut set, said(old));
    }
    set
}

impl Engine {
    /// Notes in the new object who holds what this write changes; both objects are in the stored
    /// form. A write without a manager is the server's own and leaves the entries as they were.
    pub(crate) fn track(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        part: Part<'_>,
        new: &mut Object,
        old: Option<&Object>,
    ) {
        if cx.field_manager.is_empty() || matches!(part, Part::Trusted(_)) {
            match old.and_then(|o| o.get(&["metadata", "managedFields"])) {
                Some(list) => new.set_meta("managedFields", list.clone()),
                None => new.remove_meta("managedFields"),
            }
            return;
        }
        let stored = resource.api_version(resource.stored);
        let versions = OfResource(resource);
        let sent = if cx.api_version.is_empty() { &stored } else { &cx.api_version };
        let Some((types, ty)) = versions.types(sent) else { return };
        let now = names::time(self.now());
        let request = Request {
            versions: &versions,
            manager: &cx.field_manager,
            api_version: sent,
            subresource: part.subresource().unwrap_or_default(),
            now: &now,
            ignored: &ignored(resource, part),
            said: &said(part, old),
        };
        // The objects are lent out as values and taken back, which copies nothing.
        let value = Value::Object(std::mem::take(&mut new.0));
        let before = old.map(|o| Value::Object(o.0.clone()));
        let empty = before.is_none().then(|| managed::empty(types, ty));
        let live = before.as_ref().map(|v| versions.show(v, sent));
        let live = live.as_deref().or(empty.as_ref()).unwrap_or(&Value::Null);
        let list = managed::track(&request, live, &versions.show(&value, sent), old.is_none());
        if let Value::Object(map) = value {
            new.0 = map;
        }
        match list {
            Some(list) => new.set_meta("managedFields", list),
            None => new.remove_meta("managedFields"),
        }
    }

    /// Notes in an object that is posted to something that acts who holds its fields: the answer tells
    /// it, though nothing keeps it.
    pub fn track_posted(&self, cx: &RequestContext, type_name: &str, subresource: &str, object: &mut Object) {
        let types = schema::builtin();
        let Some(ty) = types.lookup(type_name) else { return };
        let now = names::time(self.now());
        let api_version = object.api_version().to_owned();
        let request = Request {
            versions: &Posted { api_version: &api_version, types, ty },
            manager: &cx.field_manager,
            api_version: &api_version,
            subresource,
            now: &now,
            ignored: &Set::default(),
            said: &Set::default(),
        };
        let value = Value::Object(std::mem::take(&mut object.0));
        let list = managed::track(&request, &managed::empty(types, ty), &value, true);
        if let Value::Object(map) = value {
            object.0 = map;
        }
        if let Some(list) = list {
            object.set_meta("managedFields", list);
        }
    }

    /// Applies a configuration, in the request's version as is the answer; `live` is in the stored form.
    ///
    /// # Errors
    /// 409 with every conflict, 400 and 500 where the configuration is not one of this kind.
    pub fn apply(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        part: Part<'_>,
        live: Option<&Object>,
        config: &Value,
        force: bool,
    ) -> Result<Value, Status> {
        let versions = OfResource(resource);
        let Some((types, ty)) = versions.types(&cx.api_version) else {
            return Err(Status::internal(format!("{} is not served", cx.api_version)));
        };
        let now = names::time(self.now());
        let request = Request {
            versions: &versions,
            manager: &cx.field_manager,
            api_version: &cx.api_version,
            subresource: part.subresource().unwrap_or_default(),
            now: &now,
            ignored: &ignored(resource, part),
            said: &Set::default(),
        };
        let live = match live {
            Some(live) => versions.show(&live.clone().into_value(), &cx.api_version).into_owned(),
            None => managed::empty(types, ty),
        };
        managed::apply(&request, &live, config, force)
    }
}

/// A type that is kept nowhere.
struct Posted<'p> {
    api_version: &'p str,
    types: &'p Types,
    ty: TypeId,
}

impl Versions for Posted<'_> {
    fn types(&self, api_version: &str) -> Option<(&Types, TypeId)> {
        (api_version == self.api_version).then_some((self.types, self.ty))
    }

    fn convert<'v>(&self, value: &'v Value, _from: &str, _to: &str) -> Cow<'v, Value> {
        Cow::Borrowed(value)
    }
}

/// Puts the old entries back where nothing but their times changed.
pub(crate) fn keep_times(new: &mut Object, old: &Object) {
    let list = |o: &Object| o.get(&["metadata", "managedFields"]).cloned().unwrap_or_default();
    let (given, standing) = (list(new), list(old));
    if given == standing || !managed::same_but_times(&given, &standing) {
        return;
    }
    let mut same = new.clone();
    same.set_meta("managedFields", standing);
    if same == *old {
        *new = same;
    }
}
