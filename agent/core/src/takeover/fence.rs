//! Fencing: the arbiters first, then the rest; or yielding.

use super::{Kind, Try};
use crate::action::{Entry, Outcome, Work};
use crate::controller::Controller;
use crate::disk_work::{DiskOutcome, DiskWork, Survey};
use crate::disks::{Disk, Verdict};
use crate::ids::DiskId;
use crate::key::{Key, Phase};
use crate::ops::Job;
use crate::owner::NAMED_MAX;
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use std::collections::BTreeSet;

/// Retries on one disk whose holder's key moved between survey and preempt, in a forced takeover.
const MOVED_MAX: u8 = 10;
/// Retries on one disk of the rest that lost a race.
const REST_RETRIES_MAX: u8 = 2;

impl Controller {
    /// The first readable arbiter alone, then the others, in the list's order.
    pub(crate) fn poll_fencing_arbiters(&mut self, now: Instant) {
        self.look_for_takeover_ended(now);
        let arbiters = self.disks.arbiter_ids();
        let mut leader = None;
        for id in &arbiters {
            match self.takeover.tries.get(id) {
                Some(Try::Taken) => {
                    leader = Some(Try::Taken);
                    break;
                }
                Some(Try::Taking | Try::Looking) => {
                    leader = Some(Try::Taking);
                    break;
                }
                Some(Try::Lost) => {
                    leader = Some(Try::Lost);
                    break;
                }
                Some(Try::Failed) => {}
                None if self.is_stuck(*id) => {
                    self.takeover.tries.insert(*id, Try::Failed);
                }
                None if self.is_readable(*id) => {
                    self.try_disk(now, *id);
                    // Still busy with an earlier look: its answer comes first.
                    leader = Some(self.takeover.tries.get(id).copied().unwrap_or(Try::Taking));
                    break;
                }
                None => {}
            }
        }
        let limit = self.since + ms(4 * self.config.timing.abort_ms);
        self.wake_at(limit, "fence the arbiters");
        match leader {
            _ if now >= limit => self.yield_all(now, states::RACE_LOST),
            Some(Try::Taken) => self.take_arbiters(now, &arbiters),
            Some(Try::Taking | Try::Looking) => {}
            Some(Try::Lost) => self.yield_all(now, states::RACE_LOST),
            // No arbiter at all answers: more than half of all disks decide.
            Some(Try::Failed) | None => self.take_arbiters(now, &arbiters),
        }
    }

    pub(crate) fn take_arbiters(&mut self, now: Instant, arbiters: &[DiskId]) {
        for id in arbiters {
            if !self.takeover.tries.contains_key(id) {
                match self.is_stuck(*id) {
                    true => {
                        self.takeover.tries.insert(*id, Try::Failed);
                    }
                    false => self.try_disk(now, *id),
                }
            }
        }
        let tried = |id: &DiskId| self.takeover.tries.get(id).copied();
        let open = |state: Option<Try>| matches!(state, Some(Try::Looking | Try::Taking) | None);
        let arbiters_open = arbiters.iter().any(|id| open(tried(id)));
        let mut verdict = self.won();
        if verdict == Verdict::Unknown && !arbiters_open {
            // A majority of the arbiters can't be had for want of answers: the rest joins the jury.
            let rest: Vec<DiskId> = self.disks.all.keys().copied().collect();
            for id in rest {
                if !self.takeover.tries.contains_key(&id) {
                    self.try_disk(now, id);
                }
            }
            verdict = self.won();
            let all_done = self
                .takeover
                .tries
                .values()
                .all(|state| !open(Some(*state)));
            if verdict == Verdict::Unknown && all_done {
                verdict = Verdict::No;
            }
        }
        match verdict {
            Verdict::Yes => self.majority_won(now),
            Verdict::No => self.yield_all(now, states::RACE_LOST),
            Verdict::Unknown => {}
        }
    }

    pub(crate) fn won(&self) -> Verdict {
        self.disks
            .verdict(|disk| match self.takeover.tries.get(&disk.id) {
                Some(Try::Taken) => Some(true),
                Some(Try::Lost) => Some(false),
                Some(Try::Failed | Try::Looking | Try::Taking) | None => None,
            })
    }

    /// Earlier work on the disk is overdue, or a key of ours that must come off is still there.
    fn is_stuck(&self, id: DiskId) -> bool {
        let Some(disk) = self.disks.all.get(&id) else {
            return true;
        };
        disk.owed.is_some() || disk.busy.is_some_and(|op| !self.is_in_time(op))
    }

    fn is_readable(&self, id: DiskId) -> bool {
        self.disks
            .all
            .get(&id)
            .is_some_and(|disk| disk.look.is_some() && !disk.failed)
    }

    /// Takes a disk with the keys of its last look, or looks first.
    fn try_disk(&mut self, now: Instant, id: DiskId) {
        let Some(disk) = self.disks.all.get(&id) else {
            return;
        };
        if disk.busy.is_some() || disk.owed.is_some() {
            return;
        }
        let old = now - ms(2 * self.config.timing.disk_op_ms);
        let fresh = disk
            .look
            .as_ref()
            .filter(|(asked, _)| !disk.failed && *asked >= old.max(self.look_floor()));
        let Some((_, survey)) = fresh.cloned() else {
            self.takeover.tries.insert(id, Try::Looking);
            self.run_disk(now, Job::Look(id), DiskWork::Survey);
            return;
        };
        self.take(now, id, survey);
    }

    /// Keys must have been surveyed in this takeover, or in the reads that established the owner's death.
    fn look_floor(&self) -> Instant {
        match self.takeover.kind {
            Kind::Dead | Kind::Handover => Instant::default(),
            Kind::Elected | Kind::Forced | Kind::Adopted => self.takeover.surveyed_from,
        }
    }

    pub(crate) fn take(&mut self, now: Instant, id: DiskId, surveyed: Survey) {
        let Some(disk) = self.disks.all.get(&id) else {
            return;
        };
        let newer = surveyed
            .keys
            .iter()
            .filter_map(|bits| Key::from_bits(*bits, self.config.pair))
            .any(|key| {
                !self.is_own_run(key)
                    && key
                        .epoch
                        .expand(self.epoch)
                        .is_none_or(|epoch| epoch >= self.epoch)
            });
        if self.disks.has_stranger(disk) || !surveyed.wero || newer {
            let name = disk.name.clone();
            let end = if newer { Try::Lost } else { Try::Failed };
            self.takeover.tries.insert(id, end);
            let what = if newer {
                "a key of a newer takeover"
            } else {
                "a reservation or key that isn't this pair's"
            };
            let text = format!("disk {name} has {what}; it is left alone");
            self.notice("FENCE_FOREIGN_KEY", Severity::Alarm, text);
            return;
        }
        self.note_lease(now, id);
        let phase = if self.state == State::FencingArbiters {
            Phase::Candidate
        } else {
            Phase::Owner
        };
        let key = self.key(phase, self.epoch);
        self.takeover.tries.insert(id, Try::Taking);
        self.run_disk(now, Job::Take(id, key), DiskWork::take(key, surveyed));
    }

    /// The old owner rolled this disk when it could no longer roll the arbiters: its lease may rest on that.
    fn rolled_beyond_arbiters(&self, id: DiskId) -> bool {
        let keys = |id: &DiskId| {
            let disk = self.disks.all.get(id)?;
            self.disks
                .owner_key(disk)
                .filter(|key| key.node != self.config.node)
        };
        let Some(key) = keys(&id) else { return false };
        let arbiters = self.disks.arbiter_ids();
        let arbiters: Vec<Key> = arbiters
            .iter()
            .filter_map(keys)
            .filter(|k| k.same_run(key))
            .collect();
        // Serial-number order of the 12 bits of the beat (RFC 1982).
        let ahead = |of: &Key| (1..2048).contains(&(key.beat.wrapping_sub(of.beat) & 0xfff));
        !arbiters.is_empty() && arbiters.iter().all(ahead)
    }

    /// A key that is about to be removed may have proved a lease up to when it was first seen.
    fn note_lease(&mut self, now: Instant, id: DiskId) {
        let judge = self.disks.is_arbiter(id)
            || !self.disks.arbiters_readable()
            || self.rolled_beyond_arbiters(id);
        let Some(disk) = self.disks.all.get(&id).filter(|_| judge) else {
            return;
        };
        let timing = &self.config.timing;
        let mut from = Instant::default();
        let mut ended = true;
        for (bits, seen) in &disk.first_seen {
            let Some(key) = Key::from_bits(*bits, self.config.pair) else {
                continue;
            };
            if key.node == self.config.node {
                continue;
            }
            let lease = match key.phase {
                Phase::HandingOver => continue,
                Phase::OwnerSlow => timing.slow_lease_ms,
                Phase::Restarting => timing.restart_ms,
                Phase::Candidate | Phase::Owner | Phase::Offering | Phase::Yielded => {
                    timing.vip_lease_ms
                }
            };
            ended = false;
            from = from.max((*seen).min(now) + ms(lease + timing.lease_slack_ms));
        }
        self.takeover.lease_was_ended &= ended;
        self.takeover.announce_from = self.takeover.announce_from.max(from);
    }

    pub(crate) fn take_ended(
        &mut self,
        now: Instant,
        id: DiskId,
        key: Key,
        asked: Instant,
        outcome: Outcome,
    ) {
        if let Outcome::Disk(DiskOutcome::LostRace(Some(survey))) = &outcome {
            self.see_survey(now, id, asked, survey.clone());
        }
        let taken = outcome == Outcome::Disk(DiskOutcome::Taken);
        if taken && let Some(disk) = self.disks.all.get_mut(&id) {
            disk.ours = Some(key);
            disk.lost = false;
            disk.ok_at = Some(asked);
            disk.rolled_at = Some(asked);
        }
        if self.owner.repairing(key) {
            if !self.state.owns() {
                // Given away meanwhile: what came late goes back.
                self.owe(id, key);
            } else if taken {
                self.takeover.won.insert(id);
            } else {
                self.owner.repair_failed(now);
            }
            return;
        }
        if !matches!(self.state, State::FencingArbiters | State::FencingRest) {
            if !self.state.owns() || !taken {
                self.owe(id, key);
            }
            return;
        }
        let end = match outcome {
            Outcome::Disk(DiskOutcome::Taken) => Try::Taken,
            Outcome::Disk(DiskOutcome::LostRace(seen)) => {
                if self.may_retry(id, seen.as_ref()) {
                    self.takeover.tries.insert(id, Try::Looking);
                    self.run_disk(now, Job::Look(id), DiskWork::Survey);
                    return;
                }
                Try::Lost
            }
            Outcome::Disk(_) | Outcome::Ok | Outcome::Failed(_) => Try::Failed,
        };
        if end != Try::Taken {
            // Our registration may be on it: it must not stay.
            self.owe(id, key);
        }
        self.takeover.tries.insert(id, end);
    }

    fn see_survey(&mut self, now: Instant, id: DiskId, asked: Instant, survey: Survey) {
        self.see_epochs(&survey);
        self.disks.looked(id, asked, now, survey);
    }

    /// A forced takeover surveys again where the holder's key only moved; a disk of the rest gets another try.
    fn may_retry(&mut self, id: DiskId, seen: Option<&Survey>) -> bool {
        let newer = |bits: &u64| {
            Key::from_bits(*bits, self.config.pair).is_none_or(|key| {
                !self.is_own_run(key)
                    && key
                        .epoch
                        .expand(self.epoch)
                        .is_none_or(|epoch| epoch >= self.epoch)
            })
        };
        if seen.is_none_or(|survey| survey.keys.iter().any(newer)) {
            return false;
        }
        let most = match (self.state, self.takeover.kind) {
            (State::FencingRest, _) => REST_RETRIES_MAX,
            (_, Kind::Forced) => MOVED_MAX,
            (_, Kind::Dead | Kind::Elected | Kind::Handover | Kind::Adopted) => 0,
        };
        let retries = self.takeover.retries.entry(id).or_default();
        *retries += 1;
        *retries <= most
    }

    /// A look ended: a disk of the takeover that waited for it is taken now.
    pub(crate) fn look_for_takeover_ended(&mut self, now: Instant) {
        if !matches!(self.state, State::FencingArbiters | State::FencingRest) {
            return;
        }
        let waiting: Vec<DiskId> = self
            .takeover
            .tries
            .iter()
            .filter(|(_, state)| **state == Try::Looking)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let Some(disk) = self.disks.all.get(&id) else {
                continue;
            };
            if disk.busy.is_some() {
                continue;
            }
            match disk.look.clone().filter(|_| !disk.failed) {
                Some((_, survey)) => self.take(now, id, survey),
                None => {
                    self.takeover.tries.insert(id, Try::Failed);
                }
            }
        }
    }

    fn majority_won(&mut self, now: Instant) {
        self.losses = 0;
        self.force = None;
        self.owner.won(now);
        for pool in self.config.pools.clone() {
            self.run(now, Job::Prescan, Work::Prescan(pool.id));
        }
        self.run(
            now,
            Job::RecordOther,
            Work::Record(Entry::Owned(Some(self.epoch))),
        );
        self.go(now, states::MAJORITY_WON);
        let rest: Vec<DiskId> = self.disks.all.keys().copied().collect();
        for id in rest {
            if !self.takeover.tries.contains_key(&id) {
                self.try_disk(now, id);
            }
        }
    }

    pub(crate) fn poll_fencing_rest(&mut self, now: Instant) {
        self.look_for_takeover_ended(now);
        let limit = self.since + ms(2 * self.config.timing.abort_ms);
        let ids: Vec<DiskId> = self.disks.all.keys().copied().collect();
        for id in &ids {
            if !self.takeover.tries.contains_key(id) {
                match self.is_stuck(*id) {
                    true => {
                        self.takeover.tries.insert(*id, Try::Failed);
                    }
                    false => self.try_disk(now, *id),
                }
            }
        }
        let open = |id: &DiskId| {
            matches!(
                self.takeover.tries.get(id),
                Some(Try::Looking | Try::Taking) | None
            )
        };
        if ids.iter().any(open) && now < limit {
            self.wake_at(limit, "fence the rest");
            return;
        }
        // A disk that answered too late is ours, but nothing may be imported with it.
        let taken = |disk: &Disk| {
            let in_time = self.takeover.tries.get(&disk.id) == Some(&Try::Taken);
            Some(in_time && disk.ours.is_some() && !disk.lost)
        };
        if self.disks.verdict_of_all(taken) != Verdict::Yes {
            self.yield_all(now, states::REST_LOST);
            return;
        }
        let held = self
            .disks
            .all
            .values()
            .filter(|disk| disk.ours.is_some() && !disk.lost);
        let won: BTreeSet<DiskId> = held
            .map(|disk| disk.id)
            .filter(|id| self.takeover.tries.get(id) == Some(&Try::Taken))
            .collect();
        if won.len() < ids.len() {
            let missed = self.disks.all.values();
            let missed: Vec<&str> = missed
                .filter(|disk| !won.contains(&disk.id))
                .map(|disk| disk.name.as_str())
                .collect();
            let more = if missed.len() > NAMED_MAX {
                ", …"
            } else {
                ""
            };
            let text = format!(
                "{} of {} shared disks could not be taken: {}{more}",
                missed.len(),
                ids.len(),
                missed[..missed.len().min(NAMED_MAX)].join(", ")
            );
            self.notice("FENCE_INCOMPLETE", Severity::Alarm, text);
        }
        let missed = ids.iter().copied().filter(|id| !won.contains(id));
        self.owner.steady.told_of(missed);
        self.owner.steady.verify_from(now);
        self.takeover.won = won;
        self.takeover.mark("import", now);
        self.go(now, states::REST_FENCED);
    }

    /// Drops everything taken in this takeover.
    fn yield_all(&mut self, now: Instant, edge: Edge) {
        let key = self.key(Phase::Candidate, self.epoch);
        let tried: Vec<DiskId> = self
            .takeover
            .tries
            .iter()
            .filter(|(_, state)| **state != Try::Looking)
            .map(|(id, _)| *id)
            .collect();
        for id in tried {
            self.owe(id, key);
        }
        self.losses += 1;
        self.set_back(now);
        self.run(now, Job::RecordOther, Work::Record(Entry::Owned(None)));
        self.go(now, edge);
    }

    /// After a tie B waits twice the fence budget, A not at all; then both at random.
    pub(crate) fn set_back(&mut self, now: Instant) {
        let budget = self.config.timing.abort_ms;
        let wait = match (self.losses, self.config.node) {
            (0 | 1, crate::ids::Node::A) => 0,
            (0 | 1, crate::ids::Node::B) => 2 * budget,
            (2.., crate::ids::Node::A | crate::ids::Node::B) => self.draw(4 * budget),
        };
        self.backoff_until = now + ms(wait.max(self.config.timing.disk_read_ms));
    }

    pub(crate) fn poll_yielding(&mut self, now: Instant) {
        let limit = self.since + ms(self.config.timing.abort_ms);
        let owed = self.disks.all.values().any(|disk| disk.owed.is_some());
        if owed && now < limit {
            self.wake_at(limit, "yield");
            return;
        }
        // The keys weren't watched meanwhile: they may have moved and rested again.
        for disk in self.disks.all.values_mut() {
            disk.unchanged_since = None;
        }
        self.go(now, states::YIELDED);
    }
}
