//! Finding pods again after a restart.
//!
//! Nothing that ends meanwhile may be missed. A sandbox and its containers are taken in as their files tell;
//! then its shim is listened to; then it is asked what the files don't tell:
//!
//! ```text
//! files   container c runs            c is known, Running
//! shim    c has ended                 heard: c is Exited
//! shim    state: c runs               written before that end, and heard after it: c stays Exited
//! ```

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::{Error, Result};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Service;
use super::client::Client;
use super::records::{Container, ContainerRecord, Live, Phase, Sandbox, SandboxRecord};
use crate::cgroup::Cgroup;
use crate::clock;
use crate::shim::PROCESS;
use crate::shim::protocol::{Exit, Process, Reply, Request};

/// The exit code of a container whose end nobody saw.
const UNSEEN: i32 = 255;
/// How long a start waits for shims to tell their state. They do at once; one that is stopped must not keep
/// the node down, and what it tells later is taken in then.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

impl Service {
    /// Loads every sandbox below the state directory, and reconnects to its shim.
    pub(super) async fn recover(&self, patience: Duration) -> Result<()> {
        let pods = self.inner.config.state.join("pods");
        let mut asked = Vec::new();
        for entry in fs::read_dir(&pods).map_err(Error::file("read", &pods))? {
            let dir = entry.map_err(Error::file("read", &pods))?.path();
            match load::<SandboxRecord>(&dir.join("sandbox.json")) {
                Found::Whole(record) => asked.extend(self.recover_sandbox(&dir, record)),
                // It was never ready, so nobody was told of it; or a power cut took its record, as all else.
                Found::Missing | Found::Torn => self.clear_remains(&dir).await,
            }
        }
        if tokio::time::timeout(patience, futures::future::join_all(asked)).await.is_err() {
            tracing::warn!(
                "not every pod's shim tells its state; what is known without is used until it does"
            );
        }
        Ok(())
    }

    /// Removes what is left of a sandbox that nobody knows, or leaves it to the next start.
    async fn clear_remains(&self, dir: &Path) {
        if let Ok(client) = Client::connect(dir) {
            client.notify(Request::Shutdown);
        }
        if let Err(error) = self.clear_directory(dir).await {
            tracing::warn!(path = %dir.display(), %error, "remains of a sandbox");
        }
    }

    /// Takes in a sandbox with its containers, as files tell of them, and asks its shim for the rest. What
    /// this returns ends with the answer.
    fn recover_sandbox(&self, dir: &Path, record: SandboxRecord) -> Option<JoinHandle<()>> {
        let id = record.id.clone();
        let client = Client::connect(dir).ok();
        let containers = fs::read_dir(dir.join("containers")).into_iter().flatten().flatten();
        let containers: Vec<Container> =
            containers.filter_map(|entry| recover_container(&entry.path(), client.is_some())).collect();
        let live = Live { client: client.clone(), pid_one: None, shim: 0 };
        let sandbox = Arc::new(Sandbox { dir: dir.to_owned(), record, live: live.into() });
        {
            let mut state = self.inner.state.lock();
            state.sandboxes.insert(id.clone(), Arc::clone(&sandbox));
            let containers = containers.into_iter().map(|it| (it.record.id.clone(), Arc::new(it)));
            state.containers.extend(containers);
        }
        tracing::debug!(id, found = client.is_some(), "sandbox recovered");
        let Some(client) = client else {
            self.abandon(&sandbox);
            return None;
        };
        self.watch_shim(&id, Arc::clone(&client));
        let service = self.clone();
        Some(self.inner.tasks.spawn(async move {
            tokio::select! {
                () = service.learn(&id, &client) => {}
                () = service.inner.cancel.cancelled() => {}
            }
        }))
    }

    /// Asks a sandbox's shim for its state, and adds what is news.
    async fn learn(&self, sandbox: &str, client: &Arc<Client>) {
        let Ok((Reply::State { containers, pid_one }, _)) = client.ask(Request::State, &[]).await else {
            return self.shim_ended(sandbox, client);
        };
        if let Ok(sandbox) = self.sandbox(sandbox) {
            sandbox.live.lock().pid_one = pid_one;
        }
        for Process { id, pid, started_at, exit } in containers {
            let Ok(container) = self.container(&id) else { continue };
            container.began(pid, started_at);
            if let Some(exit) = exit {
                self.container_exited(sandbox, &id, exit);
            }
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
            let recorded = match load(&container.dir.join(PROCESS)) {
                Found::Whole(Process { exit, .. }) => exit,
                Found::Missing | Found::Torn => None,
            };
            let exit = recorded.unwrap_or_else(unseen);
            let was_live = container.phase.borrow().is_live();
            if was_live && container.exited(exit) {
                self.emit(&sandbox.record.id, &container.record.id, cri::EventKind::Stopped);
            }
        }
    }
}

/// A container as its files tell of it, or none where they don't; `shim` where its shim will tell more.
fn recover_container(dir: &Path, shim: bool) -> Option<Container> {
    let Found::Whole(record) = load::<ContainerRecord>(&dir.join("container.json")) else { return None };
    let phase = match load(&dir.join(PROCESS)) {
        Found::Whole(Process { started_at, exit: Some(exit), .. }) => Phase::after(started_at, exit),
        Found::Whole(Process { pid, started_at, exit: None, .. }) => Phase::Running { pid, started_at },
        // It was started, and did not outlive the power cut that took the file's content.
        Found::Torn if !shim => Phase::after(record.created_at, unseen()),
        Found::Missing | Found::Torn => Phase::Created,
    };
    let resources = record.config.linux.as_ref().and_then(|linux| linux.resources.clone());
    let phase = watch::Sender::new(phase);
    Some(Container { dir: dir.to_owned(), phase, resources: resources.into(), record })
}

fn unseen() -> Exit {
    Exit { code: UNSEEN, oom: false, at: clock::now() }
}

/// What a file was found to hold.
enum Found<T> {
    Whole(T),
    /// Nothing, or nothing that makes sense.
    Torn,
    Missing,
}

fn load<T: DeserializeOwned>(path: &Path) -> Found<T> {
    let read = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Missing,
        read => read,
    };
    match read.and_then(|json| Ok(serde_json::from_slice(&json)?)) {
        Ok(value) => Found::Whole(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not readable");
            Found::Torn
        }
    }
}
