//! Commands of a check that the fence has none of: reading and writing one block, resetting the unit.

use crate::adapters::identity::Identity;
use crate::adapters::ports::{Data, Node, Opener, Port, ScsiEnd, ScsiPort};
use crate::adapters::scsi::inquiry;
use crate::adapters::scsi::sense::{Sense, SenseKey};
use std::time::Duration;

/// For a block; the kernel takes less than 7 s for 7 s.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A path tells of each reset and each lost registration once.
const ATTENTIONS_MAX: usize = 8;
const BLOCK_MAX: u32 = 65_536;
const CONFLICT: u8 = 0x18;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The disk took it.
    Yes,
    /// RESERVATION CONFLICT.
    Refused,
}

/// One SCSI path, opened beside the fence's.
pub(super) struct RawPath(Box<dyn ScsiPort>);

impl RawPath {
    /// Opens a path and looks whether it leads to `disk`. `None` for NVMe.
    pub(super) fn open(
        opener: &dyn Opener,
        node: &Node,
        disk: &Identity,
    ) -> Result<Option<RawPath>, String> {
        let mut path = match opener.open(node).map_err(|error| error.to_string())? {
            Port::Scsi(port) => RawPath(port),
            Port::Nvme(_) => return Ok(None),
        };
        let cdb = inquiry::page_cdb(inquiry::PAGE_IDENTIFICATION, 1024);
        let page = path.good(&cdb, Data::In(1024))?.data;
        let shown = inquiry::decode_designators(&page).map_err(|error| error.to_string())?;
        match inquiry::identities(&shown).contains(disk) {
            true => Ok(Some(path)),
            false => Err(format!("{} is another disk by now", node.name)),
        }
    }

    /// Writes the first block as it is: nothing is lost where the write is taken.
    pub(super) fn write_back(&mut self) -> Result<Written, String> {
        // READ CAPACITY (10), SBC-3 5.15: last block, length of a block.
        let capacity = self.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Data::In(8))?;
        let length = capacity
            .data
            .get(4..8)
            .and_then(|bytes| bytes.try_into().ok());
        let length = u32::from_be_bytes(length.ok_or("READ CAPACITY was cut short")?);
        if !(512..=BLOCK_MAX).contains(&length) {
            return Err(format!("blocks of {length} bytes"));
        }
        let block = |code: u8| [code, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let block_read = self.good(&block(0x28), Data::In(length as usize))?.data;
        if block_read.len() != length as usize {
            return Err("the first block was cut short".to_owned());
        }
        let end = self.submit(&block(0x2a), Data::Out(&block_read))?;
        match end.status {
            0 => Ok(Written::Yes),
            CONFLICT => Ok(Written::Refused),
            _ => Err(words(&end)),
        }
    }

    /// Resets the unit.
    pub(super) fn reset(&mut self) -> Result<(), String> {
        self.0.reset_unit().map_err(|error| error.to_string())
    }

    fn good(&mut self, cdb: &[u8], data: Data<'_>) -> Result<ScsiEnd, String> {
        let end = self.submit(cdb, data)?;
        match end.status {
            0 => Ok(end),
            _ => Err(words(&end)),
        }
    }

    fn submit(&mut self, cdb: &[u8], data: Data<'_>) -> Result<ScsiEnd, String> {
        for _ in 0..ATTENTIONS_MAX {
            let end = self
                .0
                .submit(cdb, data, TIMEOUT)
                .map_err(|e| e.to_string())?;
            let attention = |sense: Sense| sense.key == SenseKey::UnitAttention;
            if end.status != 2 || !Sense::decode(&end.sense).is_ok_and(attention) {
                return Ok(end);
            }
        }
        Err("unit attention again and again".to_owned())
    }
}

fn words(end: &ScsiEnd) -> String {
    match Sense::decode(&end.sense) {
        Ok(sense) => sense.to_string(),
        Err(_) => format!("status {:02X}h", end.status),
    }
}
