//! `failoverd fence clear`: removes every registration and the reservation from a disk, by an operator's word.
//!
//! ```text
//!   look at every shared disk ─▶ watch: does any key move? ─▶ look again: the same? ─▶ REGISTER AND IGNORE, CLEAR ─▶ look
//! ```
//!
//! Only with this controller's daemon stopped. A peer that owns rolls its key once it hears nobody: so keys that rest
//! on as many disks as surely hold a majority of the arbiters, for as long as a slow owner may rest, are nobody's that
//! lives. An owner whose daemon is dead while its kernel writes on can't be seen: that is the operator's word.

use crate::adapters::disk_paths::SharedDisk;
use failover_core::adapters::Fence;
use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::{DiskId, PathId};
use failover_core::key::Key;
use failover_core::perform::perform_disk;
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Upper 40 bits: `clear`. The key that a disk is cleared with; gone with the others.
const CLEAR_KEY: u64 = 0x636c_6561_7200_0001;
const ATTENTIONS_MAX: usize = 8;
/// Longer than the kernel takes to give a command up.
const DEADLINE: Duration = Duration::from_secs(60);
/// Of a look.
const LOOK: Duration = Duration::from_secs(12);

/// How the keys are watched.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long they must rest.
    pub watch: Duration,
    /// Interval of the looks.
    pub every: Duration,
}

/// What is cleared, and what is looked at.
pub struct Clearing<'a> {
    /// Reservations on all of `watched`; keeps the deadlines that it is given.
    pub fence: &'a dyn Fence,
    /// Every shared disk, and those to be cleared.
    pub watched: &'a [SharedDisk],
    /// Disks to be cleared.
    pub targets: &'a [DiskId],
    /// Members of the arbiter set; of the smallest one, where it may be one of several.
    pub arbiters: usize,
    /// The pair's tag, to read its keys.
    pub pair: u16,
    /// How the keys are watched.
    pub pace: Pace,
}

/// What was on a disk that is clear now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleared {
    /// Its identity.
    pub disk: String,
    /// The removed registrations, in words.
    pub removed: Vec<String>,
}

type Looks = BTreeMap<DiskId, Survey>;

impl Clearing<'_> {
    /// Carries it out, and notes each disk in `cleared`; those without any registration or reservation are left as
    /// they are.
    ///
    /// # Errors
    /// A key moved, too few disks can be read, or a disk didn't let itself be cleared; those before it are clear.
    pub fn run(&self, cleared: &mut Vec<Cleared>) -> Result<(), String> {
        let first = self.look()?;
        let began = Instant::now();
        while began.elapsed() < self.pace.watch {
            std::thread::sleep(self.pace.every);
            self.same(&first)?;
        }
        self.same(&first)?;
        for id in self.targets {
            let disk = self.watched.iter().find(|disk| disk.id == *id);
            let disk =
                disk.ok_or_else(|| format!("disk {id} isn't looked at: it isn't cleared"))?;
            let Some(seen) = first.get(id) else {
                return Err(format!(
                    "disk {} can't be read, so it can't be cleared",
                    disk.identity
                ));
            };
            if seen.keys.is_empty() && seen.holder.is_none() {
                continue;
            }
            self.clear(disk)?;
            cleared.push(Cleared {
                disk: disk.identity.to_string(),
                removed: seen.keys.iter().map(|key| self.words(*key)).collect(),
            });
        }
        Ok(())
    }

    /// Looks at every disk, all at once: a dead one costs its deadline only.
    fn look(&self) -> Result<Looks, String> {
        let outcomes: Vec<(DiskId, DiskOutcome)> = std::thread::scope(|scope| {
            let started: Vec<_> = self
                .watched
                .iter()
                .map(|disk| {
                    let look = || perform_disk(self.fence, disk.id, DiskWork::Survey, LOOK);
                    (disk.id, scope.spawn(look))
                })
                .collect();
            let ended = started.into_iter().map(|(id, thread)| {
                let lost = || DiskOutcome::Unreachable("its look was lost".to_owned());
                (id, thread.join().unwrap_or_else(|_| lost()))
            });
            ended.collect()
        });
        let mut looks = Looks::new();
        for (id, outcome) in outcomes {
            if let DiskOutcome::Surveyed(survey) = outcome {
                looks.insert(id, survey);
            }
        }
        let unread = self.watched.len() - looks.len();
        // Whichever disks the arbiters are, a majority of them is among those that were read.
        let most = self.arbiters.saturating_sub(1) / 2;
        if unread > most {
            return Err(format!(
                "{unread} of {} shared disks can't be read, at most {most} may be: whether somebody owns the others \
                 can't be told; repair their paths, or unplug this controller's peer and take the disks off `disks` \
                 on both",
                self.watched.len()
            ));
        }
        Ok(looks)
    }

    fn same(&self, first: &Looks) -> Result<(), String> {
        let now = self.look()?;
        for disk in self.watched {
            let (before, after) = (first.get(&disk.id), now.get(&disk.id));
            let (Some(before), Some(after)) = (before, after) else {
                continue;
            };
            if before.keys != after.keys || before.holder != after.holder {
                let keys: Vec<String> = after.keys.iter().map(|key| self.words(*key)).collect();
                return Err(format!(
                    "the keys of disk {} move ({}): a controller lives and owns; nothing was cleared; stop failoverd \
                     there first",
                    disk.identity,
                    keys.join(", ")
                ));
            }
        }
        Ok(())
    }

    fn clear(&self, disk: &SharedDisk) -> Result<(), String> {
        let mut last = String::new();
        for path in (0..self.fence.paths(disk.id)).map(PathId) {
            let cleared = self
                .send(disk.id, path, PrCommand::RegisterIgnore { new: CLEAR_KEY })
                .and_then(|_| self.send(disk.id, path, PrCommand::Clear { key: CLEAR_KEY }));
            match cleared {
                Ok(_) => {
                    return match perform_disk(self.fence, disk.id, DiskWork::Survey, LOOK) {
                        DiskOutcome::Surveyed(left)
                            if left.keys.is_empty() && left.holder.is_none() =>
                        {
                            Ok(())
                        }
                        other => Err(format!(
                            "disk {} isn't clear after CLEAR: {other:?}",
                            disk.identity
                        )),
                    };
                }
                Err(error) => last = format!("{error:?}"),
            }
        }
        Err(format!("disk {} isn't cleared: {last}", disk.identity))
    }

    fn send(&self, disk: DiskId, path: PathId, command: PrCommand) -> Result<PrReply, PrError> {
        let mut last = Err(PrError::Transport("nothing was sent".to_owned()));
        for _ in 0..ATTENTIONS_MAX {
            last = self.fence.execute(disk, path, command, DEADLINE);
            if !matches!(last, Err(PrError::UnitAttention(_))) {
                break;
            }
        }
        last
    }

    fn words(&self, bits: u64) -> String {
        match Key::from_bits(bits, self.pair) {
            Some(key) => format!(
                "{} of {} in epoch {}",
                key.phase.word(),
                key.node,
                key.epoch.0
            ),
            None => format!("a stranger's {bits:016x}"),
        }
    }
}
