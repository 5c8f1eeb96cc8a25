//! Carries out work with the adapters: the only place that calls them, used by the daemon and by the simulator.

use crate::action::{Outcome, Work};
use crate::adapters::{Adapters, Change, Failure, Fence, Pools};
use crate::disk_work::{DiskOutcome, DiskStep, DiskTask, DiskWork};
use crate::ids::{DiskId, PoolId};
use std::time::Duration;

/// Carries out disk work, command after command, each with `deadline`.
pub fn perform_disk(
    fence: &dyn Fence,
    disk: DiskId,
    work: DiskWork,
    deadline: Duration,
) -> DiskOutcome {
    let mut task = DiskTask::new(work, fence.paths(disk));
    let mut answer = None;
    loop {
        match task.step(answer.take()) {
            DiskStep::Command(path, command) => {
                answer = Some(fence.execute(disk, path, command, deadline))
            }
            DiskStep::Done(outcome) => return outcome,
        }
    }
}

/// Carries out any other work.
pub fn perform(work: &Work, adapters: &Adapters<'_>) -> Outcome {
    match work {
        Work::Disk { .. } => Outcome::Failed("disk work runs on its disk's lane".to_owned()),
        Work::Record(entry) => unit(adapters.journal.record(entry)),
        Work::Remember(owner) => unit(adapters.journal.remember(owner.as_ref())),
        Work::Prescan(pool) => unit(adapters.pools.prescan(*pool)),
        Work::Import { pool, won } => import(*pool, won, adapters.pools),
        Work::Export(pool) => change(adapters.pools.export(*pool)),
        Work::StartServices(pools) => change(adapters.services.start(pools)),
        Work::StopServices => change(adapters.services.stop()),
        Work::AddVips(pools) => change(adapters.vips.add(pools)),
        Work::RemoveVips => change(adapters.vips.remove()),
        Work::AnnounceVips(pools) => unit(adapters.vips.announce(pools)),
    }
}

/// What a pre-scan read is only a hint: the import reads again after the last disk was fenced.
fn import(pool: PoolId, won: &[DiskId], pools: &dyn Pools) -> Outcome {
    match pools.discard(pool) {
        Ok(()) => change(pools.import(pool, won)),
        Err(failure) => Outcome::Failed(failure.0),
    }
}

fn change(result: Result<Change, Failure>) -> Outcome {
    unit(result.map(|_| ()))
}

fn unit(result: Result<(), Failure>) -> Outcome {
    match result {
        Ok(()) => Outcome::Ok,
        Err(failure) => Outcome::Failed(failure.0),
    }
}
