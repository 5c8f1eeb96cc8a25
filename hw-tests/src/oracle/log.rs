//! The recorder's log: records one after another, nothing else.

use super::record::{RECORD_BYTES, Record};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Size above which a log is not read: a run of a day stays far below.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// One place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A whole record.
    Whole(Record),
    /// Bytes that are no record, or the log's last ones and too few.
    Broken,
}

/// The log's places in their order.
pub fn slots(bytes: &[u8]) -> impl Iterator<Item = Slot> {
    bytes
        .chunks(RECORD_BYTES)
        .map(|chunk| Record::decode(chunk).map_or(Slot::Broken, Slot::Whole))
}

/// Bytes up to the end of the last whole record. What follows was never acknowledged by anyone who could write, or its
/// loss is what the judge looks for: it names no number that could be kept.
pub fn without_torn_tail(bytes: &[u8]) -> usize {
    let last = slots(bytes)
        .enumerate()
        .filter(|(_, slot)| matches!(slot, Slot::Whole(_)))
        .last();
    last.map_or(0, |(place, _)| (place + 1) * RECORD_BYTES)
}

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    file: File,
    numbers: HashMap<u64, HashSet<u64>>,
    /// Records that were found in it.
    pub found: usize,
    /// Bytes of a torn tail that were cut off.
    pub cut: usize,
}

impl Log {
    /// Opens or makes the log, cuts a torn tail off and makes durable what it found: its numbers are acknowledged
    /// without another write. Damage before the last whole record stays for the judge.
    pub fn open(path: &Path) -> io::Result<Log> {
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let mut file = options.open(path)?;
        let length = file.metadata()?.len();
        if length > LOG_BYTES_MAX {
            return Err(io::Error::other(format!(
                "{} has {length} bytes, which is no log of a test: remove it",
                path.display()
            )));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let keep = without_torn_tail(&bytes);
        file.set_len(keep as u64)?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        let mut numbers: HashMap<u64, HashSet<u64>> = HashMap::new();
        let mut found = 0;
        for slot in slots(&bytes[..keep]) {
            if let Slot::Whole(record) = slot {
                numbers.entry(record.run).or_default().insert(record.number);
                found += 1;
            }
        }
        Ok(Log {
            file,
            numbers,
            found,
            cut: bytes.len() - keep,
        })
    }

    /// Appends those records that the log doesn't hold yet, and makes all of them durable. After an error nothing is
    /// known about any of them, and the log must not be used again.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            if self
                .numbers
                .entry(record.run)
                .or_default()
                .insert(record.number)
            {
                bytes.extend_from_slice(&record.encode());
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all(&bytes)?;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn record(number: u64) -> Record {
        Record {
            run: 1,
            number,
            writer: 9,
        }
    }

    #[test]
    fn nothing_is_appended_twice_over_restarts_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut log = Log::open(&path).expect("a log");
        log.append(&[record(1), record(2), record(1)])
            .expect("appended");
        let mut log = Log::open(&path).expect("the log again");
        assert_eq!((log.found, log.cut), (2, 0));
        log.append(&[record(2), record(3)]).expect("appended");
        let bytes = fs::read(&path).expect("the log is read");
        let wanted = [1, 2, 3].map(|number| Slot::Whole(record(number)));
        assert_eq!(slots(&bytes).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_damage_before_it_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut bytes = record(1).encode().to_vec();
        bytes.extend_from_slice(&[0; RECORD_BYTES]);
        bytes.extend_from_slice(&record(2).encode());
        let whole = bytes.len();
        bytes.extend_from_slice(&record(3).encode()[..40]);
        fs::write(&path, &bytes).expect("written");
        let log = Log::open(&path).expect("a log");
        assert_eq!((log.found, log.cut), (2, 40));
        assert_eq!(fs::read(&path).expect("read"), bytes[..whole]);
    }
}
