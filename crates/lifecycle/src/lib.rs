//! How a cluster comes to be and is found again: its keys and certificates ([`pki`]) and the files
//! that lead clients to it ([`kubeconfig`]).
//!
//! Invariants: a file is whole or absent (written beside, synced, renamed); a private key is never
//! readable by others, not even for a moment; what is still good is kept, so that a restart changes
//! nothing.
//!
//! Not here: who may do what (crate `auth`), running components (crate `tiphys`).

mod files;
pub mod kubeconfig;
pub mod pki;
