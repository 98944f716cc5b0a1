//! All Services, for the variables that tell pods of them.

use std::sync::Arc;

use client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::Service;

/// Services a pod of `namespace` is told of, once the API has listed them: those beside it, and the API's own.
pub async fn seen_from(services: &Informer<Service>, namespace: &str) -> Vec<Arc<Service>> {
    services.synced().await;
    let mut seen = services.in_namespace(namespace);
    if namespace != "default" {
        seen.extend(services.get(&ObjectKey::new("default", "kubernetes")));
    }
    seen.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    seen
}
