//! Reservations on the real shared disks: the core's `Fence`.
//!
//! ```text
//!   engine's worker ── execute(disk, path, command) ──▶ RealFence
//!                                                           │ one FencePath for each path: an opened port
//!                                  scsi.rs / nvme.rs  ◀─────┘
//!                        command → bytes → port (SG_IO, NVMe) → bytes → answer
//! ```
//!
//! No process is spawned, nothing is retried here but a read that needs more room, and nothing is decided. A call lasts
//! as long as the kernel needs: who can't wait goes through the engine.

mod nvme;
mod path;
mod scsi;

use crate::adapters::disk_paths::{DiskPath, SharedDisk};
use crate::adapters::identity::Identity;
use crate::adapters::nvme::reservation::HostId;
use crate::adapters::ports::{Node, Opener, Port, PortError};
use failover_core::adapters::Fence;
use failover_core::ids::{DiskId, PathId};
use failover_core::pr::{PrCommand, PrError, PrReply};
use path::FencePath;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Most paths of one controller to one disk.
pub const PATHS_MAX: usize = 16;
/// When the kernel begins to abort a command. Not the caller's deadline: aborting disturbs every disk of the adapter,
/// and the kernel takes less than 7 s for 7 s (see [`crate::adapters::sg_io`]).
const KERNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// What the disks are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A disk that can't keep registrations through power loss is used without (`accept_volatile_reservations`).
    pub accept_volatile: bool,
}

/// What a disk can, seen over one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// Registrations can be kept through power loss.
    pub persist: bool,
    /// It has Write Exclusive – Registrants Only, as far as it says.
    pub wero: bool,
    /// Who this controller is to an NVMe namespace; `None` for SCSI, where each path is a registrant of its own.
    pub host: Option<HostId>,
}

/// The nodes of one machine: `/dev`.
#[derive(Clone, Debug)]
pub struct DeviceNodes {
    dev: PathBuf,
}

impl DeviceNodes {
    /// The nodes under `dev`.
    pub fn new(dev: &Path) -> DeviceNodes {
        DeviceNodes {
            dev: dev.to_owned(),
        }
    }
}

impl Opener for DeviceNodes {
    fn open(&self, node: &Node) -> Result<Port, PortError> {
        use crate::adapters::ports::Kind;
        Ok(match node.kind {
            Kind::Scsi => Port::Scsi(Box::new(crate::adapters::sg_io::SgPort::open(
                &self.dev, node,
            )?)),
            Kind::Nvme => Port::Nvme(Box::new(crate::adapters::nvme_io::NvmeNode::open(
                &self.dev, node,
            )?)),
        })
    }
}

struct Disk {
    name: Arc<Identity>,
    paths: RwLock<Vec<Arc<FencePath>>>,
}

/// Reservations on the shared disks that were chosen, and on no others.
pub struct RealFence {
    opener: Arc<dyn Opener>,
    options: Options,
    disks: BTreeMap<DiskId, Disk>,
}

impl std::fmt::Debug for RealFence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.disks.values().map(|disk| disk.name.as_str());
        f.debug_list().entries(names).finish()
    }
}

impl RealFence {
    /// Reservations on `disks`. Opens a path when it is first used.
    pub fn new(opener: Arc<dyn Opener>, options: Options, disks: &[SharedDisk]) -> RealFence {
        let disk = |disk: &SharedDisk| {
            let name = Arc::new(disk.identity.clone());
            let paths = RwLock::default();
            (disk.id, Disk { name, paths })
        };
        let fence = RealFence {
            opener,
            options,
            disks: disks.iter().map(disk).collect(),
        };
        for left_out in fence.refresh(disks) {
            tracing::warn!("{left_out}");
        }
        fence
    }

    /// Takes over which paths there are now. A path keeps its number; one that is gone keeps it too and fails until
    /// it comes back or a new path takes its place. Disks that weren't chosen at first are left out. Answers with
    /// what could not be taken over, in words.
    pub fn refresh(&self, found: &[SharedDisk]) -> Vec<String> {
        let mut left_out = Vec::new();
        for (id, disk) in &self.disks {
            let now = found.iter().find(|found| found.id == *id);
            let now = now.map_or(&[][..], |found| &found.paths);
            let mut known = disk.paths.write().unwrap_or_else(PoisonError::into_inner);
            for path in known.iter() {
                let here = now.iter().find(|found| path.is_at(&found.address));
                path.set_node(here.map(|found| found.node.clone()));
            }
            for found in now {
                if !known.iter().any(|path| path.is_at(&found.address)) {
                    left_out.extend(self.add(disk, &mut known, found));
                }
            }
        }
        left_out
    }

    fn add(&self, disk: &Disk, paths: &mut Vec<Arc<FencePath>>, path: &DiskPath) -> Option<String> {
        let new = || {
            Arc::new(FencePath::new(
                self.opener.clone(),
                self.options,
                disk.name.clone(),
                path,
            ))
        };
        if let Some(gone) = paths.iter_mut().find(|path| path.is_gone()) {
            *gone = new();
            return None;
        }
        if paths.len() < PATHS_MAX {
            paths.push(new());
            return None;
        }
        let (name, address) = (&disk.name, &path.address);
        Some(format!(
            "disk {name} has more than {PATHS_MAX} paths: {address} isn't registered, writes over it fail; remove it"
        ))
    }

    /// The shared disks and where their paths lead to now; paths that are gone are left out.
    pub fn shared(&self) -> Vec<SharedDisk> {
        let shared = |(id, disk): (&DiskId, &Disk)| {
            let paths = disk.paths.read().unwrap_or_else(PoisonError::into_inner);
            SharedDisk {
                id: *id,
                identity: (*disk.name).clone(),
                paths: paths.iter().filter_map(|path| path.path()).collect(),
            }
        };
        self.disks.iter().map(shared).collect()
    }

    /// What a disk can, asked over one path. Changes nothing.
    ///
    /// # Errors
    /// As for a command.
    pub fn examine(&self, disk: DiskId, path: PathId) -> Result<Examination, PrError> {
        match self.path(disk, path)?.ask(path::Ask::Examine)? {
            path::Told::Examined(examination) => Ok(examination),
            path::Told::Reply(reply) => Err(PrError::Transport(format!(
                "an examination was answered with {reply:?}"
            ))),
        }
    }

    fn path(&self, disk: DiskId, path: PathId) -> Result<Arc<FencePath>, PrError> {
        let Some(found) = self.disks.get(&disk) else {
            return Err(PrError::Illegal(format!(
                "disk {disk} isn't one of the shared disks: nothing is sent to it; name it in `disks` if it is shared"
            )));
        };
        let paths = found.paths.read().unwrap_or_else(PoisonError::into_inner);
        match paths.get(usize::from(path.0)) {
            Some(path) => Ok(path.clone()),
            None => Err(PrError::Transport(format!(
                "disk {} has no path {} here ({} known); check its cables and that the kernel shows it",
                found.name,
                path.0,
                paths.len()
            ))),
        }
    }
}

impl Fence for RealFence {
    fn paths(&self, disk: DiskId) -> u8 {
        let paths = self.disks.get(&disk).map_or(0, |disk| {
            let paths = disk.paths.read().unwrap_or_else(PoisonError::into_inner);
            paths.len()
        });
        // At most PATHS_MAX.
        (paths as u8).max(1)
    }

    fn name(&self, disk: DiskId, path: PathId) -> String {
        match self.path(disk, path) {
            Ok(path) => path.to_string(),
            Err(_) => format!("disk {disk}, path {}", path.0),
        }
    }

    fn execute(
        &self,
        disk: DiskId,
        path: PathId,
        command: PrCommand,
        _deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let path = self.path(disk, path)?;
        match path.ask(path::Ask::Command(command))? {
            path::Told::Reply(reply) => Ok(reply),
            path::Told::Examined(found) => Err(PrError::Transport(format!(
                "a command was answered with {found:?}"
            ))),
        }
    }
}

/// Why a command over an opened path failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    error: PrError,
    /// The port is of no more use.
    reopen: bool,
}

impl From<PrError> for Failed {
    fn from(error: PrError) -> Failed {
        Failed {
            error,
            reopen: false,
        }
    }
}

impl From<PortError> for Failed {
    fn from(error: PortError) -> Failed {
        match error {
            PortError::Denied(why) => PrError::Illegal(why).into(),
            PortError::Failed(why) => PrError::Transport(why).into(),
            PortError::Gone(why) => Failed {
                error: PrError::Transport(why),
                reopen: true,
            },
        }
    }
}
