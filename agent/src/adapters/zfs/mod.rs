//! Pools of ZFS.
//!
//! ```text
//!   standby  ── every half minute ──▶ partition tables, labels ──▶ what would stand against an import, said early
//!   import   ── kernel: is it here? ─▶ labels of the won disks ─▶ what else this machine sees of it is withheld
//!                 ─▶ zpool import -N ─▶ keys ─▶ mounts ─▶ shares ─▶ volumes
//!   export   ── kernel: is it here? ─▶ zpool export ─▶ kernel: it is gone
//! ```
//!
//! The labels are the plan: device list and configuration as the owner wrote them last, so that nothing that was handed
//! over can be old. What counts as imported is the kernel's word (`kernel`), never a program's.

mod datasets;
mod devices;
mod export;
mod gpt;
mod health;
mod import;
mod kernel;
mod keys;
mod label;
mod ready;
mod standby;
mod status;
#[cfg(test)]
mod tests;
mod tree;
mod withheld;

pub use devices::Places;
pub use standby::Finding;

use super::program::{Ran, RunError, Runner};
use crate::config::KeyFile;
use devices::Devices;
use failover_core::adapters::{Change, Failure, Pools};
use failover_core::ids::{DiskId, PoolId};
use kernel::{Kernel, Seen};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZfsPool {
    /// Its name in ZFS.
    pub name: String,
    /// Its GUID.
    pub guid: u64,
    /// Identities of the shared disks that it lies on.
    pub disks: Vec<String>,
    /// Folder with the key of the encryption root `a/b` in `a/b.key`.
    pub key_store: PathBuf,
    /// Keys in other files.
    pub keys: Vec<KeyFile>,
    /// Encryption roots without whose keys it serves all the same.
    pub may_stay_locked: Vec<String>,
}

/// The programs of ZFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// `zpool`.
    pub zpool: PathBuf,
    /// `zfs`.
    pub zfs: PathBuf,
}

impl Default for Tools {
    /// Where distributions have them.
    fn default() -> Tools {
        let find = |name: &str| {
            let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
            let mut places = folders
                .iter()
                .map(|folder| PathBuf::from(folder).join(name));
            let found = places.find(|place| place.exists());
            found.unwrap_or_else(|| PathBuf::from("/usr/sbin").join(name))
        };
        Tools {
            zpool: find("zpool"),
            zfs: find("zfs"),
        }
    }
}

/// Deadlines of whole calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of an import, up to the last volume.
    pub import: Duration,
    /// Of an export.
    pub export: Duration,
}

/// The pools of ZFS of this controller; the place in the list is the `PoolId`.
#[derive(Debug)]
pub struct ZfsPools {
    pools: Vec<Member>,
    tools: Tools,
    kernel: Kernel,
    devices: Devices,
    places: Places,
    limits: Limits,
}

#[derive(Debug)]
struct Member {
    pool: ZfsPool,
    runner: Runner,
    /// For what is only asked: a program of that kind that hangs must keep no export from its own.
    health: Runner,
    /// An import of it was begun by this process, or by an earlier one that owned in this boot, and none of its exports
    /// ended since. What somebody else imported may show what the disks held long ago.
    is_ours: AtomicBool,
    /// GUIDs of its top-level vdevs, and their number with the removed ones, when the labels of all its disks were read
    /// together last.
    tops: Mutex<Option<(BTreeSet<u64>, u64)>>,
}

impl ZfsPools {
    /// Touches nothing. The list is checked already.
    pub fn new(pools: Vec<ZfsPool>, tools: Tools, places: Places, limits: Limits) -> ZfsPools {
        let member = |pool| Member {
            pool,
            runner: Runner::default(),
            health: Runner::default(),
            is_ours: AtomicBool::new(false),
            tops: Mutex::default(),
        };
        ZfsPools {
            pools: pools.into_iter().map(member).collect(),
            tools,
            kernel: Kernel::new(&places.roots),
            devices: Devices::new(places.clone()),
            places,
            limits,
        }
    }

    /// With `owned`, pools that are imported already count as its own: an earlier process owned in this boot.
    #[must_use]
    pub fn adopting(self, owned: bool) -> ZfsPools {
        for one in &self.pools {
            one.is_ours.store(owned, Ordering::Relaxed);
        }
        self
    }

    fn member(&self, id: PoolId) -> Result<&Member, Failure> {
        let found = self.pools.get(usize::from(id.0));
        found.ok_or_else(|| Failure(format!("there is no ZFS pool number {}", id.0)))
    }

    fn find(&self, one: &Member) -> Result<Seen, Failure> {
        let found = self.kernel.find(&one.pool.name, one.pool.guid);
        found.map_err(|why| one.say(&why))
    }

    fn zpool(&self, one: &Member, arguments: &[&str], until: Instant) -> Result<Ran, RunError> {
        one.runner.run(&self.tools.zpool, arguments, until)
    }

    fn zfs(&self, one: &Member, arguments: &[&str], until: Instant) -> Result<Ran, RunError> {
        one.runner.run(&self.tools.zfs, arguments, until)
    }

    /// OpenZFS has JSON, and mounts a whole pool with one call, from 2.3 on.
    fn is_new(&self) -> bool {
        self.kernel
            .version()
            .is_some_and(|version| version >= (2, 3, 0))
    }
}

impl Member {
    fn lock_tops(&self) -> MutexGuard<'_, Option<(BTreeSet<u64>, u64)>> {
        self.tops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, what: &str) -> Failure {
        Failure(format!("pool {}: {what}", self.pool.name))
    }
}

impl Pools for ZfsPools {
    fn prescan(&self, pool: PoolId) -> Result<(), Failure> {
        self.look_at_tables(self.member(pool)?)
    }

    /// Nothing: the import itself drops the buffers of the disks that were won, and reads past the cache. Here all
    /// disks would be waited for, also one that hangs and wasn't won.
    fn discard(&self, pool: PoolId) -> Result<(), Failure> {
        self.member(pool).map(|_| ())
    }

    fn import(&self, pool: PoolId, won: &[DiskId]) -> Result<Change, Failure> {
        let one = self.member(pool)?;
        let until = Instant::now() + inner(self.limits.import);
        let mut parts = Parts::begin();
        let brought = self.bring_in(one, won, until, &mut parts)?;
        let readied = self.make_ready(one, brought, until, &mut parts)?;
        let change = match (brought, readied) {
            (Change::AlreadySo, Change::AlreadySo) => Change::AlreadySo,
            (Change::Made, _) | (_, Change::Made) => Change::Made,
        };
        if change == Change::Made {
            tracing::info!("pool {}: imported in {parts}", one.pool.name);
        }
        Ok(change)
    }

    fn export(&self, pool: PoolId) -> Result<Change, Failure> {
        self.take_out(self.member(pool)?)
    }

    fn imported(&self, pool: PoolId) -> Result<bool, Failure> {
        let one = self.member(pool)?;
        Ok(match self.find(one)? {
            Seen::Absent => false,
            // Another pool of that name; this one is under none.
            Seen::Here { is_it, .. } => is_it != Some(false),
        })
    }
}

/// The time that work may really take: it must say why it failed before the core stops waiting for it.
fn inner(limit: Duration) -> Duration {
    limit - limit / 20
}

/// How long each part of something took.
#[derive(Debug)]
struct Parts {
    began: Instant,
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Parts {
    fn begin() -> Parts {
        let now = Instant::now();
        Parts {
            began: now,
            last: now,
            parts: Vec::new(),
        }
    }

    /// The part that ends here.
    fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        self.parts.push((name, now - self.last));
        self.last = now;
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", (self.last - self.began).as_millis())?;
        for (index, (name, took)) in self.parts.iter().enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            write!(f, "{before}{name} {}", took.as_millis())?;
        }
        Ok(())
    }
}
