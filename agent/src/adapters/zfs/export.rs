//! `zpool export`, never by force: what a program still writes must reach the disks or fail there, not vanish. Done when
//! the kernel has no such pool any more.

use super::import::one_line;
use super::kernel::Seen;
use super::{Member, ZfsPools, inner};
use crate::adapters::mounts::{holders, mounts};
use failover_core::adapters::{Change, Failure};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Services that have just stopped may let go of their files a moment later.
const BUSY_ATTEMPTS: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Processes and mounts that a message names.
const NAMED_MAX: usize = 5;

impl ZfsPools {
    pub(super) fn take_out(&self, one: &Member) -> Result<Change, Failure> {
        let until = Instant::now() + inner(self.limits.export);
        let began = Instant::now();
        match self.find(one)? {
            Seen::Absent
            | Seen::Here {
                is_it: Some(false), ..
            } => {
                // An export that hangs after the pool left the list isn't proved.
                one.runner
                    .none_is_stuck()
                    .map_err(|error| one.say(&error.to_string()))?;
                one.is_ours.store(false, Ordering::Relaxed);
                return Ok(Change::AlreadySo);
            }
            Seen::Here { state, is_it } => {
                self.is_the_right_one(one, is_it, until)?;
                // It would hang in the kernel, and what is dirty can't be written any more.
                one.is_not_suspended(&state)?;
            }
        }
        let mut said = String::new();
        for attempt in 0..BUSY_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BUSY_PAUSE);
            }
            let ran = self.zpool(one, &["export", &one.pool.name], until);
            // Whatever the program says or doesn't say: the kernel's word counts.
            if self.find(one)? == Seen::Absent {
                one.runner
                    .none_is_stuck()
                    .map_err(|error| one.say(&error.to_string()))?;
                one.is_ours.store(false, Ordering::Relaxed);
                let took = began.elapsed().as_millis();
                tracing::info!("pool {}: exported in {took} ms", one.pool.name);
                return Ok(Change::Made);
            }
            match ran {
                Ok(ran) if ran.ok => {
                    said = "`zpool export` said that it is, but the kernel still has it".to_owned()
                }
                Ok(ran) => said = one_line(&ran.errors),
                Err(error) => {
                    return Err(one.say(&format!("not exported: `zpool export`: {error}")));
                }
            }
            if !said.contains("busy") || Instant::now() + BUSY_PAUSE >= until {
                break;
            }
        }
        let who = self.in_use(one);
        Err(one.say(&format!("not exported: {said}{who}")))
    }

    /// Who uses its filesystems, as far as this process may see.
    fn in_use(&self, one: &Member) -> String {
        let table = self.places.roots.proc.join("thread-self/mountinfo");
        let Ok(all) = mounts(&table) else {
            return String::new();
        };
        let of_pool = |source: &Path| source.starts_with(&one.pool.name);
        let mut who = Vec::new();
        for mount in all
            .iter()
            .filter(|m| m.fstype == "zfs" && of_pool(&m.source))
        {
            for holder in holders(&mount.mountpoint, &mount.device, NAMED_MAX) {
                if who.len() < NAMED_MAX && !who.contains(&holder) {
                    who.push(holder);
                }
            }
        }
        if who.is_empty() {
            return "; no process was found that uses it: a volume in use (an iSCSI target, swap), an NFS export, or a \
                    process that failoverd may not look into (`fuser -vm` shows it)"
                .to_owned();
        }
        format!(
            "; in use by {}: stop what runs on this pool with failover-active.target",
            who.join(", ")
        )
    }
}
