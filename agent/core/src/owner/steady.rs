//! The steady check: the owner verifies every disk, and says what the loss of some of them means.
//!
//! ```text
//!   none lost ──▶ one: FENCE_DISK_LOST, named ──▶ some: FENCE_MINORITY_LOST, counted ──▶ most: halt (`must_halt`)
//!       ▲                                                  │
//!       └──── FENCE_WHOLE, once none was lost for a while ◀┘
//! ```
//!
//! A disk is lost when its key isn't ours any more, or when it could not be verified for `verify_ms` + `disk_lost_ms`.

use super::Owner;
use crate::controller::Controller;
use crate::disk_work::DiskWork;
use crate::disks::Disk;
use crate::ids::DiskId;
use crate::memory::{Visitor, Walk as _};
use crate::ops::Job;
use crate::states::State;
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time without a lost disk after which all counts as well again: a disk that comes and goes is told of once.
const WHOLE_AFTER: Duration = ms(10_000);
/// Disks that a notice names.
pub(crate) const NAMED_MAX: usize = 8;

/// What operators were told of lost disks.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct Steady {
    /// Disks that were told of since all were well.
    told: BTreeSet<DiskId>,
    /// Since when none is lost.
    well_since: Option<Instant>,
    /// Since when the disks are verified: while they are being taken nothing looks at them.
    verified_from: Instant,
}

impl Steady {
    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor) {
        let Steady {
            told: _,
            well_since,
            verified_from,
        } = self;
        visitor.maybe([well_since]);
        visitor.instant(verified_from);
    }

    /// Every disk was taken or given up: verifying begins.
    pub(crate) fn verify_from(&mut self, now: Instant) {
        self.verified_from = now;
    }

    pub(crate) fn verified_from(&self) -> Instant {
        self.verified_from
    }

    /// A takeover could not win these, and said so.
    pub(crate) fn told_of(&mut self, disks: impl Iterator<Item = DiskId>) {
        self.told.extend(disks);
    }
}

impl Controller {
    /// Looks at the arbiters at the pace of rolling, at every other disk every `verify_ms`.
    pub(crate) fn verify(&mut self, now: Instant) {
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
            self.look_at_rest(now, pace);
            self.judge_losses(now);
        }
    }

    /// As `look_at_disks`, for all but the arbiters: in one pass, since with a thousand disks this is most of a turn.
    fn look_at_rest(&mut self, now: Instant, pace: Duration) {
        let arbiters = self.disks.arbiter_ids();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for disk in self.disks.all.values_mut() {
            if disk.busy.is_some() || disk.owed.is_some() || arbiters.contains(&disk.id) {
                continue;
            }
            if disk.look_at <= now {
                disk.look_at = now + pace;
                due.push((disk.ok_at, disk.id));
            }
            next = Some(next.map_or(disk.look_at, |next| next.min(disk.look_at)));
        }
        // Where a slow shelf can't answer all of them in time, it must not be the same ones that go without each round.
        due.sort_by_key(|(ok_at, _)| *ok_at);
        for (_, id) in due {
            self.run_disk(now, Job::Look(id), DiskWork::Survey);
        }
        if let Some(at) = next {
            self.wake_at(at, "look at disks");
        }
    }

    /// Time after which a disk that could not be verified is lost: each is asked only every `verify_ms`.
    pub(crate) fn verified_within(&self) -> Duration {
        ms(self.config.timing.verify_ms + self.config.timing.disk_lost_ms)
    }

    /// One lost disk, a few and most of them are different facts: the first two are alarms, the last is no owner's.
    fn judge_losses(&mut self, now: Instant) {
        let within = self.verified_within();
        let mut lost: Vec<(DiskId, String)> = Vec::new();
        for disk in self.disks.all.values() {
            if let Some(how) = how_lost(now, disk, &self.owner, within) {
                lost.push((disk.id, format!("{} ({how})", disk.name)));
            }
        }
        if lost.is_empty() {
            self.all_are_well(now);
            return;
        }
        let steady = &mut self.owner.steady;
        steady.well_since = None;
        if lost.iter().all(|(id, _)| steady.told.contains(id)) {
            return;
        }
        steady.told.extend(lost.iter().map(|(id, _)| *id));
        let (count, all) = (lost.len(), self.disks.all.len());
        let names: Vec<String> = lost.into_iter().map(|(_, name)| name).collect();
        let more = if count > NAMED_MAX { ", …" } else { "" };
        let names = names[..count.min(NAMED_MAX)].join(", ") + more;
        if 2 * count > all {
            let what = "most shared disks are lost, and with them the right to write";
            let text = format!("{count} of {all}: {what}: {names}");
            self.notice("FENCE_MAJORITY_LOST", Severity::Alarm, text);
        } else if count > 1 {
            let text = format!("{count} of {all} shared disks are lost: {names}");
            self.notice("FENCE_MINORITY_LOST", Severity::Alarm, text);
        } else {
            let text = format!("shared disk {names} is lost");
            self.notice("FENCE_DISK_LOST", Severity::Alarm, text);
        }
    }

    fn all_are_well(&mut self, now: Instant) {
        let steady = &mut self.owner.steady;
        if steady.told.is_empty() {
            return;
        }
        let at = *steady.well_since.get_or_insert(now) + WHOLE_AFTER;
        if now < at {
            self.wake_at(at, "all disks are well");
            return;
        }
        steady.told.clear();
        let text = "every shared disk is held and verified again";
        self.notice("FENCE_WHOLE", Severity::Info, text.to_owned());
    }
}

/// In which way a disk is lost, if it is.
fn how_lost(now: Instant, disk: &Disk, owner: &Owner, within: Duration) -> Option<String> {
    if disk.ours.is_none() {
        return Some("not held".to_owned());
    }
    if disk.lost {
        return Some("its key is gone or another's".to_owned());
    }
    let verified = disk.ok_at.unwrap_or(owner.since).max(owner.since);
    let age = now.since(verified);
    (age >= within).then(|| format!("not verified for {} ms", within.as_millis()))
}
