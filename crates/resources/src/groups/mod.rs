//! Rows, one file a family of groups.

mod core;
mod policy;
mod reviews;
mod storage;
mod workloads;

use api::GroupVersionKind;

use crate::{Injected, Row, Settings};

pub(crate) fn rows(settings: &Settings, injected: &Injected) -> Vec<Row> {
    let mut rows = core::rows(settings, injected);
    rows.extend(workloads::rows());
    rows.extend(policy::rows());
    rows.extend(storage::rows());
    rows.extend(reviews::rows(injected));
    rows
}

fn gvk(group: &str, version: &str, kind: &str) -> GroupVersionKind {
    GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() }
}
