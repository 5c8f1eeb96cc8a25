//! Owning: rolling the key, proving the VIP lease, watching over the disks, halting when they are lost.

use crate::action::{Action, Entry, HaltReason, Lease, Work};
use crate::beat::{ArbiterList, AskWhat, Role};
use crate::controller::{Controller, StopKind};
use crate::disk_work::{DiskOutcome, DiskWork};
use crate::disks::{Disk, Verdict};
use crate::ids::{DiskId, Epoch};
use crate::key::{Key, Phase};
use crate::ops::Job;
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use std::time::Duration;

/// Time that the answer to a roll is expected to take, for choosing which disks to roll.
const ROLL_ANSWER_MS: u64 = 50;
/// Failed operations in a row after which an arbiter is replaced.
const ARBITER_FAILURES: u32 = 3;
/// Pause between two attempts to take lost disks back.
const REPAIR_PAUSE_MS: u64 = 1000;
/// Time for which an announced restart is waited for before the daemon ends without it.
const RESTART_CONFIRM_MS: u64 = 1000;
/// Time between lengthening the lease and ending: the kernel's refusal would come in between.
const RESTART_EXIT_MS: u64 = 20;
/// Announcements after the first one, and after each change of the clients' network.
pub(crate) const ANNOUNCEMENTS: u8 = 4;
/// Renewals that would gain less are not worth a message to the kernel.
const RENEWAL: Duration = ms(10);
/// Time without carrier on the clients' network after which the owner hands over to a peer that has one.
const LAN_DOWN_MS: u64 = 500;

/// What an owner keeps.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Counter in the keys.
    pub(crate) beat: u16,
    /// Roll at once.
    pub(crate) roll_now: bool,
    /// End of the lease that the kernel was last told.
    pub(crate) lease_until: Option<Instant>,
    pub(crate) announcements_left: u8,
    pub(crate) announce_at: Instant,
    phase: Phase,
    /// Since when the keys should say that phase.
    phase_since: Instant,
    roll_at: Instant,
    /// `held` in the last rolled key.
    held: bool,
    alone_since: Instant,
    repair: Option<Epoch>,
    repair_at: Instant,
    lan_down_since: Option<Instant>,
    restart_exit: Option<Instant>,
    /// The keys that it adopted promise a long lease, which the kernel may still hold.
    inherited: bool,
    restart_seq: u64,
    since: Instant,
}

impl Owner {
    pub(crate) fn new(now: Instant) -> Owner {
        Owner {
            beat: 0,
            roll_now: false,
            lease_until: None,
            announcements_left: 0,
            announce_at: now,
            phase: Phase::Candidate,
            phase_since: now,
            roll_at: now,
            held: false,
            alone_since: now,
            repair: None,
            repair_at: now,
            lan_down_since: None,
            restart_exit: None,
            inherited: false,
            restart_seq: 0,
            since: now,
        }
    }

    /// A takeover begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        *self = Owner {
            beat: self.beat.wrapping_add(1) & 0xfff,
            ..Owner::new(now)
        };
    }

    /// A majority was won: the keys say owner from now on.
    pub(crate) fn won(&mut self, now: Instant) {
        self.set_phase(now, Phase::Owner);
        self.alone_since = now;
        self.since = now;
    }

    /// Owning goes on in a restarted daemon; its beat goes on behind the old one's.
    pub(crate) fn adopted(&mut self, now: Instant, beat: u16, phase: Phase) {
        *self = Owner {
            beat: beat.wrapping_add(2048) & 0xfff,
            ..Owner::new(now)
        };
        self.won(now);
        if matches!(phase, Phase::OwnerSlow | Phase::Restarting) {
            self.inherited = true;
            self.set_phase(now, phase);
        }
    }

    /// Announces the addresses several times more.
    pub(crate) fn announce_anew(&mut self, now: Instant) {
        self.announcements_left = ANNOUNCEMENTS;
        self.announce_at = now;
    }

    pub(crate) fn set_phase(&mut self, now: Instant, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.phase_since = now;
            self.roll_now = true;
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn phase_since(&self) -> Instant {
        self.phase_since
    }

    /// Whether a take with this key is part of taking lost disks back.
    pub(crate) fn repairing(&self, key: Key) -> bool {
        self.repair
            .is_some_and(|epoch| crate::key::EpochBits::of(epoch) == key.epoch)
    }

    pub(crate) fn repair_failed(&mut self, now: Instant) {
        self.repair_at = now + ms(REPAIR_PAUSE_MS);
    }
}

impl Controller {
    /// Everything an owner does, whatever else it is doing.
    pub(crate) fn poll_owner(&mut self, now: Instant) {
        if self.must_halt(now) {
            return;
        }
        self.choose_phase(now);
        self.roll(now);
        self.verify(now);
        self.renew_lease(now);
        self.replace_arbiter(now);
        self.repair(now);
        self.poll_resets(now);
        self.reserve_epoch(now);
    }

    /// Nothing is imported on old knowledge: the proof that would keep the addresses up must hold now, since a taker
    /// that saw silence may have the disks already; and before a second try the disks must have been seen since then.
    pub(crate) fn disks_proved(&self, now: Instant) -> bool {
        let seen = |disk: &Disk| {
            let looked = disk.look.as_ref().filter(|_| !disk.failed);
            let seen = disk.rolled_at.max(looked.map(|(asked, _)| *asked));
            seen.filter(|_| disk.ours.is_some() && !disk.lost)
        };
        let by_all = self.disks.majority_time_of_all(seen);
        let seen = self.disks.majority_time(seen).min(by_all);
        let again = seen.unwrap_or_default() >= self.takeover.prove_from;
        let proved = self.lease_end(now).is_some_and(|until| until > now);
        self.disks.all.is_empty() || again && proved
    }

    // ---- halting -------------------------------------------------------------------------------------------

    fn must_halt(&mut self, now: Instant) -> bool {
        let Some(edge) = halt_edge(self.state) else {
            return false;
        };
        if let Some(beat) = &self.peer.beat
            && beat.role.owns()
            && beat.epoch > self.epoch
            && self.peer.alive(now, ms(self.config.timing.dead_ms))
        {
            let epoch = beat.epoch;
            self.halt(now, edge, HaltReason::PeerServes { epoch });
            return true;
        }
        let ours = |disk: &Disk| match disk.lost {
            true => Some(false),
            false => disk.ours.map(|_| true),
        };
        if self.disks.verdict_of_both(ours) == Verdict::No {
            return self.lost_majority(now, edge);
        }
        let seen = self
            .disks
            .majority_time(|disk| disk.ok_at)
            .unwrap_or(self.owner.since)
            .max(self.owner.since);
        let limit = seen + ms(self.config.timing.disk_lost_ms);
        if self.disks.all.is_empty() {
            return false;
        }
        self.wake_at(limit, "disks lost");
        if now >= limit {
            self.halt(now, edge, HaltReason::DisksLost);
            return true;
        }
        false
    }

    /// A majority is no longer ours. Where nobody's keys are there (the shelf lost power), owning may go on anew if
    /// the lease never lapsed; otherwise it halts.
    fn lost_majority(&mut self, now: Instant, edge: Edge) -> bool {
        let lost = self.disks.all.values().filter(|disk| disk.lost);
        let foreign = lost
            .flat_map(|disk| self.disks.keys_of(disk))
            .filter(|key| !self.is_own_run(*key))
            .max_by_key(|key| key.epoch.expand(self.epoch));
        if let Some(key) = foreign {
            let epoch = key.epoch.expand(self.epoch).unwrap_or(self.epoch);
            self.halt(
                now,
                edge,
                HaltReason::Fenced {
                    by: key.node,
                    epoch,
                },
            );
            return true;
        }
        if self.state == State::Active && self.owner.lease_until.is_some_and(|until| now < until) {
            return false;
        }
        self.halt(now, edge, HaltReason::ReservationsGone);
        true
    }

    // ---- phase, roll ---------------------------------------------------------------------------------------

    fn choose_phase(&mut self, now: Instant) {
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        if alive {
            self.owner.alone_since = now;
        }
        if self.owner.inherited && !self.gave_up_the_long_lease(now) {
            return;
        }
        let alone_at = self.owner.alone_since + ms(self.config.timing.alone_after_ms);
        let phase = match self.state {
            State::Restarting => Phase::Restarting,
            State::Active if !self.lan_up && !alive && self.config.has_peer => Phase::Offering,
            State::Active if now >= alone_at => Phase::OwnerSlow,
            _ => Phase::Owner,
        };
        if self.state == State::Active && phase == Phase::Owner && !alive {
            self.wake_at(alone_at, "alone");
        }
        if self.owner.phase == Phase::OwnerSlow && phase != Phase::OwnerSlow {
            // The long lease goes before the keys say that the pace is the quick one again.
            self.owner.set_phase(now, phase);
            self.shorten_lease(now);
        }
        self.owner.set_phase(now, phase);
        if self.owner.held != self.settings.disabled {
            self.owner.held = self.settings.disabled;
            self.owner.roll_now = true;
        }
    }

    /// A daemon that adopts shortens the lease that it found before its keys stop promising it: a taker that reads a
    /// plain owner waits for a plain lease only.
    fn gave_up_the_long_lease(&mut self, now: Instant) -> bool {
        if !self.phase_is_written() {
            return false;
        }
        let proof = self
            .disks
            .majority_time(|disk| disk.rolled_at.filter(|_| !disk.lost));
        let Some(proof) = proof.filter(|at| *at >= self.owner.phase_since) else {
            return false;
        };
        let until = (proof + ms(self.config.timing.vip_lease_ms)).max(now);
        self.owner.inherited = false;
        self.owner.lease_until = Some(until);
        self.out.push(Action::Lease(Lease::Renew { until }));
        true
    }

    /// The keys of a majority have said the phase since it was chosen.
    fn phase_is_written(&self) -> bool {
        let since = self.owner.phase_since;
        // A disk that doesn't say so says the opposite: no taker may find a majority that promises less.
        let says = |disk: &Disk| {
            let phase = disk.ours.map(|key| key.phase) == Some(self.owner.phase);
            Some(phase && disk.rolled_at.is_some_and(|at| at >= since))
        };
        let by_all = !self.promises_long() || self.disks.verdict_of_all(says) == Verdict::Yes;
        by_all && self.disks.verdict(says) == Verdict::Yes
    }

    /// The phase promises a long lease: it must stand on every jury that a taker may judge by.
    fn promises_long(&self) -> bool {
        matches!(self.owner.phase, Phase::OwnerSlow | Phase::Restarting)
    }

    /// Rolls that were due while their disk was busy: looks at the same pace must not keep them away for good.
    fn roll_waiting(&mut self, now: Instant) {
        let to = self.key(self.owner.phase, self.epoch);
        let free = |disk: &&mut Disk| disk.roll_waits && disk.busy.is_none();
        let mut waiting: Vec<(DiskId, Key)> = Vec::new();
        for disk in self.disks.all.values_mut().filter(free) {
            disk.roll_waits = false;
            waiting.extend(disk.ours.filter(|_| !disk.lost).map(|from| (disk.id, from)));
        }
        for (id, from) in waiting {
            self.run_disk(now, Job::Roll(id, to), DiskWork::Roll { from, to });
        }
    }

    /// Rolls on demand: while the standby's echo is fresh the keys rest.
    fn roll(&mut self, now: Instant) {
        self.roll_waiting(now);
        let timing = &self.config.timing;
        let slow = self.owner.phase == Phase::OwnerSlow && self.phase_is_written();
        let interval = ms(if slow {
            timing.slow_roll_ms
        } else {
            timing.disk_beat_ms
        });
        let echo_until = self
            .peer
            .echo_received
            .map(|at| at + ms(timing.roll_after_ms));
        let lease_low = self
            .owner
            .lease_until
            .map(|until| until - ms(timing.vip_lease_ms / 2));
        let rests = !slow && echo_until.is_some_and(|until| now < until) && self.phase_is_written();
        if rests && !self.owner.roll_now {
            let low = lease_low.filter(|low| self.state == State::Active && *low > now);
            let due = echo_until.into_iter().chain(low).min();
            if self.state != State::Active || lease_low.is_none_or(|low| now < low) {
                if let Some(due) = due {
                    self.wake_at(due, "roll");
                }
                return;
            }
        }
        if !self.owner.roll_now && now < self.owner.roll_at {
            let at = self.owner.roll_at;
            self.wake_at(at, "roll");
            return;
        }
        self.owner.roll_now = false;
        self.owner.roll_at = now + interval;
        self.wake_at(now + interval, "roll");
        self.roll_all(now);
    }

    /// One roll on each arbiter; on every disk while the links are silent, for a taker that can't read the arbiters.
    pub(crate) fn roll_all(&mut self, now: Instant) {
        self.owner.beat = (self.owner.beat + 1) & 0xfff;
        // Wide already where the echo will be stale before the roll is answered: a narrow one would prove nothing then.
        let wide = self.promises_long() || self.rolls_wide(now + ms(ROLL_ANSWER_MS));
        let ids: Vec<DiskId> = match wide && self.state != State::FencingRest {
            true => self.disks.all.keys().copied().collect(),
            false => self.disks.arbiter_ids(),
        };
        self.roll_disks(now, ids);
    }

    fn roll_disks(&mut self, now: Instant, ids: Vec<DiskId>) {
        let to = self.key(self.owner.phase, self.epoch);
        for id in ids {
            let Some(disk) = self.disks.all.get_mut(&id) else {
                continue;
            };
            disk.roll_waits = disk.busy.is_some();
            let Some(from) = disk.ours.filter(|_| disk.busy.is_none() && !disk.lost) else {
                continue;
            };
            // A roll says that the key is ours; what else is on the disk only a look says.
            let looked = disk.look.as_ref().map_or(now, |(asked, _)| *asked);
            let latest = looked + ms(self.config.timing.verify_ms);
            if self.owner.phase != Phase::Offering {
                let later = now + ms(self.config.timing.disk_beat_ms);
                disk.look_at = disk.look_at.max(latest.min(later));
            }
            self.run_disk(now, Job::Roll(id, to), DiskWork::Roll { from, to });
        }
    }

    /// Without a fresh echo every disk is rolled: a taker that can't read the arbiters judges by all disks.
    fn rolls_wide(&self, now: Instant) -> bool {
        let after = ms(self.config.timing.roll_after_ms);
        let echoed = self
            .peer
            .echo_received
            .is_some_and(|at| now.since(at) < after);
        !echoed || !self.disks.arbiters_held()
    }

    pub(crate) fn roll_ended(
        &mut self,
        now: Instant,
        id: DiskId,
        key: Key,
        asked: Instant,
        outcome: DiskOutcome,
    ) {
        match outcome {
            DiskOutcome::Rolled { paths_failed } => {
                let Some(disk) = self.disks.all.get_mut(&id) else {
                    return;
                };
                disk.ours = Some(key);
                disk.ok_at = disk.ok_at.max(Some(asked));
                disk.rolled_at = disk.rolled_at.max(Some(asked));
                disk.failures = 0;
                if paths_failed > 0 {
                    let text = format!(
                        "{paths_failed} path(s) to disk {} could not be rolled",
                        disk.name
                    );
                    self.notice("PATH_FAILED", Severity::Warning, text);
                }
            }
            DiskOutcome::Fenced(survey) => {
                self.see_epochs(&survey);
                self.disks.looked(id, asked, now, survey);
                self.owner_looked(now, id, asked);
            }
            DiskOutcome::Unreachable(why) => {
                let Some(disk) = self.disks.all.get_mut(&id) else {
                    return;
                };
                disk.failures = disk.failures.saturating_add(1);
                if disk.failures == 1 {
                    let text = format!("disk {} did not take a roll: {why}", disk.name);
                    self.notice("DISK_FAILED", Severity::Alarm, text);
                }
            }
            DiskOutcome::Surveyed(_)
            | DiskOutcome::Taken
            | DiskOutcome::LostRace(_)
            | DiskOutcome::Left => {}
        }
    }

    // ---- verify --------------------------------------------------------------------------------------------

    /// Looks at the arbiters at the pace of rolling, at every other disk every `verify_ms`.
    fn verify(&mut self, now: Instant) {
        let timing = &self.config.timing;
        let pace = ms(timing.verify_ms);
        let leaving = matches!(
            self.state,
            State::RemovingVips | State::StoppingServices | State::Exporting
        );
        // The keys are about to be written: a look in flight would only be in the way.
        let arbiter_pace = if leaving {
            pace
        } else {
            ms(timing.disk_beat_ms)
        };
        let fencing = matches!(self.state, State::FencingRest);
        let arbiters = self.disks.arbiter_ids();
        self.look_at_disks(now, &arbiters, arbiter_pace);
        if !fencing {
            let rest: Vec<DiskId> = self
                .disks
                .all
                .keys()
                .filter(|id| !self.disks.is_arbiter(**id))
                .copied()
                .collect();
            self.look_at_disks(now, &rest, pace);
        }
    }

    /// What a look says about our own keys.
    pub(crate) fn owner_looked(&mut self, now: Instant, id: DiskId, asked: Instant) {
        if !self.state.owns() {
            return;
        }
        let own = self.key(self.owner.phase, self.epoch);
        let Some(disk) = self.disks.all.get(&id) else {
            return;
        };
        if disk.ours.is_none() {
            return;
        }
        let keys = self.disks.keys_of(disk);
        let here = keys.iter().any(|key| key.same_run(own));
        let held = self.disks.holder(disk).is_some_and(|key| key.same_run(own));
        let strangers = self.disks.has_stranger(disk);
        let victims: Vec<u64> = keys
            .iter()
            .filter(|key| !key.same_run(own))
            .map(|key| key.to_bits())
            .collect();
        let (name, was_lost, free) = (disk.name.clone(), disk.lost, disk.busy.is_none());
        let ours = disk.ours.unwrap_or(own);
        let mixed = keys.iter().any(|key| key.same_run(own) && *key != ours);
        let Some(disk) = self.disks.all.get_mut(&id) else {
            return;
        };
        disk.lost = !(here && held);
        if !disk.lost {
            disk.ok_at = disk.ok_at.max(Some(asked));
        } else if !was_lost {
            let text = format!("disk {name} is no longer held by this controller");
            self.notice("FENCE_MINORITY_LOST", Severity::Alarm, text);
        }
        if strangers && !was_lost {
            let text = format!("disk {name} has a key that isn't this pair's");
            self.notice("FENCE_FOREIGN_KEY", Severity::Alarm, text);
        }
        let expel = here && held && !victims.is_empty() && self.owner.phase != Phase::Offering;
        let pause = ms(self.config.timing.disk_beat_ms);
        let to = self.key(self.owner.phase, self.epoch);
        let Some(disk) = self.disks.all.get_mut(&id) else {
            return;
        };
        let rested = disk.expelled_at.is_none_or(|at| now.since(at) >= pause);
        if expel && free && rested && self.state != State::FencingRest {
            disk.expelled_at = Some(now);
            if mixed {
                // A path that missed a roll holds an older key: a preempt over it would be a conflict.
                self.run_disk(now, Job::Roll(id, to), DiskWork::Roll { from: ours, to });
            } else {
                self.run_disk(now, Job::Expel(id), DiskWork::Expel { key: ours, victims });
            }
        }
    }

    // ---- lease ---------------------------------------------------------------------------------------------

    /// End of the lease that the newest proof allows: an echo of our beat, or a roll on a majority, each counted
    /// from when it was asked for.
    pub(crate) fn lease_end(&self, now: Instant) -> Option<Instant> {
        let timing = &self.config.timing;
        if self.disks.all.is_empty() {
            // Nobody to prove anything to: a single controller without shared disks.
            return (!self.config.has_peer).then_some(now + ms(timing.vip_lease_ms));
        }
        let standby = self
            .peer
            .beat
            .as_ref()
            .is_some_and(|beat| !beat.role.owns() && beat.role != Role::Fencing);
        let echo = self.peer.echo_proof.filter(|_| standby);
        let alive = echo.is_some_and(|at| at > self.owner.since);
        let at = |disk: &Disk| disk.rolled_at.filter(|_| !disk.lost);
        let mut rolled = self.disks.majority_time(at);
        if self.rolls_wide(now) {
            rolled = rolled.min(self.disks.majority_time_of_all(at));
        }
        // Only the keys can promise the long lease, and only while they say so.
        let slow = self.owner.phase == Phase::OwnerSlow && self.phase_is_written();
        let validity = if slow {
            timing.slow_lease_ms
        } else {
            timing.vip_lease_ms
        };
        let by_roll = rolled.map(|at| at + ms(validity));
        by_roll.max(
            echo.filter(|_| alive)
                .map(|at| at + ms(timing.vip_lease_ms)),
        )
    }

    fn renew_lease(&mut self, now: Instant) {
        let restarts = self.state == State::Restarting && self.owner.restart_exit.is_none();
        if self.state != State::Active && !restarts {
            return;
        }
        if self.disks.all.is_empty() {
            self.wake_at(now + ms(self.config.timing.vip_lease_ms / 4), "lease");
        }
        let Some(until) = self.lease_end(now) else {
            return;
        };
        let old = self.owner.lease_until;
        if until <= now || old.is_some_and(|old| until < old + RENEWAL) {
            return;
        }
        let lives = old.is_some_and(|old| now < old);
        self.owner.lease_until = Some(until);
        self.out.push(Action::Lease(if lives {
            Lease::Renew { until }
        } else {
            Lease::Grant { until }
        }));
    }

    fn shorten_lease(&mut self, now: Instant) {
        if self.owner.lease_until.is_none() {
            return;
        }
        let until = now + ms(self.config.timing.vip_lease_ms);
        let until = self
            .lease_end(now)
            .map_or(until, |end| end.min(until))
            .max(now);
        self.owner.lease_until = Some(until);
        self.out.push(Action::Lease(Lease::Renew { until }));
        self.owner.roll_now = true;
    }

    /// The kernel has no lease to renew: the addresses go off at once and come back by proof.
    pub(crate) fn lease_lost(&mut self, now: Instant) {
        self.owner.lease_until = None;
        if self.owner.restart_exit.take().is_some() {
            self.notice(
                "RESTART_UNANNOUNCED",
                Severity::Warning,
                "the lease could not be lengthened".to_owned(),
            );
            self.out.push(Action::Exit);
            return;
        }
        if self.state == State::Active {
            self.notice(
                "LEASE_LOST",
                Severity::Alarm,
                "the kernel refused to renew the VIP lease".to_owned(),
            );
            self.run(now, Job::RemoveVips, Work::RemoveVips);
            self.takeover.announce_again(now);
            self.go(now, states::LEASE_LOST);
        }
    }

    // ---- arbiters, repair ----------------------------------------------------------------------------------

    /// Replaces an arbiter that failed by a disk that we hold; one at a time, never while the peer hasn't
    /// acknowledged the last change.
    fn replace_arbiter(&mut self, now: Instant) {
        if !matches!(self.state, State::Active | State::Failed) {
            return;
        }
        if self.arbiters_acked < self.disks.arbiters.version
            && self.journal_is_free(now, &Job::RecordArbiters)
        {
            let list = self.disks.arbiters.clone();
            self.run(
                now,
                Job::RecordArbiters,
                Work::Record(Entry::Arbiters(list)),
            );
        }
        let list = &self.disks.arbiters;
        if !list.previous.is_empty() {
            let acked = self.peer.alive(now, ms(self.config.timing.dead_ms))
                && self
                    .peer
                    .beat
                    .as_ref()
                    .is_some_and(|beat| beat.arbiters_acked >= list.version);
            if acked && self.arbiters_acked >= list.version && !self.running(&Job::RecordArbiters) {
                let list = ArbiterList {
                    previous: Vec::new(),
                    ..list.clone()
                };
                self.disks.arbiters = list.clone();
                self.run(
                    now,
                    Job::RecordArbiters,
                    Work::Record(Entry::Arbiters(list)),
                );
                self.beat_now = true;
            }
            return;
        }
        let bad = |id: &DiskId| {
            self.disks
                .all
                .get(id)
                .is_none_or(|disk| disk.failures >= ARBITER_FAILURES || disk.ours.is_none())
        };
        let Some(failed) = list.disks.iter().copied().find(bad) else {
            return;
        };
        let good = |disk: &&Disk| {
            disk.ours.is_some()
                && !disk.lost
                && disk.failures == 0
                && !list.disks.contains(&disk.id)
        };
        let Some(fresh) = self.disks.all.values().find(good).map(|disk| disk.id) else {
            return;
        };
        let disks = list
            .disks
            .iter()
            .map(|id| if *id == failed { fresh } else { *id })
            .collect();
        let list = ArbiterList {
            version: list.version + 1,
            disks,
            previous: list.disks.clone(),
        };
        self.notice(
            "ARBITER_REPLACED",
            Severity::Alarm,
            format!("arbiter disk {failed} failed; disk {fresh} takes its place"),
        );
        self.disks.arbiters = list.clone();
        self.run(
            now,
            Job::RecordArbiters,
            Work::Record(Entry::Arbiters(list)),
        );
    }

    pub(crate) fn arbiters_recorded(&mut self) {
        self.arbiters_acked = self.disks.arbiters.version;
        self.beat_now = true;
    }

    /// Takes disks that are not ours in a new epoch: only where the foreign key is gone, declared yielded, of an owner
    /// before us that the sweep didn't reach, or of one that lost against us in our own epoch.
    fn repair(&mut self, now: Instant) {
        if !matches!(self.state, State::Active | State::Failed) {
            return;
        }
        let not_newer = |key: &Key| {
            key.epoch
                .expand(self.epoch)
                .is_some_and(|epoch| epoch <= self.epoch)
        };
        let free = |disk: &&Disk| {
            let others = self
                .disks
                .keys_of(disk)
                .into_iter()
                .filter(|key| !self.is_own_run(*key));
            (disk.lost || disk.ours.is_none() || !self.takeover.won.contains(&disk.id))
                && disk.look.is_some()
                && !disk.failed
                && disk.owed.is_none()
                && disk.busy.is_none()
                && !self.disks.has_stranger(disk)
                && others.clone().all(|key| {
                    key.phase == Phase::Yielded || not_newer(&key) || self.is_of_ended_run(now, key)
                })
        };
        let lost: Vec<DiskId> = self
            .disks
            .all
            .values()
            .filter(free)
            .map(|disk| disk.id)
            .collect();
        if lost.is_empty() {
            return;
        }
        if now < self.owner.repair_at {
            let at = self.owner.repair_at;
            self.wake_at(at, "repair");
            return;
        }
        if self.reserved <= self.seen.max(self.epoch) {
            return;
        }
        self.epoch = self.reserved;
        self.seen = self.epoch;
        self.owner.repair = Some(self.epoch);
        self.owner.repair_at = now + ms(REPAIR_PAUSE_MS);
        self.remember(now, self.state == State::Active);
        let key = self.key(self.owner.phase, self.epoch);
        for id in lost {
            let Some(surveyed) = self.disks.all.get(&id).and_then(|disk| disk.look.clone()) else {
                continue;
            };
            self.run_disk(
                now,
                Job::Take(id, key),
                DiskWork::Take {
                    key,
                    surveyed: surveyed.1,
                },
            );
        }
        self.roll_all(now);
    }

    /// A key of a run of the peer that has ended: its next run lives and says that it owns nothing.
    fn is_of_ended_run(&self, now: Instant, key: Key) -> bool {
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        let beat = self.peer.beat.as_ref().filter(|_| alive);
        beat.is_some_and(|beat| {
            key.node == beat.node
                && key.incarnation != beat.incarnation
                && beat.role == Role::Standby
        })
    }

    // ---- serving -------------------------------------------------------------------------------------------

    pub(crate) fn poll_active(&mut self, now: Instant) {
        match self.state {
            State::Active => self.poll_serving(now),
            State::Failed => self.poll_failed(now),
            State::Restarting => self.poll_restarting(now),
            _ => {}
        }
    }

    fn poll_serving(&mut self, now: Instant) {
        if self.owner.announcements_left > 0 {
            if now >= self.owner.announce_at {
                self.owner.announcements_left -= 1;
                self.owner.announce_at = now + ms(self.config.timing.announce_ms);
                self.run(now, Job::Announce, Work::AnnounceVips);
            }
            let at = self.owner.announce_at;
            self.wake_at(at, "announce");
        }
        match self.stop {
            Some(StopKind::Restart) => {
                self.owner.restart_seq = self.seq + 1;
                self.go(now, states::RESTART);
                return;
            }
            Some(StopKind::Leave) => {
                self.begin_handover(now, states::HAND_OVER, "the daemon was told to stop");
                return;
            }
            None => {}
        }
        let eligible = self.peer_can_take(now);
        let asked = self.peer.beat.as_ref().and_then(|beat| beat.ask);
        if eligible.is_ok()
            && asked.is_some_and(|ask| ask.what == AskWhat::HandOver && self.handover.answers(ask))
        {
            self.begin_handover(now, states::HAND_OVER, "the peer asked for it");
            return;
        }
        self.hand_over_without_lan(now, eligible.is_ok());
    }

    /// Without its clients' network it serves nobody: the peer takes over, by negotiation or on the disks.
    fn hand_over_without_lan(&mut self, now: Instant, eligible: bool) {
        if self.lan_up {
            self.owner.lan_down_since = None;
            return;
        }
        let since = *self.owner.lan_down_since.get_or_insert(now);
        let at = since + ms(LAN_DOWN_MS);
        if now < at {
            self.wake_at(at, "clients' network");
            return;
        }
        if self.is_disabled() {
            return;
        }
        if eligible {
            self.begin_handover(
                now,
                states::HAND_OVER,
                "the clients' network has no carrier here",
            );
            return;
        }
        let peer = self.config.node.other();
        let answered = |disk: &Disk| {
            let candidate = |key: &Key| key.node == peer && key.phase == Phase::Candidate;
            (disk.look.is_some() && !disk.failed)
                .then(|| self.disks.keys_of(disk).iter().any(candidate))
        };
        if self.owner.phase == Phase::Offering && self.disks.verdict(answered) == Verdict::Yes {
            self.begin_handover(
                now,
                states::HAND_OVER,
                "the peer answered the offer on the disks",
            );
        }
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.settings.disabled
    }

    /// Owns, can't serve: the peer if it can, else again after a while.
    fn poll_failed(&mut self, now: Instant) {
        let importing = self
            .config
            .pools
            .iter()
            .any(|pool| self.running(&Job::Import(pool.id)));
        if importing {
            return;
        }
        if self.stop.is_some() || (self.peer_can_take(now).is_ok() && !self.is_disabled()) {
            self.begin_handover(
                now,
                states::FAILED_HANDS_OVER,
                "this controller can't serve",
            );
            return;
        }
        let at = self.since + ms(self.config.timing.not_serving_ms);
        if now < at {
            self.wake_at(at, "retry");
        }
        // Disks that came too late for the last import were added when their taking was verified.
        let ours = |id: &DiskId| {
            let disk = self.disks.all.get(id);
            disk.is_some_and(|disk| disk.ours.is_some() && !disk.lost)
        };
        let won: Vec<DiskId> = self.takeover.won.iter().copied().filter(ours).collect();
        if now >= at && (2 * won.len() > self.disks.all.len() || self.disks.all.is_empty()) {
            self.takeover.won = won;
            self.takeover.again(now);
            self.go(now, states::RETRY);
        }
    }

    /// Announces the restart: on a majority of the arbiters and to a peer that is up; then lengthens the lease.
    fn poll_restarting(&mut self, now: Instant) {
        if let Some(exit) = self.owner.restart_exit {
            self.wake_at(exit, "restart");
            if now >= exit {
                self.owner.restart_exit = None;
                self.out.push(Action::Exit);
            }
            return;
        }
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        let told = !alive || self.peer.echo_seq >= self.owner.restart_seq;
        let at = |disk: &Disk| {
            let says = disk.ours.is_some_and(|key| key.phase == Phase::Restarting);
            disk.rolled_at.filter(|_| says)
        };
        let rolled = self
            .disks
            .majority_time(at)
            .min(self.disks.majority_time_of_all(at));
        let told = told && self.phase_is_written();
        if let Some(proof) = rolled.filter(|at| told && *at >= self.owner.phase_since) {
            let until = proof + ms(self.config.timing.restart_ms);
            let lives = self.owner.lease_until.is_some_and(|old| now < old);
            self.owner.lease_until = Some(until);
            self.out.push(Action::Lease(if lives {
                Lease::Renew { until }
            } else {
                Lease::Grant { until }
            }));
            self.owner.restart_exit = Some(now + ms(RESTART_EXIT_MS));
            self.wake_at(now + ms(RESTART_EXIT_MS), "restart");
            return;
        }
        let limit = self.since + ms(RESTART_CONFIRM_MS);
        self.wake_at(limit, "restart");
        if now >= limit {
            let text = "the restart could not be announced in time; ending without it".to_owned();
            self.notice("RESTART_UNANNOUNCED", Severity::Warning, text);
            self.out.push(Action::Exit);
        }
    }
}

/// The edge to `Halted` from a state that owns.
fn halt_edge(state: State) -> Option<Edge> {
    Some(match state {
        State::FencingRest => states::HALT_FENCING,
        State::Importing => states::HALT_IMPORTING,
        State::StartingServices => states::HALT_SERVICES,
        State::Announcing => states::HALT_ANNOUNCING,
        State::Active => states::HALT_ACTIVE,
        State::Failed => states::HALT_FAILED,
        State::RemovingVips => states::HALT_VIPS_OFF,
        State::StoppingServices => states::HALT_STOPPING,
        State::Exporting => states::HALT_EXPORTING,
        State::Restarting => states::HALT_RESTARTING,
        State::Starting
        | State::Adopting
        | State::Electing
        | State::Standby
        | State::Surveying
        | State::FencingArbiters
        | State::WritingHandover
        | State::HandedOver
        | State::Reverting
        | State::Yielding
        | State::Stopping
        | State::Held
        | State::Halted => return None,
    })
}
