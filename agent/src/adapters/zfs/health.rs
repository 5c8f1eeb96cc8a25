//! Pools that are served and not well: told of, in a thread of its own.
//!
//! ```text
//!   each 5 s: the kernel's word (`/proc/spl/kstat/zfs/NAME/state`)
//!        ├── SUSPENDED ──▶ POOL_SUSPENDED, and no program: it would hang
//!        └── a new one, and each minute ──▶ `zpool status`: which devices ──▶ POOL_DEGRADED or POOL_WHOLE, when they are others
//! ```
//!
//! OpenZFS 2.4 goes on calling a raidz pool ONLINE whose disks it has faulted one by one, so that its word alone isn't enough.
//! None of these programs keeps an export from running its own.

use super::kernel::{SUSPENDED, Seen};
use super::{Member, ZfsPools};
use crate::messages::message_id;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Interval at which a program is asked about the devices of a pool whose state stays the same.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The longest that such a program takes.
const ASK_LONGEST: Duration = Duration::from_secs(5);
const ONLINE: &str = "ONLINE";

/// What is known of the pools that are served, by their places.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<usize, Known>);

#[derive(Debug)]
struct Known {
    state: String,
    /// Those that don't work.
    devices: Vec<String>,
    asked: Instant,
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
        let known = told.0.entry(place).or_insert_with(|| Known {
            state: ONLINE.to_owned(),
            devices: Vec::new(),
            asked: now,
        });
        let was = std::mem::replace(&mut known.state, state.clone());
        let is_new = was != state;
        if state == SUSPENDED {
            known.devices.clear();
            return is_new.then(|| {
                Alarm::Suspended(format!(
                    "pool {name}: SUSPENDED: its disks are gone or refuse its writes, and whatever waits for it hangs"
                ))
            });
        }
        if !is_new && now < known.asked + ASK_AGAIN {
            return None;
        }
        known.asked = now;
        let devices = match self.status(&one.health, name, now + ASK_LONGEST) {
            Ok(status) => status.not_online(),
            // Not told because the program failed: the state is what counts.
            Err(_) if !is_new => return None,
            Err(_) if state == ONLINE => Vec::new(),
            Err(why) => vec![why],
        };
        let before = std::mem::replace(&mut known.devices, devices);
        let same = !is_new && before == known.devices;
        let list = known.devices.join(", ");
        match state == ONLINE && list.is_empty() {
            _ if same => None,
            false => Some(Alarm::Degraded(format!("pool {name}: {state}: {list}"))),
            true if is_new => Some(Alarm::Whole(format!(
                "pool {name}: ONLINE again; it was {was}"
            ))),
            true => Some(Alarm::Whole(format!(
                "pool {name}: all its devices are ONLINE again"
            ))),
        }
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
