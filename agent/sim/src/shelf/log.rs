//! The pool of the demo: an append-only log of numbered, checksummed records, striped over the disks.

use failover_core::ids::Node;
use serde::{Deserialize, Serialize};

/// A record as its writer sends it to a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Place in the log; the disk is this modulo the number of disks.
    pub position: u64,
    /// The client's number; 0 for the pool's own periodic write.
    pub number: u64,
    /// Of number and payload.
    pub checksum: u64,
    /// What the client sent.
    pub payload: String,
}

impl Record {
    /// A record with its checksum.
    pub fn new(position: u64, number: u64, payload: String) -> Record {
        Record {
            position,
            number,
            checksum: checksum(number, payload.as_bytes()),
            payload,
        }
    }

    /// Whether the checksum is that of the content.
    pub fn is_whole(&self) -> bool {
        self.checksum == checksum(self.number, self.payload.as_bytes())
    }
}

/// FNV-1a over the number and the payload.
pub fn checksum(number: u64, payload: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in number.to_be_bytes().iter().chain(payload) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// A write that a disk accepted and carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// What was written.
    pub record: Record,
    /// By whom.
    pub node: Node,
    /// Key that was registered over the writer's path when the write arrived; `None` without one.
    pub key: Option<u64>,
    /// When it landed, microseconds of the shelf's clock.
    pub at_micros: u64,
}

/// The beginning of an import, as the shelf saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportMark {
    /// Who imports.
    pub node: Node,
    /// When it began, microseconds of the shelf's clock.
    pub at_micros: u64,
}

/// What one disk's log holds from a place on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPart {
    /// Count of all writes that ever landed before the first of `landed`.
    pub from: u64,
    /// In the order in which they landed.
    pub landed: Vec<Landed>,
}

/// Checks the tail of a pool's log as an import does: the last `count` records by position, each checksum.
/// Answers the records in order of position.
pub fn verify_tail(mut records: Vec<Record>, count: usize) -> Result<Vec<Record>, String> {
    records.sort_unstable_by_key(|record| record.position);
    let surplus = records.len().saturating_sub(count);
    records.drain(..surplus);
    match records.iter().find(|record| !record.is_whole()) {
        Some(bad) => Err(format!(
            "the pool's log is damaged: the record at position {} has a wrong checksum",
            bad.position
        )),
        None => Ok(records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_tail_is_refused() {
        let mut records: Vec<Record> = (0..20)
            .rev()
            .map(|n| Record::new(n, n + 1, format!("payload {n}")))
            .collect();
        let tail = verify_tail(records.clone(), 5).expect("all whole");
        assert_eq!(tail.first().map(|record| record.position), Some(15));
        records[4].payload.push('!');
        let why = verify_tail(records.clone(), 5).expect_err("position 15 is damaged");
        assert!(why.contains("position 15"), "{why}");
        assert!(verify_tail(records, 4).is_ok(), "only the tail is read");
    }
}
