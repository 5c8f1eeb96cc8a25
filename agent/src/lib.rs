//! Placeholder.

pub mod adapters;
