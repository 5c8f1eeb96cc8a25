//! failoverd: high availability for a pair of storage controllers.

pub mod adapters;
pub mod rpc;
