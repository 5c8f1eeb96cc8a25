//! Every decision of the pair: events in, actions out, time as a parameter.
//!
//! No sockets, clocks, files, threads, randomness or logger here; `clippy.toml` bans them.

pub mod action;
pub mod adapters;
pub mod beat;
mod commands;
pub mod config;
pub mod controller;
pub mod disk_work;
pub mod disks;
pub mod event;
mod handover;
pub mod heartbeat;
pub mod ids;
pub mod key;
mod link_alarms;
pub mod memory;
mod ops;
mod own_beat;
mod owner;
pub mod peer;
pub mod perform;
pub mod pr;
pub mod settings;
mod standby;
mod start;
pub mod states;
mod status;
mod takeover;
pub mod time;

#[cfg(test)]
mod tests;
