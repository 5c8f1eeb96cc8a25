//! What a disk does that it should not: unit attentions that nothing explains, late answers, a wrong PRgeneration.

use super::TaskRun;
use crate::disk::UnitAttention;
use crate::plan::Generation;
use crate::world::World;
use failover_core::disk_work::PrAnswer;
use failover_core::pr::{PrCommand, PrError, PrReply};

/// How often a wild target reports a wrong PRgeneration, in percent.
const WILD: u64 = 5;

impl World {
    /// A unit attention comes up for the command's nexus just before it.
    pub(super) fn odd_attention(&mut self, task: &TaskRun) {
        let percent = self.conditions.attentions[task.node as usize];
        if percent > 0 && self.rng.percent(percent.into()) {
            let attention = self.rng.pick(&UnitAttention::ALL);
            self.bays[task.disk].disk.attend(task.nexus, attention);
        }
    }

    /// The answer as this target gives it, and how much later it comes for that, microseconds.
    pub(super) fn tempered(&mut self, command: PrCommand, mut answer: PrAnswer) -> (PrAnswer, u64) {
        let temper = &self.plan.temper;
        if let Ok(
            PrReply::Keys { generation, .. }
            | PrReply::Reservation { generation, .. }
            | PrReply::Full { generation, .. },
        ) = &mut answer
        {
            match temper.generation {
                Generation::Right => {}
                Generation::Still => *generation = 0,
                Generation::Wild if self.rng.percent(WILD) => *generation = self.rng.next() as u32,
                Generation::Wild => {}
            }
        }
        let preempts = matches!(
            command,
            PrCommand::Preempt { .. } | PrCommand::PreemptAbort { .. }
        );
        let late_ms = match &answer {
            Err(PrError::Conflict) => temper.conflict_ms,
            Ok(_) if preempts => temper.preempt_ms,
            _ => 0,
        };
        let late = match late_ms {
            0 => 0,
            _ => self.rng.below(u64::from(late_ms) * 1000),
        };
        (answer, late)
    }
}
