//! The container runtime contract (CRI v1).
