//! The durable journal, and the owner record of the runtime folder.
//!
//! ```text
//!   state_dir/journal        failoverd-journal 1
//!                            8f0a3c…  27 {"epoch":7}        checksum, length, entry: one line each
//!   runtime_dir/owner        the same form, with the boot's id: a record of another boot is ignored
//! ```
//!
//! Each record is flushed before `record` answers. A torn last line (the power went while it was written) is cut
//! off: it was never answered. Anything else that is wrong is refused: a journal that lost records must not be used.

use failover_core::action::{Entry, OwnerRecord, Restored};
use failover_core::adapters::{Failure, Journal};
use ring::digest;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const HEADER: &str = "failoverd-journal 1\n";
/// Longer journals are written anew with one record of each kind.
const COMPACT_AT_BYTES: u64 = 256 * 1024;
/// No journal that we wrote is longer.
const JOURNAL_MAX_BYTES: u64 = 16 * COMPACT_AT_BYTES;
const CHECKSUM_CHARS: usize = 16;

/// The journal of this controller.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    owner_path: PathBuf,
    boot: String,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// `None` after a failed write: what the file holds is unknown, and the next record writes it anew.
    file: Option<File>,
    length: u64,
    known: Restored,
}

/// What was found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Everything remembered.
    pub restored: Restored,
    /// What operators should know of it, in sentences.
    pub remarks: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct OwnerFile {
    boot: String,
    owner: OwnerRecord,
}

impl FileJournal {
    /// Opens or makes the journal in `state_dir`, and reads the owner record of `runtime_dir`.
    pub fn open(state_dir: &Path, runtime_dir: &Path) -> Result<(FileJournal, Loaded), Failure> {
        FileJournal::open_for_boot(state_dir, runtime_dir, &this_boot()?)
    }

    fn open_for_boot(
        state_dir: &Path,
        runtime_dir: &Path,
        boot: &str,
    ) -> Result<(FileJournal, Loaded), Failure> {
        let path = state_dir.join("journal");
        let owner_path = runtime_dir.join("owner");
        let mut remarks = Vec::new();
        let mut known = Restored::default();
        let found = read_bounded(&path)?;
        let mut rewrite = found.is_none();
        if let Some(text) = &found {
            let torn = replay(text, &path, &mut known)?;
            rewrite |= torn.is_some() || text.len() as u64 > COMPACT_AT_BYTES;
            remarks.extend(torn);
        } else {
            remarks.push(format!("{} is new: nothing is remembered", path.display()));
        }
        let mut restored = known.clone();
        restored.session = crate::random_u64();
        let (owner, doubtful) = read_owner(&owner_path, boot, &mut remarks);
        restored.owner = owner;
        restored.owner_unreadable = doubtful;
        let journal = FileJournal {
            open: Mutex::new(Open {
                file: None,
                length: 0,
                known,
            }),
            path,
            owner_path,
            boot: boot.to_owned(),
        };
        if rewrite {
            journal.with(|open| journal.rewrite(open))?;
        } else {
            journal.with(|open| journal.reopen(open))?;
        }
        Ok((journal, Loaded { restored, remarks }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Open) -> T) -> T {
        act(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failure(&self, what: &str, error: &io::Error) -> Failure {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the filesystem is full: make room"
            }
            io::ErrorKind::ReadOnlyFilesystem => "the filesystem is read-only: check its disk",
            _ => "check the folder and its disk",
        };
        Failure(format!(
            "{}: can't be {what}: {error}; {remedy}",
            self.path.display()
        ))
    }

    fn reopen(&self, open: &mut Open) -> Result<(), Failure> {
        let opened = OpenOptions::new().append(true).open(&self.path);
        let file = opened.map_err(|error| self.failure("opened", &error))?;
        let meta = file
            .metadata()
            .map_err(|error| self.failure("opened", &error))?;
        open.length = meta.len();
        open.file = Some(file);
        Ok(())
    }

    /// Writes everything known into a new file that takes the old one's place at once or not at all.
    fn rewrite(&self, open: &mut Open) -> Result<(), Failure> {
        open.file = None;
        let mut text = HEADER.to_owned();
        for entry in entries(&open.known) {
            text.push_str(&record_line(&entry).map_err(|error| self.failure("written", &error))?);
        }
        replace(&self.path, text.as_bytes(), true)
            .map_err(|error| self.failure("written anew", &error))?;
        self.reopen(open)
    }

    fn append(&self, open: &mut Open, entry: &Entry) -> Result<(), Failure> {
        open.known.apply(entry.clone());
        let Some(file) = open
            .file
            .as_mut()
            .filter(|_| open.length < COMPACT_AT_BYTES)
        else {
            return self.rewrite(open);
        };
        let line = record_line(entry).map_err(|error| self.failure("written", &error))?;
        let written = file
            .write_all(line.as_bytes())
            .and_then(|()| file.sync_data());
        match written {
            Ok(()) => {
                open.length += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // After a failed flush the kernel may call the lost pages clean: this file is not appended to again.
                open.file = None;
                Err(self.failure("written", &error))
            }
        }
    }
}

impl Journal for FileJournal {
    fn record(&self, entry: &Entry) -> Result<(), Failure> {
        self.with(|open| self.append(open, entry))
    }

    fn remember(&self, owner: Option<&OwnerRecord>) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure(format!(
                "{}: can't be written: {error}; check the runtime folder",
                self.owner_path.display()
            ))
        };
        let Some(owner) = owner else {
            return match fs::remove_file(&self.owner_path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        };
        let record = OwnerFile {
            boot: self.boot.clone(),
            owner: owner.clone(),
        };
        let text = record_line(&record).map_err(failed)?;
        replace(&self.owner_path, text.as_bytes(), false).map_err(failed)
    }
}

/// One record of each kind that was ever set.
fn entries(known: &Restored) -> Vec<Entry> {
    let mut entries = vec![
        Entry::Incarnation(known.incarnation),
        Entry::Epoch(known.epoch),
        Entry::Owned(known.owned),
        Entry::Resets(known.resets),
    ];
    entries.extend(known.settings.map(Entry::Settings));
    entries.extend(known.arbiters.clone().map(Entry::Arbiters));
    entries
}

/// Checksum, length and JSON of a record, on one line.
pub(crate) fn record_line(record: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(record)?;
    Ok(format!("{} {} {json}\n", checksum(&json), json.len()))
}

fn checksum(json: &str) -> String {
    let digest = digest::digest(&digest::SHA256, json.as_bytes());
    let bytes = &digest.as_ref()[..CHECKSUM_CHARS / 2];
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record in a line without its end; `None` if it is damaged.
pub(crate) fn parse_line<T: for<'a> Deserialize<'a>>(line: &str) -> Option<T> {
    let (sum, rest) = line.split_once(' ')?;
    let (length, json) = rest.split_once(' ')?;
    if length.parse() != Ok(json.len()) || sum != checksum(json) {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// Applies every record; answers with a sentence if the last line was torn.
fn replay(text: &str, path: &Path, known: &mut Restored) -> Result<Option<String>, Failure> {
    let remedy =
        "restore it from a copy, or move it away to start without memory while the peer serves";
    let damaged = |what: String| Failure(format!("{}: {what}; {remedy}", path.display()));
    let Some(records) = text.strip_prefix(HEADER) else {
        if HEADER.starts_with(text) {
            return Ok(Some(format!("{} was empty", path.display())));
        }
        return Err(damaged("not a journal of this version".to_owned()));
    };
    let mut rest = records;
    while !rest.is_empty() {
        let offset = text.len() - rest.len();
        let (line, after) = match rest.split_once('\n') {
            Some((line, after)) => (Some(line), after),
            None => (None, ""),
        };
        match line.and_then(parse_line::<Entry>) {
            Some(entry) => known.apply(entry),
            // Only what follows the last answered record can be torn; more after it means damage.
            None if after.is_empty() => {
                let at = path.display();
                return Ok(Some(format!(
                    "{at}: a torn record of {} bytes at byte {offset} was cut off: it had not been confirmed",
                    rest.len()
                )));
            }
            None => return Err(damaged(format!("damaged at byte {offset}"))),
        }
        rest = after;
    }
    Ok(None)
}

fn read_bounded(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |error: io::Error| {
        Failure(format!(
            "{}: can't be read: {error}; check the folder and its disk",
            path.display()
        ))
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(meta) if meta.len() > JOURNAL_MAX_BYTES => {
            return Err(failed(io::Error::other(format!(
                "{} bytes is more than was ever written there",
                meta.len()
            ))));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(failed)?;
    // A torn tail may be any bytes; lossy characters fail its checksum like everything else that is wrong.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether the runtime folder says that this controller owned in this boot and never gave it up.
pub(crate) fn owned_in_this_boot(runtime_dir: &Path) -> Result<bool, Failure> {
    let boot = this_boot()?;
    let mut remarks = Vec::new();
    let (owner, doubtful) = read_owner(&runtime_dir.join("owner"), &boot, &mut remarks);
    Ok(owner.is_some() || doubtful)
}

/// Members of the smallest arbiter list that the journal names; `None` where it names none. Changes nothing.
pub(crate) fn smallest_arbiter_list(state_dir: &Path) -> Result<Option<usize>, Failure> {
    let path = state_dir.join("journal");
    let mut known = Restored::default();
    if let Some(text) = read_bounded(&path)? {
        replay(&text, &path, &mut known)?;
    }
    let lists = known.arbiters.map(|list| [list.disks, list.previous]);
    let lengths = lists.into_iter().flatten().map(|list| list.len());
    Ok(lengths.filter(|length| *length > 0).min())
}

pub(crate) fn this_boot() -> Result<String, Failure> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|boot| boot.trim().to_owned())
        .map_err(|error| Failure(format!("the id of this boot can't be read: {error}")))
}

/// The record, if it is of this boot; and whether one is there that can't be read: it may be of this boot.
fn read_owner(path: &Path, boot: &str, remarks: &mut Vec<String>) -> (Option<OwnerRecord>, bool) {
    let text = match read_bounded(path) {
        Ok(Some(text)) => text,
        Ok(None) => return (None, false),
        Err(failure) => {
            remarks.push(failure.0);
            return (None, true);
        }
    };
    match text.strip_suffix('\n').and_then(parse_line::<OwnerFile>) {
        Some(file) if file.boot == boot => (Some(file.owner), false),
        Some(_) => {
            remarks.push(format!("{} is of another boot: ignored", path.display()));
            (None, false)
        }
        None => {
            remarks.push(format!(
                "{} is damaged: this boot may have owned",
                path.display()
            ));
            (None, true)
        }
    }
}

/// Puts a new file in the place of `path`; `durable` flushes it and its folder.
pub(crate) fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        if durable { file.sync_all() } else { Ok(()) }
    });
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    match path.parent().filter(|_| durable) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover_core::beat::ArbiterList;
    use failover_core::ids::{DiskId, Epoch, Node};
    use failover_core::key::{EpochBits, Key, Phase};
    use failover_core::settings::Settings;

    fn every_entry() -> Vec<Entry> {
        vec![
            Entry::Incarnation(7),
            Entry::Epoch(Epoch(12)),
            Entry::Settings(Settings {
                disabled: true,
                ..Settings::default()
            }),
            Entry::Arbiters(ArbiterList {
                version: 2,
                disks: vec![DiskId(1), DiskId(2)],
                previous: vec![],
            }),
            Entry::Owned(Some(Epoch(12))),
            Entry::Resets(1),
        ]
    }

    fn open(dir: &Path, boot: &str) -> Result<(FileJournal, Loaded), Failure> {
        FileJournal::open_for_boot(dir, dir, boot)
    }

    fn filled(dir: &Path) -> Restored {
        let (journal, _) = open(dir, "this boot").expect("a new journal");
        let mut restored = Restored::default();
        for entry in every_entry() {
            journal.record(&entry).expect("recorded");
            restored.apply(entry);
        }
        restored
    }

    fn without_session(mut restored: Restored) -> Restored {
        restored.session = 0;
        restored
    }

    #[test]
    fn what_was_recorded_is_there_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let restored = filled(dir.path());
        let (_, loaded) = open(dir.path(), "this boot").expect("opens again");
        assert_ne!(loaded.restored.session, 0);
        assert_eq!(without_session(loaded.restored), restored);
        assert_eq!(loaded.remarks, Vec::<String>::new());
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_said_at_every_length() {
        let dir = tempfile::tempdir().expect("a folder");
        filled(dir.path());
        let path = dir.path().join("journal");
        let whole = fs::read(&path).expect("there");
        let last = whole[..whole.len() - 1]
            .iter()
            .rposition(|b| *b == b'\n')
            .expect("several lines")
            + 1;
        for end in last + 1..whole.len() {
            fs::write(&path, &whole[..end]).expect("torn");
            let (journal, loaded) = open(dir.path(), "this boot").expect("tolerated");
            assert_eq!(loaded.restored.resets, 0, "the torn record is not used");
            assert_eq!(loaded.restored.owned, Some(Epoch(12)), "the others are");
            assert!(
                loaded.remarks[0].contains("torn record"),
                "{:?}",
                loaded.remarks
            );
            journal.record(&Entry::Resets(2)).expect("goes on");
            let (_, again) = open(dir.path(), "this boot").expect("whole again");
            assert_eq!((again.restored.resets, again.remarks.len()), (2, 0));
        }
    }

    #[test]
    fn damage_before_the_end_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        filled(dir.path());
        let path = dir.path().join("journal");
        let mut bytes = fs::read(&path).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).expect("damaged");
        let error = open(dir.path(), "this boot").expect_err("refused");
        assert!(error.0.contains("damaged at byte"), "{error}");
    }

    #[test]
    fn a_long_journal_is_written_anew_and_loses_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut restored = filled(dir.path());
        let path = dir.path().join("journal");
        // Long by hand: a quarter of a megabyte of flushed records would take its time.
        let mut text = fs::read_to_string(&path).expect("there");
        let one = record_line(&Entry::Resets(3)).expect("a line");
        while (text.len() as u64) < COMPACT_AT_BYTES - 10 {
            text.push_str(&one);
        }
        fs::write(&path, text).expect("long");
        let (journal, _) = open(dir.path(), "this boot").expect("opens");
        for epoch in 20..24 {
            journal
                .record(&Entry::Epoch(Epoch(epoch)))
                .expect("recorded");
        }
        assert!(fs::metadata(&path).expect("there").len() < 2000);
        restored.apply(Entry::Resets(3));
        restored.apply(Entry::Epoch(Epoch(23)));
        let (_, loaded) = open(dir.path(), "this boot").expect("opens");
        assert_eq!(without_session(loaded.restored), restored);
    }

    #[test]
    fn a_failed_write_is_named_and_the_next_record_saves_everything() {
        let dir = tempfile::tempdir().expect("a folder");
        filled(dir.path());
        let (journal, _) = open(dir.path(), "this boot").expect("opens");
        // What a full disk does, without filling one.
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("there");
        journal.with(|open| open.file = Some(full));
        let error = journal.record(&Entry::Epoch(Epoch(40))).expect_err("full");
        assert!(error.0.contains("full: make room"), "{error}");
        journal.record(&Entry::Resets(0)).expect("room again");
        let (_, loaded) = open(dir.path(), "this boot").expect("opens");
        assert_eq!(
            loaded.restored.epoch,
            Epoch(40),
            "greater than answered is harmless"
        );
        assert_eq!(loaded.restored.incarnation, 7);
    }

    #[test]
    fn an_owner_record_is_of_one_boot() {
        let dir = tempfile::tempdir().expect("a folder");
        let (journal, _) = open(dir.path(), "this boot").expect("opens");
        let owner = OwnerRecord {
            incarnation: 3,
            epoch: Epoch(9),
            key: Key {
                pair: 1,
                node: Node::A,
                held: false,
                phase: Phase::Owner,
                incarnation: 3,
                epoch: EpochBits(9),
                beat: 0,
            },
            serving: true,
            won: vec![DiskId(5)],
        };
        journal.remember(Some(&owner)).expect("written");
        let (_, loaded) = open(dir.path(), "this boot").expect("opens");
        assert_eq!(loaded.restored.owner, Some(owner));
        let (_, loaded) = open(dir.path(), "the next boot").expect("opens");
        assert_eq!(loaded.restored.owner, None);
        assert!(
            loaded.remarks[0].contains("another boot"),
            "{:?}",
            loaded.remarks
        );
        fs::write(dir.path().join("owner"), "not a record").expect("damaged");
        let (_, loaded) = open(dir.path(), "this boot").expect("opens");
        assert!(loaded.restored.owner_unreadable && loaded.restored.owner.is_none());
        journal.remember(None).expect("removed");
        journal.remember(None).expect("already so");
        let (_, loaded) = open(dir.path(), "this boot").expect("opens");
        assert!(!loaded.restored.owner_unreadable);
        assert_eq!((loaded.restored.owner, loaded.remarks.len()), (None, 0));
    }
}
