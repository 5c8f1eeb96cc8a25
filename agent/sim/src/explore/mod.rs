//! Exhaustive exploration of the shipped core: every order of events, faults and commands within bounds.
//!
//! `world` is the pair as a value, `moves` what can happen to it, `canonical` when two states are the same,
//! `search` visits them all, `progress` shows that service always comes back, `report` tells; `way` is how a rule was broken,
//! in words, and can be gone again.

pub mod bounds;
mod canonical;
mod moves;
mod progress;
pub mod report;
pub mod search;
pub mod way;
pub mod world;
