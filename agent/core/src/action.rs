//! What the core asks for.

use crate::beat::{ArbiterList, Beat};
use crate::disk_work::{DiskOutcome, DiskWork};
use crate::ids::{DiskId, Epoch, Node, OpId, PoolId, RequestId};
use crate::key::Key;
use crate::memory::{Visitor, Walk as _, walk_number};
use crate::settings::Settings;
use crate::time::Instant;
use failover_api::{HistoryRecord, Notice};
use serde::{Deserialize, Serialize};

/// One thing to do. A list of them is carried out in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Slow work: answers with `Event::Done` of the same number, late or never. Work on one disk is never asked
    /// for while earlier work on that disk is unanswered.
    Run {
        /// Its number.
        op: OpId,
        /// The work.
        work: Work,
    },
    /// Send this beat on every link, now.
    Send(Beat),
    /// Change the VIP lease, now.
    Lease(Lease),
    /// Answer an operator.
    Reply {
        /// Whose request.
        request: RequestId,
        /// The answer.
        reply: Result<(), Refusal>,
    },
    /// Tell operators.
    Notify(Notice),
    /// Keep in the history.
    History(HistoryRecord),
    /// We are healthy.
    PetWatchdog,
    /// Self-fence: reset the machine at once, no clean-up.
    Halt(HaltReason),
    /// End the daemon; everything that had to be done was done.
    Exit,
}

/// The VIP lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lease {
    /// Passes until then, whether a lease lives or not.
    Grant {
        /// End of the lease.
        until: Instant,
    },
    /// Passes until then, provided the old lease still lives.
    Renew {
        /// End of the lease.
        until: Instant,
    },
    /// Ends at once.
    End,
}

/// Slow work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum Work {
    /// On one disk's lane.
    Disk {
        /// The disk.
        disk: DiskId,
        /// What to do.
        work: DiskWork,
    },
    /// Make an entry durable.
    Record(Entry),
    /// Write (`Some`) or remove (`None`) the owner record in the runtime folder.
    Remember(Option<OwnerRecord>),
    /// Read ahead for an import.
    Prescan(PoolId),
    /// Import a pool with the disks that were won.
    Import {
        /// The pool.
        pool: PoolId,
        /// Disks that are ours.
        won: Vec<DiskId>,
    },
    /// Export a pool.
    Export(PoolId),
    /// Start the services that belong to no pool, and those of these pools, which are imported.
    StartServices(Vec<PoolId>),
    /// Stop the services, of all pools and of none.
    StopServices,
    /// Bring up the virtual addresses that belong to no pool, and those of these pools, which are imported; those of
    /// other pools go off.
    AddVips(Vec<PoolId>),
    /// Remove the virtual addresses, of all pools and of none.
    RemoveVips,
    /// Tell the neighbours about the addresses that `AddVips` with the same pools brings up.
    AnnounceVips(Vec<PoolId>),
}

/// How work ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum Outcome {
    /// Disk work.
    Disk(DiskOutcome),
    /// The goal is reached.
    Ok,
    /// It is not; the sentence says why.
    Failed(String),
}

/// A record of the journal. Entries are applied in order; the last of a kind wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// Boot counter in use.
    Incarnation(u16),
    /// Greatest epoch that this controller may use; everything above is unused.
    Epoch(Epoch),
    /// Settings.
    Settings(Settings),
    /// Arbiter list.
    Arbiters(ArbiterList),
    /// This controller owned in that epoch, or ceased to (`None`).
    Owned(Option<Epoch>),
    /// Self-resets that were not yet worked off.
    Resets(u8),
}

/// What the journal says at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Restored {
    /// Boot counter last used.
    pub incarnation: u16,
    /// Greatest epoch reserved.
    pub epoch: Epoch,
    /// Settings, if any were ever stored.
    pub settings: Option<Settings>,
    /// Arbiter list, if any was ever stored.
    pub arbiters: Option<ArbiterList>,
    /// Last epoch in which this controller owned and wasn't seen to lose.
    pub owned: Option<Epoch>,
    /// Self-resets not worked off.
    pub resets: u8,
    /// Owner record of the runtime folder, if it is of this very boot.
    pub owner: Option<OwnerRecord>,
    /// An owner record is there and can't be read: a run in this boot may have imported pools.
    #[serde(default)]
    pub owner_unreadable: bool,
    /// Random number of this run.
    pub session: u64,
}

impl Restored {
    /// Applies one entry.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Incarnation(incarnation) => self.incarnation = incarnation,
            Entry::Epoch(epoch) => self.epoch = epoch,
            Entry::Settings(settings) => self.settings = Some(settings),
            Entry::Arbiters(list) => self.arbiters = Some(list),
            Entry::Owned(owned) => self.owned = owned,
            Entry::Resets(resets) => self.resets = resets,
        }
    }
}

/// Kept in the runtime folder while this controller owns: what a restarted daemon needs to adopt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct OwnerRecord {
    /// Boot counter in the keys.
    pub incarnation: u16,
    /// Epoch in the keys.
    pub epoch: Epoch,
    /// A key of ours as it was when the record was written; phase and beat may have moved on.
    pub key: Key,
    /// Whether pools, services and virtual addresses were all up.
    pub serving: bool,
    /// The disks that were won.
    pub won: Vec<DiskId>,
}

impl OwnerRecord {
    /// Walks over what it holds.
    pub fn walk(&mut self, visitor: &mut impl Visitor) {
        let OwnerRecord {
            incarnation: _,
            epoch,
            key,
            serving: _,
            won: _,
        } = self;
        visitor.epoch(epoch);
        visitor.key(key);
    }
}

impl Restored {
    /// Walks over what it holds.
    pub fn walk(&mut self, visitor: &mut impl Visitor) {
        let Restored {
            incarnation: _,
            epoch,
            settings,
            arbiters: _,
            owned,
            resets: _,
            owner,
            owner_unreadable: _,
            session: _,
        } = self;
        visitor.epoch(epoch);
        if let Some(settings) = settings {
            walk_number(visitor, &mut settings.version.epoch);
        }
        owned.iter_mut().for_each(|epoch| visitor.epoch(epoch));
        owner.iter_mut().for_each(|owner| owner.walk(visitor));
    }
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// errno of the API: 16 EBUSY, 22 EINVAL, 14 EFAULT, 110 ETIMEDOUT.
    pub errno: i32,
    /// Sentence with the reason and the remedy.
    pub reason: String,
}

/// Why a controller resets itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HaltReason {
    /// The peer holds a majority in a newer epoch.
    Fenced {
        /// By whom.
        by: Node,
        /// Its epoch.
        epoch: Epoch,
    },
    /// No majority of the disks could be reached for `disk_lost_ms`.
    DisksLost,
    /// A signed beat says that the peer imports or serves in a newer epoch.
    PeerServes {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Export, or taking the addresses off, failed in a step that can't be left.
    CannotStop(String),
    /// After a power-on of the disks no key of ours was left, and the lease had lapsed.
    ReservationsGone,
    /// A majority of the disks has keys of a host that isn't of this pair.
    Stranger,
    /// Found at start: pools or addresses are here, the disks are not ours.
    NotAdopted,
}

impl std::fmt::Display for HaltReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HaltReason::Fenced { by, epoch } => {
                write!(
                    f,
                    "controller {by} holds a majority of the arbiter disks in the newer epoch {epoch}"
                )
            }
            HaltReason::DisksLost => write!(
                f,
                "no majority of the shared disks could be reached for disk_lost_ms"
            ),
            HaltReason::PeerServes { epoch } => {
                write!(
                    f,
                    "the peer says, signed, that it imports or serves in the newer epoch {epoch}"
                )
            }
            HaltReason::CannotStop(what) => {
                write!(f, "a step that must not be left failed: {what}")
            }
            HaltReason::ReservationsGone => {
                write!(
                    f,
                    "the disks lost every key, and the lease of the virtual addresses had lapsed"
                )
            }
            HaltReason::Stranger => write!(
                f,
                "a host that isn't of this pair took a majority of the shared disks"
            ),
            HaltReason::NotAdopted => write!(
                f,
                "pools or addresses are still here, but the disks are no longer ours"
            ),
        }
    }
}
