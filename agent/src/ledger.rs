//! What the daemon's own work on the disks showed last, for readers: no command is ever sent for them.

use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::DiskId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// Its registrations, and when they were asked for.
    pub(crate) seen: Option<(Survey, Instant)>,
    /// How long the last look took.
    pub(crate) look: Option<Duration>,
    /// How long the last roll took.
    pub(crate) roll: Option<Duration>,
    /// Why the last work failed.
    pub(crate) failure: Option<String>,
}

/// All shared disks. Each has its own lock, which its lane and a reader hold for moments.
#[derive(Debug)]
pub(crate) struct Ledger(BTreeMap<DiskId, Mutex<Entry>>);

impl Ledger {
    pub(crate) fn new(disks: impl Iterator<Item = DiskId>) -> Ledger {
        Ledger(disks.map(|disk| (disk, Mutex::default())).collect())
    }

    /// What is known of a disk.
    pub(crate) fn entry(&self, disk: DiskId) -> Entry {
        let entry = self.0.get(&disk).map(|entry| {
            let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
            entry.clone()
        });
        entry.unwrap_or_default()
    }

    /// Notes work that was begun at `began` and has ended now.
    pub(crate) fn note(
        &self,
        disk: DiskId,
        work: &DiskWork,
        outcome: &DiskOutcome,
        began: Instant,
    ) {
        let Some(entry) = self.0.get(&disk) else {
            return;
        };
        if matches!(outcome, DiskOutcome::NotSent(_)) {
            return;
        }
        let took = began.elapsed();
        let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        entry.failure = None;
        match outcome {
            DiskOutcome::Surveyed(survey) => {
                entry.look = Some(took);
                entry.seen = Some((survey.clone(), began));
            }
            DiskOutcome::Fenced(survey) | DiskOutcome::LostRace(Some(survey)) => {
                entry.seen = Some((survey.clone(), began));
            }
            DiskOutcome::Taken => {
                if let DiskWork::Take { key, .. } = work {
                    let bits = key.to_bits();
                    let survey = Survey {
                        generation: 0,
                        keys: vec![bits],
                        holder: Some(bits),
                        wero: true,
                    };
                    entry.seen = Some((survey, began));
                }
            }
            DiskOutcome::Rolled { .. } => {
                entry.roll = Some(took);
                if let (DiskWork::Roll { from, to }, Some((survey, _))) = (work, &mut entry.seen) {
                    let (from, to) = (from.to_bits(), to.to_bits());
                    let keys = survey.keys.iter_mut().chain(&mut survey.holder);
                    keys.filter(|key| **key == from).for_each(|key| *key = to);
                }
            }
            DiskOutcome::Unreachable(why) => entry.failure = Some(why.clone()),
            DiskOutcome::LostRace(None) | DiskOutcome::Left | DiskOutcome::NotSent(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failover_core::ids::{Epoch, Node};
    use failover_core::key::{EpochBits, Key, Phase};

    #[test]
    fn the_last_word_of_each_work_is_kept() {
        let disk = DiskId(1);
        let ledger = Ledger::new([disk].into_iter());
        let key = Key {
            pair: 7,
            node: Node::A,
            held: false,
            phase: Phase::Owner,
            incarnation: 1,
            epoch: EpochBits::of(Epoch(2)),
            beat: 0,
        };
        let now = Instant::now();
        let work = DiskWork::take(key, Survey::default());
        ledger.note(disk, &work, &DiskOutcome::Taken, now);
        let work = DiskWork::Roll {
            from: key,
            to: key.rolled(),
        };
        let rolled = DiskOutcome::Rolled { paths_failed: 0 };
        ledger.note(disk, &work, &rolled, now);
        let entry = ledger.entry(disk);
        let (survey, _) = entry.seen.expect("seen");
        let bits = key.rolled().to_bits();
        assert_eq!((survey.keys, survey.holder), (vec![bits], Some(bits)));
        assert!(entry.roll.is_some() && entry.look.is_none());
        let lost = DiskOutcome::Unreachable("no answer".to_owned());
        ledger.note(disk, &DiskWork::Survey, &lost, now);
        let entry = ledger.entry(disk);
        assert_eq!(entry.failure.as_deref(), Some("no answer"));
        assert!(entry.seen.is_some(), "old, as its age says");
        let looked = DiskOutcome::Surveyed(Survey::default());
        ledger.note(disk, &DiskWork::Survey, &looked, now);
        assert_eq!(ledger.entry(disk).failure, None);
        ledger.note(DiskId(9), &DiskWork::Survey, &looked, now);
        assert!(ledger.entry(DiskId(9)).seen.is_none(), "nobody's disk");
    }
}
