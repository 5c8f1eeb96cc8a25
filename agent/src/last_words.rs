//! Why this controller resets itself, kept where the next boot finds it.
//!
//! ```text
//!   start ── the block of the run before ──▶ history, log, count of resets     then a blank block, opened and kept open
//!   halt  ── control thread ──▶ thread of its own ── one write past every cache ──▶ state_dir/halt
//!                  └── waits a bounded moment, then resets, whether or not it was written
//! ```
//!
//! A reset flushes nothing. The block is there before, so that writing it needs no new block, no folder and no
//! journal of the file system; the disk of the system may hang, so nobody waits for it without a bound.

use crate::adapters::clock::wall_ms;
use crate::journal::{parse_line, record_line, this_boot};
use failover_core::adapters::Failure;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// One block of every disk that there is.
const BLOCK_BYTES: usize = 4096;
/// Longest reason that is kept: the rest of the block is for its quoting.
const REASON_MAX_CHARS: usize = 600;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Words {
    /// The boot that was to end.
    pub(crate) boot: String,
    /// Wall-clock time, milliseconds since 1970; for people.
    pub(crate) wall_ms: Option<u64>,
    /// Why.
    pub(crate) reason: String,
    /// Epoch in force.
    pub(crate) epoch: u64,
    /// Self-resets so far, this one counted.
    pub(crate) resets: u8,
}

/// Opened before it is needed.
#[derive(Debug)]
pub(crate) struct LastWords {
    boot: String,
    to_write: SyncSender<Words>,
    written: Receiver<()>,
}

/// What the block said at the start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The words of a run that asked for a reset.
    pub(crate) words: Option<Words>,
    /// They are of this very boot: the reset didn't happen.
    pub(crate) same_boot: bool,
}

impl Found {
    /// The sentence for history and log.
    pub(crate) fn sentence(&self) -> Option<String> {
        let words = self.words.as_ref()?;
        let reason = &words.reason;
        Some(match self.same_boot {
            true => format!("an earlier run asked for a reset that did not happen: {reason}"),
            false => format!("this controller had reset itself: {reason}"),
        })
    }
}

/// Reads what the run before left. Damage is nothing found: only a torn write leaves it.
pub(crate) fn read(state_dir: &Path) -> Found {
    let words = read_block(&path(state_dir)).ok().and_then(|block| {
        let text = String::from_utf8_lossy(&block);
        parse_line::<Words>(text.lines().next()?)
    });
    let same_boot = words
        .as_ref()
        .is_some_and(|words| this_boot().is_ok_and(|boot| boot == words.boot));
    Found { words, same_boot }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("halt")
}

fn read_block(path: &Path) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    File::open(path)?
        .take(BLOCK_BYTES as u64)
        .read_to_end(&mut block)?;
    Ok(block)
}

impl LastWords {
    /// Blanks the block, once what [`read`] found is in the history, and keeps it open.
    ///
    /// # Errors
    /// The file can't be made in the state folder.
    pub(crate) fn open(state_dir: &Path) -> Result<LastWords, Failure> {
        let path = path(state_dir);
        let failed = |error: io::Error| {
            Failure(format!(
                "{}: can't be made: {error}; check the folder and its disk",
                path.display()
            ))
        };
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let blank = |mut file: File| {
            file.write_all(&[b'\n'; BLOCK_BYTES])?;
            file.set_len(BLOCK_BYTES as u64)?;
            file.sync_all()
        };
        options.open(&path).and_then(blank).map_err(failed)?;
        let past_caches = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
            .open(&path);
        // Some file systems have no O_DIRECT.
        let file = past_caches.or_else(|_| {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_DSYNC).open(&path)
        });
        let file = file.map_err(failed)?;
        let (to_write, words) = sync_channel(1);
        let (done, written) = sync_channel(1);
        let thread = std::thread::Builder::new().name("last-words".to_owned());
        thread
            .spawn(move || write_once(&file, &words, &done))
            .map_err(failed)?;
        Ok(LastWords {
            boot: this_boot()?,
            to_write,
            written,
        })
    }

    /// Begins to write; never waits.
    pub(crate) fn begin(&self, reason: &str, epoch: u64, resets: u8) {
        let words = Words {
            boot: self.boot.clone(),
            wall_ms: wall_ms(),
            reason: reason.chars().take(REASON_MAX_CHARS).collect(),
            epoch,
            resets,
        };
        // Full only while an earlier write hangs.
        let _ = self.to_write.try_send(words);
    }

    /// Waits until it is on the disk, at most `longest`. Whether it is.
    pub(crate) fn settle(&self, longest: Duration) -> bool {
        self.written.recv_timeout(longest).is_ok()
    }
}

fn write_once(file: &File, words: &Receiver<Words>, done: &SyncSender<()>) {
    // Twice the block, so that one in it is aligned as O_DIRECT wants it.
    let mut room = vec![b'\n'; 2 * BLOCK_BYTES];
    let start = room.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
    let block = &mut room[start..start + BLOCK_BYTES];
    while let Ok(words) = words.recv() {
        let Ok(line) = record_line(&words) else {
            continue;
        };
        let length = line.len().min(BLOCK_BYTES);
        block.fill(b'\n');
        block[..length].copy_from_slice(&line.as_bytes()[..length]);
        if file.write_all_at(block, 0).is_ok() {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn the_next_start_finds_the_reason_once() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(dir.path()).sentence(), None);
        let last = LastWords::open(dir.path()).expect("opened");
        assert_eq!(read(dir.path()).sentence(), None, "blank");
        // Quotes double their length; the block holds the longest reason.
        let reason = "fenced by \"B\"\n".repeat(200);
        last.begin(&reason, 7, 2);
        assert!(last.settle(LONGEST));
        let found = read(dir.path());
        let words = found.words.clone().expect("kept");
        assert_eq!((words.epoch, words.resets), (7, 2));
        assert!(words.reason.starts_with("fenced by \"B\"\nfenced"));
        assert!(found.same_boot);
        let said = found.sentence().expect("said");
        assert!(said.contains("did not happen: fenced"), "{said}");
        LastWords::open(dir.path()).expect("opened");
        assert_eq!(read(dir.path()).sentence(), None, "used up");
    }

    #[test]
    fn words_of_another_boot_say_that_it_was_reset() {
        let found = Found {
            words: Some(Words {
                boot: "another".to_owned(),
                wall_ms: None,
                reason: "no majority".to_owned(),
                epoch: 1,
                resets: 1,
            }),
            same_boot: false,
        };
        let said = found.sentence().expect("said");
        assert_eq!(said, "this controller had reset itself: no majority");
    }

    #[test]
    fn a_torn_block_is_nothing_and_a_folder_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let last = LastWords::open(dir.path()).expect("opened");
        last.begin("why", 1, 1);
        assert!(last.settle(LONGEST));
        let path = dir.path().join("halt");
        let mut block = std::fs::read(&path).expect("there");
        assert_eq!(block.len(), BLOCK_BYTES);
        block[40] ^= 1;
        std::fs::write(&path, block).expect("torn");
        assert_eq!(read(dir.path()).sentence(), None);
        let error = LastWords::open(Path::new("/nowhere")).expect_err("none");
        assert!(
            error.0.starts_with("/nowhere/halt: can't be made"),
            "{error}"
        );
    }
}
