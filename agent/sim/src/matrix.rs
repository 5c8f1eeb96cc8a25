//! The start matrix: every combination of what both machines, the disks, the addresses and the links may be found as.
//!
//! ```text
//!   A: 7 ways × B: 7 ways × the disks' holder: 5 × addresses on: 4 × links: 3 × 3  ──▶ run ──▶ who serves, and since when
//! ```

use crate::disk_set::DiskSet;
use crate::faults::Fault;
use crate::machine::Up;
use crate::plan::{Plan, disk_id};
use crate::story::Story;
use crate::world::{NODES, World};
use failover_core::action::OwnerRecord;
use failover_core::ids::{Epoch, Node};
use failover_core::key::{EpochBits, Key, Phase};
use failover_core::pr::PrCommand;
use failover_core::states::State;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The pair has so long to converge, microseconds.
const CONVERGE_US: u64 = 5_000_000;
/// Simulated time of a case: nothing may change any more after it converged.
const RUN_US: u64 = 25_000_000;
/// Interval of the looks.
const LOOK_US: u64 = 50_000;
/// Epoch in which whoever owned last did so.
const OWNED: Epoch = Epoch(5);
/// Boot counters of an earlier run.
const INCARNATION: u16 = 7;

/// How a machine is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Without power, for good.
    Off,
    /// New: an empty journal.
    New,
    /// It stood by, and its daemon restarts.
    Backup,
    /// It served, and its daemon was killed.
    Master,
    /// Its daemon was killed while it imported.
    Importing,
    /// It served until its power went; it has booted anew.
    Rebooted,
    /// It has reset itself twice lately.
    Held,
}

/// Whose keys hold the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Nobody's.
    Nobody,
    /// Of this controller, from its last run.
    One(Node),
    /// A's on half of them, B's on the others.
    Mixed,
    /// A's of an epoch long ago.
    Stale,
}

/// How a link is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    /// Whole.
    Up,
    /// It carries one direction.
    Half,
    /// It carries nothing.
    Down,
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// A and B.
    pub found: [Found; 2],
    /// Of the disks.
    pub holder: Holder,
    /// Whether the kernels of A and B have the addresses on.
    pub vips: [bool; 2],
    /// Both links.
    pub wires: [Wire; 2],
}

impl fmt::Display for Case {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.found;
        let [first, second] = self.wires;
        let vips = match self.vips {
            [true, true] => "both",
            [true, false] => "A",
            [false, true] => "B",
            [false, false] => "none",
        };
        let holder = self.holder;
        let text = format!(
            "A {a:?}, B {b:?}, disks {holder:?}, addresses {vips}, links {first:?} {second:?}"
        );
        to.pad(&text)
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Exactly one controller serves from this moment on, microseconds.
    Serves(u64),
    /// Nobody serves in the end: what the controllers say.
    Stopped(String),
    /// What must not be.
    Wrong(String),
}

/// Every case.
pub fn cases() -> Vec<Case> {
    use Found::{Backup, Held, Importing, Master, New, Off, Rebooted};
    use Wire::{Down, Half, Up};
    let founds = [Off, New, Backup, Master, Importing, Rebooted, Held];
    let holders = [
        Holder::Nobody,
        Holder::One(Node::A),
        Holder::One(Node::B),
        Holder::Mixed,
        Holder::Stale,
    ];
    let mut cases = Vec::new();
    for a in founds {
        for b in founds {
            for holder in holders {
                for vips in [[false, false], [true, false], [false, true], [true, true]] {
                    for first in [Up, Half, Down] {
                        for second in [Up, Half, Down] {
                            cases.push(Case {
                                found: [a, b],
                                holder,
                                vips,
                                wires: [first, second],
                            });
                        }
                    }
                }
            }
        }
    }
    cases
}

/// What all cases came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Cases in which one controller serves within the time, and how many need how long, by upper bound, microseconds.
    pub served: BTreeMap<u64, usize>,
    /// Cases that need longer: what was said when the time was over, with an example and its time.
    pub late: BTreeMap<String, (usize, Case, u64)>,
    /// Cases in which nobody serves in the end: what is said, with an example.
    pub stopped: BTreeMap<String, (usize, Case)>,
    /// Cases that broke a rule, or in which a controller reset itself again and again.
    pub wrong: Vec<(Case, String)>,
}

impl Outcome {
    fn add(&mut self, case: Case, at_limit: String, end: End) {
        match end {
            End::Serves(at) if at <= CONVERGE_US => {
                let bound = at.next_multiple_of(500_000).max(500_000);
                *self.served.entry(bound).or_default() += 1;
            }
            End::Serves(at) => {
                let entry = self.late.entry(at_limit).or_insert((0, case, at));
                entry.0 += 1;
                if at > entry.2 {
                    (entry.1, entry.2) = (case, at);
                }
            }
            End::Stopped(why) => self.stopped.entry(why).or_insert((0, case)).0 += 1,
            End::Wrong(why) => self.wrong.push((case, why)),
        }
    }
}

/// Runs every case.
pub fn run(jobs: usize) -> Outcome {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (at_limit, end) = run_case(*case, Story::Off);
                    let mut outcome = outcome
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    outcome.add(*case, at_limit, end);
                }
            });
        }
    });
    outcome
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs one; what both say when the time is over, and the end.
pub fn run_case(case: Case, story: Story) -> (String, End) {
    let mut world = World::scripted(Plan::calm(), story);
    world.brief = true;
    world.set_up(&case);
    let mut since = None;
    let mut at_limit = String::new();
    while world.now() < RUN_US {
        let until = world.now() + LOOK_US;
        world.run_until(until);
        if let Some(violation) = world.violation() {
            let why = format!("{}: {}", violation.rule, violation.text);
            return (at_limit, End::Wrong(why));
        }
        match world.one_serves() {
            true => since = since.or(Some(until)),
            false => since = None,
        }
        if until == CONVERGE_US {
            at_limit = world.in_words();
        }
    }
    let again = NODES
        .into_iter()
        .find(|node| world.ledger.halts[*node as usize] > 1);
    let end = match (again, since) {
        (Some(node), _) => End::Wrong(format!("{node} reset itself more than once")),
        (None, Some(since)) => End::Serves(since),
        (None, None) if NODES.into_iter().any(|node| world.may_serve(node)) => {
            End::Wrong(format!("nobody serves: {}", world.in_words()))
        }
        (None, None) => End::Stopped(world.in_words()),
    };
    (at_limit, end)
}

impl World {
    fn set_up(&mut self, case: &Case) {
        self.hold_disks(case.holder);
        for node in NODES {
            self.set_up_machine(node, case);
        }
        for (link, wire) in case.wires.into_iter().enumerate() {
            let from = [Node::A, Node::B][link];
            let from = match wire {
                Wire::Up => continue,
                Wire::Half => Some(from),
                Wire::Down => None,
            };
            let link = link as u8;
            self.begin_lasting(Fault::LinkCut { link, from });
        }
        for node in NODES {
            self.start_daemon(node);
        }
    }

    fn hold_disks(&mut self, holder: Holder) {
        for index in 0..self.bays.len() {
            let (node, epoch) = match holder {
                Holder::Nobody => return,
                Holder::One(node) => (node, OWNED),
                Holder::Mixed => (NODES[index % 2], OWNED),
                Holder::Stale => (Node::A, Epoch(2)),
            };
            let key = self.key_of(node, epoch).to_bits();
            for path in 0..self.plan.paths {
                let nexus = crate::disk::Nexus::new(node, path);
                let disk = &mut self.bays[index].disk;
                // A new disk tells of its power-on first.
                while disk
                    .execute(nexus, PrCommand::RegisterIgnore { new: key })
                    .is_err()
                {}
                if path == 0 {
                    let _ = disk.execute(nexus, PrCommand::Reserve { key });
                }
            }
        }
    }

    fn key_of(&self, node: Node, epoch: Epoch) -> Key {
        Key {
            pair: self.plan.config(node, 0).pair,
            node,
            held: false,
            phase: Phase::Owner,
            incarnation: INCARNATION,
            epoch: EpochBits::of(epoch),
            beat: 1,
        }
    }

    fn set_up_machine(&mut self, node: Node, case: &Case) {
        let found = case.found[node as usize];
        let key = self.key_of(node, OWNED);
        let (pools, disks) = (self.plan.pools.len(), self.plan.disks);
        let all = Up {
            common: true,
            of_pools: vec![true; pools],
        };
        let machine = &mut self.machines[node as usize];
        let kernel = &mut machine.kernel;
        if found == Found::Off {
            machine.powered = false;
            return;
        }
        if found != Found::New {
            kernel.durable.incarnation = INCARNATION;
            kernel.durable.epoch = OWNED;
        }
        match found {
            Found::Rebooted => kernel.durable.owned = Some(OWNED),
            Found::Held => kernel.durable.resets = 2,
            Found::Master | Found::Importing => {
                kernel.durable.owned = Some(OWNED);
                kernel.imported = vec![Some(DiskSet::first(disks.into())); pools];
                kernel.owner = Some(OwnerRecord {
                    incarnation: INCARNATION,
                    epoch: OWNED,
                    key,
                    serving: found == Found::Master,
                    won: (0..disks).map(disk_id).collect(),
                });
                if found == Found::Master {
                    kernel.services = all.clone();
                }
            }
            Found::Off | Found::New | Found::Backup => {}
        }
        if case.vips[node as usize] {
            kernel.vips = all;
        }
    }

    /// It runs, and isn't held back for an operator.
    fn may_serve(&self, node: Node) -> bool {
        self.state(node).is_some_and(|state| state != State::Held)
    }

    /// Exactly one controller serves, and says so.
    fn one_serves(&self) -> bool {
        let serves = |node: &Node| {
            let kernel = &self.machines[*node as usize].kernel;
            self.state(*node) == Some(State::Active)
                && kernel.has_pool()
                && kernel.answers(self.now)
        };
        NODES.iter().filter(|node| serves(node)).count() == 1
    }

    /// What both say: the state, and what keeps them from taking over.
    fn in_words(&self) -> String {
        let word = |node: Node| {
            let machine = &self.machines[node as usize];
            let Some(daemon) = &machine.daemon else {
                let what = if machine.powered {
                    "no daemon"
                } else {
                    "no power"
                };
                return what.to_owned();
            };
            let report = daemon.controller.report(self.local(node));
            match report.blockers.is_empty() {
                true => report.state,
                false => format!("{} ({})", report.state, report.blockers.join("; ")),
            }
        };
        format!("A {}, B {}", word(Node::A), word(Node::B))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in 97 of the cases, which meets every value of each part; `failover-sim matrix` runs them all.
    #[test]
    fn starts_converge_or_are_explained() {
        for case in cases().into_iter().step_by(97) {
            let (_, end) = run_case(case, Story::Off);
            let away = |found: &Found| matches!(found, Found::Off | Found::Held);
            let nobody_can = case.found.iter().all(away);
            match end {
                End::Serves(_) => assert!(!nobody_can, "{case}"),
                End::Stopped(_) => assert!(nobody_can, "{case}"),
                End::Wrong(why) => panic!("{case}: {why}"),
            }
        }
    }
}
