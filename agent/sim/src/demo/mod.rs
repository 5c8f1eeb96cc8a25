//! The demo.
pub mod adapters;
pub mod datagram;
pub mod host;
