//! What every controller is given.

use std::sync::Arc;

use client::{Informers, Recorder};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the one who runs the controllers decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// As upstream's `--controllers`: names, `*` for all, `-name` for all but one. The first that fits
    /// counts.
    pub controllers: Vec<String>,
    /// The authorities that signed the server's certificate, PEM: published in every namespace.
    pub root_ca: String,
    /// How many objects of a kind are worked on at once.
    pub workers: usize,
    /// Where the ranges of the nodes are taken from; none are given out without it.
    pub cluster_cidr: Option<ipnet::IpNet>,
    /// The prefix length of a node's range.
    pub node_cidr_mask: u8,
    /// How many pods that have ended are kept; 0 keeps all.
    pub terminated_pod_threshold: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: vec!["*".into()],
            root_ca: String::new(),
            workers: 5,
            cluster_cidr: None,
            node_cidr_mask: 24,
            terminated_pod_threshold: 12_500,
        }
    }
}

impl Config {
    pub fn enabled(&self, name: &str) -> bool {
        for chosen in &self.controllers {
            match chosen.strip_prefix('-') {
                Some(not) if not == name => return false,
                None if chosen == name => return true,
                _ => {}
            }
        }
        self.controllers.iter().any(|chosen| chosen == "*")
    }
}

/// One controller's view of the world.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    pub informers: Informers,
    /// Acts as the controller's service account.
    pub client: Client,
    pub recorder: Recorder,
    pub cancel: CancellationToken,
}

/// What the component of this name is given; its events are written on `tasks`.
pub(crate) fn for_component(
    config: &Arc<Config>,
    informers: &Informers,
    client: Client,
    component: &'static str,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Context {
    let source = client::events::Source { component: component.into(), host: String::new(), series: false };
    let (recorder, events) = Recorder::new(client.clone(), source, cancel.clone());
    tasks.spawn(events);
    Context { config: config.clone(), informers: informers.clone(), client, recorder, cancel: cancel.clone() }
}

/// Why a key could not be brought in order; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}: {source}")]
    Api { doing: String, source: Box<kube::Error> },
    #[error("{0}")]
    Waiting(String),
    #[error(transparent)]
    Pods(#[from] crate::pod_control::Failure),
}

impl Error {
    pub fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { doing: doing.into(), source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(controllers: &[&str], name: &str) -> bool {
        let controllers = controllers.iter().map(|c| (*c).to_string()).collect();
        Config { controllers, ..Config::default() }.enabled(name)
    }

    #[test]
    fn chosen_as_by_upstreams_flag() {
        assert!(check(&["*"], "a"));
        assert!(!check(&["*", "-a"], "a"));
        assert!(check(&["*", "-a"], "b"));
        assert!(check(&["a"], "a"));
        assert!(!check(&["a"], "b"));
    }
}
