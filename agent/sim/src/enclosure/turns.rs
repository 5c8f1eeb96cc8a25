//! What the daemon's disk engine does to disk work: turns that are waited for, deadlines from the first command on, and
//! commands that nobody waits for any more, which nothing overtakes on their path.

use super::{TaskKind, TaskRun, transport};
use crate::queue::Happening;
use crate::world::World;
use failover_core::action::Outcome;
use failover_core::disk_work::{DiskOutcome, DiskTask, DiskWork};
use failover_core::ids::Node;
use std::time::Duration;

/// Slowness of a disk, milliseconds, from which on its commands may be overdue.
const SLOW_MS: u16 = 100;
/// Interval at which the watch of a paused daemon is tried again, microseconds.
const WATCH_AGAIN_US: u64 = 20_000;

impl World {
    /// How long this kind of work may wait for its turn, and last from its first command on.
    pub(super) fn deadline_of(&self, work: &DiskWork) -> u64 {
        let timing = &self.plan.timing;
        let limit_ms = match work {
            DiskWork::Take { .. } | DiskWork::Leave { .. } | DiskWork::Expel { .. } => {
                timing.abort_ms
            }
            DiskWork::Survey | DiskWork::Roll { .. } | DiskWork::Answer { .. } => timing.disk_op_ms,
        };
        limit_ms * 1000
    }

    /// Work waits for its turn where the engine has much to do.
    pub(super) fn wait_for_turn(&mut self, slot: u32, node: Node) {
        let crowded_ms = u64::from(self.conditions.crowded_ms[node as usize]);
        if crowded_ms == 0 {
            return self.begin_task(slot);
        }
        let wait = self.rng.below(crowded_ms * 1000);
        let Some(task) = self.tasks[slot as usize].as_ref() else {
            return;
        };
        let at = self.now + wait.min(task.limit + 1);
        self.queue.push(at, Happening::Turn(slot));
    }

    /// The turn of disk work has come: in time, or nothing of it is sent.
    pub(crate) fn begin_task(&mut self, slot: u32) {
        let now = self.now;
        let Some(task) = self.tasks[slot as usize].as_ref() else {
            return;
        };
        let (node, life, op) = (task.node, task.life, task.op);
        if !self.lives_on(node, life) {
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
        if now > task.asked + task.limit || now >= task.until {
            self.free_task(slot);
            tell!(self, node, "no turn for work on a disk");
            let why = "no turn in time; nothing was sent".to_owned();
            let outcome = Outcome::Disk(DiskOutcome::NotSent(why));
            self.answer_daemon(node, life, op, Duration::ZERO, outcome, true);
            return;
        }
        task.send_by = now + task.limit;
        task.issued = now;
        let first = task.machine.step(None);
        self.next_step(slot, first);
    }

    /// Why a command isn't sent, if it isn't.
    pub(super) fn refused(&self, task: &TaskRun) -> Option<&'static str> {
        if task.bounded && self.now > task.send_by {
            return Some("not done in time; the rest of it was not sent");
        }
        if self.now >= task.until {
            return Some("it may not be done any more; the rest of it was not sent");
        }
        let mut hung = self.hung_of(task);
        let stuck = hung.any(|other| other.nexus == task.nexus);
        stuck.then_some("the command before is still on its way; this one was not sent")
    }

    /// A command to this task's disk that nobody waits for any more is still on its way.
    pub(super) fn is_hung(&self, task: &TaskRun) -> bool {
        self.hung_of(task).next().is_some()
    }

    /// Commands that nobody waits for any more, to the disk of `task`, sent by the same run of the daemon.
    fn hung_of(&self, task: &TaskRun) -> impl Iterator<Item = &TaskRun> {
        let of = (task.life, task.disk);
        let hung = self.hung.iter();
        hung.filter_map(|slot| self.tasks[*slot as usize].as_deref())
            .filter(move |other| (other.life, other.disk) == of)
    }

    /// Where a command may take long the watch looks at it when it is overdue.
    pub(super) fn watch_command(&mut self, slot: u32, task: &mut TaskRun) {
        self.sequence += 1;
        task.sequence = self.sequence;
        let condition = self.conditions.disks[task.node as usize][task.disk];
        if !condition.holds(task.nexus.path.0) && condition.slow_ms < SLOW_MS {
            return;
        }
        let due = self.now + task.limit;
        let due = match task.bounded {
            true => due.min(task.send_by + 1),
            false => due,
        };
        let sequence = self.sequence;
        self.queue.push(due, Happening::Overdue { slot, sequence });
    }

    /// A command is overdue: its work is told that nothing came, and goes on without it.
    pub(crate) fn overdue(&mut self, slot: u32, sequence: u64) {
        let Some(task) = self.tasks[slot as usize].as_deref() else {
            return;
        };
        if task.hung || task.sequence != sequence {
            return;
        }
        let Some(daemon) = self.machines[task.node as usize].daemon.as_ref() else {
            return;
        };
        if daemon.life != task.life {
            return;
        }
        if daemon.paused {
            let at = self.now + WATCH_AGAIN_US;
            self.queue.push(at, Happening::Overdue { slot, sequence });
            return;
        }
        let Some(mut hung) = self.tasks[slot as usize].take() else {
            return;
        };
        let idle = DiskTask::new(DiskWork::Survey, 1);
        let goes_on = Box::new(TaskRun {
            kind: std::mem::replace(&mut hung.kind, TaskKind::Look),
            machine: std::mem::replace(&mut hung.machine, idle),
            answer: None,
            lose_answer: false,
            sequence: 0,
            ..*hung
        });
        hung.hung = true;
        self.hung.push(slot);
        self.tasks[slot as usize] = Some(hung);
        let slot = self.keep_task(goes_on);
        let Some(task) = self.tasks[slot as usize].as_mut() else {
            return;
        };
        let step = task.machine.step(Some(transport("no answer in time")));
        self.next_step(slot, step);
    }
}

impl TaskRun {
    /// Nobody can know yet whether its disk answers: it waits for its turn, or was sent a moment ago.
    pub(crate) fn is_open(&self, now: u64) -> bool {
        !self.hung && (self.send_by == 0 || now < self.issued + self.limit)
    }
}
