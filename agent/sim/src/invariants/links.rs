//! Links that fall silent while another one speaks.

use crate::faults::LinkCondition;
use crate::world::World;
use failover_api::Notice;
use failover_core::ids::Node;

/// Time after which a silent link must have been told of, apart from what makes it silent: two seconds, and slack.
const TOLD_WITHIN_MS: u64 = 3500;

impl World {
    /// silent-links-are-told: no alarm is about a link that carries everything.
    pub(crate) fn noticed_of_links(&mut self, node: Node, notice: &Notice) {
        let is_silent = match notice.id.as_str() {
            "LINK_SILENT" => true,
            "LINK_BACK" => false,
            _ => return,
        };
        let mut words = notice.text.split_whitespace();
        let link = words.by_ref().skip_while(|word| *word != "link").nth(1);
        let Some(link) = link.and_then(|word| word.parse::<usize>().ok()) else {
            let text = format!("{node} names no link: {}", notice.text);
            return self.violate("silent-links-are-told", text);
        };
        let bit = 1 << (link & 7);
        match is_silent {
            true => self.ledger.links_told[node as usize] |= bit,
            false => self.ledger.links_told[node as usize] &= !bit,
        }
        let Some(long_ago) = self.long_ago_for_links() else {
            return;
        };
        let well = self.ledger.links_well_since.get(link).copied().flatten();
        let is_well = well.is_some_and(|since| since <= long_ago) && self.plan.loss == 0;
        if is_silent && is_well && self.both_speak_since(long_ago) {
            let text = format!("{node} calls link {link} silent, and it carries everything");
            self.violate("silent-links-are-told", text);
        }
    }

    /// silent-links-are-told: a controller that has heard its peer on one link for long, and nothing on another one,
    /// has said so.
    pub(crate) fn silent_links(&mut self, node: Node) {
        let Some(long_ago) = self.long_ago_for_links() else {
            return;
        };
        if self.plan.loss > 0 || !self.both_speak_since(long_ago) {
            return;
        }
        let since_long = |since: &Option<u64>| since.is_some_and(|since| since <= long_ago);
        let ledger = &self.ledger;
        if !since_long(&ledger.judges_since[node as usize]) {
            return;
        }
        let told = ledger.links_told[node as usize];
        let sender = node.other() as usize;
        let silent = ledger
            .links_cut_since
            .iter()
            .enumerate()
            .find(|(link, cut)| {
                let others = ledger.links_well_since.iter().enumerate();
                let mut others = others.filter(|(other, _)| other != link);
                since_long(&cut[sender])
                    && others.any(|(_, well)| since_long(well))
                    && told >> (link & 7) & 1 == 0
            });
        if let Some((link, _)) = silent {
            let text = format!("{node} has long heard nothing on link {link}, and never said so");
            self.violate("silent-links-are-told", text);
        }
    }

    /// Follows which links carry nothing, by sender.
    pub(crate) fn follow_cut_links(&mut self) {
        let now = self.now;
        let conditions: &[[LinkCondition; 2]] = &self.conditions.links;
        for (cut, conditions) in self.ledger.links_cut_since.iter_mut().zip(conditions) {
            for (since, condition) in cut.iter_mut().zip(conditions) {
                *since = condition.cut.then(|| since.unwrap_or(now));
            }
        }
    }

    /// `None` in a young world.
    fn long_ago_for_links(&self) -> Option<u64> {
        let long_ms = TOLD_WITHIN_MS + self.plan.timing.dead_ms + 4 * self.plan.jitter_us / 1000;
        self.now.checked_sub(long_ms * 1000)
    }

    /// Both daemons have run, without a pause, since then: both beat, and each has proved itself to the other.
    fn both_speak_since(&self, long_ago: u64) -> bool {
        self.machines.iter().all(|machine| {
            machine
                .daemon
                .as_ref()
                .is_some_and(|daemon| !daemon.paused && daemon.running_since <= long_ago)
        })
    }
}
