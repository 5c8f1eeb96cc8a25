//! Commands to the disks and their answers.

use crate::enclosure::{TaskKind, TaskRun};
use crate::plan::disk_index;
use crate::world::World;
use failover_core::disk_work::{DiskOutcome, DiskWork};
use failover_core::ids::{Node, OpId};
use failover_core::pr::PrCommand;
use failover_core::states::State;

/// Surveys of one disk that are remembered.
const SURVEYS_MAX: usize = 24;
/// Changes of a key on one disk that are remembered.
const MOVES_MAX: usize = 160;

impl World {
    /// Judges disk work when it is asked for.
    pub(crate) fn disk_work_asked(&mut self, node: Node, op: OpId, disk: usize, work: &DiskWork) {
        self.one_at_a_time(node, op, disk);
        let at = node as usize;
        let takes = matches!(work, DiskWork::Take { .. });
        self.ledger.taking[at].set(disk, takes);
        if !matches!(work, DiskWork::Survey | DiskWork::Leave { .. }) {
            self.ledger.left[at].remove(disk);
        }
        match work {
            DiskWork::Take { key, surveyed, .. } => {
                self.record_before_act(node, u64::from(key.epoch.0), "a key");
                self.ledger.epochs[at] = key.epoch.0;
                self.surveyed_before(node, disk, &surveyed.keys);
            }
            DiskWork::Roll { to, .. } | DiskWork::Answer { key: to } => {
                self.record_before_act(node, u64::from(to.epoch.0), "a key");
                if matches!(work, DiskWork::Roll { .. }) {
                    self.ledger.epochs[at] = to.epoch.0;
                }
            }
            DiskWork::Expel { victims, .. } => {
                let known = self.ledger.surveys[at][disk]
                    .iter()
                    .any(|seen| victims.iter().all(|victim| seen.contains(victim)));
                if !known {
                    self.violate(
                        "no-blind-preempt",
                        format!("{node} expels keys from d{disk} that no look had shown it"),
                    );
                }
            }
            DiskWork::Survey | DiskWork::Leave { .. } => {}
        }
    }

    /// one-at-a-time: no work on a disk is asked for while earlier work on it is unanswered.
    fn one_at_a_time(&mut self, node: Node, op: OpId, disk: usize) {
        let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
            return;
        };
        let life = daemon.life;
        self.ledger.working[node as usize].insert(op, disk);
        let busy = self.ledger.busy[node as usize][disk].replace(life);
        if busy.is_some_and(|of| of == life) {
            self.violate(
                "one-at-a-time",
                format!("{node} asks for work on d{disk} while earlier work there is unanswered"),
            );
        }
    }

    /// no-blind-preempt: a takeover's keys to remove are exactly those that one look of this run has shown.
    fn surveyed_before(&mut self, node: Node, disk: usize, keys: &[u64]) {
        let known = self.ledger.surveys[node as usize][disk]
            .iter()
            .any(|seen| seen == keys);
        if !known {
            self.violate(
                "no-blind-preempt",
                format!("{node} takes d{disk} by a survey that no look had answered"),
            );
        }
    }

    /// no-blind-preempt: and each command preempts only those.
    pub(crate) fn command_issued(&mut self, task: &TaskRun) {
        let victim = match task.command {
            PrCommand::Preempt { victim, .. } | PrCommand::PreemptAbort { victim, .. } => victim,
            _ => return,
        };
        let named = match &task.kind {
            TaskKind::Take { surveyed, .. } => surveyed.contains(&victim),
            TaskKind::Expel { victims } => victims.contains(&victim),
            TaskKind::Look | TaskKind::Roll { .. } | TaskKind::Leave | TaskKind::Answer => false,
        };
        if !named {
            let (node, disk) = (task.node, task.disk);
            self.violate(
                "no-blind-preempt",
                format!("{node} preempts a key on d{disk} that it had not surveyed"),
            );
        }
    }

    /// no-release-without-export: nobody ends its reservation on a disk of a pool that it has imported.
    pub(crate) fn command_done(&mut self, task: &TaskRun) {
        let moves = matches!(
            task.command,
            PrCommand::Register { .. } | PrCommand::RegisterIgnore { .. }
        );
        if moves {
            let ring = &mut self.ledger.moved[task.node as usize][task.disk];
            if ring.len() == MOVES_MAX {
                ring.pop_front();
            }
            ring.push_back(self.now);
        }
        if task.hung && moves {
            self.left_means_gone(task);
        }
        let ends = matches!(
            task.command,
            PrCommand::Register { new: 0, .. }
                | PrCommand::RegisterIgnore { new: 0 }
                | PrCommand::Release { .. }
                | PrCommand::Clear { .. }
        );
        let (node, disk) = (task.node, task.disk);
        if !ends || self.bays[disk].disk.holder().is_some() {
            return;
        }
        let machine = &self.machines[node as usize];
        let used = (0..self.plan.pools.len())
            .filter_map(|pool| machine.kernel.writes(pool))
            .any(|disks| disks.contains(disk));
        if used && machine.powered {
            self.violate(
                "no-release-without-export",
                format!("{node} ended the reservation of d{disk} with a pool on it imported"),
            );
        }
    }

    /// left-means-gone: once a controller knows that it left a disk, no command that it sent before registers a key there.
    fn left_means_gone(&mut self, task: &TaskRun) {
        let (node, disk) = (task.node, task.disk);
        let left = self.ledger.left[node as usize].contains(disk);
        let registers = self.bays[disk].disk.key_of(task.nexus).is_some();
        if left && registers && self.lives_on(node, task.life) {
            let text =
                format!("a late command of {node} registers a key on d{disk}, which it left");
            self.violate("left-means-gone", text);
        }
    }

    /// Remembers what disk work proved.
    pub(crate) fn disk_work_ended(&mut self, task: &TaskRun, outcome: &DiskOutcome) {
        if !self.lives_on(task.node, task.life) {
            return;
        }
        let at = task.node as usize;
        if *outcome == DiskOutcome::Left {
            self.ledger.left[at].insert(task.disk);
        }
        let survey = match outcome {
            DiskOutcome::Surveyed(survey)
            | DiskOutcome::Fenced(survey)
            | DiskOutcome::LostRace(Some(survey)) => Some(survey),
            _ => None,
        };
        if let Some(survey) = survey {
            // Whoever lost a race has read the disk after it, too.
            let looked = &mut self.ledger.looked[at][task.disk];
            *looked = task.issued.max(*looked);
            let ring = &mut self.ledger.surveys[at][task.disk];
            if ring.back() != Some(&survey.keys) {
                if ring.len() == SURVEYS_MAX {
                    ring.pop_front();
                }
                ring.push_back(survey.keys.clone());
            }
        }
        let proof = match (&task.kind, outcome) {
            (TaskKind::Take { key, .. }, DiskOutcome::Taken) => {
                self.bays[task.disk].tampered = false;
                if key.epoch.0 == self.ledger.epochs[at] {
                    self.ledger.taken[at].insert(task.disk);
                }
                Some(key.phase)
            }
            (TaskKind::Roll { to }, DiskOutcome::Rolled { .. }) => Some(to.phase),
            _ => None,
        };
        if let Some(phase) = proof {
            self.ledger.rolls[at][task.disk] = Some((task.issued, phase));
        }
    }

    /// Notes that work was answered; the disk that it was on, if it was a take.
    pub(crate) fn answer_delivered(&mut self, node: Node, op: OpId) -> Option<usize> {
        let disk = self.ledger.working[node as usize].remove(&op)?;
        self.ledger.busy[node as usize][disk] = None;
        Some(disk).filter(|disk| self.ledger.taking[node as usize].contains(*disk))
    }

    /// Whether a take that ends so now must be undone.
    pub(crate) fn must_undo(&self, node: Node, end: &DiskOutcome) -> bool {
        match self.state(node) {
            Some(State::Standby | State::Electing | State::Yielding) => true,
            Some(State::FencingArbiters | State::FencingRest) => *end != DiskOutcome::Taken,
            _ => false,
        }
    }

    /// take-undone: what a taker wins after it has yielded it gives back at once, and so it does with a disk on which
    /// its take failed in the middle (protocol.md section 2).
    pub(crate) fn take_undone(&mut self, node: Node, life: u32, disk: usize) {
        // One that stands still gives back what it hears of when it runs again.
        let daemon = self.machines[node as usize].daemon.as_ref();
        let lives = daemon
            .is_some_and(|daemon| !daemon.paused && daemon.controller.state() != State::Halted);
        let leaving = |task: &TaskRun| {
            matches!(task.kind, TaskKind::Leave)
                && (task.node, task.life, task.disk) == (node, life, disk)
        };
        if lives && !self.tasks.iter().flatten().any(|task| leaving(task)) {
            self.violate(
                "take-undone",
                format!("{node}'s take of d{disk} came too late or failed, and is left there"),
            );
        }
    }

    /// record-before-act: an epoch is durable in the journal before a disk or the peer sees it.
    pub(crate) fn record_before_act(&mut self, node: Node, epoch: u64, where_to: &str) {
        let durable = self.machines[node as usize].kernel.durable.epoch.0;
        if epoch > durable {
            self.violate(
                "record-before-act",
                format!("{node} shows epoch {epoch} in {where_to}; its journal has {durable}"),
            );
        }
    }

    /// looks-first: a taker writes nothing to any disk before a majority of the arbiters answered its looks.
    pub(crate) fn looks_first(&mut self, node: Node) {
        let at = node as usize;
        if !self.ledger.looks_anew[at] {
            return;
        }
        let since = self.ledger.surveying_since[at];
        let looked = |disk: usize| self.ledger.looked[at][disk] >= since;
        let list = &self.ledger.arbiters[at].disks;
        let arbiters = list.iter().filter(|id| looked(disk_index(**id))).count();
        let all = (0..self.bays.len()).filter(|disk| looked(*disk)).count();
        if 2 * arbiters <= list.len() && 2 * all <= self.bays.len() {
            self.violate(
                "looks-first",
                format!("{node} takes disks after {arbiters} arbiters answered its look"),
            );
        }
    }
}
