//! What a seed draws before its world begins: sizes, timers, temper of the hardware.

mod wide;

pub use wide::{Generation, Temper, Width};

use crate::disk_set::DiskSet;
use crate::rng::Rng;
use failover_core::config::{CoreConfig, DiskConfig, PoolConfig, Timing};
use failover_core::ids::{DiskId, Node, PoolId};

/// Latency of a roll that the configuration check reckons with, milliseconds.
const ROLL_LATENCY_MS: u64 = 50;

/// One pool's place on the disks.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    /// Its disks.
    pub disks: DiskSet,
    /// Disks that it can do without.
    pub spare: u16,
}

impl PoolPlan {
    /// Enough of its disks are among these.
    pub fn can_do_with(&self, disks: DiskSet) -> bool {
        (self.disks - disks).len() <= usize::from(self.spare)
    }
}

/// The fixed part of a world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of disks.
    pub disks: u16,
    /// Paths from each controller to each disk.
    pub paths: u8,
    /// Heartbeat links.
    pub links: u8,
    /// None of them works before the faults end: only the disks speak.
    pub dark: bool,
    /// There is no other controller: A serves alone, with shared disks.
    pub single: bool,
    /// Pools.
    pub pools: Vec<PoolPlan>,
    /// Timers.
    pub timing: Timing,
    /// Keys persist through power loss of the shelf.
    pub aptpl: bool,
    /// The disks have READ FULL STATUS, which is optional.
    pub full_status: bool,
    /// A hardware watchdog resets a machine whose daemon hasn't petted it for this long, microseconds.
    pub watchdog_us: Option<u64>,
    /// Latency of one command's way to a disk and of its way back, microseconds at most.
    pub disk_us: u64,
    /// Time that an import takes, milliseconds.
    pub import_ms: u64,
    /// Time that services, exports and addresses take, milliseconds at most.
    pub work_ms: u64,
    /// Time that a journal record takes, milliseconds at most.
    pub journal_ms: u64,
    /// Lateness of the control loop's timers, microseconds at most.
    pub jitter_us: u64,
    /// Percentage of datagrams lost on every link at all times.
    pub loss: u64,
    /// Percentage of writes that stay inside the disk for a while.
    pub slow_writes: u64,
    /// Time that a machine needs from power to kernel, milliseconds.
    pub boot_ms: u64,
    /// How wide the seed is.
    pub width: Width,
    /// Virtual addresses: many take longer, and fail in part.
    pub vips: u16,
    /// Length of the time of faults, in percent of the usual one.
    pub faulty_percent: u64,
    /// What the hardware does wrong at all times.
    pub temper: Temper,
}

impl Plan {
    /// A pair without any temper, for scripts.
    pub fn calm() -> Plan {
        Plan {
            disks: 4,
            paths: 2,
            links: 2,
            dark: false,
            single: false,
            pools: vec![PoolPlan {
                disks: DiskSet::first(4),
                spare: 1,
            }],
            timing: Timing::default(),
            aptpl: true,
            full_status: true,
            watchdog_us: None,
            disk_us: 500,
            import_ms: 50,
            work_ms: 10,
            journal_ms: 2,
            jitter_us: 0,
            loss: 0,
            slow_writes: 0,
            boot_ms: 3000,
            width: Width::Narrow,
            vips: 1,
            faulty_percent: 100,
            temper: Temper::default(),
        }
    }

    /// The same on a shelf that forgets its reservations when it loses power, which takes a watchdog (protocol.md
    /// section 6).
    pub fn volatile() -> Plan {
        Plan {
            aptpl: false,
            watchdog_us: Some(2_000_000),
            ..Plan::calm()
        }
    }

    /// The plan of a seed, which has begun to draw from `rng`.
    pub fn of_seed(seed: u64, rng: &mut Rng) -> Plan {
        let mut plan = Plan::draw(rng);
        wide::widen(&mut plan, seed);
        plan
    }

    /// A plan of the usual width.
    fn draw(rng: &mut Rng) -> Plan {
        let disks = match rng.below(10) {
            0 => 1,
            1 => 2,
            2 | 3 => 3,
            4 | 5 => 4,
            _ => rng.between(5, 8),
        } as u16;
        let links = rng.pick(&[0, 1, 1, 2, 2, 2, 3]);
        let aptpl = rng.percent(85);
        let mut plan = Plan {
            disks,
            paths: rng.pick(&[1, 1, 2, 2, 3]),
            links: links.max(1),
            dark: links == 0,
            single: rng.percent(4),
            pools: Vec::new(),
            timing: timing(rng),
            aptpl,
            full_status: true,
            watchdog_us: None,
            disk_us: rng.pick(&[200, 500, 1000, 3000]),
            import_ms: rng.between(5, 250),
            work_ms: rng.between(1, 60),
            journal_ms: rng.pick(&[1, 2, 5, 20]),
            jitter_us: rng.pick(&[0, 200, 1000, 5000, 20_000]),
            loss: rng.pick(&[0, 0, 0, 1, 2]),
            slow_writes: rng.pick(&[0, 2, 5, 20]),
            boot_ms: rng.between(500, 3500),
            width: Width::Narrow,
            vips: 1,
            faulty_percent: 100,
            temper: Temper::default(),
        };
        if !aptpl || rng.percent(20) {
            plan.watchdog_us = Some(2_000_000);
        }
        plan.pools = pools(rng, disks);
        plan.full_status = rng.percent(60);
        plan
    }

    /// So many disks that answers which come together are taken together, as the daemon's control loop does.
    pub fn gathers(&self) -> bool {
        matches!(self.width, Width::Middle | Width::Large)
    }

    /// Configuration of one controller.
    pub fn config(&self, node: Node, seed: u64) -> CoreConfig {
        CoreConfig {
            node,
            pair: 0x51a7,
            has_peer: !self.single,
            links: self.links,
            disks: (0..self.disks)
                .map(|index| DiskConfig {
                    id: disk_id(index),
                    name: format!("d{index}"),
                })
                .collect(),
            pools: (0..self.pools.len())
                .map(|index| PoolConfig {
                    id: PoolId(index as u16),
                    name: format!("p{index}"),
                })
                .collect(),
            arbiters: 3,
            version: "1".to_owned(),
            seed: seed ^ (node as u64 + 1),
            timing: self.timing.clone(),
        }
    }
}

/// The identity of disk number `index`.
pub fn disk_id(index: u16) -> DiskId {
    DiskId(u64::from(index) + 1)
}

/// The number of a disk.
pub fn disk_index(id: DiskId) -> usize {
    (id.0 as usize).saturating_sub(1)
}

fn pools(rng: &mut Rng, disks: u16) -> Vec<PoolPlan> {
    let two = disks >= 4 && rng.percent(40);
    let pool = |disks: DiskSet, rng: &mut Rng| {
        let most = (disks.len() as u64 - 1) / 2;
        let spare = rng.below(most + 1) as u16;
        PoolPlan { disks, spare }
    };
    let all = DiskSet::first(disks.into());
    if two {
        let cut = rng.between(1, u64::from(disks) - 1) as usize;
        let first = DiskSet::first(cut);
        vec![pool(first, rng), pool(all - first, rng)]
    } else {
        vec![pool(all, rng)]
    }
}

/// Timers: the default ones, or others at the edges that the configuration check allows. Long waits are shortened, so
/// that their ends are seen within a seed.
fn timing(rng: &mut Rng) -> Timing {
    let mut timing = Timing::default();
    if rng.percent(60) {
        let scale = rng.between(80, 300);
        let scaled = |value: u64| value * scale / 100;
        timing.beat_ms = scaled(50).max(20);
        timing.stall_ms = timing.stall_ms.max(timing.beat_ms + 50);
        timing.roll_after_ms = 2 * timing.beat_ms + rng.below(30);
        timing.disk_beat_ms = rng.between(40, 100) * scale / 100;
        let least = timing.roll_after_ms + 2 * timing.disk_beat_ms;
        timing.disk_silent_ms = least + rng.pick(&[0, 0, 20, 200]);
        timing.vip_lease_ms = timing.roll_after_ms + 51 + rng.below(80);
        timing.lease_slack_ms = rng.between(20, 60);
        let lease = timing.vip_lease_ms + timing.lease_slack_ms;
        timing.disk_silent_ms = timing.disk_silent_ms.max(lease);
        timing.dead_ms = lease + rng.pick(&[0, 0, 10, 300]);
        timing.disk_read_ms = rng.between(20, 80);
    }
    timing.import_ms = rng.between(1500, 4000);
    timing.export_ms = rng.between(1000, 3000);
    timing.services_ms = rng.between(800, 2500);
    timing.vips_ms = rng.between(400, 2000);
    timing.record_ms = rng.between(300, 2000);
    timing.not_serving_ms = rng.between(800, 5000);
    timing.hold_ms = rng.between(500, 4000);
    timing.handover_ms = rng.between(800, 3000);
    timing.restart_ms = rng.between(400, 3000);
    timing.disk_lost_ms = rng.between(600, 1500);
    timing.alone_after_ms = rng.pick(&[600, 1500, 4000, 60_000]);
    timing.slow_roll_ms = rng.between(300, 1500);
    timing.slow_lease_ms = 2 * timing.slow_roll_ms + rng.between(1, 600);
    timing.slow_watch_ms = timing.slow_lease_ms + timing.lease_slack_ms + rng.pick(&[0, 0, 500]);
    timing.verify_ms = rng.pick(&[200, 500]);
    timing.reset_hold_min = rng.pick(&[0, 0, 1, 60]);
    debug_assert_eq!(timing.check(ROLL_LATENCY_MS), Ok(()));
    timing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_timers_pass_the_configuration_check() {
        for seed in 0..3000 {
            let plan = Plan::draw(&mut Rng::new(seed));
            assert_eq!(plan.timing.check(50), Ok(()), "seed {seed}");
        }
    }
}
