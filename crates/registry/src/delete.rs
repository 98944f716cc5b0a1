//! Delete: at once, gracefully, or held back by finalizers.

use std::sync::Arc;

use api::status::Details;
use api::{GroupResource, Object, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::admission::{Operation, Verdict};
use crate::cache::Item;
use crate::engine::{Engine, RequestContext};
use crate::names;
use crate::resource::Resource;
use crate::strategy::Claims;
use crate::update::released;

const TRIES: usize = 16;

/// `propagationPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What must be true of the object.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl Preconditions {
    fn check(&self, resource: &Resource, object: &Object) -> Result<(), Status> {
        let detail = match (&self.uid, &self.resource_version) {
            (Some(uid), _) if uid != object.uid() => format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object.uid()
            ),
            (_, Some(rv)) if rv != object.resource_version() => format!(
                "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({}). The object might have been modified",
                object.resource_version()
            ),
            _ => return Ok(()),
        };
        // Upstream names the kind here where it names the resource everywhere else.
        let kind = GroupResource::new(resource.group.clone(), resource.kind.clone());
        Err(Status::conflict(&kind, object.name(), &detail))
    }
}

#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub preconditions: Preconditions,
}

/// What a delete came to.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; this was it.
    Gone(Object),
    /// It waits for somebody.
    Pending(Object),
}

impl Deleted {
    pub fn object(&self) -> &Object {
        match self {
            Deleted::Gone(object) | Deleted::Pending(object) => object,
        }
    }
}

/// What becomes of the object now.
enum Step {
    Erase,
    Keep,
}

impl Engine {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404, 409 where a precondition does not hold, what admission answers.
    pub async fn delete(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        for attempt in 0..TRIES {
            let current = self.newest(resource, namespace, name, attempt > 0).await?;
            let current = current.ok_or_else(|| Status::not_found(&resource.group_resource(), name))?;
            if let Some(done) = self.delete_once(resource, cx, (namespace, name), options, &current).await? {
                return Ok(done);
            }
        }
        Err(Status::modified(&resource.group_resource(), name))
    }

    async fn delete_once(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        options: &DeleteOptions,
        current: &Arc<Item>,
    ) -> Result<Option<Deleted>, Status> {
        let old = current.object()?;
        options.preconditions.check(resource, &old)?;
        let request = Verdict {
            engine: self,
            cx,
            resource,
            subresource: None,
            operation: Operation::Delete,
            namespace,
            name,
            old: Some(&old),
        };
        self.admission.validate(&request, None).await?;
        let mut new = old.clone();
        let step = begin(resource, options, &mut new, self.now());
        match step {
            Step::Erase => {
                let mut old = old.clone();
                if !cx.dry_run {
                    let Some(revision) = self.erase(resource, current, &new).await? else { return Ok(None) };
                    for object in [&mut old, &mut new] {
                        object.set_meta("resourceVersion", revision.to_string());
                    }
                }
                // What goes at once was never marked, unless its kind waits for somebody else's word.
                let grace = resource.strategy.grace_period(&old, options.grace_period_seconds);
                let marked = old.is_deleting() || grace.is_some();
                Ok(Some(Deleted::Gone(if marked { new } else { old })))
            }
            Step::Keep if new == old || cx.dry_run => Ok(Some(Deleted::Pending(new))),
            Step::Keep => {
                let revision = self.commit(resource, &new, Some(current), &Claims::default()).await?;
                Ok(revision.map(|revision| {
                    new.set_meta("resourceVersion", revision.to_string());
                    Deleted::Pending(new)
                }))
            }
        }
    }

    /// Deletes these objects.
    ///
    /// # Errors
    /// The first that cannot be deleted, other than one that is gone already.
    pub async fn delete_collection(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        items: &[Arc<Item>],
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        for item in items {
            match self.delete(resource, cx, (item.namespace(), item.name()), options).await {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Marks the object as far as this delete goes.
fn begin(resource: &Resource, options: &DeleteOptions, object: &mut Object, now: Timestamp) -> Step {
    let grace = resource.strategy.grace_period(object, options.grace_period_seconds);
    set_finalizers(resource, options, object);
    let first = !object.is_deleting();
    let seconds = grace.unwrap_or(0).max(0);
    if first {
        let at = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        object.set_meta("deletionTimestamp", names::time(at));
        object.set_meta("deletionGracePeriodSeconds", seconds);
        if resource.has_generation {
            object.set_meta("generation", object.generation() + 1);
        }
        resource.strategy.begin_delete(object);
    } else if let Some(asked) = options.grace_period_seconds.filter(|_| grace.is_some()) {
        shorten(object, asked.max(0));
    }
    if released(resource, object) { Step::Erase } else { Step::Keep }
}

/// A second delete may only make the wait shorter, which counts from the first.
fn shorten(object: &mut Object, asked: i64) {
    let standing =
        object.get(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    if asked >= standing {
        return;
    }
    let ends: Option<Timestamp> = object.meta_str("deletionTimestamp").parse().ok();
    let sooner = SignedDuration::from_secs(standing - asked);
    if let Some(at) = ends.and_then(|ends| ends.checked_sub(sooner).ok()) {
        object.set_meta("deletionTimestamp", names::time(at));
        object.set_meta("deletionGracePeriodSeconds", asked);
    }
}

/// Finalizers that carry the propagation policy to the garbage collector.
fn set_finalizers(resource: &Resource, options: &DeleteOptions, object: &mut Object) {
    if !resource.strategy.is_collected() {
        return;
    }
    let standing: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
    let policy = options.propagation.or_else(|| {
        let named = |name: &str| standing.iter().any(|f| f == name);
        if named("orphan") {
            Some(Propagation::Orphan)
        } else if named("foregroundDeletion") {
            Some(Propagation::Foreground)
        } else {
            resource.strategy.orphans_by_default().then_some(Propagation::Orphan)
        }
    });
    let mut wanted: Vec<String> =
        standing.iter().filter(|f| *f != "orphan" && *f != "foregroundDeletion").cloned().collect();
    match policy {
        Some(Propagation::Orphan) => wanted.push("orphan".into()),
        Some(Propagation::Foreground) => wanted.push("foregroundDeletion".into()),
        Some(Propagation::Background) | None => {}
    }
    if wanted == standing {
        return;
    }
    if wanted.is_empty() {
        object.remove_meta("finalizers");
    } else {
        object.set_meta("finalizers", json!(wanted));
    }
}

impl Resource {
    /// `Success`, as a delete that is done answers.
    pub fn deleted_status(&self, object: &Object) -> Status {
        Status::success(Details {
            name: object.name().to_owned(),
            group: self.group.clone(),
            kind: self.plural.clone(),
            uid: object.uid().to_owned(),
            ..Details::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_wait_counts_from_the_first_delete() {
        let metadata = json!({"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30});
        let mut object = Object::default();
        object.0.insert("metadata".into(), metadata);
        let after = |object: &mut Object, asked| {
            shorten(object, asked);
            object.meta_str("deletionTimestamp").to_owned()
        };
        assert_eq!(after(&mut object, 40), "2026-01-01T00:00:30Z");
        assert_eq!(after(&mut object, 29), "2026-01-01T00:00:29Z");
        assert_eq!(after(&mut object, 0), "2026-01-01T00:00:00Z");
    }
}
