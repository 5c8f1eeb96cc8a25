//! What people see: the public state, the report, the history with its evidence.

use crate::action::Action;
use crate::beat::Blocker;
use crate::controller::{Controller, StopKind};
use crate::disks::Disk;
use crate::ids::Node;
use crate::states::{Edge, State};
use crate::time::{Instant, ms};
use failover_api::{
    DisabledReason, DiskReport, DiskSummary, Evidence, FailoverConfig, HistoryRecord, LinkReport,
    PeerReport, PhaseTime, PoolReport, StateReport, Status, TimerReport,
};
use std::borrow::Cow;

impl Controller {
    /// The public state, in one word.
    pub fn status(&self) -> Status {
        match (self.config.has_peer, self.state.status()) {
            (_, Status::Error) => Status::Error,
            (false, _) => Status::Single,
            (true, status) => status,
        }
    }

    /// A takeover or handover runs on this controller.
    pub fn in_progress(&self) -> bool {
        !matches!(
            self.state,
            State::Active
                | State::Standby
                | State::Electing
                | State::Held
                | State::Halted
                | State::Failed
        )
    }

    /// Everything this controller knows.
    pub fn report(&self, now: Instant) -> StateReport {
        let blockers = self.blockers(now);
        StateReport {
            node: self.config.node,
            status: self.status(),
            state: self.state.name().to_owned(),
            why: self.why.clone().into_owned(),
            since_ms: millis(now, self.since),
            epoch: self.epoch.0,
            incarnation: self.incarnation,
            eligible: blockers == 0,
            blockers: Blocker::sentences(blockers),
            config: FailoverConfig {
                id: 1,
                disabled: self.settings.disabled,
                master: self.settings.master == self.config.node,
                timeout: u32::from(self.settings.timeout_s),
            },
            disabled_reasons: self.disabled_reasons(now),
            peer: self.config.has_peer.then(|| self.peer_report(now)),
            links: self.link_reports(now),
            evidence: self.evidence(now),
            disks: self.disk_summary(),
            disk_list: self
                .disks
                .all
                .values()
                .map(|disk| self.disk_report(now, disk))
                .collect(),
            pools: self.pool_reports(),
            vips: Vec::new(),
            vip_list: Vec::new(),
            vips_on: matches!(self.state, State::Active | State::Restarting),
            lease_ms: self
                .owner
                .lease_until
                .filter(|until| *until > now)
                .map(|until| millis(until, now)),
            timers: self
                .next_timeout()
                .map(|(at, timer)| TimerReport {
                    timer: timer.to_owned(),
                    left_ms: millis(at, now),
                })
                .into_iter()
                .collect(),
        }
    }

    fn disabled_reasons(&self, now: Instant) -> Vec<DisabledReason> {
        let mut reasons = Vec::new();
        let mut add = |reason: DisabledReason, holds: bool| {
            if holds {
                reasons.push(reason);
            }
        };
        if !self.config.has_peer {
            return reasons;
        }
        let alive = self.peer.alive(now, ms(self.config.timing.dead_ms));
        let beat = self.peer.beat.as_ref().filter(|_| alive);
        add(DisabledReason::NoFailover, self.settings.disabled);
        add(DisabledReason::LocFailoverOngoing, self.in_progress());
        add(DisabledReason::NoHeartbeatIface, self.peer.links.is_empty());
        let dark = !self.peer.links.is_empty() && self.peer.links.iter().all(|link| !link.up);
        add(DisabledReason::NoCarrierOnHeartbeat, dark);
        add(DisabledReason::NoPong, !alive);
        if let Some(beat) = beat {
            let busy = beat.blockers & Blocker::Busy as u16 != 0;
            let ready = beat.eligible || beat.role.owns();
            add(DisabledReason::RemFailoverOngoing, busy);
            add(DisabledReason::NoSystemReady, !ready && !busy);
            add(
                DisabledReason::MismatchVersions,
                beat.version != self.config.version,
            );
        }
        reasons
    }

    fn peer_report(&self, now: Instant) -> PeerReport {
        let heard = self.peer.alive(now, ms(self.config.timing.dead_ms));
        let beat = self.peer.beat.as_ref();
        PeerReport {
            heard,
            status: beat.map(|beat| beat.status),
            age_ms: self.peer.heard.map(|at| millis(now, at)),
            epoch: beat.map(|beat| beat.epoch.0),
            eligible: heard && beat.is_some_and(|beat| beat.eligible),
            blockers: beat
                .map(|beat| Blocker::sentences(beat.blockers))
                .unwrap_or_default(),
            version: beat.map(|beat| beat.version.clone()),
        }
    }

    fn link_reports(&self, now: Instant) -> Vec<LinkReport> {
        let report = |(link, state): (usize, &crate::peer::Link)| LinkReport {
            link: link as u8,
            name: String::new(),
            age_ms: state.heard.map(|at| millis(now, at)),
        };
        self.peer.links.iter().enumerate().map(report).collect()
    }

    /// Every source of evidence, with its age.
    fn evidence(&self, now: Instant) -> Vec<Evidence> {
        let mut evidence = Vec::new();
        let dead = ms(self.config.timing.dead_ms);
        for (link, state) in self.peer.links.iter().enumerate() {
            let saw = match state.heard {
                Some(at) if now.since(at) < dead => "beats",
                Some(_) => "silence",
                None => "nothing yet",
            };
            evidence.push(source(
                format!("link {link}"),
                saw.to_owned(),
                state.heard.map(|at| millis(now, at)),
            ));
        }
        if let Some(beat) = &self.peer.beat {
            let serving = if beat.serving { ", serving" } else { "" };
            let saw = format!("{}{serving}, epoch {}", beat.status, beat.epoch);
            evidence.push(source(
                "peer's word".to_owned(),
                saw,
                self.peer.heard.map(|at| millis(now, at)),
            ));
        }
        for id in self.disks.arbiter_ids() {
            let Some(disk) = self.disks.all.get(&id) else {
                continue;
            };
            evidence.push(self.disk_evidence(now, disk));
        }
        let failed = self.takeover.imports.iter().filter(|_| self.state.owns());
        for (pool, end) in failed {
            if let Err(why) = end {
                let name = self.pool_name(*pool);
                evidence.push(source(
                    format!("pool {name}"),
                    format!("failed: {why}"),
                    None,
                ));
            }
        }
        if let Some((at, gap)) = self.last_stall {
            let saw = format!("this process stood still for {} ms", gap.as_millis());
            evidence.push(source("own stall".to_owned(), saw, Some(millis(now, at))));
        }
        if !self.lan_up {
            evidence.push(source(
                "clients' network".to_owned(),
                "no carrier".to_owned(),
                None,
            ));
        }
        evidence
    }

    fn disk_evidence(&self, now: Instant, disk: &Disk) -> Evidence {
        let age = disk.look.as_ref().map(|(asked, _)| millis(now, *asked));
        let saw = match (disk.failed, self.disks.holder(disk)) {
            (true, _) => "unreadable".to_owned(),
            (false, Some(key)) => {
                let rests = disk.unchanged_since.map_or(0, |since| millis(now, since));
                let held = if key.held { ", held" } else { "" };
                format!(
                    "{} of {} in epoch {}{held}, at rest for {rests} ms",
                    key.phase.word(),
                    key.node,
                    key.epoch.0
                )
            }
            (false, None) if disk.look.is_some() => "no reservation of this pair".to_owned(),
            (false, None) => "not read yet".to_owned(),
        };
        source(format!("disk {}", disk.name), saw, age)
    }

    fn owner_word(&self, disk: &Disk) -> &'static str {
        if disk.ours.is_some() && !disk.lost {
            return "ours";
        }
        match (disk.failed, &disk.look, self.disks.holder(disk)) {
            (true, _, _) => "unreadable",
            (false, None, _) => "unknown",
            (false, Some(_), Some(key)) if key.node == self.config.node => "ours",
            (false, Some(_), Some(_)) => "peer",
            (false, Some((_, survey)), None)
                if survey.keys.is_empty() && survey.holder.is_none() =>
            {
                "free"
            }
            (false, Some(_), None) => "foreign",
        }
    }

    fn disk_report(&self, now: Instant, disk: &Disk) -> DiskReport {
        let key = disk.ours.or_else(|| self.disks.holder(disk));
        let at = disk.look.as_ref().map(|(asked, _)| *asked).max(disk.ok_at);
        DiskReport {
            disk: disk.name.clone(),
            arbiter: self.disks.is_arbiter(disk.id),
            owner: self.owner_word(disk).to_owned(),
            epoch: key.map(|key| key.epoch.0),
            age_ms: at.map(|at| millis(now, at)),
        }
    }

    fn disk_summary(&self) -> DiskSummary {
        let mut summary = DiskSummary::default();
        for disk in self.disks.all.values() {
            match self.owner_word(disk) {
                "ours" => summary.ours += 1,
                "peer" => summary.peer += 1,
                "foreign" => summary.foreign += 1,
                "free" => summary.free += 1,
                "unreadable" => summary.unreadable += 1,
                _ => {}
            }
        }
        summary
    }

    fn pool_reports(&self) -> Vec<PoolReport> {
        let owns = self.state.owns();
        let report = |pool: &crate::config::PoolConfig| {
            let state = match self.takeover.imports.get(&pool.id) {
                Some(Ok(())) if owns => "imported".to_owned(),
                Some(Err(why)) if owns => format!("failed: {why}"),
                Some(_) | None => "exported".to_owned(),
            };
            PoolReport {
                pool: pool.name.clone(),
                state,
            }
        };
        self.config.pools.iter().map(report).collect()
    }

    // ---- history -------------------------------------------------------------------------------------------

    /// Keeps a transition with its evidence and, where it ends a takeover or handover, the time of each phase.
    pub(crate) fn record_history(&mut self, now: Instant, edge: Edge) {
        self.history_seq += 1;
        let ends = matches!(
            edge.to,
            State::Active | State::Failed | State::Standby | State::HandedOver
        );
        let record = HistoryRecord {
            seq: self.history_seq,
            at_micros: now.micros(),
            wall_ms: None,
            node: self.config.node,
            from: edge.from.name().to_owned(),
            to: edge.to.name().to_owned(),
            status: self.status(),
            why: edge.why.to_owned(),
            evidence: self.evidence(now),
            epoch: self.epoch.0,
            phases: if ends { self.phases(now) } else { Vec::new() },
        };
        if ends {
            self.takeover.marks.clear();
        }
        self.out.push(Action::History(record));
    }

    fn phases(&self, now: Instant) -> Vec<PhaseTime> {
        let timing = &self.config.timing;
        let marks = &self.takeover.marks;
        let ends = marks.iter().skip(1).map(|(_, at)| *at).chain([now]);
        let time = |((phase, from), to): (&(Cow<'_, str>, Instant), Instant)| PhaseTime {
            phase: phase.clone().into_owned(),
            micros: to.since(*from).as_micros() as u64,
            budget_ms: match phase.as_ref() {
                "detect" => timing.disk_silent_ms + 2 * timing.disk_read_ms,
                "decide" => timing.disk_read_ms,
                "fence" => 2 * timing.abort_ms,
                "import" => timing.import_ms,
                "services" | "stop services" => timing.services_ms,
                "export" => timing.export_ms,
                "hand over" => timing.handover_ms,
                _ => timing.vips_ms,
            },
        };
        marks.iter().zip(ends).map(time).collect()
    }

    /// The daemon was told to come back at once.
    pub fn is_restarting(&self) -> bool {
        self.stop == Some(StopKind::Restart)
    }

    /// This controller.
    pub fn node(&self) -> Node {
        self.config.node
    }
}

fn source(source: String, saw: String, age_ms: Option<u64>) -> Evidence {
    Evidence {
        source,
        saw,
        age_ms,
    }
}

fn millis(later: Instant, earlier: Instant) -> u64 {
    later.since(earlier).as_millis() as u64
}
