//! Feeds the authorisers' indexes from the watch cache.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use api::Object;
use auth::{NodeAuthorizer, Rbac};
use registry::{Engine, WatchEvent, WatchOptions, Watcher};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const RBAC: &str = "rbac.authorization.k8s.io";

/// What an index is told of one object.
type Apply = Box<dyn Fn(&Object, bool) + Send + Sync>;

fn typed<K: DeserializeOwned>(
    put: impl Fn(&K) + Send + Sync + 'static,
    remove: impl Fn(&Object) + Send + Sync + 'static,
) -> Apply {
    Box::new(move |object, deleted| {
        if deleted {
            return remove(object);
        }
        match serde_json::from_value::<K>(object.clone().into_value()) {
            Ok(typed) => put(&typed),
            Err(error) => tracing::error!(%error, name = object.name(), "a policy object cannot be read"),
        }
    })
}

/// Starts feeding; returns once everything that is stored has been told.
pub async fn feed(
    engine: &Arc<Engine>,
    rbac: &Arc<Rbac>,
    nodes: &Arc<NodeAuthorizer>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let r = || rbac.clone();
    let sources: Vec<(&str, &str, Apply)> = vec![
        (RBAC, "clusterroles", {
            let (a, b) = (r(), r());
            typed(move |k| a.put_cluster_role(k), move |o| b.remove_cluster_role(o.name()))
        }),
        (RBAC, "roles", {
            let (a, b) = (r(), r());
            typed(move |k| a.put_role(k), move |o| b.remove_role(o.namespace(), o.name()))
        }),
        (RBAC, "clusterrolebindings", {
            let (a, b) = (r(), r());
            typed(move |k| a.put_cluster_role_binding(k), move |o| b.remove_cluster_role_binding(o.name()))
        }),
        (RBAC, "rolebindings", {
            let (a, b) = (r(), r());
            typed(move |k| a.put_role_binding(k), move |o| b.remove_role_binding(o.namespace(), o.name()))
        }),
        ("", "pods", {
            let nodes = nodes.clone();
            Box::new(
                move |o, deleted| {
                    if deleted { nodes.remove_pod(o.namespace(), o.name()) } else { nodes.put_pod(o) }
                },
            )
        }),
        ("", "persistentvolumes", {
            let nodes = nodes.clone();
            Box::new(move |o, deleted| {
                if deleted {
                    nodes.remove_persistent_volume(o.name())
                } else {
                    nodes.put_persistent_volume(o)
                }
            })
        }),
        ("storage.k8s.io", "volumeattachments", {
            let nodes = nodes.clone();
            Box::new(move |o, deleted| {
                if deleted {
                    nodes.remove_volume_attachment(o.name())
                } else {
                    nodes.put_volume_attachment(o)
                }
            })
        }),
    ];
    for (group, plural, apply) in sources {
        let resource =
            engine.resource(group, plural).with_context(|| format!("no resource {plural}"))?.clone();
        let options = WatchOptions { bookmarks: true, initial_events: true, ..WatchOptions::default() };
        let mut watcher = engine.watch(&resource, options).await.map_err(|e| anyhow!(e.message))?;
        until_complete(&mut watcher, &apply).await;
        let (engine, stop) = (engine.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(&engine, &resource, watcher, &apply) => {}
            }
        });
    }
    Ok(())
}

fn tell(event: &WatchEvent, apply: &Apply) -> bool {
    let (item, deleted) = match event {
        WatchEvent::Added(item) | WatchEvent::Modified(item) => (item, false),
        WatchEvent::Deleted(item) => (item, true),
        WatchEvent::Bookmark { initial_end, .. } => return !initial_end,
        WatchEvent::Error(_) => return false,
    };
    match item.object() {
        Ok(object) => apply(&object, deleted),
        Err(error) => tracing::error!(%error, key = &*item.key, "a policy object cannot be read"),
    }
    true
}

async fn until_complete(watcher: &mut Watcher, apply: &Apply) {
    while let Some(event) = watcher.next().await {
        if !tell(&event, apply) {
            return;
        }
    }
}

/// Follows a watch; one that fell behind is begun anew from the state.
async fn follow(
    engine: &Arc<Engine>,
    resource: &Arc<registry::Resource>,
    mut watcher: Watcher,
    apply: &Apply,
) {
    loop {
        while let Some(event) = watcher.next().await {
            tell(&event, apply);
        }
        let options = WatchOptions { bookmarks: true, initial_events: true, ..WatchOptions::default() };
        match engine.watch(resource, options).await {
            Ok(next) => watcher = next,
            Err(error) => {
                tracing::error!(%error, "the policy is no longer followed");
                return;
            }
        }
    }
}
