//! Update: PUT, the patches, and the subresources that change a part.

use std::sync::Arc;

use api::{Object, Status, field};
use serde_json::Value;

use crate::admission::{Operation, Verdict};
use crate::cache::Item;
use crate::create::match_namespace;
use crate::delete::Preconditions;
use crate::engine::{Engine, RequestContext, Written};
use crate::fields;
use crate::meta;
use crate::resource::{PartHook, Resource};

/// Tries of a change whose caller set no precondition, when other writes come first.
const TRIES: usize = 16;

/// [`View::said`](crate::View::said) of the object as it is.
pub type Said<'h> = &'h (dyn Fn(&Object) -> &'static [&'static [&'static str]] + Send + Sync);

/// Which part of the object may change.
#[derive(Clone, Copy)]
pub enum Part<'h> {
    /// All but the status, where that has its own path.
    Main,
    /// The status (and the metadata).
    Status,
    /// What the hook of the subresource named here says.
    Hook(&'static str, &'h dyn PartHook),
    /// What the main resource may change, seen through the subresource named here.
    View(&'static str, Said<'h>),
    /// Anything; the server's own act behind the subresource named here.
    Trusted(&'static str),
}

impl Part<'_> {
    pub fn subresource(&self) -> Option<&'static str> {
        match self {
            Part::Main => None,
            Part::Status => Some("status"),
            Part::Hook(name, _) | Part::View(name, _) | Part::Trusted(name) => Some(name),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct UpdateOptions {
    pub preconditions: Preconditions,
    /// Create what does not exist, whatever the strategy says.
    pub create: bool,
    /// The change is a server-side apply: it has made the entries of managed fields itself.
    pub applied: bool,
    /// The change is made from the newest object: it needs no resourceVersion to be safe.
    pub from_newest: bool,
}

/// A change: from the object as it is to the object as it should be, with warnings.
pub trait Change: Send + Sync {
    /// # Errors
    /// The change does not fit the object.
    fn apply(&self, current: Option<&Object>) -> Result<(Object, Vec<String>), Status>;
}

impl<F> Change for F
where
    F: Fn(Option<&Object>) -> Result<(Object, Vec<String>), Status> + Send + Sync,
{
    fn apply(&self, current: Option<&Object>) -> Result<(Object, Vec<String>), Status> {
        self(current)
    }
}

/// What one try came to.
enum Try {
    Done(Box<Written>),
    /// Another write came first.
    Lost,
}

impl Engine {
    /// Changes an object. A change that sets no resourceVersion is tried again when other writes
    /// come first.
    ///
    /// # Errors
    /// 404, 409 where a precondition does not hold, 422 with every fault, what admission answers.
    pub async fn update(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        part: Part<'_>,
        change: &dyn Change,
        options: &UpdateOptions,
    ) -> Result<Written, Status> {
        for attempt in 0..TRIES {
            let current = self.newest(resource, namespace, name, attempt > 0).await?;
            let Some(current) = current else {
                return self.create_by_update(resource, cx, (namespace, name), change, options).await;
            };
            let done =
                self.update_once(resource, cx, (namespace, name), part, change, options, &current).await?;
            if let Try::Done(written) = done {
                return Ok(*written);
            }
        }
        Err(Status::modified(&resource.group_resource(), name))
    }

    async fn create_by_update(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        change: &dyn Change,
        options: &UpdateOptions,
    ) -> Result<Written, Status> {
        if !(options.create || resource.strategy.create_on_update()) {
            return Err(Status::not_found(&resource.group_resource(), name));
        }
        let (mut object, warnings) = change.apply(None)?;
        if !object.resource_version().is_empty() && !options.applied {
            return Err(Status::not_found(&resource.group_resource(), name));
        }
        if let Some(uid) = &options.preconditions.uid {
            let key = resource.store_key(namespace, name);
            return Err(Status::conflict(&resource.group_resource(), name, &other_uid(&key, uid, "")));
        }
        object.remove_meta("uid");
        let mut written = if options.applied {
            object.remove_meta("resourceVersion");
            self.create_held(resource, cx, namespace, object).await?
        } else {
            self.create(resource, cx, namespace, object).await?
        };
        written.warnings.splice(0..0, warnings);
        Ok(written)
    }

    #[allow(clippy::too_many_arguments)]
    async fn update_once(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        part: Part<'_>,
        change: &dyn Change,
        options: &UpdateOptions,
        current: &Arc<Item>,
    ) -> Result<Try, Status> {
        let old = current.object()?;
        if let Some(uid) = options.preconditions.uid.as_deref().filter(|uid| *uid != old.uid()) {
            let key = resource.store_key(namespace, name);
            return Err(Status::conflict(&resource.group_resource(), name, &other_uid(&key, uid, old.uid())));
        }
        let (mut new, mut warnings) = change.apply(Some(&old))?;
        warnings.extend(meta::dedup_owners(&mut new));
        match_namespace(resource, namespace, &mut new)?;
        if !options.applied {
            self.track_change(resource, cx, part, &mut new, &old);
        }
        resource.null_empty(&mut new);
        let unguarded = self.check_version(resource, part, options, &new, &old)?;
        let request = Verdict {
            engine: self,
            cx,
            resource,
            subresource: part.subresource(),
            operation: Operation::Update,
            namespace,
            name,
            old: Some(&old),
        };
        self.admission.mutate(&request, &mut new).await?;
        resource.default(&mut new);
        prepare(resource, cx, part, &mut new, &old);
        let mut errors = field::Errors::default();
        // Upstream's engine looks at the metadata by themselves and against the old, and so do its
        // strategies, some of them by themselves too: a fault has as many causes.
        if !matches!(part, Part::Trusted(_)) {
            meta::validate_changed(resource, &new, &mut errors);
        }
        meta::validate_update(resource, &new, &old, &mut errors);
        if !matches!(part, Part::Trusted(_)) {
            meta::validate_update(resource, &new, &old, &mut errors);
            if matches!(part, Part::Main) && resource.strategy.updates_are_checked_whole() {
                meta::validate_changed(resource, &new, &mut errors);
            }
        }
        match part {
            Part::Main | Part::View(..) => resource.strategy.validate_update(&new, &old, &mut errors),
            Part::Status => resource.strategy.validate_status(&new, &old, &mut errors),
            Part::Hook(_, hook) => hook.validate(&new, &old, &mut errors),
            Part::Trusted(_) => {}
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group_kind(), name, &errors));
        }
        if matches!(part, Part::Main) {
            warnings.extend(resource.strategy.warnings(&new, Some(&old)));
        }
        warnings.extend(self.admission.validate(&request, Some(&new)).await?);
        let lost = || {
            if unguarded { Ok(Try::Lost) } else { Err(Status::modified(&resource.group_resource(), name)) }
        };
        let done = |object| Ok(Try::Done(Box::new(Written { object, created: false, warnings })));
        new.set_meta("resourceVersion", old.resource_version());
        if released(resource, &new) {
            if cx.dry_run || self.erase(resource, current, &new).await?.is_some() {
                return done(new);
            }
            return lost();
        }
        let mut claims = resource.strategy.claim(self, &mut new, Some(&old)).await?;
        claims.extend(self.admission.claim(&request, &new).await?);
        fields::keep_times(&mut new, &old);
        if new == old || cx.dry_run {
            return done(new);
        }
        match self.commit(resource, &new, Some(current), &claims).await? {
            Some(revision) => {
                new.set_meta("resourceVersion", revision.to_string());
                done(new)
            }
            // What the caller's version guards is as it was: only the claims were taken by another write.
            None if claims.contended() && self.is_newest(resource, current).await? => Ok(Try::Lost),
            None => lost(),
        }
    }

    /// Notes who holds what; what a hook does not let through is not held.
    fn track_change(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        part: Part<'_>,
        new: &mut Object,
        old: &Object,
    ) {
        let Part::Hook(_, hook) = part else {
            return self.track(resource, cx, part, new, Some(old));
        };
        if !hook.is_tracked() {
            match old.get(&["metadata", "managedFields"]) {
                Some(list) => new.set_meta("managedFields", list.clone()),
                None => new.remove_meta("managedFields"),
            }
            return;
        }
        let mut seen = new.clone();
        meta::carry_over(&mut seen, old);
        hook.prepare(&mut seen, old);
        self.track(resource, cx, part, &mut seen, Some(old));
        match seen.metadata_mut().remove("managedFields") {
            Some(list) => new.set_meta("managedFields", list),
            None => new.remove_meta("managedFields"),
        }
    }

    /// Answers whether the caller left the version open.
    fn check_version(
        &self,
        resource: &Resource,
        part: Part<'_>,
        options: &UpdateOptions,
        new: &Object,
        old: &Object,
    ) -> Result<bool, Status> {
        let given = new.resource_version();
        let name = old.name();
        if given.is_empty() {
            if matches!(part, Part::Main) && !options.from_newest && !resource.strategy.unconditional_update()
            {
                let mut errors = field::Errors::default();
                errors.invalid(
                    &field::Path::new("metadata.resourceVersion"),
                    0,
                    "must be specified for an update",
                );
                return Err(Status::invalid(&resource.group_kind(), name, &errors));
            }
            return Ok(true);
        }
        if given.parse::<u64>().is_err() {
            let given = field::quote(given);
            return Err(Status::plain(format!("strconv.ParseUint: parsing {given}: invalid syntax")));
        }
        if given != old.resource_version() {
            return Err(Status::modified(&resource.group_resource(), name));
        }
        Ok(false)
    }
}

/// What upstream's store says of an object that is not the one meant.
pub fn other_uid(key: &str, asked: &str, standing: &str) -> String {
    format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {asked}, UID in object meta: {standing}"
    )
}

/// Keeps the parts that this path does not change, and counts the generation.
fn prepare(resource: &Resource, cx: &RequestContext, part: Part<'_>, new: &mut Object, old: &Object) {
    meta::carry_over(new, old);
    match part {
        Part::Main | Part::View(..) => {
            if resource.has_status {
                put_back(new, old, "status");
            }
            resource.strategy.prepare_update(cx, new, old);
        }
        Part::Status => {
            let names: Vec<String> = new.0.keys().chain(old.0.keys()).cloned().collect();
            for name in
                names.iter().filter(|n| !matches!(n.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
            {
                put_back(new, old, name);
            }
            resource.strategy.prepare_status(cx, new, old);
        }
        Part::Hook(_, hook) => hook.prepare(new, old),
        Part::Trusted(_) => {}
    }
    // What the server does by itself (a pod's binding) is no change of what was asked for.
    let counts = !matches!(part, Part::Status | Part::Trusted(_));
    if resource.has_generation && counts && spec_changed(new, old) {
        new.set_meta("generation", old.generation() + 1);
    }
}

fn put_back(new: &mut Object, old: &Object, name: &str) {
    match old.0.get(name) {
        Some(value) => new.0.insert(name.to_owned(), value.clone()),
        None => new.0.remove(name),
    };
}

/// Anything besides the metadata and the status.
fn spec_changed(new: &Object, old: &Object) -> bool {
    fn rest(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
        object.0.iter().filter(|(name, _)| *name != "metadata" && *name != "status")
    }
    !rest(new).eq(rest(old))
}

/// Whether a deleting object has nothing left that holds it.
pub(crate) fn released(resource: &Resource, object: &Object) -> bool {
    object.is_deleting()
        && object.finalizers().is_empty()
        && !resource.strategy.held_back(object)
        && object.get(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0) == 0
}
