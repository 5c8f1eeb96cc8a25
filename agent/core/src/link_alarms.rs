//! Which heartbeat links are silent while another one speaks. The pair works on, with one link less between it and a
//! takeover that only the disks can prevent: nobody would notice otherwise.
//!
//! ```text
//!   speaks ── silent for a while, and another one isn't ──▶ LINK_SILENT
//!     ▲                                                        │
//!     └────── LINK_BACK, once it has spoken for a while ◀──────┘
//! ```
//!
//! Where all are silent the peer may be dead, and that is no matter of a link.

use crate::controller::Controller;
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Silence of a link, beside one that speaks, after which it is told of: a burst of losses is shorter.
const SILENT_FOR: Duration = ms(2000);
/// Time without silence after which a link counts as well again: one that comes and goes is told of once.
const BACK_AFTER: Duration = ms(10_000);

/// What operators were told of the links.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct LinkAlarms {
    /// Since when the peer speaks on any link.
    alive_since: Option<Instant>,
    links: Vec<Told>,
}

#[derive(Clone, Copy, Debug, Default, Hash, Serialize, Deserialize)]
struct Told {
    /// Since when the link was silent, once that was told.
    silent_since: Option<Instant>,
    well_since: Option<Instant>,
}

impl Controller {
    /// Tells of links that fall silent while another one speaks, and of those that are back.
    pub(crate) fn judge_links(&mut self, now: Instant) {
        let dead = ms(self.config.timing.dead_ms);
        if !self.peer.alive(now, dead) {
            self.link_alarms.alive_since = None;
            return;
        }
        let alive_since = *self.link_alarms.alive_since.get_or_insert(now);
        let count = self.peer.links.len();
        self.link_alarms.links.resize(count, Told::default());
        for place in 0..count {
            let link = self.peer.links[place];
            let told = &mut self.link_alarms.links[place];
            // What it was before the peer spoke at all is nothing that the other links did better.
            let since = link.heard.map_or(alive_since, |at| at.max(alive_since));
            let is_silent = link.heard.is_none_or(|at| now.since(at) >= dead);
            let due = match (told.silent_since, is_silent) {
                (None, false) => continue,
                (Some(_), true) => {
                    told.well_since = None;
                    continue;
                }
                (None, true) => since + SILENT_FOR,
                (Some(_), false) => *told.well_since.get_or_insert(now) + BACK_AFTER,
            };
            if now < due {
                self.wake_at(due, "a heartbeat link");
                continue;
            }
            let was = std::mem::take(told).silent_since;
            match was {
                None => {
                    told.silent_since = Some(since);
                    let carrier = if link.up { "" } else { " (no carrier)" };
                    let text = format!(
                        "heartbeat link {place}{carrier} has been silent for {} ms, while another one speaks",
                        now.since(since).as_millis()
                    );
                    self.notice("LINK_SILENT", Severity::Alarm, text);
                }
                Some(was) => {
                    let text = format!(
                        "heartbeat link {place} speaks again; it fell silent {} s ago",
                        now.since(was).as_secs()
                    );
                    self.notice("LINK_BACK", Severity::Info, text);
                }
            }
        }
    }
}
