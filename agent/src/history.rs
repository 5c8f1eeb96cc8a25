//! The history of transitions: a bounded file of JSON lines, and the same in memory for readers.

use crate::adapters::clock::wall_ms;
use crate::journal::replace;
use failover_api::HistoryRecord;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records kept.
const RECORDS_MAX: usize = 1000;
/// The file is cut back to `RECORDS_MAX` records when it is longer than this.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Records that readers see, newest last.
#[derive(Clone, Debug, Default)]
pub struct Past(Arc<Mutex<VecDeque<HistoryRecord>>>);

impl Past {
    /// The newest `limit` records, oldest first.
    pub fn newest(&self, limit: usize) -> Vec<HistoryRecord> {
        let records = self.records();
        let skip = records.len().saturating_sub(limit);
        records.iter().skip(skip).cloned().collect()
    }

    fn records(&self) -> MutexGuard<'_, VecDeque<HistoryRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the history. Losing it loses no safety: its trouble is told once and nothing waits for it.
#[derive(Debug)]
pub(crate) struct HistoryFile {
    path: PathBuf,
    file: Option<File>,
    length: u64,
    past: Past,
    next_seq: u64,
    told: bool,
}

impl HistoryFile {
    /// Reads what is there.
    pub(crate) fn open(state_dir: &Path, past: Past) -> HistoryFile {
        let path = state_dir.join("history");
        let mut history = HistoryFile {
            file: None,
            length: 0,
            past,
            next_seq: 1,
            told: false,
            path,
        };
        let text = history.read_tail();
        let mut records = history.past.records();
        for line in text.lines() {
            if let Ok(record) = serde_json::from_str::<HistoryRecord>(line) {
                history.next_seq = history.next_seq.max(record.seq.saturating_add(1));
                records.push_back(record);
            }
        }
        let surplus = records.len().saturating_sub(RECORDS_MAX);
        records.drain(..surplus);
        drop(records);
        history
    }

    fn read_tail(&mut self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(FILE_MAX_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                self.tell("read", &error);
                String::new()
            }
        }
    }

    /// Numbers a record, adds the wall time and keeps it.
    pub(crate) fn keep(&mut self, mut record: HistoryRecord) {
        record.seq = self.next_seq;
        self.next_seq = self.next_seq.saturating_add(1);
        record.wall_ms = wall_ms();
        let line = serde_json::to_string(&record);
        {
            let mut records = self.past.records();
            records.push_back(record);
            if records.len() > RECORDS_MAX {
                records.pop_front();
            }
        }
        let Ok(line) = line else {
            return;
        };
        match self.append(line + "\n") {
            Ok(()) => self.told = false,
            Err(error) => self.tell("written", &error),
        }
    }

    fn append(&mut self, line: String) -> io::Result<()> {
        if self.length > FILE_MAX_BYTES {
            self.cut_back()?;
        }
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            let options = options.read(true).append(true).create(true).mode(0o640);
            let mut file = options.open(&self.path)?;
            self.length = file.metadata()?.len();
            // A torn last line must not swallow the next record.
            if self.length > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    file.write_all(b"\n")?;
                }
            }
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let written = file.write_all(line.as_bytes());
        match written {
            Ok(()) => self.length += line.len() as u64,
            Err(_) => self.file = None,
        }
        written
    }

    fn cut_back(&mut self) -> io::Result<()> {
        // Half of the bound at most, so that the next cut is far away whatever the size of the records.
        let mut lines: Vec<String> = Vec::new();
        let mut length = 0;
        for record in self.past.newest(RECORDS_MAX).iter().rev() {
            let line = serde_json::to_string(record)? + "\n";
            length += line.len() as u64;
            if length > FILE_MAX_BYTES / 2 {
                break;
            }
            lines.push(line);
        }
        lines.reverse();
        let text = lines.concat();
        self.file = None;
        replace(&self.path, text.as_bytes(), false)?;
        self.length = text.len() as u64;
        fs::metadata(&self.path).map(|_| ())
    }

    fn tell(&mut self, what: &str, error: &io::Error) {
        if !self.told {
            tracing::warn!(
                "{}: the history can't be {what}: {error}; check the folder and its disk",
                self.path.display()
            );
            self.told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover_api::{Node, Status};

    fn record(why: &str) -> HistoryRecord {
        HistoryRecord {
            seq: 1,
            at_micros: 5,
            wall_ms: None,
            node: Node::A,
            from: "electing".to_owned(),
            to: "standby".to_owned(),
            status: Status::Backup,
            why: why.to_owned(),
            evidence: Vec::new(),
            epoch: 1,
            phases: Vec::new(),
        }
    }

    #[test]
    fn records_are_numbered_over_restarts_and_a_torn_line_costs_itself_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut history = HistoryFile::open(dir.path(), Past::default());
        history.keep(record("one"));
        history.keep(record("two"));
        let path = dir.path().join("history");
        let mut text = fs::read_to_string(&path).expect("there");
        text.push_str("{\"seq\":3,");
        fs::write(&path, text).expect("torn");
        let past = Past::default();
        let mut history = HistoryFile::open(dir.path(), past.clone());
        history.keep(record("three"));
        let whys = |past: &Past| -> Vec<(u64, String)> {
            past.newest(9).into_iter().map(|r| (r.seq, r.why)).collect()
        };
        let all: Vec<(u64, String)> = (1..)
            .zip(["one", "two", "three"].map(str::to_owned))
            .collect();
        assert_eq!(whys(&past), all);
        assert!(past.newest(1)[0].wall_ms.is_some());
        let past = Past::default();
        HistoryFile::open(dir.path(), past.clone());
        assert_eq!(whys(&past), all);
    }

    #[test]
    fn memory_and_file_are_bounded() {
        let dir = tempfile::tempdir().expect("a folder");
        let past = Past::default();
        let mut history = HistoryFile::open(dir.path(), past.clone());
        let long = "x".repeat(8000);
        for _ in 0..RECORDS_MAX + 100 {
            history.keep(record(&long));
        }
        assert_eq!(past.newest(usize::MAX).len(), RECORDS_MAX);
        let length = fs::metadata(dir.path().join("history"))
            .expect("there")
            .len();
        assert!(length < 2 * FILE_MAX_BYTES + 10_000_000, "{length}");
    }
}
