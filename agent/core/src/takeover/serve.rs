//! From the fenced disks to the first announcement: import, services, addresses.

use super::Remembered;
use crate::action::{Action, Lease, Outcome, OwnerRecord, Work};
use crate::controller::Controller;
use crate::ids::{DiskId, PoolId};
use crate::key::Phase;
use crate::ops::{Job, outcome_of};
use crate::states::{self, Edge, State};
use crate::time::{Instant, ms};
use failover_api::Severity;

/// Time for which a controller whose import failed leaves the takeover to the other.
const IMPORT_FAILED_MS: u64 = 60_000;

impl Controller {
    pub(crate) fn poll_importing(&mut self, now: Instant) {
        if !self.takeover.imports_asked {
            // What was lost since it was won is not given to an import (protocol.md section 2).
            let disks = &self.disks.all;
            let lost = |id: &DiskId| disks.get(id).is_none_or(|disk| disk.lost);
            self.takeover.won.retain(|id| !lost(id));
            let most = disks.is_empty() || 2 * self.takeover.won.len() > disks.len();
            if !most || !self.disks_proved(now) {
                self.wait_for_proof(now);
                return;
            }
            if !self.owner_is_remembered(now) {
                return;
            }
            if !self.owner.has_imported && now < self.owner.repair_until {
                // A repair before the first import is bound by no proof: it may not be on its way any more.
                let at = self.owner.repair_until;
                self.wake_at(at, "repair");
                return;
            }
            self.takeover.imports_asked = true;
            self.owner.has_imported = true;
            let won: Vec<DiskId> = self.takeover.won.iter().copied().collect();
            for pool in self.config.pools.clone() {
                let work = Work::Import {
                    pool: pool.id,
                    won: won.clone(),
                };
                self.run(now, Job::Import(pool.id), work);
            }
        }
        if self.takeover.imports.len() < self.config.pools.len() {
            return;
        }
        let ends = self.takeover.imports.iter();
        let failed: Vec<String> = ends
            .filter_map(|(pool, end)| {
                let why = end.as_ref().err()?;
                let name = self.pool_name(*pool);
                Some(format!("pool {name} was not imported: {why}"))
            })
            .collect();
        for text in &failed {
            self.notice("IMPORT_FAILED", Severity::Alarm, text.clone());
        }
        if !failed.is_empty() && failed.len() == self.config.pools.len() {
            self.fail(now, states::IMPORT_FAILED);
            return;
        }
        self.pools_failed(now);
        self.takeover.mark("services", now);
        self.go(now, states::IMPORTED);
    }

    /// A run after a crash must know that pools may be here: only its owner record tells it from a run that finds what
    /// others left, which no reset clears. In memory: it takes no flush.
    fn owner_is_remembered(&mut self, now: Instant) -> bool {
        match self.takeover.remembered.clone() {
            None => {
                self.takeover.remembered = Some(Remembered::Asked);
                let record = self.owner_record(false);
                self.run(now, Job::RememberImport, Work::Remember(Some(record)));
                false
            }
            Some(Remembered::Asked) => false,
            Some(Remembered::Ended(Ok(()))) => true,
            Some(Remembered::Ended(Err(why))) => {
                let text =
                    format!("no pool is imported while the owner record can't be written: {why}");
                self.notice("IMPORT_FAILED", Severity::Alarm, text);
                self.fail(now, states::IMPORT_FAILED);
                false
            }
        }
    }

    /// Disks that can't be proved ours are not imported with.
    fn wait_for_proof(&mut self, now: Instant) {
        let limit = self.since + ms(self.config.timing.disk_lost_ms);
        self.wake_at(limit, "proof of the disks");
        if now >= limit {
            let text = "more than half of the shared disks could not be shown to be ours in time";
            self.notice("IMPORT_FAILED", Severity::Alarm, text.to_owned());
            self.fail(now, states::IMPORT_FAILED);
        }
    }

    pub(crate) fn import_ended(&mut self, pool: PoolId, outcome: Outcome) {
        self.takeover.imports.insert(pool, outcome_of(outcome));
    }

    pub(crate) fn poll_starting_services(&mut self, now: Instant) {
        if !self.takeover.services_asked {
            self.takeover.services_asked = true;
            self.takeover.services = None;
            let pools = self.takeover.imported();
            self.run(now, Job::StartServices, Work::StartServices(pools));
        }
        match self.takeover.services.clone() {
            None => {}
            Some(Ok(())) => {
                self.takeover.mark("vip", now);
                self.go(now, states::SERVICES_UP);
            }
            Some(Err(why)) => {
                self.notice(
                    "SERVICES_FAILED",
                    Severity::Alarm,
                    format!("the services did not start: {why}"),
                );
                self.fail(now, states::SERVICES_FAILED);
            }
        }
    }

    /// Waits until the old lease must have lapsed and our own is proved, then opens the addresses.
    pub(crate) fn poll_announcing(&mut self, now: Instant) {
        if !self.takeover.vips_asked {
            self.takeover.vips_asked = true;
            self.takeover.vips = None;
            let pools = self.takeover.imported();
            self.run(now, Job::AddVips, Work::AddVips(pools));
        }
        match self.takeover.vips.clone() {
            None => return,
            Some(Ok(())) => {}
            Some(Err(why)) => {
                self.notice(
                    "VIPS_FAILED",
                    Severity::Alarm,
                    format!("the virtual addresses did not come up: {why}"),
                );
                self.fail(now, states::VIPS_FAILED);
                return;
            }
        }
        let from = self.takeover.announce_from;
        let from = self.blank_lease_until().map_or(from, |at| from.max(at));
        if !self.takeover.lease_was_ended && now < from {
            self.wake_at(from, "the old lease");
            return;
        }
        let Some(until) = self.lease_end(now).filter(|until| *until > now) else {
            self.owner.roll_now = true;
            self.wait_for_lease(now, from);
            return;
        };
        if !self.takeover.announce_asked {
            self.takeover.announce_asked = true;
            self.out.push(Action::Lease(Lease::Grant { until }));
            self.owner.lease_until = Some(until);
            let pools = self.takeover.imported();
            self.run(now, Job::Announce, Work::AnnounceVips(pools));
        }
    }

    /// Its own lease is not proved: it holds too few disks, and no peer answers. It can't serve so; where the peer can't
    /// either, it takes back what it lost and tries again.
    fn wait_for_lease(&mut self, now: Instant, from: Instant) {
        let limit = from.max(self.since) + ms(self.config.timing.not_serving_ms);
        self.wake_at(limit, "proof of the lease");
        if now >= limit {
            let text =
                "neither the peer nor enough disks proved the lease of the virtual addresses";
            self.notice("VIPS_FAILED", Severity::Alarm, text.to_owned());
            self.fail(now, states::VIPS_FAILED);
        }
    }

    /// The first announcement is out: this controller serves.
    pub(crate) fn announced(&mut self, now: Instant, end: Result<(), String>) {
        if let Err(why) = end {
            self.notice(
                "ANNOUNCE_FAILED",
                Severity::Warning,
                format!("the neighbours were not told: {why}"),
            );
        }
        if self.state == State::Announcing && self.takeover.announce_asked {
            self.import_failed_until = None;
            self.handover.reverted = self.handover.reverting;
            self.handover.reverting = false;
            self.stop_taken_back = None;
            self.owner
                .announce_anew(now + ms(self.config.timing.announce_ms));
            self.go(now, states::SERVING);
            self.remember(now, true);
        }
    }

    /// Owns, but can't serve.
    fn fail(&mut self, now: Instant, edge: Edge) {
        self.import_failed_until = Some(now + ms(IMPORT_FAILED_MS));
        self.go(now, edge);
    }

    /// Keeps the record that a restarted daemon needs to adopt.
    pub(crate) fn remember(&mut self, now: Instant, serving: bool) {
        let record = self.owner_record(serving);
        self.run(now, Job::Remember, Work::Remember(Some(record)));
    }

    fn owner_record(&self, serving: bool) -> OwnerRecord {
        OwnerRecord {
            incarnation: self.incarnation,
            epoch: self.epoch,
            key: self.key(Phase::Owner, self.epoch),
            serving,
            won: self.takeover.won.iter().copied().collect(),
        }
    }
}
