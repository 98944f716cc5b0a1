//! The revisioned key space.
