//! Owning: rolling the key, proving the VIP lease, watching over the disks, halting when they are lost.

mod lease;
mod pools;
mod repair;
mod rolls;
mod serving;
mod steady;

pub(crate) use pools::PoolRetries;
pub(crate) use repair::ARBITER_FAILURES;
pub(crate) use steady::NAMED_MAX;

use crate::action::HaltReason;
use crate::controller::Controller;
use crate::disk_work::DiskWork;
use crate::disks::{Disk, Verdict};
use crate::ids::{DiskId, Epoch, Session};
use crate::key::{Key, Phase};
use crate::memory::{Holder, Visitor, Walk as _};
use crate::ops::Job;
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};

/// Pause between two attempts to take lost disks back.
const REPAIR_PAUSE_MS: u64 = 1000;
/// Announcements after the first one, and after each change of the clients' network.
pub(crate) const ANNOUNCEMENTS: u8 = 4;

/// What an owner keeps.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// Counter in the keys.
    pub(crate) beat: u16,
    /// Roll at once.
    pub(crate) roll_now: bool,
    /// The next roll goes to every disk: the counter has jumped, and one that stays behind would seem ahead of it.
    roll_all_once: bool,
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
    /// Nothing of the last repair is sent from then on.
    pub(crate) repair_until: Instant,
    /// A pool was given to an import: this machine may have writes for its disks.
    pub(crate) has_imported: bool,
    lan_down_since: Option<Instant>,
    restart_exit: Option<Instant>,
    /// The keys that it adopted promise a long lease, which the kernel may still hold.
    inherited: bool,
    restart_seq: u64,
    since: Instant,
    pub(crate) steady: steady::Steady,
}

impl Owner {
    pub(crate) fn new(now: Instant) -> Owner {
        Owner {
            beat: 0,
            roll_now: false,
            roll_all_once: false,
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
            repair_until: now,
            has_imported: false,
            lan_down_since: None,
            restart_exit: None,
            inherited: false,
            restart_seq: 0,
            since: now,
            steady: steady::Steady::default(),
        }
    }

    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor, of: Holder, run: Session) {
        let Owner {
            beat,
            roll_now: _,
            roll_all_once: _,
            lease_until,
            announcements_left: _,
            announce_at,
            phase: _,
            phase_since,
            roll_at,
            held: _,
            alone_since,
            repair,
            repair_at,
            repair_until,
            has_imported: _,
            lan_down_since,
            restart_exit,
            inherited: _,
            restart_seq,
            since,
            steady,
        } = self;
        visitor.key_beat(of, beat);
        visitor.maybe([lease_until, lan_down_since, restart_exit]);
        visitor.instants([announce_at, phase_since, roll_at, alone_since]);
        visitor.instants([repair_at, repair_until, since]);
        repair.iter_mut().for_each(|epoch| visitor.epoch(epoch));
        visitor.seq(run, restart_seq);
        steady.walk(visitor);
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
            roll_all_once: true,
            has_imported: true,
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
        let limit = (seen + ms(self.config.timing.disk_lost_ms)).min(self.most_verified_until());
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

    /// Until when half of all disks or more count as reached: most are looked at only every `verify_ms`. While the rest is
    /// still being taken there is nothing to verify.
    fn most_verified_until(&self) -> Instant {
        let since = match self.state == State::FencingRest {
            true => self.last_run,
            false => self.owner.since.max(self.owner.steady.verified_from()),
        };
        let seen = self.disks.half_time(|disk| disk.ok_at);
        seen.unwrap_or(since).max(since) + self.verified_within()
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
        if self
            .disks
            .all
            .values()
            .any(|disk| disk.lost && self.disks.has_stranger(disk))
        {
            self.halt(now, edge, HaltReason::Stranger);
            return true;
        }
        if self.state == State::Active && self.owner.lease_until.is_some_and(|until| now < until) {
            return false;
        }
        self.halt(now, edge, HaltReason::ReservationsGone);
        true
    }

    // ---- looks ---------------------------------------------------------------------------------------------

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
        let (name, free) = (disk.name.clone(), disk.busy.is_none());
        let ours = disk.ours.unwrap_or(own);
        let mixed = keys.iter().any(|key| key.same_run(own) && *key != ours);
        let Some(disk) = self.disks.all.get_mut(&id) else {
            return;
        };
        disk.lost = !(here && held);
        if !disk.lost {
            disk.ok_at = disk.ok_at.max(Some(asked));
        }
        let told = std::mem::replace(&mut disk.stranger, strangers);
        if strangers && !told {
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
