//! What the core's work needs of the world. Every call states a goal, is repeatable, has a deadline of its own
//! and says whether it changed anything. None decides.

use crate::action::Entry;
use crate::ids::{DiskId, PathId, PoolId};
use crate::pr::{PrCommand, PrError, PrReply};
use crate::time::Instant;
use std::time::Duration;

/// Whether a call changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The goal was reached by this call.
    Made,
    /// The goal was there already.
    AlreadySo,
}

/// Why a call failed: one sentence with the place and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// CLOCK_BOOTTIME.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
}

/// Reservations on the shared disks: one command on one path at a time.
pub trait Fence: Send + Sync {
    /// Number of paths from this controller to `disk`, at least 1.
    fn paths(&self, disk: DiskId) -> u8;

    /// A path for people.
    fn name(&self, disk: DiskId, path: PathId) -> String {
        format!("disk {disk}, path {}", path.0)
    }

    /// Carries out one command. `deadline` is how long the caller cares: an adapter that can end it then does; one
    /// that can't blocks longer, and the daemon's engine stands between.
    fn execute(
        &self,
        disk: DiskId,
        path: PathId,
        command: PrCommand,
        deadline: Duration,
    ) -> Result<PrReply, PrError>;
}

/// Pools on the shared disks.
pub trait Pools: Send + Sync {
    /// Reads ahead what an import will need; a hint that the import must not trust.
    fn prescan(&self, pool: PoolId) -> Result<(), Failure>;

    /// Drops every block of `pool` that was read or buffered before now: the old owner may have written since.
    fn discard(&self, pool: PoolId) -> Result<(), Failure>;

    /// Imports `pool`, given that only `won` disks are ours: refused if it needs another.
    fn import(&self, pool: PoolId, won: &[DiskId]) -> Result<Change, Failure>;

    /// Exports `pool`: when it returns `Ok`, nothing of it is dirty and nothing here can write to it.
    fn export(&self, pool: PoolId) -> Result<Change, Failure>;

    /// Whether `pool` is imported here; an error counts as "maybe".
    fn imported(&self, pool: PoolId) -> Result<bool, Failure>;
}

/// Services that run only on the MASTER. Each belongs to one pool or to none.
pub trait Services: Send + Sync {
    /// Starts those that belong to no pool, then those of `pools`, and waits. Those of other pools are left alone.
    fn start(&self, pools: &[PoolId]) -> Result<Change, Failure>;
    /// Stops them all, whatever they belong to, and waits.
    fn stop(&self) -> Result<Change, Failure>;
}

/// The virtual addresses. Each belongs to one pool or to none.
pub trait Vips: Send + Sync {
    /// The goal: those that belong to no pool and those of `pools` are on, those of other pools are off. They stay
    /// silent while no lease lives.
    fn add(&self, pools: &[PoolId]) -> Result<Change, Failure>;
    /// Removes all of them, whatever they belong to.
    fn remove(&self) -> Result<Change, Failure>;
    /// Tells the neighbours (gratuitous ARP, unsolicited NA) about those that `add(pools)` turns on, and no others;
    /// called again several times.
    fn announce(&self, pools: &[PoolId]) -> Result<(), Failure>;
}

/// The VIP lease, enforced by the kernel. Called on the control thread: must not block.
pub trait Lease: Send {
    /// Lets traffic of the virtual addresses pass until `until`, whether a lease lives or not.
    fn grant(&mut self, now: Instant, until: Instant) -> Result<(), Failure>;
    /// As `grant`, but fails without effect if the old lease has lapsed in the meantime.
    fn renew(&mut self, now: Instant, until: Instant) -> Result<(), Failure>;
    /// Ends the lease at once.
    fn end(&mut self) -> Result<(), Failure>;
}

/// The hardware watchdog. Called on the control thread: must not block.
pub trait Watchdog: Send {
    /// Says that we are healthy.
    fn pet(&mut self);
}

/// The durable journal.
pub trait Journal: Send + Sync {
    /// Appends `entry`; durable when it returns `Ok`.
    fn record(&self, entry: &Entry) -> Result<(), Failure>;
    /// Writes or removes the owner record in the runtime folder, which doesn't survive a boot; not flushed.
    fn remember(&self, owner: Option<&crate::action::OwnerRecord>) -> Result<(), Failure>;
}

/// What `perform` may use for work that isn't disk work.
pub struct Adapters<'a> {
    /// Pools.
    pub pools: &'a dyn Pools,
    /// Services.
    pub services: &'a dyn Services,
    /// Virtual addresses.
    pub vips: &'a dyn Vips,
    /// Journal.
    pub journal: &'a dyn Journal,
}
