//! How long a disk takes, and which timers that asks for.

use failover_core::config::Timing;
use serde::{Deserialize, Serialize};

/// Percentiles of one command's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u32,
    /// Microseconds that half of them took at most.
    pub p50_us: u64,
    /// Microseconds that 99 of 100 took at most.
    pub p99_us: u64,
    /// Microseconds that 999 of 1000 took at most; with fewer, the longest.
    pub p999_us: u64,
}

impl Latency {
    /// Of the times of all commands, in microseconds; `None` of none.
    pub fn of(mut micros: Vec<u64>) -> Option<Latency> {
        micros.sort_unstable();
        // Nearest rank.
        let at = |per_mille: usize| {
            let rank = (micros.len() * per_mille).div_ceil(1000).max(1);
            micros.get(rank - 1).copied()
        };
        Some(Latency {
            count: u32::try_from(micros.len()).unwrap_or(u32::MAX),
            p50_us: at(500)?,
            p99_us: at(990)?,
            p999_us: at(999)?,
        })
    }
}

/// Timers that a disk needs whose reads and rolls take `slowest_us` at worst, where `timing` has less: name, needed,
/// now, in milliseconds. A quarter of `disk_silent_ms` must do for a command, so that one slow answer of a loaded disk
/// is never its owner's silence; a roll must come before the lease lapses.
pub fn needed_timers(timing: &Timing, slowest_us: u64) -> Vec<(&'static str, u64, u64)> {
    let slowest = slowest_us.div_ceil(1000);
    let tens = |millis: u64| millis.div_ceil(10) * 10;
    let lease = timing
        .vip_lease_ms
        .max(tens(timing.roll_after_ms + slowest + 1));
    let silent = timing
        .disk_silent_ms
        .max(tens(4 * slowest))
        .max(lease + timing.lease_slack_ms);
    let dead = timing.dead_ms.max(lease + timing.lease_slack_ms);
    let operation = timing.disk_op_ms.max(tens(2 * slowest));
    let abort = timing.abort_ms.max(tens(2 * slowest));
    [
        ("vip_lease_ms", lease, timing.vip_lease_ms),
        ("disk_silent_ms", silent, timing.disk_silent_ms),
        ("dead_ms", dead, timing.dead_ms),
        ("disk_op_ms", operation, timing.disk_op_ms),
        ("abort_ms", abort, timing.abort_ms),
    ]
    .into_iter()
    .filter(|(_, needed, now)| needed > now)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latency = Latency::of((1..=200).rev().collect()).expect("some");
        let Latency {
            count,
            p50_us,
            p99_us,
            p999_us,
        } = latency;
        assert_eq!((count, p50_us, p99_us, p999_us), (200, 100, 198, 200));
        assert_eq!(Latency::of(vec![7]).map(|one| one.p50_us), Some(7));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn what_is_needed_holds_every_relation() {
        let timing = Timing::default();
        assert_eq!(needed_timers(&timing, 75_000), []);
        assert_eq!(
            needed_timers(&timing, 75_001),
            [("disk_silent_ms", 310, 300)]
        );
        for slowest in [1, 90_000, 130_000, 400_000, 2_000_000] {
            let mut changed = timing.clone();
            for (name, needed, _) in needed_timers(&timing, slowest) {
                match name {
                    "vip_lease_ms" => changed.vip_lease_ms = needed,
                    "disk_silent_ms" => changed.disk_silent_ms = needed,
                    "dead_ms" => changed.dead_ms = needed,
                    "disk_op_ms" => changed.disk_op_ms = needed,
                    _ => changed.abort_ms = needed,
                }
            }
            assert_eq!(changed.check(slowest.div_ceil(1000)), Ok(()), "{slowest}");
            assert_eq!(needed_timers(&changed, slowest), []);
        }
    }
}
