//! Making, starting, stopping and unmaking containers.

use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::{Error, EventKind, Result, STOP_SIGNAL_ANNOTATION, v1};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::records::{Container, ContainerRecord, Phase, Sandbox};
use super::{Service, blocking, new_id};
use crate::cgroup::Cgroup;
use crate::images::{self, Image};
use crate::shim::protocol::{Exit, Reply, Request, Stdio};
use crate::{clock, mount, spec};

impl Service {
    pub(super) async fn make_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String> {
        let begun = Instant::now();
        let sandbox = self.sandbox(sandbox)?;
        sandbox.client()?;
        self.check_container_name(&sandbox, &config)?;
        let wanted = config.image.as_ref().map_or("", |image| image.image.as_str());
        let image = self.inner.images.find(wanted).ok_or_else(|| Error::not_found("image", wanted))?;
        let pid_namespace = self.pid_namespace(&sandbox, &config)?;
        let id = new_id();
        let (service, parent, sandbox_config) = (self.clone(), Arc::clone(&sandbox), sandbox_config.clone());
        let name = id.clone();
        let built = blocking(move || {
            let dir = parent.container_dir(&name);
            let build =
                Build { sandbox: &parent, sandbox_config: &sandbox_config, image: &image, pid_namespace };
            let container = service.build_container(&name, &build, config);
            if container.is_err() {
                clear(&dir)?;
            }
            container
        })
        .await?;
        self.inner.state.lock().containers.insert(id.clone(), Arc::new(built));
        self.emit(&sandbox.record.id, &id, EventKind::Created);
        tracing::debug!(id, took = ?begun.elapsed(), "container made");
        Ok(id)
    }

    fn check_container_name(&self, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<()> {
        let Some(metadata) = &config.metadata else {
            let message = "is missing".into();
            return Err(Error::InvalidArgument { field: "metadata", message });
        };
        let taken = self.containers_of(&sandbox.record.id);
        match taken.iter().find(|it| it.record.config.metadata.as_ref() == Some(metadata)) {
            Some(taken) => Err(Error::AlreadyExists { kind: "container", id: taken.record.id.clone() }),
            None => Ok(()),
        }
    }

    /// The PID namespace that a container joins: the pod's, or another container's.
    fn pid_namespace(&self, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Option<String>> {
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = security.and_then(|security| security.namespace_options.clone()).unwrap_or_default();
        match v1::NamespaceMode::try_from(options.pid) {
            Ok(v1::NamespaceMode::Pod) => {
                let pid = sandbox.live.lock().pid_one;
                Ok(pid.map(|pid| format!("/proc/{pid}/ns/pid")))
            }
            Ok(v1::NamespaceMode::Target) => {
                let pid = self.container(&options.target_id)?.pid()?;
                Ok(Some(format!("/proc/{pid}/ns/pid")))
            }
            _ => Ok(None),
        }
    }

    fn build_container(&self, id: &str, build: &Build<'_>, config: v1::ContainerConfig) -> Result<Container> {
        let &Build { sandbox, sandbox_config, image, .. } = build;
        let dir = sandbox.container_dir(id);
        for name in ["upper", "work", "rootfs"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(Error::file("create", path))?;
        }
        let layers: Vec<_> = image.layers.iter().map(|layer| self.inner.images.layer(layer)).collect();
        let rootfs = dir.join("rootfs");
        mount::overlay(&layers, &dir.join("upper"), &dir.join("work"), &rootfs)
            .map_err(Error::file("mount", &rootfs))?;
        let settings =
            self.inner.images.config(&image.id).map_err(|error| Error::Container(error.to_string()))?;
        let fault = |(field, message)| Error::InvalidArgument { field, message };
        let security =
            config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        let image_user = settings.config().as_ref().and_then(|config| config.user().as_deref());
        let user = spec::resolve_user(&rootfs, &security, image_user).map_err(fault)?;
        for volume in &config.mounts {
            // As containerd does for a source that is missing.
            if fs::symlink_metadata(&volume.host_path).is_err() {
                fs::create_dir_all(&volume.host_path).map_err(Error::file("create", &volume.host_path))?;
            }
        }
        let parent = sandbox_config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        let parent = if parent.is_empty() { "/tiphys" } else { parent.trim_end_matches('/') };
        let cgroup = format!("{parent}/{id}");
        let bundle = spec::build(&spec::Input {
            config: &config,
            sandbox: sandbox_config,
            image: &settings,
            user: &user,
            sandbox_dir: &sandbox.dir,
            rootfs: &rootfs,
            cgroup: &cgroup,
            pid_namespace: build.pid_namespace.as_deref(),
        })
        .map_err(fault)?;
        let cwd = bundle["process"]["cwd"].as_str().unwrap_or("/");
        make_working_dir(&rootfs, Path::new(cwd), &config.mounts).map_err(Error::file("create", cwd))?;
        let path = dir.join("config.json");
        fs::write(&path, bundle.to_string()).map_err(Error::file("write", path))?;
        let image_signal = settings.config().as_ref().and_then(|config| config.stop_signal().clone());
        let signal = config.annotations.get(STOP_SIGNAL_ANNOTATION).cloned().or(image_signal);
        let log_path = (!config.log_path.is_empty() && !sandbox_config.log_directory.is_empty())
            .then(|| format!("{}/{}", sandbox_config.log_directory.trim_end_matches('/'), config.log_path));
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.record.id.clone(),
            image: image.id.clone(),
            image_ref: image.reference().to_owned(),
            layers: image.layers.clone(),
            created_at: clock::now(),
            log_path,
            stop_signal: stop_signal(signal.as_deref())?,
            cgroup,
            user: (user.uid, user.gid, user.groups),
            config,
        };
        record.save(&dir)?;
        let phase = watch::Sender::new(Phase::Created);
        Ok(Container { dir, record, phase, resources: resources.into() })
    }

    pub(super) async fn run_container(&self, id: &str) -> Result<()> {
        let begun = Instant::now();
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.record.sandbox)?;
        let client = sandbox.client()?;
        let fresh = container.phase.send_if_modified(|phase| {
            let fresh = *phase == Phase::Created;
            if fresh {
                *phase = Phase::Starting;
            }
            fresh
        });
        if !fresh {
            let (what, message) = (format!("container {id}"), "was started already".into());
            return Err(Error::FailedPrecondition { what, message });
        }
        let config = &container.record.config;
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let stdio = Stdio {
            log_path: container.record.log_path.clone(),
            stdin: config.stdin,
            tty: config.tty,
            oom_score_adj: resources.map(|it| it.oom_score_adj).filter(|&score| score != 0),
        };
        match client.call(Request::Start { id: id.to_owned(), stdio }, &[]).await {
            Ok((Reply::Started { pid, at }, _)) => {
                // It may have ended before this.
                container.phase.send_if_modified(|phase| {
                    let starting = *phase == Phase::Starting;
                    if starting {
                        *phase = Phase::Running { pid, started_at: at };
                    }
                    starting
                });
                self.emit(&sandbox.record.id, id, EventKind::Started);
                tracing::debug!(id, pid, took = ?begun.elapsed(), "container started");
                Ok(())
            }
            Ok(_) => Err(Error::Other("the shim answered something else than was asked".into())),
            Err(error) => {
                let exit = Exit { code: 128, oom: false, at: clock::now() };
                let message = error.to_string();
                container.phase.send_replace(Phase::Exited {
                    started_at: 0,
                    exit,
                    reason: "StartError",
                    message,
                });
                self.emit(&sandbox.record.id, id, EventKind::Stopped);
                Err(error)
            }
        }
    }

    /// A container's process has ended.
    pub(super) fn container_exited(&self, sandbox: &str, id: &str, exit: Exit) {
        let Ok(container) = self.container(id) else { return };
        if container.exited(exit) {
            self.emit(sandbox, id, EventKind::Stopped);
        }
    }

    pub(super) async fn halt_container(&self, id: &str, grace: Duration) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        if !grace.is_zero() && container.phase.borrow().is_live() {
            self.signal(&container, container.record.stop_signal).await?;
            if tokio::time::timeout(grace, ended(&container)).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_container(container).await
    }

    /// Kills a container and waits for its end.
    pub(super) async fn kill_container(&self, container: Arc<Container>) -> Result<()> {
        if container.phase.borrow().is_live() {
            self.signal(&container, Signal::SIGKILL as i32).await?;
            ended(&container).await;
        }
        Ok(())
    }

    async fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        // Between the start and its answer there is no process to signal yet.
        let mut phase = container.phase.subscribe();
        let settled = phase.wait_for(|phase| *phase != Phase::Starting);
        settled.await.map_err(|_| Error::not_found("container", &container.record.id))?;
        let id = container.record.id.clone();
        match self.sandbox(&container.record.sandbox)?.client() {
            Ok(client) => client.call(Request::Signal { id, signal }, &[]).await.map(drop),
            // Without its shim nothing of it runs.
            Err(_) => Ok(()),
        }
    }

    pub(super) async fn drop_container(&self, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.kill_container(Arc::clone(&container)).await?;
        if let Ok(client) = self.sandbox(&container.record.sandbox).and_then(|it| it.client()) {
            match client.call(Request::Forget { id: id.to_owned() }, &[]).await {
                Ok(_) | Err(Error::Unavailable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let removed = Arc::clone(&container);
        blocking(move || {
            let cgroup = Cgroup::new(&removed.record.cgroup);
            kill_rest(&cgroup);
            cgroup.remove().map_err(Error::file("remove cgroup", &removed.record.cgroup))?;
            clear(&removed.dir)
        })
        .await?;
        self.inner.state.lock().containers.remove(id);
        self.emit(&container.record.sandbox, id, EventKind::Deleted);
        Ok(())
    }
}

struct Build<'a> {
    sandbox: &'a Sandbox,
    sandbox_config: &'a v1::PodSandboxConfig,
    image: &'a Image,
    pid_namespace: Option<String>,
}

/// Waits until the container's process has ended.
pub(super) async fn ended(container: &Container) {
    let mut phase = container.phase.subscribe();
    // The sender is the container's own, which is borrowed here.
    let _ = phase.wait_for(|phase| !phase.is_live()).await;
}

/// Kills what a container without a PID namespace of its own has left running, and waits for its end.
fn kill_rest(cgroup: &Cgroup) {
    for pid in cgroup.processes() {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        // It may have ended since it was listed; then there is nothing to wait for.
        if rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).is_ok() {
            let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut ended, Some(&limit));
        }
    }
}

/// Removes a container's directory with its mount.
fn clear(dir: &std::path::Path) -> Result<()> {
    let rootfs = dir.join("rootfs");
    mount::unmount_all(&rootfs).map_err(Error::file("unmount", rootfs))?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// The number of a signal given as `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`; SIGTERM where none is given.
fn stop_signal(name: Option<&str>) -> Result<i32> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(Signal::SIGTERM as i32) };
    let upper = name.to_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |text: &str| -> Option<i32> {
        match text.strip_prefix("RTMIN")? {
            "" => Some(libc::SIGRTMIN()),
            more => more.strip_prefix('+')?.parse::<i32>().ok().map(|more| libc::SIGRTMIN() + more),
        }
    };
    let number = bare
        .parse::<i32>()
        .ok()
        .or_else(|| Signal::from_str(&format!("SIG{bare}")).ok().map(|signal| signal as i32))
        .or_else(|| real_time(bare))
        .filter(|number| (1..=libc::SIGRTMAX()).contains(number));
    number.ok_or_else(|| Error::InvalidArgument {
        field: "stop_signal",
        message: format!("no signal is called {name:?}"),
    })
}

/// Makes the directory that a container starts in where the image and its volumes have none, as runc does.
fn make_working_dir(rootfs: &Path, cwd: &Path, mounts: &[v1::Mount]) -> std::io::Result<()> {
    let over = mounts.iter().filter(|mount| cwd.starts_with(&mount.container_path));
    let over = over.max_by_key(|mount| Path::new(&mount.container_path).components().count());
    // What stands below a volume is made there, if it may be written.
    let (root, path) = match over {
        Some(mount) if mount.readonly || !Path::new(&mount.host_path).is_dir() => return Ok(()),
        Some(mount) => (Path::new(&mount.host_path), cwd.strip_prefix(&mount.container_path).unwrap_or(cwd)),
        None => (rootfs, cwd),
    };
    images::make_directory(root, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: Option<&str>, want: Option<i32>) {
        assert_eq!(stop_signal(name).ok(), want);
    }

    #[test]
    fn signals_have_many_names() {
        check(None, Some(15));
        check(Some(""), Some(15));
        check(Some("SIGQUIT"), Some(3));
        check(Some("usr1"), Some(10));
        check(Some("9"), Some(9));
        check(Some("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        check(Some("SIGNAL"), None);
        check(Some("99"), None);
    }
}
