//! The disk engine: reservation commands for a thousand disks on a few threads, so that a stuck disk costs itself alone.
//!
//! ```text
//!   control, tools ── start ──▶ waiting: prompt │ look │ take      a disk's later work waits behind its own
//!        never waits                    │
//!                               a place in the count: at most 64 young commands
//!                                       ▼
//!                        worker ── one command at a time ──▶ Fence (blocks as long as the kernel does)
//!                                       │ answer ──▶ Piece::next ──▶ the next command, or the end
//!   watch ── 20 ms old ──▶ leaves the count, its worker is replaced
//!         └─ deadline   ──▶ the piece is told that nothing came; the path gets no command until that one ends
//! ```
//!
//! - **The count** bounds what a healthy shelf has to do at once. A command that takes long leaves it, or ten stuck disks
//!   in a hundred would hold every place. What is out of the count is bounded by itself: one command for each path.
//! - **Fairness**: looks may hold [`LOOKS_MAX`] places, takes [`TAKES_MAX`], both together [`BULK_MAX`]; the rest is for
//!   rolls and what else can't wait. So a verify of every disk delays no arbiter, and a sweep starves no look.
//! - **Threads**: as many as there are commands in flight, not one for each disk or path. Idle ones sleep without a timer
//!   of their own but for the one after which surplus ones end; the most recently used is woken first.
//! - `start` is called on the control thread: it pushes and wakes, under a mutex that is held for moments (see
//!   `crate::queue` for why that must not be a lock that spins); threads are made by the watch alone, and outside of it.

mod pieces;
mod pool;
#[cfg(test)]
mod tests;

use crate::realtime;
use failover_core::adapters::Fence;
use failover_core::disk_work::{DiskOutcome, DiskTask, DiskWork, PrAnswer};
use failover_core::ids::{DiskId, PathId};
use failover_core::pr::{PrCommand, PrError, PrReply};
use pieces::{One, Task};
use pool::{Shared, Turn};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Young commands in flight at most.
pub const YOUNG_MAX: usize = 64;
/// Age at which a command leaves the count; with a shorter deadline, that. More than a quick disk takes as a rule, and
/// short enough that a shelf whose every command takes 50 ms is rolled within the lease, 256 disks of it.
pub const YOUNG: Duration = Duration::from_millis(20);
/// Looks among the young ones at most.
pub const LOOKS_MAX: usize = 40;
/// Takes among the young ones at most.
pub const TAKES_MAX: usize = 48;
/// Looks and takes together.
pub const BULK_MAX: usize = 56;
/// Pieces of work that wait for one disk; the core keeps one.
const WAITING_MAX: usize = 64;
/// Added to a blocking caller's patience: the watch answers at the deadline, this is for a machine that stood still.
const GRACE: Duration = Duration::from_secs(1);

/// How urgent a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Rolls, answers, what takes keys off; and an operator's commands.
    Prompt,
    /// Takes.
    Take,
    /// Looks.
    Look,
}

impl Class {
    /// In the order in which they are begun. A takeover's looks come before its takes: a disk that hangs is known
    /// `disk_op_ms` after its look was sent, and the import waits for that.
    const ALL: [Class; 3] = [Class::Prompt, Class::Look, Class::Take];

    /// Of disk work.
    pub const fn of(work: &DiskWork) -> Class {
        match work {
            DiskWork::Survey => Class::Look,
            DiskWork::Take { .. } => Class::Take,
            DiskWork::Roll { .. }
            | DiskWork::Leave { .. }
            | DiskWork::Answer { .. }
            | DiskWork::Expel { .. } => Class::Prompt,
        }
    }
}

/// Work on one disk as the engine sees it: one command after the other.
pub trait Piece: Send {
    /// The next command, given the answer to the last one (`None` at first); `None` once it has ended and told
    /// whoever waits for it. `hung` tells whether a command that nobody waits for is still on its way to the disk.
    fn next(
        &mut self,
        answer: Option<PrAnswer>,
        hung: &dyn Fn() -> bool,
    ) -> Option<(PathId, PrCommand)>;

    /// Nothing was sent and nothing will be.
    fn not_begun(&mut self, why: String);

    /// Once its deadline has passed nothing more of it is sent: it registers from nothing, and if this process stood still
    /// the disk may be another's by then. Everything else is refused by such a disk, and goes on.
    fn is_bounded(&self) -> bool {
        true
    }

    /// Whoever asked for it allows nothing of it to be sent any more.
    fn is_forbidden(&self) -> bool {
        false
    }
}

/// What the engine is doing, for tests and readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Commands in the count.
    pub young: usize,
    /// Commands that left it and haven't ended.
    pub old: usize,
    /// Pieces that wait for a place or for their disk.
    pub waiting: usize,
    /// Threads, without the watch.
    pub workers: usize,
    /// Most commands that were in the count at one time.
    pub young_peak: usize,
}

/// The engine. Dropped, its threads end as their commands do; what waits is forgotten.
pub struct Engine {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.load())
    }
}

impl Engine {
    /// An engine before `fence`, whose calls may block as long as they like.
    ///
    /// # Errors
    /// No thread for its watch.
    pub fn new(fence: Arc<dyn Fence>) -> std::io::Result<Engine> {
        let shared = Arc::new(Shared::new(fence));
        let watched = shared.clone();
        std::thread::Builder::new()
            .name("disk-watch".to_owned())
            .stack_size(pool::STACK_BYTES)
            .spawn(move || {
                realtime::prefer_lane();
                watched.watch();
            })?;
        Ok(Engine { shared })
    }

    /// Keeps threads for `disks` disks ready, so that a takeover needs to make none.
    pub fn warm(&self, disks: usize) {
        self.shared.warm(disks.min(YOUNG_MAX));
    }

    /// Begins a piece of work as soon as its turn comes, for which it waits as long as `deadline` at most. From its first
    /// command on it has `deadline` once more; one that isn't bounded has it for each command. Never waits.
    ///
    /// # Errors
    /// Too much waits for that disk already.
    pub fn start(
        &self,
        disk: DiskId,
        class: Class,
        deadline: Duration,
        piece: Box<dyn Piece>,
    ) -> Result<(), String> {
        let turn = Turn::new(disk, class, deadline, piece);
        self.shared.admit(turn, WAITING_MAX)
    }

    /// Begins disk work; `ended` is called on one of the engine's threads, with the moment at which it began.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_work(
        &self,
        disk: DiskId,
        work: DiskWork,
        deadline: Duration,
        ended: Box<dyn FnOnce(DiskOutcome, Instant) + Send>,
    ) -> Result<(), String> {
        let class = Class::of(&work);
        let fence = self.shared.fence.clone();
        let piece = Task::new(fence, disk, work, ended);
        self.start(disk, class, deadline, Box::new(piece))
    }

    /// What it is doing now.
    pub fn load(&self) -> Load {
        self.shared.load()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// One command at a time for callers that wait: tools, and tests.
impl Fence for Engine {
    fn paths(&self, disk: DiskId) -> u8 {
        self.shared.fence.paths(disk)
    }

    fn execute(
        &self,
        disk: DiskId,
        path: PathId,
        command: PrCommand,
        deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let (answer, answers) = sync_channel(1);
        let piece = One::new((path, command), answer);
        self.start(disk, Class::Prompt, deadline, Box::new(piece))
            .map_err(PrError::Transport)?;
        let lost = |_| {
            let why = format!("disk {disk}: no answer within {} ms", deadline.as_millis());
            Err(PrError::Transport(why))
        };
        answers
            .recv_timeout(2 * deadline + GRACE)
            .unwrap_or_else(lost)
    }
}
