//! Making and unmaking sandboxes.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use cri::{Error, EventKind, Result, v1};

use super::client::{Client, listen};
use super::records::{Live, Sandbox, SandboxRecord, namespaces};
use super::{Service, blocking, new_id};
use crate::shim::protocol::{Reply, Request};
use crate::shim::{SETUP, Setup};
use crate::{clock, file, mount};

const NODE: i32 = v1::NamespaceMode::Node as i32;

impl Service {
    pub(super) async fn make_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        if !handler.is_empty() {
            let message = format!("failed to get sandbox runtime: no runtime for {handler:?} is configured");
            return Err(Error::Other(message));
        }
        if namespaces(&config).userns_options.is_some_and(|it| it.mode == v1::NamespaceMode::Pod as i32) {
            return Err(Error::Unimplemented("a user namespace of the pod's own"));
        }
        self.check_name(&config)?;
        let begun = Instant::now();
        let id = new_id();
        let dir = self.inner.config.state.join("pods").join(&id);
        let record = SandboxRecord {
            id: id.clone(),
            config,
            runtime_handler: handler.to_owned(),
            created_at: clock::now(),
            ips: Vec::new(),
        };
        match self.build_sandbox(record, &dir, begun).await {
            Ok(sandbox) => {
                self.inner.state.lock().sandboxes.insert(id.clone(), Arc::clone(&sandbox));
                self.emit(&id, &id, EventKind::Created);
                self.emit(&id, &id, EventKind::Started);
                Ok(id)
            }
            Err(error) => {
                if let Ok(client) = Client::connect(&dir) {
                    client.notify(Request::Shutdown);
                }
                self.clear_directory(&dir).await?;
                Err(error)
            }
        }
    }

    fn check_name(&self, config: &v1::PodSandboxConfig) -> Result<()> {
        let state = self.inner.state.lock();
        let same =
            |it: &&Arc<Sandbox>| config.metadata.is_some() && it.record.config.metadata == config.metadata;
        match state.sandboxes.values().find(same) {
            Some(taken) => Err(Error::AlreadyExists { kind: "sandbox", id: taken.record.id.clone() }),
            None => Ok(()),
        }
    }

    async fn build_sandbox(&self, record: SandboxRecord, dir: &Path, begun: Instant) -> Result<Arc<Sandbox>> {
        let (directory, config) = (dir.to_owned(), record.config.clone());
        let listener = blocking(move || write_files(&directory, &config)).await?;
        let command = &self.inner.config.shim;
        let log = dir.join("shim.log");
        let log = fs::File::create(&log).map_err(Error::file("create", &log))?;
        let mut child = tokio::process::Command::new(&command.program)
            .args(&command.args)
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(Error::file("start shim", &command.program))?;
        let shim = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            // Collects the shim's exit status, so that it does not stay as a zombie.
            tokio::select! { _ = child.wait() => {}, () = cancel.cancelled() => {} }
        });
        let spawned = begun.elapsed();
        let client = Client::connect(dir).map_err(Error::file("connect to shim", dir))?;
        self.watch_shim(&record.id, Arc::clone(&client));
        let (reply, _) = client.call(Request::State, &[]).await.map_err(|error| shim_failure(dir, error))?;
        let Reply::State { pid_one, .. } = reply else {
            return Err(Error::Other("the shim does not answer with its state".into()));
        };
        let ready = begun.elapsed();
        let mut record = record;
        if record.namespaces().network != NODE
            && let Some(network) = &self.inner.config.network
        {
            let namespace = format!("/proc/{shim}/ns/net");
            let attached = network.attach(&record.id, Path::new(&namespace), &record.config).await;
            record.ips =
                attached.map_err(|message| Error::Network { sandbox: record.id.clone(), message })?;
        }
        let attached = begun.elapsed();
        record.save(dir)?;
        tracing::debug!(id = record.id, ?spawned, ?ready, ?attached, done = ?begun.elapsed(), "sandbox made");
        let live = Live { client: Some(client), pid_one, shim };
        Ok(Arc::new(Sandbox { dir: dir.to_owned(), record, live: live.into() }))
    }

    /// Listens to a shim for as long as it lives.
    pub(super) fn watch_shim(&self, sandbox: &str, client: Arc<Client>) {
        let (service, sandbox) = (self.clone(), sandbox.to_owned());
        self.inner.tasks.spawn(async move {
            let exited = |container: String, exit| service.container_exited(&sandbox, &container, exit);
            tokio::select! {
                () = client.read(exited) => service.shim_ended(&sandbox, &client),
                () = service.inner.cancel.cancelled() => {}
            }
        });
    }

    /// A shim has gone: so has everything it held.
    pub(super) fn shim_ended(&self, id: &str, client: &Arc<Client>) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        {
            let mut live = sandbox.live.lock();
            if !live.client.as_ref().is_some_and(|it| Arc::ptr_eq(it, client)) {
                return;
            }
            live.client = None;
        }
        tracing::warn!(sandbox = id, "shim has ended unexpectedly");
        self.abandon(&sandbox);
        self.emit(id, id, EventKind::Stopped);
    }

    pub(super) async fn halt_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let stops = self.containers_of(id).into_iter().map(|container| self.kill_container(container));
        futures::future::try_join_all(stops).await?;
        if sandbox.record.namespaces().network != NODE
            && let Some(network) = &self.inner.config.network
        {
            let detached = network.detach(id, &sandbox.record.config).await;
            detached.map_err(|message| Error::Network { sandbox: id.to_owned(), message })?;
        }
        let client = sandbox.live.lock().client.take();
        if let Some(client) = client {
            match client.call(Request::Shutdown, &[]).await {
                // It may end before its answer is read.
                Ok(_) | Err(Error::Unavailable { .. }) => {}
                Err(error) => {
                    // It is there still, and is asked again with the next attempt.
                    sandbox.live.lock().client = Some(client);
                    return Err(error);
                }
            }
            self.emit(id, id, EventKind::Stopped);
        }
        let shm = sandbox.dir.join("shm");
        blocking(move || mount::unmount_all(&shm).map_err(Error::file("unmount", shm))).await
    }

    pub(super) async fn drop_sandbox(&self, id: &str) -> Result<()> {
        self.halt_sandbox(id).await?;
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        for container in self.containers_of(id) {
            self.drop_container(&container.record.id).await?;
        }
        self.clear_directory(&sandbox.dir).await?;
        self.inner.state.lock().sandboxes.remove(id);
        self.emit(id, id, EventKind::Deleted);
        Ok(())
    }

    /// Removes a sandbox's directory with whatever is mounted in it.
    pub(super) async fn clear_directory(&self, dir: &Path) -> Result<()> {
        let dir = dir.to_owned();
        blocking(move || {
            mount::unmount_all(&dir.join("shm")).map_err(Error::file("unmount", &dir))?;
            if let Ok(containers) = fs::read_dir(dir.join("containers")) {
                for container in containers.flatten() {
                    let rootfs = container.path().join("rootfs");
                    mount::unmount_all(&rootfs).map_err(Error::file("unmount", rootfs))?;
                }
            }
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::file("remove", dir)(error))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}

/// What a shim that died at its start wrote about it.
fn shim_failure(dir: &Path, error: Error) -> Error {
    match fs::read_to_string(dir.join("shim.log")) {
        Ok(text) if !text.trim().is_empty() => Error::Container(text.trim().to_owned()),
        _ => error,
    }
}

/// Writes what containers see of the sandbox and what its shim sets up, and binds the shim's socket.
fn write_files(dir: &Path, config: &v1::PodSandboxConfig) -> Result<std::os::fd::OwnedFd> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(Error::file("write", path))
    };
    let containers = dir.join("containers");
    fs::create_dir_all(&containers).map_err(Error::file("create", &containers))?;
    let namespaces = namespaces(config);
    let own_network = namespaces.network != NODE;
    let hostname =
        if own_network && !config.hostname.is_empty() { Some(config.hostname.clone()) } else { None };
    let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    write("hostname", &format!("{}\n", hostname.as_ref().unwrap_or(&own_name)))?;
    write("hosts", &fs::read_to_string("/etc/hosts").unwrap_or_else(|_| "127.0.0.1 localhost\n".into()))?;
    write("resolv.conf", &resolv_conf(config.dns_config.as_ref()))?;
    if namespaces.ipc != NODE {
        let shm = dir.join("shm");
        fs::create_dir_all(&shm).map_err(Error::file("create", &shm))?;
        mount::shared_memory(&shm).map_err(Error::file("mount", shm))?;
    }
    if !config.log_directory.is_empty() {
        fs::create_dir_all(&config.log_directory).map_err(Error::file("create", &config.log_directory))?;
    }
    let setup = Setup {
        network: own_network,
        ipc: namespaces.ipc != NODE,
        pid: namespaces.pid == v1::NamespaceMode::Pod as i32,
        hostname,
        sysctls: config.linux.iter().flat_map(|linux| linux.sysctls.clone()).collect(),
    };
    let json = serde_json::to_vec(&setup).map_err(|error| Error::Other(error.to_string()))?;
    let path = dir.join(SETUP);
    file::replace(&path, &json).map_err(Error::file("write", path))?;
    listen(dir).map_err(Error::file("listen in", dir))
}

/// A sandbox's `resolv.conf`: the one described, or the host's.
fn resolv_conf(dns: Option<&v1::DnsConfig>) -> String {
    let Some(dns) = dns else {
        return fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}
