//! PKI and bootstrap.
