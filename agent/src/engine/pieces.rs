//! What the engine carries out: the core's disk work, or a single command.

use super::{DiskOutcome, DiskTask, DiskWork, Piece, PrAnswer};
use crate::adapters::clock::BootClock;
use failover_core::adapters::{Clock, Fence};
use failover_core::disk_work::DiskStep;
use failover_core::ids::{DiskId, PathId};
use failover_core::pr::{PrCommand, PrError};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

type Ended = Box<dyn FnOnce(DiskOutcome, Instant) + Send>;

/// Disk work of the core.
pub(super) struct Task {
    fence: Arc<dyn Fence>,
    disk: DiskId,
    bounded: bool,
    /// Nothing more is sent from then on.
    until: Option<failover_core::time::Instant>,
    /// Taken when its machine is made: only then is it known how many paths there are.
    work: Option<DiskWork>,
    machine: Option<DiskTask>,
    began: Instant,
    ended: Option<Ended>,
}

impl Task {
    pub(super) fn new(fence: Arc<dyn Fence>, disk: DiskId, work: DiskWork, ended: Ended) -> Task {
        Task {
            fence,
            disk,
            bounded: matches!(work, DiskWork::Take { .. } | DiskWork::Answer { .. }),
            until: work.until(),
            work: Some(work),
            machine: None,
            began: Instant::now(),
            ended: Some(ended),
        }
    }

    fn end(&mut self, outcome: DiskOutcome) {
        if let Some(ended) = self.ended.take() {
            ended(outcome, self.began);
        }
    }
}

impl Piece for Task {
    fn next(
        &mut self,
        answer: Option<PrAnswer>,
        hung: &dyn Fn() -> bool,
    ) -> Option<(PathId, PrCommand)> {
        if let Some(work) = self.work.take() {
            self.began = Instant::now();
            self.machine = Some(DiskTask::new(work, self.fence.paths(self.disk)));
        }
        match self.machine.as_mut()?.step(answer) {
            DiskStep::Command(path, command) => Some((path, command)),
            DiskStep::Done(outcome) => {
                self.end(match outcome {
                    DiskOutcome::Left if hung() => outcome.unsettled(),
                    ended => ended,
                });
                None
            }
        }
    }

    fn not_begun(&mut self, why: String) {
        self.end(DiskOutcome::NotSent(why));
    }

    fn is_bounded(&self) -> bool {
        self.bounded
    }

    fn is_forbidden(&self) -> bool {
        self.until.is_some_and(|until| BootClock.now() >= until)
    }
}

/// One command of somebody who waits.
pub(super) struct One {
    command: (PathId, PrCommand),
    /// Room for one: answering waits for nobody, and who gave up hears nothing.
    answer: SyncSender<PrAnswer>,
}

impl One {
    pub(super) fn new(command: (PathId, PrCommand), answer: SyncSender<PrAnswer>) -> One {
        One { command, answer }
    }
}

impl Piece for One {
    fn next(
        &mut self,
        answer: Option<PrAnswer>,
        _hung: &dyn Fn() -> bool,
    ) -> Option<(PathId, PrCommand)> {
        match answer {
            None => Some(self.command),
            Some(answer) => {
                let _ = self.answer.try_send(answer);
                None
            }
        }
    }

    fn not_begun(&mut self, why: String) {
        let _ = self.answer.try_send(Err(PrError::Transport(why)));
    }
}
