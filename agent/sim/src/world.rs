//! One seeded world: two real controllers and the real effect code on pretend hardware, with an agenda that jumps the
//! clock.
//!
//! ```text
//!    faults ──▶ ┌───────────────────────── World ─────────────────────────┐
//!    agenda ──▶ │ machine A: kernel, lanes, daemon ─ beats ─ B: the same  │ ──▶ invariants, coverage, story
//!               │        └── commands, writes ──▶ disks ◀────┘            │
//!               └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Every number that the world draws comes from its seed; the same seed tells the same story.

use crate::coverage::{Coverage, event_kind, state_index};
use crate::enclosure::{Bay, TaskRun};
use crate::faults::{self, Conditions, Episode, Fault};
use crate::invariants::{Ledger, Violation};
use crate::machine::{Daemon, Machine};
use crate::plan::Plan;
use crate::queue::{Happening, Queue};
use crate::rng::Rng;
use crate::story::Story;
use failover_core::action::{Action, Lease, Outcome};
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::{LinkId, Node, OpId};
use failover_core::states::State;
use failover_core::time::Instant;
use std::rc::Rc;

/// Both controllers.
pub const NODES: [Node; 2] = [Node::A, Node::B];
/// Interval of the pools' writes, microseconds.
const WRITE_US: u64 = 20_000;
/// Interval of the looks at the rules that hold at any time, microseconds.
const CHECK_US: u64 = 50_000;
/// Shortest simulated time of a seed, microseconds.
const SEED_US: u64 = 20_000_000;
/// Datagrams that a socket keeps while its daemon is paused.
const SOCKET_MAX: usize = 400;

/// The world.
pub struct World {
    pub(crate) now: u64,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue,
    pub(crate) machines: [Machine; 2],
    pub(crate) bays: Vec<Bay>,
    pub(crate) tasks: Vec<Option<Box<TaskRun>>>,
    pub(crate) free_tasks: Vec<u32>,
    /// Tasks whose command a stuck disk holds.
    pub(crate) stuck: Vec<u32>,
    /// Answers of disks that wait for the end of the faults.
    pub(crate) withheld: Vec<(Node, u32, OpId, Outcome)>,
    pub(crate) conditions: Conditions,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) active: Vec<u16>,
    pub(crate) heal_at: u64,
    pub(crate) healing: bool,
    /// Since when the pair has been whole.
    pub(crate) whole_since: Option<u64>,
    pub(crate) ledger: Ledger,
    pub(crate) coverage: Coverage,
    pub(crate) violation: Option<Violation>,
    pub(crate) story: Story,
    pub(crate) lives: u32,
    pub(crate) requests: u64,
    /// By pool: writes that have landed.
    pub(crate) landed_writes: Vec<u64>,
    pub(crate) seed: u64,
    /// The story leaves out commands and work.
    pub(crate) brief: bool,
    ended: bool,
}

impl World {
    /// The world of a seed, its faults drawn.
    pub fn of_seed(seed: u64, story: Story) -> World {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let (episodes, heal_at) = faults::draw(&mut rng, &plan);
        let mut world = World::new(plan, rng, story, seed);
        world.story_of_plan();
        world.heal_at = heal_at;
        world.recompute();
        for (index, episode) in episodes.iter().enumerate() {
            world.queue.push(episode.at, Happening::Begin(index as u16));
            world
                .queue
                .push(episode.until, Happening::End(index as u16));
        }
        world.episodes = episodes;
        world.queue.push(heal_at, Happening::Heal);
        let second = world.rng.pick(&[0, 0, 50_000, 400_000, 2_000_000]);
        let first = world.rng.pick(&NODES);
        let late = world.rng.below(second + 1);
        for node in NODES {
            let at = if node == first { 0 } else { late };
            world.queue.push(at, Happening::Start { node, boot: 0 });
        }
        world
    }

    /// A world without faults, for scripts; no daemon runs yet.
    pub fn calm(story: Story) -> World {
        let mut world = World::new(Plan::calm(), Rng::new(1), story, 1);
        world.heal_at = u64::MAX;
        world
    }

    fn new(plan: Plan, mut rng: Rng, story: Story, seed: u64) -> World {
        let machine = |node: Node, rng: &mut Rng| {
            Machine::new(
                node,
                &plan,
                -(rng.between(1_000_000, 5_000_000_000_000) as i64),
            )
        };
        let machines = [machine(Node::A, &mut rng), machine(Node::B, &mut rng)];
        let bays = (0..plan.disks).map(|_| Bay::new(plan.aptpl)).collect();
        let pools = plan.pools.len();
        let mut world = World {
            now: 0,
            landed_writes: vec![0; pools],
            ledger: Ledger::new(&plan),
            plan,
            rng,
            queue: Queue::default(),
            machines,
            bays,
            tasks: Vec::new(),
            free_tasks: Vec::new(),
            stuck: Vec::new(),
            withheld: Vec::new(),
            conditions: Conditions::default(),
            episodes: Vec::new(),
            active: Vec::new(),
            heal_at: 0,
            healing: false,
            whole_since: None,
            coverage: Coverage::default(),
            violation: None,
            story,
            lives: 0,
            requests: 0,
            seed,
            brief: false,
            ended: false,
        };
        world.queue.push(WRITE_US, Happening::Write);
        world.queue.push(CHECK_US, Happening::Check);
        world
    }

    /// Runs a seed to its end: 20 simulated seconds, and until the pair is whole again.
    pub fn run_seed(mut self) -> (Coverage, Option<Violation>) {
        while !self.ended && self.violation.is_none() {
            let until = self.now + 1_000_000;
            self.run_until(until);
        }
        self.coverage.simulated_us = self.now;
        self.coverage.seeds = 1;
        (self.coverage, self.violation)
    }

    /// Lets time pass until `until`.
    pub fn run_until(&mut self, until: u64) {
        while let Some((at, what)) = self.queue.pop_until(until) {
            self.now = self.now.max(at);
            self.happen(what);
            if self.violation.is_some() || self.ended {
                return;
            }
        }
        self.now = self.now.max(until);
    }

    /// What went wrong, if anything did.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// True time, microseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake { node, life } => self.wake(node, life),
            Happening::Datagram { to, link, beat } => {
                if self.machines[to as usize].daemon.is_some() {
                    self.heard_echo(to, &beat);
                    let received = self.local(to);
                    let event = Event::Beat {
                        link: LinkId(link),
                        received,
                        beat: Box::new((*beat).clone()),
                    };
                    self.feed(to, event);
                    self.replay_beat(to, link, &beat);
                }
            }
            Happening::Execute(task) => self.execute(task),
            Happening::Answer(task) => self.answered(task),
            Happening::LaneEnd { node, boot, lane } => self.lane_ended(node, boot, lane),
            Happening::Done {
                node,
                life,
                op,
                outcome,
            } => self.done(node, life, op, *outcome),
            Happening::LeaseLost { node, life } => {
                if self.lives_on(node, life) {
                    self.feed(node, Event::LeaseLost);
                }
            }
            Happening::Write => {
                self.write_all();
                self.queue.push(self.now + WRITE_US, Happening::Write);
            }
            Happening::Land { disk, write } => self.land(usize::from(disk), write),
            Happening::Begin(index) => self.begin_episode(index),
            Happening::End(index) => self.end_episode(index),
            Happening::Resume { node, life } => {
                if self.lives_on(node, life) {
                    self.resume(node);
                }
            }
            Happening::Start { node, boot } => {
                if self.machines[node as usize].boot == boot {
                    self.start_daemon(node);
                }
            }
            Happening::Boot { node, boot } => {
                if self.machines[node as usize].boot == boot {
                    self.boot(node);
                }
            }
            Happening::Heal => self.heal(),
            Happening::Check => {
                self.check();
                self.queue.push(self.now + CHECK_US, Happening::Check);
            }
        }
    }

    /// Judges, at each check, whether the seed has come to its end.
    pub(crate) fn end_if_done(&mut self) {
        let rest = 1_500_000;
        let whole = self
            .whole_since
            .is_some_and(|since| self.now >= since + rest);
        self.ended = self.healing && whole && self.now >= SEED_US;
    }

    // ---- the daemon ----------------------------------------------------------------------------------------

    /// The clock of a machine.
    pub(crate) fn local(&self, node: Node) -> Instant {
        let zero = self.machines[node as usize].clock_zero;
        Instant::from_micros((self.now as i64 - zero) as u64)
    }

    pub(crate) fn lives_on(&self, node: Node, life: u32) -> bool {
        let daemon = self.machines[node as usize].daemon.as_ref();
        daemon.is_some_and(|daemon| daemon.life == life)
    }

    /// The state of a daemon that runs.
    pub(crate) fn state(&self, node: Node) -> Option<State> {
        let daemon = self.machines[node as usize].daemon.as_ref();
        daemon.map(|daemon| daemon.controller.state())
    }

    /// Starts a daemon with what its journal and runtime folder say.
    pub(crate) fn start_daemon(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        if !machine.powered || machine.daemon.is_some() {
            return;
        }
        self.lives += 1;
        let session = self.rng.next();
        let mut restored = machine.kernel.durable.clone();
        restored.owner = machine.kernel.owner.clone();
        restored.session = session;
        let config = self.plan.config(node, session);
        tell!(self, node, "the daemon starts");
        let (controller, actions) = Controller::new(self.local(node), config, restored);
        let (now, lan_up) = (self.now, self.machines[node as usize].lan_up);
        self.ledger.daemon_started(node, session);
        self.machines[node as usize].stopping = None;
        self.machines[node as usize].daemon = Some(Daemon {
            life: self.lives,
            controller,
            session,
            paused: false,
            inbox: Vec::new(),
            held_tasks: Vec::new(),
            wake_at: None,
            running_since: now,
            state_since: now,
            wakes_now: (0, 0),
        });
        self.carry_out_actions(node, actions);
        self.arm(node);
        if !lan_up {
            self.feed(node, Event::Lan { up: false });
        }
    }

    /// Hands an event to the daemon, or keeps it while the daemon is paused.
    pub(crate) fn feed(&mut self, node: Node, event: Event) {
        let local = self.local(node);
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        if daemon.paused {
            if daemon.inbox.len() < SOCKET_MAX {
                daemon.inbox.push(event);
            }
            return;
        }
        let before = daemon.controller.state();
        self.coverage.events += 1;
        self.coverage.matrix[state_index(before)][event_kind(&event)] += 1;
        let actions = daemon.controller.handle(local, event);
        let after = daemon.controller.state();
        if before != after {
            daemon.state_since = self.now;
            self.state_changed(node, before, after);
        }
        self.carry_out_actions(node, actions);
        self.arm(node);
    }

    fn wake(&mut self, node: Node, life: u32) {
        let now = self.now;
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        if daemon.life != life || daemon.wake_at.is_none_or(|at| at > now) {
            return;
        }
        daemon.wake_at = None;
        if daemon.paused {
            return;
        }
        let (at, count) = daemon.wakes_now;
        daemon.wakes_now = if now < at + 1000 {
            (at, count + 1)
        } else {
            (now, 1)
        };
        if daemon.wakes_now.1 > 200 {
            let why = daemon.controller.next_timeout();
            self.violate(
                "ends",
                format!("{node}: the control loop turns without rest: {why:?}"),
            );
            return;
        }
        self.feed(node, Event::Wake);
    }

    /// Puts the daemon's next timeout on the agenda.
    fn arm(&mut self, node: Node) {
        let jitter = match self.conditions.busy[node as usize] {
            true => 60_000,
            false => self.plan.jitter_us,
        };
        let late = self.rng.below(jitter + 1);
        let now = self.now;
        let machine = &mut self.machines[node as usize];
        let zero = machine.clock_zero;
        let Some(daemon) = machine.daemon.as_mut() else {
            return;
        };
        let Some((at, _)) = daemon.controller.next_timeout() else {
            return;
        };
        let due = (at.micros() as i64 + zero).max(now as i64) as u64;
        let at = due.max(now + 1) + if due > now { late } else { late / 8 };
        if daemon
            .wake_at
            .is_some_and(|armed| armed <= at && armed > now)
        {
            return;
        }
        daemon.wake_at = Some(at);
        let life = daemon.life;
        self.queue.push(at, Happening::Wake { node, life });
    }

    /// SIGCONT: queued datagrams first, then everything else.
    fn resume(&mut self, node: Node) {
        let now = self.now;
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        if !daemon.paused {
            return;
        }
        tell!(self, node, "the daemon runs again");
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        daemon.paused = false;
        daemon.running_since = now;
        daemon.wake_at = None;
        let life = daemon.life;
        let tasks = std::mem::take(&mut daemon.held_tasks);
        let (beats, rest): (Vec<Event>, Vec<Event>) = std::mem::take(&mut daemon.inbox)
            .into_iter()
            .partition(|event| matches!(event, Event::Beat { .. }));
        for event in beats.into_iter().chain(rest) {
            if self.lives_on(node, life) {
                self.feed(node, event);
            }
        }
        for task in tasks {
            self.answered(task);
        }
        if self.lives_on(node, life) {
            self.feed(node, Event::Wake);
        }
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, node: Node, until: u64) {
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        daemon.paused = true;
        let life = daemon.life;
        self.queue.push(until, Happening::Resume { node, life });
        tell!(self, node, "the daemon is paused");
    }

    /// SIGKILL. What runs in the kernel goes on; work that had not begun is gone.
    pub(crate) fn kill(&mut self, node: Node) {
        if self.machines[node as usize].daemon.take().is_none() {
            return;
        }
        tell!(self, node, "the daemon is killed");
        self.drop_lanes(node);
    }

    // ---- actions -------------------------------------------------------------------------------------------

    fn carry_out_actions(&mut self, node: Node, actions: Vec<Action>) {
        for action in actions {
            let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
                return;
            };
            let life = daemon.life;
            match action {
                Action::Run { op, work } => self.run_work(node, life, op, work),
                Action::Send(beat) => {
                    self.beat_sent(node, &beat);
                    self.send(node, Rc::new(beat));
                }
                Action::Lease(lease) => self.lease(node, life, lease),
                Action::Reply { request, reply } => self.replied(node, request, reply),
                Action::Notify(notice) => {
                    tell!(self, node, "[{}] {}", notice.id, notice.text);
                    *self.coverage.notices.entry(notice.id).or_default() += 1;
                }
                Action::History(record) => {
                    tell!(
                        self,
                        node,
                        "{} -> {}  ({}; epoch {})",
                        record.from,
                        record.to,
                        record.why,
                        record.epoch
                    );
                    self.edge_taken(node, &record);
                }
                Action::PetWatchdog => self.machines[node as usize].petted = Some(self.now),
                Action::Halt(reason) => {
                    tell!(self, node, "HALT: {reason}");
                    self.coverage.halt(&reason);
                    self.halt_with_cause(node, &reason);
                    self.halted(node);
                    return;
                }
                Action::Exit => {
                    self.exited(node);
                    return;
                }
            }
        }
    }

    fn send(&mut self, node: Node, beat: Rc<failover_core::beat::Beat>) {
        for link in 0..self.plan.links {
            let condition = self.conditions.links[usize::from(link)][node as usize];
            let loss = u64::from(condition.loss).max(self.plan.loss);
            if condition.cut || loss > 0 && self.rng.percent(loss) {
                continue;
            }
            let copies = if condition.doubled > 0 && self.rng.percent(condition.doubled.into()) {
                2
            } else {
                1
            };
            for _ in 0..copies {
                let delay = 60
                    + self.rng.below(300)
                    + self.rng.below(u64::from(condition.delay_ms) * 1000 + 1);
                let beat = Rc::clone(&beat);
                let to = node.other();
                self.queue
                    .push(self.now + delay, Happening::Datagram { to, link, beat });
            }
        }
    }

    fn lease(&mut self, node: Node, life: u32, lease: Lease) {
        let zero = self.machines[node as usize].clock_zero;
        let truly = |until: Instant| (until.micros() as i64 + zero).max(0) as u64;
        let now = self.now;
        let kernel = &mut self.machines[node as usize].kernel;
        match lease {
            Lease::End => kernel.lease_until = None,
            Lease::Grant { until } => {
                kernel.lease_until = Some(truly(until));
                self.lease_given(node, truly(until));
            }
            Lease::Renew { until } => {
                if kernel.lease_until.is_some_and(|old| now < old) {
                    kernel.lease_until = Some(truly(until));
                    self.lease_given(node, truly(until));
                } else {
                    kernel.lease_until = None;
                    self.queue
                        .push(now + 50, Happening::LeaseLost { node, life });
                }
            }
        }
    }

    fn halted(&mut self, node: Node) {
        self.ledger.halts[node as usize] += 1;
        self.flush_journal(node);
        self.power_off(node);
        let boot = self.machines[node as usize].boot;
        let at = self.now + (self.rng.between(200, 1200) + self.plan.boot_ms) * 1000;
        self.queue.push(at, Happening::Boot { node, boot });
    }

    fn exited(&mut self, node: Node) {
        tell!(self, node, "the daemon ends");
        self.checked_exit(node);
        let machine = &mut self.machines[node as usize];
        machine.daemon = None;
        let restart = machine.stopping.take();
        let boot = machine.boot;
        if restart == Some(false) {
            machine.petted = None;
        }
        self.drop_lanes(node);
        if self.heal_at == u64::MAX && restart != Some(true) {
            return;
        }
        let after = match restart {
            Some(true) if self.heal_at == u64::MAX => 80_000,
            Some(true) if self.rng.percent(85) => self.rng.between(20_000, 300_000),
            Some(true) | None => self.rng.between(300_000, 4_000_000),
            Some(false) => self.rng.between(300_000, 3_000_000),
        };
        self.queue
            .push(self.now + after, Happening::Start { node, boot });
    }

    // ---- power ---------------------------------------------------------------------------------------------

    /// Takes a machine's power.
    pub(crate) fn power_off(&mut self, node: Node) {
        if !self.machines[node as usize].powered {
            return;
        }
        tell!(self, node, "no power");
        self.lose_journal(node);
        let machine = &mut self.machines[node as usize];
        machine.powered = false;
        machine.boot += 1;
        machine.daemon = None;
        machine.petted = None;
        machine.stopping = None;
        machine.kernel.lose_power();
        for lane in &mut machine.lanes {
            *lane = Default::default();
        }
    }

    /// Gives a machine power; its daemon starts a little later.
    pub(crate) fn boot(&mut self, node: Node) {
        let wait = self.rng.between(5_000, 200_000);
        let machine = &mut self.machines[node as usize];
        if machine.powered {
            return;
        }
        machine.powered = true;
        machine.clock_zero = self.now as i64 - self.rng.between(1_000_000, 9_000_000) as i64;
        let boot = machine.boot;
        tell!(self, node, "boots");
        self.queue
            .push(self.now + wait, Happening::Start { node, boot });
    }

    // ---- faults --------------------------------------------------------------------------------------------

    fn begin_episode(&mut self, index: u16) {
        let episode = self.episodes[usize::from(index)];
        self.active.push(index);
        self.begin_fault(episode.fault, episode.until);
    }

    fn end_episode(&mut self, index: u16) {
        if self.active.contains(&index) {
            self.active.retain(|each| *each != index);
            self.end_fault(self.episodes[usize::from(index)].fault);
        }
    }

    /// Begins a fault that ends at `until`.
    pub(crate) fn begin_fault(&mut self, fault: Fault, until: u64) {
        self.coverage.faults[fault.kind()] += 1;
        if self.story.on() && !self.brief {
            let text = format!(
                "FAULT {fault:?} for {} ms",
                until.saturating_sub(self.now) / 1000
            );
            self.story.line(self.now, None, &text);
        }
        self.recompute();
        match fault {
            Fault::Pause(node) => self.pause(node, until),
            Fault::Kill(node) => self.kill(node),
            Fault::PowerLoss(node) => self.power_off(node),
            Fault::PairPowerLoss => {
                self.power_off(Node::A);
                self.power_off(Node::B);
            }
            Fault::ShelfPower => self.shelf_off(),
            Fault::DiskReset { disk } => self.reset_disk(usize::from(disk)),
            Fault::Lan(_) => self.tell_lan(),
            Fault::Operator(node, command) => self.ask(node, command),
            Fault::Stop { node, restart } => self.stop(node, restart),
            Fault::LeaseFlushed(node) => {
                self.machines[node as usize].kernel.lease_until = None;
            }
            Fault::LinkCut { .. }
            | Fault::LinksCut { .. }
            | Fault::LinkPoor { .. }
            | Fault::DiskMissing { .. }
            | Fault::DiskSlow { .. }
            | Fault::DiskStuck { .. }
            | Fault::DiskFlaky { .. }
            | Fault::PathDown { .. }
            | Fault::Answers { .. }
            | Fault::Journal { .. }
            | Fault::Pools { .. }
            | Fault::Services { .. }
            | Fault::Vips { .. }
            | Fault::Busy(_) => {}
        }
    }

    /// Ends a fault.
    pub(crate) fn end_fault(&mut self, fault: Fault) {
        self.recompute();
        match fault {
            Fault::Kill(node) => self.start_daemon(node),
            Fault::PowerLoss(node) => self.power_on(node),
            Fault::PairPowerLoss => {
                self.power_on(Node::A);
                self.power_on(Node::B);
            }
            Fault::ShelfPower => self.shelf_on(),
            Fault::DiskStuck { .. } => self.release_stuck(),
            Fault::Lan(_) => self.tell_lan(),
            Fault::LinkCut { .. }
            | Fault::LinksCut { .. }
            | Fault::LinkPoor { .. }
            | Fault::Pause(_)
            | Fault::DiskMissing { .. }
            | Fault::DiskSlow { .. }
            | Fault::DiskFlaky { .. }
            | Fault::PathDown { .. }
            | Fault::DiskReset { .. }
            | Fault::Answers { .. }
            | Fault::Journal { .. }
            | Fault::Pools { .. }
            | Fault::Services { .. }
            | Fault::Vips { .. }
            | Fault::Operator(..)
            | Fault::Stop { .. }
            | Fault::LeaseFlushed(_)
            | Fault::Busy(_) => {}
        }
    }

    fn power_on(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        if !machine.powered {
            let (boot, at) = (machine.boot, self.now + self.plan.boot_ms * 1000);
            self.queue.push(at, Happening::Boot { node, boot });
        }
    }

    /// Sums up the faults that hold now.
    pub(crate) fn recompute(&mut self) {
        let faults = self
            .active
            .iter()
            .map(|index| self.episodes[usize::from(*index)].fault);
        self.conditions = Conditions::of(faults);
        if self.plan.dark && !self.healing {
            self.conditions.cut_links();
        }
        self.conditions_changed();
    }

    fn tell_lan(&mut self) {
        for node in NODES {
            let up = !self.conditions.lan_down[node as usize];
            if std::mem::replace(&mut self.machines[node as usize].lan_up, up) != up {
                self.feed(node, Event::Lan { up });
            }
        }
    }

    /// SIGTERM.
    pub(crate) fn stop(&mut self, node: Node, restart: bool) {
        if self.machines[node as usize].daemon.is_some() {
            self.machines[node as usize].stopping = Some(restart);
            self.feed(node, Event::Stop { restart });
        }
    }

    fn heal(&mut self) {
        if self.story.on() {
            self.story.line(
                self.now,
                None,
                "every fault ends; the pair must become whole",
            );
        }
        self.healing = true;
        for index in std::mem::take(&mut self.active) {
            self.end_fault(self.episodes[usize::from(index)].fault);
        }
        self.recompute();
        self.release_stuck();
        for (node, life, op, outcome) in std::mem::take(&mut self.withheld) {
            self.done(node, life, op, outcome);
        }
        for node in NODES {
            if self.machines[node as usize].powered {
                self.start_daemon(node);
            } else {
                self.power_on(node);
            }
        }
    }
}
