//! Faults that take several disks at once: a shelf of the enclosure, or its cable. They have random numbers of their own,
//! so that seeds which don't draw them stay what they were.

use super::{Episode, Fault};
use crate::plan::Plan;
use crate::rng::Rng;
use failover_core::ids::Node;

/// Sets the stream of these faults apart from that of the rest.
const STREAM: u64 = 0x7368_656c_6600;
/// Percentage of seeds that lose a shelf.
const SHARE: u64 = 15;

/// The faults of `seed` that take several disks, all over before `end`.
pub fn draw(seed: u64, plan: &Plan, end: u64) -> Vec<Episode> {
    let mut rng = Rng::new(seed ^ STREAM);
    if plan.disks < 2 || !rng.percent(SHARE) {
        return Vec::new();
    }
    let all = u64::from(plan.disks);
    // Half of them, as where one of two shelves goes; or one more than that, or all.
    let count = rng.pick(&[all / 2, all / 2, all.div_ceil(2), all / 2 + 1, all]);
    let anywhere = rng.below(all);
    let first = rng.pick(&[0, all / 2, all - count, anywhere]);
    let disks = (0..count.min(all)).fold(0, |bits, place| bits | 1 << ((first + place) % all));
    let node = match plan.single {
        true => Node::A,
        false => rng.pick(&[Node::A, Node::B]),
    };
    let to = rng.pick(&[None, None, Some(node)]);
    let at = rng.between(1_500, 6_000) * 1000;
    let until = (at + rng.between(500, 8_000) * 1000).min(end);
    let lost = Fault::DisksMissing { disks, to };
    let mut episodes = vec![Episode {
        at,
        until,
        fault: lost,
    }];
    // Often with nobody left who could prove a lease by an echo.
    let beside = match rng.below(4) {
        0 => Some(Fault::LinksCut { from: None }),
        1 | 2 if !plan.single => Some(Fault::PowerLoss(node)),
        _ => None,
    };
    if let Some(fault) = beside {
        let at = at.saturating_sub(rng.pick(&[0, 0, 1_000_000]));
        episodes.push(Episode { at, until, fault });
    }
    episodes
}
