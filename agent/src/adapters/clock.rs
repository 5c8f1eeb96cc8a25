//! The one clock of every decision: CLOCK_BOOTTIME, which counts suspended time and can't be set.

use failover_core::adapters::Clock;
use failover_core::time::Instant;
use nix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// CLOCK_BOOTTIME of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        // Fails for an unknown clock id or a bad pointer alone; the first exists since Linux 2.6.39, the second
        // isn't ours. Monotonic time, which differs by suspended time only, stands in rather than a panic.
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
        let micros = time.map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1_000);
        Instant::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// Time of day, milliseconds since 1970; for people only, and `None` before that.
pub(crate) fn wall_ms() -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(now.as_millis()).ok()
}
