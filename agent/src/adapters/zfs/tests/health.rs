//! What is told of pools that are served.

use super::*;
use crate::adapters::zfs::health::{Alarm, Told};

struct Served {
    machine: Machine,
    pools: ZfsPools,
    told: Told,
    now: Instant,
}

impl Served {
    fn new() -> Served {
        let machine = Machine::new();
        let pools = machine.pools();
        pools.import(POOL, &won(&[0, 1, 2])).expect("imported");
        machine.write("calls", "");
        Served {
            machine,
            pools,
            told: Told::default(),
            now: Instant::now(),
        }
    }

    /// What a look tells in this state, so many seconds after the last one.
    fn look(&mut self, state: &str, later_s: u64) -> Option<Alarm> {
        self.machine
            .write("proc/spl/kstat/zfs/tank/state", &format!("{state}\n"));
        self.now += Duration::from_secs(later_s);
        let one = &self.pools.pools[0];
        self.pools.health(0, one, &mut self.told, self.now)
    }

    /// What `zpool status` shall show as not working.
    fn devices(&self, devices: &str) {
        let head = "  pool: tank\n state: ONLINE\nconfig:\n\n\tNAME STATE READ WRITE CKSUM\n\ttank ONLINE 0 0 0\n";
        self.machine.write(
            "status",
            &format!("{head}{devices}\nerrors: No known data errors\n"),
        );
        self.machine.write("zpool-status.does", "cat status");
    }
}

fn degraded(alarm: Option<Alarm>) -> String {
    match alarm {
        Some(Alarm::Degraded(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_degraded_pool_is_told_of_with_its_devices_and_again_when_they_are_others() {
    let mut served = Served::new();
    assert_eq!(served.look("ONLINE", 5), None);
    assert!(
        served.machine.calls().is_empty(),
        "no program for a whole pool"
    );
    served.devices("\t  sdc1 FAULTED 0 3 0\n");
    let text = degraded(served.look("DEGRADED", 5));
    assert!(
        text.contains("pool tank: DEGRADED") && text.contains("sdc1 is FAULTED"),
        "{text}"
    );
    assert_eq!(served.look("DEGRADED", 5), None);
    assert_eq!(served.machine.calls().len(), 1, "not at each look");
    assert_eq!(served.look("DEGRADED", 60), None, "the same devices");
    served.devices("\t  sdc1 FAULTED 0 3 0\n\t  sdd1 UNAVAIL 0 0 0\n");
    assert_eq!(served.look("DEGRADED", 5), None);
    let text = degraded(served.look("DEGRADED", 60));
    assert!(text.contains("sdd1 is UNAVAIL"), "{text}");
    served.devices("");
    let whole = served.look("ONLINE", 5);
    assert!(matches!(whole, Some(Alarm::Whole(text)) if text.contains("it was DEGRADED")));
    assert_eq!(served.look("ONLINE", 5), None);
}

/// As OpenZFS 2.4 says it where two disks of a raidz2 fail every read and write.
#[test]
fn faulted_devices_are_told_of_though_the_pool_is_online() {
    let mut served = Served::new();
    served.devices("\t  sdc1 FAULTED 3 138 0\n");
    assert_eq!(served.look("ONLINE", 5), None);
    assert_eq!(served.look("ONLINE", 55), None);
    let text = degraded(served.look("ONLINE", 5));
    assert!(
        text.contains("pool tank: ONLINE: device sdc1 is FAULTED"),
        "{text}"
    );
    assert_eq!(served.look("ONLINE", 60), None, "the same devices");
    served.devices("");
    let whole = served.look("ONLINE", 60);
    assert!(matches!(whole, Some(Alarm::Whole(text)) if text.contains("all its devices")));
    assert_eq!(served.look("ONLINE", 60), None);
}

#[test]
fn a_suspended_pool_is_told_of_and_no_program_is_started() {
    let mut served = Served::new();
    let alarm = served.look("SUSPENDED", 5);
    assert!(matches!(alarm, Some(Alarm::Suspended(text)) if text.contains("hangs")));
    assert_eq!(served.look("SUSPENDED", 600), None);
    assert!(served.machine.calls().is_empty());
    // It goes on, and is degraded now.
    served.devices("\t  sdc1 UNAVAIL 0 3 0\n");
    assert!(degraded(served.look("DEGRADED", 5)).contains("sdc1"));
}

#[test]
fn a_status_that_fails_keeps_nothing_from_being_told_and_no_export_from_running() {
    let mut served = Served::new();
    served
        .machine
        .write("zpool-status.does", "echo no >&2; exit 1");
    let text = degraded(served.look("FAULTED", 5));
    assert!(
        text.contains("pool tank: FAULTED") && text.contains("`zpool status` failed: no"),
        "{text}"
    );
    assert_eq!(served.look("FAULTED", 60), None);
    assert_eq!(served.pools.export(POOL), Ok(Change::Made));
    let one = &served.pools.pools[0];
    let gone = served.pools.health(0, one, &mut served.told, served.now);
    assert_eq!(gone, None);
}

/// What somebody else imported isn't served.
#[test]
fn a_pool_that_is_not_ours_is_nobodys_alarm() {
    let served = Served::new();
    let strangers = served.machine.pools();
    served
        .machine
        .write("proc/spl/kstat/zfs/tank/state", "SUSPENDED\n");
    let mut told = Told::default();
    let alarm = strangers.health(0, &strangers.pools[0], &mut told, served.now);
    assert_eq!(alarm, None);
}
