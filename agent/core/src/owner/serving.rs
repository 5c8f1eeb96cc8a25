//! Serving, failing to, and restarting.

use crate::action::{Action, Lease, Work};
use crate::beat::AskWhat;
use crate::controller::{Controller, StopKind};
use crate::disks::{Disk, Verdict};
use crate::key::{Key, Phase};
use crate::ops::Job;
use crate::states::{self, State};
use crate::time::{Instant, ms};
use failover_api::Severity;

/// Time for which an announced restart is waited for before the daemon ends without it.
const RESTART_CONFIRM_MS: u64 = 1000;
/// Time between lengthening the lease and ending: the kernel's refusal would come in between.
const RESTART_EXIT_MS: u64 = 20;
/// Time without carrier on the clients' network after which the owner hands over to a peer that has one.
const LAN_DOWN_MS: u64 = 500;

impl Controller {
    pub(crate) fn poll_serving(&mut self, now: Instant) {
        if self.owner.announcements_left > 0 {
            if now >= self.owner.announce_at {
                self.owner.announcements_left -= 1;
                self.owner.announce_at = now + ms(self.config.timing.announce_ms);
                let pools = self.takeover.imported();
                self.run(now, Job::Announce, Work::AnnounceVips(pools));
            }
            let at = self.owner.announce_at;
            self.wake_at(at, "announce");
        }
        // The work of such a try stands before that of a handover on the lanes.
        let retrying = self.retries.running().is_some();
        match self.stop.filter(|_| !retrying) {
            Some(StopKind::Restart) => {
                self.owner.restart_seq = self.seq + 1;
                self.go(now, states::RESTART);
                return;
            }
            Some(StopKind::Leave) if self.importing_pool().is_none() => {
                self.begin_handover(now, states::HAND_OVER, "the daemon was told to stop");
                return;
            }
            Some(StopKind::Leave) | None => {}
        }
        let eligible = self.peer_can_take(now);
        let asked = self.peer.beat.as_ref().and_then(|beat| beat.ask);
        if eligible.is_ok()
            && !retrying
            && asked.is_some_and(|ask| ask.what == AskWhat::HandOver)
            && self.importing_pool().is_none()
            && asked.is_some_and(|ask| self.handover.answers(ask))
        {
            self.begin_handover(now, states::HAND_OVER, "the peer asked for it");
            return;
        }
        self.hand_over_without_lan(now, eligible.is_ok());
        if self.state == State::Active && self.stop.is_none() && self.lan_up {
            self.retry_pools(now);
        }
    }

    /// Without its clients' network it serves nobody: the peer takes over, by negotiation or on the disks.
    fn hand_over_without_lan(&mut self, now: Instant, eligible: bool) {
        if self.lan_up {
            self.owner.lan_down_since = None;
            return;
        }
        let since = *self.owner.lan_down_since.get_or_insert(now);
        let at = since + ms(LAN_DOWN_MS);
        if now < at {
            self.wake_at(at, "clients' network");
            return;
        }
        let rest_ms = self.config.timing.not_serving_ms;
        if self.is_disabled() || !self.rested_from_handover(now, rest_ms) {
            return;
        }
        if eligible {
            self.begin_handover(
                now,
                states::HAND_OVER,
                "the clients' network has no carrier here",
            );
            return;
        }
        let peer = self.config.node.other();
        let answered = |disk: &Disk| {
            let candidate = |key: &Key| key.node == peer && key.phase == Phase::Candidate;
            (disk.look.is_some() && !disk.failed)
                .then(|| self.disks.keys_of(disk).iter().any(candidate))
        };
        if self.owner.phase == Phase::Offering && self.disks.verdict(answered) == Verdict::Yes {
            self.begin_handover(
                now,
                states::HAND_OVER,
                "the peer answered the offer on the disks",
            );
        }
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.settings.disabled
    }

    /// Owns, can't serve: the peer if it can, else again after a while.
    pub(crate) fn poll_failed(&mut self, now: Instant) {
        let importing = self
            .config
            .pools
            .iter()
            .any(|pool| self.running(&Job::Import(pool.id)));
        if importing {
            return;
        }
        let at = self.since + ms(self.config.timing.not_serving_ms);
        if now >= at {
            self.take_up_stop();
        }
        let peer_can = self.peer_can_take(now).is_ok() && !self.is_disabled();
        // The peer's patience (protocol.md section 4) ends first, and it takes by force.
        let rested = self.rested_from_handover(now, 2 * self.config.timing.not_serving_ms);
        let gives = self.stop.is_some() || peer_can && rested;
        // One that is overdue may bring its pool up yet: a peer that can't wait takes the disks by force.
        if gives && self.importing_pool().is_none() {
            self.begin_handover(
                now,
                states::FAILED_HANDS_OVER,
                "this controller can't serve",
            );
            return;
        }
        if now < at {
            self.wake_at(at, "retry");
        }
        // Trying again would look like work to a peer that waits for the end of its patience, to take the disks by force.
        if peer_can && !rested {
            return;
        }
        // Disks that came too late for the last import were added when their taking was verified.
        let won = self.usable_disks();
        if now >= at && (2 * won.len() > self.disks.all.len() || self.disks.all.is_empty()) {
            self.takeover.won = won;
            self.takeover.again(now);
            self.go(now, states::RETRY);
        }
    }

    /// Announces the restart: on a majority of the arbiters and to a peer that is up; then lengthens the lease.
    pub(crate) fn poll_restarting(&mut self, now: Instant) {
        if let Some(exit) = self.owner.restart_exit {
            self.wake_at(exit, "restart");
            if now >= exit {
                self.owner.restart_exit = None;
                self.out.push(Action::Exit);
            }
            return;
        }
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        let told = !alive || self.peer.echo_seq >= self.owner.restart_seq;
        let at = |disk: &Disk| {
            let says = disk.ours.is_some_and(|key| key.phase == Phase::Restarting);
            disk.rolled_at.filter(|_| says)
        };
        let rolled = self
            .disks
            .majority_time(at)
            .min(self.disks.majority_time_of_all(at));
        let told = told && self.phase_is_written();
        if let Some(proof) = rolled.filter(|at| told && *at >= self.owner.phase_since) {
            let until = proof + ms(self.config.timing.restart_ms);
            let lives = self.owner.lease_until.is_some_and(|old| now < old);
            self.owner.lease_until = Some(until);
            self.out.push(Action::Lease(if lives {
                Lease::Renew { until }
            } else {
                Lease::Grant { until }
            }));
            self.owner.restart_exit = Some(now + ms(RESTART_EXIT_MS));
            self.wake_at(now + ms(RESTART_EXIT_MS), "restart");
            return;
        }
        let limit = self.since + ms(RESTART_CONFIRM_MS);
        self.wake_at(limit, "restart");
        if now >= limit {
            let text = "the restart could not be announced in time; ending without it".to_owned();
            self.notice("RESTART_UNANNOUNCED", Severity::Warning, text);
            self.out.push(Action::Exit);
        }
    }
}
