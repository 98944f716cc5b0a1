//! Transactions, and the single writes that are transactions of one step.

use tonic::Status;

use super::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use super::pb::{request_op::Request, response_op::Response};
use super::{key_and_end, keys, mvccpb, pb, range, range_request, range_response, status};
use crate::contract::{
    Compare, KeyValue, LeaseId, Op, OpAnswer, Ordering, Put, RangeAnswer, Revision, Target, Txn, TxnAnswer,
};

/// As etcd's `--max-txn-ops`.
const MOST_OPS: usize = 128;

pub(crate) fn put(request: pb::PutRequest) -> Result<Put, Status> {
    if request.ignore_value && !request.value.is_empty() {
        return Err(Status::invalid_argument("etcdserver: value is provided"));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Status::invalid_argument("etcdserver: lease is provided"));
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(crate) fn delete(request: &pb::DeleteRangeRequest) -> Result<Op, Status> {
    let keys = keys(&request.key, &request.range_end).map_err(|error| status(&error))?;
    Ok(Op::Delete { keys, prev: request.prev_kv })
}

pub(crate) fn txn(request: &pb::TxnRequest) -> Result<Txn, Status> {
    if request.compare.len().max(request.success.len()).max(request.failure.len()) > MOST_OPS {
        return Err(Status::invalid_argument("etcdserver: too many operations in txn request"));
    }
    let ops = |ops: &[pb::RequestOp]| ops.iter().map(op).collect::<Result<Vec<_>, _>>();
    Ok(Txn {
        compare: request.compare.iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(&request.success)?,
        failure: ops(&request.failure)?,
    })
}

fn op(op: &pb::RequestOp) -> Result<Op, Status> {
    match &op.request {
        Some(Request::RequestRange(request)) => range(request).map(Op::Range),
        Some(Request::RequestPut(request)) => put(request.clone()).map(Op::Put),
        Some(Request::RequestDeleteRange(request)) => delete(request),
        Some(Request::RequestTxn(request)) => Ok(Op::Txn(Box::new(txn(request)?))),
        None => Err(Status::invalid_argument("etcdserver: key not found")),
    }
}

fn compare(compare: &pb::Compare) -> Result<Compare, Status> {
    let target = match (compare.target(), compare.target_union.clone()) {
        (CompareTarget::Version, Some(TargetUnion::Version(version))) => Target::Version(version),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(revision))) => {
            Target::CreateRevision(Revision(revision))
        }
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(revision))) => {
            Target::ModRevision(Revision(revision))
        }
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => Target::Value(value),
        (CompareTarget::Lease, Some(TargetUnion::Lease(lease))) => Target::Lease(LeaseId(lease)),
        // Left out, it is the zero of its kind.
        (CompareTarget::Version, _) => Target::Version(0),
        (CompareTarget::Create, _) => Target::CreateRevision(Revision(0)),
        (CompareTarget::Mod, _) => Target::ModRevision(Revision(0)),
        (CompareTarget::Value, _) => Target::Value(Default::default()),
        (CompareTarget::Lease, _) => Target::Lease(LeaseId(0)),
    };
    let op = match compare.result() {
        CompareResult::Equal => Ordering::Equal,
        CompareResult::Greater => Ordering::Greater,
        CompareResult::Less => Ordering::Less,
        CompareResult::NotEqual => Ordering::NotEqual,
    };
    let keys = keys(&compare.key, &compare.range_end).map_err(|error| status(&error))?;
    Ok(Compare { keys, target, op })
}

/// Words an answer for the request it answers. `header` makes one for a revision.
pub(crate) fn txn_response(
    request: &pb::TxnRequest,
    answer: TxnAnswer,
    header: &dyn Fn(Revision) -> pb::ResponseHeader,
) -> pb::TxnResponse {
    let branch = if answer.succeeded { &request.success } else { &request.failure };
    let responses = branch.iter().zip(answer.answers).map(|(op, one)| {
        let here = header(answer.revision);
        let response = match (&op.request, one) {
            (Some(Request::RequestRange(request)), OpAnswer::Range(one)) => {
                let here = header(one.revision);
                Some(Response::ResponseRange(range_response(request, one, here)))
            }
            (_, OpAnswer::Put { prev }) => Some(Response::ResponsePut(pb::PutResponse {
                header: Some(here),
                prev_kv: prev.map(mvccpb::KeyValue::from),
            })),
            (_, OpAnswer::Delete { deleted, prev }) => {
                Some(Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header: Some(here),
                    deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
                    prev_kvs: prev.into_iter().map(mvccpb::KeyValue::from).collect(),
                }))
            }
            (Some(Request::RequestTxn(request)), OpAnswer::Txn(one)) => {
                Some(Response::ResponseTxn(txn_response(request, one, header)))
            }
            // An engine answers each step in kind.
            (_, OpAnswer::Range(_) | OpAnswer::Txn(_)) => None,
        };
        pb::ResponseOp { response }
    });
    let responses = responses.collect();
    pb::TxnResponse { header: Some(header(answer.revision)), succeeded: answer.succeeded, responses }
}

pub(crate) fn txn_request(txn: &Txn) -> pb::TxnRequest {
    let ops = |ops: &[Op]| ops.iter().map(op_request).collect();
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare_request).collect(),
        success: ops(&txn.success),
        failure: ops(&txn.failure),
    }
}

fn op_request(op: &Op) -> pb::RequestOp {
    let request = match op {
        Op::Range(range) => Request::RequestRange(range_request(range)),
        Op::Put(put) => Request::RequestPut(pb::PutRequest {
            key: put.key.clone(),
            value: if put.ignore_value { Default::default() } else { put.value.clone() },
            lease: if put.ignore_lease { 0 } else { put.lease.0 },
            prev_kv: put.prev,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Op::Delete { keys, prev } => {
            let (key, range_end) = key_and_end(keys);
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: *prev })
        }
        Op::Txn(txn) => Request::RequestTxn(txn_request(txn)),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare_request(compare: &Compare) -> pb::Compare {
    let (key, range_end) = key_and_end(&compare.keys);
    let (target, union) = match &compare.target {
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
        Target::CreateRevision(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(revision.0)),
        Target::ModRevision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision.0)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        Target::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(lease.0)),
    };
    let result = match compare.op {
        Ordering::Equal => CompareResult::Equal,
        Ordering::NotEqual => CompareResult::NotEqual,
        Ordering::Greater => CompareResult::Greater,
        Ordering::Less => CompareResult::Less,
    };
    pb::Compare { result: result.into(), target: target.into(), key, target_union: Some(union), range_end }
}

/// Reads a response; `None` where a step has none.
pub(crate) fn txn_answer(response: pb::TxnResponse, outer: Revision) -> Option<TxnAnswer> {
    let revision = at(response.header, outer);
    let answer = |op: pb::ResponseOp| {
        Some(match op.response? {
            Response::ResponseRange(response) => OpAnswer::Range(ranges_answer(response, revision)),
            Response::ResponsePut(response) => OpAnswer::Put { prev: response.prev_kv.map(KeyValue::from) },
            Response::ResponseDeleteRange(response) => OpAnswer::Delete {
                deleted: usize::try_from(response.deleted).unwrap_or_default(),
                prev: response.prev_kvs.into_iter().map(KeyValue::from).collect(),
            },
            Response::ResponseTxn(response) => OpAnswer::Txn(txn_answer(response, revision)?),
        })
    };
    let answers = response.responses.into_iter().map(answer).collect::<Option<_>>()?;
    Some(TxnAnswer { revision, succeeded: response.succeeded, answers })
}

/// etcd leaves the revision out of some headers inside a transaction.
fn at(header: Option<pb::ResponseHeader>, outer: Revision) -> Revision {
    header.map(|header| Revision(header.revision)).filter(|revision| revision.0 > 0).unwrap_or(outer)
}

pub(crate) fn ranges_answer(response: pb::RangeResponse, outer: Revision) -> RangeAnswer {
    RangeAnswer {
        revision: at(response.header, outer),
        kvs: response.kvs.into_iter().map(KeyValue::from).collect(),
        more: response.more,
        count: usize::try_from(response.count).unwrap_or_default(),
    }
}
