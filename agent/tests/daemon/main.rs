//! The daemon as a whole, in process.

mod pair;

use failover_core::event::Command;
use failover_core::ids::{DiskId, Node};
use failover_core::settings::SettingsChange;
use failoverd::daemon::Exit;
use pair::{Bench, Controller, wait_for};
use std::time::Duration;

fn whole(bench: &Bench) -> (Controller, Controller) {
    let (a, b) = (bench.start(Node::A), bench.start(Node::B));
    wait_for("one MASTER, one BACKUP that can take over", || {
        let mut states = [a.status(), b.status()];
        states.sort();
        let ready = |c: &Controller| {
            let report = c.handle.backend().report();
            report
                .peer
                .as_ref()
                .is_some_and(|peer| peer.heard && peer.eligible)
        };
        states == ["BACKUP", "MASTER"] && (ready(&a) || ready(&b))
    });
    if a.status() == "MASTER" {
        (a, b)
    } else {
        (b, a)
    }
}

fn ask(controller: &Controller, command: Command) -> Result<(), String> {
    let answer = controller.handle.backend().command(command).blocking_recv();
    answer.expect("answered").map_err(|refusal| refusal.reason)
}

#[test]
fn a_pair_elects_hands_over_and_takes_over() {
    let bench = Bench::new();
    let (master, backup) = whole(&bench);
    let taken = master.world.calls();
    let way_up = ["import 0", "start services", "add vips"];
    assert!(taken.ends_with(&way_up.map(str::to_owned)), "{taken:?}");
    assert_eq!(ask(&master, Command::BecomePassive), Ok(()));
    wait_for("the roles are exchanged", || {
        backup.status() == "MASTER" && master.status() == "BACKUP"
    });
    let calls = master.world.calls();
    let way_down = ["remove vips", "stop services", "export 0"];
    assert_eq!(calls[taken.len()..], way_down);
    let history = backup.handle.backend().history(100);
    assert!(history.iter().all(|record| record.wall_ms.is_some()));
    // Leaving as MASTER hands over first.
    wait_for("the old master can take over again", || {
        let report = backup.handle.backend().report();
        report.peer.as_ref().is_some_and(|peer| peer.eligible)
    });
    assert_eq!(backup.stop(), Exit::Stopped);
    wait_for("the other one serves", || master.status() == "MASTER");
    assert!(master.world.reset.lock().expect("whole").is_none());
    assert_eq!(master.stop(), Exit::Stopped);
}

#[test]
fn an_announced_restart_touches_nothing() {
    let bench = Bench::new();
    let (master, backup) = whole(&bench);
    let node = master.handle.config().node;
    let epoch = master.handle.backend().report().epoch;
    let before = master.world.calls();
    master.handle.stop(true);
    let world = master.world.clone();
    assert_eq!(master.running.join().expect("ends"), Exit::Restart);
    assert_eq!(world.calls(), before, "services, pools and addresses stay");
    assert_eq!(backup.status(), "BACKUP");
    let again = bench.start(node);
    wait_for("it serves again", || again.status() == "MASTER");
    assert_eq!(backup.status(), "BACKUP");
    assert_eq!(
        again.handle.backend().report().epoch,
        epoch,
        "the same takeover"
    );
    backup.stop();
    again.stop();
}

#[test]
fn a_stuck_disk_delays_nobody() {
    let mut bench = Bench::new();
    bench.disks = 6;
    let (master, backup) = whole(&bench);
    *backup.world.stuck_disk.lock().expect("whole") = Some(DiskId::of("disk-5"));
    assert_eq!(ask(&master, Command::BecomePassive), Ok(()));
    wait_for("the roles are exchanged", || backup.status() == "MASTER");
    backup.stop();
    master.stop();
}

#[test]
fn settings_reach_both_and_survive() {
    let bench = Bench::new();
    let (master, backup) = whole(&bench);
    let change = SettingsChange {
        timeout_s: Some(7),
        ..SettingsChange::default()
    };
    assert_eq!(ask(&backup, Command::Update(change)), Ok(()));
    let timeout = |c: &Controller| c.handle.backend().report().config.timeout;
    wait_for("both know", || {
        timeout(&master) == 7 && timeout(&backup) == 7
    });
    let node = backup.handle.config().node;
    backup.stop();
    let again = bench.start(node);
    assert_eq!(timeout(&again), 7);
    again.stop();
    master.stop();
}

#[test]
fn a_lost_lease_reaches_the_core() {
    use std::sync::atomic::Ordering;
    let bench = Bench::new();
    let (master, backup) = whole(&bench);
    master.world.refuse_lease.store(true, Ordering::Relaxed);
    wait_for("its addresses go off", || {
        master
            .world
            .calls()
            .iter()
            .any(|call| call == "remove vips")
    });
    master.world.refuse_lease.store(false, Ordering::Relaxed);
    wait_for("somebody serves again", || {
        [&master, &backup].iter().any(|c| c.status() == "MASTER")
    });
    std::thread::sleep(Duration::from_millis(10));
    master.stop();
    backup.stop();
}

#[test]
fn a_second_daemon_for_the_same_folders_is_refused_while_the_socket_answers() {
    let bench = Bench::new();
    let first = bench.start(Node::A);
    let config = failoverd::config::Config::load(&bench.write_config(Node::A)).expect("good");
    let adapters = pair::adapters(Node::A, bench.shelf.clone(), Default::default());
    let error = match failoverd::daemon::start(config, adapters) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it must be refused"),
    };
    assert!(error.contains("stop that one first"), "{error}");
    first.stop();
}
