//! The shelf: disks with their bays, commands on their way, writes inside disks.
//!
//! ```text
//!   DiskTask ─ command ─▶ way ─▶ Execute: Disk::execute ─▶ way back ─▶ Answer ─▶ DiskTask ─▶ … ─▶ Done
//!   pools' writer ─ each 20 ms ─▶ accepted or refused by the reservation ─▶ lands at once, or later unless aborted
//! ```

mod power;
mod temper;
mod told;
mod turns;
mod writes;

use crate::disk::{Disk, Nexus};
use crate::plan::disk_index;
use crate::queue::Happening;
use crate::world::World;
use failover_core::action::Outcome;
use failover_core::disk_work::{DiskOutcome, DiskStep, DiskTask, DiskWork, PrAnswer};
use failover_core::ids::{DiskId, Node, OpId, PathId};
use failover_core::key::Key;
use failover_core::pr::{PrCommand, PrError};
use std::time::Duration;

/// A host that isn't of the pair.
pub const STRANGER: Nexus = Nexus::new(Node::B, 7);

/// A disk, and the writes inside it that haven't landed.
pub struct Bay {
    /// Its reservations.
    pub disk: Disk,
    /// A host that isn't of the pair took it, and nobody of the pair took it back: reservations protect nothing there.
    pub tampered: bool,
    /// Accepted, not landed.
    pub flights: Vec<Flight>,
}

/// A write inside a disk.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Its number.
    pub write: u32,
    /// Where it came from.
    pub nexus: Nexus,
    /// Whose it is.
    pub pool: usize,
}

impl Bay {
    /// A bay with a fresh disk.
    pub fn new(aptpl: bool, full_status: bool) -> Bay {
        let disk = Disk::new(aptpl);
        Bay {
            disk: match full_status {
                true => disk,
                false => disk.without_full_status(),
            },
            tampered: false,
            flights: Vec::new(),
        }
    }
}

/// A piece of disk work that runs.
pub struct TaskRun {
    pub(crate) node: Node,
    pub(crate) life: u32,
    pub(crate) boot: u32,
    pub(crate) op: OpId,
    pub(crate) disk: usize,
    /// When it was asked for.
    asked: u64,
    /// When its first command was sent; before that, when it was asked for.
    pub(crate) issued: u64,
    /// How long it may wait for its turn, and last from then on.
    limit: u64,
    /// Whoever asked for it allows nothing of it to be sent from then on.
    until: u64,
    /// Nothing more is sent of it after `send_by`.
    bounded: bool,
    /// 0 before its turn has come.
    send_by: u64,
    /// Number of its command, among all.
    sequence: u64,
    /// Its work went on without it.
    pub(crate) hung: bool,
    pub(crate) kind: TaskKind,
    machine: DiskTask,
    pub(crate) nexus: Nexus,
    pub(crate) command: PrCommand,
    answer: Option<PrAnswer>,
    lose_answer: bool,
}

/// What the rules must know of a task.
pub(crate) enum TaskKind {
    Look,
    Take { key: Key, surveyed: Vec<u64> },
    Roll { to: Key },
    Leave,
    Answer,
    Expel { victims: Vec<u64> },
}

impl TaskKind {
    fn of(work: &DiskWork) -> TaskKind {
        match work {
            DiskWork::Survey => TaskKind::Look,
            DiskWork::Take { key, surveyed, .. } => TaskKind::Take {
                key: *key,
                surveyed: surveyed.keys.clone(),
            },
            DiskWork::Roll { to, .. } => TaskKind::Roll { to: *to },
            DiskWork::Leave { .. } => TaskKind::Leave,
            DiskWork::Answer { .. } => TaskKind::Answer,
            DiskWork::Expel { victims, .. } => TaskKind::Expel {
                victims: victims.clone(),
            },
        }
    }
}

fn transport(what: &str) -> PrAnswer {
    Err(PrError::Transport(what.to_owned()))
}

impl World {
    // ---- commands ------------------------------------------------------------------------------------------

    /// Begins disk work.
    pub(crate) fn start_task(
        &mut self,
        node: Node,
        life: u32,
        op: OpId,
        disk: DiskId,
        work: DiskWork,
    ) {
        let index = disk_index(disk);
        self.disk_work_asked(node, op, index, &work);
        if self.story.on() && !self.brief && !matches!(work, DiskWork::Survey) {
            tell!(self, node, "d{index}: {}", told::work(&work));
        }
        let until = work.until();
        let until = until.map(|until| self.machines[node as usize].true_time(until));
        let task = Box::new(TaskRun {
            node,
            life,
            boot: self.machines[node as usize].boot,
            op,
            disk: index,
            asked: self.now,
            issued: self.now,
            limit: self.deadline_of(&work),
            until: until.unwrap_or(u64::MAX),
            bounded: matches!(work, DiskWork::Take { .. } | DiskWork::Answer { .. }),
            send_by: 0,
            sequence: 0,
            hung: false,
            kind: TaskKind::of(&work),
            machine: DiskTask::new(work, self.plan.paths),
            nexus: Nexus::new(node, 0),
            command: PrCommand::ReadKeys,
            answer: None,
            lose_answer: false,
        });
        let slot = self.keep_task(task);
        self.wait_for_turn(slot, node);
    }

    fn keep_task(&mut self, task: Box<TaskRun>) -> u32 {
        let slot = match self.free_tasks.pop() {
            Some(slot) => slot,
            None => {
                self.tasks.push(None);
                self.tasks.len() as u32 - 1
            }
        };
        self.tasks[slot as usize] = Some(task);
        slot
    }

    fn free_task(&mut self, slot: u32) -> Option<Box<TaskRun>> {
        let task = self.tasks[slot as usize].take();
        if let Some(task) = &task {
            if task.hung {
                self.hung.retain(|each| *each != slot);
            }
            self.free_tasks.push(slot);
        }
        task
    }

    fn next_step(&mut self, slot: u32, step: DiskStep) {
        match step {
            DiskStep::Command(path, command) => self.issue(slot, path, command),
            DiskStep::Done(outcome) => {
                let Some(task) = self.free_task(slot) else {
                    return;
                };
                let outcome = match outcome {
                    DiskOutcome::Left if self.is_hung(&task) => outcome.unsettled(),
                    ended => ended,
                };
                self.disk_work_ended(&task, &outcome);
                let waited = Duration::from_micros(task.issued - task.asked);
                let outcome = Outcome::Disk(outcome);
                self.answer_daemon(task.node, task.life, task.op, waited, outcome, true);
            }
        }
    }

    /// Sends a command on its way.
    fn issue(&mut self, slot: u32, path: PathId, command: PrCommand) {
        let Some(mut task) = self.tasks[slot as usize].take() else {
            return;
        };
        task.nexus = Nexus {
            node: task.node,
            path,
        };
        task.command = command;
        task.answer = None;
        task.lose_answer = false;
        if let Some(why) = self.refused(&task) {
            task.answer = Some(transport(why));
            self.tasks[slot as usize] = Some(task);
            self.queue.push(self.now + 1, Happening::Answer(slot));
            return;
        }
        self.command_issued(&task);
        self.watch_command(slot, &mut task);
        let condition = self.conditions.disks[task.node as usize][task.disk];
        let gone = self.conditions.shelf_down
            || condition.missing
            || condition.paths_down >> path.0 & 1 == 1;
        let slow = u64::from(condition.slow_ms) * 1000;
        let way = 10 + self.rng.below(self.plan.disk_us) + self.rng.below(slow + 1);
        if gone {
            task.answer = Some(transport("no answer from the target"));
            let wait = if self.rng.percent(80) { 500 } else { 150_000 };
            let at = self.now + way + self.rng.below(wait);
            self.queue.push(at, Happening::Answer(slot));
        } else if condition.holds(path.0) {
            self.stuck.push(slot);
            if self.rng.percent(60) {
                // The host gives up.
                let at = self.now + self.rng.between(200_000, 1_200_000);
                self.queue.push(at, Happening::Answer(slot));
            }
        } else {
            if condition.flaky > 0 && self.rng.percent(condition.flaky.into()) {
                if self.rng.percent(50) {
                    task.answer = Some(transport("the command was lost on its way"));
                } else {
                    task.lose_answer = true;
                }
            }
            let what = match task.answer {
                Some(_) => Happening::Answer(slot),
                None => Happening::Execute(slot),
            };
            self.queue.push(self.now + way, what);
        }
        self.tasks[slot as usize] = Some(task);
    }

    /// A command arrives at its disk.
    pub(crate) fn execute(&mut self, slot: u32) {
        let Some(task) = self.tasks[slot as usize].as_deref() else {
            return;
        };
        let stale = self.machines[task.node as usize].boot != task.boot;
        if stale && self.rng.percent(50) {
            // Its sender lost power; half of such commands were still inside the adapter.
            self.free_task(slot);
            return;
        }
        let Some(mut task) = self.tasks[slot as usize].take() else {
            return;
        };
        let mut back = 10 + self.rng.below(self.plan.disk_us);
        if self.conditions.shelf_down {
            task.answer = Some(transport("the target went away"));
        } else {
            back += self.execute_now(&mut task);
        }
        if task.lose_answer {
            task.answer = Some(transport("the answer was lost on its way"));
        }
        self.tasks[slot as usize] = Some(task);
        self.queue.push(self.now + back, Happening::Answer(slot));
    }

    /// Carries out the command; the time that its abort takes.
    fn execute_now(&mut self, task: &mut TaskRun) -> u64 {
        self.coverage.commands += 1;
        self.odd_attention(task);
        let bay = &mut self.bays[task.disk];
        let victims = bay.disk.aborts(task.nexus, task.command);
        let answer = bay.disk.execute(task.nexus, task.command);
        let (answer, late) = self.tempered(task.command, answer);
        let writes_key = !matches!(
            task.command,
            PrCommand::ReadKeys | PrCommand::ReadReservation | PrCommand::ReadFull
        );
        if writes_key && self.story.on() && !self.brief {
            let said = match &answer {
                Ok(_) => "done",
                Err(PrError::Conflict) => "CONFLICT",
                Err(_) => "not done",
            };
            let text = format!(
                "   d{}.{} {}: {said}",
                task.disk,
                task.nexus.path.0,
                told::command(task.command)
            );
            self.story.line(self.now, Some(task.node), &text);
        }
        let done = answer.is_ok();
        task.answer = Some(answer);
        if done && writes_key {
            self.command_done(task);
        }
        if !done || victims.is_empty() {
            return late;
        }
        // Each victim's write is gone, or has landed, before the abort answers.
        let all = std::mem::take(&mut self.bays[task.disk].flights);
        let (aborted, stay): (Vec<Flight>, Vec<Flight>) = all
            .into_iter()
            .partition(|flight| victims.contains(&flight.nexus));
        self.bays[task.disk].flights = stay;
        for flight in &aborted {
            if self.rng.percent(50) {
                self.landed(task.disk, *flight);
            } else {
                self.coverage.aborted_writes += 1;
            }
        }
        match aborted.is_empty() {
            true => late,
            false => late + self.rng.below(60_000),
        }
    }

    /// The answer reaches the machine.
    pub(crate) fn answered(&mut self, slot: u32) {
        let Some(task) = self.tasks[slot as usize].as_ref() else {
            return;
        };
        let (node, life) = (task.node, task.life);
        if task.send_by == 0 {
            return self.begin_task(slot);
        }
        if task.answer.is_none() {
            // The host gave up on a stuck command; it may have been carried out.
            self.stuck.retain(|each| *each != slot);
            let Some(mut task) = self.tasks[slot as usize].take() else {
                return;
            };
            if self.rng.percent(30) && !self.conditions.shelf_down {
                self.execute_now(&mut task);
            }
            task.answer = Some(transport("the command's time ran out"));
            self.tasks[slot as usize] = Some(task);
        }
        let hung = self.tasks[slot as usize]
            .as_ref()
            .is_some_and(|task| task.hung);
        if hung || !self.lives_on(node, life) {
            self.free_task(slot);
            return;
        }
        if let Some(daemon) = self.machines[node as usize].daemon.as_mut()
            && daemon.paused
        {
            daemon.held_tasks.push(slot);
            return;
        }
        let Some(task) = self.tasks[slot as usize].as_mut() else {
            return;
        };
        let answer = task.answer.take();
        let step = task.machine.step(answer);
        self.next_step(slot, step);
    }

    /// A stuck disk moves again: what it held is carried out or lost.
    pub(crate) fn release_stuck(&mut self) {
        for slot in std::mem::take(&mut self.stuck) {
            let Some(task) = self.tasks[slot as usize].as_ref() else {
                continue;
            };
            if self.conditions.disks[task.node as usize][task.disk].holds(task.nexus.path.0) {
                self.stuck.push(slot);
                continue;
            }
            let Some(mut task) = self.tasks[slot as usize].take() else {
                continue;
            };
            if self.rng.percent(60) && !self.conditions.shelf_down {
                self.execute_now(&mut task);
            } else {
                task.answer = Some(transport("reset while it was stuck"));
            }
            self.tasks[slot as usize] = Some(task);
            self.queue.push(self.now + 20, Happening::Answer(slot));
        }
    }
}
