//! How far a long run has come, in a file: it goes on from there after whatever ended it.

use crate::coverage::Coverage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Seeds that are done together.
pub const CHUNK: u64 = 32;

/// What is done of a run over many seeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Digest of the program that runs: another one would tell other stories.
    program: u64,
    /// First seed.
    start: u64,
    /// Number of seeds.
    count: u64,
    /// Chunks below this one are done,
    below: u64,
    /// and these beyond it.
    beyond: BTreeSet<u64>,
    /// How long the program has run for it.
    pub took: Duration,
    /// What they reached.
    pub coverage: Coverage,
}

impl Progress {
    /// Nothing is done yet, and nobody will go on from here.
    pub fn unsaved(start: u64, count: u64) -> Progress {
        Progress::of(0, start, count)
    }

    fn of(program: u64, start: u64, count: u64) -> Progress {
        Progress {
            program,
            start,
            count,
            below: 0,
            beyond: BTreeSet::new(),
            took: Duration::ZERO,
            coverage: Coverage::default(),
        }
    }

    /// What `path` says of this very run; nothing is done yet where there is no such file.
    pub fn load(path: &Path, start: u64, count: u64) -> Result<Progress, String> {
        let of = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let new = Progress::of(program().map_err(|error| of(&error))?, start, count);
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new),
            Err(error) => return Err(of(&error)),
        };
        let found: Progress = serde_json::from_str(&text).map_err(|error| of(&error))?;
        found.must_continue(&new).map_err(|why| of(&why))?;
        Ok(found)
    }

    fn must_continue(&self, run: &Progress) -> Result<(), String> {
        if (self.start, self.count) != (run.start, run.count) {
            return Err(format!(
                "it is about {} seeds from {}, not {} from {}; name another file, or remove this one",
                self.count, self.start, run.count, run.start
            ));
        }
        if self.program != run.program {
            let why = "it was written by another build of this program, whose seeds tell other stories; remove it to begin anew";
            return Err(why.to_owned());
        }
        Ok(())
    }

    /// Writes it down, whole or not at all.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(new, path)
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.count.div_ceil(CHUNK)
    }

    /// The seeds of a chunk.
    pub fn seeds(&self, chunk: u64) -> Range<u64> {
        let begin = chunk * CHUNK;
        let end = (begin + CHUNK).min(self.count);
        self.start + begin..self.start + end
    }

    /// Every chunk is done.
    pub fn is_over(&self) -> bool {
        self.below == self.chunks()
    }

    /// A chunk is done.
    pub fn is_done(&self, chunk: u64) -> bool {
        chunk < self.below || self.beyond.contains(&chunk)
    }

    /// Notes that a chunk is done.
    pub fn done(&mut self, chunk: u64) {
        self.beyond.insert(chunk);
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
    }
}

/// Digest of the running program.
fn program() -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    fs::read(std::env::current_exe()?)?.hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let mut progress = Progress::load(&path, 1, 1000).expect("a new run");
        for chunk in [0, 1, 3] {
            progress.done(chunk);
        }
        progress.coverage.seeds = 96;
        progress.save(&path).expect("saved");
        let again = Progress::load(&path, 1, 1000).expect("the same run");
        assert_eq!(again, progress);
        let left: Vec<u64> = (0..6).filter(|chunk| !again.is_done(*chunk)).collect();
        assert_eq!(left, [2, 4, 5]);
    }

    #[test]
    fn another_run_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let mut progress = Progress::load(&path, 1, 1000).expect("a new run");
        progress.save(&path).expect("saved");
        let other = Progress::load(&path, 1, 2000).expect_err("more seeds");
        assert!(other.contains("1000 seeds from 1"), "{other}");
        progress.program ^= 1;
        progress.save(&path).expect("saved");
        let other = Progress::load(&path, 1, 1000).expect_err("another program");
        assert!(other.contains("another build"), "{other}");
    }
}
