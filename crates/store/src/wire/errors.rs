//! The words in which etcd refuses. Clients compare them, so they are etcd's to the letter.

use std::path::PathBuf;

use tonic::{Code, Status};

use crate::contract::{Error, Revision};

/// The refusals that a client of ours must tell apart.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const LEASE_EXISTS: &str = "etcdserver: lease already exists";
const LEASE_TOO_LONG: &str = "etcdserver: too large lease TTL";
const NO_KEY: &str = "etcdserver: key not found";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const EMPTY_KEY: &str = "etcdserver: key is not provided";
const TOO_LARGE: &str = "etcdserver: request is too large";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// What a client of etcd is told.
pub(crate) fn status(error: &Error) -> Status {
    let (code, words) = match error {
        Error::Compacted { .. } => (Code::OutOfRange, COMPACTED),
        Error::FutureRevision { .. } => (Code::OutOfRange, FUTURE),
        Error::LeaseNotFound => (Code::NotFound, NO_LEASE),
        Error::LeaseExists => (Code::FailedPrecondition, LEASE_EXISTS),
        Error::LeaseTooLong { .. } => (Code::OutOfRange, LEASE_TOO_LONG),
        Error::KeyNotFound => (Code::InvalidArgument, NO_KEY),
        Error::DuplicateKey => (Code::InvalidArgument, DUPLICATE),
        Error::EmptyKey => (Code::InvalidArgument, EMPTY_KEY),
        Error::TooLarge { .. } => (Code::InvalidArgument, TOO_LARGE),
        Error::NoSpace { .. } => (Code::ResourceExhausted, NO_SPACE),
        Error::Damaged { .. } => return Status::data_loss(error.to_string()),
        Error::Unsupported { .. } => return Status::unimplemented(error.to_string()),
        Error::SlowWatcher { .. } => return Status::resource_exhausted(error.to_string()),
        Error::Io { .. } | Error::InUse { .. } | Error::Unavailable(_) => {
            return Status::unavailable(error.to_string());
        }
    };
    Status::new(code, words)
}

/// What etcd's refusal means. `asked` is the revision of the request where it names one; `endpoint` the
/// etcd that speaks.
pub(crate) fn error(status: &Status, asked: Revision, endpoint: &str) -> Error {
    match status.message() {
        COMPACTED => Error::Compacted { asked, oldest: Revision(0) },
        FUTURE => Error::FutureRevision { asked, current: Revision(0) },
        NO_LEASE => Error::LeaseNotFound,
        LEASE_EXISTS => Error::LeaseExists,
        LEASE_TOO_LONG => Error::LeaseTooLong { seconds: 0 },
        NO_KEY => Error::KeyNotFound,
        DUPLICATE => Error::DuplicateKey,
        EMPTY_KEY => Error::EmptyKey,
        TOO_LARGE => Error::TooLarge { bytes: 0, limit: 0 },
        NO_SPACE => Error::NoSpace { path: PathBuf::from(endpoint) },
        words => Error::Unavailable(format!("{endpoint}: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_has_words_for_reads_back() {
        let revision = Revision(7);
        let errors = [
            Error::Compacted { asked: revision, oldest: Revision(0) },
            Error::FutureRevision { asked: revision, current: Revision(0) },
            Error::LeaseNotFound,
            Error::LeaseExists,
            Error::LeaseTooLong { seconds: 0 },
            Error::KeyNotFound,
            Error::DuplicateKey,
            Error::EmptyKey,
            Error::TooLarge { bytes: 0, limit: 0 },
            Error::NoSpace { path: "there".into() },
        ];
        for there in errors {
            let back = error(&status(&there), revision, "there");
            assert_eq!(back.to_string(), there.to_string());
        }
    }
}
