//! What readers of the control socket see of the control thread, without ever making it wait.
//!
//! ```text
//!   control thread: status changed ─▶ generation + 1 ─▶ Hub (subscribers)
//!   reader: cached report young and of this generation? ── yes ─▶ it
//!                                                       └─ no ──▶ ask through the inbox, wait a bounded moment
//! ```

use crate::adapters::identity::Identity;
use crate::config::{Config, LinkConfig, VipConfig};
use crate::daemon::PathsOf;
use crate::history::Past;
use crate::inbox::{Inbox, Input};
use crate::ledger::{Entry, Ledger};
use crate::pair_key::PairKey;
use crate::preflight::{self, read_kept};
use crate::record::Incidents;
use crate::rpc::{Backend, Hub};
use failover_api::{
    DiskReport, FenceCheck, FenceDisk, FenceKey, FenceStatus, HistoryRecord, Incident, StateReport,
    VipReport,
};
use failover_core::action::Refusal;
use failover_core::event::Command;
use failover_core::ids::DiskId;
use failover_core::key::Key;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A cached report serves readers for this long.
const YOUNG: Duration = Duration::from_millis(20);
/// The control thread answers within microseconds; readers get the last report where it doesn't.
const PATIENCE: Duration = Duration::from_millis(50);
/// EBUSY.
const BUSY: i32 = 16;

/// What is known of the reservations, beside the core's report.
pub(crate) struct Fencing {
    /// What the daemon's work showed.
    pub(crate) ledger: Arc<Ledger>,
    /// Paths of the disks, where they are real.
    pub(crate) paths: Option<PathsOf>,
}

/// A report and the generation of the state that it shows.
pub(crate) struct Stamped {
    report: StateReport,
    generation: u64,
}

/// The readers' side of the control thread.
pub(crate) struct Backoffice {
    config: Mutex<Arc<Config>>,
    cached: Mutex<Cached>,
    generation: AtomicU64,
    hub: Arc<Hub>,
    inbox: Inbox,
    kept: Kept,
    fencing: Fencing,
}

/// What is kept of the past.
pub(crate) struct Kept {
    /// Transitions.
    pub(crate) past: Past,
    /// What led to them; `None` where nothing can be recorded.
    pub(crate) incidents: Option<Incidents>,
}

impl Kept {
    fn incidents(&self) -> io::Result<&Incidents> {
        let why = "nothing is recorded here; the log of the daemon's start says why";
        self.incidents.as_ref().ok_or(io::Error::other(why))
    }
}

struct Cached {
    report: Arc<StateReport>,
    generation: u64,
    at: Instant,
}

impl Backoffice {
    pub(crate) fn new(
        config: Arc<Config>,
        first: StateReport,
        hub: Arc<Hub>,
        inbox: Inbox,
        kept: Kept,
        fencing: Fencing,
    ) -> Backoffice {
        let first = complete(first, &config);
        Backoffice {
            config: Mutex::new(config),
            cached: Mutex::new(Cached {
                report: Arc::new(first),
                generation: 0,
                at: Instant::now(),
            }),
            generation: AtomicU64::new(0),
            hub,
            inbox,
            kept,
            fencing,
        }
    }

    // ---- the control thread's side: no lock ----------------------------------------------------------------

    /// The state changed: cached reports are old.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Tells subscribers what changed.
    pub(crate) fn publish(&self, report: &StateReport) {
        self.hub.publish(report);
    }

    /// The answer to a reader.
    pub(crate) fn stamped(&self, report: StateReport) -> Stamped {
        Stamped {
            report,
            generation: self.generation.load(Ordering::Acquire),
        }
    }

    // ---- the readers' side ---------------------------------------------------------------------------------

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        locked(&self.config).clone()
    }

    pub(crate) fn set_config(&self, config: Arc<Config>) {
        *locked(&self.config) = config;
        self.changed();
    }

    fn ask(&self) -> Option<Stamped> {
        let (answer, answered) = sync_channel(1);
        if !self.inbox.try_put(Input::Report(answer)) {
            return None;
        }
        answered.recv_timeout(PATIENCE).ok()
    }
}

impl Backend for Backoffice {
    fn report(&self) -> Arc<StateReport> {
        {
            let cached = locked(&self.cached);
            let current = cached.generation == self.generation.load(Ordering::Acquire);
            if current && cached.at.elapsed() < YOUNG {
                return cached.report.clone();
            }
        }
        let answer = self.ask();
        let config = self.config();
        let mut cached = locked(&self.cached);
        if let Some(Stamped { report, generation }) = answer
            && generation >= cached.generation
        {
            *cached = Cached {
                report: Arc::new(complete(report, &config)),
                generation,
                at: Instant::now(),
            };
        }
        cached.report.clone()
    }

    fn provisioned(&self) -> bool {
        self.config().has_peer()
    }

    fn history(&self, limit: usize) -> Vec<HistoryRecord> {
        self.kept.past.newest(limit)
    }

    fn incidents(&self) -> io::Result<Vec<Incident>> {
        self.kept.incidents()?.list()
    }

    fn keep_incident(&self) -> io::Result<String> {
        self.kept.incidents()?.keep()
    }

    fn read_incident(
        &self,
        name: &str,
        offset: u64,
        most: usize,
    ) -> io::Result<Option<(Vec<u8>, u64)>> {
        self.kept.incidents()?.read(name, offset, most)
    }

    fn virtual_ips(&self) -> Vec<String> {
        virtual_ips(&self.config())
    }

    fn fence(&self) -> FenceStatus {
        let (report, config) = (self.report(), self.config());
        let paths = self.fencing.paths.as_ref().map(|paths| paths());
        let pair = config.pair_key.as_ref().map_or(0, PairKey::tag);
        let mut checks = read_kept(&config.paths.state_dir);
        let disk = |disk: &DiskReport| {
            let id = DiskId::of(&disk.disk);
            let entry = self.fencing.ledger.entry(id);
            let name = Identity::parse(&disk.disk).ok();
            let paths = paths.as_ref().map(|all| all.get(&id).cloned());
            FenceDisk {
                paths: paths.map(Option::unwrap_or_default),
                check: name
                    .and_then(|name| checks.remove(name.as_str()))
                    .map(check),
                ..fence_disk(disk, entry, pair)
            }
        };
        FenceStatus {
            node: report.node,
            disks: report.disks.clone(),
            disk_list: report.disk_list.iter().map(disk).collect(),
        }
    }

    fn command(&self, command: Command) -> oneshot::Receiver<Result<(), Refusal>> {
        let (answer, answered) = oneshot::channel();
        let input = Input::Command { command, answer };
        if self.inbox.try_put(input) {
            return answered;
        }
        let (answer, answered) = oneshot::channel();
        // The receiver is in our hand: it takes the answer.
        let _ = answer.send(Err(Refusal {
            errno: BUSY,
            reason: "too many requests wait for the control thread; try again".to_owned(),
        }));
        answered
    }
}

/// What the report and the daemon's own work say of a disk.
fn fence_disk(disk: &DiskReport, entry: Entry, pair: u16) -> FenceDisk {
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let (survey, asked) = entry.seen.unzip();
    let keys = survey.as_ref().map(|survey| &survey.keys);
    let holder = survey.as_ref().and_then(|survey| survey.holder);
    FenceDisk {
        disk: disk.disk.clone(),
        arbiter: disk.arbiter,
        owner: disk.owner.clone(),
        paths: None,
        holder: holder.map(|bits| fence_key(bits, pair)),
        registrations: keys.map(|keys| keys.iter().map(|bits| fence_key(*bits, pair)).collect()),
        age_ms: asked.map(|asked| micros(asked.elapsed()) / 1000),
        look_us: entry.look.map(micros),
        roll_us: entry.roll.map(micros),
        failure: entry.failure,
        check: None,
    }
}

fn fence_key(bits: u64, pair: u16) -> FenceKey {
    let known = Key::from_bits(bits, pair);
    FenceKey {
        key: format!("{bits:016x}"),
        node: known.map(|key| key.node),
        phase: known.map(|key| key.phase.word().to_owned()),
        epoch: known.map(|key| key.epoch.0),
    }
}

fn check(kept: preflight::Kept) -> FenceCheck {
    FenceCheck {
        wall_ms: Some(kept.wall_ms),
        passed: kept.passed,
        failed: kept.failed,
        read_p999_us: kept.read_p999_us,
        roll_p999_us: kept.roll_p999_us,
    }
}

fn virtual_ips(config: &Config) -> Vec<String> {
    config
        .vips
        .iter()
        .map(|vip| vip.address.to_string())
        .collect()
}

/// Which address is on: where they are on at all, those of no pool and those of an imported one.
fn vip_list(report: &StateReport, config: &Config) -> Vec<VipReport> {
    let imported = |name: &String| {
        let mut pools = report.pools.iter();
        pools.any(|pool| pool.pool == *name && pool.state == "imported")
    };
    let vip = |vip: &VipConfig| VipReport {
        address: vip.address.to_string(),
        pool: vip.pool.clone(),
        on: report.vips_on && vip.pool.as_ref().is_none_or(imported),
    };
    config.vips.iter().map(vip).collect()
}

/// Fills in what the core doesn't know.
fn complete(mut report: StateReport, config: &Config) -> StateReport {
    report.vips = virtual_ips(config);
    report.vip_list = vip_list(&report, config);
    for link in &mut report.links {
        let config = config.links.get(usize::from(link.link));
        link.name = config.map(LinkConfig::name).unwrap_or_default();
    }
    report
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
