//! Work that isn't disk work: queued per kind, carried out by the product's own `perform` at a scheduled time.

use crate::disk_set::DiskSet;
use crate::machine::{DiskAnswer, Fate, LANE_JOURNAL, LaneWork, Machine, carry_out, disk_set};
use crate::queue::Happening;
use crate::world::World;
use failover_core::action::{Outcome, Work};
use failover_core::disk_work::DiskOutcome;
use failover_core::event::Event;
use failover_core::ids::{Node, OpId};
use std::time::Duration;

/// Time between two turns of a control loop that has much to take in, microseconds.
const GATHER_US: u64 = 500;
/// What each further virtual address takes, microseconds.
const VIP_US: u64 = 100;

impl World {
    /// Begins work that the controller asked for.
    pub(crate) fn run_work(&mut self, node: Node, life: u32, op: OpId, work: Work) {
        let work = match work {
            Work::Disk { disk, work } => return self.start_task(node, life, op, disk, work),
            other => other,
        };
        let lane = Machine::lane_of(&work);
        let fate = self.draw_fate(node, &work);
        self.machines[node as usize].lanes[lane]
            .waiting
            .push_back(LaneWork {
                life,
                op,
                work,
                fate,
            });
        self.turn_lane(node, lane);
    }

    fn draw_fate(&mut self, node: Node, work: &Work) -> Fate {
        if let Work::Export(pool) = work
            && self.conditions.unclean[node as usize]
            && self.machines[node as usize].kernel.imported[usize::from(pool.0)].is_none()
        {
            return Fate::Fails;
        }
        let fails = self.condition_of(node, work).fails;
        if fails == 0 || !self.rng.percent(fails.into()) {
            Fate::Works
        } else if self.plan.vips > 1
            && matches!(work, Work::AddVips(_) | Work::RemoveVips)
            && self.rng.percent(50)
        {
            Fate::Partly
        } else if self.rng.percent(30) {
            Fate::WorksButFails
        } else {
            Fate::Fails
        }
    }

    fn condition_of(&self, node: Node, work: &Work) -> crate::faults::WorkCondition {
        let at = node as usize;
        match work {
            Work::Disk { .. } | Work::Prescan(_) => Default::default(),
            Work::Record(_) | Work::Remember(_) => self.conditions.journal[at],
            Work::Import { .. } | Work::Export(_) => self.conditions.pools[at],
            Work::StartServices(_) | Work::StopServices => self.conditions.services[at],
            Work::AddVips(_) | Work::RemoveVips | Work::AnnounceVips(_) => self.conditions.vips[at],
        }
    }

    /// Begins the next work of a lane that is free.
    fn turn_lane(&mut self, node: Node, lane: usize) {
        let machine = &mut self.machines[node as usize];
        if machine.lanes[lane].running.is_some() {
            return;
        }
        let Some(next) = machine.lanes[lane].waiting.pop_front() else {
            return;
        };
        let boot = machine.boot;
        let most_us = 1000
            * match &next.work {
                Work::Record(_) => self.plan.journal_ms,
                Work::Remember(_) | Work::Disk { .. } | Work::AnnounceVips(_) => 1,
                Work::Import { .. } => self.plan.import_ms,
                Work::Prescan(_)
                | Work::Export(_)
                | Work::StartServices(_)
                | Work::StopServices
                | Work::AddVips(_)
                | Work::RemoveVips => self.plan.work_ms,
            };
        let slow_us = u64::from(self.condition_of(node, &next.work).slow_ms) * 1000;
        let many_us = match next.work {
            Work::AddVips(_) | Work::RemoveVips => VIP_US * (u64::from(self.plan.vips) - 1),
            _ => 0,
        };
        let takes = 50 + many_us + self.rng.below(most_us + 1) + self.rng.below(slow_us + 1);
        self.work_begins(node, &next);
        self.machines[node as usize].lanes[lane].running = Some(next);
        self.queue.push(
            self.now + takes,
            Happening::LaneEnd {
                node,
                boot,
                lane: lane as u8,
            },
        );
    }

    fn work_begins(&mut self, node: Node, next: &LaneWork) {
        if self.story.on()
            && !self.brief
            && !matches!(next.work, Work::Record(_) | Work::AnnounceVips(_))
        {
            let fate = if next.fate == Fate::Works {
                String::new()
            } else {
                format!(" ({:?})", next.fate)
            };
            let text = match &next.work {
                Work::Remember(Some(_)) => "remember".to_owned(),
                other => format!("{other:?}"),
            };
            tell!(self, node, "begins {text}{fate}");
        }
        match &next.work {
            Work::Import { pool, won } => {
                let pool = usize::from(pool.0);
                self.import_begins(node, pool, won);
                if next.fate == Fate::Fails {
                    return;
                }
                let usable = self.plan.pools[pool].disks & disk_set(won);
                if self.plan.pools[pool].can_do_with(usable) {
                    self.machines[node as usize].kernel.importing[pool] = Some(usable);
                }
            }
            Work::Export(pool) => {
                let pool = usize::from(pool.0);
                let kernel = &mut self.machines[node as usize].kernel;
                kernel.exporting[pool] = kernel.imported[pool].is_some();
            }
            Work::StartServices(pools) => self.services_begin(node, pools),
            Work::AddVips(pools) => self.vips_begin(node, pools),
            _ => {}
        }
    }

    /// Work on a lane has had its time: carries it out and answers.
    pub(crate) fn lane_ended(&mut self, node: Node, boot: u32, lane: u8) {
        let lane = usize::from(lane);
        if self.machines[node as usize].boot != boot {
            return;
        }
        let Some(ended) = self.machines[node as usize].lanes[lane].running.take() else {
            return;
        };
        let outcome = self.carry_out(node, &ended);
        if self.story.on()
            && let Outcome::Failed(why) = &outcome
        {
            tell!(self, node, "{:?} failed: {why}", ended.work);
        }
        self.turn_lane(node, lane);
        self.answer_daemon(node, ended.life, ended.op, Duration::ZERO, outcome, false);
    }

    fn carry_out(&mut self, node: Node, work: &LaneWork) -> Outcome {
        if let Work::Export(pool) = &work.work
            && work.fate != Fate::Void
        {
            self.land_own(node, usize::from(pool.0));
        }
        let fate = match self.is_refused_by_init(node, work) {
            true => Fate::Fails,
            false => work.fate,
        };
        let refusing = match &work.work {
            Work::Import { .. } | Work::Export(_) => self.refusing(node),
            _ => DiskSet::EMPTY,
        };
        let kernel = &mut self.machines[node as usize].kernel;
        let landed = &self.landed_writes;
        let outcome = carry_out(kernel, &self.plan, landed, refusing, fate, &work.work);
        match &work.work {
            Work::Import { pool, .. } => {
                kernel.importing[usize::from(pool.0)] = None;
                self.import_ended(node);
            }
            Work::Export(pool) => kernel.exporting[usize::from(pool.0)] = false,
            Work::AddVips(_) | Work::AnnounceVips(_) => self.addresses_changed(node),
            _ => {}
        }
        outcome
    }

    /// systemd starts no unit that is ordered before a daemon which it ends.
    fn is_refused_by_init(&self, node: Node, work: &LaneWork) -> bool {
        let machine = &self.machines[node as usize];
        let Work::StartServices(pools) = &work.work else {
            return false;
        };
        machine.stopping.is_some() && work.fate != Fate::Void && !machine.kernel.services.has(pools)
    }

    /// Takes an answer to the daemon: at once, late, or never.
    pub(crate) fn answer_daemon(
        &mut self,
        node: Node,
        life: u32,
        op: OpId,
        waited: Duration,
        outcome: Outcome,
        of_disk: bool,
    ) {
        let (late, never) = self.conditions.answers[node as usize];
        if never > 0 && self.rng.percent(never.into()) {
            tell!(self, node, "an answer never comes");
            if of_disk {
                self.withheld.push((node, life, op, waited, outcome));
            }
            return;
        }
        if late > 0 && self.rng.percent(late.into()) {
            tell!(self, node, "an answer comes late");
            let at = self.now + self.rng.between(50_000, 2_500_000);
            let outcome = Box::new(outcome);
            self.queue.push(
                at,
                Happening::Done {
                    node,
                    life,
                    op,
                    waited,
                    outcome,
                },
            );
            return;
        }
        self.done(node, life, op, waited, outcome);
    }

    /// An answer reaches the daemon that asked, if it still runs.
    pub(crate) fn done(
        &mut self,
        node: Node,
        life: u32,
        op: OpId,
        waited: Duration,
        outcome: Outcome,
    ) {
        let daemon = self.machines[node as usize].daemon.as_mut();
        let Some(daemon) = daemon.filter(|daemon| daemon.life == life) else {
            return;
        };
        let answer = DiskAnswer {
            op,
            waited,
            outcome,
        };
        let of_disk = matches!(answer.outcome, Outcome::Disk(_));
        if !of_disk || !self.plan.gathers() || daemon.paused {
            return self.take_answers(node, life, vec![answer]);
        }
        daemon.gathered.push(answer);
        if daemon.gathered.len() == 1 {
            let at = self.now + GATHER_US;
            self.queue.push(at, Happening::Gathered { node, life });
        }
    }

    /// The control loop takes what has come since its last turn; a paused one does when it runs again.
    pub(crate) fn take_gathered(&mut self, node: Node, life: u32) {
        let daemon = self.machines[node as usize].daemon.as_mut();
        if let Some(daemon) = daemon.filter(|daemon| daemon.life == life) {
            let answers = std::mem::take(&mut daemon.gathered);
            self.take_answers(node, life, answers);
        }
    }

    fn take_answers(&mut self, node: Node, life: u32, answers: Vec<DiskAnswer>) {
        let mut taken_late = Vec::new();
        let Some(last) = answers.last().map(|answer| answer.op) else {
            return;
        };
        let mut events = Vec::with_capacity(answers.len());
        for answer in answers {
            let disk = self.answer_delivered(node, answer.op);
            let must = match &answer.outcome {
                Outcome::Disk(end @ (DiskOutcome::Taken | DiskOutcome::Unreachable(_))) => {
                    self.must_undo(node, end)
                }
                _ => false,
            };
            taken_late.extend(disk.filter(|_| must));
            events.push(Event::Done {
                op: answer.op,
                waited: answer.waited,
                outcome: answer.outcome,
            });
        }
        self.feed_all(node, events);
        for disk in taken_late {
            self.take_undone(node, life, disk);
        }
        self.replay_answer(node, life, last);
    }

    // ---- death and power -----------------------------------------------------------------------------------

    /// The daemon is gone: what waits is dropped, what runs goes on or comes to nothing.
    pub(crate) fn drop_lanes(&mut self, node: Node) {
        for lane in 0..self.machines[node as usize].lanes.len() {
            let void = self.rng.percent(30);
            let lane = &mut self.machines[node as usize].lanes[lane];
            lane.waiting.clear();
            if let Some(running) = &mut lane.running
                && void
            {
                running.fate = Fate::Void;
            }
        }
    }

    /// Power goes: the record that is being written is durable or not.
    pub(crate) fn lose_journal(&mut self, node: Node) {
        let running = self.machines[node as usize].lanes[LANE_JOURNAL]
            .running
            .take();
        if let Some(running) = running
            && self.rng.percent(50)
        {
            self.carry_out(node, &running);
        }
    }

    /// A controller that resets itself writes what it recorded before, if the journal takes it.
    pub(crate) fn flush_journal(&mut self, node: Node) {
        let lane = std::mem::take(&mut self.machines[node as usize].lanes[LANE_JOURNAL]);
        if self.conditions.journal[node as usize].slow_ms > 0 {
            return;
        }
        for work in lane.running.iter().chain(&lane.waiting) {
            self.carry_out(node, work);
        }
    }
}
