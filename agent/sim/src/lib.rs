//! Pretend hardware, the simulator and the demo.

pub mod disk;
