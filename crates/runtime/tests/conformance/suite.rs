//! What every runtime must do.

use std::future::Future;
use std::pin::Pin;

use cri::v1;

use crate::world::World;

type Running = Pin<Box<dyn Future<Output = World> + Send>>;

/// One promise.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// Keeps the promise or panics; gives the world back.
    pub run: fn(World) -> Running,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$(Case { name: stringify!($name), run: |mut world| Box::pin(async move {
            $name(&mut world).await;
            world
        }) }),*]
    };
}

/// All promises.
pub const CASES: &[Case] = cases![a_container_runs_to_its_end_and_its_log_tells,];

async fn a_container_runs_to_its_end_and_its_log_tells(world: &mut World) {
    let (status, log) = world.run("hello", "echo out; echo err >&2; printf rest; exit 3").await;
    assert_eq!(status.exit_code, 3);
    assert_eq!(status.reason, "Error");
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout F rest"]);
    assert_eq!(status.state(), v1::ContainerState::ContainerExited);
}
