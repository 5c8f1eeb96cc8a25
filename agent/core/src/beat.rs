//! The signed datagram that the controllers send each other on every link, decoded.
//!
//! Its bytes are in `heartbeat.rs`; its authentication tag is added and checked by the shell.

use crate::ids::{DiskId, Epoch, Node, Session};
use crate::key::Phase;
use crate::settings::Settings;
use failover_api::Status;
use serde::{Deserialize, Serialize};

/// One beat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Beat {
    /// Sender.
    pub node: Node,
    /// Run of the sender's daemon.
    pub session: Session,
    /// Number of the beat in that run, growing by one; the same on every link.
    pub seq: u64,
    /// Newest beat that the sender heard from us: our session and number. Proves that this beat is no replay, and
    /// is the owner's proof for its VIP lease.
    pub echo: Option<Echo>,
    /// Public state.
    pub status: Status,
    /// What it does, finer.
    pub role: Role,
    /// Boot counter in its keys.
    pub incarnation: u16,
    /// Epoch in force, or of its running takeover; as an owner the one in its keys.
    pub epoch: Epoch,
    /// It can take over now.
    pub eligible: bool,
    /// Why not: bits of `Blocker`.
    pub blockers: u16,
    /// Virtual addresses on, services up, pools healthy.
    pub serving: bool,
    /// Its clients' network has a carrier.
    pub lan: bool,
    /// Its settings.
    pub settings: Settings,
    /// Its arbiter list.
    pub arbiters: ArbiterList,
    /// Version of our arbiter list that it has in its journal.
    pub arbiters_acked: u32,
    /// A question to the peer, repeated until answered.
    pub ask: Option<Ask>,
    /// The answer to the peer's question of this number: `Ok`, or blockers.
    pub answer: Option<Answer>,
    /// Version of its software.
    pub version: String,
}

/// The beat that was heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct Echo {
    /// Its session.
    pub session: Session,
    /// Its number.
    pub seq: u64,
}

/// What the sender does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Starting, no decision yet.
    Starting,
    /// No owner known.
    Electing,
    /// The peer owns, or should.
    Standby,
    /// Taking the disks; not won yet.
    Fencing,
    /// Holds a majority; importing or starting services.
    Importing,
    /// Owner.
    Owner,
    /// Owner whose pools failed, or that reaches no majority: take me.
    Failing,
    /// Old owner in a planned handover, before its keys say handing-over.
    Resigning,
    /// Has exported; its keys say handing-over.
    HandingOver,
    /// Owner whose daemon will restart within the announced time.
    Restarting,
    /// Leaving for good: not an owner, will be silent.
    Stopping,
    /// Halted or held back; registered nowhere.
    Halted,
}

impl Role {
    /// Owns the disks or is about to: a standby leaves it alone while it lives.
    pub const fn owns(self) -> bool {
        match self {
            Role::Importing
            | Role::Owner
            | Role::Failing
            | Role::Resigning
            | Role::HandingOver
            | Role::Restarting => true,
            Role::Starting
            | Role::Electing
            | Role::Standby
            | Role::Fencing
            | Role::Stopping
            | Role::Halted => false,
        }
    }

    /// The phase that its keys should show, for roles that own.
    pub const fn phase(self) -> Option<Phase> {
        match self {
            Role::Owner | Role::Failing | Role::Resigning | Role::Importing => Some(Phase::Owner),
            Role::HandingOver => Some(Phase::HandingOver),
            Role::Restarting => Some(Phase::Restarting),
            Role::Fencing => Some(Phase::Candidate),
            Role::Starting | Role::Electing | Role::Standby | Role::Stopping | Role::Halted => None,
        }
    }
}

/// The arbiter set: numbered lists, never derived from what is visible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct ArbiterList {
    /// Grows by one with each change.
    pub version: u32,
    /// Members, in the order in which they are taken; at most 5.
    pub disks: Vec<DiskId>,
    /// The list before, while the peer hasn't acknowledged this one: a win needs a majority of both. At most 5.
    pub previous: Vec<DiskId>,
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Ask {
    /// Its number, drawn by the sender.
    pub number: u32,
    /// What.
    pub what: AskWhat,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum AskWhat {
    /// The owner asks whether the peer can take over in a handover.
    CanYouTake,
    /// The standby asks the owner to hand over.
    HandOver,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Answer {
    /// Number of the question.
    pub number: u32,
    /// Yes.
    pub yes: bool,
}

/// Why a controller can't take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Blocker {
    /// Still starting.
    Starting = 1,
    /// Fewer than a majority of the arbiters, and fewer than half of all disks, can be read.
    Disks = 2,
    /// Its clients' network has no carrier.
    Lan = 4,
    /// Its last import or service start failed.
    ImportFailed = 8,
    /// Too many self-resets: held until an operator looks.
    ResetHold = 16,
    /// The next epoch isn't durable yet.
    Journal = 32,
    /// It is leaving.
    Stopping = 64,
    /// A handover or takeover runs there.
    Busy = 128,
    /// What was found there at its start can't be cleaned up.
    NotClean = 256,
}

impl Blocker {
    /// All of them.
    pub const ALL: [Blocker; 9] = [
        Blocker::Starting,
        Blocker::Disks,
        Blocker::Lan,
        Blocker::ImportFailed,
        Blocker::ResetHold,
        Blocker::Journal,
        Blocker::Stopping,
        Blocker::Busy,
        Blocker::NotClean,
    ];

    /// The sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Blocker::Starting => "it is still starting",
            Blocker::Disks => {
                "it can read neither a majority of the arbiter disks nor half of all disks"
            }
            Blocker::Lan => "its clients' network has no carrier",
            Blocker::ImportFailed => "its last import of the pools or start of the services failed",
            Blocker::ResetHold => {
                "it reset itself twice within reset_hold_min and waits for an operator"
            }
            Blocker::Journal => "its journal has not made the next epoch durable",
            Blocker::Stopping => "its daemon is stopping",
            Blocker::Busy => "a takeover or handover is running there",
            Blocker::NotClean => {
                "pools, services or addresses were found there at its start and can't be cleaned up"
            }
        }
    }

    /// The sentences of a set of bits.
    pub fn sentences(bits: u16) -> Vec<String> {
        let set = Blocker::ALL
            .into_iter()
            .filter(|blocker| bits & *blocker as u16 != 0);
        set.map(|blocker| blocker.sentence().to_owned()).collect()
    }
}
