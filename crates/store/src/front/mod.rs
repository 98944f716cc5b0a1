//! etcd's v3 gRPC API in front of any engine, so that `etcdctl`, backups and another API server can use it.
//!
//! | file | service |
//! |---|---|
//! | `kv` | ranges, puts, deletes, transactions, compaction |
//! | `watch` | one session of watches per stream |
//! | `lease` | leases and the keep-alive stream |
//! | `upkeep` | maintenance, members, and auth, which is not enabled: TLS decides who may connect |
//! | `incoming` | connections, plain or TLS |
//!
//! The engine stands alone, so the answers name one member that leads itself. What etcd has and this has
//! not (changing members, users and roles, moving leaders, downgrades) is answered `UNIMPLEMENTED`.

mod incoming;
mod kv;
mod lease;
mod upkeep;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::contract::{Error, Revision, Store};
use crate::wire::pb;

/// The etcd whose API this is, for clients that look before they use something.
const API_VERSION: &str = "3.5.21";
/// HTTP/2 windows that let one connection carry a list of all objects at the speed of the link.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How often a silent client is asked whether it is there, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Larger than any request the engine takes, so that the engine refuses in etcd's words.
const REQUEST_BYTES: usize = 8 << 20;

/// Serves until `stop`, over TLS where there is a configuration (ALPN is set here: `h2`).
///
/// Everyone who connects may do everything: who may connect is decided by the listener's address and by
/// the client certificates that the configuration asks for.
///
/// # Errors
/// [`Error::Unavailable`] where the engine does not answer at the start, or the listener ends.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let address = listener.local_addr().map_err(|error| Error::Unavailable(error.to_string()))?;
    let cluster = store.status().await?.cluster;
    let front = Front {
        store,
        // Derived, so that they stay the same over restarts, as a member's identity must.
        identity: Identity { cluster, member: cluster.rotate_left(32) | 1 },
        url: url(address, tls.is_some()),
        stop: stop.clone(),
    };
    let kv = pb::kv_server::KvServer::new(front.clone()).max_decoding_message_size(REQUEST_BYTES);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(kv)
        .add_service(pb::watch_server::WatchServer::new(front.clone()))
        .add_service(pb::lease_server::LeaseServer::new(front.clone()))
        .add_service(pb::maintenance_server::MaintenanceServer::new(front.clone()))
        .add_service(pb::cluster_server::ClusterServer::new(front.clone()))
        .add_service(pb::auth_server::AuthServer::new(front))
        .serve_with_incoming_shutdown(incoming::stream(listener, tls), stop.cancelled_owned())
        .await
        .map_err(|error| Error::Unavailable(format!("the etcd API at {address}: {error}")))
}

fn url(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// What every service needs.
#[derive(Clone)]
struct Front {
    store: Arc<dyn Store>,
    identity: Identity,
    /// Where clients reach it.
    url: String,
    stop: CancellationToken,
}

/// Who answers.
#[derive(Clone, Copy)]
struct Identity {
    cluster: u64,
    member: u64,
}

/// There are no elections, so there is one term.
const TERM: u64 = 1;

impl Identity {
    fn header(self, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster,
            member_id: self.member,
            revision: revision.0,
            raft_term: TERM,
        }
    }
}

impl Front {
    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        Some(self.identity.header(revision))
    }

    /// A header for an answer that has no revision of its own.
    async fn header_now(&self) -> Result<Option<pb::ResponseHeader>, Error> {
        Ok(self.header(self.store.status().await?.revision))
    }
}
