//! The lease of the virtual addresses, by proof.

use crate::action::{Action, Lease, Work};
use crate::beat::Role;
use crate::controller::Controller;
use crate::disks::Disk;
use crate::key::Phase;
use crate::ops::Job;
use crate::states::{self, State};
use crate::time::{Instant, ms};
use failover_api::Severity;
use std::time::Duration;

/// Renewals that would gain less are not worth a message to the kernel.
const RENEWAL: Duration = ms(10);

impl Controller {
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
        // Only the keys can promise the long lease, and only those that say so now.
        let slow = self.owner.phase == Phase::OwnerSlow && self.phase_is_written();
        let says = |disk: &Disk| {
            let phase = disk.ours.map(|key| key.phase);
            !disk.lost && (!slow || phase == Some(Phase::OwnerSlow))
        };
        let at = |disk: &Disk| disk.rolled_at.filter(|_| says(disk));
        let mut rolled = self.disks.majority_time(at);
        if self.rolls_wide(now) {
            // Half is enough beside the arbiters: a taker that judges by all disks needs one of it (decision 0021).
            rolled = rolled.min(self.disks.half_time(at));
        }
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

    pub(crate) fn renew_lease(&mut self, now: Instant) {
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

    pub(crate) fn shorten_lease(&mut self, now: Instant) {
        if self.owner.lease_until.is_none() {
            return;
        }
        let until = now + ms(self.config.timing.vip_lease_ms);
        let until = self.lease_end(now).map_or(until, |end| end.min(until));
        self.owner.roll_now = true;
        self.lease_ends_by(now, until);
    }

    /// Shortens the lease. A kernel that is to renew it until a moment that has passed would refuse, and the long one
    /// would go on: it is ended.
    pub(crate) fn lease_ends_by(&mut self, now: Instant, until: Instant) {
        let lives = until > now;
        self.owner.lease_until = lives.then_some(until);
        self.out.push(Action::Lease(match lives {
            true => Lease::Renew { until },
            false => Lease::End,
        }));
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
}
