//! The engine that keeps everything in a real etcd, for clusters of several servers.
//!
//! It speaks the messages that [`crate::front`] serves, over one HTTP/2 connection to each endpoint.
//! Each watch is a stream of its own: etcd then tells progress for that watch alone.
//!
//! etcd before 3.4.25 and 3.5.8 can answer a request for progress ahead of events that are on their way.
//! [`Engine::connect`] warns of such a one.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::contract::{
    Error, LeaseId, LeaseInfo, Range, RangeAnswer, Revision, Snapshot, Status, Store, Txn, TxnAnswer, Watch,
    WatchBatch, Watching,
};
use crate::txn;
use crate::wire::pb::kv_client::KvClient;
use crate::wire::pb::lease_client::LeaseClient;
use crate::wire::pb::maintenance_client::MaintenanceClient;
use crate::wire::pb::watch_client::WatchClient;
use crate::wire::pb::watch_request::RequestUnion;
use crate::wire::{self, pb};

/// HTTP/2 windows, as large as the front's.
const WINDOW: u32 = 4 << 20;
/// Answers are bounded by what was asked for, not by gRPC's 4 MB.
const ANSWER_BYTES: usize = 1 << 30;

/// Which etcd, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--etcd-servers`: URLs, `http://` or `https://`.
    pub endpoints: Vec<String>,
    /// `--etcd-cafile`, PEM; needed for `https://`.
    pub ca: Option<PathBuf>,
    /// `--etcd-certfile` and `--etcd-keyfile`, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// As etcd's `--max-request-bytes`: larger transactions are refused before they are sent.
    pub request_limit: usize,
    pub connect_timeout: Duration,
}

impl Config {
    /// No TLS files, and etcd's own limits.
    pub fn new(endpoints: Vec<String>) -> Config {
        Config {
            endpoints,
            ca: None,
            identity: None,
            request_limit: 1_572_864,
            connect_timeout: Duration::from_secs(5),
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|source| Error::Io { path: path.clone(), source });
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(tls)
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, Error> {
        let refuse = |error: tonic::transport::Error| Error::Unavailable(format!("{url}: {error}"));
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(refuse)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4);
        if url.starts_with("https://") {
            endpoint.tls_config(self.tls()?).map_err(refuse)
        } else {
            Ok(endpoint)
        }
    }
}

/// A store in an etcd cluster.
pub struct Engine {
    channel: Channel,
    /// For messages.
    name: String,
    request_limit: usize,
    /// How often progress was asked for: every watch with `progress` passes it on.
    progress: watch::Sender<u64>,
}

impl Engine {
    /// Connects, and asks the cluster how it stands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no endpoint answers, [`Error::Io`] for unreadable TLS files.
    pub async fn connect(config: Config) -> Result<Arc<Engine>, Error> {
        let endpoints: Vec<_> =
            config.endpoints.iter().map(|url| config.endpoint(url)).collect::<Result<_, _>>()?;
        let name = config.endpoints.join(",");
        let channel = match <[Endpoint; 1]>::try_from(endpoints) {
            Ok([one]) => one.connect_lazy(),
            Err(several) => Channel::balance_list(several.into_iter()),
        };
        let request_limit = config.request_limit;
        let engine = Engine { channel, name, request_limit, progress: watch::Sender::new(0) };
        let stands = tokio::time::timeout(config.connect_timeout, engine.ask_status()).await;
        let silent = || Error::Unavailable(format!("{} does not answer", engine.name));
        let version = stands.map_err(|_| silent())??.version;
        if !tells_progress_in_order(&version) {
            tracing::warn!(etcd = %engine.name, %version, "this etcd may tell progress ahead of events");
        }
        Ok(Arc::new(engine))
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    fn refused(&self, status: &tonic::Status) -> Error {
        self.refused_at(status, Revision(0))
    }

    fn refused_at(&self, status: &tonic::Status, asked: Revision) -> Error {
        wire::error(status, asked, &self.name)
    }

    fn odd(&self, what: &str) -> Error {
        Error::Unavailable(format!("{} answered {what}", self.name))
    }

    async fn ask_status(&self) -> Result<pb::StatusResponse, Error> {
        let answer = self.maintenance().status(pb::StatusRequest {}).await;
        Ok(answer.map_err(|refusal| self.refused(&refusal))?.into_inner())
    }
}

/// Whether an etcd of this version tells progress only after the events before it.
fn tells_progress_in_order(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    let (major, minor, patch) =
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match (major, minor) {
        (3, 4) => patch >= 25,
        (3, 5) => patch >= 8,
        newer => newer > (3, 5),
    }
}

#[async_trait]
impl Store for Engine {
    async fn range(&self, range: Range) -> Result<RangeAnswer, Error> {
        let asked = range.revision.unwrap_or_default();
        let answer = self.kv().range(wire::range_request(&range)).await;
        let answer = answer.map_err(|refusal| self.refused_at(&refusal, asked))?.into_inner();
        Ok(wire::ranges_answer(answer, Revision(0)))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        txn::check(&txn, self.request_limit)?;
        let answer = self.kv().txn(wire::txn_request(&txn)).await;
        let answer = answer.map_err(|refusal| self.refused(&refusal))?.into_inner();
        wire::txn_answer(answer, Revision(0)).ok_or_else(|| self.odd("a step without a result"))
    }

    async fn watch(&self, watch: Watch) -> Result<Watching, Error> {
        txn::check_keys(&watch.keys)?;
        let (key, range_end) = wire::key_and_end(&watch.keys);
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: watch.from.unwrap_or_default().0,
            progress_notify: watch.progress,
            prev_kv: watch.prev,
            ..Default::default()
        };
        // Two places: the request that makes it, and one for progress.
        let (requests, sent) = mpsc::channel(2);
        requests.try_send(request(RequestUnion::CreateRequest(create))).map_err(|_| self.odd("nothing"))?;
        let asked = self.progress.subscribe();
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let answers = client.watch(ReceiverStream::new(sent)).await;
        let mut answers = answers.map_err(|refusal| self.refused(&refusal))?.into_inner();
        let created = answers.message().await.map_err(|refusal| self.refused(&refusal))?;
        let created = created.ok_or_else(|| self.odd("no watch"))?;
        if created.canceled && created.compact_revision == 0 {
            return Err(self.odd(&created.cancel_reason));
        }
        let from = watch.from.unwrap_or_default();
        let name = self.name.clone();
        let cursor = Cursor { answers, requests, asked, progress: watch.progress, from, name, done: false };
        Ok(stream::unfold(cursor, |mut cursor| async { Some((cursor.next().await?, cursor)) }).boxed())
    }

    async fn progress(&self) -> Result<(), Error> {
        self.progress.send_modify(|asked| *asked += 1);
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let request = pb::CompactionRequest { revision: revision.0, physical: false };
        let answer = self.kv().compact(request).await;
        answer.map(drop).map_err(|refusal| self.refused_at(&refusal, revision))
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), Error> {
        let request = pb::LeaseGrantRequest { id: id.0, ttl: ttl_seconds };
        let answer = self.lease().lease_grant(request).await;
        let answer = answer.map_err(|refusal| self.refused(&refusal))?.into_inner();
        Ok((LeaseId(answer.id), answer.ttl))
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        let answer = self.lease().lease_revoke(pb::LeaseRevokeRequest { id: id.0 }).await;
        answer.map(drop).map_err(|refusal| self.refused(&refusal))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        let request = stream::iter([pb::LeaseKeepAliveRequest { id: id.0 }]);
        let answers = self.lease().lease_keep_alive(request).await;
        let mut answers = answers.map_err(|refusal| self.refused(&refusal))?.into_inner();
        let answer = answers.message().await.map_err(|refusal| self.refused(&refusal))?;
        match answer.ok_or_else(|| self.odd("no time to live"))?.ttl {
            0 => Err(Error::LeaseNotFound),
            ttl => Ok(ttl),
        }
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseInfo, Error> {
        let answer = self.lease().lease_time_to_live(pb::LeaseTimeToLiveRequest { id: id.0, keys }).await;
        let answer = answer.map_err(|refusal| self.refused(&refusal))?.into_inner();
        if answer.ttl < 0 {
            return Err(Error::LeaseNotFound);
        }
        let pb::LeaseTimeToLiveResponse { ttl, granted_ttl, keys, .. } = answer;
        Ok(LeaseInfo { granted_seconds: granted_ttl, left_seconds: ttl, keys })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        let answer = self.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
        let answer = answer.map_err(|refusal| self.refused(&refusal))?.into_inner();
        Ok(answer.leases.into_iter().map(|lease| LeaseId(lease.id)).collect())
    }

    async fn status(&self) -> Result<Status, Error> {
        let answer = self.ask_status().await?;
        let header = answer.header.ok_or_else(|| self.odd("without a header"))?;
        Ok(Status {
            cluster: header.cluster_id,
            revision: Revision(header.revision),
            compacted: Revision(0),
            size: u64::try_from(answer.db_size).unwrap_or_default(),
            size_in_use: u64::try_from(answer.db_size_in_use).unwrap_or_default(),
        })
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        let answers = self.maintenance().snapshot(pb::SnapshotRequest {}).await;
        let mut answers = answers.map_err(|refusal| self.refused(&refusal))?.into_inner();
        let first = answers.message().await.map_err(|refusal| self.refused(&refusal))?;
        let first = first.ok_or_else(|| self.odd("no snapshot"))?;
        let size = first.remaining_bytes + first.blob.len() as u64;
        let name = self.name.clone();
        let rest = answers.map(move |piece| match piece {
            Ok(piece) => Ok(piece.blob),
            Err(refusal) => Err(wire::error(&refusal, Revision(0), &name)),
        });
        let pieces = stream::iter([Ok::<Bytes, Error>(first.blob)]).chain(rest).boxed();
        Ok(Snapshot { size, pieces })
    }

    async fn defragment(&self) -> Result<(), Error> {
        let answer = self.maintenance().defragment(pb::DefragmentRequest {}).await;
        answer.map(drop).map_err(|refusal| self.refused(&refusal))
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// One watch.
struct Cursor {
    answers: Streaming<pb::WatchResponse>,
    requests: mpsc::Sender<pb::WatchRequest>,
    asked: watch::Receiver<u64>,
    progress: bool,
    /// What it was opened from, for messages.
    from: Revision,
    name: String,
    done: bool,
}

impl Cursor {
    async fn next(&mut self) -> Option<Result<WatchBatch, Error>> {
        while !self.done {
            let asked = async {
                // It never ends while it is not meant, or once the engine is gone.
                if !self.progress || self.asked.changed().await.is_err() {
                    futures::future::pending::<()>().await;
                }
            };
            let answer = tokio::select! {
                () = pin!(asked) => {
                    // A place that is taken holds a request already.
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    drop(self.requests.try_send(request(progress)));
                    continue;
                }
                answer = self.answers.message() => answer,
            };
            let told = match answer {
                Ok(Some(answer)) => self.read(answer),
                Ok(None) => Err(Error::Unavailable(format!("{} ended the watch", self.name))),
                Err(refusal) => Err(wire::error(&refusal, self.from, &self.name)),
            };
            self.done = told.is_err();
            return Some(told);
        }
        None
    }

    fn read(&self, answer: pb::WatchResponse) -> Result<WatchBatch, Error> {
        if answer.compact_revision > 0 {
            let oldest = Revision(answer.compact_revision);
            return Err(Error::Compacted { asked: self.from, oldest });
        }
        if answer.canceled {
            return Err(Error::Unavailable(format!(
                "{} ended the watch: {}",
                self.name, answer.cancel_reason
            )));
        }
        let now = Revision(answer.header.unwrap_or_default().revision);
        let events: Vec<_> = answer.events.into_iter().filter_map(wire::event).collect();
        // A watch that is behind is told of the past in pieces, each under the revision of today.
        let revision = events.last().map_or(now, |event| event.kv.mod_revision);
        Ok(WatchBatch { revision, events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_etcds_are_known_by_their_version() {
        let check = |version, expected| assert_eq!(tells_progress_in_order(version), expected, "{version}");
        check("3.4.23", false);
        check("3.4.25", true);
        check("3.5.7", false);
        check("3.5.21", true);
        check("3.6.0-rc.1", true);
        check("3.3.99", false);
        check("", false);
    }
}
