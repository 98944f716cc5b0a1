//! Ranges. etcd sorts and filters after it has read, so a request that wants either is read whole.

use tonic::Status;

use super::pb::range_request::{SortOrder, SortTarget};
use super::{key_and_end, keys, mvccpb, pb, status};
use crate::contract::{KeyValue, Range, RangeAnswer, Revision};

/// What to read for a request; [`range_response`] cuts the answer to what was asked for.
pub(crate) fn range(request: &pb::RangeRequest) -> Result<Range, Status> {
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Status::invalid_argument("etcdserver: invalid sort option"));
    }
    let whole = sorts(request) || filters(request);
    Ok(Range {
        keys: keys(&request.key, &request.range_end).map_err(|error| status(&error))?,
        limit: if whole { 0 } else { usize::try_from(request.limit).unwrap_or(0) },
        revision: (request.revision > 0).then_some(Revision(request.revision)),
        // Values may be what it is sorted by.
        keys_only: request.keys_only && !whole,
        count_only: request.count_only,
    })
}

/// Whether the answer is in another order than that of keys.
fn sorts(request: &pb::RangeRequest) -> bool {
    request.sort_order() == SortOrder::Descend || request.sort_target() != SortTarget::Key
}

fn filters(request: &pb::RangeRequest) -> bool {
    request.min_mod_revision > 0
        || request.max_mod_revision > 0
        || request.min_create_revision > 0
        || request.max_create_revision > 0
}

fn passes(request: &pb::RangeRequest, kv: &KeyValue) -> bool {
    let within =
        |revision: Revision, least: i64, most: i64| revision.0 >= least && (most == 0 || revision.0 <= most);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

pub(crate) fn range_response(
    request: &pb::RangeRequest,
    answer: RangeAnswer,
    header: pb::ResponseHeader,
) -> pb::RangeResponse {
    let RangeAnswer { mut kvs, mut more, count, .. } = answer;
    kvs.retain(|kv| passes(request, kv));
    if sorts(request) {
        match request.sort_target() {
            // They come in the order of keys.
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by(|one, other| one.value.cmp(&other.value)),
        }
        if request.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && kvs.len() > limit {
        kvs.truncate(limit);
        more = true;
    }
    let strip = |mut kv: mvccpb::KeyValue| {
        if request.keys_only {
            kv.value.clear();
        }
        kv
    };
    pb::RangeResponse {
        header: Some(header),
        kvs: kvs.into_iter().map(|kv| strip(kv.into())).collect(),
        more,
        count: i64::try_from(count).unwrap_or(i64::MAX),
    }
}

pub(crate) fn range_request(range: &Range) -> pb::RangeRequest {
    let (key, range_end) = key_and_end(&range.keys);
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(range.limit).unwrap_or(0),
        revision: range.revision.unwrap_or_default().0,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..pb::RangeRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::LeaseId;

    fn check(request: pb::RangeRequest, expected: &str) {
        let kvs = [("/a", 3, 4), ("/b", 2, 9), ("/c", 5, 5)].map(|(key, create, modified)| KeyValue {
            key: key.into(),
            value: "v".into(),
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            version: 1,
            lease: LeaseId(0),
        });
        let answer = RangeAnswer { revision: Revision(9), kvs: kvs.into(), more: false, count: 3 };
        let response = range_response(&request, answer, pb::ResponseHeader::default());
        let mut told: Vec<_> =
            response.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        told.extend(response.more.then(|| "more".to_owned()));
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn answers_are_sorted_filtered_and_then_cut() {
        let all = pb::RangeRequest::default;
        check(all(), "/a /b /c");
        check(pb::RangeRequest { sort_order: SortOrder::Descend.into(), ..all() }, "/c /b /a");
        check(pb::RangeRequest { sort_target: SortTarget::Create.into(), ..all() }, "/b /a /c");
        let newest = pb::RangeRequest {
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Mod.into(),
            limit: 2,
            ..all()
        };
        check(newest, "/b /c more");
        check(pb::RangeRequest { min_mod_revision: 5, max_mod_revision: 8, ..all() }, "/c");
        check(pb::RangeRequest { max_create_revision: 3, limit: 2, ..all() }, "/a /b");
    }
}
