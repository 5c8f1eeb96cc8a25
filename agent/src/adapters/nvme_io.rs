//! NVMe commands through the kernel: the pass-through ioctls on `/dev/nvmeXnY`.
//!
//! - The node is opened for reading only, for the reasons in [`crate::adapters::sg_io`]. The kernel lets the commands of
//!   reservations pass with CAP_SYS_ADMIN, however the node was opened (`nvme_cmd_allowed`; before 6.2 always so).
//! - The namespace's own node sends to whichever path works, where the kernel's multipath is on; that is right for
//!   reservations, since a registrant is the host, not the path.
//! - A command that times out makes the kernel abort it and then reset the whole controller: the timeout is long, and
//!   the deadline of a takeover is kept by whoever waits for us.

use crate::adapters::nvme::status::Status;
use crate::adapters::nvme::{Command, Queue};
use crate::adapters::ports::{Data, Node, NvmeEnd, NvmePort, PortError};
use crate::adapters::sg_io::{errno_error, open_node};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// Most data of one command of ours.
const DATA_MAX: usize = 64 * 1024;

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct Passthrough {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<Passthrough>() == 72);

/// The macros' functions are public: kept in here.
mod request {
    nix::ioctl_none!(id, b'N', 0x40);
    nix::ioctl_readwrite!(admin, b'N', 0x41, super::Passthrough);
    nix::ioctl_readwrite!(io, b'N', 0x43, super::Passthrough);
}

/// One opened NVMe namespace.
#[derive(Debug)]
pub struct NvmeNode {
    device: File,
    name: String,
    namespace: u32,
}

impl NvmeNode {
    /// Opens the node of a namespace under `dev` (`/dev`), for reading.
    ///
    /// # Errors
    /// As for SCSI; or the node is no namespace.
    pub fn open(dev: &Path, node: &Node) -> Result<NvmeNode, PortError> {
        let device = open_node(dev, node)?;
        let name = node.name.clone();
        // SAFETY: the request takes no argument and returns a number; the descriptor is open.
        match unsafe { request::id(device.as_raw_fd()) } {
            Ok(namespace) => Ok(NvmeNode {
                device,
                name,
                namespace: namespace as u32,
            }),
            Err(errno) => Err(errno_error(
                "asking for the namespace of",
                &name,
                &errno.into(),
            )),
        }
    }
}

impl NvmePort for NvmeNode {
    fn submit(
        &mut self,
        command: &Command,
        data: Data<'_>,
        timeout: Duration,
    ) -> Result<NvmeEnd, PortError> {
        let mut buffer = match data {
            Data::Out(bytes) => bytes.to_vec(),
            Data::In(room) => vec![0; room],
        };
        if buffer.len() > DATA_MAX {
            let why = "the command's data are too long";
            return Err(PortError::Failed(format!("{}: {why}", self.name)));
        }
        let mut passthrough = Passthrough {
            opcode: command.opcode,
            nsid: self.namespace,
            addr: buffer.as_mut_ptr() as u64,
            data_len: buffer.len() as u32,
            cdw10: command.cdw10,
            cdw11: command.cdw11,
            timeout_ms: u32::try_from(timeout.as_millis())
                .unwrap_or(u32::MAX)
                .max(1),
            ..Passthrough::default()
        };
        let descriptor = self.device.as_raw_fd();
        let done = match command.queue {
            // SAFETY: the address is that of `buffer`, which lives through the call and is as long as the command
            // says; the ioctl is synchronous and keeps nothing of it. The descriptor is open.
            Queue::Admin => unsafe { request::admin(descriptor, &raw mut passthrough) },
            // SAFETY: as above.
            Queue::Io => unsafe { request::io(descriptor, &raw mut passthrough) },
        };
        match done {
            Ok(code) => {
                if matches!(data, Data::Out(_)) {
                    buffer.clear();
                }
                Ok(NvmeEnd {
                    status: Status::from_code(code as u32),
                    data: buffer,
                })
            }
            Err(errno) => Err(errno_error("sending to", &self.name, &errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::nvme::reservation;

    #[test]
    fn a_node_that_refuses_the_command_says_so() {
        let device = File::open("/dev/null").expect("it is always there");
        let name = "null".to_owned();
        let mut port = NvmeNode {
            device,
            name,
            namespace: 1,
        };
        let report = reservation::report(4096, true);
        let answer = port.submit(&report, Data::In(4096), Duration::from_secs(1));
        assert!(matches!(&answer, Err(PortError::Failed(why)) if why.contains("null")));
        let long = port.submit(&report, Data::In(DATA_MAX + 4), Duration::from_secs(1));
        assert!(matches!(&long, Err(PortError::Failed(why)) if why.contains("too long")));
    }
}
