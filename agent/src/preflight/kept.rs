//! The last check of each disk, kept in the state folder: nothing of the pair depends on it.

use super::{Findings, Verdict};
use crate::adapters::clock::wall_ms;
use crate::adapters::identity::Identity;
use crate::journal::replace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const NAME: &str = "fence-checks";
/// Disks that are remembered; the oldest goes first.
const DISKS_MAX: usize = 2048;
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What is kept of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When, milliseconds since 1970.
    pub wall_ms: u64,
    /// Nothing failed.
    pub passed: bool,
    /// Parts that failed.
    pub failed: Vec<String>,
    /// Microseconds that 999 of 1000 READ KEYS took at most.
    pub read_p999_us: Option<u64>,
    /// Microseconds that 999 of 1000 rolls took at most.
    pub roll_p999_us: Option<u64>,
}

/// The last check of each disk, by identity; empty where there is none or the file is damaged.
pub fn read_kept(state_dir: &Path) -> BTreeMap<String, Kept> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(state_dir.join(NAME))?;
        file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Keeps what a check found, under `name`: the identity that the configuration has for the disk.
///
/// # Errors
/// The file can't be written.
pub fn keep(state_dir: &Path, name: &Identity, findings: &Findings) -> io::Result<()> {
    let mut all = read_kept(state_dir);
    let failed = findings.findings.iter();
    let failed = failed.filter(|finding| finding.verdict == Verdict::Fail);
    let p999 = |latency: &Option<super::Latency>| latency.as_ref().map(|latency| latency.p999_us);
    let kept = Kept {
        wall_ms: wall_ms().unwrap_or(0),
        passed: findings.passed(),
        failed: failed.map(|finding| finding.check.clone()).collect(),
        read_p999_us: p999(&findings.reads),
        roll_p999_us: p999(&findings.rolls),
    };
    all.insert(name.to_string(), kept);
    while all.len() > DISKS_MAX {
        let oldest = all.iter().min_by_key(|(_, kept)| kept.wall_ms);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else {
            break;
        };
        all.remove(&name);
    }
    replace(&state_dir.join(NAME), &serde_json::to_vec(&all)?, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_check_of_each_disk_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let findings = |disk: &str| Findings {
            disk: disk.to_owned(),
            paths: Vec::new(),
            findings: Vec::new(),
            reads: None,
            rolls: None,
            timers: Vec::new(),
            effect: None,
        };
        let names = ["naa.5000000000000001", "naa.5000000000000002"];
        for disk in [names[0], names[1], names[0]] {
            let name = Identity::parse(disk).expect("an identity");
            keep(folder.path(), &name, &findings(disk)).expect("kept");
        }
        let kept = read_kept(folder.path());
        assert_eq!(kept.keys().collect::<Vec<_>>(), names);
        assert!(kept.values().all(|kept| kept.passed));
        std::fs::write(folder.path().join(NAME), b"{\"naa.1\":").expect("damaged");
        assert_eq!(read_kept(folder.path()), BTreeMap::new());
    }
}
