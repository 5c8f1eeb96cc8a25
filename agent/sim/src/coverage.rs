//! What seeds have reached: states, edges, events in states, halts, refusals, notices, faults, sizes.

pub mod pairs;

use crate::faults::Fault;
use crate::plan::{Plan, Temper};
use failover_core::action::HaltReason;
use failover_core::event::Event;
use failover_core::states::{EDGES, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names of the kinds of events, in the order of `event_kind`.
pub const EVENTS: [&str; 9] = [
    "wake",
    "beat",
    "disk done",
    "other done",
    "command",
    "lan",
    "link",
    "lease lost",
    "stop",
];

/// Number of an event's kind.
pub fn event_kind(event: &Event) -> usize {
    use failover_core::action::Outcome;
    match event {
        Event::Wake => 0,
        Event::Beat { .. } => 1,
        Event::Done {
            outcome: Outcome::Disk(_),
            ..
        } => 2,
        Event::Done { .. } => 3,
        Event::Command { .. } => 4,
        Event::Lan { .. } => 5,
        Event::Link { .. } => 6,
        Event::LeaseLost => 7,
        Event::Stop { .. } => 8,
    }
}

/// Name of a kind of events.
pub fn event_name(kind: usize) -> &'static str {
    EVENTS[kind]
}

/// Number of a state.
pub fn state_index(state: State) -> usize {
    State::ALL
        .iter()
        .position(|each| *each == state)
        .unwrap_or_default()
}

/// Which pairs of a state and a kind of events were reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// How many that can be.
    pub reached: usize,
    /// Those that can be, and were not.
    pub missing: Vec<String>,
    /// Those that can't be, and were.
    pub wrong: Vec<String>,
    /// How many can't be, and were not.
    pub never: usize,
}

/// Counters, summed over seeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Events by state by kind.
    pub matrix: Vec<Vec<u64>>,
    /// Edges, in the order of `EDGES`.
    pub edges: Vec<u64>,
    /// Halts by reason.
    pub halts: BTreeMap<String, u64>,
    /// Refusals by errno.
    pub refusals: BTreeMap<i32, u64>,
    /// Notices by name.
    pub notices: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: Vec<u64>,
    /// Commands at disks.
    pub commands: u64,
    /// Writes accepted.
    pub writes: u64,
    /// Writes that the reservation refused.
    pub refused_writes: u64,
    /// Writes that an abort removed from inside a disk.
    pub aborted_writes: u64,
    /// Events taken by controllers.
    pub events: u64,
    /// Simulated time, microseconds.
    pub simulated_us: u64,
    /// Slowest return to a whole pair after the faults, microseconds, and its seed.
    pub slowest: (u64, u64),
    /// Seeds.
    pub seeds: u64,
    /// Seeds by their sizes and tempers.
    pub sizes: Sizes,
}

/// Upper bounds of the ranges in which sizes are counted.
pub const DISK_RANGES: [u16; 8] = [1, 4, 8, 16, 64, 256, 640, 1255];
/// Of links.
pub const LINK_RANGES: [u16; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// Of pools.
pub const POOL_RANGES: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Of virtual addresses.
pub const VIP_RANGES: [u16; 6] = [1, 4, 16, 64, 256, 500];

/// How many seeds had which size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// By number of disks.
    pub disks: Vec<u64>,
    /// By number of links.
    pub links: Vec<u64>,
    /// By number of pools.
    pub pools: Vec<u64>,
    /// By number of virtual addresses.
    pub vips: Vec<u64>,
    /// By temper, in the order of `Temper::NAMES`.
    pub tempers: Vec<u64>,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            disks: vec![0; DISK_RANGES.len()],
            links: vec![0; LINK_RANGES.len()],
            pools: vec![0; POOL_RANGES.len()],
            vips: vec![0; VIP_RANGES.len()],
            tempers: vec![0; Temper::NAMES.len()],
        }
    }
}

impl Sizes {
    /// Counts a plan.
    pub fn count(&mut self, plan: &Plan) {
        let counts = [
            (&mut self.disks, &DISK_RANGES[..], plan.disks),
            (&mut self.links, &LINK_RANGES[..], plan.links.into()),
            (&mut self.pools, &POOL_RANGES[..], plan.pools.len() as u16),
            (&mut self.vips, &VIP_RANGES[..], plan.vips),
        ];
        for (counts, ranges, size) in counts {
            if let Some(place) = ranges.iter().position(|most| size <= *most) {
                counts[place] += 1;
            }
        }
        for (count, has) in self.tempers.iter_mut().zip(plan.temper.has()) {
            *count += u64::from(has);
        }
    }

    fn add(&mut self, other: &Sizes) {
        add(&mut self.disks, &other.disks);
        add(&mut self.links, &other.links);
        add(&mut self.pools, &other.pools);
        add(&mut self.vips, &other.vips);
        add(&mut self.tempers, &other.tempers);
    }

    /// Seeds with more than 256 disks.
    pub fn large(&self) -> u64 {
        let counts = self.disks.iter().zip(DISK_RANGES);
        counts
            .filter(|(_, most)| *most > 256)
            .map(|(count, _)| count)
            .sum()
    }
}

fn add(counts: &mut [u64], more: &[u64]) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            matrix: vec![vec![0; EVENTS.len()]; State::ALL.len()],
            edges: vec![0; EDGES.len()],
            halts: BTreeMap::new(),
            refusals: BTreeMap::new(),
            notices: BTreeMap::new(),
            faults: vec![0; Fault::KINDS.len()],
            commands: 0,
            writes: 0,
            refused_writes: 0,
            aborted_writes: 0,
            events: 0,
            simulated_us: 0,
            slowest: (0, 0),
            seeds: 0,
            sizes: Sizes::default(),
        }
    }
}

impl Coverage {
    /// Counts an edge.
    pub fn edge(&mut self, from: &str, to: &str, why: &str) {
        let same = |edge: &failover_core::states::Edge| {
            edge.why == why && edge.from.name() == from && edge.to.name() == to
        };
        if let Some(index) = EDGES.iter().position(same) {
            self.edges[index] += 1;
        }
    }

    /// Counts a halt.
    pub fn halt(&mut self, reason: &HaltReason) {
        let word = match reason {
            HaltReason::Fenced { .. } => "fenced",
            HaltReason::DisksLost => "disks lost",
            HaltReason::PeerServes { .. } => "peer serves",
            HaltReason::CannotStop(_) => "cannot stop",
            HaltReason::ReservationsGone => "reservations gone",
            HaltReason::Stranger => "stranger",
            HaltReason::NotAdopted => "not adopted",
        };
        *self.halts.entry(word.to_owned()).or_default() += 1;
    }

    /// Pairs of a state and a kind of events that were reached, and can be.
    pub fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::default();
        for (state, row) in State::ALL.iter().zip(&self.matrix) {
            for (event, count) in row.iter().enumerate() {
                let words = || format!("{} in {}", event_name(event), state.name());
                match (pairs::never(*state, event), *count) {
                    (None, 0) => pairs.missing.push(words()),
                    (None, _) => pairs.reached += 1,
                    (Some(_), 0) => pairs.never += 1,
                    (Some(_), _) => pairs.wrong.push(words()),
                }
            }
        }
        pairs
    }

    /// Adds another's counters.
    pub fn add(&mut self, other: &Coverage) {
        for (row, theirs) in self.matrix.iter_mut().zip(&other.matrix) {
            add(row, theirs);
        }
        add(&mut self.edges, &other.edges);
        for (reason, more) in &other.halts {
            *self.halts.entry(reason.clone()).or_default() += more;
        }
        for (errno, more) in &other.refusals {
            *self.refusals.entry(*errno).or_default() += more;
        }
        for (id, more) in &other.notices {
            *self.notices.entry(id.clone()).or_default() += more;
        }
        add(&mut self.faults, &other.faults);
        self.sizes.add(&other.sizes);
        self.commands += other.commands;
        self.writes += other.writes;
        self.refused_writes += other.refused_writes;
        self.aborted_writes += other.aborted_writes;
        self.events += other.events;
        self.simulated_us += other.simulated_us;
        self.slowest = self.slowest.max(other.slowest);
        self.seeds += other.seeds;
    }
}
