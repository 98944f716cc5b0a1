//! The Maintenance, Cluster and Auth services.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{API_VERSION, Front, TERM};
use crate::contract::{Error, Keys, Range, Revision};
use crate::wire::pb::alarm_request::AlarmAction;
use crate::wire::{pb, status};

impl Front {
    /// A checksum of every key with its value as of a revision. Two stores of ours with the same
    /// content answer the same; etcd hashes its own file format, so it does not.
    async fn hash_at(&self, revision: Option<Revision>) -> Result<(Revision, u32), Error> {
        let answer = self.store.range(Range { revision, ..Range::of(Keys::all()) }).await?;
        let mut hasher = crc32fast::Hasher::new();
        for kv in &answer.kvs {
            for bytes in [&kv.key, &kv.value] {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
            for number in [kv.create_revision.0, kv.mod_revision.0, kv.version, kv.lease.0] {
                hasher.update(&number.to_le_bytes());
            }
        }
        Ok((answer.revision, hasher.finalize()))
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Front {
    /// There are no alarms: a full disk refuses each write by itself, and is free again by itself.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        if request.get_ref().action() == AlarmAction::Activate {
            return Err(Status::unimplemented("etcdserver: this store raises no alarms"));
        }
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::AlarmResponse { header, alarms: Vec::new() }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let stands = self.store.status().await.map_err(|e| status(&e))?;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let index = u64::try_from(stands.revision.0).unwrap_or_default();
        Ok(Response::new(pb::StatusResponse {
            header: self.header(stands.revision),
            version: API_VERSION.into(),
            db_size: bytes(stands.size),
            leader: self.identity.member,
            raft_index: index,
            raft_term: TERM,
            raft_applied_index: index,
            errors: Vec::new(),
            db_size_in_use: bytes(stands.size_in_use),
            is_learner: false,
        }))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(|e| status(&e))?;
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::DefragmentResponse { header }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let (revision, hash) = self.hash_at(None).await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::HashResponse { header: self.header(revision), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let asked = Revision(request.get_ref().revision);
        let at = Some(asked).filter(|asked| asked.0 > 0);
        let (revision, hash) = self.hash_at(at).await.map_err(|e| status(&e))?;
        let compacted = self.store.status().await.map_err(|e| status(&e))?.compacted;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header(revision),
            hash,
            compact_revision: compacted.0,
            hash_revision: at.unwrap_or(revision).0,
        }))
    }

    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let snapshot = self.store.snapshot().await.map_err(|e| status(&e))?;
        let header = self.header_now().await.map_err(|e| status(&e))?;
        let mut remaining_bytes = snapshot.size;
        let answers = snapshot.pieces.map(move |piece| {
            let blob = piece.map_err(|error| status(&error))?;
            remaining_bytes = remaining_bytes.saturating_sub(blob.len() as u64);
            Ok(pb::SnapshotResponse { header, remaining_bytes, blob, version: API_VERSION.into() })
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(answers.take_until(stop).boxed()))
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Front {
    async fn member_list(
        &self,
        _: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let member = pb::Member {
            id: self.identity.member,
            name: "tiphys".into(),
            // It has no peers to listen for.
            peer_ur_ls: Vec::new(),
            client_ur_ls: vec![self.url.clone()],
            is_learner: false,
        };
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::MemberListResponse { header, members: vec![member] }))
    }
}

#[tonic::async_trait]
impl pb::auth_server::Auth for Front {
    async fn auth_status(
        &self,
        _: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
    }

    async fn authenticate(
        &self,
        _: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
    }
}
