//! Finding pods again after a restart.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cri::{Error, Result};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Service;
use super::client::Client;
use super::records::{Container, ContainerRecord, Live, Phase, Sandbox, SandboxRecord};
use crate::cgroup::Cgroup;
use crate::clock;
use crate::shim::protocol::{Exit, Process, Reply, Request};

/// The exit code of a container whose end nobody saw.
const UNSEEN: i32 = 255;

impl Service {
    /// Loads every sandbox below the state directory, and reconnects to its shim.
    pub(super) async fn recover(&self) -> Result<()> {
        let pods = self.inner.config.state.join("pods");
        for entry in fs::read_dir(&pods).map_err(Error::file("read", &pods))? {
            let dir = entry.map_err(Error::file("read", &pods))?.path();
            match load::<SandboxRecord>(&dir.join("sandbox.json")) {
                Some(record) => self.recover_sandbox(&dir, record).await,
                // It was never ready, so nobody was told of it.
                None => self.clear_directory(&dir).await?,
            }
        }
        Ok(())
    }

    async fn recover_sandbox(&self, dir: &Path, record: SandboxRecord) {
        let id = record.id.clone();
        let mut live = Live::default();
        let mut running: Vec<Process> = Vec::new();
        if let Ok(client) = Client::connect(dir) {
            self.watch_shim(&id, Arc::clone(&client));
            if let Ok((Reply::State { containers, pid_one }, _)) = client.call(Request::State, &[]).await {
                running = containers;
                live = Live { client: Some(client), pid_one, shim: 0 };
            }
        }
        let found = live.client.is_some();
        let sandbox = Arc::new(Sandbox { dir: dir.to_owned(), record, live: live.into() });
        self.inner.state.lock().sandboxes.insert(id.clone(), Arc::clone(&sandbox));
        for entry in fs::read_dir(dir.join("containers")).into_iter().flatten().flatten() {
            let dir = entry.path();
            let Some(record) = load::<ContainerRecord>(&dir.join("container.json")) else { continue };
            let from_shim = running.iter().find(|process| process.id == record.id).cloned();
            let process = from_shim.or_else(|| load(&dir.join("process.json")));
            let phase = match process {
                None => Phase::Created,
                Some(Process { started_at, exit: Some(exit), .. }) => Phase::after(started_at, exit),
                Some(Process { pid, started_at, exit: None, .. }) => Phase::Running { pid, started_at },
            };
            let resources = record.config.linux.as_ref().and_then(|linux| linux.resources.clone());
            let phase = watch::Sender::new(phase);
            let container = Container { dir, phase, resources: resources.into(), record };
            let mut state = self.inner.state.lock();
            state.containers.insert(container.record.id.clone(), Arc::new(container));
        }
        tracing::debug!(id, found, "sandbox recovered");
        if !found {
            self.abandon(&sandbox);
        }
    }

    /// What a sandbox without its shim had running is killed and counted as ended: nobody would see it end.
    pub(super) fn abandon(&self, sandbox: &Sandbox) {
        for container in self.containers_of(&sandbox.record.id) {
            for pid in Cgroup::new(&container.record.cgroup).processes() {
                let pid = nix::unistd::Pid::from_raw(pid);
                if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
                    tracing::debug!(%pid, %error, "kill");
                }
            }
            let recorded: Option<Process> = load(&container.dir.join("process.json"));
            let unseen = Exit { code: UNSEEN, oom: false, at: clock::now() };
            let exit = recorded.and_then(|process| process.exit).unwrap_or(unseen);
            if container.exited(exit) {
                self.emit(&sandbox.record.id, &container.record.id, cri::EventKind::Stopped);
            }
        }
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    match serde_json::from_slice(&fs::read(path).ok()?) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not readable");
            None
        }
    }
}
