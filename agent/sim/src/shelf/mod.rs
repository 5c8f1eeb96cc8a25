//! The emulated enclosure: a process of its own that enforces reservations per command.
//!
//! ```text
//!   daemon A ─ ShelfFence ─┐                      ┌─ disk 0: queue ▸ one command per latency ▸ Disk + log
//!   host A ─── appends ────┤   unix socket        ├─ disk 1
//!   daemon B ─ ShelfFence ─┼──────────▶ server ───┤  …
//!   host B ─── appends ────┤   (wire.rs)          └─ disk n-1
//!   driver ─── cut, audit ─┘
//! ```
//!
//! It survives the death of either daemon and knows nothing of the protocol above reservations: who may write is
//! asked of [`crate::disk::Disk`] for each command when it arrives, as a disk does.

pub mod bay;
pub mod client;
pub mod fence;
pub mod log;
pub mod server;
pub mod wire;

use failover_core::ids::DiskId;

/// The identity of disk number `index` of the shelf, as configurations name it.
pub fn disk_name(index: usize) -> String {
    format!("shelf-disk-{index:02}")
}

/// The digest of disk number `index`, as the core names it.
pub fn disk_id(index: usize) -> DiskId {
    DiskId::of(&disk_name(index))
}

/// CLOCK_BOOTTIME in microseconds: the one clock that the shelf, the hosts and the driver share.
pub fn now_micros() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // The clock exists on every kernel since 2.6.39; without it nothing here could be timed.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}
