//! The generic resource engine.
