//! What the core must know of the configuration, already checked.

use crate::ids::{DiskId, Node, PoolId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The core's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreConfig {
    /// This controller.
    pub node: Node,
    /// 16 bits of the pair id, in every key.
    pub pair: u16,
    /// Provisioned as a member of a pair.
    pub has_peer: bool,
    /// Number of heartbeat links.
    pub links: u8,
    /// Every shared disk of the pair, sorted; the same list on both controllers.
    pub disks: Vec<DiskConfig>,
    /// Pools, the same list on both controllers.
    pub pools: Vec<PoolConfig>,
    /// Number of arbiters wanted.
    pub arbiters: u8,
    /// This product's version, told to the peer.
    pub version: String,
    /// Seed of the random back-off after a lost race.
    pub seed: u64,
    /// Timers and bounds.
    pub timing: Timing,
}

/// One shared disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Digest of its identity.
    pub id: DiskId,
    /// Its identity, for people.
    pub name: String,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Number of the pool: its place in the list.
    pub id: PoolId,
    /// Its name, for people.
    pub name: String,
}

macro_rules! timing {
    ($($(#[doc = $doc:literal])* $name:ident = $default:literal,)*) => {
        /// Timers and bounds, in the unit their names end with.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Timing { $($(#[doc = $doc])* pub $name: u64,)* }

        impl Default for Timing {
            fn default() -> Timing {
                Timing { $($name: $default,)* }
            }
        }

        impl Timing {
            /// Every timer: name, default, what it means. Feeds the default configuration and its reference.
            pub const FIELDS: &'static [(&'static str, u64, &'static [&'static str])] = &[
                $((stringify!($name), $default, &[$($doc),*]),)*
            ];
        }
    };
}

timing! {
    /// Interval of the beats on each link.
    beat_ms = 50,
    /// A link without a valid beat for this long is silent.
    dead_ms = 250,
    /// Interval of the standby's reads of the arbiters.
    disk_read_ms = 50,
    /// Keys unchanged for this long, seen by successful reads of a majority, are silent.
    disk_silent_ms = 300,
    /// Interval at which the owner rolls its key on the arbiters while it has no echo.
    disk_beat_ms = 100,
    /// Time without an echo after which the owner starts to roll.
    roll_after_ms = 100,
    /// Validity of the lease of the virtual addresses, counted from when its proof was asked for.
    vip_lease_ms = 200,
    /// Added to the lease before a new owner announces.
    lease_slack_ms = 50,
    /// Deadline of taking one disk, from its first command on.
    abort_ms = 500,
    /// An owner that reaches no majority for this long halts.
    disk_lost_ms = 1000,
    /// A peer that is alive and doesn't serve for this long is taken over by force.
    not_serving_ms = 5000,
    /// Time that an announced restart may take.
    restart_ms = 3000,
    /// With failover disabled, time that the not preferred controller waits at a cold start.
    hold_ms = 30000,
    /// Time without a peer after which the owner rolls slowly.
    alone_after_ms = 60000,
    /// Interval of slow rolls.
    slow_roll_ms = 5000,
    /// Validity of the lease while rolling slowly.
    slow_lease_ms = 12000,
    /// Time for which a taker watches the disks of an owner that rolls slowly.
    slow_watch_ms = 13000,
    /// Interval at which the owner verifies every disk.
    verify_ms = 500,
    /// A gap between two turns of the control loop longer than this is our own stall, in which nobody else counts as
    /// silent: the process stood still, or the machine was suspended. Planned pauses are never longer than `beat_ms`.
    stall_ms = 100,
    /// A handover that the peer hasn't committed within this time is reverted.
    handover_ms = 3000,
    /// Deadline of reading or rolling one disk, from its first command on.
    disk_op_ms = 300,
    /// Deadline of a journal record.
    record_ms = 5000,
    /// Deadline of importing a pool.
    import_ms = 30000,
    /// Deadline of exporting a pool; an owner that exceeds it in a handover halts.
    export_ms = 10000,
    /// Deadline of starting or stopping the services.
    services_ms = 15000,
    /// Deadline of adding or removing the virtual addresses.
    vips_ms = 2000,
    /// Interval of the repeated announcements after the addresses came up; five are sent.
    announce_ms = 200,
    /// Minutes without a self-reset after which a controller may reset itself again.
    reset_hold_min = 60,
}

impl Timing {
    /// A timer in milliseconds as a duration.
    pub const fn of(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Checks the relations between timers (`protocol.md` section 5): each broken one by name, with the remedy.
    pub fn check(&self, roll_latency_ms: u64) -> Result<(), Vec<String>> {
        let mut broken = Vec::new();
        let lease = self.vip_lease_ms + self.lease_slack_ms;
        let silent = self.dead_ms.min(self.disk_silent_ms);
        let mut demand = |holds: bool, rule: &str, remedy: &str| {
            if !holds {
                broken.push(format!("{rule} does not hold; {remedy}"));
            }
        };
        demand(
            lease <= silent,
            &format!(
                "vip_lease_ms ({}) + lease_slack_ms ({}) <= min(dead_ms ({}), disk_silent_ms ({}))",
                self.vip_lease_ms, self.lease_slack_ms, self.dead_ms, self.disk_silent_ms
            ),
            "shorten the lease or lengthen dead_ms and disk_silent_ms",
        );
        demand(
            self.roll_after_ms + roll_latency_ms < self.vip_lease_ms,
            &format!(
                "roll_after_ms ({}) + the disks' roll latency ({roll_latency_ms}) < vip_lease_ms ({})",
                self.roll_after_ms, self.vip_lease_ms
            ),
            "roll earlier or lengthen the lease",
        );
        demand(
            self.roll_after_ms + 2 * self.disk_beat_ms <= self.disk_silent_ms,
            &format!(
                "roll_after_ms ({}) + 2 x disk_beat_ms ({}) <= disk_silent_ms ({})",
                self.roll_after_ms, self.disk_beat_ms, self.disk_silent_ms
            ),
            "roll more often or lengthen disk_silent_ms",
        );
        demand(
            2 * self.beat_ms <= self.roll_after_ms,
            &format!(
                "2 x beat_ms ({}) <= roll_after_ms ({})",
                self.beat_ms, self.roll_after_ms
            ),
            "beat more often",
        );
        demand(
            self.beat_ms < self.stall_ms,
            &format!("beat_ms ({}) < stall_ms ({})", self.beat_ms, self.stall_ms),
            "beat more often or lengthen stall_ms: the pause between two beats would count as a stall",
        );
        demand(
            self.slow_lease_ms + self.lease_slack_ms <= self.slow_watch_ms,
            &format!(
                "slow_lease_ms ({}) + lease_slack_ms ({}) <= slow_watch_ms ({})",
                self.slow_lease_ms, self.lease_slack_ms, self.slow_watch_ms
            ),
            "lengthen slow_watch_ms",
        );
        demand(
            2 * self.slow_roll_ms < self.slow_lease_ms,
            &format!(
                "2 x slow_roll_ms ({}) < slow_lease_ms ({})",
                self.slow_roll_ms, self.slow_lease_ms
            ),
            "roll more often or lengthen slow_lease_ms",
        );
        demand(
            (1..=1000).contains(&self.beat_ms) && self.disk_read_ms >= 1 && self.disk_beat_ms >= 1,
            "beat_ms in 1..=1000, disk_read_ms >= 1 and disk_beat_ms >= 1",
            "use the defaults",
        );
        if broken.is_empty() {
            Ok(())
        } else {
            Err(broken)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_every_relation() {
        assert_eq!(Timing::default().check(50), Ok(()));
    }

    #[test]
    fn a_broken_relation_is_named() {
        let timing = Timing {
            vip_lease_ms: 260,
            ..Timing::default()
        };
        let broken = timing.check(50).expect_err("the lease is too long");
        assert!(
            broken[0].starts_with("vip_lease_ms (260) + lease_slack_ms (50)"),
            "{broken:?}"
        );
    }
}
