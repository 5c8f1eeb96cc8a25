//! Two controllers, a disk, two paths each: what the tests of the fence share.

use crate::nvme_target::NvmeTarget;
use crate::scsi_target::{Nexus, Target};
use failover_core::adapters::Fence as _;
use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::{DiskId, Epoch, Node as Controller, PathId};
use failover_core::key::{EpochBits, Key, Phase};
use failover_core::perform::perform_disk;
use failover_core::pr::{PrCommand, PrError, PrReply};
use failoverd::adapters::disk_paths::{DiskPath, SharedDisk};
use failoverd::adapters::fence::{Options, RealFence};
use failoverd::adapters::identity::Identity;
use failoverd::adapters::ports::{Kind, Node, Opener, Port, PortError};
use failoverd::engine::Engine;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Far more than any command here takes, on however slow a machine; tests of stuck paths bring their own.
pub const PATIENT: Duration = Duration::from_secs(20);
pub const NAA: [u8; 8] = [0x50, 0x00, 0xc5, 0x00, 0xa1, 0xb2, 0xc3, 0xd4];
pub const NAME: &str = "naa.5000c500a1b2c3d4";
pub const NGUID: [u8; 16] = [0x42; 16];
pub const NVME_NAME: &str = "eui.42424242424242424242424242424242";

/// What a node leads to.
#[derive(Clone)]
pub enum Device {
    Scsi(Target, Nexus),
    Nvme(NvmeTarget, [u8; 16]),
}

/// A machine's device nodes.
#[derive(Clone, Default)]
pub struct Nodes(pub Arc<Mutex<BTreeMap<String, Device>>>);

impl Nodes {
    pub fn plug(&self, name: &str, device: Device) {
        let mut nodes = self.0.lock().expect("no panic inside");
        nodes.insert(name.to_owned(), device);
    }
}

impl Opener for Nodes {
    fn open(&self, node: &Node) -> Result<Port, PortError> {
        match self.0.lock().expect("no panic inside").get(&node.name) {
            Some(Device::Scsi(target, nexus)) => Ok(Port::Scsi(target.port(*nexus))),
            Some(Device::Nvme(target, host)) => Ok(Port::Nvme(target.port(*host))),
            None => Err(PortError::Gone(format!("{}: no such device", node.name))),
        }
    }
}

pub fn path(kind: Kind, name: &str, address: &str) -> DiskPath {
    DiskPath {
        node: Node {
            kind,
            name: name.to_owned(),
            number: (8, 0),
        },
        address: address.to_owned(),
    }
}

pub fn shared(name: &str, paths: &[DiskPath]) -> SharedDisk {
    SharedDisk {
        id: DiskId::of(name),
        identity: Identity::parse(name).expect("an identity"),
        paths: paths.to_vec(),
    }
}

pub fn key(node: Controller, epoch: u64, beat: u16) -> Key {
    Key {
        pair: 0xfa11,
        node,
        held: false,
        phase: Phase::Owner,
        incarnation: 3,
        epoch: EpochBits::of(Epoch(epoch)),
        beat,
    }
}

/// One controller with its fence and one disk.
pub struct Side {
    pub fence: Arc<RealFence>,
    /// What the daemon has before it.
    pub engine: Engine,
    pub nodes: Nodes,
    pub disk: DiskId,
}

impl Side {
    /// A controller with two SCSI paths to `target`.
    pub fn scsi(target: &Target, initiator: &'static str, options: Options) -> Side {
        let nodes = Nodes::default();
        nodes.plug("sdb", Device::Scsi(target.clone(), (initiator, 0)));
        nodes.plug("sdc", Device::Scsi(target.clone(), (initiator, 1)));
        let paths = [
            path(Kind::Scsi, "sdb", "2:0:0:0"),
            path(Kind::Scsi, "sdc", "3:0:0:0"),
        ];
        let disks = [shared(NAME, &paths)];
        let fence = Arc::new(RealFence::new(Arc::new(nodes.clone()), options, &disks));
        Side {
            engine: Engine::new(fence.clone()).expect("a thread"),
            fence,
            nodes,
            disk: DiskId::of(NAME),
        }
    }

    /// A controller with two nodes of one NVMe namespace.
    pub fn nvme(target: &NvmeTarget, host: [u8; 16], options: Options) -> Side {
        let nodes = Nodes::default();
        for name in ["nvme0n1", "nvme1n1"] {
            nodes.plug(name, Device::Nvme(target.clone(), host));
        }
        let paths = [
            path(Kind::Nvme, "nvme0n1", "nvme0:1"),
            path(Kind::Nvme, "nvme1n1", "nvme1:1"),
        ];
        let disks = [shared(NVME_NAME, &paths)];
        let fence = Arc::new(RealFence::new(Arc::new(nodes.clone()), options, &disks));
        Side {
            engine: Engine::new(fence.clone()).expect("a thread"),
            fence,
            nodes,
            disk: DiskId::of(NVME_NAME),
        }
    }

    pub fn run(&self, work: DiskWork) -> DiskOutcome {
        perform_disk(&self.engine, self.disk, work, PATIENT)
    }

    pub fn send(&self, path: u8, command: PrCommand) -> Result<PrReply, PrError> {
        self.engine
            .execute(self.disk, PathId(path), command, PATIENT)
    }

    pub fn survey(&self) -> Survey {
        match self.run(DiskWork::Survey) {
            DiskOutcome::Surveyed(survey) => survey,
            other => panic!("no survey: {other:?}"),
        }
    }

    pub fn take(&self, key: Key) -> DiskOutcome {
        let surveyed = self.survey();
        self.run(DiskWork::take(key, surveyed))
    }
}

pub const STRICT: Options = Options {
    accept_volatile: false,
};
