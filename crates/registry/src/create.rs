//! Create.

use api::{Object, Status, field};

use crate::admission::{Operation, Verdict};
use crate::engine::{Engine, RequestContext, Written};
use crate::meta;
use crate::names;
use crate::resource::Resource;
use crate::strategy::Claims;
use crate::update::Part;

/// Tries where `generateName` hits a name that is taken, or another write took what was claimed.
const TRIES: usize = 32;

impl Engine {
    /// Creates an object, already decoded and defaulted.
    ///
    /// # Errors
    /// 409 where the name is taken, 422 with every fault, what admission answers.
    pub async fn create(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        namespace: &str,
        mut object: Object,
    ) -> Result<Written, Status> {
        let doubled = meta::dedup_owners(&mut object);
        self.track(resource, cx, Part::Main, &mut object, None);
        let mut written = self.create_held(resource, cx, namespace, object).await?;
        written.warnings.splice(0..0, doubled);
        Ok(written)
    }

    /// Creates an object whose entries of managed fields are made already.
    pub(crate) async fn create_held(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        namespace: &str,
        object: Object,
    ) -> Result<Written, Status> {
        let generate = object.name().is_empty() && !object.meta_str("generateName").is_empty();
        let mut last = Status::internal("no try was made");
        for _ in 0..TRIES {
            match self.create_once(resource, cx, namespace, object.clone()).await {
                Err(e) if generate && e.is_already_exists() => last = e,
                Ok(None) => last = Status::internal("what the object claims was taken by faster writes"),
                Ok(Some(written)) => return Ok(written),
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    async fn create_once(
        &self,
        resource: &Resource,
        cx: &RequestContext,
        namespace: &str,
        mut object: Object,
    ) -> Result<Option<Written>, Status> {
        // Admission and strategies look at what others wrote before this request: a namespace, its service
        // account.
        self.catch_up().await?;
        self.fill_metadata(resource, namespace, &mut object)?;
        resource.null_empty(&mut object);
        let name = object.name().to_owned();
        let request = Verdict {
            engine: self,
            cx,
            resource,
            subresource: None,
            operation: Operation::Create,
            namespace,
            name: &name,
            old: None,
        };
        self.admission.mutate(&request, &mut object).await?;
        resource.default(&mut object);
        if resource.has_status && !resource.strategy.keeps_new_status() {
            object.0.remove("status");
            reset_status(resource, &mut object);
        }
        if resource.has_generation {
            object.set_meta("generation", 1);
        }
        resource.strategy.prepare_create(cx, &mut object);
        let mut errors = field::Errors::default();
        for _ in 0..resource.strategy.times_checked() {
            meta::validate(resource, &object, &mut errors);
            resource.strategy.validate(&object, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group_kind(), object.name(), &errors));
        }
        let mut warnings = resource.strategy.warnings(&object, None);
        warnings.extend(self.admission.validate(&request, Some(&object)).await?);
        let name = object.name().to_owned();
        if self.entry(resource).cache.get(&resource.key(namespace, &name)).is_some() {
            return Err(self.taken(resource, namespace, &name));
        }
        let mut claims = resource.strategy.claim(self, &mut object, None).await?;
        claims.extend(self.admission.claim(&request, &object).await?);
        if cx.dry_run {
            return Ok(Some(Written { object, created: true, warnings }));
        }
        self.write_new(resource, object, &claims)
            .await
            .map(|object| object.map(|object| Written { object, created: true, warnings }))
    }

    async fn write_new(
        &self,
        resource: &Resource,
        mut object: Object,
        claims: &Claims,
    ) -> Result<Option<Object>, Status> {
        if let Some(revision) = self.commit(resource, &object, None, claims).await? {
            object.set_meta("resourceVersion", revision.to_string());
            return Ok(Some(object));
        }
        if self.newest(resource, object.namespace(), object.name(), true).await?.is_some() {
            return Err(self.taken(resource, object.namespace(), object.name()));
        }
        Ok(None)
    }

    fn taken(&self, resource: &Resource, namespace: &str, name: &str) -> Status {
        let cached = self.entry(resource).cache.get(&resource.key(namespace, name));
        let deleting = cached.and_then(|i| i.object().ok()).is_some_and(|o| o.is_deleting());
        let mut status = Status::already_exists(&resource.group_resource(), name);
        if deleting {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    fn fill_metadata(&self, resource: &Resource, namespace: &str, object: &mut Object) -> Result<(), Status> {
        if !object.resource_version().is_empty() {
            return Err(Status::plain("resourceVersion should not be set on objects to be created"));
        }
        match_namespace(resource, namespace, object)?;
        for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            object.remove_meta(field);
        }
        object.set_meta("uid", uuid::Uuid::new_v4().to_string());
        object.set_meta("creationTimestamp", names::time(self.now()));
        let base = object.meta_str("generateName").to_owned();
        if object.name().is_empty() && !base.is_empty() {
            object.set_meta("name", names::generate(&base));
        }
        Ok(())
    }
}

/// Where the body names no namespace it is the path's; another one is refused. What is in no namespace
/// names none.
pub(crate) fn match_namespace(
    resource: &Resource,
    namespace: &str,
    object: &mut Object,
) -> Result<(), Status> {
    if !resource.namespaced() {
        object.remove_meta("namespace");
        return Ok(());
    }
    if object.namespace().is_empty() {
        object.set_meta("namespace", namespace);
    }
    if object.namespace() != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// The status of a new object as an encoder writes it: empty, where it is always written.
fn reset_status(resource: &Resource, object: &mut Object) {
    let version = &resource.versions[resource.stored];
    // A new object without a status conforms; only what is always written is added.
    if let Err(error) = version.types.conform(version.ty, &mut object.0) {
        tracing::error!(%error, kind = resource.kind, "an object stopped conforming after admission");
    }
    version.types.default(version.ty, &mut object.0);
}
