//! What a controller may be, and become.

use crate::disk_set::DiskSet;
use crate::enclosure::STRANGER;
use crate::faults::{DiskCondition, Episode, Fault, LinkCondition};
use crate::plan::{Generation, disk_index};
use crate::world::{BUSY_US, NODES, World};
use failover_api::{HistoryRecord, Notice};
use failover_core::action::HaltReason;
use failover_core::ids::{DiskId, Node};
use failover_core::states::State;

impl World {
    /// Follows a change of state.
    pub(crate) fn state_changed(&mut self, node: Node, before: State, after: State) {
        if before == State::Active {
            self.ledger.last_active[node as usize] = self.now;
        }
        if after == State::FencingArbiters {
            self.ledger.named[node as usize] = DiskSet::EMPTY;
            self.ledger.taken[node as usize] = DiskSet::EMPTY;
            self.looks_first(node);
            if self.ledger.dead_takeover[node as usize] {
                self.no_false_takeover(node);
            }
        }
        self.standby_owns_nothing(node);
    }

    /// Follows an edge.
    pub(crate) fn edge_taken(&mut self, node: Node, record: &HistoryRecord) {
        self.coverage.edge(&record.from, &record.to, &record.why);
        if record.from == "starting" && record.to == "halted" {
            self.reset_clears(node);
        }
        if record.to == "removing-vips" {
            self.nothing_comes_up(node);
        }
        if record.to == "surveying" {
            let at = node as usize;
            self.ledger.dead_takeover[at] = record.why.ends_with("dead");
            self.ledger.surveying_since[at] = self.now;
            let handover = record.why.contains("handing-over");
            self.ledger.looks_anew[at] = !handover && !self.ledger.dead_takeover[at];
            self.reset_hold(node);
        }
    }

    /// calm-handover: a handover that went back isn't begun again at once, unless somebody asked for it, or for the
    /// daemon's end.
    pub(crate) fn calm_handover(&mut self, node: Node, notice: &Notice) {
        let stopping = self.machines[node as usize].stopping.is_some();
        let last = &mut self.ledger.went_back_at[node as usize];
        match notice.id.as_str() {
            "HANDOVER_REVERTED" => *last = Some(self.now),
            "HANDOVER" => {
                let asked = stopping || notice.text.ends_with("asked for it");
                let failed = u64::from(notice.text.ends_with("can't serve"));
                let rest = (1 + failed) * self.plan.timing.not_serving_ms * 1000;
                // Its clock may be slower than ours by a little.
                if !asked && last.is_some_and(|last| self.now - last < rest / 10 * 9) {
                    let text = format!("{node} begins a handover that just went back");
                    self.violate("calm-handover", text);
                }
            }
            _ => {}
        }
    }

    /// reset-clears: nobody resets itself at its start for what no run in this boot can have imported: that would be
    /// there again after the reset.
    fn reset_clears(&mut self, node: Node) {
        let kernel = &self.machines[node as usize].kernel;
        if kernel.owner.is_none() && !kernel.owner_damaged {
            let text = format!("{node} resets itself at its start, and owned nothing in this boot");
            self.violate("reset-clears", text);
        }
    }

    /// reset-hold: a controller that reset itself twice within `reset_hold_min` takes nothing until an operator says so.
    fn reset_hold(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        if machine.kernel.durable.resets >= 2
            && self.plan.timing.reset_hold_min > 0
            && !self.ledger.forced[node as usize]
            && machine
                .daemon
                .as_ref()
                .is_some_and(|daemon| daemon.running_since + 50_000_000 > self.now)
            && self.ledger.halts[node as usize] >= 2
        {
            let resets = machine.kernel.durable.resets;
            self.violate(
                "reset-hold",
                format!("{node} takes over after {resets} self-resets"),
            );
        }
    }

    /// standby-owns-nothing: a controller that doesn't own has no pool, no address, no service.
    pub(crate) fn standby_owns_nothing(&mut self, node: Node) {
        let Some(state) = self.state(node) else {
            return;
        };
        let nothing = match state {
            State::Electing
            | State::Standby
            | State::Surveying
            | State::FencingArbiters
            | State::FencingRest
            | State::WritingHandover
            | State::HandedOver
            | State::Reverting
            | State::Yielding
            | State::Stopping
            | State::Held => true,
            State::Starting
            | State::Adopting
            | State::Importing
            | State::StartingServices
            | State::Announcing
            | State::Active
            | State::Failed
            | State::RemovingVips
            | State::StoppingServices
            | State::Exporting
            | State::Restarting
            | State::Halted => false,
        };
        let kernel = &self.machines[node as usize].kernel;
        let what = [
            (kernel.has_pool(), "a pool imported"),
            (kernel.vips.any(), "addresses on"),
            (kernel.services.any(), "services up"),
        ];
        if nothing && let Some((_, what)) = what.into_iter().find(|(here, _)| *here) {
            self.violate(
                "standby-owns-nothing",
                format!("{node} is {} with {what}", state.name()),
            );
        }
    }

    /// no-false-takeover: while the owner serves, and one link delivers both ways or both controllers reach every
    /// disk, no takeover for its death begins.
    fn no_false_takeover(&mut self, taker: Node) {
        let owner = taker.other();
        let timing = &self.plan.timing;
        let quiet_ms = timing.dead_ms.max(timing.disk_silent_ms)
            + timing.roll_after_ms
            + 2 * timing.disk_beat_ms
            + timing.disk_op_ms
            + 4 * self.plan.jitter_us / 1000;
        let long_ago = self.now.saturating_sub(quiet_ms * 1000);
        let Some(daemon) = self.machines[owner as usize].daemon.as_ref() else {
            return;
        };
        let serving = daemon.controller.state() == State::Active
            && !daemon.paused
            && daemon.running_since.max(daemon.state_since) <= long_ago;
        let by_link = self
            .ledger
            .links_well_since
            .iter()
            .any(|well| well.is_some_and(|since| since <= long_ago));
        let by_disks = !self.keys_may_look_still(owner);
        if serving && (by_link || by_disks) {
            let channel = if by_link { "a link" } else { "the disks" };
            self.violate(
                "no-false-takeover",
                format!("{taker} takes over from {owner}, which serves; {channel} said so"),
            );
        }
    }

    /// Whether a majority of the arbiters, or more than half of all disks, can have shown unchanged keys of `owner`
    /// for `disk_silent_ms` to looks that ended no longer ago than a look may take.
    fn keys_may_look_still(&self, owner: Node) -> bool {
        let timing = &self.plan.timing;
        let window = timing.disk_silent_ms * 1000;
        let faults = &self.episodes;
        let crowded = |episode: &Episode| matches!(episode.fault, Fault::Crowded { .. });
        let turn_ms = match faults.iter().any(crowded) {
            true => timing.disk_op_ms,
            false => 0,
        };
        let look_ms = timing.disk_read_ms + turn_ms + timing.disk_op_ms;
        let look = look_ms * 1000 + 4 * self.plan.jitter_us;
        let from = self.now.saturating_sub(window + look + 60_000);
        let still = |disk: usize| {
            let mut last = from;
            let moves = self.ledger.moved[owner as usize][disk].iter().copied();
            for at in moves.filter(|at| *at > from).chain([self.now]) {
                if at - last >= window {
                    return true;
                }
                last = at;
            }
            false
        };
        let list = &self.ledger.arbiters[owner.other() as usize].disks;
        let arbiters = list.iter().filter(|id| still(disk_index(**id))).count();
        let all = (0..self.bays.len()).filter(|disk| still(*disk)).count();
        2 * arbiters > list.len() || 2 * all > self.bays.len()
    }

    /// halt-with-cause: nobody resets itself for being fenced while it holds most disks and most arbiters. A disk on
    /// which it still works, taking it back perhaps, is none that it can know to hold.
    pub(crate) fn halt_with_cause(&mut self, node: Node, reason: &HaltReason) {
        if !matches!(reason, HaltReason::Fenced { .. }) {
            return;
        }
        let holds = |disk: usize| {
            let holder = self.bays[disk].disk.holder();
            let known = self.ledger.busy[node as usize][disk].is_none();
            known && holder.is_some_and(|holder| holder.node == node && holder != STRANGER)
        };
        let lists = &self.ledger.arbiters[node as usize];
        let most = |list: &[DiskId]| {
            let held = list.iter().filter(|id| holds(disk_index(**id))).count();
            list.is_empty() || 2 * held > list.len()
        };
        // Until the peer knows a changed list, it may win by the one before.
        let arbiters = most(&lists.disks) && most(&lists.previous);
        let all = (0..self.bays.len()).filter(|disk| holds(*disk)).count();
        if arbiters && 2 * all > self.bays.len() {
            self.violate(
                "halt-with-cause",
                format!("{node} resets itself as fenced and holds {all} disks and the arbiters"),
            );
        }
    }

    /// Follows the health of the links.
    pub(crate) fn conditions_changed(&mut self) {
        self.follow_cut_links();
        let now = self.now;
        let conditions = &self.conditions;
        let busy = conditions.busy != [false; 2];
        let follow = |well: &mut Option<u64>, ill: bool| match (ill, &well) {
            (true, _) => *well = None,
            (false, None) => *well = Some(now),
            (false, Some(_)) => {}
        };
        for (link, well) in self.ledger.links_well_since.iter_mut().enumerate() {
            let ill = busy || conditions.links[link] != [LinkCondition::default(); 2];
            follow(well, ill);
        }
        for (node, disks) in self.ledger.missing_since.iter_mut().enumerate() {
            for (disk, since) in disks.iter_mut().enumerate() {
                let taken = self.bays[disk].disk.holder() == Some(STRANGER);
                let missing =
                    taken || conditions.shelf_down || conditions.disks[node][disk].missing;
                *since = missing.then(|| since.unwrap_or(now));
            }
        }
        let temper = &self.plan.temper;
        // Some reads of keys and holder never match there.
        let honest = self.plan.full_status || temper.generation != Generation::Wild;
        let stall_us = self.plan.timing.stall_ms * 1000;
        for node in NODES.map(|node| node as usize) {
            let stalls = conditions.busy[node] && stall_us <= BUSY_US;
            let since = &mut self.ledger.judges_since[node];
            *since = (!stalls).then(|| since.unwrap_or(now));
            let disks = &conditions.disks[node];
            let missing = |disk: &DiskCondition| DiskCondition {
                missing: disk.missing,
                ..DiskCondition::default()
            };
            let only_missing = disks.iter().all(|disk| *disk == missing(disk));
            let idle = !conditions.busy[node]
                && conditions.crowded_ms[node] == 0
                && conditions.attentions[node] == 0;
            let well = honest && !conditions.shelf_down && idle && conditions.strangers.is_empty();
            let reaching = only_missing && well && conditions.answers[node] == (0, 0);
            let whole = disks.iter().all(|disk| *disk == DiskCondition::default());
            // Whatever has just begun or ended, a flushed lease among it, starts the clock anew.
            self.ledger.reaching_since[node] = reaching.then_some(now);
            self.ledger.calm_since[node] = (reaching && whole).then_some(now);
        }
    }

    /// Before a daemon ends by itself.
    pub(crate) fn checked_exit(&mut self, node: Node) {
        if self.machines[node as usize].stopping.is_none() {
            self.violate(
                "ends",
                format!("{node}: the daemon ends, nobody told it to"),
            );
        }
    }
}
