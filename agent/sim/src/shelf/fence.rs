//! The daemon's reservations on the shelf: the core's `Fence`, one connection per disk.
//!
//! Work on one disk never overlaps, work on different disks does: with a connection for each disk no lane waits
//! for another's answer.

use super::client::ShelfConnection;
use super::wire::{Reply, Request};
use super::{disk_id, now_micros};
use failover_core::adapters::Fence;
use failover_core::ids::{DiskId, Node, PathId};
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// After a failed connect the next try waits this long: a cut path must not be hammered.
const RECONNECT_MICROS: u64 = 5_000;

#[derive(Debug, Default)]
struct Path {
    connection: Option<ShelfConnection>,
    failed_at: Option<u64>,
}

/// Reservations on the shelf's disks.
#[derive(Debug)]
pub struct ShelfFence {
    socket: PathBuf,
    node: Node,
    disks: BTreeMap<DiskId, (u32, Mutex<Path>)>,
}

impl ShelfFence {
    /// Reservations of `node` on the `count` disks of the shelf at `socket`. Connects when first used.
    pub fn new(socket: PathBuf, node: Node, count: usize) -> ShelfFence {
        let disk = |index: usize| (disk_id(index), (index as u32, Mutex::default()));
        ShelfFence {
            socket,
            node,
            disks: (0..count).map(disk).collect(),
        }
    }

    fn connection<'p>(&self, path: &'p mut Path) -> Result<&'p mut ShelfConnection, PrError> {
        if path.connection.is_none() {
            let now = now_micros();
            if path.failed_at.is_some_and(|at| now < at + RECONNECT_MICROS) {
                return Err(transport("the path to the shelf is cut"));
            }
            match ShelfConnection::connect(&self.socket, Some((self.node, 0))) {
                Ok(connection) => path.connection = Some(connection),
                Err(error) => {
                    path.failed_at = Some(now);
                    return Err(transport(&format!("connecting to the shelf: {error}")));
                }
            }
        }
        path.connection
            .as_mut()
            .ok_or_else(|| transport("the path to the shelf is cut"))
    }
}

impl Fence for ShelfFence {
    fn paths(&self, _disk: DiskId) -> u8 {
        1
    }

    fn execute(
        &self,
        disk: DiskId,
        path: PathId,
        command: PrCommand,
        deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let Some((index, slot)) = self.disks.get(&disk) else {
            return Err(PrError::Illegal(format!("disk {disk} is not in the shelf")));
        };
        if path.0 != 0 {
            return Err(PrError::Illegal(format!("disk {disk} has one path only")));
        }
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = self.connection(&mut slot)?;
        let request = Request::Reserve {
            disk: *index,
            command,
        };
        match connection.call(&request, deadline) {
            Ok(Reply::Disk(answer)) => answer,
            Ok(other) => Err(transport(&format!("the shelf answered {other:?}"))),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(transport(&format!(
                "no answer within {} ms",
                deadline.as_millis()
            ))),
            Err(error) => {
                slot.connection = None;
                Err(transport(&error.to_string()))
            }
        }
    }
}

fn transport(why: &str) -> PrError {
    PrError::Transport(why.to_owned())
}
