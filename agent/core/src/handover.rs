//! The planned handover, seen from the old owner, and how it goes back.
//!
//! ```text
//!   Active ─▶ RemovingVips ─▶ StoppingServices ─▶ Exporting ─▶ WritingHandover ─▶ HandedOver ─▶ Standby
//!                  └────────────────┴──── failure ─▶ Importing ◀── Reverting ◀──────┘ not taken
//! ```

use crate::action::{Action, Entry, HaltReason, Lease, Outcome, Work};
use crate::beat::{Ask, Blocker, Role};
use crate::controller::{Controller, Request, Wants, libc_errno};
use crate::disk_work::DiskWork;
use crate::disks::{Disk, Verdict};
use crate::ids::{DiskId, PoolId, RequestId, Session};
use crate::key::Phase;
use crate::memory::{Visitor, Walk as _};
use crate::ops::{Job, outcome_of};
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Beats after which a leaving daemon ends.
const LAST_BEATS: u64 = 2;

/// The running handover.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) vips: Option<Result<(), String>>,
    pub(crate) services: Option<Result<(), String>>,
    pub(crate) exports: BTreeMap<PoolId, Result<(), String>>,
    /// Going back; ends when it serves again.
    pub(crate) reverting: bool,
    /// The last handover went back.
    pub(crate) reverted: bool,
    /// Why.
    pub(crate) failure: String,
    /// When the last one went back.
    went_back_at: Option<Instant>,
    answered: Option<u32>,
    written_at: Instant,
    leave_seq: Option<u64>,
}

impl Handover {
    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor, run: Session) {
        let Handover {
            vips: _,
            services: _,
            exports: _,
            reverting: _,
            reverted: _,
            failure: _,
            went_back_at,
            answered: _,
            written_at,
            leave_seq,
        } = self;
        visitor.instant(written_at);
        visitor.maybe([went_back_at]);
        leave_seq.iter_mut().for_each(|seq| visitor.seq(run, seq));
    }

    /// Whether this question is a new one; each is followed once.
    pub(crate) fn answers(&mut self, ask: Ask) -> bool {
        self.answered.replace(ask.number) != Some(ask.number)
    }
}

impl Controller {
    /// Whether the peer can take over in a planned way; the reason, if not.
    pub(crate) fn peer_can_take(&self, now: Instant) -> Result<(), String> {
        if !self.config.has_peer {
            return Err(
                "there is no peer: this controller is not provisioned as a member of a pair"
                    .to_owned(),
            );
        }
        if !self.peer.alive(now, ms(self.config.timing.dead_ms)) {
            return Err("the peer is not heard on any link".to_owned());
        }
        let Some(beat) = &self.peer.beat else {
            return Err("the peer was never heard".to_owned());
        };
        if beat.role != Role::Standby {
            return Err(format!("the peer is {:?}, not in standby", beat.role));
        }
        match beat.eligible {
            true => Ok(()),
            false => Err(format!(
                "the peer can't take over: {}",
                Blocker::sentences(beat.blockers).join("; ")
            )),
        }
    }

    /// `become_passive`: refused with the reason where the peer can't take.
    pub(crate) fn become_passive(&mut self, now: Instant, id: RequestId, wants: Wants) {
        if self.settings.disabled && wants == Wants::PeerServes {
            let reason = "failover is disabled; enable it first, or use failover.update with \
                          {\"disabled\": true, \"master\": false} to move and keep it disabled"
                .to_owned();
            self.refuse(id, libc_errno::EINVAL, reason);
            return;
        }
        if self.state != State::Active {
            let reason = format!(
                "this controller is {}, not the MASTER; nothing was done",
                self.status()
            );
            self.refuse(id, libc_errno::EINVAL, reason);
            return;
        }
        if let Err(reason) = self.peer_can_take(now) {
            self.refuse(id, libc_errno::EBUSY, reason);
            return;
        }
        if let Some(pool) = self.retries.running() {
            let pool = self.pool_name(pool);
            let reason = format!(
                "pool {pool}, which had failed, is being imported again; nothing was done, ask again in a moment"
            );
            self.refuse(id, libc_errno::EBUSY, reason);
            return;
        }
        if let Some(pool) = self.importing_pool() {
            let pool = self.pool_name(pool);
            let reason = format!(
                "the import of pool {pool} hasn't ended, though its time is over: it may come up here yet; nothing was done"
            );
            self.refuse(id, libc_errno::EBUSY, reason);
            return;
        }
        let timing = &self.config.timing;
        let until = now
            + ms(timing.vips_ms + timing.services_ms + timing.export_ms + timing.handover_ms)
            + ms(timing.import_ms + timing.services_ms);
        self.requests.push(Request { id, wants, until });
        self.begin_handover(now, states::HAND_OVER, "an operator asked for it");
    }

    /// Whether a handover that nobody asked for may begin. What made the last one go back is likely still so: trying at
    /// once would turn without rest.
    pub(crate) fn rested_from_handover(&mut self, now: Instant, rest_ms: u64) -> bool {
        let Some(at) = self.handover.went_back_at else {
            return true;
        };
        let at = at + ms(rest_ms);
        if now < at {
            self.wake_at(at, "next handover");
        }
        now >= at
    }

    pub(crate) fn begin_handover(&mut self, now: Instant, edge: Edge, why: &str) {
        self.notice("HANDOVER", Severity::Info, format!("handing over: {why}"));
        let (answered, went_back_at) = (self.handover.answered, self.handover.went_back_at);
        self.handover = Handover {
            answered,
            went_back_at,
            ..Handover::default()
        };
        self.takeover.marks.clear();
        self.takeover.mark("vips off", now);
        // The lease goes first: from here on no client hears us (design section 4).
        self.out.push(Action::Lease(Lease::End));
        self.owner.lease_until = None;
        self.run(now, Job::RemoveVips, Work::RemoveVips);
        let quiet = now + ms(self.config.timing.disk_beat_ms);
        for disk in self.disks.all.values_mut() {
            disk.look_at = disk.look_at.max(quiet);
        }
        self.go(now, edge);
    }

    pub(crate) fn poll_removing_vips(&mut self, now: Instant) {
        match self.handover.vips.clone() {
            None => {}
            Some(Ok(())) => {
                self.takeover.mark("stop services", now);
                self.run(now, Job::StopServices, Work::StopServices);
                self.go(now, states::VIPS_OFF);
            }
            Some(Err(why)) => self.go_back(now, states::VIPS_STUCK, why),
        }
    }

    pub(crate) fn poll_stopping_services(&mut self, now: Instant) {
        match self.handover.services.clone() {
            None => {}
            Some(Ok(())) => {
                self.takeover.mark("export", now);
                for pool in self.config.pools.clone() {
                    self.run(now, Job::Export(pool.id), Work::Export(pool.id));
                }
                self.go(now, states::SERVICES_OFF);
            }
            Some(Err(why)) => self.go_back(now, states::SERVICES_STUCK, why),
        }
    }

    /// Back to serving, while the disks were never offered.
    fn go_back(&mut self, now: Instant, edge: Edge, why: String) {
        self.take_back(now, why);
        self.takeover.again(now);
        self.go(now, edge);
    }

    /// Says why, and serves on though it was told to stop.
    fn take_back(&mut self, now: Instant, why: String) {
        let text = format!("the handover is reverted: {why}");
        self.notice("HANDOVER_REVERTED", Severity::Alarm, text);
        self.handover.failure = why;
        self.handover.reverting = true;
        self.handover.went_back_at = Some(now);
        self.stop_taken_back = self.stop.take().or(self.stop_taken_back);
    }

    /// Nothing is served that a stop which was taken back could cost.
    pub(crate) fn take_up_stop(&mut self) {
        self.stop = self.stop.or_else(|| self.stop_taken_back.take());
    }

    pub(crate) fn export_ended(&mut self, pool: PoolId, outcome: Outcome) {
        self.handover.exports.insert(pool, outcome_of(outcome));
    }

    pub(crate) fn poll_exporting(&mut self, now: Instant) {
        let limit = self.since + ms(self.config.timing.export_ms);
        if self.handover.exports.len() < self.config.pools.len() {
            // After a stall the exports have longer than this, and their own deadlines wake us.
            if now < limit {
                self.wake_at(limit, "export");
            }
            return;
        }
        let stuck = now >= limit;
        let failed = self
            .handover
            .exports
            .values()
            .find_map(|end| end.clone().err());
        match failed {
            None => {
                self.run(now, Job::Remember, Work::Remember(None));
                self.takeover.mark("hand over", now);
                self.owner.set_phase(now, Phase::HandingOver);
                self.handover.written_at = now;
                self.roll_everywhere(now);
                self.go(now, states::EXPORTED);
            }
            Some(why) if stuck => self.halt(now, states::EXPORT_STUCK, HaltReason::CannotStop(why)),
            Some(why) => self.go_back(now, states::EXPORT_FAILED, why),
        }
    }

    /// Rolls the phase onto the arbiters; onto every disk where too few arbiters are ours.
    fn roll_everywhere(&mut self, now: Instant) {
        self.owner.beat = (self.owner.beat + 1) & 0xfff;
        let to = self.key(self.owner.phase(), self.epoch);
        let ids: Vec<DiskId> = match self.disks.arbiters_held() {
            true => self.disks.arbiter_ids(),
            false => self.disks.all.keys().copied().collect(),
        };
        for id in ids {
            let Some(disk) = self.disks.all.get(&id) else {
                continue;
            };
            let Some(from) = disk.ours.filter(|_| disk.busy.is_none() && !disk.lost) else {
                continue;
            };
            if from.phase != to.phase {
                self.run_disk(now, Job::Roll(id, to), DiskWork::Roll { from, to });
            }
        }
    }

    /// Whether the keys of a majority say the phase that was chosen last.
    fn written(&self) -> Verdict {
        let phase = self.owner.phase();
        self.disks.verdict(|disk| match disk.lost {
            true => Some(false),
            false => disk.ours.filter(|key| key.phase == phase).map(|_| true),
        })
    }

    pub(crate) fn poll_writing(&mut self, now: Instant) {
        if self.peer_took(now) {
            self.cease(now, states::HANDOVER_PEER_TOOK_EARLY);
            return;
        }
        if self.written() == Verdict::Yes {
            self.go(now, states::HANDOVER_WRITTEN);
            return;
        }
        self.roll_everywhere(now);
        self.look_at_arbiters(now);
        let limit = self.since + ms(self.config.timing.disk_lost_ms);
        self.wake_at(limit, "write handing-over");
        if now >= limit {
            self.turn_back(
                now,
                states::HANDOVER_UNWRITTEN,
                "the arbiter disks did not take it in time",
            );
        }
    }

    pub(crate) fn poll_handed_over(&mut self, now: Instant) {
        if self.peer_took(now) {
            self.cease(now, states::COMMITTED);
            return;
        }
        let limit = self.handover.written_at + ms(self.config.timing.handover_ms);
        // Whoever ends the daemon lets no service start any more: taking it all back would end in Failed.
        if self.stop.is_some() && (self.peer_can_take(now).is_err() || now >= limit) {
            self.run(now, Job::RecordOther, Work::Record(Entry::Owned(None)));
            self.go(now, states::LEFT);
            return;
        }
        self.look_at_arbiters(now);
        self.wake_at(limit, "handover");
        if now >= limit {
            self.turn_back(
                now,
                states::NOT_TAKEN,
                "the peer did not take the disks in time",
            );
        }
    }

    /// The peer holds a majority: seen on the disks, or said by it.
    fn peer_took(&self, now: Instant) -> bool {
        let said = self.peer.alive(now, ms(self.config.timing.dead_ms))
            && self
                .peer
                .beat
                .as_ref()
                .is_some_and(|beat| beat.role.owns() && beat.epoch > self.epoch);
        let peer = self.config.node.other();
        let theirs = |disk: &Disk| {
            let (asked, _) = disk.look.as_ref().filter(|_| !disk.failed)?;
            let fresh = *asked >= self.handover.written_at;
            fresh.then(|| self.disks.holder(disk).is_some_and(|key| key.node == peer))
        };
        let seen = self.disks.verdict(theirs) == Verdict::Yes
            || self.disks.verdict_of_all(theirs) == Verdict::Yes;
        self.config.has_peer && (said || seen)
    }

    /// Owns no more; what is left of our keys is the peer's to remove.
    fn cease(&mut self, now: Instant, edge: Edge) {
        for disk in self.disks.all.values_mut() {
            disk.ours = None;
            disk.lost = false;
            disk.unchanged_since = None;
        }
        self.run(now, Job::RecordOther, Work::Record(Entry::Owned(None)));
        self.go(now, edge);
    }

    /// Rolls back to phase owner; only a majority that says so again leads back to the import.
    fn turn_back(&mut self, now: Instant, edge: Edge, why: &str) {
        self.take_back(now, why.to_owned());
        self.owner.set_phase(now, Phase::Owner);
        self.roll_everywhere(now);
        self.go(now, edge);
    }

    /// Rolled back on a majority, and all disks read again after that.
    pub(crate) fn poll_reverting(&mut self, now: Instant) {
        if self.peer_took(now) {
            self.cease(now, states::REVERT_TAKEN);
            return;
        }
        self.roll_everywhere(now);
        if self.written() == Verdict::Yes {
            let all: Vec<DiskId> = self.disks.all.keys().copied().collect();
            self.look_at_disks(now, &all, ms(self.config.timing.disk_read_ms));
            let own = self.key(Phase::Owner, self.epoch);
            let since = self.owner.phase_since();
            let read = |disk: &Disk| {
                let (asked, _) = disk.look.as_ref().filter(|_| !disk.failed)?;
                let fresh = *asked >= since && disk.rolled_at.is_some_and(|rolled| *asked > rolled);
                fresh.then(|| self.disks.holder(disk).is_some_and(|key| key.same_run(own)))
            };
            if self.disks.verdict_of_both(read) == Verdict::Yes {
                self.owner.won(now);
                self.takeover.again(now);
                self.go(now, states::REVERTED);
                return;
            }
        }
        let limit = self.since + ms(self.config.timing.disk_lost_ms);
        self.wake_at(limit, "revert");
        if now >= limit {
            self.cease(now, states::REVERT_TAKEN);
        }
    }

    fn look_at_arbiters(&mut self, now: Instant) {
        let ids: Vec<DiskId> = match self.disks.arbiters_held() {
            true => self.disks.arbiter_ids(),
            false => self.disks.all.keys().copied().collect(),
        };
        self.look_at_disks(now, &ids, ms(self.config.timing.disk_read_ms));
    }

    // ---- leaving -------------------------------------------------------------------------------------------

    /// Says twice that it stops, then ends.
    pub(crate) fn poll_stopping(&mut self, now: Instant) {
        let last = *self.handover.leave_seq.get_or_insert(self.seq + LAST_BEATS);
        if self.seq >= last || !self.config.has_peer {
            self.out.push(Action::Exit);
        }
        self.wake_at(now + ms(self.config.timing.beat_ms), "stop");
    }
}
