//! How the core copes with many disks: one takeover of a dead owner's disks and the steady check after it, in simulated
//! time, with the core's own cost measured.
//!
//! ```text
//!   core ──▶ disk work ──▶ at most so many commands in flight ──▶ a disk answers after its latency ──▶ core
//! ```
//!
//! An overdue command leaves the count, as in the daemon: a stuck disk costs its own lane only.

use crate::disk::{Disk, Nexus};
use failover_api::Status;
use failover_core::action::{Action, Outcome, Restored, Work};
use failover_core::beat::{Beat, Echo, Role};
use failover_core::config::{CoreConfig, DiskConfig, PoolConfig, Timing};
use failover_core::controller::Controller;
use failover_core::disk_work::{DiskStep, DiskTask, PrAnswer};
use failover_core::event::Event;
use failover_core::ids::{DiskId, Epoch, LinkId, Node, OpId, PoolId, Session};
use failover_core::key::{EpochBits, Key, Phase};
use failover_core::pr::{PrCommand, PrError};
use failover_core::states::State;
use failover_core::time::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

const PAIR: u16 = 0x51a7;
/// Time of other work: journal, import, services, addresses.
const OTHER_US: u64 = 1000;
/// Simulated time over which the steady check is measured.
const STEADY_US: u64 = 5_000_000;
/// Time after which a takeover that doesn't end is given up.
const LIMIT_US: u64 = 60_000_000;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Shared disks.
    pub disks: usize,
    /// What a command takes.
    pub latency: Duration,
    /// Percentage of the disks, arbiters excepted, that answer nothing.
    pub stuck_percent: usize,
    /// Commands in flight that are not overdue.
    pub in_flight: usize,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From the decision until every disk is taken or given up, simulated.
    pub owned: Duration,
    /// From the decision until the arbiters are won, simulated.
    pub verdict: Duration,
    /// The core's own time in that.
    pub core: Duration,
    /// Longest single turn of the core.
    pub longest_turn: Duration,
    /// The core's share of one processor while it owns and checks every disk.
    pub steady_percent: f64,
    /// Commands a second while it owns.
    pub steady_commands: u64,
}

enum Due {
    Wake,
    Answer(usize),
    Overdue(usize),
    Other(OpId),
    Beat(Box<Beat>),
}

struct Running {
    op: OpId,
    asked: u64,
    /// How long its first command waited for its turn.
    waited: Option<u64>,
    disk: usize,
    task: DiskTask,
    command: Option<(u8, PrCommand)>,
    counted: bool,
}

struct Bench {
    setting: Setting,
    now: u64,
    controller: Controller,
    disks: Vec<Disk>,
    /// Disks with a command that nobody waits for any more: they are refused the next at once.
    hung: Vec<bool>,
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    waiting: VecDeque<usize>,
    in_flight: usize,
    agenda: BinaryHeap<Reverse<(u64, u64)>>,
    dues: Vec<Option<Due>>,
    wake_at: u64,
    spent: Duration,
    longest: Duration,
    commands: u64,
    peer_lives: bool,
}

/// Runs one setting.
pub fn measure(setting: Setting) -> Result<Measured, String> {
    let mut bench = Bench::new(setting);
    bench.until(|state| state == State::FencingArbiters)?;
    let (began, spent) = (bench.now, bench.spent);
    bench.longest = Duration::ZERO;
    bench.until(|state| state == State::FencingRest)?;
    let verdict = bench.now - began;
    bench.until(|state| state == State::Importing)?;
    let owned = bench.now - began;
    let core = bench.spent - spent;
    let longest_turn = bench.longest;
    bench.until(|state| state == State::Active)?;
    // From here on a standby answers, as in a whole pair.
    bench.peer_lives = true;
    bench.run_to(bench.now + 1_000_000);
    let (spent, commands, from) = (bench.spent, bench.commands, bench.now);
    bench.run_to(from + STEADY_US);
    let share = (bench.spent - spent).as_secs_f64() / (STEADY_US as f64 / 1e6);
    Ok(Measured {
        owned: Duration::from_micros(owned),
        verdict: Duration::from_micros(verdict),
        core,
        longest_turn,
        steady_percent: share * 100.0,
        steady_commands: (bench.commands - commands) * 1_000_000 / STEADY_US,
    })
}

fn config(disks: usize) -> CoreConfig {
    CoreConfig {
        node: Node::A,
        pair: PAIR,
        has_peer: true,
        links: 1,
        disks: (0..disks)
            .map(|index| DiskConfig {
                id: id(index),
                name: format!("d{index}"),
            })
            .collect(),
        pools: vec![PoolConfig {
            id: PoolId(0),
            name: "p0".to_owned(),
        }],
        arbiters: 3,
        version: "1".to_owned(),
        seed: 1,
        timing: Timing::default(),
    }
}

/// What a standby answers to this beat.
pub(crate) fn standby(heard: &Beat) -> Beat {
    Beat {
        node: Node::B,
        session: Session(2),
        echo: Some(Echo {
            session: heard.session,
            seq: heard.seq,
        }),
        status: Status::Backup,
        role: Role::Standby,
        incarnation: 2,
        eligible: true,
        serving: false,
        arbiters_acked: heard.arbiters.version,
        ..heard.clone()
    }
}

fn id(index: usize) -> DiskId {
    DiskId(index as u64 + 1)
}

impl Bench {
    fn new(setting: Setting) -> Bench {
        let old = Key {
            pair: PAIR,
            node: Node::B,
            held: false,
            phase: Phase::Owner,
            incarnation: 1,
            epoch: EpochBits::of(Epoch(1)),
            beat: 0,
        };
        let owned = || {
            let mut disk = Disk::new(true);
            let nexus = Nexus::new(Node::B, 0);
            let key = old.to_bits();
            for command in [
                PrCommand::RegisterIgnore { new: key },
                PrCommand::Reserve { key },
            ] {
                disk.execute(nexus, command).expect("a new disk takes it");
            }
            disk
        };
        let now = 1_000_000;
        let (controller, actions) = Controller::new(
            Instant::from_micros(now),
            config(setting.disks),
            Restored::default(),
        );
        let mut bench = Bench {
            setting,
            now,
            controller,
            disks: (0..setting.disks).map(|_| owned()).collect(),
            hung: vec![false; setting.disks],
            running: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            agenda: BinaryHeap::new(),
            dues: Vec::new(),
            wake_at: u64::MAX,
            spent: Duration::ZERO,
            longest: Duration::ZERO,
            commands: 0,
            peer_lives: false,
        };
        bench.carry_out(actions);
        bench
    }

    fn until(&mut self, reached: impl Fn(State) -> bool) -> Result<(), String> {
        let limit = self.now + LIMIT_US;
        while !reached(self.controller.state()) {
            if self.now >= limit || !self.step(limit) {
                return Err(format!(
                    "{} disks: still {} after {} s",
                    self.setting.disks,
                    self.controller.state_name(),
                    LIMIT_US / 1_000_000
                ));
            }
        }
        Ok(())
    }

    fn run_to(&mut self, until: u64) {
        while self.step(until) {}
        self.now = until;
    }

    /// Everything that is due at the next moment, in one turn of the core.
    fn step(&mut self, until: u64) -> bool {
        let Some(Reverse((at, _))) = self.agenda.peek().copied() else {
            return false;
        };
        if at > until {
            return false;
        }
        self.now = self.now.max(at);
        let mut events = Vec::new();
        while let Some(Reverse((at, index))) = self.agenda.peek().copied()
            && at <= self.now
        {
            self.agenda.pop();
            match self.dues[index as usize].take() {
                Some(Due::Wake) => events.push(Event::Wake),
                Some(Due::Answer(task)) => events.extend(self.answered(task)),
                Some(Due::Overdue(task)) => events.extend(self.overdue(task)),
                Some(Due::Other(op)) => events.push(Event::Done {
                    op,
                    waited: Duration::ZERO,
                    outcome: Outcome::Ok,
                }),
                Some(Due::Beat(beat)) => events.push(Event::Beat {
                    link: LinkId(0),
                    received: Instant::from_micros(self.now),
                    beat,
                }),
                None => {}
            }
        }
        let now = Instant::from_micros(self.now);
        let begun = std::time::Instant::now();
        let actions = self.controller.handle_all(now, events);
        let took = begun.elapsed();
        self.spent += took;
        self.longest = self.longest.max(took);
        self.carry_out(actions);
        true
    }

    fn at(&mut self, at: u64, due: Due) {
        self.agenda.push(Reverse((at, self.dues.len() as u64)));
        self.dues.push(Some(due));
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run {
                    op,
                    work: Work::Disk { disk, work },
                } => {
                    let task = DiskTask::new(work, 1);
                    let disk = disk.0 as usize - 1;
                    let running = Running {
                        op,
                        asked: self.now,
                        waited: None,
                        disk,
                        task,
                        command: None,
                        counted: false,
                    };
                    let index = match self.free.pop() {
                        Some(index) => index,
                        None => {
                            self.running.push(None);
                            self.running.len() - 1
                        }
                    };
                    self.running[index] = Some(running);
                    if let Some(done) = self.go_on(index, None) {
                        unreachable!("disk work begins with a command: {done:?}");
                    }
                }
                Action::Run { op, .. } => self.at(self.now + OTHER_US, Due::Other(op)),
                Action::Send(beat) if self.peer_lives => {
                    let answer = Due::Beat(Box::new(standby(&beat)));
                    self.at(self.now + OTHER_US, answer);
                }
                Action::Send(_)
                | Action::Lease(_)
                | Action::Reply { .. }
                | Action::Notify(_)
                | Action::History(_)
                | Action::PetWatchdog
                | Action::Halt(_)
                | Action::Exit => {}
            }
        }
        self.issue();
        if let Some((at, _)) = self.controller.next_timeout() {
            let at = at.micros().max(self.now + 1);
            if self.wake_at <= self.now || at < self.wake_at {
                self.wake_at = at;
                self.at(at, Due::Wake);
            }
        }
    }

    /// Feeds an answer to a task; its next command waits for its turn.
    fn go_on(&mut self, index: usize, answer: Option<PrAnswer>) -> Option<Event> {
        let running = self.running[index].as_mut()?;
        match running.task.step(answer) {
            DiskStep::Command(path, command) => {
                running.command = Some((path.0, command));
                self.waiting.push_back(index);
                None
            }
            DiskStep::Done(outcome) => {
                let op = running.op;
                let waited = Duration::from_micros(running.waited.unwrap_or(0));
                self.running[index] = None;
                self.free.push(index);
                Some(Event::Done {
                    op,
                    waited,
                    outcome: Outcome::Disk(outcome),
                })
            }
        }
    }

    fn issue(&mut self) {
        while self.in_flight < self.setting.in_flight
            && let Some(index) = self.waiting.pop_front()
        {
            let Some(running) = self.running[index].as_mut() else {
                continue;
            };
            running.counted = true;
            running.waited.get_or_insert(self.now - running.asked);
            let hung = self.hung[running.disk];
            self.in_flight += 1;
            self.commands += 1;
            if self.is_stuck(index) {
                let deadline = match hung {
                    true => 1,
                    false => Timing::default().disk_op_ms * 1000,
                };
                self.at(self.now + deadline, Due::Overdue(index));
            } else {
                let latency = self.setting.latency.as_micros() as u64;
                self.at(self.now + latency, Due::Answer(index));
            }
        }
    }

    fn is_stuck(&self, index: usize) -> bool {
        let disk = self.running[index]
            .as_ref()
            .map_or(0, |running| running.disk);
        disk >= 3 && disk % 100 < self.setting.stuck_percent
    }

    fn answered(&mut self, index: usize) -> Option<Event> {
        let running = self.running[index].as_mut()?;
        let (path, command) = running.command.take()?;
        let answer = self.disks[running.disk].execute(Nexus::new(Node::A, path), command);
        self.in_flight -= usize::from(std::mem::take(&mut running.counted));
        self.go_on(index, Some(answer))
    }

    /// As the daemon's engine does: the work is told that nothing came.
    fn overdue(&mut self, index: usize) -> Option<Event> {
        let running = self.running[index].as_mut()?;
        self.in_flight -= usize::from(std::mem::take(&mut running.counted));
        self.hung[running.disk] = true;
        let answer = Err(PrError::Transport("no answer".to_owned()));
        self.go_on(index, Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(disks: usize, stuck_percent: usize) -> Setting {
        Setting {
            disks,
            latency: Duration::from_millis(2),
            stuck_percent,
            in_flight: 64,
        }
    }

    #[test]
    fn all_disks_of_the_largest_shelf_are_owned_in_half_a_second() {
        let measured = measure(setting(1255, 0)).expect("it serves");
        assert!(measured.owned <= Duration::from_millis(500), "{measured:?}");
    }

    #[test]
    fn stuck_disks_hold_up_nobody() {
        let calm = measure(setting(256, 0)).expect("it serves");
        let stuck = measure(setting(256, 10)).expect("it serves");
        assert!(
            stuck.verdict <= calm.verdict + Duration::from_millis(100),
            "{stuck:?}"
        );
        assert!(
            stuck.owned <= calm.owned + Duration::from_millis(100),
            "{stuck:?}"
        );
    }
}
