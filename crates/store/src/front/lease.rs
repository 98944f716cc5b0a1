//! The Lease service.

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::Front;
use crate::contract::{Error, LeaseId};
use crate::wire::{pb, status};

#[tonic::async_trait]
impl pb::lease_server::Lease for Front {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { id, ttl } = request.into_inner();
        let (id, ttl) = self.store.lease_grant(LeaseId(id), ttl).await.map_err(|e| status(&e))?;
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseGrantResponse { header, id: id.0, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.store.lease_revoke(LeaseId(request.get_ref().id)).await.map_err(|e| status(&e))?;
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let session = (self.clone(), request.into_inner());
        let answers = stream::try_unfold(session, |(front, mut requests)| async move {
            let request = tokio::select! {
                () = front.stop.cancelled() => return Err(stopped()),
                request = requests.message() => request?,
            };
            let Some(request) = request else { return Ok(None) };
            let answer = front.keep_alive(LeaseId(request.id)).await.map_err(|e| status(&e))?;
            Ok(Some((answer, (front, requests))))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let header = self.header_now().await.map_err(|e| status(&e))?;
        let answer = pb::LeaseTimeToLiveResponse { header, id, ..Default::default() };
        Ok(Response::new(match self.store.lease_time_to_live(LeaseId(id), keys).await {
            Ok(info) => pb::LeaseTimeToLiveResponse {
                ttl: info.left_seconds,
                granted_ttl: info.granted_seconds,
                keys: info.keys,
                ..answer
            },
            // etcd answers, rather than refuses, for a lease that is no more.
            Err(Error::LeaseNotFound) => pb::LeaseTimeToLiveResponse { ttl: -1, ..answer },
            Err(error) => return Err(status(&error)),
        }))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let leases = self.store.leases().await.map_err(|e| status(&e))?;
        let header = self.header_now().await.map_err(|e| status(&e))?;
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

/// What streams end with when the server stops.
pub(super) fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

impl Front {
    /// A lease that is no more has 0 seconds.
    async fn keep_alive(&self, id: LeaseId) -> Result<pb::LeaseKeepAliveResponse, Error> {
        let ttl = match self.store.lease_keep_alive(id).await {
            Err(Error::LeaseNotFound) => 0,
            ttl => ttl?,
        };
        Ok(pb::LeaseKeepAliveResponse { header: self.header_now().await?, id: id.0, ttl })
    }
}
