//! The takeover: survey, fence the arbiters, fence the rest, import, services, addresses.
//!
//! ```text
//!   Surveying ─▶ FencingArbiters ─▶ FencingRest ─▶ Importing ─▶ StartingServices ─▶ Announcing ─▶ Active
//!                      │ lost race       │ under half
//!                      └──▶ Yielding ◀───┘  (drops what it took) ─▶ Electing
//! ```

mod fence;
mod serve;

use crate::action::OwnerRecord;
use crate::beat::Beat;
use crate::controller::Controller;
use crate::disk_work::DiskWork;
use crate::disks::{Disk, Verdict};
use crate::ids::{DiskId, PoolId};
use crate::key::Key;
use crate::memory::{Visitor, Walk as _};
use crate::ops::Job;
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Why a takeover runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Try {
    Looking,
    Taking,
    Taken,
    Lost,
    Failed,
}

/// How far the owner record is, without which nothing is imported.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Remembered {
    Asked,
    Ended(Result<(), String>),
}

/// The running takeover.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct Takeover {
    pub(crate) kind: Kind,
    pub(crate) services: Option<Result<(), String>>,
    pub(crate) vips: Option<Result<(), String>>,
    /// Moments at which its phases began, in order.
    pub(crate) marks: Vec<(Cow<'static, str>, Instant)>,
    /// Disks that were won: the only ones that the import may use.
    pub(crate) won: BTreeSet<DiskId>,
    pub(crate) imports: BTreeMap<PoolId, Result<(), String>>,
    tries: BTreeMap<DiskId, Try>,
    retries: BTreeMap<DiskId, u8>,
    surveyed_from: Instant,
    /// Every arbiter key that it removed said handing-over: the old lease was ended before.
    lease_was_ended: bool,
    announce_from: Instant,
    /// The disks must have been seen as ours since then before pools are imported.
    pub(crate) prove_from: Instant,
    /// Whether the owner record is written; `None` until it was asked for.
    pub(crate) remembered: Option<Remembered>,
    imports_asked: bool,
    services_asked: bool,
    vips_asked: bool,
    announce_asked: bool,
}

impl Takeover {
    /// A phase begins.
    pub(crate) fn mark(&mut self, phase: &'static str, now: Instant) {
        self.marks.push((Cow::Borrowed(phase), now));
    }

    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor) {
        let Takeover {
            kind: _,
            services: _,
            vips: _,
            marks,
            won: _,
            imports: _,
            tries: _,
            retries: _,
            surveyed_from,
            lease_was_ended: _,
            announce_from,
            prove_from,
            remembered: _,
            imports_asked: _,
            services_asked: _,
            vips_asked: _,
            announce_asked: _,
        } = self;
        // For the history alone.
        marks.clear();
        visitor.instants([surveyed_from, announce_from, prove_from]);
    }

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
            won: record.won.iter().copied().collect(),
            marks: vec![("import".into(), now)],
            lease_was_ended: true,
            announce_from: now,
            remembered: Some(Remembered::Ended(Ok(()))),
            ..Takeover::default()
        };
    }

    /// A disk of this takeover was taken after all: the import may use it, or the next try of one that runs already.
    pub(crate) fn came_late(&mut self, state: State, id: DiskId) {
        if matches!(state, State::FencingArbiters | State::FencingRest) {
            self.tries.insert(id, Try::Taken);
        } else {
            self.won.insert(id);
        }
    }

    /// Nothing of the try was sent: it is made again.
    pub(crate) fn not_sent(&mut self, id: DiskId) {
        if matches!(self.tries.get(&id), Some(Try::Looking | Try::Taking)) {
            self.tries.remove(&id);
        }
    }

    /// The pools that are imported: only their services and addresses are brought up.
    pub(crate) fn imported(&self) -> Vec<PoolId> {
        let ends = self.imports.iter();
        ends.filter(|(_, end)| end.is_ok())
            .map(|(pool, _)| *pool)
            .collect()
    }

    /// Walks on from the import again: after a revert, or to try once more.
    pub(crate) fn again(&mut self, now: Instant) {
        self.prove_from = now;
        self.imports.clear();
        self.remembered = None;
        self.imports_asked = false;
        self.services = None;
        self.services_asked = false;
        self.vips = None;
        self.vips_asked = false;
        self.announce_asked = false;
        self.announce_from = self.announce_from.max(now);
        self.marks.clear();
        self.mark("import", now);
    }

    /// Brings the addresses up again, nothing else.
    pub(crate) fn announce_again(&mut self, now: Instant) {
        self.vips = None;
        self.vips_asked = false;
        self.announce_asked = false;
        self.marks.clear();
        self.mark("vip", now);
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
                Kind::Dead => vec![("detect".into(), life), ("decide".into(), now)],
                Kind::Elected | Kind::Handover | Kind::Forced | Kind::Adopted => {
                    vec![("decide".into(), now)]
                }
            },
            surveyed_from: now,
            // A lease that an earlier attempt was told of by keys that it removed is still there after it yielded.
            announce_from: self.takeover.announce_from,
            ..Takeover::default()
        };
        self.ask = None;
        self.not_serving_since = None;
        self.go(now, edge);
    }

    // ---- survey --------------------------------------------------------------------------------------------

    /// The second look: of a dead owner the reads that established its silence; otherwise reads of now.
    pub(crate) fn poll_surveying(&mut self, now: Instant) {
        let from = self.takeover.surveyed_from;
        let limit = from + ms(2 * self.config.timing.disk_op_ms);
        self.reserve_epoch(now);
        if self.sees_life(now) {
            self.go(now, states::SURVEY_ALIVE);
            return;
        }
        let read = match self.takeover.kind {
            Kind::Dead => Verdict::Yes,
            Kind::Handover if self.peer_hands_over() => Verdict::Yes,
            Kind::Handover => Verdict::Unknown,
            Kind::Elected | Kind::Forced | Kind::Adopted => self.look_again(now, from),
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

    /// The one that was dead lives, the peer owns or takes what nobody owned, or what it handed over it has again.
    fn sees_life(&mut self, now: Instant) -> bool {
        match self.takeover.kind {
            Kind::Dead => !self.is_dead(now),
            Kind::Elected => {
                let owns = |beat: &Beat| beat.role.owns();
                let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
                alive && self.peer.beat.as_ref().is_some_and(owns) || self.peer_takes()
            }
            Kind::Handover => {
                let from = self.takeover.surveyed_from;
                !self.peer_hands_over() && self.look_again(now, from) == Verdict::Yes
            }
            Kind::Forced | Kind::Adopted => false,
        }
    }

    /// An arbiter shows a key that the peer's present run chose after its last beat.
    pub(crate) fn peer_takes(&self) -> bool {
        let Some(beat) = &self.peer.beat else {
            return false;
        };
        let later = |key: Key| {
            let epoch = key.epoch.expand(self.seen);
            let same_run = key.node == beat.node && key.incarnation == beat.incarnation;
            same_run && epoch.is_some_and(|epoch| epoch > beat.epoch)
        };
        let ids = self.disks.arbiter_ids();
        let arbiters = ids.iter().filter_map(|id| self.disks.all.get(id));
        arbiters
            .flat_map(|disk| self.disks.keys_of(disk))
            .any(later)
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
        self.note_blank_disks(now);
        let from = self.first_announcement();
        self.takeover.announce_from = self.takeover.announce_from.max(from);
        self.takeover.mark("fence", now);
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

    /// Disks without any key of the pair can't tell of the lease that their owner still has: a foreign host may have
    /// wiped them, or a shelf forgotten them.
    fn note_blank_disks(&mut self, now: Instant) {
        let pair = self.config.pair;
        let marked = |disk: &Disk| {
            let (_, survey) = disk.look.as_ref().filter(|_| !disk.failed)?;
            let mut keys = survey.keys.iter();
            Some(keys.any(|bits| Key::from_bits(*bits, pair).is_some()))
        };
        if self.config.has_peer && self.disks.verdict(marked) != Verdict::Yes {
            self.took_blank_at = Some(now);
        }
    }

    /// When a long lease must have lapsed that nothing on the disks told of; `None` where the peer can have none, since
    /// it was in touch within `alone_after_ms` before, or is again.
    pub(crate) fn blank_lease_until(&self) -> Option<Instant> {
        let timing = &self.config.timing;
        let took_at = self.took_blank_at?;
        let alone = ms(timing.alone_after_ms);
        let plain = self.peer.plain_at.is_some_and(|at| took_at < at + alone);
        let lease = ms(timing.slow_lease_ms + timing.lease_slack_ms);
        (!plain).then(|| took_at + lease)
    }
}
