//! The seam between reservations as bytes and the kernel: one opened path that takes a command and answers it.
//!
//! The daemon's ports are [`crate::adapters::sg_io`] and [`crate::adapters::nvme_io`]; tests put a target of their own
//! behind the same traits.

use crate::adapters::nvme::Command;
use crate::adapters::nvme::status::Status;
use std::time::Duration;

/// Data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// These bytes go to the device.
    Out(&'a [u8]),
    /// At most so many bytes come from the device.
    In(usize),
}

/// How a SCSI command ended, where it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScsiEnd {
    /// SCSI status: 0 is GOOD.
    pub status: u8,
    /// Sense data; empty where there are none.
    pub sense: Vec<u8>,
    /// What came.
    pub data: Vec<u8>,
}

/// How an NVMe command ended, where it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeEnd {
    /// `None` for success.
    pub status: Option<Status>,
    /// What came; all zeroes where nothing did.
    pub data: Vec<u8>,
}

/// Why a command has no end: it may have been carried out or not, unless it is `Denied`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The kernel doesn't let this process send it; nothing was done.
    #[error("{0}")]
    Denied(String),
    /// The device that this port was opened on is gone: the path must be opened anew.
    #[error("{0}")]
    Gone(String),
    /// The path, the driver or the command's time failed.
    #[error("{0}")]
    Failed(String),
}

/// One path to a SCSI disk.
pub trait ScsiPort: Send {
    /// Sends a command and waits for its end. `timeout`: when the kernel begins to abort it; may take longer.
    ///
    /// # Errors
    /// See [`PortError`]; a status other than GOOD is no error here.
    fn submit(
        &mut self,
        cdb: &[u8],
        data: Data<'_>,
        timeout: Duration,
    ) -> Result<ScsiEnd, PortError>;

    /// Resets the logical unit. The commands of every initiator in it are lost: only for a disk that nobody uses.
    ///
    /// # Errors
    /// See [`PortError`]; also where the port has no such thing.
    fn reset_unit(&mut self) -> Result<(), PortError> {
        Err(PortError::Failed(
            "this path can't be told to reset the unit".to_owned(),
        ))
    }
}

/// One path to an NVMe namespace.
pub trait NvmePort: Send {
    /// As [`ScsiPort::submit`].
    ///
    /// # Errors
    /// See [`PortError`]; a status other than success is no error here.
    fn submit(
        &mut self,
        command: &Command,
        data: Data<'_>,
        timeout: Duration,
    ) -> Result<NvmeEnd, PortError>;
}

/// One opened path.
pub enum Port {
    /// A SCSI disk.
    Scsi(Box<dyn ScsiPort>),
    /// An NVMe namespace.
    Nvme(Box<dyn NvmePort>),
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Port::Scsi(_) => "Port::Scsi",
            Port::Nvme(_) => "Port::Nvme",
        })
    }
}

/// What a path speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SCSI commands.
    Scsi,
    /// NVMe commands.
    Nvme,
}

/// A device node of one path, as the kernel numbers it now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// What it speaks.
    pub kind: Kind,
    /// Name of the block device, `sdb` or `nvme0n1`; good until the device goes.
    pub name: String,
    /// Its device number, major and minor: a node under `/dev` with another one is refused.
    pub number: (u32, u32),
}

/// Opens paths.
pub trait Opener: Send + Sync {
    /// Opens one, for reading only; may block as long as the kernel likes.
    ///
    /// # Errors
    /// The node is missing, is another device, or this process may not open it.
    fn open(&self, node: &Node) -> Result<Port, PortError>;
}
