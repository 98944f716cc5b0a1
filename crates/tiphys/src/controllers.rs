//! The controllers and the scheduler, as clients of the control plane in this process.

use lifecycle::pki::Pki;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Settings;
use crate::control_plane::ControlPlane;

pub fn start(_plane: &ControlPlane, _pki: &Pki, _settings: &Settings, _tasks: &TaskTracker, _stop: &CancellationToken) {}
