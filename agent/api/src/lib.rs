//! The control API of failoverd as types: what `midctl`, the daemon and other clients exchange.
//!
//! Only serde types and pure functions live here, so that a client builds without netlink or disk code.

pub mod types;

pub use types::*;
