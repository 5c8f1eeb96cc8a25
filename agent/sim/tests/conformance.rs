//! The conformance list of persistent reservations against every emulated disk here, and against a real target.

#[path = "../../tests/fence/iscsi.rs"]
#[allow(dead_code, reason = "the daemon's tests look at its log")]
mod iscsi;
#[path = "../../tests/adapters/ns.rs"]
#[allow(dead_code, reason = "other tests have clients in a second namespace")]
mod ns;
#[path = "../../tests/fence/scsi_target.rs"]
#[allow(dead_code, reason = "the daemon's tests have faults too")]
mod scsi_target;
#[path = "../../tests/fence/tgtd.rs"]
mod tgtd;

use failover_core::pr::PrCommand;
use failover_sim::conformance::emulated::Emulated;
use failover_sim::conformance::judge::{Differences, Report, differences, judge};
use failover_sim::conformance::list::{Command, Deed, Step, parse};
use failover_sim::conformance::run::NEXUSES;
use failover_sim::conformance::scsi::{Paths, ScsiPath};
use failover_sim::conformance::shelf::Shelf;
use failover_sim::conformance::{DIFFERENCES_OF_LIO, DIFFERENCES_OF_TGTD, LIST, Target};
use failover_sim::disk::Nexus;
use failover_sim::shelf::server::{Server, Shape};
use failoverd::adapters::ports::{Data, ScsiPort};
use failoverd::adapters::scsi::inquiry;
use iscsi::{Place, Session};
use ns::{isolated, skipped};
use scsi_target::Flaw;
use std::sync::Arc;
use std::time::Duration;
use tgtd::Tgtd;

const LIMIT: Duration = Duration::from_secs(10);

fn judged(target: &mut dyn Target, listed: &Differences) -> Report {
    let cases = parse(LIST).expect("understood");
    let report = judge(target, &cases, listed, |line| println!("{line}")).expect("it answers");
    println!("{}", report.summary());
    assert_eq!(report.wrong, [""; 0]);
    report
}

/// Names of the cases that were left out, which is no more than these.
fn left_out(report: &Report) -> Vec<&str> {
    report
        .skipped
        .iter()
        .map(|(case, _)| case.as_str())
        .collect()
}

/// What the emulated disk has no command for.
const NO_COMMAND: [&str; 4] = [
    "reserve.another_type",
    "release.another_type",
    "preempt.another_type",
    "read.capabilities",
];

#[test]
fn the_emulated_disk() {
    let report = judged(&mut Emulated::new(), &Differences::new());
    assert_eq!(left_out(&report), NO_COMMAND);
}

#[test]
fn the_emulated_disk_behind_its_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("shelf.sock");
    let shape = Shape {
        disks: 1,
        latency: Duration::from_micros(200),
        refuses_nobody: false,
    };
    let server = Server::bind(&socket, shape).expect("a shelf");
    std::thread::spawn(move || server.serve());
    let mut target = Shelf::new(&socket, 0).expect("connected");
    let report = judged(&mut target, &Differences::new());
    let mut others = left_out(&report);
    others.retain(|case| !NO_COMMAND.contains(case));
    assert_eq!(
        others,
        [
            "abort.waits_for_the_medium",
            "preempt.what_was_inside",
            "reset.keeps",
            "power.kept",
            "power.lost",
            "power.last_registration_decides",
            "power.is_told",
        ]
    );
}

/// The target of the daemon's own tests: bytes, written apart from the emulated disk.
fn of_bytes(flaw: Option<Flaw>) -> Paths {
    let target = scsi_target::Target::new([0x50, 0, 0, 0, 0, 0, 0, 1]);
    target.with(|target| target.flaw = flaw);
    let path = |nexus: Nexus| {
        let initiator = ["a", "b"][nexus.node as usize];
        let port = target.port((initiator, nexus.path.0));
        (nexus, ScsiPath::new(port).expect("it answers"))
    };
    let paths: Vec<(Nexus, ScsiPath)> = NEXUSES.into_iter().map(path).collect();
    let power = target.clone();
    let act = move |deed| match deed {
        Deed::PowerCycle => {
            power.power_cycle();
            Ok(())
        }
        Deed::MediumStops | Deed::MediumGoesOn => Err("it has no medium".to_owned()),
    };
    Paths::new(paths, no_medium, Box::new(act))
}

#[test]
fn the_target_that_speaks_bytes() {
    let report = judged(&mut of_bytes(None), &Differences::new());
    assert_eq!(
        left_out(&report),
        [
            "access.strangers_read",
            "abort.what_was_inside",
            "abort.waits_for_the_medium",
            "preempt.what_was_inside",
        ]
    );
}

/// Whatever a target does wrong, the list notices.
#[test]
fn each_flaw_of_a_target_is_noticed() {
    let cases = parse(LIST).expect("understood");
    for (flaw, case) in [
        (Flaw::ForgetsOnReset, "reset.keeps"),
        (Flaw::LetsStrangersWrite, "access.by_registering"),
        (Flaw::IgnoresOldKeys, "register.wrong_old_key"),
        (Flaw::NoAbort, "abort.holder"),
    ] {
        let mut target = of_bytes(Some(flaw));
        let report = judge(&mut target, &cases, &Differences::new(), |_| {});
        let wrong = report.expect("it answers").wrong;
        let noticed = wrong.iter().any(|line| line.starts_with(case));
        assert!(noticed, "{flaw:?}: {wrong:?}");
    }
}

fn no_medium(step: &Step) -> Option<&'static str> {
    match step {
        Step::Ask(_, Command::ReadBlock, _) | Step::Do(Deed::MediumStops) => {
            Some("its writes go nowhere")
        }
        _ => None,
    }
}

/// From outside nobody stops a real target's medium or cuts its power: `lab test reservations` does.
fn from_outside(step: &Step) -> Option<&'static str> {
    match step {
        Step::Do(_) | Step::Ask(_, Command::ResetUnit, _) => Some("not from outside"),
        _ => None,
    }
}

/// Its first block is overwritten, and its reservations are cleared.
#[test]
fn the_target_of_the_environment() {
    let Ok(text) = std::env::var("FAILOVERD_TEST_ISCSI") else {
        return skipped(
            "the_target_of_the_environment",
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
        initiator: String::new(),
        session: 0,
    };
    let mut session = Session::login(&of(&place, NEXUSES[0]), Arc::default()).expect("a session");
    let inquiry = session.submit(&inquiry::standard_cdb(96), Data::In(96), LIMIT);
    let vendor = inquiry.expect("it answers").data[8..16].to_vec();
    drop(session);
    let listed = match &vendor[..] {
        b"LIO-ORG " => differences(DIFFERENCES_OF_LIO).expect("understood"),
        _ => Differences::new(),
    };
    let never = Box::new(|_| Err("not from outside".to_owned()));
    judged(
        &mut Paths::new(sessions(&place), from_outside, never),
        &listed,
    );
}

/// As whom `nexus` logs in.
fn of(place: &Place, nexus: Nexus) -> Place {
    let initiator = ["a", "b"][nexus.node as usize];
    Place {
        initiator: format!("iqn.2026-01.test.failoverd:{initiator}"),
        session: nexus.path.0 + 1,
        ..place.clone()
    }
}

fn sessions(place: &Place) -> Vec<(Nexus, ScsiPath)> {
    let path = |nexus| {
        let session = Session::login(&of(place, nexus), Arc::default()).expect("a session");
        let path = ScsiPath::new(Box::new(session)).expect("it answers");
        (nexus, path)
    };
    NEXUSES.into_iter().map(path).collect()
}

/// The other target that others wrote. It lacks what the pair needs, and most of what it does otherwise is wrong: worth
/// something for the answers that are the same.
#[test]
fn tgtd_on_loopback() {
    const NAME: &str = "tgtd_on_loopback";
    isolated(NAME, || {
        let folder = tempfile::tempdir().expect("a folder");
        let _daemon = match Tgtd::start(&folder.path().join("disk")) {
            Ok(daemon) => daemon,
            Err(why) => return skipped(NAME, why),
        };
        let place = Place {
            portal: tgtd::PORTAL.parse().expect("an address"),
            target: tgtd::TARGET.to_owned(),
            lun: 1,
            initiator: String::new(),
            session: 0,
        };
        let sessions = sessions(&place).into_iter();
        let sessions = sessions.map(|(nexus, path)| (nexus, path.without_aptpl()));
        let never = Box::new(|_| Err("not from outside".to_owned()));
        let listed = differences(DIFFERENCES_OF_TGTD).expect("understood");
        let report = judged(&mut Paths::new(sessions, not_by_tgtd, never), &listed);
        assert!(report.compared > 300, "{}", report.summary());
    });
}

fn not_by_tgtd(step: &Step) -> Option<&'static str> {
    match step {
        Step::Ask(_, Command::Reservation(PrCommand::PreemptAbort { .. }), _) => {
            Some("tgtd has no PREEMPT AND ABORT")
        }
        Step::Ask(_, Command::Reservation(PrCommand::ReadFull), _) => {
            Some("tgtd has no READ FULL STATUS")
        }
        Step::Ask(_, Command::Capabilities, _) => Some("tgtd has no APTPL"),
        _ => from_outside(step),
    }
}
