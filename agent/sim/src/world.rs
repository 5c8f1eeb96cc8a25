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

mod actions;
mod daemon;
mod trouble;

use crate::coverage::Coverage;
use crate::enclosure::{Bay, TaskRun};
use crate::faults::{self, Conditions, Episode};
use crate::invariants::{Ledger, Violation};
use crate::machine::Machine;
use crate::plan::Plan;
use crate::queue::{Happening, Queue};
use crate::rng::Rng;
use crate::shrink::{self, Kept};
use crate::story::Story;
use failover_core::action::Outcome;
use failover_core::event::Event;
use failover_core::ids::{LinkId, Node, OpId};
use std::time::Duration;

/// Lateness of the timers of a busy machine at most, microseconds.
pub(crate) const BUSY_US: u64 = 60_000;

/// Both controllers.
pub const NODES: [Node; 2] = [Node::A, Node::B];
/// Interval of the pools' writes, microseconds.
const WRITE_US: u64 = 20_000;
/// Interval of the looks at the rules that hold at any time, microseconds.
const CHECK_US: u64 = 50_000;
/// Shortest simulated time of a seed, microseconds, where its time of faults has the usual length.
const SEED_US: u64 = 20_000_000;

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
    /// Tasks whose command nobody waits for any more.
    pub(crate) hung: Vec<u32>,
    /// Tasks whose command a stuck disk holds.
    pub(crate) stuck: Vec<u32>,
    /// Answers of disks that wait for the end of the faults.
    pub(crate) withheld: Vec<(Node, u32, OpId, Duration, Outcome)>,
    /// Number of the last command to a disk.
    pub(crate) sequence: u64,
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
        World::of_seed_with(seed, story, None)
    }

    /// The same with some of its faults alone.
    pub fn of_seed_with(seed: u64, story: Story, kept: Option<&[Kept]>) -> World {
        let mut rng = Rng::new(seed);
        let plan = Plan::of_seed(seed, &mut rng);
        let (mut episodes, heal_at) = faults::draw(&mut rng, &plan);
        episodes.extend(faults::apart::draw(seed, &plan, heal_at));
        let heal_at = faults::wide::draw(seed, &plan, heal_at, &mut episodes);
        if let Some(kept) = kept {
            episodes = shrink::only(&episodes, kept);
        }
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
            let at = if node == first || world.plan.single {
                0
            } else {
                late
            };
            world.queue.push(at, Happening::Start { node, boot: 0 });
        }
        world
    }

    /// A world without faults, for scripts; no daemon runs yet.
    pub fn scripted(plan: Plan, story: Story) -> World {
        let mut world = World::new(plan, Rng::new(1), story, 1);
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
        let bay = |_| Bay::new(plan.aptpl, plan.full_status);
        let bays = (0..plan.disks).map(bay).collect();
        let pools = plan.pools.len();
        let disks = usize::from(plan.disks);
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
            hung: Vec::new(),
            stuck: Vec::new(),
            withheld: Vec::new(),
            sequence: 0,
            conditions: Conditions::none(disks),
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
        self.coverage.sizes.count(&self.plan);
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
            Happening::Turn(task) => self.begin_task(task),
            Happening::Overdue { slot, sequence } => self.overdue(slot, sequence),
            Happening::LaneEnd { node, boot, lane } => self.lane_ended(node, boot, lane),
            Happening::Done {
                node,
                life,
                op,
                waited,
                outcome,
            } => self.done(node, life, op, waited, *outcome),
            Happening::Gathered { node, life } => self.take_gathered(node, life),
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
        self.ended = self.healing && whole && self.now >= SEED_US * self.plan.faulty_percent / 100;
    }
}
