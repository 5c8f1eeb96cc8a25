//! The takeover: survey, fence the arbiters, fence the rest, import, services, addresses.
//!
//! ```text
//!   Surveying ─▶ FencingArbiters ─▶ FencingRest ─▶ Importing ─▶ StartingServices ─▶ Announcing ─▶ Active
//!                      │ lost race       │ under half
//!                      └──▶ Yielding ◀───┘  (drops what it took) ─▶ Electing
//! ```

use crate::action::{Action, Entry, Lease, Outcome, OwnerRecord, Work};
use crate::beat::Beat;
use crate::controller::Controller;
use crate::disk_work::{DiskOutcome, DiskWork, Survey};
use crate::disks::{Disk, Verdict};
use crate::ids::{DiskId, PoolId};
use crate::key::{Key, Phase};
use crate::ops::{Job, outcome_of};
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use std::collections::BTreeMap;

/// Retries on one disk whose holder's key moved between survey and preempt, in a forced takeover.
const MOVED_MAX: u8 = 10;
/// Retries on one disk of the rest that lost a race.
const REST_RETRIES_MAX: u8 = 2;
/// Time for which a controller whose import failed leaves the takeover to the other.
const IMPORT_FAILED_MS: u64 = 60_000;

/// Why a takeover runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The owner is dead.
    #[default]
    Dead,
    /// Nobody owns and both live.
    Elected,
    /// The owner wrote handing-over.
    Handover,
    /// The owner lives and doesn't serve, or an operator said so.
    Forced,
    /// A restarted daemon goes on owning.
    Adopted,
}

/// How far one disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Try {
    Looking,
    Taking,
    Taken,
    Lost,
    Failed,
}

/// The running takeover.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    pub(crate) kind: Kind,
    pub(crate) services: Option<Result<(), String>>,
    pub(crate) vips: Option<Result<(), String>>,
    /// Moments at which its phases began, in order.
    pub(crate) marks: Vec<(&'static str, Instant)>,
    /// Disks that were won: the only ones that the import may use.
    pub(crate) won: Vec<DiskId>,
    pub(crate) imports: BTreeMap<PoolId, Result<(), String>>,
    tries: BTreeMap<DiskId, Try>,
    retries: BTreeMap<DiskId, u8>,
    surveyed_from: Instant,
    /// Every arbiter key that it removed said handing-over: the old lease was ended before.
    lease_was_ended: bool,
    announce_from: Instant,
    /// The disks must have been seen as ours since then before pools are imported.
    pub(crate) prove_from: Instant,
    imports_asked: bool,
    services_asked: bool,
    vips_asked: bool,
    announce_asked: bool,
}

impl Takeover {
    /// A takeover of this kind is running in `state`: our echo must not renew the old owner's lease.
    pub(crate) fn is_unplanned_in(&self, state: State) -> bool {
        let running = matches!(
            state,
            State::Surveying
                | State::FencingArbiters
                | State::FencingRest
                | State::Importing
                | State::StartingServices
                | State::Announcing
        );
        running && !matches!(self.kind, Kind::Handover | Kind::Adopted)
    }

    /// Walks on from the import, with nothing to wait for.
    pub(crate) fn adopted(&mut self, now: Instant, record: &OwnerRecord) {
        *self = Takeover {
            kind: Kind::Adopted,
            won: record.won.clone(),
            marks: vec![("import", now)],
            lease_was_ended: true,
            announce_from: now,
            ..Takeover::default()
        };
    }

    /// A disk of this takeover was taken after all: the import may use it, or the next try of one that runs already.
    pub(crate) fn came_late(&mut self, state: State, id: DiskId) {
        if matches!(state, State::FencingArbiters | State::FencingRest) {
            self.tries.insert(id, Try::Taken);
        } else if !self.won.contains(&id) {
            self.won.push(id);
        }
    }

    /// Walks on from the import again: after a revert, or to try once more.
    pub(crate) fn again(&mut self, now: Instant) {
        self.prove_from = now;
        self.imports.clear();
        self.imports_asked = false;
        self.services = None;
        self.services_asked = false;
        self.vips = None;
        self.vips_asked = false;
        self.announce_asked = false;
        self.announce_from = self.announce_from.max(now);
        self.marks = vec![("import", now)];
    }

    /// Brings the addresses up again, nothing else.
    pub(crate) fn announce_again(&mut self, now: Instant) {
        self.vips = None;
        self.vips_asked = false;
        self.announce_asked = false;
        self.marks = vec![("vip", now)];
    }
}

impl Controller {
    /// Begins a takeover.
    pub(crate) fn take_over(&mut self, now: Instant, edge: Edge, kind: Kind) {
        let moved = self.disks.arbiter_ids().into_iter();
        let moved = moved
            .filter_map(|id| self.disks.all.get(&id)?.unchanged_since)
            .max();
        let life = self
            .peer
            .heard
            .max(self.peer.echo_sent)
            .max(moved)
            .unwrap_or(self.started);
        self.takeover = Takeover {
            kind,
            marks: match kind {
                Kind::Dead => vec![("detect", life), ("decide", now)],
                Kind::Elected | Kind::Handover | Kind::Forced | Kind::Adopted => {
                    vec![("decide", now)]
                }
            },
            surveyed_from: now,
            ..Takeover::default()
        };
        self.ask = None;
        self.not_serving_since = None;
        self.go(now, edge);
    }

    pub(crate) fn poll_takeover(&mut self, now: Instant) {
        match self.state {
            State::Surveying => self.poll_surveying(now),
            State::FencingArbiters => self.poll_fencing_arbiters(now),
            State::FencingRest => self.poll_fencing_rest(now),
            State::Importing => self.poll_importing(now),
            State::StartingServices => self.poll_services(now),
            State::Announcing => self.poll_announcing(now),
            State::Yielding => self.poll_yielding(now),
            _ => {}
        }
    }

    // ---- survey --------------------------------------------------------------------------------------------

    /// The second look: of a dead owner the reads that established its silence; otherwise reads of now.
    fn poll_surveying(&mut self, now: Instant) {
        let from = self.takeover.surveyed_from;
        let limit = from + ms(2 * self.config.timing.disk_op_ms);
        self.reserve_epoch(now);
        let peer = self.config.node.other();
        if self.sees_life(now) {
            self.go(now, states::SURVEY_ALIVE);
            return;
        }
        let read = match self.takeover.kind {
            Kind::Dead => Verdict::Yes,
            Kind::Handover if self.disks.shows(peer, Phase::HandingOver) => Verdict::Yes,
            Kind::Elected | Kind::Forced | Kind::Handover | Kind::Adopted => {
                self.look_again(now, from)
            }
        };
        if read == Verdict::Yes && self.reserved > self.seen {
            self.begin_fencing(now);
            return;
        }
        self.wake_at(limit, "survey");
        if now >= limit {
            self.set_back(now);
            self.go(now, states::SURVEY_FAILED);
        }
    }

    /// The one that was dead lives, or the peer owns what nobody owned.
    fn sees_life(&mut self, now: Instant) -> bool {
        match self.takeover.kind {
            Kind::Dead => !self.is_dead(now),
            Kind::Elected => {
                let owns = |beat: &Beat| beat.role.owns();
                let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
                alive && self.peer.beat.as_ref().is_some_and(owns)
            }
            Kind::Handover | Kind::Forced | Kind::Adopted => false,
        }
    }

    fn look_again(&mut self, now: Instant, from: Instant) -> Verdict {
        let ids: Vec<DiskId> = match self.disks.arbiters_readable() {
            true => self.disks.arbiter_ids(),
            false => self.disks.all.keys().copied().collect(),
        };
        for id in &ids {
            if let Some(disk) = self.disks.all.get_mut(id)
                && disk.look.as_ref().is_none_or(|(asked, _)| *asked < from)
                && !disk.failed
            {
                disk.look_at = disk.look_at.min(now);
            }
        }
        self.look_at_disks(now, &ids, ms(self.config.timing.disk_read_ms));
        self.disks.verdict(|disk| {
            let (asked, _) = disk.look.as_ref().filter(|_| !disk.failed)?;
            (*asked >= from).then_some(true)
        })
    }

    fn begin_fencing(&mut self, now: Instant) {
        // Frozen from here on (design rule 5): durable already.
        self.epoch = self.reserved;
        self.seen = self.epoch;
        self.owner.begin(now);
        self.takeover.lease_was_ended = self.takeover.kind == Kind::Handover;
        self.takeover.announce_from = self.first_announcement();
        self.takeover.marks.push(("fence", now));
        for disk in self.disks.all.values_mut() {
            disk.ours = None;
            disk.lost = false;
            disk.ok_at = None;
            disk.rolled_at = None;
            disk.answered_at = None;
        }
        self.go(now, states::SURVEYED);
        // The rest is surveyed meanwhile, so that it can be taken as soon as the arbiters are won.
        let ids: Vec<DiskId> = self.disks.all.keys().copied().collect();
        for id in ids {
            let Some(disk) = self.disks.all.get(&id) else {
                continue;
            };
            if !self.disks.is_arbiter(id) && disk.busy.is_none() && disk.owed.is_none() {
                self.run_disk(now, Job::Look(id), DiskWork::Survey);
            }
        }
    }

    /// When the old owner's lease must have lapsed, as far as our echo could have renewed it.
    fn first_announcement(&self) -> Instant {
        let timing = &self.config.timing;
        let lease = ms(timing.vip_lease_ms + timing.lease_slack_ms);
        self.peer
            .echo_sent
            .unwrap_or(self.started)
            .max(self.started)
            + lease
    }

    // ---- fence ---------------------------------------------------------------------------------------------

    /// The first readable arbiter alone, then the others, in the list's order.
    fn poll_fencing_arbiters(&mut self, now: Instant) {
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

    fn take_arbiters(&mut self, now: Instant, arbiters: &[DiskId]) {
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

    fn won(&self) -> Verdict {
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

    fn take(&mut self, now: Instant, id: DiskId, surveyed: Survey) {
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
        self.run_disk(now, Job::Take(id, key), DiskWork::Take { key, surveyed });
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
            if !taken {
                self.owner.repair_failed(now);
            } else if !self.takeover.won.contains(&id) {
                self.takeover.won.push(id);
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

    fn poll_fencing_rest(&mut self, now: Instant) {
        self.look_for_takeover_ended(now);
        let limit = self.since + ms(2 * self.config.timing.abort_ms);
        let ids: Vec<DiskId> = self.disks.all.keys().copied().collect();
        for id in &ids {
            if !self.takeover.tries.contains_key(id) {
                self.try_disk(now, *id);
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
        let won: Vec<DiskId> = held
            .map(|disk| disk.id)
            .filter(|id| self.takeover.tries.get(id) == Some(&Try::Taken))
            .collect();
        if won.len() < ids.len() {
            let text = format!(
                "{} of {} shared disks could not be taken",
                ids.len() - won.len(),
                ids.len()
            );
            self.notice("FENCE_INCOMPLETE", Severity::Alarm, text);
        }
        self.takeover.won = won;
        self.takeover.marks.push(("import", now));
        self.go(now, states::REST_FENCED);
    }

    // ---- yield ---------------------------------------------------------------------------------------------

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
    fn set_back(&mut self, now: Instant) {
        let budget = self.config.timing.abort_ms;
        let wait = match (self.losses, self.config.node) {
            (0 | 1, crate::ids::Node::A) => 0,
            (0 | 1, crate::ids::Node::B) => 2 * budget,
            _ => self.draw(4 * budget),
        };
        self.backoff_until = now + ms(wait.max(self.config.timing.disk_read_ms));
    }

    fn poll_yielding(&mut self, now: Instant) {
        let limit = self.since + ms(self.config.timing.abort_ms);
        let owed = self.disks.all.values().any(|disk| disk.owed.is_some());
        if owed && now < limit {
            self.wake_at(limit, "yield");
            return;
        }
        self.go(now, states::YIELDED);
    }

    // ---- import, services, addresses -----------------------------------------------------------------------

    fn poll_importing(&mut self, now: Instant) {
        if !self.takeover.imports_asked {
            if !self.disks_proved(now) {
                self.wait_for_proof(now);
                return;
            }
            self.takeover.imports_asked = true;
            self.remember(now, false);
            let won = self.takeover.won.clone();
            for pool in self.config.pools.clone() {
                let work = Work::Import {
                    pool: pool.id,
                    won: won.clone(),
                };
                self.run(now, Job::Import(pool.id), work);
            }
        }
        if self.takeover.imports.len() < self.config.pools.len() {
            return;
        }
        let failed: Vec<String> = self
            .takeover
            .imports
            .values()
            .filter_map(|end| end.clone().err())
            .collect();
        for why in &failed {
            self.notice(
                "IMPORT_FAILED",
                Severity::Alarm,
                format!("a pool was not imported: {why}"),
            );
        }
        if !failed.is_empty() && failed.len() == self.config.pools.len() {
            self.fail(now, states::IMPORT_FAILED);
            return;
        }
        self.takeover.marks.push(("services", now));
        self.go(now, states::IMPORTED);
    }

    /// Disks that can't be proved ours are not imported with.
    fn wait_for_proof(&mut self, now: Instant) {
        let limit = self.since + ms(self.config.timing.disk_lost_ms);
        self.wake_at(limit, "proof of the disks");
        if now >= limit {
            let text = "more than half of the shared disks could not be shown to be ours in time";
            self.notice("IMPORT_FAILED", Severity::Alarm, text.to_owned());
            self.fail(now, states::IMPORT_FAILED);
        }
    }

    pub(crate) fn import_ended(&mut self, pool: PoolId, outcome: Outcome) {
        self.takeover.imports.insert(pool, outcome_of(outcome));
    }

    fn poll_services(&mut self, now: Instant) {
        if !self.takeover.services_asked {
            self.takeover.services_asked = true;
            self.takeover.services = None;
            self.run(now, Job::StartServices, Work::StartServices);
        }
        match self.takeover.services.clone() {
            None => {}
            Some(Ok(())) => {
                self.takeover.marks.push(("vip", now));
                self.go(now, states::SERVICES_UP);
            }
            Some(Err(why)) => {
                self.notice(
                    "SERVICES_FAILED",
                    Severity::Alarm,
                    format!("the services did not start: {why}"),
                );
                self.fail(now, states::SERVICES_FAILED);
            }
        }
    }

    /// Waits until the old lease must have lapsed and our own is proved, then opens the addresses.
    fn poll_announcing(&mut self, now: Instant) {
        if !self.takeover.vips_asked {
            self.takeover.vips_asked = true;
            self.takeover.vips = None;
            self.run(now, Job::AddVips, Work::AddVips);
        }
        match self.takeover.vips.clone() {
            None => return,
            Some(Ok(())) => {}
            Some(Err(why)) => {
                self.notice(
                    "VIPS_FAILED",
                    Severity::Alarm,
                    format!("the virtual addresses did not come up: {why}"),
                );
                self.fail(now, states::VIPS_FAILED);
                return;
            }
        }
        let from = self.takeover.announce_from;
        if !self.takeover.lease_was_ended && now < from {
            self.wake_at(from, "the old lease");
            return;
        }
        let Some(until) = self.lease_end(now).filter(|until| *until > now) else {
            self.owner.roll_now = true;
            return;
        };
        if !self.takeover.announce_asked {
            self.takeover.announce_asked = true;
            self.out.push(Action::Lease(Lease::Grant { until }));
            self.owner.lease_until = Some(until);
            self.run(now, Job::Announce, Work::AnnounceVips);
        }
    }

    /// The first announcement is out: this controller serves.
    pub(crate) fn announced(&mut self, now: Instant, end: Result<(), String>) {
        if let Err(why) = end {
            self.notice(
                "ANNOUNCE_FAILED",
                Severity::Warning,
                format!("the neighbours were not told: {why}"),
            );
        }
        if self.state == State::Announcing && self.takeover.announce_asked {
            self.import_failed_until = None;
            self.handover.reverted = self.handover.reverting;
            self.handover.reverting = false;
            self.owner
                .announce_anew(now + ms(self.config.timing.announce_ms));
            self.go(now, states::SERVING);
            self.remember(now, true);
        }
    }

    /// Owns, but can't serve.
    fn fail(&mut self, now: Instant, edge: Edge) {
        self.import_failed_until = Some(now + ms(IMPORT_FAILED_MS));
        self.go(now, edge);
    }

    /// Keeps the record that a restarted daemon needs to adopt.
    pub(crate) fn remember(&mut self, now: Instant, serving: bool) {
        let record = OwnerRecord {
            incarnation: self.incarnation,
            epoch: self.epoch,
            key: self.key(Phase::Owner, self.epoch),
            serving,
            won: self.takeover.won.clone(),
        };
        self.run(now, Job::Remember, Work::Remember(Some(record)));
    }
}
