//! Work on one disk: a short sequence of reservation commands, written as a machine that is fed each answer.
//!
//! ```text
//!   DiskTask::new ──▶ step(None) ──▶ Command(path, c) ──▶ the adapter executes c ──▶ step(Some(answer)) ──▶ … ──▶ Done
//! ```
//!
//! The daemon's lane for the disk and the simulator run the same machine; the simulator delivers each command on
//! its own, so that commands of both controllers interleave.

mod memory;

use crate::ids::PathId;
use crate::key::{Key, Phase};
use crate::pr::{PrCommand, PrError, PrReply};
use crate::time::Instant;
use serde::{Deserialize, Serialize};

/// Retries of one command after unit attentions. A path tells each kind once, one for each command: power-on or reset,
/// reservations preempted, released, registrations preempted, and parameters, capacity, microcode, units changed.
const UNIT_ATTENTIONS_MAX: u8 = 8;
/// Retries of a survey whose two reads saw different generations.
const TORN_SURVEYS_MAX: u8 = 3;

/// What to do on one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum DiskWork {
    /// READ FULL STATUS; where a target has none, READ KEYS and READ RESERVATION, paired by PRgeneration.
    Survey,
    /// Take the disk by compare-and-swap: register on every path, preempt and abort the surveyed keys, reserve if
    /// nothing was held, read back.
    Take {
        /// Key to hold it with.
        key: Key,
        /// What was seen; a key that isn't in it is a lost race.
        surveyed: Survey,
        /// From then on nothing more of it is sent: it registers from nothing, and an owner may do that only while its
        /// proof keeps a taker away.
        until: Option<Instant>,
    },
    /// REGISTER on every path, naming the old key.
    Roll {
        /// Key that the paths should hold.
        from: Key,
        /// Key that they shall hold.
        to: Key,
    },
    /// Unregister every key of this holder on every path of ours; where it holds the reservation, keep that with a
    /// yielded key.
    Leave {
        /// The holder: node and incarnation count.
        holder: Key,
    },
    /// Register on every path, whatever was there, and take nothing: answers an owner that offers its disks.
    Answer {
        /// Key to register.
        key: Key,
    },
    /// Preempt and abort keys that don't belong on a disk of ours.
    Expel {
        /// Key that we hold.
        key: Key,
        /// Keys to remove.
        victims: Vec<u64>,
    },
}

impl DiskWork {
    /// A take that waits for nobody's proof.
    pub fn take(key: Key, surveyed: Survey) -> DiskWork {
        DiskWork::Take {
            key,
            surveyed,
            until: None,
        }
    }

    /// From then on nothing more of it is sent.
    pub fn until(&self) -> Option<Instant> {
        match self {
            DiskWork::Take { until, .. } => *until,
            DiskWork::Survey
            | DiskWork::Roll { .. }
            | DiskWork::Leave { .. }
            | DiskWork::Answer { .. }
            | DiskWork::Expel { .. } => None,
        }
    }
}

/// The keys of a disk at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Survey {
    /// PRgeneration; pairs the two reads, proves nothing else.
    pub generation: u32,
    /// Registered keys, once each.
    pub keys: Vec<u64>,
    /// Key of the reservation's holder.
    pub holder: Option<u64>,
    /// The reservation has our type, or there is none.
    pub wero: bool,
}

/// How disk work ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum DiskOutcome {
    /// Survey.
    Surveyed(Survey),
    /// Taken: only our key is registered, and we hold the reservation.
    Taken,
    /// Not taken: somebody else's key was there or came, or ours was removed. Carries what was seen, if it could be.
    LostRace(Option<Survey>),
    /// Rolled on at least one path; the number of paths that could not be.
    Rolled {
        /// Paths without the new key.
        paths_failed: u8,
    },
    /// No key of ours is registered any more; what is there.
    Fenced(Survey),
    /// Left: no key of that holder is registered on our paths, or only a yielded one that keeps the reservation.
    Left,
    /// No path answered, or the target can't do it; what the last one said. It may have been done or not.
    Unreachable(String),
    /// Its turn didn't come in time: nothing was sent, which says nothing about the disk.
    NotSent(String),
}

impl DiskOutcome {
    /// What may be said while an earlier command, which nobody waits for any more, is still on its way to the disk: it may
    /// register a key yet, so the disk isn't left.
    pub fn unsettled(self) -> DiskOutcome {
        match self {
            DiskOutcome::Left => DiskOutcome::Unreachable(
                "an earlier command is still on its way and may register a key yet".to_owned(),
            ),
            DiskOutcome::Surveyed(_)
            | DiskOutcome::Taken
            | DiskOutcome::LostRace(_)
            | DiskOutcome::Rolled { .. }
            | DiskOutcome::Fenced(_)
            | DiskOutcome::Unreachable(_)
            | DiskOutcome::NotSent(_) => self,
        }
    }
}

/// Next step of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskStep {
    /// Carry out this command on this path and feed the answer to `step`.
    Command(PathId, PrCommand),
    /// Finished.
    Done(DiskOutcome),
}

/// Answer to a command.
pub type PrAnswer = Result<PrReply, PrError>;

/// A running piece of disk work.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct DiskTask {
    work: DiskWork,
    paths: u8,
    stage: Stage,
    last: Option<(PathId, PrCommand)>,
    unit_attentions: u8,
    torn: u8,
    /// Path that commands to the disk as a whole go to: the first that worked.
    lead: PathId,
    seen: Survey,
    /// Work on each path in turn: how many did it, how many failed.
    done_paths: u8,
    failed_paths: u8,
    victims: Vec<u64>,
    retry_from: Vec<u64>,
    /// What leaving leaves on the disk: nothing, or a yielded key.
    left_behind: u64,
    last_error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Stage {
    Start,
    Full(After),
    Keys(After),
    Reservation(After),
    /// Per-path registration, roll or leave, on this path.
    Path(u8),
    Preempt(usize),
    Reserve,
}

/// What a survey inside the task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum After {
    /// It is the result.
    Report,
    /// Own old keys may have been replaced by registering: drop them from the victims.
    Victims,
    /// Read back after taking.
    Verify,
    /// A lost race is reported with what is there now.
    Lost,
    /// Conflict while rolling or leaving on this path: look for other keys of ours.
    OwnKeys(u8),
}

impl DiskTask {
    /// A task for a disk with `paths` paths.
    pub fn new(work: DiskWork, paths: u8) -> DiskTask {
        DiskTask {
            work,
            paths: paths.max(1),
            stage: Stage::Start,
            last: None,
            unit_attentions: 0,
            torn: 0,
            lead: PathId(0),
            seen: Survey::default(),
            done_paths: 0,
            failed_paths: 0,
            victims: Vec::new(),
            retry_from: Vec::new(),
            left_behind: 0,
            last_error: String::new(),
        }
    }

    /// Takes the answer to the last command (`None` at first) and says what comes next.
    pub fn step(&mut self, answer: Option<PrAnswer>) -> DiskStep {
        let Some(answer) = answer else {
            return self.begin();
        };
        if let Err(PrError::UnitAttention(what)) = &answer {
            self.unit_attentions += 1;
            if self.unit_attentions <= UNIT_ATTENTIONS_MAX {
                // SPC-4 5.14: a unit attention is reported once and the command was not carried out.
                let (path, command) = self.last.expect("an answer follows a command");
                return DiskStep::Command(path, command);
            }
            let what = format!("unit attention again and again: {what}");
            return self.answered(Err(PrError::Transport(what)));
        }
        self.unit_attentions = 0;
        self.answered(answer)
    }

    fn begin(&mut self) -> DiskStep {
        match &self.work {
            DiskWork::Survey => self.read_all(After::Report),
            DiskWork::Take { .. } | DiskWork::Roll { .. } | DiskWork::Answer { .. } => self.path(0),
            DiskWork::Leave { .. } => self.read_keys(After::OwnKeys(0)),
            DiskWork::Expel { victims, .. } => {
                self.victims = victims.clone();
                self.preempt(0)
            }
        }
    }

    fn answered(&mut self, answer: PrAnswer) -> DiskStep {
        match self.stage {
            Stage::Start => unreachable!("a command was sent"),
            Stage::Full(after) => self.got_full(after, answer),
            Stage::Keys(after) => self.got_keys(after, answer),
            Stage::Reservation(after) => self.got_reservation(after, answer),
            Stage::Path(path) => self.got_path(path, answer),
            Stage::Preempt(index) => self.got_preempt(index, answer),
            Stage::Reserve => match answer {
                Ok(_) => self.read_all(After::Verify),
                Err(PrError::Conflict) => self.read_all(After::Lost),
                Err(error) => unreachable_disk(error),
            },
        }
    }

    fn command(&mut self, stage: Stage, path: PathId, command: PrCommand) -> DiskStep {
        self.stage = stage;
        self.last = Some((path, command));
        DiskStep::Command(path, command)
    }

    /// Keys and reservation by one command, which can't be torn.
    fn read_all(&mut self, after: After) -> DiskStep {
        self.command(Stage::Full(after), self.lead, PrCommand::ReadFull)
    }

    fn got_full(&mut self, after: After, answer: PrAnswer) -> DiskStep {
        match answer {
            Ok(PrReply::Full {
                generation,
                keys,
                holder,
                wero,
            }) => {
                self.seen.generation = generation;
                self.see_keys(keys);
                self.see_reservation(after, holder, wero)
            }
            Ok(other) => protocol_error(&other),
            // Optional in SPC-4 (table 250): the two older commands tell as much.
            Err(PrError::Illegal(_)) => self.read_keys(after),
            Err(error) => self.read_failed(after, error),
        }
    }

    fn see_keys(&mut self, mut keys: Vec<u64>) {
        keys.sort_unstable();
        keys.dedup();
        self.seen.keys = keys;
    }

    fn read_keys(&mut self, after: After) -> DiskStep {
        self.command(Stage::Keys(after), self.lead, PrCommand::ReadKeys)
    }

    fn got_keys(&mut self, after: After, answer: PrAnswer) -> DiskStep {
        match answer {
            Ok(PrReply::Keys { generation, keys }) => {
                self.seen.generation = generation;
                self.see_keys(keys);
                match after {
                    After::Victims => self.preempt_surveyed(),
                    After::OwnKeys(0) if matches!(self.work, DiskWork::Leave { .. }) => self
                        .command(
                            Stage::Reservation(after),
                            self.lead,
                            PrCommand::ReadReservation,
                        ),
                    After::OwnKeys(path) => self.own_keys(path),
                    After::Report | After::Verify | After::Lost => self.command(
                        Stage::Reservation(after),
                        self.lead,
                        PrCommand::ReadReservation,
                    ),
                }
            }
            Ok(other) => protocol_error(&other),
            Err(error) => self.read_failed(after, error),
        }
    }

    /// A survey may go over any path: try the next one.
    fn read_failed(&mut self, after: After, error: PrError) -> DiskStep {
        if self.lead.0 + 1 < self.paths && after == After::Report {
            self.lead.0 += 1;
            return self.read_all(after);
        }
        match after {
            After::Lost => DiskStep::Done(DiskOutcome::LostRace(None)),
            After::Report | After::Victims | After::Verify | After::OwnKeys(_) => {
                unreachable_disk(error)
            }
        }
    }

    fn got_reservation(&mut self, after: After, answer: PrAnswer) -> DiskStep {
        let (generation, holder, wero) = match answer {
            Ok(PrReply::Reservation {
                generation,
                holder,
                wero,
            }) => (generation, holder, wero),
            Ok(other) => return protocol_error(&other),
            Err(error) => return self.read_failed(after, error),
        };
        // Nor can a key hold the reservation that isn't registered, whatever the generation says.
        let is_registered = |key: u64| self.seen.keys.contains(&key);
        let torn = generation != self.seen.generation
            || wero && holder.is_some_and(|key| !is_registered(key));
        if torn {
            self.torn += 1;
            if self.torn > TORN_SURVEYS_MAX {
                let why = "its keys changed between every two reads".to_owned();
                return unreachable_disk(PrError::Transport(why));
            }
            return self.read_keys(after);
        }
        self.see_reservation(after, holder, wero)
    }

    fn see_reservation(&mut self, after: After, holder: Option<u64>, wero: bool) -> DiskStep {
        self.seen.holder = holder;
        self.seen.wero = wero || holder.is_none();
        match after {
            After::Verify => self.verify_taken(),
            After::Lost => DiskStep::Done(DiskOutcome::LostRace(Some(self.seen.clone()))),
            After::Report => DiskStep::Done(DiskOutcome::Surveyed(self.seen.clone())),
            After::OwnKeys(path) => self.leave_from(path),
            After::Victims => DiskStep::Done(DiskOutcome::Fenced(self.seen.clone())),
        }
    }

    /// A loser that holds the reservation keeps it with a yielded key: without one, commands of paths that were
    /// preempted before would be let in again.
    fn leave_from(&mut self, path: u8) -> DiskStep {
        if let DiskWork::Leave { holder } = &self.work {
            let holds = self
                .seen
                .holder
                .and_then(|bits| Key::from_bits(bits, holder.pair));
            if holds.is_some_and(|key| key.same_run(*holder)) {
                let yielded = Key {
                    phase: Phase::Yielded,
                    ..*holder
                };
                self.left_behind = yielded.to_bits();
            }
        }
        self.own_keys(path)
    }

    // ---- per path: register, roll, leave -------------------------------------------------------------------

    fn path(&mut self, path: u8) -> DiskStep {
        if path >= self.paths {
            return self.paths_done();
        }
        let command = match &self.work {
            DiskWork::Survey | DiskWork::Expel { .. } => unreachable!("nothing is done per path"),
            DiskWork::Take { key, .. } | DiskWork::Answer { key } => {
                PrCommand::RegisterIgnore { new: key.to_bits() }
            }
            DiskWork::Roll { from, to } => PrCommand::Register {
                old: from.to_bits(),
                new: to.to_bits(),
            },
            DiskWork::Leave { .. } => match self.retry_from.pop() {
                Some(old) => PrCommand::Register {
                    old,
                    new: self.left_behind,
                },
                None => return self.path(path + 1),
            },
        };
        self.command(Stage::Path(path), PathId(path), command)
    }

    fn got_path(&mut self, path: u8, answer: PrAnswer) -> DiskStep {
        match answer {
            Ok(_) => {
                if self.done_paths == 0 {
                    self.lead = PathId(path);
                }
                self.done_paths += 1;
                self.next_path(path)
            }
            Err(PrError::Conflict) => match &self.work {
                // Another key of this holder may be on this path: one that an unanswered roll put there.
                DiskWork::Roll { to, .. } => {
                    let to = to.to_bits();
                    match self.retry_from.pop() {
                        Some(old) => self.command(
                            Stage::Path(path),
                            PathId(path),
                            PrCommand::Register { old, new: to },
                        ),
                        None if self.seen.keys.is_empty() => {
                            self.lead = PathId(path);
                            self.read_keys(After::OwnKeys(path))
                        }
                        None => self.path_failed(
                            path,
                            "no key of ours is registered on this path".to_owned(),
                        ),
                    }
                }
                DiskWork::Leave { .. } => self.path(path),
                DiskWork::Survey
                | DiskWork::Take { .. }
                | DiskWork::Answer { .. }
                | DiskWork::Expel { .. } => {
                    self.path_failed(path, "reservation conflict".to_owned())
                }
            },
            Err(error) => self.path_failed(path, text(error)),
        }
    }

    fn path_failed(&mut self, path: u8, why: String) -> DiskStep {
        self.failed_paths += 1;
        self.last_error = why;
        self.next_path(path)
    }

    /// The next path may hold yet another key of ours: looked for anew. Leaving looks first, since the keys of the paths
    /// before are gone.
    fn next_path(&mut self, path: u8) -> DiskStep {
        self.retry_from.clear();
        self.seen.keys.clear();
        if !matches!(self.work, DiskWork::Leave { .. }) {
            return self.path(path + 1);
        }
        if path + 1 >= self.paths {
            return self.paths_done();
        }
        self.lead = PathId(path + 1);
        self.read_keys(After::OwnKeys(path + 1))
    }

    fn own_keys(&mut self, path: u8) -> DiskStep {
        let (holder, leaving) = match &self.work {
            DiskWork::Leave { holder } => (*holder, true),
            DiskWork::Roll { to, .. } => (*to, false),
            DiskWork::Survey
            | DiskWork::Take { .. }
            | DiskWork::Answer { .. }
            | DiskWork::Expel { .. } => unreachable!("only rolling and leaving look for own keys"),
        };
        let ours =
            |bits: &u64| Key::from_bits(*bits, holder.pair).is_some_and(|key| key.same_run(holder));
        let left = self.left_behind;
        self.retry_from = self.seen.keys.iter().copied().filter(ours).collect();
        self.retry_from.retain(|bits| left == 0 || *bits != left);
        if !self.retry_from.is_empty() {
            if leaving {
                return self.path(path);
            }
            let old = self.retry_from.pop().expect("not empty");
            let new = holder.to_bits();
            let register = PrCommand::Register { old, new };
            return self.command(Stage::Path(path), PathId(path), register);
        }
        DiskStep::Done(match leaving {
            true => DiskOutcome::Left,
            false => DiskOutcome::Fenced(self.seen.clone()),
        })
    }

    fn paths_done(&mut self) -> DiskStep {
        if self.done_paths == 0 && !matches!(self.work, DiskWork::Leave { .. }) {
            return DiskStep::Done(DiskOutcome::Unreachable(self.last_error.clone()));
        }
        match &self.work {
            DiskWork::Survey | DiskWork::Expel { .. } => unreachable!("nothing is done per path"),
            DiskWork::Roll { .. } | DiskWork::Answer { .. } => {
                DiskStep::Done(DiskOutcome::Rolled {
                    paths_failed: self.failed_paths,
                })
            }
            DiskWork::Leave { .. } if self.failed_paths > 0 => {
                DiskStep::Done(DiskOutcome::Unreachable(self.last_error.clone()))
            }
            DiskWork::Leave { .. } => DiskStep::Done(DiskOutcome::Left),
            DiskWork::Take { key, surveyed, .. } => {
                let own_node = |bits: &&u64| {
                    Key::from_bits(**bits, key.pair).is_some_and(|k| k.node == key.node)
                };
                if surveyed.keys.iter().any(|bits| own_node(&bits)) {
                    self.read_keys(After::Victims)
                } else {
                    self.seen.keys = surveyed.keys.clone();
                    self.preempt_surveyed()
                }
            }
        }
    }

    // ---- taking --------------------------------------------------------------------------------------------

    /// The holder's key first, then each other surveyed key that is still there.
    fn preempt_surveyed(&mut self) -> DiskStep {
        let DiskWork::Take { key, surveyed, .. } = &self.work else {
            unreachable!("only taking preempts")
        };
        let own = key.to_bits();
        let mut victims: Vec<u64> = surveyed.holder.into_iter().collect();
        victims.extend(
            surveyed
                .keys
                .iter()
                .copied()
                .filter(|bits| Some(*bits) != surveyed.holder),
        );
        victims.retain(|bits| *bits != own && self.seen.keys.contains(bits));
        self.victims = victims;
        self.preempt(0)
    }

    fn preempt(&mut self, index: usize) -> DiskStep {
        let (DiskWork::Take { key, .. } | DiskWork::Expel { key, .. }) = &self.work else {
            unreachable!("only taking and expelling preempt")
        };
        let own = key.to_bits();
        match self.victims.get(index).copied() {
            Some(victim) => self.command(
                Stage::Preempt(index),
                self.lead,
                PrCommand::PreemptAbort { own, victim },
            ),
            None if matches!(self.work, DiskWork::Expel { .. }) => self.read_all(After::Report),
            None => self.read_all(After::Verify),
        }
    }

    fn got_preempt(&mut self, index: usize, answer: PrAnswer) -> DiskStep {
        match answer {
            Ok(_) => self.preempt(index + 1),
            // SPC-4 5.13.11.3: a key that isn't registered is a conflict: it moved, or was taken by another.
            Err(PrError::Conflict) if matches!(self.work, DiskWork::Expel { .. }) => {
                // The victim is gone, or this path isn't registered: another may be.
                if self.lead.0 + 1 < self.paths {
                    self.lead.0 += 1;
                    self.preempt(index)
                } else {
                    self.lead = PathId(0);
                    self.preempt(index + 1)
                }
            }
            Err(PrError::Conflict) => self.read_all(After::Lost),
            Err(error) => unreachable_disk(error),
        }
    }

    fn verify_taken(&mut self) -> DiskStep {
        let DiskWork::Take { key, .. } = &self.work else {
            unreachable!("only taking verifies")
        };
        let own = key.to_bits();
        if self.seen.keys != [own] {
            return DiskStep::Done(DiskOutcome::LostRace(Some(self.seen.clone())));
        }
        match self.seen.holder {
            Some(holder) if holder == own && self.seen.wero => DiskStep::Done(DiskOutcome::Taken),
            None => self.command(Stage::Reserve, self.lead, PrCommand::Reserve { key: own }),
            Some(_) => DiskStep::Done(DiskOutcome::LostRace(Some(self.seen.clone()))),
        }
    }
}

fn text(error: PrError) -> String {
    match error {
        PrError::Conflict => "reservation conflict".to_owned(),
        PrError::UnitAttention(what) | PrError::Illegal(what) | PrError::Transport(what) => what,
    }
}

fn unreachable_disk(error: PrError) -> DiskStep {
    DiskStep::Done(DiskOutcome::Unreachable(text(error)))
}

fn protocol_error(reply: &PrReply) -> DiskStep {
    DiskStep::Done(DiskOutcome::Unreachable(format!(
        "the adapter answered a command with {reply:?}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a target without READ FULL STATUS, whose PRgeneration stands still, answers to a survey.
    fn survey(answers: &[(&[u64], Option<u64>)]) -> DiskStep {
        let mut task = DiskTask::new(DiskWork::Survey, 1);
        task.step(None);
        let mut step = task.step(Some(Err(PrError::Illegal("no such command".to_owned()))));
        for (keys, holder) in answers {
            let is_read = |step: &DiskStep, command: PrCommand| matches!(step, DiskStep::Command(_, asked) if *asked == command);
            assert!(is_read(&step, PrCommand::ReadKeys), "{step:?}");
            let (generation, wero, keys) = (0, holder.is_some(), keys.to_vec());
            step = task.step(Some(Ok(PrReply::Keys { generation, keys })));
            assert!(is_read(&step, PrCommand::ReadReservation), "{step:?}");
            let holder = *holder;
            step = task.step(Some(Ok(PrReply::Reservation {
                generation,
                holder,
                wero,
            })));
        }
        step
    }

    #[test]
    fn a_holder_that_isnt_registered_is_a_torn_survey() {
        let step = survey(&[(&[1], Some(2)), (&[1, 2], Some(2))]);
        let DiskStep::Done(DiskOutcome::Surveyed(seen)) = step else {
            panic!("{step:?}");
        };
        assert_eq!((seen.keys, seen.holder), (vec![1, 2], Some(2)));
        let step = survey(&[(&[1_u64] as &[u64], Some(2)); 4]);
        let unreachable = matches!(step, DiskStep::Done(DiskOutcome::Unreachable(_)));
        assert!(unreachable, "{step:?}");
    }
}
