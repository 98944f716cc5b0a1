//! Feeds the authorisers' indexes from the watch cache.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use api::{Object, Status};
use auth::{NodeAuthorizer, Rbac};
use listen::Backoff;
use registry::{Engine, Item, Resource, WatchEvent, WatchOptions, Watcher};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const RBAC: &str = "rbac.authorization.k8s.io";
/// The first pause and the longest between attempts at a watch that cannot be had.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

type Put = Box<dyn Fn(&Object) + Send + Sync>;
type Remove = Box<dyn Fn(&str, &str) + Send + Sync>;
type Retain = Box<dyn Fn(&Keep<'_>) + Send + Sync>;
/// Whether a namespace (empty for the cluster's own) and a name are to stay.
type Keep<'k> = dyn Fn(&str, &str) -> bool + 'k;

/// The part of an authoriser that one resource fills.
struct Index {
    put: Put,
    remove: Remove,
    retain: Retain,
}

/// Objects read as their kind. One that cannot be read grants nothing of what it says now, and what it said
/// before stands.
fn typed<K: DeserializeOwned>(put: impl Fn(&K) + Send + Sync + 'static) -> Put {
    Box::new(move |object| match serde_json::from_value::<K>(object.clone().into_value()) {
        Ok(typed) => put(&typed),
        Err(error) => tracing::error!(%error, name = object.name(), "a policy object cannot be read"),
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
    for (group, plural, index) in policies(rbac).into_iter().chain(relations(nodes)) {
        let resource =
            engine.resource(group, plural).with_context(|| format!("no resource {plural}"))?.clone();
        let mut watcher = begin(engine, &resource).await.map_err(|e| anyhow!(e.message))?;
        index.fill(&mut watcher).await;
        let (engine, stop) = (engine.clone(), stop.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(follow(&engine, &resource, watcher, &index)).await;
        });
    }
    Ok(())
}

fn policies(rbac: &Arc<Rbac>) -> Vec<(&'static str, &'static str, Index)> {
    let r = || rbac.clone();
    let (a, b, c) = (r(), r(), r());
    let cluster_roles = Index {
        put: typed(move |k| a.put_cluster_role(k)),
        remove: Box::new(move |_, name| b.remove_cluster_role(name)),
        retain: Box::new(move |keep| c.retain_cluster_roles(|name| keep("", name))),
    };
    let (a, b, c) = (r(), r(), r());
    let roles = Index {
        put: typed(move |k| a.put_role(k)),
        remove: Box::new(move |namespace, name| b.remove_role(namespace, name)),
        retain: Box::new(move |keep| c.retain_roles(keep)),
    };
    let (a, b, c) = (r(), r(), r());
    let cluster_role_bindings = Index {
        put: typed(move |k| a.put_cluster_role_binding(k)),
        remove: Box::new(move |_, name| b.remove_cluster_role_binding(name)),
        retain: Box::new(move |keep| c.retain_cluster_role_bindings(|name| keep("", name))),
    };
    let (a, b, c) = (r(), r(), r());
    let role_bindings = Index {
        put: typed(move |k| a.put_role_binding(k)),
        remove: Box::new(move |namespace, name| b.remove_role_binding(namespace, name)),
        retain: Box::new(move |keep| c.retain_role_bindings(keep)),
    };
    vec![
        (RBAC, "clusterroles", cluster_roles),
        (RBAC, "roles", roles),
        (RBAC, "clusterrolebindings", cluster_role_bindings),
        (RBAC, "rolebindings", role_bindings),
    ]
}

fn relations(nodes: &Arc<NodeAuthorizer>) -> Vec<(&'static str, &'static str, Index)> {
    let n = || nodes.clone();
    let (a, b, c) = (n(), n(), n());
    let pods = Index {
        put: Box::new(move |pod| a.put_pod(pod)),
        remove: Box::new(move |namespace, name| b.remove_pod(namespace, name)),
        retain: Box::new(move |keep| c.retain_pods(keep)),
    };
    let (a, b, c) = (n(), n(), n());
    let volumes = Index {
        put: Box::new(move |volume| a.put_persistent_volume(volume)),
        remove: Box::new(move |_, name| b.remove_persistent_volume(name)),
        retain: Box::new(move |keep| c.retain_persistent_volumes(|name| keep("", name))),
    };
    let (a, b, c) = (n(), n(), n());
    let attachments = Index {
        put: Box::new(move |attachment| a.put_volume_attachment(attachment)),
        remove: Box::new(move |_, name| b.remove_volume_attachment(name)),
        retain: Box::new(move |keep| c.retain_volume_attachments(|name| keep("", name))),
    };
    vec![
        ("", "pods", pods),
        ("", "persistentvolumes", volumes),
        ("storage.k8s.io", "volumeattachments", attachments),
    ]
}

impl Index {
    fn put(&self, item: &Item) {
        match item.object() {
            Ok(object) => (self.put)(&object),
            Err(error) => tracing::error!(%error, key = &*item.key, "a policy object cannot be read"),
        }
    }

    fn tell(&self, event: &WatchEvent) {
        match event {
            WatchEvent::Added(item) | WatchEvent::Modified(item) => self.put(item),
            WatchEvent::Deleted(item) => (self.remove)(item.namespace(), item.name()),
            WatchEvent::Bookmark { .. } | WatchEvent::Error(_) => {}
        }
    }

    /// Makes the index what a new watch's initial events show: what is not among them was deleted while
    /// nobody watched. Answers whether they were complete; if not, nothing is taken out.
    async fn fill(&self, watcher: &mut Watcher) -> bool {
        let mut shown: HashSet<(Box<str>, Box<str>)> = HashSet::new();
        let key = |item: &Item| (item.namespace().into(), item.name().into());
        while let Some(event) = watcher.next().await {
            match &event {
                WatchEvent::Added(item) | WatchEvent::Modified(item) => {
                    shown.insert(key(item));
                }
                WatchEvent::Deleted(item) => {
                    shown.remove(&key(item));
                }
                WatchEvent::Bookmark { initial_end: true, .. } => {
                    (self.retain)(&|namespace, name| shown.contains(&(namespace.into(), name.into())));
                    return true;
                }
                WatchEvent::Bookmark { .. } => {}
                WatchEvent::Error(_) => return false,
            }
            self.tell(&event);
        }
        false
    }
}

/// A watch of everything, from the state on.
async fn begin(engine: &Arc<Engine>, resource: &Arc<Resource>) -> Result<Watcher, Status> {
    let options = WatchOptions { bookmarks: true, initial_events: true, ..WatchOptions::default() };
    engine.watch(resource, options).await
}

/// Follows a watch; one that fell behind is begun anew from the state, as often as it takes.
async fn follow(engine: &Arc<Engine>, resource: &Arc<Resource>, mut watcher: Watcher, index: &Index) {
    let mut backoff = Backoff::new(RETRY, RETRY_MOST);
    loop {
        while let Some(event) = watcher.next().await {
            index.tell(&event);
        }
        tracing::debug!(resource = resource.plural, "the policy's watch fell behind; beginning anew");
        loop {
            match begin(engine, resource).await {
                Ok(next) => watcher = next,
                Err(error) => {
                    let resource = &resource.plural;
                    tracing::error!(%error, resource, "the policy cannot be followed; trying again");
                    tokio::time::sleep(backoff.failed()).await;
                    continue;
                }
            }
            if index.fill(&mut watcher).await {
                backoff.succeeded();
                break;
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use registry::RequestContext;
    use registry::resource::Act;
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    struct Unasked;

    #[async_trait::async_trait]
    impl Act for Unasked {
        fn type_name(&self) -> &'static str {
            "io.k8s.api.authorization.v1.SubjectAccessReview"
        }

        async fn act(
            &self,
            _: &Arc<Engine>,
            _: &RequestContext,
            _: (&str, &str),
            posted: Object,
        ) -> Result<Object, Status> {
            Ok(posted)
        }
    }

    async fn engine(store: Arc<dyn store::Store>) -> Arc<Engine> {
        let act = || -> Arc<dyn Act> { Arc::new(Unasked) };
        let injected = resources::Injected {
            token_request: act(),
            token_review: act(),
            self_subject_review: act(),
            subject_access_review: act(),
            self_subject_access_review: act(),
            local_subject_access_review: act(),
            self_subject_rules_review: act(),
        };
        let service_cidr = "10.96.0.0/16".parse().unwrap();
        let settings = resources::Settings { service_cidr, node_ports: 30000..=32767 };
        let config = registry::Config {
            store,
            resources: resources::table(&settings, &injected),
            admission: Arc::new(registry::admission::AdmitAll),
            clock: Arc::new(jiff::Timestamp::now),
        };
        Engine::open(config).await.unwrap()
    }

    /// An index whose names are told after each time that it is made anew.
    fn names(begin_with: &[&str]) -> (Arc<Index>, mpsc::UnboundedReceiver<BTreeSet<String>>) {
        let names: BTreeSet<String> = begin_with.iter().map(ToString::to_string).collect();
        let names = Arc::new(std::sync::Mutex::new(names));
        let (tell, told) = mpsc::unbounded_channel();
        let (a, b, c) = (names.clone(), names.clone(), names);
        let index = Index {
            put: Box::new(move |object| {
                a.lock().unwrap().insert(object.name().to_owned());
            }),
            remove: Box::new(move |_, name| {
                b.lock().unwrap().remove(name);
            }),
            retain: Box::new(move |keep| {
                let mut names = c.lock().unwrap();
                names.retain(|name| keep("", name));
                tell.send(names.clone()).unwrap();
            }),
        };
        (Arc::new(index), told)
    }

    #[tokio::test]
    async fn what_was_deleted_while_nobody_watched_is_taken_out() {
        let stop = CancellationToken::new();
        let store = store::memory::Engine::new();
        let first = engine(store.clone()).await;
        let running = tokio::spawn({
            let (first, stop) = (first.clone(), stop.clone());
            async move { first.run(stop).await }
        });
        let resource = first.resource(RBAC, "clusterroles").unwrap().clone();
        let cx = RequestContext {
            user: Arc::new(api::User::new("root", ["system:masters"])),
            dry_run: false,
            field_manager: "test".into(),
            api_version: String::new(),
        };
        for name in ["a", "b"] {
            let role = json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
                "metadata": {"name": name}, "rules": []});
            let role = Object::from(role.as_object().unwrap().clone());
            first.create(&resource, &cx, "", role).await.unwrap();
        }
        // The history of a server that starts now does not reach back: a watch from before ends at once.
        let engine = engine(store).await;
        let resource = engine.resource(RBAC, "clusterroles").unwrap().clone();
        let options = WatchOptions { revision: Some(store::Revision(1)), ..WatchOptions::default() };
        let behind = engine.watch(&resource, options).await.unwrap();
        let (index, mut told) = names(&["a", "gone"]);
        let following = tokio::spawn({
            let (engine, resource) = (engine.clone(), resource.clone());
            async move { follow(&engine, &resource, behind, &index).await }
        });
        assert_eq!(told.recv().await.unwrap(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        following.abort();
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[test]
    fn every_index_lets_go_of_what_is_not_kept() {
        let (rbac, nodes) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::default()));
        rbac.put_policy(&auth::bootstrap::policy());
        let root = api::User::new("root", ["system:masters"]);
        assert!(!rbac.rules_for(&root, "kube-system").is_empty());
        for (.., index) in policies(&rbac).iter().chain(&relations(&nodes)) {
            (index.retain)(&|_, _| false);
        }
        assert!(rbac.rules_for(&root, "kube-system").is_empty());
    }
}
