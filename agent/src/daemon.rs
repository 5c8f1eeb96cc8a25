//! The daemon: starts the control thread, the logger and the control socket, and ends them.
//!
//! ```text
//!   run = start ─▶ instance ─▶ journal ─▶ socket ─▶ control thread ─▶ link watch     (first beat within milliseconds)
//!         signals ─▶ Handle::stop, Handle::reload
//!         join ─▶ control thread ended ─▶ control socket ─▶ logger ─▶ Exit
//! ```

use crate::adapters::link_watch::{LinkChange, LinkWatch};
use crate::backoffice::{Backoffice, Fencing, Kept};
use crate::config::{self, Config, ConfigErrors};
use crate::control::{Control, Parts};
use crate::history::Past;
use crate::inbox::{self, Inbox, Input};
use crate::instance::Instance;
use crate::journal::{FileJournal, Loaded};
use crate::lanes::{Lanes, Tools};
use crate::last_words::{self, Found, LastWords};
use crate::ledger::Ledger;
use crate::links::{Inspector, LinkCounters, Links};
use crate::logger::{self, Log};
use crate::realtime;
use crate::record::{self, Recorded, WriterThread};
use crate::rpc::{self, Backend, Hub, Limits, Socket};
use crate::signals;
use crate::supervisor::Supervisor;
use failover_api::{HistoryRecord, Severity};
use failover_core::action::{Entry, HaltReason};
use failover_core::adapters::{
    Clock, Failure, Fence, Journal, Lease, Pools, Services, Vips, Watchdog,
};
use failover_core::ids::{DiskId, LinkId, PoolId};
use failover_core::states::State;
use failover_core::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Threads of the ordinary runtime; nothing that matters for a failover runs there.
const WORKERS: usize = 2;
/// Bound on what the ordinary runtime may still do when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the daemon acts on. The shipped binary passes the real ones; tests and the demo replace some.
pub struct DaemonAdapters {
    /// CLOCK_BOOTTIME.
    pub clock: Arc<dyn Clock>,
    /// Reservations on the shared disks.
    pub fence: Arc<dyn Fence>,
    /// Pools.
    pub pools: Arc<dyn Pools>,
    /// Services that run only on the MASTER.
    pub services: Arc<dyn Services>,
    /// Virtual addresses.
    pub vips: Arc<dyn Vips>,
    /// Their lease; called on the control thread.
    pub lease: Box<dyn Lease>,
    /// The hardware watchdog; called on the control thread.
    pub watchdog: Box<dyn Watchdog>,
    /// Resets this machine at once; called on the control thread, and not expected to come back.
    pub reset: Arc<dyn Fn(&HaltReason) + Send + Sync>,
    /// Takes a changed configuration into the adapters (SIGHUP); `None` where they can't change at run time.
    pub reconfigure: Option<Reconfigure>,
    /// The paths of each shared disk, for readers; `None` where they aren't real.
    pub paths: Option<PathsOf>,
}

/// Names the paths of each shared disk as they are now; never waits for one.
pub type PathsOf = Arc<dyn Fn() -> BTreeMap<DiskId, Vec<String>> + Send + Sync>;

/// Called on a lane with the old and the new configuration and, if the virtual addresses are on, the pools that are
/// imported; what did not change must not be touched.
pub type Reconfigure =
    Arc<dyn Fn(&Config, &Config, Option<&[PoolId]>) -> Result<(), Failure> + Send + Sync>;

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Left the pair; nothing of it runs here.
    Stopped,
    /// Comes back at once: services, addresses and pools were left as they are.
    Restart,
    /// Halted, and the reset did not come: pools may still be imported here. The watchdog is the last means of a reset.
    Halted,
}

/// Why the daemon could not start, or ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Anything else: a sentence with the place and the remedy.
    #[error("{0}")]
    Start(String),
    /// The control thread panicked: a mistake of ours.
    #[error(
        "the control thread ended by a mistake of its own; see the log, and start the daemon again"
    )]
    Died,
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> RunError {
        RunError::Start(failure.0)
    }
}

/// Runs until SIGTERM (or a command that ends it). Blocks the calling thread.
pub fn run(config: Config, adapters: DaemonAdapters) -> Result<Exit, RunError> {
    // A signal that comes before its handler stands waits, instead of ending a daemon that already owns.
    let early = signals::hold_back();
    let running = start_under(config, adapters, Supervisor::of_this_process())?;
    let handle = running.handle();
    let (ready, stands) = std::sync::mpsc::channel();
    running.runtime.spawn(async move {
        if let Err(error) = signals::serve(handle, ready).await {
            tracing::error!("signals can't be served: {error}");
        }
    });
    let _ = stands.recv_timeout(std::time::Duration::from_secs(5));
    signals::let_through(&early);
    signals::tell(&[sd_notify::NotifyState::Ready]);
    running.join()
}

/// A daemon in this process; its signals are the caller's.
pub struct Running {
    /// Whether it ended halted.
    control: JoinHandle<bool>,
    runtime: Runtime,
    stop_rpc: watch::Sender<bool>,
    rpc: tokio::task::JoinHandle<()>,
    logger: JoinHandle<()>,
    recording: Option<WriterThread>,
    handle: Handle,
    instance: Instance,
}

/// Steers a running daemon.
#[derive(Clone)]
pub struct Handle {
    inbox: Inbox,
    backoffice: Arc<Backoffice>,
    counters: Vec<Arc<LinkCounters>>,
    restart: Arc<AtomicBool>,
    reconfigure: Option<Reconfigure>,
    watch: Arc<Mutex<Option<LinkWatch>>>,
    seed: u64,
}

/// Starts a daemon in this process.
pub fn start(config: Config, adapters: DaemonAdapters) -> Result<Running, RunError> {
    start_under(config, adapters, Supervisor::default())
}

fn start_under(
    config: Config,
    adapters: DaemonAdapters,
    supervisor: Supervisor,
) -> Result<Running, RunError> {
    let paths = config.paths.clone();
    for folder in [&paths.state_dir, &paths.runtime_dir] {
        make_folder(folder)?;
    }
    let instance = Instance::claim(&paths.runtime_dir)?;
    // Before the threads are there: every page of their stacks would be filled and locked at one go, for tens of
    // milliseconds in which a slow machine does nothing else.
    let missing = Vec::from_iter(realtime::lock_process_memory());
    // A flag that an earlier run didn't live to see must not change what the next SIGTERM means.
    let _ = std::fs::remove_file(paths.runtime_dir.join(signals::RESTART_FLAG));
    let (journal, mut loaded) = FileJournal::open(&paths.state_dir, &paths.runtime_dir)?;
    let before = last_words::read(&paths.state_dir);
    count_reset(&before, &mut loaded, &journal);
    let past = Past::default();
    let reset = reset_record(&before, &config, adapters.clock.now());
    let (log, logger) = logger::start(paths.state_dir.clone(), past.clone(), reset)
        .map_err(|error| RunError::Start(format!("no thread for the log: {error}")))?;
    for remark in loaded.remarks {
        log.say("JOURNAL", Severity::Info, remark);
    }
    if let Some(sentence) = before.sentence() {
        log.say("RESET_BEFORE", Severity::Warning, sentence);
    }
    let last_words = LastWords::open(&paths.state_dir);
    if let Err(failure) = &last_words {
        let text = format!("{failure}; the reason of a reset will not be known after it");
        log.say("JOURNAL", Severity::Warning, text);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(4)
        .thread_name("rpc")
        .enable_all()
        .build()
        .map_err(|error| RunError::Start(format!("no runtime for the control socket: {error}")))?;
    let socket = {
        let _inside = runtime.enter();
        Socket::bind(&paths.socket).map_err(|error| RunError::Start(error.to_string()))?
    };
    let hub = Hub::new()
        .map_err(|error| RunError::Start(format!("no way to tell subscribers: {error}")))?;
    let hub = Arc::new(hub);
    let (inbox, inputs) = inbox::inbox()
        .map_err(|errno| RunError::Start(format!("no queue for the control thread: {errno}")))?;

    let core = config.core();
    let config = Arc::new(config);
    let now = adapters.clock.now();
    let inspector = config
        .pair_key
        .clone()
        .map(|key| Inspector::new(key, config.node));
    let links = Links::open(
        &config.links,
        inspector,
        adapters.clock.clone(),
        log.clone(),
    );
    let recording = record::start(&paths.runtime_dir, &paths.state_dir, config.node);
    let (recorder, incidents, recording) = match recording {
        Ok((recorder, incidents, thread)) => (Some(recorder), Some(incidents), Some(thread)),
        Err(error) => {
            let text = format!("{error}; what leads to decisions will not be recorded");
            log.say("JOURNAL", Severity::Warning, text);
            (None, None, None)
        }
    };
    let (controller, first) = Recorded::start(now, core.clone(), loaded.restored, recorder);
    let report = controller.report(now);
    let ledger = Arc::new(Ledger::new(core.disks.iter().map(|disk| disk.id)));
    let fencing = Fencing {
        ledger: ledger.clone(),
        paths: adapters.paths.clone(),
    };
    let backoffice = Backoffice::new(
        config.clone(),
        report,
        hub.clone(),
        inbox.clone(),
        Kept { past, incidents },
        fencing,
    );
    let backoffice = Arc::new(backoffice);
    let handle = Handle {
        inbox: inbox.clone(),
        backoffice: backoffice.clone(),
        counters: links.counters(),
        restart: Arc::default(),
        reconfigure: adapters.reconfigure.clone(),
        watch: Arc::default(),
        seed: core.seed,
    };
    let tools = Tools::new(&adapters, Arc::new(journal), ledger)
        .map_err(|error| RunError::Start(format!("no thread for the disks: {error}")))?;
    let lanes = Lanes::new(tools, inbox, &core.timing);
    let parts = Parts {
        controller,
        links,
        lanes,
        inputs,
        log: log.clone(),
        backoffice: backoffice.clone(),
        supervisor,
        missing,
        last_words: last_words.ok(),
        // As long as the peer needs to miss us: nobody gains by a faster reset, and a machine with longer timers has
        // slower disks.
        settle: Duration::from_millis(core.timing.dead_ms),
    };
    let control = Control::new(parts, adapters);
    let control = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || control.run(first, &core))
        .map_err(|error| RunError::Start(format!("no control thread: {error}")))?;
    let (stop_rpc, stopped) = watch::channel(false);
    let rpc = runtime.spawn(serve_rpc(socket, backoffice, hub, stopped));
    handle.watch_links(&config, &log);
    Ok(Running {
        control,
        runtime,
        stop_rpc,
        rpc,
        logger,
        recording,
        handle,
        instance,
    })
}

async fn serve_rpc(
    socket: Socket,
    backoffice: Arc<Backoffice>,
    hub: Arc<Hub>,
    stopped: watch::Receiver<bool>,
) {
    let mut stopped = stopped;
    let stop = async move {
        // A dropped sender is an end too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let served = rpc::serve(socket, hub, backoffice, Limits::default(), stop).await;
    if let Err(error) = served {
        tracing::error!("the control socket is not served any more: {error}");
    }
}

/// The last incident is kept, unless the disk hangs.
fn wait_for(thread: &WriterThread) {
    let began = std::time::Instant::now();
    while !thread.is_finished() && began.elapsed() < FAREWELL {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A reset whose record the journal could not keep counts all the same.
fn count_reset(before: &Found, loaded: &mut Loaded, journal: &FileJournal) {
    let Some(words) = &before.words else {
        return;
    };
    if words.resets > loaded.restored.resets {
        loaded.restored.resets = words.resets;
        if let Err(failure) = journal.record(&Entry::Resets(words.resets)) {
            loaded.remarks.push(failure.0);
        }
    }
}

/// Why the run before ended, if it asked for a reset.
fn reset_record(before: &Found, config: &Config, now: Instant) -> Option<HistoryRecord> {
    Some(HistoryRecord {
        seq: 0,
        at_micros: now.micros(),
        wall_ms: None,
        node: config.node,
        from: State::Halted.name().to_owned(),
        to: State::Starting.name().to_owned(),
        status: State::Starting.status(),
        why: before.sentence()?,
        evidence: Vec::new(),
        epoch: before.words.as_ref()?.epoch,
        phases: Vec::new(),
    })
}

fn make_folder(folder: &Path) -> Result<(), RunError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        RunError::Start(format!(
            "{}: can't be made: {error}; make it, or name another one in `paths`",
            folder.display()
        ))
    })
}

impl Running {
    /// For signals, tests and the demo.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until it ends.
    pub fn join(self) -> Result<Exit, RunError> {
        let ended = self.control.join();
        let restart = self.handle.restart.load(Ordering::Acquire);
        *self.handle.watched() = None;
        // Who listens may lag: bounded, and nothing of the pair depends on it.
        let _ = self.stop_rpc.send(true);
        let rpc = self.rpc;
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(FAREWELL, rpc).await;
        });
        self.runtime.shutdown_timeout(FAREWELL);
        // The control thread's end of the log is closed: what is left is written.
        let _ = self.logger.join();
        self.recording.iter().for_each(wait_for);
        drop(self.instance);
        match ended {
            Ok(true) => Ok(Exit::Halted),
            Ok(false) if restart => Ok(Exit::Restart),
            Ok(false) => Ok(Exit::Stopped),
            Err(_) => Err(RunError::Died),
        }
    }
}

impl Handle {
    /// Ends the daemon; with `restart` it comes back at once, and everything stays as it is.
    pub fn stop(&self, restart: bool) {
        self.restart.store(restart, Ordering::Release);
        self.inbox.put(Input::Stop { restart });
    }

    /// What the control socket sees and commands.
    pub fn backend(&self) -> Arc<dyn Backend> {
        self.backoffice.clone()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.backoffice.config()
    }

    /// Counts of each heartbeat link.
    pub fn counters(&self) -> &[Arc<LinkCounters>] {
        &self.counters
    }

    /// Reads the configuration again and applies what differs; answers with the keys that changed. Nothing is
    /// applied if anything in it can't be.
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let old = self.config();
        let mut new = Config::load(&old.file).map_err(|errors| errors.to_string())?;
        new.seed = self.seed;
        let difference = config::difference(&old, &new).map_err(|refused| refused.to_string())?;
        if difference.changed.is_empty() {
            return Ok(Vec::new());
        }
        let new = Arc::new(new);
        if difference.vips {
            self.change_vips(&old, &new)?;
        }
        self.backoffice.set_config(new.clone());
        self.inbox.put(Input::Reconfigure(Box::new(new.core())));
        if difference.interfaces || difference.vips {
            self.watch_links_or_tell(&new);
        }
        Ok(difference.changed)
    }

    fn change_vips(&self, old: &Arc<Config>, new: &Arc<Config>) -> Result<(), String> {
        let Some(reconfigure) = self.reconfigure.clone() else {
            return Err("vips can't be changed at run time here; restart the daemon".to_owned());
        };
        let (old, new) = (old.clone(), new.clone());
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.inbox.put(Input::OnVipLane(Box::new(move |on| {
            // Who asked may have given up.
            let _ = answer.try_send(reconfigure(&old, &new, on));
        })));
        let patience = Duration::from_millis(self.config().timing.vips_ms) + FAREWELL;
        match answered.recv_timeout(patience) {
            Ok(result) => result.map_err(|failure| failure.0),
            Err(_) => Err("the virtual addresses were not changed in time".to_owned()),
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Option<LinkWatch>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_links(&self, config: &Config, log: &Log) {
        if let Err(failure) = self.start_watch(config) {
            let text = format!("{failure}; carriers count as up");
            log.say("LINK_WATCH", Severity::Warning, text);
        }
    }

    fn watch_links_or_tell(&self, config: &Config) {
        if let Err(failure) = self.start_watch(config) {
            tracing::warn!("{failure}; carriers count as up");
        }
    }

    /// Watches the carriers of the clients' network, of the interfaces with virtual addresses, and of the heartbeat
    /// links that name theirs.
    fn start_watch(&self, config: &Config) -> Result<(), Failure> {
        let critical = config.critical_interfaces.iter();
        let mut lan: BTreeMap<String, bool> = critical.map(|name| (name.clone(), false)).collect();
        let vips: BTreeSet<String> = config
            .vips
            .iter()
            .map(|vip| vip.interface.clone())
            .collect();
        let links: Vec<(LinkId, String)> = (0..)
            .map(LinkId)
            .zip(&config.links)
            .filter_map(|(number, link)| Some((number, link.interface.clone()?)))
            .collect();
        let mut names: BTreeSet<String> = lan.keys().chain(&vips).cloned().collect();
        names.extend(links.iter().map(|(_, name)| name.clone()));
        let mut watched = self.watched();
        *watched = None;
        if lan.is_empty() {
            self.inbox.put(Input::Lan { up: true });
        }
        if names.is_empty() {
            return Ok(());
        }
        let inbox = self.inbox.clone();
        let mut unknown = lan.len();
        let on_change = move |change: LinkChange| {
            for (link, _) in links.iter().filter(|(_, name)| *name == change.interface) {
                let up = change.up;
                inbox.put(Input::Link { link: *link, up });
            }
            if let Some(up) = lan.get_mut(&change.interface) {
                *up = change.up;
                unknown = unknown.saturating_sub(1);
            } else if !vips.contains(&change.interface) {
                return;
            }
            // Not before each was looked at once: the first of two may be the one without a carrier. Told for the
            // others with virtual addresses too: those that went with the interface are put back, and announced.
            if unknown == 0 {
                let up = lan.is_empty() || lan.values().any(|up| *up);
                inbox.put(Input::Lan { up });
            }
        };
        *watched = Some(LinkWatch::start(names.into_iter().collect(), on_change)?);
        Ok(())
    }
}
