//! Placeholder.
pub mod rpc;
