//! The KV service.

use tonic::{Request, Response, Status};

use super::Front;
use crate::contract::{Op, OpAnswer, Revision, Txn, TxnAnswer};
use crate::wire::{self, pb, status};

impl Front {
    /// Runs one write, and answers what it did and at which revision.
    async fn one(&self, op: Op) -> Result<(Revision, Option<OpAnswer>), Status> {
        let txn = Txn { success: vec![op], ..Txn::default() };
        let TxnAnswer { revision, mut answers, .. } = self.store.txn(txn).await.map_err(|e| status(&e))?;
        Ok((revision, answers.pop()))
    }
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Front {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let answer = self.store.range(wire::range(&request)?).await.map_err(|e| status(&e))?;
        let header = self.identity.header(answer.revision);
        Ok(Response::new(wire::range_response(&request, answer, header)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let (revision, answer) = self.one(Op::Put(wire::put(request.into_inner())?)).await?;
        let prev_kv = match answer {
            Some(OpAnswer::Put { prev }) => prev.map(Into::into),
            _ => None,
        };
        Ok(Response::new(pb::PutResponse { header: self.header(revision), prev_kv }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let (revision, answer) = self.one(wire::delete(request.get_ref())?).await?;
        let (deleted, prev) = match answer {
            Some(OpAnswer::Delete { deleted, prev }) => (deleted, prev),
            _ => (0, Vec::new()),
        };
        Ok(Response::new(pb::DeleteRangeResponse {
            header: self.header(revision),
            deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
            prev_kvs: prev.into_iter().map(Into::into).collect(),
        }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let request = request.into_inner();
        let answer = self.store.txn(wire::txn(&request)?).await.map_err(|e| status(&e))?;
        let header = |revision| self.identity.header(revision);
        Ok(Response::new(wire::txn_response(&request, answer, &header)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let revision = Revision(request.get_ref().revision);
        self.store.compact(revision).await.map_err(|e| status(&e))?;
        let header = self.header_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::CompactionResponse { header }))
    }
}
