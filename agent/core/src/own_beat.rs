//! What this controller says of itself on the links: when, in which role, and why it can't take over.

use crate::action::Action;
use crate::beat::{Beat, Blocker, Role};
use crate::controller::Controller;
use crate::disks::{Disk, Verdict};
use crate::states::State;
use crate::time::{Instant, ms};

impl Controller {
    pub(crate) fn poll_beat(&mut self, now: Instant) {
        let interval = ms(self.config.timing.beat_ms);
        if self.beat_now || now.since(self.beat_sent) >= interval {
            self.send_beat(now);
        }
        self.wake_at(self.beat_sent + interval, "beat");
        // While something that a run in this boot imported may be left it isn't healthy: on a shelf that forgot its
        // reservations only the watchdog keeps such a pool from writing (protocol.md section 6). Without a trace of such
        // a run nothing is left that a reset would clear.
        let doubtful = self.state == State::Starting && self.start.doubtful;
        let healthy = !doubtful && self.state != State::Adopting;
        let due = now.since(self.petted) >= ms(1000) || self.petted == self.started;
        if healthy && due {
            self.petted = now;
            self.out.push(Action::PetWatchdog);
        }
    }

    /// Sends a beat on every link.
    pub(crate) fn send_beat(&mut self, now: Instant) {
        self.beat_now = false;
        self.beat_sent = now;
        if !self.config.has_peer {
            return;
        }
        self.seq += 1;
        let taking = self.takeover.is_unplanned_in(self.state);
        let racing = matches!(self.state, State::Surveying | State::FencingArbiters);
        let stranger = std::mem::take(&mut self.answer_stranger) && !racing;
        let echo = self.peer.echo(now, self.seq, !taking, stranger);
        let blockers = self.blockers(now);
        let beat = Beat {
            node: self.config.node,
            session: self.session,
            seq: self.seq,
            echo,
            status: self.status(),
            role: self.role(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            eligible: blockers == 0,
            blockers,
            serving: matches!(self.state, State::Active | State::Restarting),
            lan: self.lan_up,
            settings: self.settings,
            arbiters: self.disks.arbiters.clone(),
            arbiters_acked: self.arbiters_acked,
            ask: self.ask,
            answer: None,
            version: self.config.version.clone(),
        };
        self.out.push(Action::Send(beat));
    }

    fn role(&self) -> Role {
        match self.state {
            State::Starting => Role::Starting,
            State::Electing | State::Yielding => Role::Electing,
            State::Standby => Role::Standby,
            State::Surveying | State::FencingArbiters => Role::Fencing,
            State::FencingRest | State::Importing | State::StartingServices | State::Announcing => {
                Role::Importing
            }
            State::Active => Role::Owner,
            State::Failed => Role::Failing,
            State::RemovingVips
            | State::StoppingServices
            | State::Exporting
            | State::WritingHandover
            | State::Reverting => Role::Resigning,
            State::HandedOver => Role::HandingOver,
            State::Adopting | State::Restarting => Role::Restarting,
            State::Stopping => Role::Stopping,
            State::Held | State::Halted => Role::Halted,
        }
    }

    /// Why this controller can't take over in a planned way: bits of `Blocker`.
    pub(crate) fn blockers(&self, now: Instant) -> u16 {
        let mut bits = 0;
        let mut add =
            |blocker: Blocker, holds: bool| bits |= if holds { blocker as u16 } else { 0 };
        add(
            Blocker::Starting,
            matches!(self.state, State::Starting | State::Adopting),
        );
        let says = |disk: &Disk| {
            (disk.ours.is_some() || disk.look.is_some() && !disk.failed).then_some(true)
        };
        add(Blocker::Disks, self.disks.verdict(says) != Verdict::Yes);
        add(Blocker::Lan, !self.lan_up);
        add(
            Blocker::ImportFailed,
            self.import_failed_until.is_some_and(|until| now < until),
        );
        let unclean = self.state == State::Held && !self.start.cleaned;
        add(Blocker::NotClean, unclean);
        add(
            Blocker::ResetHold,
            matches!(self.state, State::Held | State::Halted) && !unclean,
        );
        add(
            Blocker::Journal,
            !self.state.owns() && self.reserved <= self.seen,
        );
        add(
            Blocker::Stopping,
            self.stop.is_some() || self.state == State::Stopping,
        );
        let busy = !matches!(self.state, State::Electing | State::Standby | State::Active);
        add(Blocker::Busy, busy);
        bits
    }
}
