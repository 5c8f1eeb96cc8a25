//! The shelf: disks with their bays, commands on their way, writes inside disks.
//!
//! ```text
//!   DiskTask ─ command ─▶ way ─▶ Execute: Disk::execute ─▶ way back ─▶ Answer ─▶ DiskTask ─▶ … ─▶ Done
//!   pools' writer ─ each 20 ms ─▶ accepted or refused by the reservation ─▶ lands at once, or later unless aborted
//! ```

mod turns;

use crate::disk::{Disk, Nexus};
use crate::plan::{disk_id, disk_index};
use crate::queue::Happening;
use crate::world::{NODES, World};
use failover_core::action::Outcome;
use failover_core::disk_work::{DiskOutcome, DiskStep, DiskTask, DiskWork, PrAnswer};
use failover_core::ids::{DiskId, Node, OpId, PathId};
use failover_core::key::Key;
use failover_core::pr::{PrCommand, PrError};
use std::time::Duration;

/// A host that isn't of the pair.
pub const STRANGER: Nexus = Nexus::new(Node::B, 7);
/// Its key: no key of the pair.
const STRANGER_KEY: u64 = 0x0bad_0000_0000_0001;

/// Longest stay of a write inside a disk, microseconds.
const FLIGHT_US: u64 = 1_500_000;

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
            tell!(self, node, "d{index}: {}", describe(&work));
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
        if task.is_some() {
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
        let Some(mut task) = self.tasks[slot as usize].take() else {
            return;
        };
        let stale = self.machines[task.node as usize].boot != task.boot;
        if stale && self.rng.percent(50) {
            // Its sender lost power; half of such commands were still inside the adapter.
            self.free_tasks.push(slot);
            return;
        }
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
        let bay = &mut self.bays[task.disk];
        let victims = bay.disk.aborts(task.nexus, task.command);
        let answer = bay.disk.execute(task.nexus, task.command);
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
                describe_command(task.command)
            );
            self.story.line(self.now, Some(task.node), &text);
        }
        let done = answer.is_ok();
        task.answer = Some(answer);
        if done && writes_key {
            self.command_done(task);
        }
        if !done || victims.is_empty() {
            return 0;
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
        if aborted.is_empty() {
            0
        } else {
            self.rng.below(60_000)
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

    // ---- power, reset --------------------------------------------------------------------------------------

    pub(crate) fn shelf_off(&mut self) {
        for bay in &mut self.bays {
            bay.flights.clear();
        }
    }

    pub(crate) fn shelf_on(&mut self) {
        for bay in &mut self.bays {
            bay.disk.power_cycle();
        }
        if !self.plan.aptpl {
            self.keys_are_gone();
        }
    }

    pub(crate) fn reset_disk(&mut self, disk: usize) {
        self.bays[disk].disk.reset();
        self.bays[disk].flights.clear();
    }

    // ---- a host that isn't of the pair ---------------------------------------------------------------------

    /// It registers on disks; where it takes them everybody else's registration and commands are gone.
    pub(crate) fn stranger_comes(&mut self, disks: u8, takes: bool) {
        for (index, bay) in self.bays.iter_mut().enumerate() {
            if disks >> index & 1 == 0 {
                continue;
            }
            while bay.disk.take_unit_attention(STRANGER).is_some() {}
            let new = STRANGER_KEY;
            let registers = PrCommand::RegisterIgnore { new };
            let mut done = bay.disk.execute(STRANGER, registers).is_ok();
            if takes {
                let others: Vec<u64> = bay.disk.registrations().map(|(_, key)| key).collect();
                for victim in others.into_iter().filter(|key| *key != new) {
                    // A key on several paths goes at once; the second preempt of it is a conflict.
                    let _ = bay
                        .disk
                        .execute(STRANGER, PrCommand::PreemptAbort { own: new, victim });
                }
                done &= bay
                    .disk
                    .execute(STRANGER, PrCommand::Reserve { key: new })
                    .is_ok();
                bay.flights.clear();
                bay.tampered = true;
            }
            debug_assert!(done, "nobody stops it");
        }
        if takes {
            self.no_longer_fenced(disks);
            self.conditions_changed();
        }
    }

    pub(crate) fn stranger_goes(&mut self, disks: u8) {
        for (index, bay) in self.bays.iter_mut().enumerate() {
            if disks >> index & 1 == 1 {
                while bay.disk.take_unit_attention(STRANGER).is_some() {}
                let leaves = PrCommand::Register {
                    old: STRANGER_KEY,
                    new: 0,
                };
                // A shelf that forgot everything refuses it.
                let _ = bay.disk.execute(STRANGER, leaves);
            }
        }
        self.conditions_changed();
    }

    // ---- writes --------------------------------------------------------------------------------------------

    /// Every pool that can be written here writes to each of its disks.
    pub(crate) fn write_all(&mut self) {
        for node in NODES {
            if !self.machines[node as usize].powered {
                continue;
            }
            for pool in 0..self.plan.pools.len() {
                let Some(disks) = self.machines[node as usize].kernel.writes(pool) else {
                    continue;
                };
                for disk in 0..self.bays.len() {
                    if disks >> disk & 1 == 1 {
                        self.write(node, pool, disk);
                    }
                }
            }
        }
    }

    fn write(&mut self, node: Node, pool: usize, disk: usize) {
        let condition = self.conditions.disks[node as usize][disk];
        if self.conditions.shelf_down || condition.missing || condition.stuck {
            return;
        }
        // Any path serves; a retry over another one follows a refusal.
        let first = self.rng.below(self.plan.paths.into()) as u8;
        for turn in 0..self.plan.paths {
            let path = (first + turn) % self.plan.paths;
            if condition.is_shut(path) {
                continue;
            }
            let nexus = Nexus::new(node, path);
            let bay = &mut self.bays[disk];
            if bay.disk.take_unit_attention(nexus).is_some() {
                continue;
            }
            if !bay.disk.may_write(nexus) {
                self.coverage.refused_writes += 1;
                continue;
            }
            self.coverage.writes += 1;
            let write = self.coverage.writes as u32;
            let flight = Flight { write, nexus, pool };
            // No abort reaches what a disk accepted while nobody held it: such writes are assumed to land at once. Only
            // disks that lose their keys with the power are ever in that state under an imported pool.
            let held = self.bays[disk].disk.holder().is_some();
            let slow = self.plan.slow_writes > 0 && self.rng.percent(self.plan.slow_writes);
            if held && slow {
                let at = self.now + self.rng.below(FLIGHT_US);
                let disk_number = disk as u8;
                self.queue.push(
                    at,
                    Happening::Land {
                        disk: disk_number,
                        write,
                    },
                );
                self.bays[disk].flights.push(flight);
            } else {
                self.landed(disk, flight);
            }
            return;
        }
    }

    /// A write inside a disk lands, unless it was aborted.
    pub(crate) fn land(&mut self, disk: usize, write: u32) {
        let flights = &mut self.bays[disk].flights;
        if let Some(index) = flights.iter().position(|flight| flight.write == write) {
            let flight = flights.swap_remove(index);
            self.landed(disk, flight);
        }
    }

    /// Lands every write of a pool's machine that is still inside a disk: its export waits for them.
    pub(crate) fn land_own(&mut self, node: Node, pool: usize) {
        for disk in 0..self.bays.len() {
            let all = std::mem::take(&mut self.bays[disk].flights);
            for flight in all {
                if flight.nexus.node == node && flight.pool == pool {
                    self.landed(disk, flight);
                } else {
                    self.bays[disk].flights.push(flight);
                }
            }
        }
    }

    /// Disks that refuse a machine's writes on every path, a bit each.
    pub(crate) fn refusing(&self, node: Node) -> u8 {
        let mut bits = 0;
        for (index, bay) in self.bays.iter().enumerate() {
            let condition = self.conditions.disks[node as usize][index];
            let open = |path: &u8| {
                !condition.is_shut(*path) && bay.disk.may_write(Nexus::new(node, *path))
            };
            let reachable = !self.conditions.shelf_down && !condition.missing && !condition.stuck;
            if !(reachable && (0..self.plan.paths).any(|path| open(&path))) {
                bits |= 1 << index;
            }
        }
        bits
    }

    /// The keys on every disk, for the story.
    pub(crate) fn describe_disks(&self) -> String {
        let pair = self.plan.config(Node::A, 0).pair;
        let mut text = String::new();
        for (index, bay) in self.bays.iter().enumerate() {
            let mut keys: Vec<String> = bay
                .disk
                .registrations()
                .map(|(nexus, bits)| {
                    let holds = if bay.disk.holder() == Some(nexus) {
                        "*"
                    } else {
                        ""
                    };
                    match Key::from_bits(bits, pair) {
                        Some(key) => format!("{holds}{key:?}"),
                        None => format!("{holds}{bits:x}"),
                    }
                })
                .collect();
            keys.dedup();
            text += &format!("{}: {}; ", disk_id(index as u8).0 - 1, keys.join(" "));
        }
        text
    }
}

fn describe(work: &DiskWork) -> String {
    match work {
        DiskWork::Survey => "look".to_owned(),
        DiskWork::Take { key, surveyed, .. } => {
            format!("take with {key:?}, {} key(s) seen", surveyed.keys.len())
        }
        DiskWork::Roll { to, .. } => format!("roll to {to:?}"),
        DiskWork::Leave { holder } => format!("leave as {holder:?}"),
        DiskWork::Answer { key } => format!("answer with {key:?}"),
        DiskWork::Expel { victims, .. } => format!("expel {} key(s)", victims.len()),
    }
}

fn describe_command(command: PrCommand) -> String {
    let key = |bits: u64| match Key::from_bits(bits, (bits >> 48) as u16) {
        Some(key) => format!("{key:?}"),
        None => format!("{bits:x}"),
    };
    match command {
        PrCommand::ReadKeys => "read keys".to_owned(),
        PrCommand::ReadReservation => "read reservation".to_owned(),
        PrCommand::ReadFull => "read full status".to_owned(),
        PrCommand::Register { old, new } => format!("register {} over {}", key(new), key(old)),
        PrCommand::RegisterIgnore { new } => format!("register-ignore {}", key(new)),
        PrCommand::Reserve { key: own } => format!("reserve {}", key(own)),
        PrCommand::Preempt { victim, .. } => format!("preempt {}", key(victim)),
        PrCommand::PreemptAbort { victim, .. } => format!("preempt-abort {}", key(victim)),
        PrCommand::Release { key: own } => format!("release {}", key(own)),
        PrCommand::Clear { key: own } => format!("clear {}", key(own)),
    }
}
