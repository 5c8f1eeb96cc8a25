//! A shelf of emulated disks that speak SCSI: bytes in, a wait, bytes out.

use super::Setting;
use crate::disk::{Disk, Nexus};
use failover_core::ids::{DiskId, Node};
use failover_core::key::Key;
use failover_core::pr::{PrCommand, PrError, PrReply};
use failoverd::adapters::disk_paths::{DiskPath, SharedDisk};
use failoverd::adapters::identity::Identity;
use failoverd::adapters::ports::{
    Data, Kind, Node as DeviceNode, Opener, Port, PortError, ScsiEnd, ScsiPort,
};
use failoverd::adapters::scsi::ReservationType;
use failoverd::adapters::scsi::pr_in::{FullStatus, Held, Keys, Registration, Reservation};
use failoverd::adapters::scsi::pr_out::{self, Action, Parameters};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// What all emulated disks share.
pub(super) struct Shelf {
    latency: Duration,
    disks: Vec<Mutex<Disk>>,
    stuck: Mutex<bool>,
    released: Condvar,
    /// What commands took, microseconds.
    pub(super) took_us: Mutex<Vec<u32>>,
}

/// A mutex whose holder can't leave it half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// Disks that `owner` holds.
    pub(super) fn new(setting: Setting, owner: Key) -> Shelf {
        let key = owner.to_bits();
        let owned = |_| {
            let mut disk = Disk::new(true);
            for command in [
                PrCommand::RegisterIgnore { new: key },
                PrCommand::Reserve { key },
            ] {
                // A new disk takes both.
                let _ = disk.execute(Nexus::new(owner.node, 0), command);
            }
            Mutex::new(disk)
        };
        Shelf {
            latency: setting.latency,
            disks: (0..setting.disks).map(owned).collect(),
            stuck: Mutex::new(setting.stuck_percent > 0),
            released: Condvar::new(),
            took_us: Mutex::default(),
        }
    }

    /// Lets what hangs go on.
    pub(super) fn release(&self) {
        *lock(&self.stuck) = false;
        self.released.notify_all();
    }

    /// Disks that this controller holds.
    pub(super) fn held_by(&self, node: Node) -> usize {
        let held = |disk: &&Mutex<Disk>| lock(disk).holder().is_some_and(|by| by.node == node);
        self.disks.iter().filter(held).count()
    }
}

/// Evenly spread; the arbiters, which are the first three, never.
pub(super) fn is_stuck(index: usize, percent: usize) -> bool {
    index >= 3 && (index + 1) * percent / 100 > index * percent / 100
}

pub(super) fn identity(index: usize) -> String {
    format!("naa.5000c500{index:08x}")
}

/// One path to one emulated disk.
struct Emulated {
    shelf: Arc<Shelf>,
    index: usize,
    stuck: bool,
}

/// Opens them.
pub(super) struct Bays {
    pub(super) shelf: Arc<Shelf>,
    pub(super) stuck_percent: usize,
}

impl Opener for Bays {
    fn open(&self, node: &DeviceNode) -> Result<Port, PortError> {
        let number = node.name.strip_prefix("sd").and_then(|n| n.parse().ok());
        let index: usize = number.ok_or_else(|| PortError::Gone(node.name.clone()))?;
        Ok(Port::Scsi(Box::new(Emulated {
            shelf: self.shelf.clone(),
            index,
            stuck: is_stuck(index, self.stuck_percent),
        })))
    }
}

impl ScsiPort for Emulated {
    fn submit(
        &mut self,
        cdb: &[u8],
        data: Data<'_>,
        _timeout: Duration,
    ) -> Result<ScsiEnd, PortError> {
        // Who the disk is, is told from memory: the kernel has it cached too.
        if cdb.first() == Some(&0x12) {
            return Ok(good(self.identification()));
        }
        let began = Instant::now();
        std::thread::sleep(self.shelf.latency);
        if self.stuck {
            let held = |stuck: &mut bool| *stuck;
            let state = self
                .shelf
                .released
                .wait_while(lock(&self.shelf.stuck), held);
            drop(state.unwrap_or_else(PoisonError::into_inner));
        }
        let end = self.answer(cdb, data);
        if !self.stuck {
            let took = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
            lock(&self.shelf.took_us).push(took);
        }
        Ok(end)
    }
}

fn good(data: Vec<u8>) -> ScsiEnd {
    ScsiEnd {
        data,
        ..ScsiEnd::default()
    }
}

/// Fixed format (SPC-4 4.5.3).
fn check(key: u8, asc: u8, ascq: u8) -> ScsiEnd {
    let sense = vec![
        0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0,
    ];
    ScsiEnd {
        status: 2,
        sense,
        data: Vec::new(),
    }
}

impl Emulated {
    /// VPD page 83h: one NAA designator.
    fn identification(&self) -> Vec<u8> {
        let naa = 0x5000_c500_0000_0000_u64 | self.index as u64;
        let mut page = vec![0, 0x83, 0, 12, 0x01, 0x03, 0, 8];
        page.extend(naa.to_be_bytes());
        page
    }

    fn answer(&self, cdb: &[u8], data: Data<'_>) -> ScsiEnd {
        let Some(command) = command_of(cdb, data) else {
            return check(5, 0x20, 0);
        };
        let Some(disk) = self.shelf.disks.get(self.index) else {
            return check(5, 0x25, 0);
        };
        let mut disk = lock(disk);
        match disk.execute(Nexus::new(Node::A, 0), command) {
            Ok(reply) => good(bytes_of(reply, &disk)),
            Err(PrError::Conflict) => ScsiEnd {
                status: 0x18,
                ..ScsiEnd::default()
            },
            Err(PrError::UnitAttention(_)) => check(6, 0x29, 0),
            Err(PrError::Illegal(_)) => check(5, 0x24, 0),
            Err(PrError::Transport(_)) => check(4, 0x44, 0),
        }
    }
}

fn command_of(cdb: &[u8], data: Data<'_>) -> Option<PrCommand> {
    let Data::Out(list) = data else {
        return match cdb.get(..2)? {
            [0x5e, 0] => Some(PrCommand::ReadKeys),
            [0x5e, 1] => Some(PrCommand::ReadReservation),
            [0x5e, 3] => Some(PrCommand::ReadFull),
            _ => None,
        };
    };
    let (action, _, _) = pr_out::Action::of_cdb(cdb).ok()?;
    let Parameters {
        key: own,
        action_key,
        ..
    } = Parameters::decode(list).ok()?;
    Some(match action {
        Action::Register => PrCommand::Register {
            old: own,
            new: action_key,
        },
        Action::RegisterAndIgnore => PrCommand::RegisterIgnore { new: action_key },
        Action::Reserve => PrCommand::Reserve { key: own },
        Action::Release => PrCommand::Release { key: own },
        Action::Clear => PrCommand::Clear { key: own },
        Action::Preempt => PrCommand::Preempt {
            own,
            victim: action_key,
        },
        Action::PreemptAndAbort => PrCommand::PreemptAbort {
            own,
            victim: action_key,
        },
    })
}

fn bytes_of(reply: PrReply, disk: &Disk) -> Vec<u8> {
    match reply {
        PrReply::Good => Vec::new(),
        PrReply::Keys { generation, keys } => Keys { generation, keys }.encode(),
        PrReply::Reservation {
            generation, holder, ..
        } => {
            let held = holder.map(|key| Held {
                key,
                scope: 0,
                kind: WERO,
            });
            Reservation { generation, held }.encode()
        }
        PrReply::Full { generation, .. } => {
            let holder = disk.holder();
            let one = |(nexus, key): (Nexus, u64)| Registration {
                key,
                holder: holder == Some(nexus),
                all_target_ports: false,
                scope: 0,
                kind: if holder == Some(nexus) {
                    WERO
                } else {
                    ReservationType::from_code(0)
                },
                target_port: 1,
                transport_id: vec![0; 24],
            };
            let registrations = disk.registrations().map(one).collect();
            FullStatus {
                generation,
                registrations,
            }
            .encode()
        }
    }
}

/// The disks as the fence knows them: one path each.
pub(super) fn shared(disks: usize) -> Result<Vec<SharedDisk>, String> {
    let shared = |index| {
        let name = identity(index);
        let path = DiskPath {
            node: DeviceNode {
                kind: Kind::Scsi,
                name: format!("sd{index}"),
                number: (8, 0),
            },
            address: format!("0:0:{index}:0"),
        };
        Ok(SharedDisk {
            id: DiskId::of(&name),
            identity: Identity::parse(&name).map_err(|error| error.to_string())?,
            paths: vec![path],
        })
    };
    (0..disks).map(shared).collect()
}
