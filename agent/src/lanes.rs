//! Lanes: plain threads for slow work, so that nothing stuck delays anything else.
//!
//! ```text
//!   Run { op, work } ──▶ the disk engine   all shared disks, see `crate::engine`
//!                    ──▶ journal · memory  (the owner record)
//!                    ──▶ pool tank · pre-scan tank   two per pool
//!                    ──▶ services · vips
//!                              └──▶ perform ──▶ Done { op, outcome } into the inbox
//! ```
//!
//! Threads start early, so that a takeover needs none. A thread stuck in the kernel stays stuck: the core notices by its
//! own deadline, and the other lanes go on.

use crate::daemon::DaemonAdapters;
use crate::engine::Engine;
use crate::inbox::{Inbox, Input};
use crate::ledger::Ledger;
use crate::queue::{Refused, Sender, queue};
use crate::realtime;
use failover_core::action::{Outcome, Work};
use failover_core::adapters::{Adapters, Journal, Pools, Services, Vips};
use failover_core::config::{CoreConfig, Timing};
use failover_core::disk_work::{DiskOutcome, DiskWork};
use failover_core::ids::{OpId, PoolId};
use failover_core::perform::perform;
use failover_core::time::ms;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Work that waits on one lane; the core keeps far less in flight.
const WAITING_MAX: usize = 64;
/// Stack of a lane's thread: locked memory, so no more than it needs.
const STACK_BYTES: usize = 512 * 1024;

/// Which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Journal,
    Memory,
    Prescan(PoolId),
    Pool(PoolId),
    Services,
    Vips,
}

impl Name {
    /// `None` for work on a disk, which is the engine's.
    fn of(work: &Work) -> Option<Name> {
        match work {
            Work::Disk { .. } => None,
            Work::Record(_) => Some(Name::Journal),
            Work::Remember(_) => Some(Name::Memory),
            Work::Prescan(pool) => Some(Name::Prescan(*pool)),
            Work::Import { pool, .. } | Work::Export(pool) => Some(Name::Pool(*pool)),
            Work::StartServices(_) | Work::StopServices => Some(Name::Services),
            Work::AddVips(_) | Work::RemoveVips | Work::AnnounceVips(_) => Some(Name::Vips),
        }
    }

    /// At most 15 characters, the kernel's limit.
    fn thread(self) -> String {
        match self {
            Name::Journal => "journal".to_owned(),
            Name::Memory => "memory".to_owned(),
            Name::Prescan(pool) => format!("prescan-{}", pool.0),
            Name::Pool(pool) => format!("pool-{}", pool.0),
            Name::Services => "services".to_owned(),
            Name::Vips => "vips".to_owned(),
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// What runs on the lane of the virtual addresses: told the imported pools if they are on.
pub(crate) type OnVipLane = Box<dyn FnOnce(Option<&[PoolId]>) + Send>;

/// What work is done with.
pub(crate) struct Tools {
    disks: Engine,
    pools: Arc<dyn Pools>,
    services: Arc<dyn Services>,
    vips: Arc<dyn Vips>,
    journal: Arc<dyn Journal>,
    ledger: Arc<Ledger>,
    /// The virtual addresses are on as far as their lane knows: those of these pools and of none.
    vips_on: Mutex<Option<Vec<PoolId>>>,
    /// Journal records that are not yet durable.
    unwritten: AtomicUsize,
}

impl Tools {
    pub(crate) fn new(
        adapters: &DaemonAdapters,
        journal: Arc<dyn Journal>,
        ledger: Arc<Ledger>,
    ) -> std::io::Result<Tools> {
        Ok(Tools {
            disks: Engine::new(adapters.fence.clone())?,
            pools: adapters.pools.clone(),
            services: adapters.services.clone(),
            vips: adapters.vips.clone(),
            journal,
            ledger,
            vips_on: Mutex::new(None),
            unwritten: AtomicUsize::new(0),
        })
    }

    fn perform(&self, work: &Work) -> Outcome {
        let adapters = Adapters {
            pools: &*self.pools,
            services: &*self.services,
            vips: &*self.vips,
            journal: &*self.journal,
        };
        let outcome = perform(work, &adapters);
        match work {
            Work::AddVips(pools) => *self.vips_on() = Some(pools.clone()),
            Work::RemoveVips if outcome == Outcome::Ok => {
                *self.vips_on() = None;
            }
            Work::Record(_) => {
                self.unwritten.fetch_sub(1, Ordering::AcqRel);
            }
            Work::RemoveVips
            | Work::AnnounceVips(_)
            | Work::Disk { .. }
            | Work::Remember(_)
            | Work::Prescan(_)
            | Work::Import { .. }
            | Work::Export(_)
            | Work::StartServices(_)
            | Work::StopServices => {}
        }
        outcome
    }

    fn vips_on(&self) -> MutexGuard<'_, Option<Vec<PoolId>>> {
        self.vips_on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All lanes.
pub(crate) struct Lanes {
    tools: Arc<Tools>,
    inbox: Inbox,
    lanes: BTreeMap<Name, Sender<Job>>,
    take: Duration,
    other: Duration,
}

impl Lanes {
    pub(crate) fn new(tools: Tools, inbox: Inbox, timing: &Timing) -> Lanes {
        let mut lanes = Lanes {
            tools: Arc::new(tools),
            inbox,
            lanes: BTreeMap::new(),
            take: Duration::ZERO,
            other: Duration::ZERO,
        };
        lanes.set_deadlines(timing);
        lanes
    }

    /// Starts the threads that a takeover will need; one that can't be started now is tried again with its work.
    pub(crate) fn warm(&mut self, config: &CoreConfig) {
        self.tools.disks.warm(config.disks.len());
        let mut names: Vec<Name> = Vec::new();
        for pool in &config.pools {
            names.extend([Name::Prescan(pool.id), Name::Pool(pool.id)]);
        }
        names.extend([Name::Journal, Name::Memory, Name::Services, Name::Vips]);
        for name in names {
            if let Entry::Vacant(place) = self.lanes.entry(name)
                && let Ok(lane) = lane(name)
            {
                place.insert(lane);
            }
        }
    }

    /// Deadlines of work that starts from now on.
    pub(crate) fn set_deadlines(&mut self, timing: &Timing) {
        self.take = ms(timing.abort_ms);
        self.other = ms(timing.disk_op_ms);
    }

    /// Starts work; its end goes into the inbox. Never waits. Answers at once where the lane can't take it.
    pub(crate) fn start(&mut self, op: OpId, work: Work) -> Result<(), (OpId, Outcome)> {
        let Some(name) = Name::of(&work) else {
            return self.start_on_disk(op, work);
        };
        if matches!(work, Work::Record(_)) {
            self.tools.unwritten.fetch_add(1, Ordering::AcqRel);
        }
        let (tools, inbox) = (self.tools.clone(), self.inbox.clone());
        let job: Job = Box::new(move || {
            let outcome = tools.perform(&work);
            inbox.put(Input::Done {
                op,
                waited: Duration::ZERO,
                outcome,
            });
        });
        let refused = |why| (op, Outcome::Failed(why));
        self.give(name, job).map_err(refused)
    }

    fn start_on_disk(&self, op: OpId, work: Work) -> Result<(), (OpId, Outcome)> {
        let Work::Disk { disk, work } = work else {
            let why = "work that has no lane".to_owned();
            return Err((op, Outcome::Failed(why)));
        };
        let deadline = match work {
            DiskWork::Take { .. } | DiskWork::Leave { .. } | DiskWork::Expel { .. } => self.take,
            DiskWork::Survey | DiskWork::Roll { .. } | DiskWork::Answer { .. } => self.other,
        };
        let (ledger, inbox, done) = (self.tools.ledger.clone(), self.inbox.clone(), work.clone());
        let asked = Instant::now();
        let ended = move |outcome: DiskOutcome, began: Instant| {
            ledger.note(disk, &done, &outcome, began);
            inbox.put_soon(Input::Done {
                op,
                // The core asked before `asked`, and the command was sent after `began`: what it proves is no older.
                waited: began.saturating_duration_since(asked),
                outcome: Outcome::Disk(outcome),
            });
        };
        let refused = |why| (op, Outcome::Disk(DiskOutcome::Unreachable(why)));
        let engine = &self.tools.disks;
        engine
            .start_work(disk, work, deadline, Box::new(ended))
            .map_err(refused)
    }

    /// Runs something on the lane of the virtual addresses, told whether they are on, and for which pools.
    pub(crate) fn on_vip_lane(&mut self, job: OnVipLane) {
        let tools = self.tools.clone();
        let job: Job = Box::new(move || {
            let on = tools.vips_on().clone();
            job(on.as_deref());
        });
        if let Err(why) = self.give(Name::Vips, job) {
            tracing::error!("the virtual addresses can't be changed: {why}");
        }
    }

    /// Waits until the journal is durable, at most `longest`: used before a reset, which would lose the count of
    /// resets that keeps this controller out of a reset loop.
    pub(crate) fn settle_journal(&self, longest: Duration) {
        let started = Instant::now();
        while self.tools.unwritten.load(Ordering::Acquire) > 0 && started.elapsed() < longest {
            std::thread::sleep(ms(1));
        }
    }

    fn give(&mut self, name: Name, job: Job) -> Result<(), String> {
        let lane = match self.lanes.get(&name) {
            Some(lane) => lane,
            None => {
                let lane = lane(name).map_err(|error| format!("no thread for it: {error}"))?;
                self.lanes.entry(name).or_insert(lane)
            }
        };
        lane.try_send(job).map_err(|error| match error {
            Refused::Full => format!("{WAITING_MAX} pieces of work wait on its lane"),
            Refused::Closed => "its lane ended".to_owned(),
        })
    }
}

fn lane(name: Name) -> std::io::Result<Sender<Job>> {
    let (sender, jobs) = queue::<Job>(WAITING_MAX);
    std::thread::Builder::new()
        .name(name.thread())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Short work on the path of every takeover; it must not wait behind a machine's ordinary load.
            if matches!(name, Name::Vips | Name::Memory) {
                realtime::prefer_lane();
            }
            while let Some(job) = jobs.recv() {
                job();
            }
        })?;
    Ok(sender)
}
