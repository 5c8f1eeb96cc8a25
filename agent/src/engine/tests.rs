//! The engine before disks that wait, hang and are counted: no wall time is asserted but as bounds that a slow machine
//! keeps too.

use super::{BULK_MAX, Class, Engine, LOOKS_MAX, Piece, YOUNG, YOUNG_MAX};
use crate::adapters::clock::BootClock;
use failover_core::adapters::{Clock, Fence};
use failover_core::disk_work::{DiskOutcome, DiskWork, PrAnswer, Survey};
use failover_core::ids::{DiskId, Epoch, Node, PathId};
use failover_core::key::{EpochBits, Key, Phase};
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seen {
    /// Disks whose commands hang.
    hung: BTreeSet<u64>,
    in_flight: Vec<u64>,
    most: usize,
    order: Vec<u64>,
}

/// Disks that answer as soon as they aren't hung.
#[derive(Default)]
struct Disks(Mutex<Seen>, Condvar);

impl Disks {
    fn hang(&self, disks: impl IntoIterator<Item = u64>) {
        self.0.lock().expect("no panic").hung.extend(disks);
    }

    fn heal(&self) {
        self.0.lock().expect("no panic").hung.clear();
        self.1.notify_all();
    }

    fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let began = Instant::now();
        let mut seen = self.0.lock().expect("no panic");
        while !holds(&seen) {
            assert!(began.elapsed() < PATIENT, "never: {what}");
            let waited = self.1.wait_timeout(seen, Duration::from_millis(5));
            seen = waited.expect("no panic").0;
        }
    }
}

impl Fence for Disks {
    fn paths(&self, _disk: DiskId) -> u8 {
        1
    }

    fn execute(
        &self,
        disk: DiskId,
        _path: PathId,
        _command: PrCommand,
        _deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let mut seen = self.0.lock().expect("no panic");
        assert!(
            !seen.in_flight.contains(&disk.0),
            "two commands at one disk"
        );
        seen.in_flight.push(disk.0);
        seen.order.push(disk.0);
        seen.most = seen.most.max(seen.in_flight.len());
        self.1.notify_all();
        while seen.hung.contains(&disk.0) {
            seen = self.1.wait(seen).expect("no panic");
        }
        seen.in_flight.retain(|each| *each != disk.0);
        Ok(PrReply::Full {
            generation: 1,
            keys: Vec::new(),
            holder: None,
            wero: false,
        })
    }
}

fn key() -> Key {
    Key {
        pair: 7,
        node: Node::A,
        held: false,
        phase: Phase::Candidate,
        incarnation: 1,
        epoch: EpochBits::of(Epoch(2)),
        beat: 0,
    }
}

fn engine(disks: &Arc<Disks>) -> Engine {
    Engine::new(disks.clone()).expect("a thread")
}

type Ends = (Sender<(u64, DiskOutcome)>, Receiver<(u64, DiskOutcome)>);

fn look(engine: &Engine, disk: u64, deadline: Duration, ends: &Ends) {
    let told = ends.0.clone();
    let ended = Box::new(move |outcome, _| {
        let _ = told.send((disk, outcome));
    });
    engine
        .start_work(DiskId(disk), DiskWork::Survey, deadline, ended)
        .expect("room");
}

fn next(ends: &Ends) -> (u64, DiskOutcome) {
    ends.1.recv_timeout(PATIENT).expect("an end")
}

#[test]
fn every_disk_is_looked_at_by_few_threads() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let ends = channel();
    for disk in 0..1255 {
        look(&engine, disk, PATIENT, &ends);
    }
    let mut seen = BTreeSet::new();
    for _ in 0..1255 {
        let (disk, outcome) = next(&ends);
        assert!(matches!(outcome, DiskOutcome::Surveyed(_)), "{outcome:?}");
        assert!(seen.insert(disk), "disk {disk} ended twice");
    }
    let load = engine.load();
    assert!(load.workers <= YOUNG_MAX, "{load:?}");
    assert!(load.young_peak <= LOOKS_MAX, "{load:?}");
}

/// The bound: young commands are counted, old ones leave; a hung disk costs itself alone and is told unreachable, and
/// gets no second command.
#[test]
fn hung_disks_leave_the_count_and_the_others_go_on() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let ends = channel();
    // Three rounds of what looks may hold.
    let hung = 3 * LOOKS_MAX as u64;
    disks.hang(0..hung);
    let deadline = 8 * YOUNG;
    for disk in 0..hung {
        look(&engine, disk, PATIENT, &ends);
    }
    for disk in hung..hung + 200 {
        look(&engine, disk, PATIENT, &ends);
    }
    for _ in 0..200 {
        let (disk, outcome) = next(&ends);
        assert!(disk >= hung, "{disk} hangs");
        assert!(matches!(outcome, DiskOutcome::Surveyed(_)), "{outcome:?}");
    }
    disks.until("all of them are on their way", |seen| {
        seen.in_flight.len() == hung as usize
    });
    let load = engine.load();
    assert!(load.young_peak <= LOOKS_MAX, "{load:?}");
    assert!(load.workers <= YOUNG_MAX + hung as usize, "{load:?}");
    // One that is given up by its piece is refused the next at once.
    disks.hang([9000]);
    look(&engine, 9000, deadline, &ends);
    let (disk, outcome) = next(&ends);
    assert_eq!(disk, 9000);
    assert!(
        matches!(&outcome, DiskOutcome::Unreachable(why) if why.contains("no answer (waited")),
        "{outcome:?}"
    );
    look(&engine, 9000, PATIENT, &ends);
    let (_, outcome) = next(&ends);
    assert!(
        matches!(&outcome, DiskOutcome::Unreachable(why) if why.contains("was not sent")),
        "{outcome:?}"
    );
    disks.heal();
    for _ in 0..hung {
        let (_, outcome) = next(&ends);
        assert!(matches!(outcome, DiskOutcome::Surveyed(_)), "{outcome:?}");
    }
    disks.until("the late one ends", |seen| seen.in_flight.is_empty());
    let began = Instant::now();
    while engine.load().old > 0 {
        assert!(began.elapsed() < PATIENT, "{:?}", engine.load());
        std::thread::sleep(Duration::from_millis(1));
    }
    look(&engine, 9000, PATIENT, &ends);
    assert!(matches!(next(&ends).1, DiskOutcome::Surveyed(_)));
}

/// A piece of so many commands, which says when it ended.
struct Chain {
    left: u32,
    name: u64,
    told: Sender<(u64, DiskOutcome)>,
}

impl Piece for Chain {
    fn next(
        &mut self,
        _answer: Option<PrAnswer>,
        _hung: &dyn Fn() -> bool,
    ) -> Option<(PathId, PrCommand)> {
        if self.left == 0 {
            let _ = self.told.send((self.name, DiskOutcome::Taken));
            return None;
        }
        self.left -= 1;
        Some((PathId(0), PrCommand::ReadKeys))
    }

    fn not_begun(&mut self, why: String) {
        let _ = self.told.send((self.name, DiskOutcome::Unreachable(why)));
    }
}

/// Places are kept: with looks hanging in all of theirs, takes begin; with takes too, rolls begin.
#[test]
fn a_verify_of_everything_starves_no_take_and_no_roll() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let ends = channel();
    let chain = |disk: u64, class| {
        let piece = Chain {
            left: 3,
            name: disk,
            told: ends.0.clone(),
        };
        engine
            .start(DiskId(disk), class, PATIENT, Box::new(piece))
            .expect("room");
    };
    disks.hang(0..1000);
    for disk in 0..500 {
        look(&engine, disk, PATIENT, &ends);
    }
    chain(5001, Class::Take);
    assert_eq!(next(&ends).0, 5001);
    for disk in 500..600 {
        chain(disk, Class::Take);
    }
    chain(5002, Class::Prompt);
    assert_eq!(next(&ends).0, 5002);
    let load = engine.load();
    assert!(load.young_peak <= BULK_MAX + 1, "{load:?}");
    disks.heal();
    for _ in 0..600 {
        next(&ends);
    }
    assert_eq!(disks.0.lock().expect("no panic").in_flight, [0; 0]);
}

#[test]
fn work_of_one_disk_is_done_in_turn_and_too_much_of_it_is_refused() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let ends = channel();
    disks.hang([7]);
    let chain = |name: u64| {
        let piece = Chain {
            left: 2,
            name,
            told: ends.0.clone(),
        };
        engine.start(DiskId(7), Class::Prompt, PATIENT, Box::new(piece))
    };
    let taken = (0..200).take_while(|name| chain(*name).is_ok()).count() as u64;
    assert_eq!(taken, super::WAITING_MAX as u64 + 1);
    disks.heal();
    for name in 0..taken {
        assert_eq!(next(&ends).0, name);
    }
}

#[test]
fn what_got_no_turn_in_time_is_not_sent() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let ends = channel();
    disks.hang([1]);
    look(&engine, 1, PATIENT, &ends);
    disks.until("it is on its way", |seen| seen.in_flight == [1]);
    look(&engine, 1, Duration::from_millis(1), &ends);
    std::thread::sleep(Duration::from_millis(5));
    disks.heal();
    assert!(matches!(next(&ends).1, DiskOutcome::Surveyed(_)));
    let (_, outcome) = next(&ends);
    assert!(
        matches!(&outcome, DiskOutcome::NotSent(why) if why.contains("nothing was sent")),
        "{outcome:?}"
    );
    assert_eq!(disks.0.lock().expect("no panic").order, [1]);
}

/// Two commands, with a long pause of the process between them.
struct Frozen {
    told: Sender<PrAnswer>,
    sent: usize,
}

impl Piece for Frozen {
    fn next(
        &mut self,
        answer: Option<PrAnswer>,
        _hung: &dyn Fn() -> bool,
    ) -> Option<(PathId, PrCommand)> {
        match (self.sent, answer) {
            (2, Some(answer)) => {
                let _ = self.told.send(answer);
                return None;
            }
            (1, Some(_)) => std::thread::sleep(2 * SHORT),
            _ => {}
        }
        self.sent += 1;
        Some((PathId(0), PrCommand::ReadKeys))
    }

    fn not_begun(&mut self, why: String) {
        let _ = self.told.send(Err(PrError::Transport(why)));
    }
}

/// What a frozen taker had begun must not go on when it wakes: the disk may be another's by then.
#[test]
fn nothing_more_is_sent_of_work_whose_time_is_over() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let (told, tells) = channel();
    let piece = Frozen { told, sent: 0 };
    engine
        .start(DiskId(1), Class::Take, SHORT, Box::new(piece))
        .expect("room");
    let answer = tells.recv_timeout(PATIENT).expect("an end");
    assert!(
        matches!(&answer, Err(PrError::Transport(why)) if why.contains("not sent")),
        "{answer:?}"
    );
    assert_eq!(disks.0.lock().expect("no panic").order, [1]);
}

/// Two paths: what registers over the second one hangs, and registers when it is let go; the first one never registers.
#[derive(Default)]
struct LateKey(Mutex<(bool, Vec<u64>)>, Condvar);

impl Fence for LateKey {
    fn paths(&self, _disk: DiskId) -> u8 {
        2
    }

    fn execute(
        &self,
        _disk: DiskId,
        path: PathId,
        command: PrCommand,
        _deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let mut state = self.0.lock().expect("no panic");
        match command {
            PrCommand::RegisterIgnore { new } if path.0 == 1 => {
                let until = self.1.wait_while(state, |(free, _)| !*free);
                until.expect("no panic").1.push(new);
                Ok(PrReply::Good)
            }
            PrCommand::Register { new: 0, .. } => {
                state.1.clear();
                Ok(PrReply::Good)
            }
            PrCommand::ReadKeys => Ok(PrReply::Keys {
                generation: 1,
                keys: state.1.clone(),
            }),
            PrCommand::ReadReservation => Ok(PrReply::Reservation {
                generation: 1,
                holder: None,
                wero: true,
            }),
            _ => Err(PrError::Transport("no".to_owned())),
        }
    }
}

/// A repair that its owner's proof covers no more isn't sent, however short its wait was.
#[test]
fn nothing_of_a_take_is_sent_after_its_last_moment() {
    let disks = Arc::new(Disks::default());
    let engine = engine(&disks);
    let (told, tells) = channel();
    let ended = Box::new(move |outcome, _| {
        let _ = told.send(outcome);
    });
    let work = DiskWork::Take {
        key: key(),
        surveyed: Survey::default(),
        until: Some(BootClock.now()),
    };
    let started = engine.start_work(DiskId(1), work, PATIENT, ended);
    started.expect("room");
    let outcome = tells.recv_timeout(PATIENT).expect("an end");
    assert!(matches!(outcome, DiskOutcome::NotSent(_)), "{outcome:?}");
    assert!(disks.0.lock().expect("no panic").order.is_empty());
}

/// A key that a hung REGISTER may bring yet is not taken off before: the disk isn't left.
#[test]
fn a_disk_is_not_left_while_a_command_to_it_hangs() {
    let disk = Arc::new(LateKey::default());
    let engine = Engine::new(disk.clone()).expect("a thread");
    let key = key();
    let run = |work, deadline| {
        let (told, tells) = channel();
        let ended = Box::new(move |outcome, _| {
            let _ = told.send(outcome);
        });
        let started = engine.start_work(DiskId(1), work, deadline, ended);
        started.expect("room");
        tells.recv_timeout(PATIENT).expect("an end")
    };
    let answered = run(DiskWork::Answer { key }, YOUNG);
    assert!(
        matches!(&answered, DiskOutcome::Unreachable(_)),
        "{answered:?}"
    );
    let left = run(DiskWork::Leave { holder: key }, PATIENT);
    assert!(
        matches!(&left, DiskOutcome::Unreachable(why) if why.contains("still on its way")),
        "{left:?}"
    );
    disk.0.lock().expect("no panic").0 = true;
    disk.1.notify_all();
    let began = Instant::now();
    while engine.load().old > 0 {
        assert!(began.elapsed() < PATIENT, "{:?}", engine.load());
        std::thread::sleep(Duration::from_millis(1));
    }
    let left = run(DiskWork::Leave { holder: key }, PATIENT);
    assert_eq!(left, DiskOutcome::Left);
    assert_eq!(disk.0.lock().expect("no panic").1, [0; 0]);
}

#[test]
fn a_panicking_adapter_costs_one_answer() {
    struct Broken;
    impl Fence for Broken {
        fn paths(&self, _disk: DiskId) -> u8 {
            1
        }
        fn execute(
            &self,
            _disk: DiskId,
            _path: PathId,
            _command: PrCommand,
            _deadline: Duration,
        ) -> Result<PrReply, PrError> {
            panic!("on purpose")
        }
    }
    let engine = Engine::new(Arc::new(Broken)).expect("a thread");
    for _ in 0..3 {
        let answer = engine.execute(DiskId(1), PathId(0), PrCommand::ReadKeys, PATIENT);
        assert!(
            matches!(&answer, Err(PrError::Transport(why)) if why.contains("panicked")),
            "{answer:?}"
        );
    }
    assert_eq!(engine.load().young, 0);
}
