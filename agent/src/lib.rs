//! failoverd: high availability for a pair of storage controllers.
//!
//! ```text
//!   links ──beats──▶ ┌────────────────┐ ──work──▶ lanes ──▶ adapters (disks, pools, services, VIPs, journal)
//!   rpc ──commands─▶ │ control thread │ ──beats─▶ links
//!   lanes ──done───▶ │  (Controller)  │ ──lease─▶ the kernel's table
//!   signals ───────▶ └────────────────┘ ──notices, history, status──▶ logger ──▶ rpc subscribers
//! ```
//!
//! [`daemon::run`] is the whole daemon: it takes a [`config::Config`] and [`daemon::DaemonAdapters`].

pub mod adapters;
pub mod assemble;
mod backoffice;
pub mod clearing;
pub mod config;
mod control;
pub mod daemon;
pub mod disks;
pub mod engine;
pub mod fence_commands;
mod history;
mod inbox;
mod instance;
pub mod journal;
mod lanes;
mod last_words;
mod ledger;
pub mod links;
mod logger;
pub mod messages;
pub mod pair_key;
pub mod preflight;
mod queue;
mod realtime;
pub mod record;
pub mod rpc;
mod signals;
pub mod supervisor;

/// Draws 64 random bits; falls back on the clock and the process where the kernel has none to give.
pub(crate) fn random_u64() -> u64 {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 8];
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_ok() {
        return u64::from_le_bytes(bytes);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64) ^ u64::from(std::process::id()) << 32
}
