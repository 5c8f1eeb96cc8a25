//! Seeds that go wide: a share of them, told by their number, draws sizes, timers and hardware tempers beyond those of the
//! rest. They have random numbers of their own, so that all other seeds stay what they were.

use super::{Plan, PoolPlan};
use crate::disk_set::{DISKS_MAX, DiskSet};
use crate::faults::LINKS_MAX;
use crate::rng::Rng;
use failover_core::config::Timing;

/// Sets this stream apart from that of the rest.
const STREAM: u64 = 0x7769_6465_0000;
/// The widths come again after so many seeds.
const PERIOD: u64 = 50;
/// Of so many seeds one is large: 2 %.
const LARGE: [u64; 1] = [25];
/// 10 % have a middle size.
const MIDDLE: [u64; 5] = [8, 17, 29, 36, 45];
/// 16 % are small, with odd timers and tempers.
const SMALL: [u64; 8] = [1, 5, 13, 22, 31, 35, 41, 47];
/// Disks of a small world, and of one of middle size, at most.
const SMALL_MAX: u64 = 12;
const MIDDLE_MAX: u64 = 256;
/// Greatest number of pools.
const POOLS_MAX: u64 = 64;
/// Greatest number of virtual addresses.
const VIPS_MAX: u64 = 500;

/// How wide a seed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// As the seeds were before there were wide ones.
    Narrow,
    /// Up to 12 disks.
    Small,
    /// Up to 256 disks.
    Middle,
    /// Up to 1,255 disks.
    Large,
}

impl Width {
    /// That of a seed.
    pub fn of(seed: u64) -> Width {
        let place = seed % PERIOD;
        match place {
            _ if LARGE.contains(&place) => Width::Large,
            _ if MIDDLE.contains(&place) => Width::Middle,
            _ if SMALL.contains(&place) => Width::Small,
            _ => Width::Narrow,
        }
    }
}

/// What a target reports as PRgeneration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// As the standard has it.
    #[default]
    Right,
    /// The same all the time.
    Still,
    /// A wrong one now and then.
    Wild,
}

/// What the hardware does at all times that it should not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Temper {
    /// A logical unit reset ends every registration.
    pub forgets_on_reset: bool,
    /// A reservation conflict is told so much late at most, milliseconds.
    pub conflict_ms: u16,
    /// What PRgeneration says.
    pub generation: Generation,
    /// A preempt takes so long at most, milliseconds.
    pub preempt_ms: u16,
    /// Percentage of commands that meet a unit attention which nothing explains.
    pub attentions: u8,
    /// A link that is cut loses its carrier, of which the kernel tells.
    pub carrier: bool,
    /// A disk holds everything for 30 s.
    pub stuck_30s: bool,
}

impl Temper {
    /// Names of the tempers, in the order of `has`.
    pub const NAMES: [&'static str; 8] = [
        "registrations forgotten on reset",
        "late reservation conflicts",
        "PRgeneration stands still",
        "PRgeneration is wrong at times",
        "slow preempt",
        "unit attentions at odd places",
        "cut links lose their carrier",
        "a disk stuck for 30 s",
    ];

    /// Which of them it has.
    pub fn has(&self) -> [bool; Temper::NAMES.len()] {
        [
            self.forgets_on_reset,
            self.conflict_ms > 0,
            self.generation == Generation::Still,
            self.generation == Generation::Wild,
            self.preempt_ms > 0,
            self.attentions > 0,
            self.carrier,
            self.stuck_30s,
        ]
    }
}

/// Widens the plan of a seed, if it is one that goes wide.
pub(super) fn widen(plan: &mut Plan, seed: u64) {
    let rng = &mut Rng::new(seed ^ STREAM);
    plan.width = Width::of(seed);
    let (least, most) = match plan.width {
        Width::Narrow => return,
        Width::Small => (1, SMALL_MAX),
        Width::Middle => (SMALL_MAX + 1, MIDDLE_MAX),
        Width::Large => (MIDDLE_MAX + 1, DISKS_MAX as u64),
    };
    plan.disks = log_uniform(rng, least, most) as u16;
    plan.paths = match plan.width {
        // The eighth nexus is another host's.
        Width::Narrow | Width::Small => rng.pick(&[1, 2, 2, 4, 7]),
        Width::Middle | Width::Large => rng.pick(&[1, 2, 2, 3]),
    };
    plan.links = rng.between(1, LINKS_MAX as u64) as u8;
    plan.pools = pools(rng, plan.disks);
    plan.vips = log_uniform(rng, 1, VIPS_MAX) as u16;
    if rng.percent(50) {
        edges(rng, &mut plan.timing, plan.width);
        // Whoever sets such timers has a machine that keeps to them.
        plan.jitter_us = plan.jitter_us.min(200);
    }
    // The work on disks costs most of such a seed: fewer looks, and a shorter time of faults.
    match plan.width {
        Width::Narrow | Width::Small => {}
        Width::Middle => plan.faulty_percent = 60,
        Width::Large => {
            plan.timing.verify_ms = rng.pick(&[500, 1000, 2000]);
            plan.timing.disk_read_ms = plan.timing.disk_read_ms.max(20);
            plan.faulty_percent = 40;
        }
    }
    plan.temper = temper(rng, &plan.timing);
    debug_assert_eq!(plan.timing.check(super::ROLL_LATENCY_MS), Ok(()));
}

/// A number from `least` to `most` whose logarithm is about uniform.
fn log_uniform(rng: &mut Rng, least: u64, most: u64) -> u64 {
    let (low, high) = ((least as f64).ln(), ((most + 1) as f64).ln());
    let place = rng.below(1 << 20) as f64 / f64::from(1 << 20);
    let number = (low + place * (high - low)).exp() as u64;
    number.clamp(least, most)
}

/// The disks, cut into pools.
fn pools(rng: &mut Rng, disks: u16) -> Vec<PoolPlan> {
    let count = log_uniform(rng, 1, POOLS_MAX.min(disks.into()));
    let mut ends: Vec<u64> = (1..count).map(|_| rng.below(disks.into())).collect();
    ends.push(disks.into());
    ends.sort_unstable();
    ends.dedup();
    let mut begin = 0;
    let mut pools = Vec::new();
    for end in ends.into_iter().filter(|end| *end > 0) {
        let disks: DiskSet = (begin..end as usize).collect();
        let most = (disks.len() as u64 - 1) / 2;
        let spare = rng.below(most + 1) as u16;
        pools.push(PoolPlan { disks, spare });
        begin = end as usize;
    }
    pools
}

/// Timers that the configuration check just lets pass: each relation holds by nothing.
fn edges(rng: &mut Rng, timing: &mut Timing, width: Width) {
    timing.beat_ms = match width {
        Width::Narrow | Width::Small => rng.pick(&[5, 20, 20, 20, 50, 100, 250, 1000]),
        Width::Middle | Width::Large => rng.pick(&[20, 50, 100, 250, 1000]),
    };
    timing.stall_ms = timing.beat_ms + 1;
    // A pause that is too short for a stall, and longer than this, makes answers late that only wait to be read
    // (safety.md, What is not proved).
    timing.disk_op_ms = timing.disk_op_ms.max(timing.stall_ms);
    timing.roll_after_ms = 2 * timing.beat_ms;
    timing.vip_lease_ms = timing.roll_after_ms + super::ROLL_LATENCY_MS + 1;
    timing.lease_slack_ms = rng.pick(&[0, 1, 20, 50]);
    timing.dead_ms = timing.vip_lease_ms + timing.lease_slack_ms;
    timing.disk_silent_ms = timing.dead_ms;
    timing.disk_beat_ms = (timing.disk_silent_ms - timing.roll_after_ms) / 2;
    timing.disk_read_ms = rng.pick(&[5, 20, 50, 150]);
    timing.slow_lease_ms = 2 * timing.slow_roll_ms + 1;
    timing.slow_watch_ms = timing.slow_lease_ms + timing.lease_slack_ms;
}

fn temper(rng: &mut Rng, timing: &Timing) -> Temper {
    let generation = rng.pick(&[
        Generation::Right,
        Generation::Right,
        Generation::Still,
        Generation::Wild,
    ]);
    Temper {
        forgets_on_reset: rng.percent(20),
        conflict_ms: rng.pick(&[0, 0, 5, 40]),
        generation,
        // A take is several commands, and must end within its deadline.
        preempt_ms: rng.pick(&[0, 0, 20, timing.abort_ms as u16 / 5]),
        attentions: rng.pick(&[0, 0, 1, 5, 20]),
        carrier: rng.percent(80),
        stuck_30s: rng.percent(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pinned::{PINNED, PINNED_WIDE};

    fn wide() -> impl Iterator<Item = (u64, Plan)> {
        let seeds = (0..20_000).filter(|seed| Width::of(*seed) != Width::Narrow);
        seeds.map(|seed| (seed, Plan::of_seed(seed, &mut Rng::new(seed))))
    }

    #[test]
    fn pinned_seeds_keep_their_width() {
        for (seed, _) in PINNED {
            assert_eq!(Width::of(*seed), Width::Narrow, "seed {seed}");
        }
        for (seed, _) in PINNED_WIDE {
            assert_ne!(Width::of(*seed), Width::Narrow, "seed {seed}");
        }
    }

    #[test]
    fn widths_have_their_shares() {
        let share = |width| (0..PERIOD).filter(|seed| Width::of(*seed) == width).count();
        let shares = [Width::Large, Width::Middle, Width::Small].map(share);
        assert_eq!(shares, [1, 5, 8]);
    }

    #[test]
    fn wide_plans_reach_their_bounds() {
        let (mut disks, mut pools, mut links) = ((9, 9), 0, 0);
        for (seed, plan) in wide() {
            assert_eq!(plan.timing.check(50), Ok(()), "seed {seed}");
            disks = (disks.0.min(plan.disks), disks.1.max(plan.disks));
            pools = pools.max(plan.pools.len());
            links = links.max(plan.links);
            let sum: usize = plan.pools.iter().map(|pool| pool.disks.len()).sum();
            assert_eq!(
                sum,
                usize::from(plan.disks),
                "seed {seed}: each disk has a pool"
            );
        }
        assert!(disks.0 == 1 && disks.1 > 1200, "{disks:?}");
        assert!(pools > 50 && links == 8, "{pools} pools, {links} links");
    }
}
