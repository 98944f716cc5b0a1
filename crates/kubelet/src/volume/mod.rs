//! A pod's volumes on the host.
//!
//! Each volume has a directory `pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`, as upstream's kubelet
//! lays them out; a `hostPath` is where it is. Files that come from API objects are replaced by one rename
//! ([`atomic`]), so that a container sees the old ones or the new, never a mixture.

pub mod atomic;
mod empty_dir;
mod host_path;
mod ownership;
mod payload;
mod subpath;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use rustix::mount::{UnmountFlags, unmount};

use crate::pod::fields::{Allocatable, Place};
use crate::pod::spec;
use crate::source::objects::Held;

pub use payload::Payload;
pub use token::Tokens;

/// Why a volume cannot be used, in the words of its event (`FailedMount`).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }
}

/// What volumes are set up with.
pub struct Setup<'a> {
    pub pod: &'a Pod,
    pub pod_dir: &'a Path,
    pub held: &'a Held,
    pub tokens: &'a Tokens,
    pub place: Place<'a>,
    pub node: Allocatable,
}

/// A volume that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
pub struct Failed {
    pub volume: String,
    #[source]
    pub source: Error,
}

/// Where a volume is on the host.
pub fn path(pod_dir: &Path, volume: &Volume) -> Result<PathBuf, Error> {
    let plugin = match volume {
        Volume { empty_dir: Some(_), .. } => "empty-dir",
        Volume { config_map: Some(_), .. } => "configmap",
        Volume { secret: Some(_), .. } => "secret",
        Volume { downward_api: Some(_), .. } => "downward-api",
        Volume { projected: Some(_), .. } => "projected",
        Volume { host_path: Some(source), .. } => return Ok(source.path.clone().into()),
        _ => return Err(Error::Refused("no volume plugin matched".into())),
    };
    Ok(pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name))
}

/// Sets up all volumes, or brings those made from API objects up to date. Repeatable.
///
/// # Errors
/// The first volume that failed.
pub async fn set_up(setup: &Setup<'_>) -> Result<(), Failed> {
    for volume in spec::spec(setup.pod).volumes.iter().flatten() {
        one(setup, volume).await.map_err(|source| Failed { volume: volume.name.clone(), source })?;
    }
    Ok(())
}

async fn one(setup: &Setup<'_>, volume: &Volume) -> Result<(), Error> {
    let path = path(setup.pod_dir, volume)?;
    let fs_group = spec::spec(setup.pod).security_context.as_ref().and_then(|context| context.fs_group);
    if let Some(source) = &volume.empty_dir {
        return empty_dir::set_up(&path, source, in_memory_at_most(setup), fs_group);
    }
    if let Some(source) = &volume.host_path {
        return host_path::check(source);
    }
    let payload = payload::of(setup, volume).await?;
    let fresh = !path.exists();
    std::fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
    if volume.config_map.is_none() {
        // What may be secret is never on a disk.
        empty_dir::in_memory(&path, setup.node.memory)?;
    } else if fresh {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, mode).map_err(Error::file("chmod", &path))?;
    }
    atomic::write(&path, &payload, fs_group)
}

/// Bytes a volume in memory may hold: no more than the pod, nor than the node gives to pods.
fn in_memory_at_most(setup: &Setup<'_>) -> i64 {
    let limit = crate::pod::qos::pod_resources(setup.pod).memory_limit_in_bytes;
    if limit > 0 { limit.min(setup.node.memory) } else { setup.node.memory }
}

/// When files made for the pod have to be made anew: tokens that will expire.
pub fn renew_at(pod: &Pod, tokens: &Tokens) -> Option<k8s_openapi::jiff::Timestamp> {
    tokens.renew_at(crate::names::uid(pod))
}

/// The mounts of `container`, in the order of its `volumeMounts`.
///
/// # Errors
/// Upstream's words where a volume or sub-path cannot be mounted.
pub fn mounts(
    setup_dir: &Path,
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<cri::v1::Mount>, Error> {
    let volumes: BTreeMap<&str, &Volume> =
        spec::spec(pod).volumes.iter().flatten().map(|volume| (volume.name.as_str(), volume)).collect();
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes.get(mount.name.as_str()).ok_or_else(|| {
            Error::Refused(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            ))
        })?;
        let mut host_path = path(setup_dir, volume)?;
        let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) if !expression.is_empty() => Some(expand_all(expression, env)?),
            (_, Some(path)) if !path.is_empty() => Some(path.clone()),
            _ => None,
        };
        if let Some(sub_path) = sub_path {
            let place = setup_dir
                .join("volume-subpaths")
                .join(&volume.name)
                .join(&container.name)
                .join(index.to_string());
            host_path = subpath::bind(&host_path, Path::new(&sub_path), &place)?;
        }
        let from_api = volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.projected.is_some();
        let readonly = mount.read_only.unwrap_or(false);
        mounts.push(cri::v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: readonly || from_api,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => cri::v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => cri::v1::MountPropagation::PropagationBidirectional,
                _ => cri::v1::MountPropagation::PropagationPrivate,
            } as i32,
            recursive_read_only: readonly
                && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            ..Default::default()
        });
    }
    Ok(mounts)
}

/// An expression with its variables put in, all of which must exist.
fn expand_all(expression: &str, env: &[(String, String)]) -> Result<String, Error> {
    let missing = std::cell::RefCell::new(Vec::new());
    let get = |name: &str| {
        let value = env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        if value.is_none() {
            missing.borrow_mut().push(name.to_owned());
        }
        value
    };
    let expanded = crate::pod::env::expand(expression, get);
    match missing.into_inner().as_slice() {
        [] => Ok(expanded),
        names => Err(Error::Refused(format!("missing value for {:?}", names.join(", ")))),
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Undoes all mounts below the pod's directory, the innermost first, and removes the directory.
///
/// # Errors
/// What could not be undone; nothing below a mount is ever removed.
pub fn tear_down(pod_dir: &Path) -> Result<(), Error> {
    for target in mounts_below(pod_dir)?.iter().rev() {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(Error::file("unmount", target)(error.into())),
        }
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", pod_dir)(error)),
        _ => Ok(()),
    }
}

/// Mount points below `dir`, in the order they were mounted.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read_to_string(TABLE).map_err(Error::file("read", TABLE))?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// A path as the mount table writes it, with spaces and the like in octal.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}
