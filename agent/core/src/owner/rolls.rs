//! Rolling the key, on demand: its phase, its pace, its answers.

use crate::controller::Controller;
use crate::disk_work::{DiskOutcome, DiskWork};
use crate::disks::{Disk, Verdict};
use crate::ids::DiskId;
use crate::key::{Key, Phase};
use crate::ops::Job;
use crate::states::State;
use crate::time::{Instant, ms};
use failover_api::Severity;

/// Time that the answer to a roll is expected to take, for choosing which disks to roll.
const ROLL_ANSWER_MS: u64 = 50;

impl Controller {
    pub(crate) fn choose_phase(&mut self, now: Instant) {
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        if alive {
            self.owner.alone_since = now;
        }
        if self.owner.inherited && !self.gave_up_the_long_lease(now) {
            return;
        }
        let alone_at = self.owner.alone_since + ms(self.config.timing.alone_after_ms);
        let cut_off = !self.lan_up && !alive && self.config.has_peer;
        let phase = if self.state == State::Restarting {
            Phase::Restarting
        } else if self.state != State::Active {
            Phase::Owner
        } else if cut_off {
            Phase::Offering
        } else if now >= alone_at {
            Phase::OwnerSlow
        } else {
            Phase::Owner
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
        // Until it serves nothing renews a lease: the one that it found carries the addresses over.
        let not_yet = [State::Importing, State::StartingServices, State::Announcing];
        if not_yet.contains(&self.state) || !self.phase_is_written() {
            return false;
        }
        let proof = self
            .disks
            .majority_time(|disk| disk.rolled_at.filter(|_| !disk.lost));
        let Some(proof) = proof.filter(|at| *at >= self.owner.phase_since) else {
            return false;
        };
        self.owner.inherited = false;
        // With the first announcement a plain one took its place, and has been renewed since.
        if self.owner.lease_until.is_some() {
            return true;
        }
        self.lease_ends_by(now, proof + ms(self.config.timing.vip_lease_ms));
        true
    }

    /// The keys of a majority have said the phase since it was chosen.
    pub(crate) fn phase_is_written(&self) -> bool {
        let since = self.owner.phase_since;
        // A disk that doesn't say so says the opposite: no taker may find a majority that promises less.
        let says = |disk: &Disk| {
            let phase = disk.ours.map(|key| key.phase) == Some(self.owner.phase);
            Some(phase && disk.rolled_at.is_some_and(|at| at >= since))
        };
        let by_all = match self.owner.phase {
            // Whoever adopts after a restart needs more than half.
            Phase::Restarting => self.disks.verdict_of_all(says) == Verdict::Yes,
            Phase::OwnerSlow => self.disks.half_says(|disk| says(disk) == Some(true)),
            Phase::Candidate
            | Phase::Owner
            | Phase::Offering
            | Phase::HandingOver
            | Phase::Yielded => true,
        };
        by_all && self.disks.verdict(says) == Verdict::Yes
    }

    /// The phase promises a long lease: it must stand on every jury that a taker may judge by.
    fn promises_long(&self) -> bool {
        matches!(self.owner.phase, Phase::OwnerSlow | Phase::Restarting)
    }

    /// Rolls that were due while their disk was busy: looks at the same pace must not keep them away for good.
    pub(crate) fn roll_waiting(&mut self, now: Instant) {
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
    pub(crate) fn roll(&mut self, now: Instant) {
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
        let once = std::mem::take(&mut self.owner.roll_all_once);
        let wide = once || self.promises_long() || self.rolls_wide(now + ms(ROLL_ANSWER_MS));
        // The arbiters first: on a slow shelf the others wait for their turns.
        let mut ids = self.disks.arbiter_ids();
        if wide && self.state != State::FencingRest {
            let rest = self.disks.all.keys().copied();
            ids.extend(rest.filter(|id| !self.disks.is_arbiter(*id)));
        }
        self.roll_disks(now, ids);
    }

    pub(crate) fn roll_disks(&mut self, now: Instant, ids: Vec<DiskId>) {
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
            let verify = ms(self.config.timing.verify_ms);
            let latest = disk.look.as_ref().map_or(now, |(asked, _)| *asked + verify);
            if self.owner.phase != Phase::Offering {
                let later = now + ms(self.config.timing.disk_beat_ms);
                disk.look_at = disk.look_at.max(latest.min(later));
            }
            self.run_disk(now, Job::Roll(id, to), DiskWork::Roll { from, to });
        }
    }

    /// Without a fresh echo every disk is rolled: a taker that can't read the arbiters judges by all disks.
    pub(crate) fn rolls_wide(&self, now: Instant) -> bool {
        if !self.config.has_peer {
            // Nobody takes over, by whatever disks.
            return false;
        }
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
            | DiskOutcome::Left
            | DiskOutcome::NotSent(_) => {}
        }
    }
}
