//! The oracle: does the pair keep every record that it has acknowledged, exactly once?
//!
//! ```text
//!   client (send)                    MASTER                          after the run
//!   ┌────────────┐   records    ┌──────────────────┐              ┌──────────────────┐
//!   │ numbers 1… │ ────VIP────▶ │ recorder (serve) │              │ judge            │
//!   │ keeps each │              │ append, fsync,   │──▶ log ────▶ │ every ack there  │
//!   │ ack        │ ◀──acks───── │ then acknowledge │    on the    │ once, whole, in  │
//!   └─────┬──────┘              └──────────────────┘    pool      │ order            │
//!         └───────────────── acks and their times ──────────────▶ └──────────────────┘
//! ```
//!
//! A record that isn't acknowledged in time is sent again over a new connection, at first all that are open and in their
//! order. The recorder knows the numbers in its log and appends none twice. So the log of a run holds 1, 2, 3, … without
//! a gap; anything else is a fault of what lies below: a write that was acknowledged and is gone, a write of an old owner
//! that landed late, two owners at one time.

pub mod client;
pub mod judge;
pub mod log;
pub mod record;
pub mod recorder;
