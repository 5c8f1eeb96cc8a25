//! What seeds have reached: states, edges, events in states, halts, refusals, notices, faults.

use crate::faults::Fault;
use failover_core::action::HaltReason;
use failover_core::event::Event;
use failover_core::states::{EDGES, State};
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

/// Number of a state.
pub fn state_index(state: State) -> usize {
    State::ALL
        .iter()
        .position(|each| *each == state)
        .unwrap_or_default()
}

/// Counters, summed over seeds.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Events by state by kind.
    pub matrix: Vec<[u64; EVENTS.len()]>,
    /// Edges, in the order of `EDGES`.
    pub edges: Vec<u64>,
    /// Halts by reason.
    pub halts: BTreeMap<&'static str, u64>,
    /// Refusals by errno.
    pub refusals: BTreeMap<i32, u64>,
    /// Notices by name.
    pub notices: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: [u64; Fault::KINDS.len()],
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
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            matrix: vec![[0; EVENTS.len()]; State::ALL.len()],
            edges: vec![0; EDGES.len()],
            halts: BTreeMap::new(),
            refusals: BTreeMap::new(),
            notices: BTreeMap::new(),
            faults: [0; Fault::KINDS.len()],
            commands: 0,
            writes: 0,
            refused_writes: 0,
            aborted_writes: 0,
            events: 0,
            simulated_us: 0,
            slowest: (0, 0),
            seeds: 0,
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
        *self.halts.entry(word).or_default() += 1;
    }

    /// Adds another's counters.
    pub fn add(&mut self, other: &Coverage) {
        for (row, theirs) in self.matrix.iter_mut().zip(&other.matrix) {
            for (count, more) in row.iter_mut().zip(theirs) {
                *count += more;
            }
        }
        for (count, more) in self.edges.iter_mut().zip(&other.edges) {
            *count += more;
        }
        for (reason, more) in &other.halts {
            *self.halts.entry(reason).or_default() += more;
        }
        for (errno, more) in &other.refusals {
            *self.refusals.entry(*errno).or_default() += more;
        }
        for (id, more) in &other.notices {
            *self.notices.entry(id.clone()).or_default() += more;
        }
        for (count, more) in self.faults.iter_mut().zip(&other.faults) {
            *count += more;
        }
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
