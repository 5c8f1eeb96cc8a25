//! Pools that are served and not well: told of, in a thread of its own.
//!
//! ```text
//!   each 5 s: the kernel's word (`/proc/spl/kstat/zfs/NAME/state`) ── ONLINE ──▶ nothing, or POOL_WHOLE
//!        ├── SUSPENDED ──▶ POOL_SUSPENDED, and no program: it would hang
//!        └── anything else ──▶ `zpool status`, each minute: which devices ──▶ POOL_DEGRADED, when they are others
//! ```
//!
//! While a pool is whole no program runs, and none of these keeps an export from running its own.

use super::kernel::{SUSPENDED, Seen};
use super::{Member, ZfsPools};
use crate::messages::message_id;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Interval at which a pool that stays unwell is asked about by a program.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The longest that such a program takes.
const ASK_LONGEST: Duration = Duration::from_secs(5);
const ONLINE: &str = "ONLINE";

/// What was told of the pools that aren't well, by their places.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<usize, Unwell>);

#[derive(Debug)]
struct Unwell {
    state: String,
    devices: Vec<String>,
    asked: Option<Instant>,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    Degraded(String),
    Suspended(String),
    Whole(String),
}

impl ZfsPools {
    /// Looks at every pool that this controller serves, and tells what is new.
    pub(super) fn look_at_served(&self, told: &mut Told) {
        for (place, one) in self.pools.iter().enumerate() {
            if let Some(alarm) = self.health(place, one, told, Instant::now()) {
                alarm.tell();
            }
        }
    }

    /// What is new about the pool; nothing of one that isn't imported here, or not by us.
    pub(super) fn health(
        &self,
        place: usize,
        one: &Member,
        told: &mut Told,
        now: Instant,
    ) -> Option<Alarm> {
        let state = match self.kernel.find(&one.pool.name, one.pool.guid) {
            Ok(Seen::Here { state, is_it }) if is_it != Some(false) => state,
            Ok(Seen::Here { .. } | Seen::Absent) => {
                told.0.remove(&place);
                return None;
            }
            // Whoever imports or exports it says what is wrong.
            Err(_) => return None,
        };
        if !one.is_ours.load(Ordering::Relaxed) {
            return None;
        }
        let name = &one.pool.name;
        if state == ONLINE {
            let was = told.0.remove(&place)?;
            let text = format!("pool {name}: ONLINE again; it was {}", was.state);
            return Some(Alarm::Whole(text));
        }
        let unwell = told.0.entry(place).or_insert_with(|| Unwell {
            state: String::new(),
            devices: Vec::new(),
            asked: None,
        });
        let is_new = unwell.state != state;
        unwell.state.clone_from(&state);
        if state == SUSPENDED {
            unwell.devices.clear();
            unwell.asked = None;
            return is_new.then(|| {
                Alarm::Suspended(format!(
                    "pool {name}: SUSPENDED: its disks are gone or refuse its writes, and whatever waits for it hangs"
                ))
            });
        }
        if !is_new && unwell.asked.is_some_and(|at| now < at + ASK_AGAIN) {
            return None;
        }
        unwell.asked = Some(now);
        let devices = match self.status(&one.health, name, now + ASK_LONGEST) {
            Ok(status) => status.not_online(),
            // Not told again because the program failed: the state is what counts.
            Err(_) if !is_new => return None,
            Err(why) => vec![why],
        };
        if !is_new && devices == unwell.devices {
            return None;
        }
        let list = devices.join(", ");
        unwell.devices = devices;
        Some(Alarm::Degraded(format!("pool {name}: {state}: {list}")))
    }
}

impl Alarm {
    fn tell(&self) {
        match self {
            Alarm::Degraded(text) => tracing::error!(
                failover.id = "POOL_DEGRADED",
                message_id = message_id("POOL_DEGRADED"),
                "{text}"
            ),
            Alarm::Suspended(text) => tracing::error!(
                failover.id = "POOL_SUSPENDED",
                message_id = message_id("POOL_SUSPENDED"),
                "{text}"
            ),
            Alarm::Whole(text) => tracing::info!(
                failover.id = "POOL_WHOLE",
                message_id = message_id("POOL_WHOLE"),
                "{text}"
            ),
        }
    }
}
