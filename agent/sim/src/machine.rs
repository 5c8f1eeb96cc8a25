//! One controller's machine: what its kernel holds and outlives the daemon, what its journal holds and outlives the
//! power, and the daemon that runs on it.

use crate::disk_set::DiskSet;
use crate::plan::{Plan, disk_index};
use failover_core::action::{Entry, Outcome, OwnerRecord, Restored, Work};
use failover_core::adapters::{Adapters, Change, Failure, Journal, Pools, Services, Vips};
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::{DiskId, Node, OpId, PoolId};
use failover_core::perform::perform;
use failover_core::time::Instant;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Lane of the journal.
pub const LANE_JOURNAL: usize = 0;
/// Lane of the services.
pub const LANE_SERVICES: usize = 1;
/// Lane of the addresses.
pub const LANE_VIPS: usize = 2;
/// Lane of reading ahead.
pub const LANE_PRESCAN: usize = 3;
/// Lane of the first pool; one for each.
pub const LANE_POOLS: usize = 4;

/// Which services run, or which addresses are on: those of no pool, and those of each pool. Every pool has both.
#[derive(Clone, Debug, Default)]
pub struct Up {
    /// Those that belong to no pool.
    pub common: bool,
    /// By pool.
    pub of_pools: Vec<bool>,
}

impl Up {
    /// Nothing is up.
    pub fn none(pools: usize) -> Up {
        Up {
            common: false,
            of_pools: vec![false; pools],
        }
    }

    /// Anything is up.
    pub fn any(&self) -> bool {
        self.common || self.of_pools.contains(&true)
    }

    /// Everything is up.
    pub fn all(&self) -> bool {
        self.common && !self.of_pools.contains(&false)
    }

    /// Those of no pool and of these pools go up.
    fn add(&mut self, pools: &[PoolId]) -> Change {
        let before = self.clone();
        self.common = true;
        for pool in pools {
            self.of_pools[usize::from(pool.0)] = true;
        }
        before.change_to(self)
    }

    /// Those of no pool and of these pools are up.
    pub(crate) fn has(&self, pools: &[PoolId]) -> bool {
        self.common && pools.iter().all(|pool| self.of_pools[usize::from(pool.0)])
    }

    fn change_to(&self, after: &Up) -> Change {
        match self.common == after.common && self.of_pools == after.of_pools {
            true => Change::AlreadySo,
            false => Change::Made,
        }
    }

    /// All go down.
    fn remove(&mut self) -> Change {
        let before = std::mem::replace(self, Up::none(self.of_pools.len()));
        before.change_to(self)
    }
}

/// What the kernel and the disks of a machine hold.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// By pool: the disks that it was imported with.
    pub imported: Vec<Option<DiskSet>>,
    /// By pool: an import or export runs, and the disks that an import uses.
    pub importing: Vec<Option<DiskSet>>,
    /// By pool: an export runs; nothing new is written.
    pub exporting: Vec<bool>,
    /// By pool: how many writes had landed when it was read ahead, unless that was discarded.
    pub read_ahead: Vec<Option<u64>>,
    /// An import used blocks that were read ahead and written over since.
    pub stale_import: bool,
    /// Services that run.
    pub services: Up,
    /// Addresses that are on.
    pub vips: Up,
    /// The neighbours were told of an address that was off.
    pub announced_off: bool,
    /// End of the VIP lease, true time.
    pub lease_until: Option<u64>,
    /// The journal, as a restart would read it.
    pub durable: Restored,
    /// The owner record of the runtime folder.
    pub owner: Option<OwnerRecord>,
    /// It is there and can't be read.
    pub owner_damaged: bool,
}

impl Kernel {
    /// Whether anything of a pool can be written by this machine.
    pub fn writes(&self, pool: usize) -> Option<DiskSet> {
        if self.exporting[pool] {
            return None;
        }
        self.imported[pool].or(self.importing[pool])
    }

    /// Whether the virtual addresses answer at `now`.
    pub fn answers(&self, now: u64) -> bool {
        self.vips.any() && self.lease_until.is_some_and(|until| now < until)
    }

    /// Whether any pool is imported.
    pub fn has_pool(&self) -> bool {
        self.imported.iter().any(Option::is_some)
    }

    /// Everything that a power loss takes.
    pub fn lose_power(&mut self) {
        let pools = self.imported.len();
        self.imported = vec![None; pools];
        self.importing = vec![None; pools];
        self.exporting = vec![false; pools];
        self.read_ahead = vec![None; pools];
        self.services = Up::none(pools);
        self.vips = Up::none(pools);
        self.lease_until = None;
        self.owner = None;
        self.owner_damaged = false;
    }
}

/// Work on a lane.
#[derive(Clone, Debug)]
pub struct LaneWork {
    /// Run of the daemon that asked.
    pub life: u32,
    /// Its number.
    pub op: OpId,
    /// What.
    pub work: Work,
    /// How it will go.
    pub fate: Fate,
}

/// How a piece of work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it should.
    Works,
    /// Fails without effect.
    Fails,
    /// Has its effect and is reported as failed.
    WorksButFails,
    /// Has its effect on some of several addresses, and fails.
    Partly,
    /// The daemon died before it began in earnest: no effect.
    Void,
}

/// Work of one kind, one at a time, in the order asked.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// What runs.
    pub running: Option<LaneWork>,
    /// What waits.
    pub waiting: VecDeque<LaneWork>,
}

/// The answer to work on a disk.
pub struct DiskAnswer {
    /// Which work.
    pub op: OpId,
    /// How long it waited for its turn.
    pub waited: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// A running daemon.
pub struct Daemon {
    /// Number of the run.
    pub life: u32,
    /// The product.
    pub controller: Controller,
    /// Its random number.
    pub session: u64,
    /// Stopped by SIGSTOP.
    pub paused: bool,
    /// What came in meanwhile.
    pub inbox: Vec<Event>,
    /// Disk tasks whose answer came in meanwhile.
    pub held_tasks: Vec<u32>,
    /// Answers of disks that wait to be taken together.
    pub gathered: Vec<DiskAnswer>,
    /// The timeout that is on the agenda.
    pub wake_at: Option<u64>,
    /// When it started, or ran again after a pause.
    pub running_since: u64,
    /// Since when its state is what it is.
    pub state_since: u64,
    /// Timeouts taken at this very moment: a loop that never rests is found by it.
    pub wakes_now: (u64, u32),
}

/// One machine.
pub struct Machine {
    /// Which.
    pub node: Node,
    /// Has power.
    pub powered: bool,
    /// Number of the run.
    pub boot: u32,
    /// Its clock's zero, true time; negative times are before the world began.
    pub clock_zero: i64,
    /// Kernel, journal, runtime folder.
    pub kernel: Kernel,
    /// Lanes.
    pub lanes: Vec<Lane>,
    /// The daemon, if it runs.
    pub daemon: Option<Daemon>,
    /// When the watchdog was petted; armed by the first.
    pub petted: Option<u64>,
    /// The daemon was told to stop: whether it comes back at once.
    pub stopping: Option<bool>,
    /// The clients' network has a carrier.
    pub lan_up: bool,
    /// So have the heartbeat links.
    pub links_up: Vec<bool>,
}

impl Machine {
    /// The simulator's time of a moment on this machine's clock, microseconds.
    pub fn true_time(&self, at: Instant) -> u64 {
        (at.micros() as i64 + self.clock_zero).max(0) as u64
    }

    /// A machine with power and nothing else.
    pub fn new(node: Node, plan: &Plan, clock_zero: i64) -> Machine {
        let pools = plan.pools.len();
        Machine {
            node,
            powered: true,
            boot: 0,
            clock_zero,
            kernel: Kernel {
                imported: vec![None; pools],
                importing: vec![None; pools],
                exporting: vec![false; pools],
                read_ahead: vec![None; pools],
                services: Up::none(pools),
                vips: Up::none(pools),
                ..Kernel::default()
            },
            lanes: vec![Lane::default(); LANE_POOLS + pools],
            daemon: None,
            petted: None,
            stopping: None,
            lan_up: true,
            links_up: vec![true; usize::from(plan.links)],
        }
    }

    /// The lane of a piece of work.
    pub fn lane_of(work: &Work) -> usize {
        match work {
            Work::Disk { .. } | Work::Record(_) | Work::Remember(_) => LANE_JOURNAL,
            Work::Prescan(_) => LANE_PRESCAN,
            Work::Import { pool, .. } | Work::Export(pool) => LANE_POOLS + usize::from(pool.0),
            Work::StartServices(_) | Work::StopServices => LANE_SERVICES,
            Work::AddVips(_) | Work::RemoveVips | Work::AnnounceVips(_) => LANE_VIPS,
        }
    }
}

/// The machine's adapters while one piece of work is carried out.
struct Rig<'a> {
    kernel: Mutex<&'a mut Kernel>,
    plan: &'a Plan,
    /// By pool: writes that have landed.
    landed: &'a [u64],
    /// Disks that refuse this machine's writes.
    refusing: DiskSet,
    fate: Fate,
}

/// Carries out work that isn't disk work with the product's own `perform`.
pub fn carry_out(
    kernel: &mut Kernel,
    plan: &Plan,
    landed: &[u64],
    refusing: DiskSet,
    fate: Fate,
    work: &Work,
) -> Outcome {
    if fate == Fate::Void {
        return Outcome::Failed("the daemon died".to_owned());
    }
    let rig = Rig {
        kernel: Mutex::new(kernel),
        plan,
        landed,
        refusing,
        fate,
    };
    let adapters = Adapters {
        pools: &rig,
        services: &rig,
        vips: &rig,
        journal: &rig,
    };
    perform(work, &adapters)
}

impl<'a> Rig<'a> {
    fn kernel(&self) -> MutexGuard<'_, &'a mut Kernel> {
        self.kernel
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs an effect according to the fate drawn for it.
    fn attempt<T>(&self, effect: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let failure = || Failure("the pretend hardware failed".to_owned());
        match self.fate {
            Fate::Works => effect(),
            Fate::Fails | Fate::Partly | Fate::Void => Err(failure()),
            Fate::WorksButFails => effect().and_then(|_| Err(failure())),
        }
    }

    fn too_few(&self, pool: usize, usable: DiskSet) -> bool {
        !self.plan.pools[pool].can_do_with(usable)
    }
}

/// Disks by their indices.
pub fn disk_set(disks: &[DiskId]) -> DiskSet {
    disks.iter().map(|id| disk_index(*id)).collect()
}

impl Pools for Rig<'_> {
    fn prescan(&self, pool: PoolId) -> Result<(), Failure> {
        let index = usize::from(pool.0);
        self.kernel().read_ahead[index] = Some(self.landed[index]);
        Ok(())
    }

    fn discard(&self, pool: PoolId) -> Result<(), Failure> {
        self.kernel().read_ahead[usize::from(pool.0)] = None;
        Ok(())
    }

    fn import(&self, pool: PoolId, won: &[DiskId]) -> Result<Change, Failure> {
        self.attempt(|| {
            let index = usize::from(pool.0);
            if self.kernel().imported[index].is_some() {
                return Ok(Change::AlreadySo);
            }
            let won = disk_set(won);
            if self.too_few(index, won) {
                return Err(Failure(format!("pool {index} needs disks that aren't won")));
            }
            if self.too_few(index, won - self.refusing) {
                return Err(Failure(format!("pool {index}: writing its labels failed")));
            }
            let read_ahead = self.kernel().read_ahead[index];
            if read_ahead.is_some_and(|then| then != self.landed[index]) {
                self.kernel().stale_import = true;
            }
            self.kernel().imported[index] = Some(self.plan.pools[index].disks & won);
            Ok(Change::Made)
        })
    }

    fn export(&self, pool: PoolId) -> Result<Change, Failure> {
        self.attempt(|| {
            let index = usize::from(pool.0);
            if self.kernel().imported[index].is_none() {
                return Ok(Change::AlreadySo);
            }
            if self.too_few(index, self.plan.pools[index].disks - self.refusing) {
                return Err(Failure(format!("pool {index} is suspended")));
            }
            self.kernel().imported[index] = None;
            Ok(Change::Made)
        })
    }

    fn imported(&self, pool: PoolId) -> Result<bool, Failure> {
        Ok(self.kernel().imported[usize::from(pool.0)].is_some())
    }
}

impl Services for Rig<'_> {
    fn start(&self, pools: &[PoolId]) -> Result<Change, Failure> {
        self.attempt(|| Ok(self.kernel().services.add(pools)))
    }

    fn stop(&self) -> Result<Change, Failure> {
        self.attempt(|| Ok(self.kernel().services.remove()))
    }
}

impl Vips for Rig<'_> {
    fn add(&self, pools: &[PoolId]) -> Result<Change, Failure> {
        if self.fate == Fate::Partly {
            let vips = &mut self.kernel().vips;
            vips.remove();
            vips.add(&pools[..pools.len() / 2]);
        }
        self.attempt(|| {
            let mut kernel = self.kernel();
            let before = kernel.vips.clone();
            kernel.vips.remove();
            kernel.vips.add(pools);
            Ok(before.change_to(&kernel.vips))
        })
    }

    fn remove(&self) -> Result<Change, Failure> {
        if self.fate == Fate::Partly {
            let vips = &mut self.kernel().vips;
            let half = vips.of_pools.len() / 2;
            vips.common = false;
            vips.of_pools[..half].fill(false);
        }
        self.attempt(|| Ok(self.kernel().vips.remove()))
    }

    fn announce(&self, pools: &[PoolId]) -> Result<(), Failure> {
        self.attempt(|| {
            let mut kernel = self.kernel();
            let off = |pool: &PoolId| !kernel.vips.of_pools[usize::from(pool.0)];
            if !kernel.vips.common || pools.iter().any(off) {
                kernel.announced_off = true;
            }
            Ok(())
        })
    }
}

impl Journal for Rig<'_> {
    fn record(&self, entry: &Entry) -> Result<(), Failure> {
        self.attempt(|| {
            self.kernel().durable.apply(entry.clone());
            Ok(())
        })
    }

    fn remember(&self, owner: Option<&OwnerRecord>) -> Result<(), Failure> {
        self.attempt(|| {
            let mut kernel = self.kernel();
            kernel.owner = owner.cloned();
            kernel.owner_damaged = false;
            Ok(())
        })
    }
}
