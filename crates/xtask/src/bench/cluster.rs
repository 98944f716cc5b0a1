//! How long a cluster takes to come up.

use anyhow::Result;
use testkit::Cluster;

use super::{Budget, Measurement};

const RUNS: usize = 5;

/// `tiphys up` from start to return, which is when the node is Ready.
pub fn ready() -> Result<Vec<Measurement>> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let cluster = Cluster::up("ready", 1)?;
        times.push(cluster.came_up_in().as_secs_f64());
        // It says Ready; a second voice agrees.
        cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=0", "node", "--all"])?;
        cluster.down()?;
    }
    Ok(vec![Measurement::new("up to node Ready", "s", Budget::AtMost(1.0), times)])
}
