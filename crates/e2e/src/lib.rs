//! End-to-end tests: clusters made with the built binary, driven by the stock kubectl. They are in
//! `tests/`, one file a subject, on the fixtures of `testkit`; there is no code here.
//!
//! Build the binary first (`cargo build --workspace`), or name another one in `TIPHYS`.
