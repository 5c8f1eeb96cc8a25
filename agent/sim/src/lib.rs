//! Pretend hardware, the simulator and the demo.

pub mod demo;
pub mod disk;
pub mod shelf;
