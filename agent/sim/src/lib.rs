//! Pretend hardware, the simulator and the demo.

#[macro_use]
pub mod story;

pub mod conformance;
pub mod controls;
pub mod coverage;
pub mod demo;
pub mod disk;
pub mod disk_set;
pub mod enclosure;
pub mod explore;
pub mod faults;
pub mod invariants;
mod lanes;
pub mod machine;
pub mod matrix;
pub mod mutants;
pub mod pinned;
pub mod plan;
pub mod progress;
pub mod queue;
pub mod real_scale;
pub mod report;
pub mod rng;
pub mod runner;
pub mod scale;
pub mod script;
pub mod shelf;
pub mod shrink;
pub mod world;
