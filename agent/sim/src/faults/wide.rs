//! Faults of the seeds that go wide: unit attentions at odd places, a disk that is stuck for long, links that lose their
//! carrier, and requests at any moment.

use super::{Episode, Fault, command, one_disk};
use crate::plan::{Plan, Width};
use crate::rng::Rng;
use failover_core::ids::Node;

/// Sets this stream apart from that of the rest.
const STREAM: u64 = 0x7769_6465_0001;
/// How long a disk holds everything, microseconds.
const STUCK_US: u64 = 30_000_000;

/// Adds these faults of `seed`; when all faults end, which is later where a disk is stuck for long.
pub fn draw(seed: u64, plan: &Plan, end: u64, episodes: &mut Vec<Episode>) -> u64 {
    if plan.width == Width::Narrow {
        return end;
    }
    let rng = &mut Rng::new(seed ^ STREAM);
    if plan.temper.attentions > 0 {
        let percent = plan.temper.attentions;
        for _ in 0..rng.between(1, 3) {
            let node = one_of_them(rng, plan);
            let fault = Fault::Attentions { node, percent };
            episodes.push(somewhen(rng, end, 6000, fault));
        }
    }
    if plan.temper.carrier && !plan.dark {
        for _ in 0..rng.between(3, 20) {
            let link = rng.below(plan.links.into()) as u8;
            let fault = Fault::LinkCut { link, from: None };
            episodes.push(somewhen(rng, end, 500, fault));
        }
    }
    for _ in 0..rng.below(4) {
        let node = one_of_them(rng, plan);
        let restart = rng.percent(50);
        let fault = match rng.percent(50) {
            true => Fault::Operator(node, command(rng)),
            false => Fault::Stop { node, restart },
        };
        episodes.push(somewhen(rng, end, 500, fault));
    }
    if !plan.temper.stuck_30s {
        return end;
    }
    let disk = one_disk(rng, plan);
    let at = rng.below(end);
    let until = at + STUCK_US;
    let fault = Fault::DiskStuck { disk };
    episodes.push(Episode { at, until, fault });
    until
}

fn one_of_them(rng: &mut Rng, plan: &Plan) -> Node {
    match plan.single {
        true => Node::A,
        false => rng.pick(&[Node::A, Node::B]),
    }
}

/// A fault at any time before the end of all, for so long at most.
fn somewhen(rng: &mut Rng, end: u64, longest_ms: u64, fault: Fault) -> Episode {
    let at = rng.below(end);
    let until = (at + rng.between(10, longest_ms) * 1000).min(end);
    Episode { at, until, fault }
}
