//! Static pods: manifests in a directory of this node, each shown in the API by a mirror pod.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::context::Context;
use crate::names;
use crate::pod::backoff::Backoff;
use crate::pod::worker::Desired;
use crate::workers::Registry;

/// The static pods by full name, with the mirrors the API has of them.
#[derive(Default)]
pub struct Mirrors {
    known: Mutex<HashMap<(String, String), Shown>>,
}

#[derive(Default, Clone)]
struct Shown {
    pod: Option<Arc<Pod>>,
    mirror: Option<Arc<Pod>>,
    /// The pod that had the name before still ends: its mirror stays as long as it does.
    ending: bool,
}

fn key(pod: &Pod) -> (String, String) {
    (names::namespace(pod).to_owned(), names::name(pod).to_owned())
}

impl Mirrors {
    /// The API has this mirror pod.
    pub fn seen(self: &Arc<Self>, ctx: &Arc<Context>, registry: &Registry, mirror: Arc<Pod>) {
        let key = key(&mirror);
        let mut known = self.known.lock();
        let shown = known.entry(key.clone()).or_default();
        shown.mirror = Some(mirror.clone());
        let shown = shown.clone();
        drop(known);
        if let Some(pod) = &shown.pod {
            let mirror = mirror.clone();
            registry.modify(names::uid(pod), |desired| desired.mirror = Some(mirror));
        }
        self.settle(ctx, key);
    }

    /// The API has lost this mirror pod.
    pub fn deleted(self: &Arc<Self>, ctx: &Arc<Context>, registry: &Registry, mirror: &Pod) {
        let key = key(mirror);
        let mut known = self.known.lock();
        let Some(shown) = known.get_mut(&key) else { return };
        if shown.mirror.as_ref().is_some_and(|other| other.metadata.uid != mirror.metadata.uid) {
            return;
        }
        shown.mirror = None;
        let pod = shown.pod.clone();
        if pod.is_none() && !shown.ending {
            known.remove(&key);
        }
        drop(known);
        if let Some(pod) = pod {
            registry.modify(names::uid(&pod), |desired| desired.mirror = None);
        }
        self.settle(ctx, key);
    }

    /// The API has been listed: static pods without a mirror get one.
    pub fn settle_all(self: &Arc<Self>, ctx: &Arc<Context>) {
        let keys: Vec<_> = self.known.lock().keys().cloned().collect();
        for key in keys {
            self.settle(ctx, key);
        }
    }

    /// When nothing is left of `old`, the pod that has its name by then begins, and the mirror follows.
    fn replace(self: &Arc<Self>, ctx: &Arc<Context>, registry: &Arc<Registry>, old: &Pod) {
        let (mirrors, context, registry) = (self.clone(), ctx.clone(), registry.clone());
        let (uid, key) = (names::uid(old).to_owned(), key(old));
        ctx.tasks.spawn(async move {
            registry.ended(&uid).await;
            if !context.stop.is_cancelled() {
                mirrors.begin(&context, &registry, key);
            }
        });
    }

    /// Starts the static pod of this name, where there is one, and settles its mirror.
    fn begin(self: &Arc<Self>, ctx: &Arc<Context>, registry: &Arc<Registry>, key: (String, String)) {
        let mut known = self.known.lock();
        let Some(shown) = known.get_mut(&key) else { return };
        shown.ending = false;
        let shown = shown.clone();
        if shown.pod.is_none() && shown.mirror.is_none() {
            known.remove(&key);
        }
        drop(known);
        if let Some(pod) = shown.pod {
            registry.set(ctx, Desired { pod, mirror: shown.mirror, gone: false });
        }
        self.settle(ctx, key);
    }

    /// Makes the API's mirror what the static pod is, in the background, as often as it takes.
    fn settle(self: &Arc<Self>, ctx: &Arc<Context>, key: (String, String)) {
        let mirrors = self.clone();
        let context = ctx.clone();
        ctx.tasks.spawn(async move {
            let mut backoff: Option<Backoff> = None;
            loop {
                let shown = mirrors.known.lock().get(&key).cloned().unwrap_or_default();
                let Err(error) = settle(&context, &shown).await else { return };
                tracing::warn!(pod = key.1, %error, "cannot bring a mirror pod up to date");
                let now = Timestamp::now();
                let next = Backoff::next(backoff.as_ref(), now, now);
                let pause = tokio::time::sleep(next.delay());
                if context.stop.run_until_cancelled(pause).await.is_none() {
                    return;
                }
                backoff = Some(next);
            }
        });
    }
}

/// Deletes a mirror that shows something else, or makes one where there is none.
async fn settle(ctx: &Context, shown: &Shown) -> kube::Result<()> {
    if shown.ending {
        return Ok(());
    }
    let hash = |pod: &Pod, annotation| names::annotation(pod, annotation).map(str::to_owned);
    let wanted = shown.pod.as_ref().and_then(|pod| hash(pod, names::CONFIG_HASH));
    let Some(mirror) = &shown.mirror else {
        let Some(pod) = &shown.pod else { return Ok(()) };
        let api = Api::<Pod>::namespaced(ctx.client.clone(), names::namespace(pod));
        let mirror = mirror_of(ctx, pod).await;
        return match api.create(&PostParams::default(), &mirror).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => made.map(|_| ()),
        };
    };
    if wanted.is_some()
        && hash(mirror, names::CONFIG_MIRROR) == wanted
        && mirror.metadata.deletion_timestamp.is_none()
    {
        return Ok(());
    }
    let api = Api::<Pod>::namespaced(ctx.client.clone(), names::namespace(mirror));
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), ..Default::default() }),
        ..Default::default()
    };
    match api.delete(names::name(mirror), &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}

async fn mirror_of(ctx: &Context, pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    mirror.status = None;
    let hash = names::annotation(pod, names::CONFIG_HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(names::CONFIG_MIRROR.into(), hash);
    let node = Api::<Node>::all(ctx.client.clone()).get_opt(&ctx.config.node_name).await;
    if let Ok(Some(Node { metadata, .. })) = node {
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: ctx.config.node_name.clone(),
            uid: metadata.uid.unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
    }
    mirror
}

/// Follows the manifests in `dir` until the kubelet stops. `read` is told once all have been read.
///
/// # Errors
/// Where the directory cannot be made or watched.
pub async fn follow(
    ctx: Arc<Context>,
    registry: Arc<Registry>,
    mirrors: Arc<Mirrors>,
    dir: PathBuf,
    read: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut read = Some(read);
    fs::create_dir_all(&dir)?;
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::CREATE;
    inotify.watches().add(&dir, mask)?;
    let mut changes = inotify.into_event_stream([0; 4096])?;
    let mut known: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    // The last pod of each name whose manifest has gone, by uid.
    let mut former: HashMap<(String, String), String> = HashMap::new();
    loop {
        let found = read_all(&ctx, &dir).unwrap_or_else(|error| {
            tracing::warn!(path = %dir.display(), %error, "cannot read the directory of static pods");
            known.clone()
        });
        for (uid, pod) in &known {
            if !found.contains_key(uid) {
                if let Some(shown) = mirrors.known.lock().get_mut(&key(pod)) {
                    shown.pod = None;
                    shown.ending = true;
                }
                registry.modify(uid, |desired| desired.gone = true);
                former.insert(key(pod), uid.clone());
                mirrors.replace(&ctx, &registry, pod);
            }
        }
        for (uid, pod) in &found {
            if !known.contains_key(uid) {
                mirrors.known.lock().entry(key(pod)).or_default().pod = Some(pod.clone());
                // While the one before it ends, that one's end begins it.
                if former.get(&key(pod)).is_none_or(|before| !registry.has(before)) {
                    mirrors.begin(&ctx, &registry, key(pod));
                }
            }
        }
        known = found;
        former.retain(|_, uid| registry.has(uid));
        // Whoever waited may have stopped waiting.
        let _ = read.take().map(|read| read.send(()));
        match changes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

fn read_all(ctx: &Context, dir: &Path) -> io::Result<BTreeMap<String, Arc<Pod>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        // Being written, or no manifest: said, and read again when it changes.
        match read(&ctx.config.node_name, &path) {
            Ok(pod) => {
                found.insert(names::uid(&pod).to_owned(), Arc::new(pod));
            }
            Err(error) => tracing::warn!(path = %path.display(), error, "not a pod manifest"),
        }
    }
    Ok(found)
}

/// The pod a manifest stands for on the node of this name.
fn read(node: &str, path: &Path) -> Result<Pod, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse(node, path, &text)
}

fn parse(node: &str, path: &Path, text: &str) -> Result<Pod, String> {
    // By way of JSON: a decoder from YAML of everything a pod may hold is a tenth of the program.
    let decoded = codec::decode_yaml(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut pod: Pod = serde_json::from_str(&decoded.value.to_string()).map_err(|error| error.to_string())?;
    if pod.metadata.name.as_deref().unwrap_or_default().is_empty() || pod.spec.is_none() {
        return Err("it has no name or no spec".into());
    }
    let mut hash = Sha256::new();
    hash.update(node);
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(text);
    let hash: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let metadata = &mut pod.metadata;
    metadata.name = metadata.name.as_ref().map(|name| format!("{name}-{node}"));
    metadata.namespace.get_or_insert_with(|| "default".into());
    metadata.uid = Some(hash.clone());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(names::CONFIG_SOURCE.into(), "file".into());
    annotations.insert(names::CONFIG_HASH.into(), hash);
    annotations.insert(names::CONFIG_SEEN.into(), Timestamp::now().to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    spec.enable_service_links.get_or_insert(true);
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    let everything = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    };
    spec.tolerations.get_or_insert_default().push(everything);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
        container.termination_message_policy.get_or_insert_with(|| "File".into());
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: a\n    image: b\n";
        let pod = parse("n1", Path::new("/etc/m/web.yaml"), text).unwrap();
        assert_eq!((names::name(&pod), names::namespace(&pod)), ("web-n1", "default"));
        assert!(names::is_static(&pod) && !names::is_mirror(&pod));
        assert_eq!(names::uid(&pod).len(), 32);
        let other = parse("n1", Path::new("/etc/m/web.yaml"), &text.replace("image: b", "image: c")).unwrap();
        assert_ne!(names::uid(&pod), names::uid(&other));
        assert!(parse("n1", Path::new("/x"), "kind: Pod").is_err());
    }
}
