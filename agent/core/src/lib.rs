//! Every decision of the pair: events in, actions out, time as a parameter.
//!
//! No sockets, clocks, files, threads, randomness or logger here; `clippy.toml` bans them.

pub mod action;
pub mod adapters;
pub mod beat;
pub mod config;
pub mod controller;
pub mod disk_work;
pub mod event;
pub mod heartbeat;
pub mod ids;
pub mod key;
pub mod perform;
pub mod pr;
pub mod settings;
pub mod time;
