//! The steady check: every disk is verified, and losses are told apart.

use super::addresses::UNDISTURBED_US;
use crate::disk::Nexus;
use crate::disk_set::{DISKS_MAX, DiskSet};
use crate::enclosure::{Bay, TaskRun};
use crate::world::World;
use failover_api::Notice;
use failover_core::ids::Node;
use failover_core::states::State;

impl World {
    /// turns-are-no-verdict: no alarm calls a disk unreachable because its work waited for its turn: neither by what wasn't
    /// sent, nor by a deadline that counted the wait.
    fn turns_are_no_verdict(&mut self, node: Node, notice: &Notice) {
        let text = &notice.text;
        let named = names(text);
        let open = |task: &TaskRun| {
            let of_this = task.node == node && named.contains(task.disk);
            of_this && self.lives_on(node, task.life) && task.is_open(self.now)
        };
        let open = self.tasks.iter().flatten().any(|task| open(task));
        let waited = text.contains("no turn") || open && text.contains("no answer within");
        if notice.id == "DISK_FAILED" && waited {
            let text = format!("{node} judges a disk by a wait for its turn: {text}");
            self.violate("turns-are-no-verdict", text);
        }
    }

    /// losses-are-told: an alarm about one disk names one, about a minority several, and no more than half.
    pub(crate) fn noticed(&mut self, node: Node, notice: &Notice) {
        self.turns_are_no_verdict(node, notice);
        let mut named = names(&notice.text);
        let count = match counted(&notice.text) {
            // It names the first few, and counts the rest: it speaks of whatever can't be reached, or isn't held, now.
            Some(count) if count > named.len() && notice.text.ends_with('…') => {
                let paths = 0..self.plan.paths;
                let holds = |bay: &Bay| {
                    let mut nexuses = paths.clone().map(|path| Nexus::new(node, path));
                    nexuses.any(|nexus| bay.disk.key_of(nexus).is_some())
                };
                let bays = self.bays.iter().enumerate();
                bays.filter(|(_, bay)| !holds(bay))
                    .for_each(|(disk, _)| named.insert(disk));
                let missing = self.ledger.missing_since[node as usize].iter().enumerate();
                missing
                    .filter(|(_, since)| since.is_some())
                    .for_each(|(disk, _)| named.insert(disk));
                count
            }
            _ => named.len(),
        };
        let all = self.bays.len();
        let right = match notice.id.as_str() {
            "FENCE_WHOLE" => {
                self.ledger.named[node as usize] = DiskSet::EMPTY;
                return;
            }
            "FENCE_DISK_LOST" => count == 1,
            "FENCE_MINORITY_LOST" => count > 1 && 2 * count <= all,
            "FENCE_MAJORITY_LOST" => 2 * count > all,
            "FENCE_INCOMPLETE" => count > 0,
            _ => return,
        };
        let told = &mut self.ledger.named[node as usize];
        *told = *told | named;
        if !right {
            let text = format!("{node} counts wrongly: {}: {}", notice.id, notice.text);
            self.violate("losses-are-told", text);
        }
    }

    /// losses-are-told: an owner that can't reach a disk for long has named it in an alarm.
    ///
    /// majority-is-needed: one that can't reach most of the disks for long owns no more.
    pub(crate) fn losses(&mut self, node: Node) {
        let timing = &self.plan.timing;
        let longest_ms = timing.verify_ms + timing.disk_lost_ms + timing.disk_op_ms + 1500;
        let long_ago = self.now.saturating_sub(longest_ms * 1000);
        let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
            return;
        };
        let judges = self.ledger.judges_since[node as usize].is_some_and(|since| since <= long_ago);
        let serves = daemon.controller.state() == State::Active && !daemon.paused;
        if !serves || !judges || daemon.running_since.max(daemon.state_since) > long_ago {
            return;
        }
        let missing = self.ledger.missing_since[node as usize].iter().enumerate();
        let missing: Vec<usize> = missing
            .filter(|(_, since)| since.is_some_and(|since| since <= long_ago))
            .map(|(disk, _)| disk)
            .collect();
        let named = self.ledger.named[node as usize];
        if 2 * missing.len() > self.bays.len() {
            let text = format!("{node} serves, and has not reached {missing:?} for long");
            self.violate("majority-is-needed", text);
        } else if let Some(disk) = missing.iter().find(|disk| !named.contains(**disk)) {
            let text = format!("{node} has not reached d{disk} for long, and never said so");
            self.violate("losses-are-told", text);
        }
    }

    /// steadily-verified: an owner that has served undisturbed for a while has looked at each disk within `verify_ms`,
    /// give or take what a look may take.
    pub(crate) fn steadily_verified(&mut self, node: Node) {
        let at = node as usize;
        let long_ago = self.now.saturating_sub(UNDISTURBED_US);
        let calm = self.ledger.calm_since[at].is_some_and(|since| since <= long_ago);
        let serves = self.machines[at].daemon.as_ref().is_some_and(|daemon| {
            daemon.controller.state() == State::Active
                && !daemon.paused
                && daemon.running_since.max(daemon.state_since) <= long_ago
        });
        let waits = self.withheld.iter().any(|(whose, ..)| *whose == node);
        if !calm || !serves || waits {
            return;
        }
        let timing = &self.plan.timing;
        let within = (timing.verify_ms + timing.disk_op_ms + 300) * 1000 + 4 * self.plan.jitter_us;
        let oldest = self.now.saturating_sub(within);
        let looked = &self.ledger.looked[at];
        if let Some(disk) = looked.iter().position(|asked| *asked < oldest) {
            let text = format!("{node} serves undisturbed, and looked at d{disk} too long ago");
            self.violate("steadily-verified", text);
        }
    }
}

/// The number that a text begins with.
fn counted(text: &str) -> Option<usize> {
    text.split_whitespace().next()?.parse().ok()
}

/// The disks that a text names.
fn names(text: &str) -> DiskSet {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter_map(|word| word.strip_prefix('d')?.parse().ok())
        .filter(|disk| *disk < DISKS_MAX)
        .collect()
}
