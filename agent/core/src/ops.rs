//! Work in flight: what it is for, its deadline, and where its answer goes.

use crate::action::{Action, Outcome, Refusal, Work};
use crate::controller::{Controller, libc_errno};
use crate::disk_work::{DiskOutcome, DiskWork, Survey};
use crate::ids::{DiskId, Epoch, OpId, PoolId, RequestId};
use crate::key::Key;
use crate::memory::{Visitor, Walk as _};
use crate::states::State;
use crate::takeover::Remembered;
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Work in flight.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) job: Job,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) overdue: bool,
}

/// What a piece of work is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Job {
    Look(DiskId),
    Take(DiskId, Key),
    Roll(DiskId, Key),
    Leave(DiskId),
    Expel(DiskId),
    Answer(DiskId, Key),
    RecordIncarnation,
    RecordEpoch(Epoch),
    RecordSettings(Option<RequestId>),
    RecordArbiters,
    RecordOther,
    Remember,
    /// The owner record that an import waits for.
    RememberImport,
    Prescan,
    Import(PoolId),
    Export(PoolId),
    StartServices,
    StopServices,
    AddVips,
    RemoveVips,
    Announce,
    /// Of a pool that failed alone and is tried again.
    PoolImport(PoolId),
    PoolServices(PoolId),
    PoolVips(PoolId),
}

impl Pending {
    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor) {
        let Pending {
            job,
            asked,
            deadline,
            overdue: _,
        } = self;
        visitor.instants([asked, deadline]);
        match job {
            Job::Take(_, key) | Job::Roll(_, key) | Job::Answer(_, key) => visitor.key(key),
            Job::RecordEpoch(epoch) => visitor.epoch(epoch),
            Job::Look(_)
            | Job::Leave(_)
            | Job::Expel(_)
            | Job::RecordIncarnation
            | Job::RecordSettings(_)
            | Job::RecordArbiters
            | Job::RecordOther
            | Job::Remember
            | Job::RememberImport
            | Job::Prescan
            | Job::Import(_)
            | Job::Export(_)
            | Job::StartServices
            | Job::StopServices
            | Job::AddVips
            | Job::RemoveVips
            | Job::Announce
            | Job::PoolImport(_)
            | Job::PoolServices(_)
            | Job::PoolVips(_) => {}
        }
    }
}

impl Job {
    fn disk(&self) -> Option<DiskId> {
        match self {
            Job::Look(disk)
            | Job::Take(disk, _)
            | Job::Roll(disk, _)
            | Job::Leave(disk)
            | Job::Expel(disk)
            | Job::Answer(disk, _) => Some(*disk),
            Job::RecordIncarnation
            | Job::RecordEpoch(_)
            | Job::RecordSettings(_)
            | Job::RecordArbiters
            | Job::RecordOther
            | Job::Remember
            | Job::RememberImport
            | Job::Prescan
            | Job::Import(_)
            | Job::Export(_)
            | Job::StartServices
            | Job::StopServices
            | Job::AddVips
            | Job::RemoveVips
            | Job::Announce
            | Job::PoolImport(_)
            | Job::PoolServices(_)
            | Job::PoolVips(_) => None,
        }
    }
}

/// Deadlines of work on a disk after which nothing more is expected of whoever carries it out: one for its turn, and one
/// each for two paths that hang.
const SILENCE: u64 = 3;

/// Pause after a failed record before the next is tried.
const JOURNAL_PAUSE: Duration = ms(1000);

impl Controller {
    // ---- work ----------------------------------------------------------------------------------------------

    /// Asks for work; its deadline follows from what it is for.
    pub(crate) fn run(&mut self, now: Instant, job: Job, work: Work) -> OpId {
        let timing = &self.config.timing;
        let limit = match &job {
            Job::Look(_) | Job::Roll(..) | Job::Answer(..) => timing.disk_op_ms,
            Job::Take(..) | Job::Leave(_) | Job::Expel(_) => timing.abort_ms,
            Job::RecordIncarnation
            | Job::RecordEpoch(_)
            | Job::RecordSettings(_)
            | Job::RecordArbiters
            | Job::RecordOther
            | Job::Remember
            | Job::RememberImport => timing.record_ms,
            Job::Prescan | Job::Import(_) | Job::PoolImport(_) => timing.import_ms,
            Job::Export(_) => timing.export_ms,
            Job::StartServices | Job::StopServices | Job::PoolServices(_) => timing.services_ms,
            Job::AddVips | Job::RemoveVips | Job::Announce | Job::PoolVips(_) => timing.vips_ms,
        };
        // Each command to a disk has its deadline from when it was sent, which whoever carries the work out keeps, and as
        // long again for its turn. This is for the case that nothing is said at all.
        let limit = match job.disk() {
            Some(_) => SILENCE * limit,
            None => limit,
        };
        self.next_op += 1;
        let op = OpId(self.next_op);
        if let Some(disk) = job.disk().and_then(|id| self.disks.all.get_mut(&id)) {
            disk.busy = Some(op);
        }
        let deadline = now + ms(limit);
        self.ops.insert(
            op,
            Pending {
                job,
                asked: now,
                deadline,
                overdue: false,
            },
        );
        self.out.push(Action::Run { op, work });
        op
    }

    /// Asks for disk work.
    pub(crate) fn run_disk(&mut self, now: Instant, job: Job, work: DiskWork) {
        let Some(disk) = job.disk() else { return };
        self.run(now, job, Work::Disk { disk, work });
    }

    /// Whether work of this kind is in flight and not overdue.
    pub(crate) fn running(&self, job: &Job) -> bool {
        self.ops
            .values()
            .any(|pending| pending.job == *job && !pending.overdue)
    }

    /// Pieces of work of this kind that were not answered, overdue or not.
    pub(crate) fn unanswered(&self, job: &Job) -> usize {
        let same = |pending: &&Pending| pending.job == *job;
        self.ops.values().filter(same).count()
    }

    /// Whether work is in flight and not overdue.
    pub(crate) fn is_in_time(&self, op: OpId) -> bool {
        self.ops.get(&op).is_some_and(|pending| !pending.overdue)
    }

    /// Whether a record may be asked for: it isn't in flight, and none failed a moment ago.
    pub(crate) fn journal_is_free(&mut self, now: Instant, job: &Job) -> bool {
        if now < self.journal_again_at {
            let at = self.journal_again_at;
            self.wake_at(at, "journal");
            return false;
        }
        !self.running(job)
    }

    pub(crate) fn work_ended(
        &mut self,
        now: Instant,
        op: OpId,
        waited: Duration,
        outcome: Outcome,
    ) {
        // An answer to work that nobody asked for in this run, or a second answer, changes nothing.
        let Some(pending) = self.ops.remove(&op) else {
            return;
        };
        if let Some(disk) = pending
            .job
            .disk()
            .and_then(|id| self.disks.all.get_mut(&id))
        {
            disk.busy = None;
        }
        if pending.overdue {
            self.late(pending.job, outcome);
        } else {
            // What it read or wrote it read or wrote after it was sent.
            let sent = (pending.asked + waited).min(now);
            self.ended(now, pending.job, sent, outcome);
        }
    }

    /// Its turn didn't come: a disk isn't judged by that, and is asked again.
    fn not_sent(&mut self, now: Instant, job: &Job) {
        match job {
            Job::Look(id) => self.takeover.not_sent(*id),
            Job::Take(_, key) if self.owner.repairing(*key) => self.owner.repair_failed(now),
            Job::Take(id, _) => self.takeover.not_sent(*id),
            Job::Roll(id, _) => {
                if let Some(disk) = self.disks.all.get_mut(id) {
                    disk.roll_waits = true;
                }
            }
            Job::Leave(id) => {
                let again = now + ms(self.config.timing.disk_beat_ms);
                if let Some(disk) = self.disks.all.get_mut(id) {
                    disk.owed_again = again;
                }
            }
            // The next look asks for them again; the others are no disk's.
            Job::Expel(_)
            | Job::Answer(..)
            | Job::RecordIncarnation
            | Job::RecordEpoch(_)
            | Job::RecordSettings(_)
            | Job::RecordArbiters
            | Job::RecordOther
            | Job::Remember
            | Job::RememberImport
            | Job::Prescan
            | Job::Import(_)
            | Job::Export(_)
            | Job::StartServices
            | Job::StopServices
            | Job::AddVips
            | Job::RemoveVips
            | Job::Announce
            | Job::PoolImport(_)
            | Job::PoolServices(_)
            | Job::PoolVips(_) => {}
        }
    }

    /// Work that had been given up answers after all.
    fn late(&mut self, job: Job, outcome: Outcome) {
        match job {
            // A late success of a taker that has yielded is undone by unregistering (protocol.md section 2).
            Job::Take(id, key) | Job::Answer(id, key) => {
                if self.owns_with(key) {
                    self.took_late(id, key, &outcome);
                } else {
                    self.owe(id, key);
                }
            }
            Job::RecordEpoch(epoch) if outcome == Outcome::Ok => {
                self.reserved = self.reserved.max(epoch)
            }
            Job::Roll(id, key) => {
                if let Outcome::Disk(DiskOutcome::Rolled { .. }) = outcome
                    && let Some(disk) = self.disks.all.get_mut(&id)
                    && disk.ours.is_some()
                {
                    disk.ours = Some(key);
                }
            }
            Job::RecordIncarnation if outcome == Outcome::Ok => {
                self.start.incarnation_durable = true
            }
            // Everything else was counted as failed; a late answer must not be taken for that of a later attempt.
            Job::Look(_)
            | Job::Leave(_)
            | Job::Expel(_)
            | Job::RecordIncarnation
            | Job::RecordEpoch(_)
            | Job::RecordSettings(_)
            | Job::RecordArbiters
            | Job::RecordOther
            | Job::Remember
            | Job::RememberImport
            | Job::Prescan
            | Job::Import(_)
            | Job::Export(_)
            | Job::StartServices
            | Job::StopServices
            | Job::AddVips
            | Job::RemoveVips
            | Job::Announce
            | Job::PoolImport(_)
            | Job::PoolServices(_)
            | Job::PoolVips(_) => {}
        }
    }

    /// This controller owns, or is on its way to own, with keys of that epoch.
    fn owns_with(&self, key: Key) -> bool {
        let taking = self.state.owns() || self.state == State::FencingArbiters;
        taking && key.same_holder(self.key(key.phase, self.epoch))
    }

    /// A disk that was given up during this very takeover is ours after all: kept, but not given to the import.
    fn took_late(&mut self, id: DiskId, key: Key, outcome: &Outcome) {
        if *outcome == Outcome::Disk(DiskOutcome::Taken)
            && let Some(disk) = self.disks.all.get_mut(&id)
        {
            disk.ours = Some(key);
            disk.lost = false;
            disk.owed = None;
            self.takeover.came_late(self.state, id);
        } else {
            self.owe(id, key);
        }
    }

    /// Notes that a key of ours must come off a disk.
    pub(crate) fn owe(&mut self, id: DiskId, key: Key) {
        if let Some(disk) = self.disks.all.get_mut(&id) {
            disk.owed = Some(key);
            disk.owed_again = Instant::default();
            disk.ours = None;
        }
    }

    /// Takes keys off that are owed, as soon as their disks are free.
    pub(crate) fn poll_owed(&mut self, now: Instant) {
        let free = self.disks.all.values().filter(|disk| disk.busy.is_none());
        let owed: Vec<(DiskId, Key, Instant)> = free
            .filter_map(|disk| Some((disk.id, disk.owed?, disk.owed_again)))
            .collect();
        for (id, holder, again) in owed {
            if now < again {
                self.wake_at(again, "give back a disk");
            } else {
                self.run_disk(now, Job::Leave(id), DiskWork::Leave { holder });
            }
        }
    }

    pub(crate) fn fail_overdue(&mut self, now: Instant) {
        let overdue: Vec<OpId> = self
            .ops
            .iter()
            .filter(|(_, p)| !p.overdue && p.deadline <= now)
            .map(|(op, _)| *op)
            .collect();
        for op in overdue {
            let Some(pending) = self.ops.get_mut(&op) else {
                continue;
            };
            pending.overdue = true;
            let (job, asked) = (pending.job.clone(), pending.asked);
            let why = format!("no answer within {} ms", now.since(asked).as_millis());
            let outcome = match job.disk() {
                Some(_) => Outcome::Disk(DiskOutcome::Unreachable(why)),
                None => Outcome::Failed(why),
            };
            self.ended(now, job, asked, outcome);
        }
        if let Some(deadline) = self
            .ops
            .values()
            .filter(|p| !p.overdue)
            .map(|p| p.deadline)
            .min()
        {
            self.wake_at(deadline, "work overdue");
        }
    }

    /// An answer, or the lack of one, in time.
    fn ended(&mut self, now: Instant, job: Job, asked: Instant, outcome: Outcome) {
        match (job, outcome) {
            (job, Outcome::Disk(DiskOutcome::NotSent(_))) if job.disk().is_some() => {
                self.not_sent(now, &job)
            }
            (Job::Look(id), Outcome::Disk(DiskOutcome::Surveyed(survey))) => {
                self.looked(now, id, asked, survey)
            }
            (Job::Look(id), _) => self.disks.look_failed(id),
            (Job::Take(id, key), outcome) => self.take_ended(now, id, key, asked, outcome),
            (Job::Roll(id, key), Outcome::Disk(outcome)) => {
                self.roll_ended(now, id, key, asked, outcome)
            }
            (
                Job::Expel(id),
                Outcome::Disk(DiskOutcome::Surveyed(survey) | DiskOutcome::Fenced(survey)),
            ) => {
                self.looked(now, id, asked, survey);
            }
            (Job::Leave(id), Outcome::Disk(DiskOutcome::Left)) => {
                if let Some(disk) = self.disks.all.get_mut(&id) {
                    disk.owed = None;
                }
            }
            // A disk that is gone says so at once: it must not be asked in every turn.
            (Job::Leave(id), _) => {
                let again = now + ms(self.config.timing.disk_beat_ms);
                if let Some(disk) = self.disks.all.get_mut(&id) {
                    disk.owed_again = again;
                }
            }
            (Job::Expel(_) | Job::Answer(..) | Job::Roll(..), _) => {}
            (Job::RecordIncarnation, Outcome::Ok) => self.start.incarnation_durable = true,
            (Job::RecordEpoch(epoch), Outcome::Ok) => self.reserved = self.reserved.max(epoch),
            (Job::RecordSettings(request), outcome) => self.settings_recorded(request, outcome),
            (Job::RecordArbiters, Outcome::Ok) => self.arbiters_recorded(),
            (
                Job::RecordIncarnation
                | Job::RecordEpoch(_)
                | Job::RecordArbiters
                | Job::RecordOther
                | Job::Remember,
                Outcome::Failed(why),
            ) => {
                self.journal_again_at = now + JOURNAL_PAUSE;
                self.notice(
                    "JOURNAL_FAILED",
                    Severity::Alarm,
                    format!("a journal record was not written: {why}"),
                );
            }
            (Job::RememberImport, outcome) => {
                let end = Remembered::Ended(outcome_of(outcome));
                self.takeover.remembered = Some(end);
            }
            (Job::RecordOther | Job::Remember, _) | (Job::Prescan, _) => {}
            (Job::Import(pool), outcome) => self.import_ended(pool, outcome),
            (job @ (Job::PoolImport(_) | Job::PoolServices(_) | Job::PoolVips(_)), outcome) => {
                self.retry_step_ended(now, &job, outcome)
            }
            (Job::Export(pool), outcome) => self.export_ended(pool, outcome),
            (Job::StartServices, outcome) => self.takeover.services = Some(outcome_of(outcome)),
            (Job::AddVips, outcome) => self.takeover.vips = Some(outcome_of(outcome)),
            (Job::Announce, outcome) => self.announced(now, outcome_of(outcome)),
            (Job::StopServices, outcome) => self.handover.services = Some(outcome_of(outcome)),
            (Job::RemoveVips, outcome) => self.handover.vips = Some(outcome_of(outcome)),
            (
                Job::RecordIncarnation | Job::RecordEpoch(_) | Job::RecordArbiters,
                Outcome::Disk(_),
            ) => {}
        }
    }

    fn looked(&mut self, now: Instant, id: DiskId, asked: Instant, survey: Survey) {
        self.see_epochs(&survey);
        self.disks.looked(id, asked, now, survey);
        self.owner_looked(now, id, asked);
    }

    /// Epochs in keys of the pair count as seen.
    pub(crate) fn see_epochs(&mut self, survey: &Survey) {
        for bits in &survey.keys {
            if let Some(key) = Key::from_bits(*bits, self.config.pair)
                && let Some(epoch) = key.epoch.expand(self.seen)
            {
                self.seen = self.seen.max(epoch);
            }
        }
    }

    fn settings_recorded(&mut self, request: Option<RequestId>, outcome: Outcome) {
        let reply = outcome_of(outcome).map_err(|why| {
            let reason = format!("the settings could not be made durable: {why}");
            Refusal {
                errno: libc_errno::EFAULT,
                reason,
            }
        });
        match (request, reply) {
            (Some(request), reply) => self.reply(request, reply),
            (None, Err(refusal)) => self.notice("JOURNAL_FAILED", Severity::Alarm, refusal.reason),
            (None, Ok(())) => {}
        }
    }

    /// Asks for looks at these disks where one is due, `interval` apart.
    pub(crate) fn look_at_disks(&mut self, now: Instant, ids: &[DiskId], interval: Duration) {
        for id in ids {
            let Some(disk) = self.disks.all.get_mut(id) else {
                continue;
            };
            if disk.busy.is_some() || disk.owed.is_some() {
                continue;
            }
            if disk.look_at <= now {
                disk.look_at = now + interval;
                self.run_disk(now, Job::Look(*id), DiskWork::Survey);
            }
            if let Some(disk) = self.disks.all.get(id) {
                let at = disk.look_at;
                self.wake_at(at, "look at disks");
            }
        }
    }
}

/// The end of work that isn't disk work.
pub(crate) fn outcome_of(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Ok => Ok(()),
        Outcome::Failed(why) => Err(why),
        Outcome::Disk(_) => Err("a disk's answer to work that isn't disk work".to_owned()),
    }
}
