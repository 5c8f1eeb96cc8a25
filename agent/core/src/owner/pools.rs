//! A pool that failed alone: its controller serves the others, and tries it again.
//!
//! ```text
//!   failed ──due──▶ importing ──▶ its services ──▶ its addresses ──▶ announced
//!     ▲                 └─────────────┴────── failed ────┘
//!     └── the pause doubles ◀─────────────────────┘        a disk that was won meanwhile: due soon
//! ```
//!
//! Never while that could harm the others: only while serving and with the disks proved to be ours, one pool at a time,
//! few imports that haven't answered; a planned handover waits for the end of the try.

use crate::action::{Outcome, Work};
use crate::controller::Controller;
use crate::ids::{DiskId, PoolId};
use crate::memory::Visitor;
use crate::ops::{Job, outcome_of};
use crate::states::State;
use crate::time::{Instant, ms};
use failover_api::Severity;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest pause between two tries.
const PAUSE_MAX: Duration = ms(300_000);
/// Pause after the last try, where a disk was won meanwhile.
const DISK_WON_PAUSE: Duration = ms(1000);

/// Imports of one pool that may wait for their answers: one that is stuck in the kernel keeps the others on its lane.
const UNANSWERED_MAX: usize = 2;

/// Pools that failed alone, and the one that is being tried.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct PoolRetries {
    failed: BTreeMap<PoolId, Failed>,
    running: Option<(PoolId, Step)>,
}

/// A pool that isn't imported though its controller serves.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Failed {
    tried_at: Instant,
    pause: Duration,
    /// The disks that it was tried with.
    with: BTreeSet<DiskId>,
    told: String,
}

/// How far a try is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Step {
    Importing,
    StartingServices,
    AddingVips,
}

impl PoolRetries {
    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor) {
        let PoolRetries { failed, running: _ } = self;
        for one in failed.values_mut() {
            let Failed {
                tried_at,
                pause: _,
                with: _,
                told: _,
            } = one;
            visitor.instant(tried_at);
        }
    }

    /// A try runs: a planned handover waits for it, because its work stands in the way of the handover's.
    pub(crate) fn running(&self) -> Option<PoolId> {
        self.running.map(|(pool, _)| pool)
    }
}

impl Controller {
    /// The first import of a takeover ended with some pools failed: they are tried again while the others serve.
    pub(crate) fn pools_failed(&mut self, now: Instant) {
        let pause = ms(self.config.timing.not_serving_ms);
        let with = self.usable_disks();
        let failed = self.takeover.imports.iter();
        let failed = failed.filter_map(|(pool, end)| {
            let failed = Failed {
                tried_at: now,
                pause,
                with: with.clone(),
                told: end.clone().err()?,
            };
            Some((*pool, failed))
        });
        self.retries = PoolRetries {
            failed: failed.collect(),
            running: None,
        };
    }

    /// Disks that were won and are still ours: the only ones that an import may use.
    pub(crate) fn usable_disks(&self) -> BTreeSet<DiskId> {
        let ours = |id: &DiskId| {
            let disk = self.disks.all.get(id);
            disk.is_some_and(|disk| disk.ours.is_some() && !disk.lost)
        };
        self.takeover.won.iter().copied().filter(ours).collect()
    }

    /// A pool whose import hasn't answered, in time or not: it may come up at any moment, so no planned handover gives the
    /// disks away before.
    pub(crate) fn importing_pool(&self) -> Option<PoolId> {
        let unanswered = |pool: &PoolId| {
            self.unanswered(&Job::Import(*pool)) + self.unanswered(&Job::PoolImport(*pool)) > 0
        };
        let mut pools = self.config.pools.iter().map(|pool| pool.id);
        pools.find(unanswered)
    }

    /// Begins the next try that is due. Called while serving.
    pub(crate) fn retry_pools(&mut self, now: Instant) {
        if self.retries.running.is_some() || self.retries.failed.is_empty() {
            return;
        }
        let with = self.usable_disks();
        let due_at = |failed: &Failed| {
            let pause = match with.is_subset(&failed.with) {
                true => failed.pause,
                false => DISK_WON_PAUSE,
            };
            failed.tried_at + pause
        };
        let due = self.retries.failed.iter();
        let due = due
            .map(|(pool, failed)| (due_at(failed), *pool))
            .filter(|(_, pool)| self.unanswered(&Job::PoolImport(*pool)) < UNANSWERED_MAX)
            .min();
        let Some((at, pool)) = due else { return };
        if now < at {
            self.wake_at(at, "failed pool");
            return;
        }
        let enough = 2 * with.len() > self.disks.all.len() || self.disks.all.is_empty();
        if !enough || !self.disks_proved(now) {
            return;
        }
        let Some(failed) = self.retries.failed.get_mut(&pool) else {
            return;
        };
        if !with.is_subset(&failed.with) {
            failed.pause = ms(self.config.timing.not_serving_ms);
        } else {
            failed.pause = (failed.pause * 2).min(PAUSE_MAX);
        }
        failed.tried_at = now;
        failed.with = with.clone();
        self.retries.running = Some((pool, Step::Importing));
        self.takeover.won = with.clone();
        self.remember(now, true);
        let won = with.into_iter().collect();
        self.run(now, Job::PoolImport(pool), Work::Import { pool, won });
    }

    /// A step of the running try ended.
    pub(crate) fn retry_step_ended(&mut self, now: Instant, job: &Job, outcome: Outcome) {
        let Some((pool, step)) = self.retries.running else {
            return;
        };
        let of_step = match step {
            Step::Importing => Job::PoolImport(pool),
            Step::StartingServices => Job::PoolServices(pool),
            Step::AddingVips => Job::PoolVips(pool),
        };
        if *job != of_step {
            return;
        }
        if self.state != State::Active {
            // What it had in mind is off; where the disks are still ours it is tried again from its beginning.
            self.retries.running = None;
            return;
        }
        match (outcome_of(outcome), step) {
            (Err(why), _) => self.retry_failed(now, pool, why),
            (Ok(()), Step::Importing) => {
                self.retries.running = Some((pool, Step::StartingServices));
                let pools = self.with_pool(pool);
                self.run(now, Job::PoolServices(pool), Work::StartServices(pools));
            }
            (Ok(()), Step::StartingServices) => {
                self.retries.running = Some((pool, Step::AddingVips));
                let pools = self.with_pool(pool);
                self.run(now, Job::PoolVips(pool), Work::AddVips(pools));
            }
            (Ok(()), Step::AddingVips) => {
                self.retries.running = None;
                self.retries.failed.remove(&pool);
                self.takeover.imports.insert(pool, Ok(()));
                let text = format!("pool {} is imported and served again", self.pool_name(pool));
                self.notice("POOL_BACK", Severity::Info, text);
                self.owner.announce_anew(now);
            }
        }
    }

    fn retry_failed(&mut self, now: Instant, pool: PoolId, why: String) {
        self.retries.running = None;
        let name = self.pool_name(pool);
        let Some(failed) = self.retries.failed.get_mut(&pool) else {
            return;
        };
        failed.tried_at = now;
        let new = failed.told != why;
        let pause_s = failed.pause.as_secs();
        failed.told.clone_from(&why);
        if new {
            let text = format!(
                "pool {name} could not be brought back: {why}; tried again in {pause_s} s, or as soon as a disk is won"
            );
            self.notice("IMPORT_FAILED", Severity::Alarm, text);
        }
        self.takeover.imports.insert(pool, Err(why));
    }

    /// The imported pools and this one.
    fn with_pool(&self, pool: PoolId) -> Vec<PoolId> {
        let mut pools = self.takeover.imported();
        pools.push(pool);
        pools.sort_unstable();
        pools
    }

    pub(crate) fn pool_name(&self, pool: PoolId) -> String {
        let mut pools = self.config.pools.iter();
        let named = pools.find(|config| config.id == pool);
        named.map_or_else(|| pool.0.to_string(), |config| config.name.clone())
    }
}
