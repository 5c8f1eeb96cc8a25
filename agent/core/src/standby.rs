//! Electing and standing by: who owns, who should, is the owner dead.

use crate::action::{Entry, Work};
use crate::beat::{Ask, AskWhat, Beat, Blocker, Role};
use crate::controller::Controller;
use crate::disk_work::DiskWork;
use crate::disks::{Disk, Verdict};
use crate::ids::{DiskId, Node};
use crate::key::{Key, Phase};
use crate::ops::Job;
use crate::states::{self, State};
use crate::takeover::Kind;
use crate::time::{Instant, ms};
use std::time::Duration;

/// Time for which a peer that should take its turn is waited for.
const TURN: Duration = ms(3000);

impl Controller {
    pub(crate) fn poll_standby(&mut self, now: Instant) {
        self.take_up_stop();
        if self.stop.is_some() {
            let edge = if self.state == State::Standby {
                states::STOP_STANDBY
            } else {
                states::STOP_ELECTING
            };
            self.go(now, edge);
            return;
        }
        self.poll_resets(now);
        self.reserve_epoch(now);
        self.take_back_answers(now);
        self.watch_disks(now);
        if now < self.backoff_until {
            self.wake_at(self.backoff_until, "back-off");
        }
        let alive = self.config.has_peer && self.peer.alive(now, ms(self.config.timing.dead_ms));
        if alive && let Some(heard) = self.peer.heard {
            self.wake_at(heard + ms(self.config.timing.dead_ms), "links silent");
        }
        let beat = self.peer.beat.clone().filter(|_| alive);
        match beat {
            Some(beat) if beat.role.owns() || beat.role == Role::Fencing => {
                self.peer_owns(now, &beat)
            }
            Some(beat) => self.peer_is_free(now, &beat),
            None => self.peer_is_silent(now),
        }
        if matches!(self.state, State::Electing | State::Standby) {
            self.force_if_told(now, alive);
        }
    }

    /// Keeps the next epoch durable, so that nothing on a takeover's path waits for a flush.
    pub(crate) fn reserve_epoch(&mut self, now: Instant) {
        let wanted = self.seen.max(self.epoch).next();
        if self.reserved < wanted && self.journal_is_free(now, &Job::RecordEpoch(wanted)) {
            self.run(
                now,
                Job::RecordEpoch(wanted),
                Work::Record(Entry::Epoch(wanted)),
            );
        }
    }

    /// Reads the arbiters, and all disks while too few arbiters can be read; once more at the very moment at which
    /// their silence would be established.
    fn watch_disks(&mut self, now: Instant) {
        let ids: Vec<DiskId> = if self.disks.arbiters_readable() {
            self.disks.arbiter_ids()
        } else {
            self.disks.all.keys().copied().collect()
        };
        let window = self.silent_window();
        let last_echo = self.peer.echo_sent;
        for id in &ids {
            if let Some(disk) = self.disks.all.get_mut(id)
                && let (Some(since), Some((asked, _))) = (disk.unchanged_since, &disk.look)
            {
                let silent_at = since.max(last_echo.unwrap_or(since)) + window;
                if *asked < silent_at && silent_at < disk.look_at {
                    disk.look_at = silent_at;
                }
            }
        }
        self.look_at_disks(now, &ids, ms(self.config.timing.disk_read_ms));
    }

    /// For how long the keys must rest before they are silent: by what the owner's keys say of its pace, on the disks that
    /// judge. What an old look at another disk showed counts for nothing.
    fn silent_window(&self) -> Duration {
        let timing = &self.config.timing;
        let restart = timing.restart_ms + timing.lease_slack_ms;
        let mut window = timing.disk_silent_ms;
        let by_arbiters = self.disks.arbiters_readable();
        let judges =
            |disk: &&Disk| !disk.failed && (!by_arbiters || self.disks.is_arbiter(disk.id));
        for disk in self.disks.all.values().filter(judges) {
            for key in self.disks.keys_of(disk) {
                window = window.max(match key.phase {
                    Phase::OwnerSlow => timing.slow_watch_ms,
                    Phase::Restarting => restart,
                    Phase::Candidate
                    | Phase::Owner
                    | Phase::Offering
                    | Phase::HandingOver
                    | Phase::Yielded => timing.disk_silent_ms,
                });
            }
        }
        ms(window)
    }

    /// The disk shows the same keys since long enough before its last look. Where the next one is overdue that is old: the
    /// owner may have rolled meanwhile.
    fn disk_is_silent(&self, now: Instant, disk: &Disk, window: Duration) -> Option<bool> {
        let next = disk.busy.and_then(|op| self.ops.get(&op));
        let overdue = ms(self.config.timing.disk_op_ms);
        if next.is_some_and(|next| now.since(next.asked) > overdue) {
            return None;
        }
        let (asked, _) = disk.look.as_ref().filter(|_| !disk.failed)?;
        let since = disk.unchanged_since?;
        let since = since.max(self.peer.echo_sent.unwrap_or(since));
        Some(*asked >= since + window)
    }

    /// Links silent and disks silent: dead (protocol.md section 4).
    pub(crate) fn is_dead(&mut self, now: Instant) -> bool {
        let timing = &self.config.timing;
        let mut links = timing.dead_ms;
        if self
            .peer
            .beat
            .as_ref()
            .is_some_and(|beat| beat.role == Role::Restarting)
        {
            links = timing.restart_ms + timing.lease_slack_ms;
        }
        let links_at = self.peer.heard.unwrap_or(self.started) + ms(links);
        if now < links_at {
            self.wake_at(links_at, "links silent");
            return false;
        }
        let window = self.silent_window();
        self.disks
            .verdict(|disk| self.disk_is_silent(now, disk, window))
            == Verdict::Yes
    }

    fn peer_is_silent(&mut self, now: Instant) {
        if self.state == State::Standby && self.is_handed_to_us() {
            self.take_over(now, states::HANDED_TO_US, Kind::Handover);
            return;
        }
        if self.config.has_peer {
            self.answer_offer(now);
        }
        let owner_lives = self.disks.all.values().any(|disk| {
            disk.moved
                && self
                    .disks
                    .owner_key(disk)
                    .is_some_and(|key| key.node != self.config.node)
        });
        if !self.is_dead(now) {
            self.dead_since = None;
            if self.state == State::Electing && owner_lives {
                self.saw_owner = true;
                self.go(now, states::PEER_OWNS);
            }
            return;
        }
        let since = *self.dead_since.get_or_insert(now);
        let wait_until = since + ms(u64::from(self.settings.timeout_s) * 1000);
        if now < wait_until.max(self.backoff_until) {
            self.wake_at(wait_until.max(self.backoff_until), "wait before fencing");
            return;
        }
        if !self.may_take_from_the_dead(now) {
            return;
        }
        let edge = if self.state == State::Standby {
            states::PEER_DEAD
        } else {
            states::PEER_DEAD_AT_START
        };
        self.take_over(now, edge, Kind::Dead);
    }

    /// The owner wrote handing-over, and an epoch is durable to take the disks with.
    fn is_handed_to_us(&self) -> bool {
        self.reserved > self.seen && self.peer_hands_over()
    }

    /// The peer's newest keys say so on a majority.
    pub(crate) fn peer_hands_over(&self) -> bool {
        self.disks
            .shows(self.config.node.other(), Phase::HandingOver)
    }

    /// Whether the rules for disabled failover (protocol.md section 7) let this controller take from a silent owner.
    fn may_take_from_the_dead(&mut self, now: Instant) -> bool {
        let blocked =
            self.blockers(now) & !(Blocker::Lan as u16 | Blocker::ImportFailed as u16) != 0;
        if blocked || self.import_failed_until.is_some_and(|until| now < until) {
            if let Some(until) = self.import_failed_until {
                self.wake_at(until, "import may be tried again");
            }
            return false;
        }
        if !self.is_held() {
            return true;
        }
        if self.last_owner() == Some(self.config.node) {
            return true;
        }
        if self.saw_owner {
            return false;
        }
        let free = self.last_owner().is_none();
        if free && self.settings.master == self.config.node {
            return true;
        }
        let at = self.peer.heard.unwrap_or(self.started) + ms(self.config.timing.hold_ms);
        self.wake_at(at, "hold");
        now >= at
    }

    /// Automatic failover is held: by our settings, or by the owner's keys.
    fn is_held(&self) -> bool {
        let by_key = |disk: &Disk| self.disks.owner_key(disk).is_some_and(|key| key.held);
        self.settings.disabled || self.disks.all.values().any(by_key)
    }

    /// Whose keys hold the disks, living or dead.
    fn last_owner(&self) -> Option<Node> {
        self.disks.owner().map(|key| key.node)
    }

    // ---- the peer lives ------------------------------------------------------------------------------------

    fn peer_owns(&mut self, now: Instant, beat: &Beat) {
        self.dead_since = None;
        self.saw_owner = true;
        if self.state == State::Electing {
            self.go(now, states::PEER_OWNS);
        }
        match beat.role {
            Role::HandingOver => {
                if self.is_handed_to_us() {
                    self.take_over(now, states::HANDED_TO_US, Kind::Handover);
                } else {
                    self.look_now(now);
                }
            }
            Role::Failing | Role::Owner if !beat.serving => self.peer_does_not_serve(now),
            Role::Owner
            | Role::Failing
            | Role::Importing
            | Role::Resigning
            | Role::Restarting
            | Role::Fencing
            | Role::Starting
            | Role::Electing
            | Role::Standby
            | Role::Stopping
            | Role::Halted => {
                self.not_serving_since = None;
                if self.force.is_none() {
                    self.ask = None;
                }
            }
        }
    }

    /// Looks at the arbiters at once, if the last looks are older than what the peer says now.
    fn look_now(&mut self, now: Instant) {
        let heard = self.peer.heard.unwrap_or(now);
        for id in self.disks.arbiter_ids() {
            if let Some(disk) = self.disks.all.get_mut(&id)
                && disk.look.as_ref().is_none_or(|(asked, _)| *asked < heard)
            {
                disk.look_at = now;
            }
        }
        let ids = self.disks.arbiter_ids();
        self.look_at_disks(now, &ids, ms(self.config.timing.disk_read_ms));
    }

    /// Alive but not serving: first ask for a handover, then force.
    fn peer_does_not_serve(&mut self, now: Instant) {
        let since = *self.not_serving_since.get_or_insert(now);
        self.ask_for_handover(now);
        let at = since + ms(self.config.timing.not_serving_ms);
        if now < at {
            self.wake_at(at, "peer does not serve");
            return;
        }
        let blocked = self.blockers(now) != 0;
        if !blocked && !self.is_held() && now >= self.backoff_until {
            self.take_over(now, states::NOT_SERVING, Kind::Forced);
        }
    }

    fn ask_for_handover(&mut self, now: Instant) {
        if self.ask.is_none() {
            self.ask = Some(Ask {
                number: (now.micros() / 1000) as u32,
                what: AskWhat::HandOver,
            });
        }
    }

    /// The peer lives and says that it doesn't own.
    fn peer_is_free(&mut self, now: Instant, beat: &Beat) {
        self.dead_since = None;
        self.not_serving_since = None;
        if self.state == State::Standby {
            let key = self.disks.owner();
            let theirs =
                key.filter(|key| key.node == beat.node && key.incarnation == beat.incarnation);
            // A key of this very run of the peer outweighs its word that it only starts.
            if beat.role == Role::Starting && theirs.is_some() {
                return;
            }
            self.go(now, states::PEER_RESIGNED);
            return;
        }
        if now < self.backoff_until || self.blockers(now) & !(Blocker::Lan as u16) != 0 {
            return;
        }
        if !self.peer_takes() && self.is_our_turn(now, beat) {
            self.take_over(now, states::ELECTED, Kind::Elected);
        }
    }

    /// Both live and nobody owns: the one that can; with failover held the last owner; else the preferred one.
    fn is_our_turn(&mut self, now: Instant, beat: &Beat) -> bool {
        let node = self.config.node;
        let out_of_play = matches!(beat.role, Role::Halted | Role::Stopping);
        if out_of_play {
            return true;
        }
        let mut first = self.settings.master;
        if self.is_held()
            && let Some(last) = self.last_owner()
        {
            first = last;
        }
        if first == node {
            // The peer may still have to read what we know; it says so by its role.
            return beat.role != Role::Starting || self.waited(now);
        }
        self.waited(now)
    }

    /// The peer had its turn and did not take it.
    fn waited(&mut self, now: Instant) -> bool {
        let at = self.since + TURN;
        self.wake_at(at, "the peer's turn");
        now >= at
    }

    // ---- force, offer --------------------------------------------------------------------------------------

    /// `force_master`: first ask a living owner for a handover, then take.
    fn force_if_told(&mut self, now: Instant, alive: bool) {
        let Some(told) = self.force else { return };
        self.reserve_epoch(now);
        if self.reserved <= self.seen || now < self.backoff_until {
            return;
        }
        let owner_serves = alive && self.peer.beat.as_ref().is_some_and(|beat| beat.role.owns());
        if owner_serves {
            self.ask_for_handover(now);
            let at = told + ms(self.config.timing.handover_ms);
            if now < at {
                self.wake_at(at, "forced takeover");
                return;
            }
        }
        let edge = if self.state == State::Standby {
            states::FORCED
        } else {
            states::FORCED_ELECTING
        };
        self.take_over(now, edge, Kind::Forced);
    }

    /// The owner lost its clients and every link, and offers its disks: answer with a candidate key.
    fn answer_offer(&mut self, now: Instant) {
        let peer = self.config.node.other();
        if !self.lan_up || self.reserved <= self.seen || !self.disks.shows(peer, Phase::Offering) {
            return;
        }
        let key = self.key(Phase::Candidate, self.reserved);
        for id in self.disks.arbiter_ids() {
            let Some(disk) = self.disks.all.get(&id) else {
                continue;
            };
            let answered = self.disks.keys_of(disk).iter().any(|k| k.same_run(key));
            // Once for each look: only a look that was asked for after our last answer can say that it is gone.
            let looked = disk.look.as_ref().map(|(asked, _)| *asked);
            let open = !answered && looked > disk.answered_at;
            if disk.busy.is_none() && disk.owed.is_none() && open {
                if let Some(disk) = self.disks.all.get_mut(&id) {
                    disk.answered_at = Some(now);
                }
                self.run_disk(now, Job::Answer(id, key), DiskWork::Answer { key });
            }
        }
    }

    /// A standby is registered nowhere (protocol.md section 1): answers to an offer that was not followed up come off.
    pub(crate) fn take_back_answers(&mut self, now: Instant) {
        if self.disks.shows(self.config.node.other(), Phase::Offering) {
            return;
        }
        let patience = ms(self.config.timing.handover_ms);
        let key = self.key(Phase::Candidate, self.epoch);
        let over = |disk: &&Disk| disk.answered_at.is_some_and(|at| now >= at + patience);
        let left: Vec<DiskId> = self
            .disks
            .all
            .values()
            .filter(over)
            .map(|disk| disk.id)
            .collect();
        for id in left {
            self.owe(id, key);
            if let Some(disk) = self.disks.all.get_mut(&id) {
                disk.answered_at = None;
            }
        }
    }

    /// Candidate keys of ours that are left from an answered offer count as ours when they are surveyed.
    pub(crate) fn is_own_run(&self, key: Key) -> bool {
        key.same_run(self.key(key.phase, self.epoch))
    }
}
