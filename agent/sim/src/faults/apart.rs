//! Faults with random numbers of their own, so that seeds which don't draw them stay what they were: a shelf that is lost,
//! turns that are waited for, a path that hangs.

use super::{Episode, Fault};
use crate::plan::Plan;
use crate::rng::Rng;
use failover_core::ids::Node;

/// Sets these streams apart from that of the rest.
const STREAM: u64 = 0x7368_656c_6600;
/// Percentage of seeds that lose a shelf.
const SHELVES: u64 = 15;
/// Percentage of seeds with a controller that has much to do on its disks.
const CROWDS: u64 = 10;
/// Percentage of seeds with paths that hang.
const HANGING: u64 = 10;

/// These faults of `seed`, all over at `end`.
pub fn draw(seed: u64, plan: &Plan, end: u64) -> Vec<Episode> {
    let mut episodes = shelf(&mut Rng::new(seed ^ STREAM), plan, end);
    episodes.extend(crowds(&mut Rng::new(seed ^ STREAM ^ 1), plan, end));
    episodes.extend(hanging(&mut Rng::new(seed ^ STREAM ^ 2), plan, end));
    episodes
}

fn one_of_them(rng: &mut Rng, plan: &Plan) -> Node {
    match plan.single {
        true => Node::A,
        false => rng.pick(&[Node::A, Node::B]),
    }
}

/// Several disks are lost at once.
fn shelf(rng: &mut Rng, plan: &Plan, end: u64) -> Vec<Episode> {
    if plan.disks < 2 || !rng.percent(SHELVES) {
        return Vec::new();
    }
    let all = u64::from(plan.disks);
    // Half of them, as where one of two shelves goes; or one more than that, or all.
    let count = rng.pick(&[all / 2, all / 2, all.div_ceil(2), all / 2 + 1, all]);
    let anywhere = rng.below(all);
    let first = rng.pick(&[0, all / 2, all - count, anywhere]);
    let disks = (0..count).map(|place| ((first + place) % all) as usize);
    let disks = disks.collect();
    let node = one_of_them(rng, plan);
    let to = rng.pick(&[None, None, Some(node)]);
    let at = rng.between(1_500, 6_000) * 10 * plan.faulty_percent;
    let until = (at + rng.between(500, 8_000) * 1000).min(end);
    let fault = Fault::DisksMissing { disks, to };
    let mut episodes = vec![Episode { at, until, fault }];
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

/// Work on disks waits for its turn.
fn crowds(rng: &mut Rng, plan: &Plan, end: u64) -> Vec<Episode> {
    if !rng.percent(CROWDS) {
        return Vec::new();
    }
    let crowd = |rng: &mut Rng| {
        let node = one_of_them(rng, plan);
        let by_ms = rng.pick(&[20, 100, 400, 900]);
        let at = rng.between(50, 9_000) * 10 * plan.faulty_percent;
        let until = (at + rng.between(300, 5_000) * 1000).min(end);
        let fault = Fault::Crowded { node, by_ms };
        Episode { at, until, fault }
    };
    (0..rng.between(1, 3)).map(|_| crowd(rng)).collect()
}

/// Paths hold what is sent over them; the other paths to their disks work.
fn hanging(rng: &mut Rng, plan: &Plan, end: u64) -> Vec<Episode> {
    if plan.paths < 2 || !rng.percent(HANGING) {
        return Vec::new();
    }
    let path = |rng: &mut Rng| {
        let fault = Fault::PathStuck {
            disk: super::one_disk(rng, plan),
            node: one_of_them(rng, plan),
            path: rng.below(u64::from(plan.paths)) as u8,
        };
        let at = rng.between(50, 9_000) * 10 * plan.faulty_percent;
        let until = (at + rng.between(100, 4_000) * 1000).min(end);
        Episode { at, until, fault }
    };
    (0..rng.between(1, 6)).map(|_| path(rng)).collect()
}
