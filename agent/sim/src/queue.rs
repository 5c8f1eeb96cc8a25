//! The world's agenda: what happens next, in the order of time and, within one microsecond, of asking.

use failover_core::action::Outcome;
use failover_core::beat::Beat;
use failover_core::ids::{Node, OpId};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

/// One thing that will happen. `life` and `boot` name the run of the daemon and of the machine that it is meant for;
/// it is void for later ones.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The daemon's timeout.
    Wake {
        /// Whose.
        node: Node,
        /// Run of the daemon.
        life: u32,
    },
    /// A datagram arrives at a machine.
    Datagram {
        /// Where.
        to: Node,
        /// On which link.
        link: u8,
        /// What.
        beat: Rc<Beat>,
    },
    /// The current command of a disk task arrives at its disk.
    Execute(u32),
    /// The answer to it arrives at the machine.
    Answer(u32),
    /// The turn of disk work comes.
    Turn(u32),
    /// A command of disk work is overdue, if it is still on its way.
    Overdue {
        /// Where its task is.
        slot: u32,
        /// Number of the command.
        sequence: u64,
    },
    /// Work on a lane of a machine ends.
    LaneEnd {
        /// Whose.
        node: Node,
        /// Run of the machine.
        boot: u32,
        /// Which.
        lane: u8,
    },
    /// The answer to work reaches the daemon.
    Done {
        /// Whose.
        node: Node,
        /// Run of the daemon.
        life: u32,
        /// Which work.
        op: OpId,
        /// How long it waited for its turn.
        waited: Duration,
        /// How it ended.
        outcome: Box<Outcome>,
    },
    /// The daemon takes the answers that have come since it looked last.
    Gathered {
        /// Whose.
        node: Node,
        /// Run of the daemon.
        life: u32,
    },
    /// The kernel tells the daemon that the lease could not be renewed.
    LeaseLost {
        /// Whose.
        node: Node,
        /// Run of the daemon.
        life: u32,
    },
    /// Every imported pool writes.
    Write,
    /// A write inside a disk lands.
    Land {
        /// Which disk.
        disk: u16,
        /// Which write.
        write: u32,
    },
    /// A fault begins.
    Begin(u16),
    /// A fault ends.
    End(u16),
    /// A paused daemon runs again.
    Resume {
        /// Whose.
        node: Node,
        /// Run of the daemon.
        life: u32,
    },
    /// A daemon starts.
    Start {
        /// Whose.
        node: Node,
        /// Run of the machine.
        boot: u32,
    },
    /// A machine gets power.
    Boot {
        /// Which.
        node: Node,
        /// Run of the machine that ended.
        boot: u32,
    },
    /// Faults stop.
    Heal,
    /// The rules that hold at any time are looked at.
    Check,
}

struct Entry {
    at: u64,
    seq: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// The agenda.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Entry>,
    seq: u64,
}

impl Queue {
    /// Adds something that happens at `at`.
    pub fn push(&mut self, at: u64, what: Happening) {
        self.seq += 1;
        self.heap.push(Entry {
            at,
            seq: self.seq,
            what,
        });
    }

    /// Takes the next thing, if it happens no later than `until`.
    pub fn pop_until(&mut self, until: u64) -> Option<(u64, Happening)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }
}
