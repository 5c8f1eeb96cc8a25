//! One path to one disk: opened when it is first used, and again when its node changed.
//!
//! ```text
//!   ask ──▶ free? ──▶ open, check the identity ──▶ send, wait as long as the kernel does ──▶ answer
//!            └ busy with an earlier command: refused at once, so that nothing overtakes it
//! ```
//!
//! No thread and no deadline of its own: both are the engine's (`crate::engine`).

use super::{Examination, Failed, KERNEL_TIMEOUT, Options, nvme, scsi};
use crate::adapters::disk_paths::DiskPath;
use crate::adapters::identity::Identity;
use crate::adapters::ports::{Node, Opener, Port};
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// A port that nobody used for so long is closed at the next look at the machine's disks.
const IDLE: Duration = Duration::from_secs(60);

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

/// An opened port.
struct Held {
    node: Node,
    opened: Opened,
    used: Instant,
}

/// One path.
pub(super) struct FencePath {
    opener: Arc<dyn Opener>,
    options: Options,
    disk: Arc<Identity>,
    address: String,
    /// `None` while the path is gone. Held for moments.
    node: Mutex<Option<Node>>,
    /// Held while a command is on its way: nobody waits for it.
    port: Mutex<Option<Held>>,
}

impl FencePath {
    pub(super) fn new(
        opener: Arc<dyn Opener>,
        options: Options,
        disk: Arc<Identity>,
        path: &DiskPath,
    ) -> FencePath {
        FencePath {
            opener,
            options,
            disk,
            address: path.address.clone(),
            node: Mutex::new(Some(path.node.clone())),
            port: Mutex::new(None),
        }
    }

    pub(super) fn is_at(&self, address: &str) -> bool {
        self.address == address
    }

    fn node(&self) -> MutexGuard<'_, Option<Node>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.node().is_none()
    }

    /// The path; `None` while it is gone.
    pub(super) fn path(&self) -> Option<DiskPath> {
        let node = self.node().clone()?;
        Some(DiskPath {
            node,
            address: self.address.clone(),
        })
    }

    /// Where it leads to now. A port that is idle, or open on another node, is closed: a device that is gone can go.
    pub(super) fn set_node(&self, node: Option<Node>) {
        if let Ok(mut port) = self.port.try_lock() {
            let keep =
                |held: &Held| Some(&held.node) == node.as_ref() && held.used.elapsed() < IDLE;
            if !port.as_ref().is_some_and(keep) {
                *port = None;
            }
        }
        *self.node() = node;
    }

    /// Sends one thing and waits for its answer, as long as the kernel does.
    pub(super) fn ask(&self, ask: Ask) -> Result<Told, PrError> {
        let mut port = match self.port.try_lock() {
            Ok(port) => port,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let why = "the command before is still on its way; this one was not sent";
                return Err(self.failed(why));
            }
        };
        let Some(node) = self.node().clone() else {
            return Err(self.failed("the path is gone"));
        };
        let same = port.take().filter(|held| held.node == node);
        let mut opened = match same {
            Some(held) => held.opened,
            None => self.open(&node).map_err(|failed| failed.error)?,
        };
        let done = opened.run(ask, KERNEL_TIMEOUT);
        if !matches!(&done, Err(failed) if failed.reopen) {
            *port = Some(Held {
                node,
                opened,
                used: Instant::now(),
            });
        }
        done.map_err(|failed| self.named(failed.error))
    }

    fn failed(&self, why: &str) -> PrError {
        PrError::Transport(format!("{self}: {why}"))
    }

    /// Opens the path and looks whether it leads to the disk: a name may have gone to another one.
    fn open(&self, node: &Node) -> Result<Opened, Failed> {
        let mut opened = match self.opener.open(node)? {
            Port::Scsi(port) => Opened::Scsi(scsi::ScsiPath::new(port, self.options)),
            Port::Nvme(port) => Opened::Nvme(nvme::NvmePath::new(port, self.options)),
        };
        let shown = opened.identities(KERNEL_TIMEOUT)?;
        if shown.contains(&self.disk) {
            return Ok(opened);
        }
        let shown: Vec<&str> = shown.iter().map(Identity::as_str).collect();
        let why = format!(
            "{} shows {:?}, another disk; nothing was sent",
            node.name, shown
        );
        Err(self.failed(&why).into())
    }

    /// Says of which disk and path a text of the device is. A conflict has none.
    fn named(&self, error: PrError) -> PrError {
        let named = |why: String| format!("{self}: {why}");
        match error {
            PrError::Conflict => PrError::Conflict,
            PrError::UnitAttention(why) => PrError::UnitAttention(named(why)),
            PrError::Illegal(why) => PrError::Illegal(named(why)),
            PrError::Transport(why) => PrError::Transport(named(why)),
        }
    }
}

impl std::fmt::Display for FencePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "disk {}, path {}", self.disk, self.address)
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
