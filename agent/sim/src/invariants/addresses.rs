//! The virtual addresses and their lease.

use crate::plan::disk_index;
use crate::world::{NODES, World};
use failover_core::beat::Beat;
use failover_core::ids::{DiskId, Node};
use failover_core::key::Phase;
use failover_core::states::State;

/// Own beats whose sending times are remembered.
const SENT_MAX: usize = 128;
/// Time without any trouble after which an owner counts as undisturbed, microseconds.
pub(super) const UNDISTURBED_US: u64 = 3_000_000;
/// Time for which such an owner may be dark, microseconds.
const DARK_US: u64 = 500_000;

impl World {
    /// one-answers: the virtual addresses are never answered, nor announced, by one controller while the other's
    /// lease lives and its addresses are on.
    ///
    /// announces-what-is-on: nor is one announced that is off.
    pub(crate) fn addresses_changed(&mut self, node: Node) {
        let now = self.now;
        self.pool_with_its_address(node);
        if std::mem::take(&mut self.machines[node as usize].kernel.announced_off) {
            let text = format!("{node} announces an address that is off");
            self.violate("announces-what-is-on", text);
        }
        let other = node.other();
        let answers = |node: Node| self.machines[node as usize].kernel.answers(now);
        if answers(node) && answers(other) {
            self.violate(
                "one-answers",
                format!("{node} brings its addresses up while {other} still answers"),
            );
        }
    }

    /// stays-lit: an owner that has served undisturbed for a while is never dark for half a second; nor is one that has
    /// lost disks, as long as it holds and reaches most arbiters and half of all disks.
    pub(crate) fn stays_lit(&mut self, node: Node) {
        let now = self.now;
        let long_ago = now.saturating_sub(UNDISTURBED_US);
        let since = match self.reaches_enough(node) {
            true => self.ledger.reaching_since[node as usize],
            false => self.ledger.calm_since[node as usize],
        };
        let calm = since.is_some_and(|since| since <= long_ago);
        let machine = &self.machines[node as usize];
        let serves = machine.daemon.as_ref().is_some_and(|daemon| {
            daemon.controller.state() == State::Active
                && !daemon.paused
                && daemon.running_since.max(daemon.state_since) <= long_ago
        });
        let waits = self.withheld.iter().any(|(whose, ..)| *whose == node);
        let dark = calm && serves && !waits && !machine.kernel.answers(now);
        let dark_since = &mut self.ledger.dark_since[node as usize];
        *dark_since = dark.then_some(dark_since.unwrap_or(now));
        if dark_since.is_some_and(|since| now >= since + DARK_US) {
            let text =
                format!("{node} serves undisturbed, and its addresses have been dark since 500 ms");
            self.violate("stays-lit", text);
        }
    }

    /// Whether it holds and reaches a majority of each arbiter list, and half of all disks or more.
    fn reaches_enough(&self, node: Node) -> bool {
        let good = |disk: usize| {
            let missing = self.conditions.disks[node as usize][disk].missing;
            let holder = self.bays[disk].disk.holder();
            !missing && holder.is_some_and(|holder| holder.node == node)
        };
        let lists = &self.ledger.arbiters[node as usize];
        let most = |list: &[DiskId]| {
            let held = list.iter().filter(|id| good(disk_index(**id))).count();
            list.is_empty() || 2 * held > list.len()
        };
        let held = (0..self.bays.len()).filter(|disk| good(*disk)).count();
        // A single controller sends no beats, from which its lists are known.
        !self.plan.single
            && most(&lists.disks)
            && most(&lists.previous)
            && 2 * held >= self.bays.len()
    }

    /// lease-by-proof: a lease ends no later than its proof allows, counted from when the proof was asked for: an
    /// own beat that the peer echoed, or rolls that succeeded on a majority of the arbiters.
    pub(crate) fn lease_given(&mut self, node: Node, until: u64) {
        self.addresses_changed(node);
        let timing = &self.plan.timing;
        let (lease, slow, restart) = (
            timing.vip_lease_ms * 1000,
            timing.slow_lease_ms * 1000,
            timing.restart_ms * 1000,
        );
        let at = node as usize;
        if until <= self.ledger.echo_proof[at] + lease + 1 {
            return;
        }
        let by_phase = |phase: Option<Phase>, validity: u64| {
            self.roll_majority(node, phase)
                .map_or(0, |asked| asked + validity)
        };
        let allowed = (self.ledger.echo_proof[at] + lease)
            .max(by_phase(None, lease))
            .max(by_phase(Some(Phase::OwnerSlow), slow))
            .max(by_phase(Some(Phase::Restarting), restart));
        if until > allowed + 1 {
            self.violate(
                "lease-by-proof",
                format!(
                    "{node} has a lease until {until} us; its proofs allow {allowed} us (echo of {} us)",
                    self.ledger.echo_proof[at]
                ),
            );
        }
    }

    /// The latest moment such that a majority was rolled at it or later.
    fn roll_majority(&self, node: Node, phase: Option<Phase>) -> Option<u64> {
        let at = node as usize;
        let asked = |disk: usize| {
            self.ledger.rolls[at]
                .get(disk)
                .copied()
                .flatten()
                .filter(|(_, rolled)| phase.is_none_or(|phase| *rolled == phase))
                .map(|(asked, _)| asked)
        };
        let majority = |disks: &mut dyn Iterator<Item = usize>| -> Option<u64> {
            let mut times: Vec<Option<u64>> = disks.map(asked).collect();
            let half = (times.len() - 1) / 2;
            *times.select_nth_unstable(half).1
        };
        let list = &self.ledger.arbiters[at];
        let mut by_list = majority(&mut list.disks.iter().map(|id| disk_index(*id)));
        if !list.previous.is_empty() {
            by_list = by_list.min(majority(
                &mut list.previous.iter().map(|id| disk_index(*id)),
            ));
        }
        by_list.max(majority(&mut (0..self.bays.len())))
    }

    /// no-lingering-address: a controller whose pools the other has long imported answers no more.
    pub(crate) fn no_lingering_address(&mut self) {
        for node in NODES {
            if !self.machines[node as usize].kernel.answers(self.now) {
                continue;
            }
            let other = node.other();
            let serving = self.state(other) == Some(State::Active)
                && self.machines[other as usize].kernel.has_pool();
            if serving && self.machines[other as usize].kernel.answers(self.now) {
                self.violate(
                    "no-lingering-address",
                    format!("{node} still answers while {other} serves"),
                );
            }
        }
    }

    /// Judges and remembers a beat that is sent.
    pub(crate) fn beat_sent(&mut self, node: Node, beat: &Beat) {
        self.record_before_act(node, beat.epoch.0, "a beat");
        let at = node as usize;
        let ring = &mut self.ledger.sent[at];
        if ring.len() == SENT_MAX {
            ring.pop_front();
        }
        ring.push_back((beat.seq, self.now));
        if self.ledger.arbiters[at] != beat.arbiters {
            self.ledger.arbiters[at] = beat.arbiters.clone();
        }
    }

    /// Remembers which own beat came back as an echo.
    pub(crate) fn heard_echo(&mut self, node: Node, beat: &Beat) {
        let at = node as usize;
        let Some(echo) = beat
            .echo
            .filter(|e| e.session.0 == self.ledger.sessions[at])
        else {
            return;
        };
        if let Some((_, sent)) = self.ledger.sent[at]
            .iter()
            .find(|(seq, _)| *seq == echo.seq)
        {
            self.ledger.echo_proof[at] = self.ledger.echo_proof[at].max(*sent);
        }
    }
}
