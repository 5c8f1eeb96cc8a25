//! Paths that hang in the kernel: what is waited for, and what must not overtake what.

use crate::bench::{NAA, PATIENT, STRICT, Side, key};
use crate::scsi_target::{Fault, Target};
use failover_core::adapters::Fence;
use failover_core::disk_work::{DiskOutcome, DiskWork};
use failover_core::ids::{DiskId, Node, PathId};
use failover_core::perform::perform_disk;
use failover_core::pr::{PrCommand, PrError, PrReply};
use failoverd::engine::Engine;
use std::time::Duration;

/// Long enough that a path's thread begins what it was given, on however busy a machine.
const SHORT: Duration = Duration::from_millis(500);

fn stuck() -> (Target, Side) {
    let target = Target::new(NAA);
    let side = Side::scsi(&target, "a", STRICT);
    // Opened, and the unit attentions told.
    side.survey();
    side.send(1, PrCommand::ReadKeys).expect_err("power on");
    target.fault(("a", 0), Some(Fault::Hang));
    (target, side)
}

fn transport(answer: Result<PrReply, PrError>) -> String {
    match answer {
        Err(PrError::Transport(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_caller_waits_no_longer_than_its_deadline() {
    let (target, side) = stuck();
    let command = PrCommand::RegisterIgnore { new: 5 };
    let why = transport(side.engine.execute(side.disk, PathId(0), command, SHORT));
    assert!(
        why.contains("no answer") && why.contains("2:0:0:0"),
        "{why}"
    );
    // The disk's other path doesn't wait at all.
    let answer = side.send(1, PrCommand::ReadKeys);
    assert!(matches!(answer, Ok(PrReply::Keys { .. })), "{answer:?}");
    target.fault(("a", 0), None);
}

#[test]
fn no_command_overtakes_an_earlier_one_of_its_path() {
    let (target, side) = stuck();
    let execute = |command, deadline| side.engine.execute(side.disk, PathId(0), command, deadline);
    transport(execute(PrCommand::RegisterIgnore { new: 5 }, SHORT));
    let unregister = PrCommand::Register { old: 5, new: 0 };
    let why = transport(execute(unregister, SHORT));
    assert!(why.contains("was not sent"), "{why}");
    // The late success comes first, then what undoes it.
    target.fault(("a", 0), None);
    let gone_by = std::time::Instant::now() + PATIENT;
    let mut answer = execute(unregister, PATIENT);
    while matches!(&answer, Err(PrError::Transport(why)) if why.contains("was not sent")) {
        assert!(std::time::Instant::now() < gone_by, "{answer:?}");
        std::thread::sleep(Duration::from_millis(1));
        answer = execute(unregister, PATIENT);
    }
    assert_eq!(answer, Ok(PrReply::Good));
    target.with(|disk| {
        assert!(disk.keys.is_empty());
        let actions: Vec<u8> = disk
            .log
            .iter()
            .filter(|(_, code, _)| *code == 0x5f)
            .map(|(_, _, action)| *action)
            .collect();
        assert_eq!(actions, [6, 0]);
    });
}

#[test]
fn callers_of_one_path_take_turns() {
    let target = Target::new(NAA);
    let side = Side::scsi(&target, "a", STRICT);
    side.survey();
    let calls = || {
        for _ in 0..50 {
            side.send(0, PrCommand::ReadKeys).expect("a turn");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(calls);
        }
    });
    target.with(|disk| assert!(disk.log.len() >= 200));
}

/// Little patience with the stuck path, all of it with the other: a slow machine fails no test.
struct Unequal<'f>(&'f Engine);

impl Fence for Unequal<'_> {
    fn paths(&self, disk: DiskId) -> u8 {
        self.0.paths(disk)
    }

    fn execute(
        &self,
        disk: DiskId,
        path: PathId,
        command: PrCommand,
        _deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let deadline = if path.0 == 0 { SHORT } else { PATIENT };
        self.0.execute(disk, path, command, deadline)
    }
}

#[test]
fn a_disk_is_taken_over_the_path_that_works() {
    let (target, side) = stuck();
    let fence = Unequal(&side.engine);
    let surveyed = match perform_disk(&fence, side.disk, DiskWork::Survey, SHORT) {
        DiskOutcome::Surveyed(survey) => survey,
        other => panic!("{other:?}"),
    };
    let work = DiskWork::take(key(Node::A, 1, 0), surveyed);
    let outcome = perform_disk(&fence, side.disk, work, SHORT);
    assert_eq!(outcome, DiskOutcome::Taken);
    target.with(|disk| assert_eq!(disk.holder, Some((("a", 1), 5))));
    target.fault(("a", 0), None);
}

#[test]
fn the_fence_can_be_dropped_with_a_command_stuck() {
    let (target, side) = stuck();
    let command = PrCommand::ReadKeys;
    transport(side.engine.execute(side.disk, PathId(0), command, SHORT));
    drop(side);
    target.fault(("a", 0), None);
}

/// The daemon's way: the whole work is the engine's, and a path that hangs is left out of the next one at once.
#[test]
fn work_goes_on_over_the_path_that_works() {
    let (target, side) = stuck();
    let run = |work, deadline| {
        let (told, end) = std::sync::mpsc::channel();
        let ended = Box::new(move |outcome, _| {
            let _ = told.send(outcome);
        });
        side.engine
            .start_work(side.disk, work, deadline, ended)
            .expect("room");
        end.recv_timeout(PATIENT).expect("it ends")
    };
    let DiskOutcome::Surveyed(surveyed) = run(DiskWork::Survey, SHORT) else {
        panic!("not read over the other path");
    };
    assert_eq!(side.engine.load().old, 1, "the hung one");
    let begun = std::time::Instant::now();
    let work = DiskWork::take(key(Node::A, 1, 0), surveyed);
    // All the patience there is: waiting for the stuck path would take it.
    assert_eq!(run(work, PATIENT), DiskOutcome::Taken);
    assert!(begun.elapsed() < PATIENT / 2);
    target.with(|disk| assert_eq!(disk.holder, Some((("a", 1), 5))));
    target.fault(("a", 0), None);
}
