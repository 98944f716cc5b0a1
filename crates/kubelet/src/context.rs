//! What all parts of the kubelet share.

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::events::Recorder;
use crate::pod::fields::Allocatable;
use crate::pod::status::Host;
use crate::source::objects::Objects;
use crate::source::services::Services;
use crate::volume::Tokens;

/// Shared by every worker; nothing in it changes but what is behind its own lock.
pub struct Context {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn cri::Runtime>,
    pub recorder: Recorder,
    pub objects: Objects,
    pub services: Services,
    pub tokens: Tokens,
    pub host: Host,
    /// The node's memory in bytes.
    pub memory: i64,
    pub allocatable: Allocatable,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}
