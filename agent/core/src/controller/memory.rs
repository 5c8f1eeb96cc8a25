//! Everything that a controller remembers, walked over and hashed.
//!
//! Both list its fields without `..`: a new field doesn't compile before somebody said what it is.

use super::Controller;
use crate::beat::Echo;
use crate::ids::OpId;
use crate::link_alarms::LinkAlarms;
use crate::memory::{Holder, Visitor, Walk as _, walk_number};
use std::hash::{Hash as _, Hasher};

impl Controller {
    /// Draws the same pauses again from here on: an exploration has no use for a number that never comes back.
    pub fn reseed(&mut self) {
        self.random = self.config.seed | 1;
    }

    /// Work that wasn't answered, overdue or not, in the order of asking.
    pub fn open_work(&self) -> impl Iterator<Item = OpId> + '_ {
        self.ops.keys().copied()
    }

    /// Beats of the peer that it may still echo.
    pub fn known_beats(&self) -> impl Iterator<Item = Echo> + '_ {
        self.peer.known_beats()
    }

    /// Walks over everything that it remembers, and forgets what it only keeps to tell of the past.
    pub fn walk(&mut self, visitor: &mut impl Visitor) {
        let Controller {
            config,
            state: _,
            since,
            why: _,
            started,
            peer,
            disks,
            settings,
            incarnation,
            epoch,
            reserved,
            seen,
            lan_up: _,
            stop: _,
            stop_taken_back: _,
            start,
            takeover,
            owner,
            handover,
            retries,
            link_alarms,
            resets: _,
            saw_owner: _,
            dead_since,
            not_serving_since,
            ask: _,
            force,
            backoff_until,
            losses: _,
            import_failed_until,
            took_blank_at,
            last_stall,
            requests,
            history_seq,
            session,
            seq,
            beat_now: _,
            arbiters_acked: _,
            random: _,
            out: _,
            journal_again_at,
            answer_stranger: _,
            stranger_answered,
            stranger_answers: _,
            beat_sent,
            petted,
            last_run,
            wake,
            ops,
            next_op,
        } = self;
        let node = config.node;
        let of = Holder {
            node,
            incarnation: *incarnation,
            epoch: *epoch,
        };
        owner.walk(visitor, of, *session);
        visitor.instants([since, started, backoff_until, journal_again_at, last_run]);
        visitor.instants([stranger_answered, beat_sent]);
        visitor.maybe([
            dead_since,
            not_serving_since,
            force,
            import_failed_until,
            took_blank_at,
        ]);
        visitor.instants(requests.iter_mut().map(|request| &mut request.until));
        visitor.instants(wake.iter_mut().map(|(at, _)| at));
        for epoch in [epoch, reserved, seen] {
            visitor.epoch(epoch);
        }
        walk_number(visitor, &mut settings.version.epoch);
        let run = *session;
        visitor.seq(run, seq);
        (*last_stall, *history_seq) = (None, 0);
        (*petted, *link_alarms) = (*last_run, LinkAlarms::default());
        peer.walk(visitor, run);
        disks.walk(visitor);
        start.walk(visitor);
        takeover.walk(visitor);
        handover.walk(visitor, run);
        retries.walk(visitor);
        let mut open = std::mem::take(ops);
        for (mut op, mut pending) in std::mem::take(&mut open) {
            pending.walk(visitor);
            visitor.op(&mut op);
            ops.insert(op, pending);
        }
        let mut last = OpId(*next_op);
        visitor.op(&mut last);
        *next_op = last.0;
    }

    /// Feeds everything that decides what it will do to `hasher`.
    pub fn digest(&self, hasher: &mut impl Hasher) {
        let Controller {
            config: _,
            state,
            since,
            why: _,
            started,
            peer,
            disks,
            settings,
            incarnation,
            epoch,
            reserved,
            seen,
            lan_up,
            stop,
            stop_taken_back,
            start,
            takeover,
            owner,
            handover,
            retries,
            link_alarms,
            resets,
            saw_owner,
            dead_since,
            not_serving_since,
            ask,
            force,
            backoff_until,
            losses,
            import_failed_until,
            took_blank_at,
            last_stall: _,
            requests,
            history_seq: _,
            session,
            seq,
            beat_now,
            arbiters_acked,
            random,
            out: _,
            journal_again_at,
            answer_stranger,
            stranger_answered,
            stranger_answers,
            beat_sent,
            petted,
            last_run,
            wake,
            ops,
            next_op,
        } = self;
        (state, since, started, peer, disks, settings).hash(hasher);
        (incarnation, epoch, reserved, seen, lan_up).hash(hasher);
        (stop, stop_taken_back).hash(hasher);
        (start, takeover, owner, handover, retries, link_alarms).hash(hasher);
        (resets, saw_owner, dead_since, not_serving_since, ask).hash(hasher);
        (
            force,
            backoff_until,
            losses,
            import_failed_until,
            took_blank_at,
        )
            .hash(hasher);
        (requests, session, seq, beat_now, arbiters_acked, random).hash(hasher);
        (
            journal_again_at,
            answer_stranger,
            stranger_answered,
            stranger_answers,
        )
            .hash(hasher);
        (beat_sent, petted, last_run, wake, ops, next_op).hash(hasher);
    }
}
