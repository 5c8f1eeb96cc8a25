//! Everything that enters the core, kept so that its decisions can be made again: on another machine, bit for bit.
//!
//! ```text
//!   control thread ─ Recorded ─ inputs, digest of the actions ─▶ buffer ─▶ writer thread ─▶ runtime_dir/record/NNN  (a ring)
//!                                                                             └ a decision, a reset ─▶ state_dir/incidents/
//!   failoverd replay FILE ─ log ─▶ Controller ─▶ the same decisions, or the first step that differs
//! ```
//!
//! A segment begins with the whole state of the controller, or with its start, so that each can be replayed by itself.
//! What is recorded has no secrets: beats come in without their signatures, and the configuration of the core has no key.

pub mod log;
mod recorded;
pub mod replay;
pub mod report;
pub mod what_if;
mod writer;

pub(crate) use recorded::Recorded;
pub(crate) use writer::{Incidents, WriterThread, start};

#[cfg(test)]
mod tests;
