//! Starting: clean, by adoption, or held back.

use crate::action::Action;
use crate::action::{Entry, HaltReason, Lease, OwnerRecord, Work};
use crate::controller::{Controller, StopKind};
use crate::disks::Verdict;
use crate::ids::DiskId;
use crate::key::{Key, Phase};
use crate::memory::{Visitor, Walk as _};
use crate::ops::Job;
use crate::states::{self, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Self-resets after which a controller stays away.
const RESETS_MAX: u8 = 2;
/// Failed clean-ups after which it stays away, or is reset; it isn't eligible meanwhile.
const CLEAN_UPS_MAX: u32 = 5;
/// Pause before a failed clean-up is tried again.
const CLEAN_AGAIN_MS: u64 = 1000;
/// The same while it stays away.
const CLEAN_AGAIN_HELD_MS: u64 = 5000;

/// What is known while starting.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The incarnation is in the journal.
    pub(crate) incarnation_durable: bool,
    record: Option<OwnerRecord>,
    /// A record is there and can't be read: what is left here may have been imported in this boot.
    pub(crate) doubtful: bool,
    asked: bool,
    pub(crate) cleaned: bool,
    again_at: Option<Instant>,
    failures: u32,
    told: String,
}

impl Start {
    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor) {
        let Start {
            incarnation_durable: _,
            record,
            doubtful: _,
            asked: _,
            cleaned: _,
            again_at,
            failures: _,
            told: _,
        } = self;
        record.iter_mut().for_each(|record| record.walk(visitor));
        visitor.maybe([again_at]);
    }

    pub(crate) fn new(record: Option<OwnerRecord>, doubtful: bool) -> Start {
        Start {
            record,
            doubtful,
            ..Start::default()
        }
    }
}

impl Controller {
    /// Longest time after a start until this controller is healthy, or has asked for its reset: for whoever watches it
    /// from outside.
    pub fn start_limit(&self) -> Duration {
        let timing = &self.config.timing;
        let longest = timing.export_ms.max(timing.services_ms).max(timing.vips_ms);
        let clean_up = ms(longest + CLEAN_AGAIN_MS);
        clean_up * CLEAN_UPS_MAX + ms(timing.disk_lost_ms + timing.record_ms)
    }

    /// Nothing of an earlier run may be left: no address, no service, no pool.
    pub(crate) fn poll_starting(&mut self, now: Instant) {
        let arbiters = self.disks.arbiter_ids();
        self.look_at_disks(now, &arbiters, ms(self.config.timing.disk_read_ms));
        if !self.start.asked {
            self.start.asked = true;
            self.out.push(Action::Lease(Lease::End));
            self.clean(now);
        }
        if !self.start.incarnation_durable && self.journal_is_free(now, &Job::RecordIncarnation) {
            let entry = Entry::Incarnation(self.incarnation);
            self.run(now, Job::RecordIncarnation, Work::Record(entry));
        }
        self.poll_cleaning(now);
        // Whoever stops now, too, must not leave a pool or an address behind.
        if self.start.cleaned && self.stop.is_some() {
            self.go(now, states::START_STOP);
        } else if !self.start.incarnation_durable {
            // Nothing further without it.
        } else if !self.start.cleaned {
            self.give_up_cleaning(now);
        } else {
            let held = self.resets >= RESETS_MAX && self.config.timing.reset_hold_min > 0;
            self.go(
                now,
                if held {
                    states::START_HELD
                } else {
                    states::START_CLEAN
                },
            );
        }
    }

    /// Cleans up until nothing is left.
    fn poll_cleaning(&mut self, now: Instant) {
        if self.start.cleaned {
            return;
        }
        if let Some(at) = self.start.again_at {
            if now < at {
                self.wake_at(at, "clean up again");
                return;
            }
            self.start.again_at = None;
            self.clean(now);
        }
        self.judge_cleaning(now);
    }

    /// A pool that a run in this boot imported, and that hangs on disks that are no longer ours, goes away only with a
    /// reset. What nobody of us imported in this boot would be there again after the next one: no reset for that.
    fn give_up_cleaning(&mut self, now: Instant) {
        if self.start.failures < CLEAN_UPS_MAX {
            return;
        }
        let why = self.start.told.clone();
        if self.start.doubtful {
            self.halt(now, states::START_STUCK, HaltReason::CannotStop(why));
        } else {
            let text = format!(
                "this controller stays away: {why}. No run in this boot imported it, so a reset would not clear it; it goes on trying"
            );
            self.notice("HELD_UNCLEAN", Severity::Alarm, text);
            self.go(now, states::START_UNCLEAN);
        }
    }

    fn clean(&mut self, now: Instant) {
        self.handover.vips = None;
        self.handover.services = None;
        self.handover.exports.clear();
        self.run(now, Job::RemoveVips, Work::RemoveVips);
        self.run(now, Job::StopServices, Work::StopServices);
        for pool in self.config.pools.clone() {
            self.run(now, Job::Export(pool.id), Work::Export(pool.id));
        }
    }

    fn judge_cleaning(&mut self, now: Instant) {
        let exports = self.handover.exports.len();
        let (Some(vips), Some(services)) = (&self.handover.vips, &self.handover.services) else {
            return;
        };
        if exports < self.config.pools.len() {
            return;
        }
        let failed = vips.as_ref().err().or(services.as_ref().err());
        match failed.or(self
            .handover
            .exports
            .values()
            .find_map(|end| end.as_ref().err()))
        {
            None => self.start.cleaned = true,
            Some(why) => {
                let why = why.clone();
                if self.start.told != why {
                    let text =
                        format!("what was left here could not be cleaned up, trying again: {why}");
                    self.notice("CLEAN_UP_FAILED", Severity::Alarm, text);
                    self.start.told = why;
                }
                self.start.failures = self.start.failures.saturating_add(1);
                let pause = if self.state == State::Held {
                    CLEAN_AGAIN_HELD_MS
                } else {
                    CLEAN_AGAIN_MS
                };
                let at = now + ms(pause);
                self.start.again_at = Some(at);
                self.wake_at(at, "clean up again");
            }
        }
    }

    /// A daemon restarted on the owner goes on owning if both juries show its key.
    pub(crate) fn poll_adopting(&mut self, now: Instant) {
        let Some(record) = self.start.record.clone() else {
            return;
        };
        let all: Vec<DiskId> = self.disks.all.keys().copied().collect();
        self.look_at_disks(now, &all, ms(self.config.timing.disk_read_ms));
        // Keys of a takeover that the record doesn't know were never served with.
        let known = |key: Key| {
            let epoch = key.epoch.expand(record.epoch);
            epoch.is_some_and(|epoch| epoch <= record.epoch)
        };
        let ours = |disk: &crate::disks::Disk| {
            let fresh = disk.look.is_some() && !disk.failed;
            fresh.then(|| {
                self.disks
                    .holder(disk)
                    .is_some_and(|key| key.same_run(record.key) && known(key))
            })
        };
        match self.disks.verdict_of_both(ours) {
            Verdict::Yes => {
                self.adopt(now, &record);
                self.go(now, states::ADOPT);
            }
            Verdict::No => self.halt(now, states::ADOPT_NOT_OURS, HaltReason::NotAdopted),
            Verdict::Unknown => {
                let limit = self.started + ms(self.config.timing.disk_lost_ms);
                if now >= limit {
                    self.halt(now, states::ADOPT_UNKNOWN, HaltReason::DisksLost);
                }
                self.wake_at(limit, "adoption");
            }
        }
    }

    fn adopt(&mut self, now: Instant, record: &OwnerRecord) {
        self.epoch = record.epoch;
        self.saw_owner = true;
        let pair = self.config.pair;
        let mut phase = Phase::Owner;
        for disk in self.disks.all.values_mut() {
            let keys = disk.look.iter().flat_map(|(_, survey)| &survey.keys);
            let seen = keys
                .filter_map(|bits| Key::from_bits(*bits, pair))
                .find(|key| key.same_run(record.key));
            if let Some(key) =
                seen.filter(|key| matches!(key.phase, Phase::OwnerSlow | Phase::Restarting))
            {
                phase = key.phase;
            }
            if seen.is_some() || record.won.contains(&disk.id) && disk.look.is_none() {
                // A key that an unanswered roll changed is found again by the next roll.
                disk.ours = Some(seen.unwrap_or(record.key));
                disk.ok_at = disk.look.as_ref().map(|(asked, _)| *asked);
            }
        }
        self.owner.adopted(now, record.key.beat, phase);
        self.takeover.adopted(now, record);
    }

    /// Held back after too many self-resets, or with something here that can't be cleaned up: registered nowhere, not
    /// eligible, reachable.
    pub(crate) fn poll_held(&mut self, now: Instant) {
        if self.stop == Some(StopKind::Leave) || self.stop == Some(StopKind::Restart) {
            self.go(now, states::STOP_HELD);
            return;
        }
        let arbiters = self.disks.arbiter_ids();
        self.look_at_disks(now, &arbiters, ms(self.config.timing.verify_ms));
        self.poll_resets(now);
        let was_clean = self.start.cleaned;
        self.poll_cleaning(now);
        if !self.start.cleaned {
            return;
        }
        if !was_clean && self.resets < RESETS_MAX {
            self.go(now, states::CLEANED);
        } else if self.resets < RESETS_MAX || self.force.is_some() {
            if self.force.is_some() {
                self.resets = 0;
                self.run(now, Job::RecordOther, Work::Record(Entry::Resets(0)));
            }
            self.go(now, states::RELEASED);
        }
    }

    /// A reset is worked off by running for `reset_hold_min` without another.
    pub(crate) fn poll_resets(&mut self, now: Instant) {
        if self.resets == 0 {
            return;
        }
        let at = self.started + ms(self.config.timing.reset_hold_min * 60_000);
        if now >= at {
            self.resets = 0;
            self.run(now, Job::RecordOther, Work::Record(Entry::Resets(0)));
        } else {
            self.wake_at(at, "resets worked off");
        }
    }
}
