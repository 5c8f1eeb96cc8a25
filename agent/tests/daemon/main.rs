//! The daemon as a whole, in process.

mod mutated_beats;
mod pair;
mod program;

use failover_core::event::Command;
use failover_core::ids::{DiskId, Node};
use failover_core::settings::SettingsChange;
use failoverd::daemon::Exit;
use failoverd::links::Inspector;
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

#[test]
fn a_reload_applies_what_may_change_and_refuses_the_rest_whole() {
    let mut bench = Bench::new();
    let (master, backup) = whole(&bench);
    let node = master.handle.config().node;
    assert_eq!(master.handle.reload(), Ok(vec![]));
    bench.extra =
        "[[vips]]\ninterface = \"lo\"\naddress = \"192.0.2.10/24\"\n[timing]\nimport_ms = 29000\n"
            .to_owned();
    bench.write_config(node);
    let changed = vec!["timing.import_ms".to_owned(), "vips".to_owned()];
    assert_eq!(master.handle.reload(), Ok(changed));
    let told = "vips [\"192.0.2.9/24\"] to [\"192.0.2.9/24\", \"192.0.2.10/24\"], on: true";
    assert_eq!(master.world.calls().last().map(String::as_str), Some(told));
    assert_eq!(master.handle.backend().virtual_ips().len(), 2);
    assert_eq!(master.handle.backend().report().vips.len(), 2);
    bench.disks += 1;
    bench.extra.push_str("export_ms = 9000\n");
    bench.write_config(node);
    let refused = master.handle.reload().expect_err("disks can't change");
    assert!(
        refused.starts_with("disks can't change at run time"),
        "{refused}"
    );
    assert_eq!(
        master.handle.config().timing.export_ms,
        10_000,
        "nothing was applied"
    );
    std::fs::write(bench.folder(node).join("failoverd.toml"), "nonsense").expect("written");
    let refused = master.handle.reload().expect_err("no configuration");
    assert!(refused.contains("failoverd.toml:1"), "{refused}");
    assert_eq!(master.status(), "MASTER");
    backup.stop();
    master.stop();
}

#[test]
fn readers_get_answers_while_the_pair_works() {
    let bench = Bench::new();
    let (master, backup) = whole(&bench);
    let backend = master.handle.backend();
    let reader = std::thread::spawn(move || {
        for _ in 0..500 {
            let report = backend.report();
            assert_eq!(report.vips, ["192.0.2.9/24"]);
            assert!(report.links.iter().all(|link| link.name == "127.0.0.1"));
        }
    });
    reader.join().expect("every answer was whole");
    assert_eq!(master.status(), "MASTER");
    backup.stop();
    master.stop();
}

/// A restart that beats again within 150 ms costs nothing; a start has no business that takes that long.
#[test]
fn the_first_beat_comes_at_once() {
    let bench = Bench::new();
    let peer = bench.listen_as(Node::B);
    let started = std::time::Instant::now();
    let a = bench.start(Node::A);
    let mut buffer = [0; 2000];
    let length = peer.recv(&mut buffer).expect("a beat within the time-out");
    println!("first beat {:?} after the start", started.elapsed());
    let inspector = Inspector::new(a.handle.config().pair_key.clone().expect("a pair"), Node::B);
    let beat = inspector.inspect(&buffer[..length]).expect("a good one");
    assert_eq!(beat.seq, 1);
    a.stop();
}

#[test]
fn a_master_without_disks_resets_itself_and_the_count_is_durable() {
    use std::sync::atomic::Ordering;
    let bench = Bench::new();
    let (master, backup) = whole(&bench);
    let node = master.handle.config().node;
    let journal = bench.folder(node).join("state/journal");
    let uncounted = std::fs::read(&journal).expect("there");
    master.world.all_stuck.store(true, Ordering::Relaxed);
    wait_for("it resets itself", || {
        master.world.reset.lock().expect("whole").is_some()
    });
    let counted = std::fs::read_to_string(&journal).expect("there");
    assert!(counted.contains("{\"resets\":1}"), "{counted}");
    assert_eq!(master.world.lease_until.load(Ordering::Relaxed), 0);
    wait_for("the other one serves", || backup.status() == "MASTER");
    // The pretend reset comes back; a daemon in that state says so, and still ends when told to.
    assert_eq!(master.status(), "ERROR");
    let refused = ask(&master, Command::Update(SettingsChange::default()));
    assert!(refused.is_err_and(|why| why.contains("has halted")));
    // But that is no end in order: pools may be imported here, and the watchdog must stay armed.
    assert_eq!(master.stop(), Exit::Halted);
    // Even where the journal could not keep the count: the block that was written directly has it, and the reason.
    std::fs::write(&journal, uncounted).expect("written");
    let again = bench.start(node);
    let history = again.handle.backend().history(100);
    let why =
        "an earlier run asked for a reset that did not happen: no majority of the shared disks";
    let told = |record: &&failover_api::HistoryRecord| {
        (record.from.as_str(), record.to.as_str()) == ("halted", "starting")
    };
    let records: Vec<_> = history.iter().filter(told).collect();
    assert_eq!(records.len(), 1, "{history:?}");
    assert!(records[0].why.starts_with(why), "{records:?}");
    let counted = std::fs::read_to_string(&journal).expect("there");
    assert!(counted.contains("{\"resets\":1}"), "{counted}");
    again.stop();
    backup.stop();
}

#[test]
fn a_stop_whose_export_is_stuck_is_no_end_in_order() {
    use std::sync::atomic::Ordering;
    let mut bench = Bench::new();
    bench.extra = "[timing]\nexport_ms = 1000\n".to_owned();
    let (master, backup) = whole(&bench);
    master.world.stuck_export.store(true, Ordering::Relaxed);
    let world = master.world.clone();
    // The pretend reset comes back, and the daemon was told to end before.
    assert_eq!(master.stop(), Exit::Halted);
    let reset = world.reset.lock().expect("whole").clone();
    assert!(
        reset.is_some_and(|why| why.contains("a step that must not be left failed")),
        "it asked for a reset"
    );
    backup.stop();
}
