//! DefaultStorageClass and DefaultIngressClass: what names no class gets the one marked as default.

use api::{Object, Status};
use registry::{Operation, Verdict};

use crate::{Plugin, standing};

/// Gives objects of one kind the default class of another.
pub(crate) struct DefaultClass {
    name: &'static str,
    /// Group and plural name of what gets a class.
    of: (&'static str, &'static str),
    /// Group and plural name of the classes.
    classes: (&'static str, &'static str),
    /// Where the class is named.
    field: &'static [&'static str],
    /// An annotation that named it before the field did.
    annotation: &'static str,
    /// Annotations of which one marks a class as default.
    marks: &'static [&'static str],
}

pub(crate) const DEFAULT_STORAGE_CLASS: DefaultClass = DefaultClass {
    name: "DefaultStorageClass",
    of: ("", "persistentvolumeclaims"),
    classes: ("storage.k8s.io", "storageclasses"),
    field: &["spec", "storageClassName"],
    annotation: "volume.beta.kubernetes.io/storage-class",
    marks: &[
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ],
};

pub(crate) const DEFAULT_INGRESS_CLASS: DefaultClass = DefaultClass {
    name: "DefaultIngressClass",
    of: ("networking.k8s.io", "ingresses"),
    classes: ("networking.k8s.io", "ingressclasses"),
    field: &["spec", "ingressClassName"],
    annotation: "kubernetes.io/ingress.class",
    marks: &["ingressclass.kubernetes.io/is-default-class"],
};

impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        let resource = (request.resource.group.as_str(), request.resource.plural.as_str());
        resource == self.of && request.subresource.is_none() && request.operation == Operation::Create
    }

    fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
        if object.get(self.field).is_some() || object.annotation(self.annotation).is_some() {
            return Ok(());
        }
        let mut best: Option<Object> = None;
        for item in standing(request, self.classes.0, self.classes.1, "") {
            let class = item.object()?;
            let marked = self.marks.iter().any(|mark| class.annotation(mark) == Some("true"));
            // Of several the newest is taken; of those made in one second the first by name.
            if marked
                && best
                    .as_ref()
                    .is_none_or(|b| class.meta_str("creationTimestamp") > b.meta_str("creationTimestamp"))
            {
                best = Some(class);
            }
        }
        if let Some(class) = best {
            object.set(self.field, class.name());
        }
        Ok(())
    }
}
