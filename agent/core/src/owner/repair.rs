//! Replacing arbiters that failed, and taking lost disks back.

use super::REPAIR_PAUSE_MS;
use crate::action::{Entry, Work};
use crate::beat::{ArbiterList, Role};
use crate::controller::Controller;
use crate::disk_work::DiskWork;
use crate::disks::Disk;
use crate::ids::DiskId;
use crate::key::{Key, Phase};
use crate::ops::Job;
use crate::states::State;
use crate::time::{Instant, ms};
use failover_api::Severity;

/// Failed operations in a row after which an arbiter is replaced.
pub(crate) const ARBITER_FAILURES: u32 = 3;

impl Controller {
    /// Replaces an arbiter that failed by a disk that we hold; one at a time, never while the peer hasn't
    /// acknowledged the last change.
    pub(crate) fn replace_arbiter(&mut self, now: Instant) {
        if !matches!(self.state, State::Active | State::Failed) {
            return;
        }
        if self.arbiters_acked < self.disks.arbiters.version
            && self.journal_is_free(now, &Job::RecordArbiters)
        {
            self.set_arbiters(now, self.disks.arbiters.clone());
        }
        if !self.disks.arbiters.previous.is_empty() {
            self.drop_previous_arbiters(now);
            return;
        }
        let list = &self.disks.arbiters;
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
        self.set_arbiters(now, list);
    }

    /// Both controllers have the new list: the old one counts no more.
    fn drop_previous_arbiters(&mut self, now: Instant) {
        let version = self.disks.arbiters.version;
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        let beat = self.peer.beat.as_ref().filter(|_| alive);
        let acked = beat.is_some_and(|beat| beat.arbiters_acked >= version);
        if acked && self.arbiters_acked >= version && !self.running(&Job::RecordArbiters) {
            let list = ArbiterList {
                previous: Vec::new(),
                ..self.disks.arbiters.clone()
            };
            self.set_arbiters(now, list);
            self.beat_now = true;
        }
    }

    fn set_arbiters(&mut self, now: Instant, list: ArbiterList) {
        self.disks.arbiters = list.clone();
        let work = Work::Record(Entry::Arbiters(list));
        self.run(now, Job::RecordArbiters, work);
    }

    pub(crate) fn arbiters_recorded(&mut self) {
        self.arbiters_acked = self.disks.arbiters.version;
        self.beat_now = true;
    }

    /// Takes disks that are not ours in a new epoch: only where the foreign key is gone, declared yielded, or of an
    /// owner before us that the sweep didn't reach. Once a pool was imported only within the proof that would keep the
    /// addresses up, and nothing of it is sent later (protocol.md section 2: a queued ignore-register would give a fenced
    /// owner its access back).
    pub(crate) fn repair(&mut self, now: Instant) {
        if !matches!(self.state, State::Active | State::Failed) {
            return;
        }
        let older = |key: &Key| {
            key.epoch
                .expand(self.epoch)
                .is_some_and(|epoch| epoch < self.epoch)
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
                    key.phase == Phase::Yielded || older(&key) || self.is_of_ended_run(now, key)
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
        // A taker may have begun where our own proof has run out: what it takes must not be registered anew by a machine
        // that has writes for it.
        let until = match self.config.has_peer && self.owner.has_imported {
            true => self.lease_end(now),
            false => Some(now + ms(self.config.timing.vip_lease_ms)),
        };
        let Some(until) = until.filter(|until| *until > now) else {
            return;
        };
        if self.reserved <= self.seen.max(self.epoch) {
            return;
        }
        self.epoch = self.reserved;
        self.seen = self.epoch;
        self.owner.repair = Some(self.epoch);
        self.owner.repair_until = until;
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
                    until: Some(until),
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
                && matches!(beat.role, Role::Standby | Role::Halted)
        })
    }
}
