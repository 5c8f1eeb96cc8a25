//! The daemon's fence on targets that others wrote: `tgtd` on loopback, started here, and any other that
//! `FAILOVERD_TEST_ISCSI` names as `portal,target,lun` (a disk that nobody uses: its reservations are cleared).

use crate::bench::{NAA, PATIENT, key, path, shared};
use crate::iscsi::{Exchange, Place, Session};
use crate::ns::{isolated, skipped};
use crate::scsi_target::Target;
use crate::tgtd::{PORTAL, TARGET, Tgtd};
use failover_core::config::Timing;
use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::{DiskId, Node as Controller, PathId};
use failover_core::perform::perform_disk;
use failover_core::pr::{PrCommand, PrError, PrReply};
use failoverd::adapters::fence::{Options, RealFence};
use failoverd::adapters::identity::Identity;
use failoverd::adapters::ports::{Data, Kind, Node, Opener, Port, PortError, ScsiPort};
use failoverd::adapters::scsi::{inquiry, pr_in};
use failoverd::preflight::{Trial, Verdict};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const OPTIONS: Options = Options {
    accept_volatile: true,
};

/// Paths over iSCSI, by device name.
struct Paths {
    places: BTreeMap<String, Place>,
    log: Arc<Mutex<Vec<Exchange>>>,
}

impl Opener for Paths {
    fn open(&self, node: &Node) -> Result<Port, PortError> {
        let place = self.places.get(&node.name);
        let place = place.ok_or_else(|| PortError::Gone("no such path".into()))?;
        let session = Session::login(place, self.log.clone())?;
        Ok(Port::Scsi(Box::new(session)))
    }
}

/// A controller with two paths.
struct Side {
    fence: RealFence,
    disk: DiskId,
    log: Arc<Mutex<Vec<Exchange>>>,
}

impl Side {
    fn new(place: &Place, name: &str, identity: &Identity) -> Side {
        let log = Arc::new(Mutex::default());
        let place = |session| Place {
            initiator: format!("iqn.2026-01.test.failoverd:{name}"),
            session,
            ..place.clone()
        };
        let paths = Paths {
            places: BTreeMap::from([("sda".into(), place(1)), ("sdb".into(), place(2))]),
            log: log.clone(),
        };
        let nodes = [
            path(Kind::Scsi, "sda", "0:0"),
            path(Kind::Scsi, "sdb", "1:0"),
        ];
        let disks = [shared(identity.as_str(), &nodes)];
        Side {
            fence: RealFence::new(Arc::new(paths), OPTIONS, &disks),
            disk: disks[0].id,
            log,
        }
    }

    fn run(&self, work: DiskWork) -> DiskOutcome {
        perform_disk(&self.fence, self.disk, work, PATIENT)
    }

    fn survey(&self) -> Survey {
        match self.run(DiskWork::Survey) {
            DiskOutcome::Surveyed(survey) => survey,
            other => panic!("no survey: {other:?}"),
        }
    }

    fn take(&self, epoch: u64, node: Controller) -> DiskOutcome {
        let surveyed = self.survey();
        let key = key(node, epoch, 0);
        self.run(DiskWork::take(key, surveyed))
    }

    /// As the core's tasks do: unit attentions are sent again.
    fn send(&self, path: u8, command: PrCommand) -> Result<PrReply, PrError> {
        use failover_core::adapters::Fence as _;
        for _ in 0..4 {
            let answer = self
                .fence
                .execute(self.disk, PathId(path), command, PATIENT);
            if !matches!(answer, Err(PrError::UnitAttention(_))) {
                return answer;
            }
        }
        panic!("unit attentions without end");
    }
}

/// The identity, asked over a session of its own.
fn identity(place: &Place) -> Identity {
    let mut session = Session::login(place, Arc::default()).expect("a session");
    let cdb = inquiry::page_cdb(inquiry::PAGE_IDENTIFICATION, 1024);
    let end = session
        .submit(&cdb, Data::In(1024), Duration::from_secs(10))
        .expect("an answer");
    let designators = inquiry::decode_designators(&end.data).expect("a page");
    let mut identities = inquiry::identities(&designators);
    assert!(!identities.is_empty(), "{designators:?}");
    identities.swap_remove(0)
}

fn pair(place: &Place) -> (Side, Side) {
    let identity = identity(place);
    (
        Side::new(place, "a", &identity),
        Side::new(place, "b", &identity),
    )
}

/// What every target must do, also one without APTPL and PREEMPT AND ABORT.
fn common(place: &Place) -> (Side, Side) {
    let (a, b) = pair(place);
    assert!(a.survey().keys.is_empty(), "the disk must be unused");
    assert_eq!(a.take(1, Controller::A), DiskOutcome::Taken);
    let first = key(Controller::A, 1, 0);
    let seen = b.survey();
    assert_eq!(seen.keys, [first.to_bits()]);
    assert_eq!((seen.holder, seen.wero), (Some(first.to_bits()), true));
    let roll = DiskWork::Roll {
        from: first,
        to: first.rolled(),
    };
    assert_eq!(a.run(roll), DiskOutcome::Rolled { paths_failed: 0 });
    assert_eq!(b.survey().keys, [first.rolled().to_bits()]);

    // B registers and preempts: both paths of A lose their key and are told.
    let (own, victim) = (9, first.rolled().to_bits());
    let good = Ok(PrReply::Good);
    assert_eq!(
        b.send(0, PrCommand::Register { old: 7, new: own }),
        Err(PrError::Conflict)
    );
    assert_eq!(b.send(0, PrCommand::Register { old: 0, new: own }), good);
    assert_eq!(
        b.send(0, PrCommand::Reserve { key: own }),
        Err(PrError::Conflict)
    );
    assert_eq!(b.send(0, PrCommand::Preempt { own, victim }), good);
    assert_eq!(b.survey().keys, [own]);
    assert_eq!(b.survey().holder, Some(own));
    let late = DiskWork::Roll {
        from: first.rolled(),
        to: first.rolled().rolled(),
    };
    assert!(matches!(a.run(late), DiskOutcome::Fenced(_)));
    assert_eq!(b.send(0, PrCommand::Release { key: own }), good);
    assert_eq!(b.survey().holder, None);
    assert_eq!(b.send(0, PrCommand::Clear { key: own }), good);
    assert!(a.survey().keys.is_empty());
    (a, b)
}

/// The check before use; the disk must be unused and has two paths. Parts that failed.
fn checked(place: &Place) -> Vec<String> {
    let place = |session| Place {
        initiator: "iqn.2026-01.test.failoverd:checks".into(),
        session,
        ..place.clone()
    };
    let paths = Paths {
        places: BTreeMap::from([("sda".into(), place(1)), ("sdb".into(), place(2))]),
        log: Arc::default(),
    };
    let nodes = [
        path(Kind::Scsi, "sda", "0:0"),
        path(Kind::Scsi, "sdb", "1:0"),
    ];
    let disk = shared(identity(&place(3)).as_str(), &nodes);
    let trial = Trial::new(Arc::new(paths), disk, OPTIONS, Timing::default());
    let findings = trial.run().expect("checked");
    println!("{}", findings.table());
    let all = findings.findings.into_iter();
    // How fast it is isn't the target's alone.
    let failed = all.filter(|one| one.verdict == Verdict::Fail && one.check != "latency");
    failed.map(|one| one.check).collect()
}

/// Deterministic random numbers (xorshift64).
fn throw(state: &mut u64, limit: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % limit
}

/// Sends the same commands, few keys over four nexuses, to the target and to ours: what they answer and which keys and
/// holder they show must be the same. It is how we know that ours keeps the rules as others read them.
fn same_as_ours(place: &Place) {
    let disk = Target::new(NAA);
    disk.with(|disk| disk.knows_aptpl = false);
    let names = ["a", "b"];
    let ours = names.map(|name| crate::bench::Side::scsi(&disk, name, OPTIONS));
    let theirs: [Side; 2] = pair(place).into();
    let mut dice = 0x7a57;
    let mut conflicts = 0;
    for step in 0..3000 {
        let (side, path) = (throw(&mut dice, 2) as usize, throw(&mut dice, 2) as u8);
        let own = disk.with(|disk| disk.keys.get(&(names[side], path)).copied());
        let (old, new) = (throw(&mut dice, 4), throw(&mut dice, 4));
        let victim = 1 + throw(&mut dice, 3);
        let command = match (throw(&mut dice, 16), own) {
            (0..5, _) => PrCommand::Register { old, new },
            // tgtd looks at no key of the commands below where it should answer with a conflict: only the right one.
            (5..7, _) | (_, None) => PrCommand::RegisterIgnore { new: victim },
            (7..10, Some(key)) => PrCommand::Reserve { key },
            (10..12, Some(key)) => PrCommand::Release { key },
            (12, Some(key)) => PrCommand::Clear { key },
            // Nor does it take away the caller's own key, where that is the victim.
            (_, Some(own)) if own != victim => PrCommand::Preempt { own, victim },
            (_, Some(_)) => continue,
        };
        for command in [command, PrCommand::ReadKeys, PrCommand::ReadReservation] {
            let mine = settled(|| ours[side].send(path, command));
            let real = settled(|| theirs[side].send(path, command));
            conflicts += usize::from(mine == Err(PrError::Conflict));
            assert_eq!(
                real, mine,
                "step {step}, side {side}, path {path}, {command:?}"
            );
        }
    }
    assert!((100..8000).contains(&conflicts), "{conflicts} conflicts");
    for side in &theirs {
        for path in 0..2 {
            settled(|| side.send(path, PrCommand::RegisterIgnore { new: 0 })).expect("left");
        }
    }
}

/// An answer without what targets may differ in: unit attentions, texts, the order of keys; and PRgeneration, which
/// tgtd counts twice where a holder unregisters.
fn settled(mut send: impl FnMut() -> Result<PrReply, PrError>) -> Result<PrReply, PrError> {
    for _ in 0..32 {
        return match send() {
            Err(PrError::UnitAttention(_)) => continue,
            Err(PrError::Illegal(_)) => Err(PrError::Illegal(String::new())),
            Ok(PrReply::Keys { mut keys, .. }) => {
                keys.sort_unstable();
                let generation = 0;
                Ok(PrReply::Keys { generation, keys })
            }
            Ok(PrReply::Reservation { holder, wero, .. }) => Ok(PrReply::Reservation {
                generation: 0,
                holder,
                wero,
            }),
            other => other,
        };
    }
    panic!("unit attentions without end");
}

#[test]
fn tgtd_on_loopback() {
    const NAME: &str = "real_target::tgtd_on_loopback";
    isolated(NAME, || {
        let folder = tempfile::tempdir().expect("a folder");
        let _daemon = match Tgtd::start(&folder.path().join("disk")) {
            Ok(daemon) => daemon,
            Err(why) => return skipped(NAME, why),
        };
        let place = Place {
            portal: PORTAL.parse().expect("an address"),
            target: TARGET.to_owned(),
            lun: 1,
            initiator: "iqn.2026-01.test.failoverd:looks".into(),
            session: 1,
        };
        same_as_ours(&place);
        let (a, b) = common(&place);
        assert_eq!(checked(&place), ["preempt and abort"]);
        // It has neither APTPL nor PREEMPT AND ABORT: the one is refused and done without, the other is an error.
        assert_eq!(a.take(3, Controller::A), DiskOutcome::Taken);
        match b.take(4, Controller::B) {
            DiskOutcome::Unreachable(why) => assert!(why.contains("ILLEGAL REQUEST"), "{why}"),
            other => panic!("{other:?}"),
        }
        show(&[a.log.clone(), b.log.clone()]);
    });
}

#[test]
fn the_target_of_the_environment() {
    const NAME: &str = "real_target::the_target_of_the_environment";
    let Ok(text) = std::env::var("FAILOVERD_TEST_ISCSI") else {
        return skipped(
            NAME,
            "FAILOVERD_TEST_ISCSI names no target (portal,target,lun)",
        );
    };
    let parts: Vec<&str> = text.split(',').collect();
    let [portal, target, lun] = parts[..] else {
        panic!("FAILOVERD_TEST_ISCSI is {text:?}, not portal,target,lun");
    };
    let place = Place {
        portal: portal.parse().expect("an address with a port"),
        target: target.to_owned(),
        lun: lun.parse().expect("a number up to 255"),
        initiator: "iqn.2026-01.test.failoverd:looks".into(),
        session: 1,
    };
    let inquired = inquired(&place);
    let (a, b) = common(&place);
    assert_eq!(checked(&place), [""; 0]);
    assert_eq!(a.take(3, Controller::A), DiskOutcome::Taken);
    assert_eq!(b.take(4, Controller::B), DiskOutcome::Taken);
    let left = key(Controller::B, 4, 0);
    assert_eq!(b.run(DiskWork::Leave { holder: left }), DiskOutcome::Left);
    let keys = b.survey().keys;
    assert_eq!(
        b.send(0, PrCommand::Clear { key: keys[0] }),
        Ok(PrReply::Good)
    );
    show(&[inquired, a.log.clone(), b.log.clone()]);
}

/// Who the disk says it is, and what it can: for fixtures.
fn inquired(place: &Place) -> Arc<Mutex<Vec<Exchange>>> {
    let log = Arc::new(Mutex::default());
    let mut session = Session::login(place, log.clone()).expect("a session");
    let capabilities = pr_in::Action::ReportCapabilities.cdb(8);
    let commands: [&[u8]; 5] = [
        &inquiry::standard_cdb(96),
        &inquiry::page_cdb(0x80, 252),
        &inquiry::page_cdb(inquiry::PAGE_IDENTIFICATION, 1024),
        &capabilities,
        &capabilities,
    ];
    for cdb in commands {
        session
            .submit(cdb, Data::In(1024), Duration::from_secs(10))
            .expect("an answer");
    }
    log
}

/// With `--nocapture`: every exchange once, in a form for fixtures.
fn show(logs: &[Arc<Mutex<Vec<Exchange>>>]) {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let mut lines = std::collections::BTreeSet::new();
    for log in logs {
        for (cdb, out, status, sense, data) in log.lock().expect("no panic inside").iter() {
            // With CHECK CONDITION the buffer holds anything.
            let data = if *status == 0 { &data[..] } else { &[] };
            let (cdb, out, sense, data) = (hex(cdb), hex(out), hex(sense), hex(data));
            lines.insert(format!(
                "{cdb} {status:02x} sense={sense} out={out} in={data}"
            ));
        }
    }
    for line in lines {
        println!("{line}");
    }
}
