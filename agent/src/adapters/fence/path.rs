//! One path to one disk: a thread with an opened port, that does one command after the other.
//!
//! ```text
//!   ask ──▶ [ job ] ──▶ thread: open, check the identity, send ──▶ [ answer ] ──▶ ask returns
//!    └─ deadline passed: a job that wasn't begun is taken back; one that was keeps the path busy until the kernel
//!       gives it up, and later ones are refused, so that no command overtakes an earlier one of its path
//! ```
//!
//! A path that is stuck in the kernel costs its caller one deadline, and the disk's other paths nothing.

use super::{Examination, Failed, Options, nvme, scsi};
use crate::adapters::disk_paths::DiskPath;
use crate::adapters::identity::Identity;
use crate::adapters::ports::{Node, Opener, Port};
use crate::realtime;
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A thread without work ends, and its port is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Its calls are shallow and its buffers on the heap.
const STACK_BYTES: usize = 128 * 1024;

/// What a path can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A command of the core.
    Command(PrCommand),
    /// What the disk can.
    Examine,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Reply(PrReply),
    Examined(Examination),
}

struct Job {
    ticket: u64,
    ask: Ask,
    timeout: Duration,
    /// Room for one: answering waits for nobody, and who gave up hears nothing.
    answer: SyncSender<Result<Told, PrError>>,
}

struct State {
    /// `None` while the path is gone.
    node: Option<Node>,
    tickets: u64,
    job: Option<Job>,
    /// The thread is at work.
    running: bool,
    thread: bool,
    closing: bool,
}

struct Shared {
    opener: Arc<dyn Opener>,
    options: Options,
    disk: Arc<Identity>,
    address: String,
    state: Mutex<State>,
    changed: Condvar,
}

/// One path. Dropped, its thread ends once its command does.
pub(super) struct Lane {
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn new(
        opener: Arc<dyn Opener>,
        options: Options,
        disk: Arc<Identity>,
        path: &DiskPath,
    ) -> Lane {
        let state = State {
            node: Some(path.node.clone()),
            tickets: 0,
            job: None,
            running: false,
            thread: false,
            closing: false,
        };
        let shared = Arc::new(Shared {
            opener,
            options,
            disk,
            address: path.address.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        Lane { shared }
    }

    pub(super) fn is_at(&self, address: &str) -> bool {
        self.shared.address == address
    }

    pub(super) fn is_gone(&self) -> bool {
        self.shared.lock().node.is_none()
    }

    /// The path; `None` while it is gone.
    pub(super) fn path(&self) -> Option<DiskPath> {
        let node = self.shared.lock().node.clone()?;
        Some(DiskPath {
            node,
            address: self.shared.address.clone(),
        })
    }

    pub(super) fn set_node(&self, node: Option<Node>) {
        self.shared.lock().node = node;
    }

    /// Sends one thing and waits for its answer, at most `deadline`.
    pub(super) fn ask(
        &self,
        ask: Ask,
        timeout: Duration,
        deadline: Duration,
    ) -> Result<Told, PrError> {
        let until = Instant::now() + deadline;
        let mut state = self.shared.lock();
        while state.job.is_some() || state.running {
            state = self.shared.wait(state, until).ok_or_else(|| {
                let why = "the command before is still on its way; this one was not sent";
                self.shared.failed(why, deadline)
            })?;
        }
        if state.node.is_none() {
            let why = "the path is gone";
            return Err(self.shared.failed(why, Duration::ZERO));
        }
        if !state.thread {
            self.shared.start_thread()?;
            state.thread = true;
        }
        state.tickets += 1;
        let ticket = state.tickets;
        let (answer, answers) = sync_channel(1);
        state.job = Some(Job {
            ticket,
            ask,
            timeout,
            answer,
        });
        drop(state);
        self.shared.changed.notify_all();
        match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(answer) => answer,
            Err(_) => self.too_late(ticket, &answers, deadline),
        }
    }

    /// The deadline has passed; the answer may have come just now.
    fn too_late(
        &self,
        ticket: u64,
        answers: &Receiver<Result<Told, PrError>>,
        deadline: Duration,
    ) -> Result<Told, PrError> {
        let withdrawn = self.shared.lock().job.take_if(|job| job.ticket == ticket);
        if withdrawn.is_some() {
            self.shared.changed.notify_all();
            let why = "the path's thread had no turn; the command was not sent";
            return Err(self.shared.failed(why, deadline));
        }
        match answers.try_recv() {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.failed("no answer", deadline)),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change; `None` once `until` has passed.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let waited = self.changed.wait_timeout(state, left);
        Some(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn failed(&self, why: &str, after: Duration) -> PrError {
        let (disk, address) = (&self.disk, &self.address);
        PrError::Transport(match after.is_zero() {
            true => format!("disk {disk}, path {address}: {why}"),
            false => format!(
                "disk {disk}, path {address}: {why} (waited {} ms)",
                after.as_millis()
            ),
        })
    }

    fn start_thread(self: &Arc<Self>) -> Result<(), PrError> {
        let shared = self.clone();
        // At most 15 characters, the kernel's limit.
        let name: String = format!("path-{}", self.address).chars().take(15).collect();
        let started = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // It stands between a disk's lane, which has it too, and the disk.
                realtime::prefer_lane();
                shared.work();
            });
        match started {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&format!("no thread for it: {error}"), Duration::ZERO)),
        }
    }

    fn work(&self) {
        let mut opened: Option<(Node, Opened)> = None;
        let mut state = self.lock();
        let mut idle_until = Instant::now() + IDLE;
        loop {
            if state.closing {
                break;
            }
            let Some(job) = state.job.take() else {
                match self.wait(state, idle_until) {
                    Some(guard) => state = guard,
                    None => {
                        state = self.lock();
                        if state.job.is_none() {
                            break;
                        }
                    }
                }
                continue;
            };
            let node = state.node.clone();
            state.running = true;
            drop(state);
            let answer = match node {
                Some(node) => self.run(&mut opened, node, &job),
                None => Err(self.failed("the path is gone", Duration::ZERO)),
            };
            let _ = job.answer.try_send(answer);
            state = self.lock();
            state.running = false;
            idle_until = Instant::now() + IDLE;
            self.changed.notify_all();
        }
        state.thread = false;
    }

    fn run(
        &self,
        opened: &mut Option<(Node, Opened)>,
        node: Node,
        job: &Job,
    ) -> Result<Told, PrError> {
        let same = opened.take_if(|(at, _)| *at == node);
        let mut port = match same {
            Some((_, port)) => port,
            None => self
                .open(&node, job.timeout)
                .map_err(|failed| failed.error)?,
        };
        let done = port.run(job.ask, job.timeout);
        if !matches!(&done, Err(failed) if failed.reopen) {
            *opened = Some((node, port));
        }
        done.map_err(|failed| self.named(failed.error))
    }

    /// Opens the path and looks whether it leads to the disk: a name may have gone to another one.
    fn open(&self, node: &Node, timeout: Duration) -> Result<Opened, Failed> {
        let opened = match self.opener.open(node)? {
            Port::Scsi(port) => Opened::Scsi(scsi::ScsiPath::new(port, self.options)),
            Port::Nvme(port) => Opened::Nvme(nvme::NvmePath::new(port, self.options)),
        };
        let mut opened = opened;
        let shown = opened.identities(timeout)?;
        if shown.contains(&self.disk) {
            return Ok(opened);
        }
        let shown: Vec<&str> = shown.iter().map(Identity::as_str).collect();
        let why = format!(
            "{} shows {:?}, another disk; nothing was sent",
            node.name, shown
        );
        Err(self.failed(&why, Duration::ZERO).into())
    }

    /// Says of which disk and path a text of the device is. A conflict has none.
    fn named(&self, error: PrError) -> PrError {
        let (disk, address) = (&self.disk, &self.address);
        let named = |why: String| format!("disk {disk}, path {address}: {why}");
        match error {
            PrError::Conflict => PrError::Conflict,
            PrError::UnitAttention(why) => PrError::UnitAttention(named(why)),
            PrError::Illegal(why) => PrError::Illegal(named(why)),
            PrError::Transport(why) => PrError::Transport(named(why)),
        }
    }
}

/// An opened path, by what it speaks.
enum Opened {
    Scsi(scsi::ScsiPath),
    Nvme(nvme::NvmePath),
}

impl Opened {
    fn identities(&mut self, timeout: Duration) -> Result<Vec<Identity>, Failed> {
        match self {
            Opened::Scsi(path) => path.identities(timeout),
            Opened::Nvme(path) => path.identities(timeout),
        }
    }

    fn run(&mut self, ask: Ask, timeout: Duration) -> Result<Told, Failed> {
        match (self, ask) {
            (Opened::Scsi(path), Ask::Command(command)) => {
                path.execute(command, timeout).map(Told::Reply)
            }
            (Opened::Nvme(path), Ask::Command(command)) => {
                path.execute(command, timeout).map(Told::Reply)
            }
            (Opened::Scsi(path), Ask::Examine) => path.examine(timeout).map(Told::Examined),
            (Opened::Nvme(path), Ask::Examine) => path.examine(timeout).map(Told::Examined),
        }
    }
}
