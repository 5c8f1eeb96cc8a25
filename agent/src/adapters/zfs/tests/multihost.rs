//! What `multihost=on` costs an import, and where it costs nothing.

use super::*;

/// Interval 1 s, 10 failures: the defaults.
const MULTIHOST: (u64, u64) = (1_000_000, 10 << 48 | 1000 << 8 | 7);

#[test]
fn multihost_is_explained_and_an_import_that_is_too_short_for_it_refused() {
    let machine = Machine::new();
    for number in 0..3 {
        machine.disk_with(
            number,
            &encode(&machine.label(number, 0), 90, Some(MULTIHOST)),
        );
    }
    let pools = machine.pools_of(machine.pool(), Duration::from_secs(30));
    let why = refused(&machine, &pools, &[0, 1, 2]);
    assert!(
        why.contains("multihost=on") && why.contains("36 s") && why.contains("35.0 s"),
        "{why}"
    );
    assert!(
        why.contains("multihost=off tank") && why.contains("failoverd changes none"),
        "{why}"
    );
    let findings = pools.refusals();
    assert!(
        findings[0].refused && findings[0].text.contains("timing.import_ms (30000)"),
        "{findings:?}"
    );
    let pools = machine.pools();
    assert_eq!(pools.refusals(), []);
    let told = pools.findings();
    assert!(
        told.iter()
            .any(|finding| !finding.refused && finding.text.contains("36 s")),
        "{told:?}"
    );
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
}

/// 95 % of an import's time may be used, and a sixth of it goes to a disk that hangs while labels are read.
#[test]
fn what_the_start_accepts_is_long_enough_for_the_import() {
    let machine = Machine::new();
    for number in 0..3 {
        let label = encode(&machine.label(number, 0), 90, Some(MULTIHOST));
        machine.disk_with(number, &label);
    }
    for (import_s, is_refused) in [(36, true), (44, true), (45, false)] {
        let limit = Duration::from_secs(import_s);
        let findings = machine.pools_of(machine.pool(), limit).refusals();
        assert_eq!(
            !findings.is_empty(),
            is_refused,
            "{import_s} s: {findings:?}"
        );
        for finding in findings {
            let needed = "timing.import_ms must be 45000";
            assert!(finding.text.contains(needed), "{finding:?}");
        }
    }
    let short = machine.pools_of(machine.pool(), Duration::from_secs(36));
    refused(&machine, &short, &[0, 1, 2]);
    let enough = machine.pools_of(machine.pool(), Duration::from_secs(45));
    assert_eq!(enough.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
}

/// Marks the three disks as those of a pool with `multihost` on, last used by `host`.
fn used_by(machine: &Machine, state: u64, host: u64) {
    for number in 0..3 {
        let mut label = machine.label(number, state);
        label.0.insert("hostid".to_owned(), Value::Number(host));
        label.0.insert("hostname".to_owned(), text("b"));
        machine.disk_with(number, &encode(&label, 90, Some(MULTIHOST)));
    }
}

/// The time of an import is too short for the wait: what is imported all the same doesn't wait.
#[test]
fn an_import_without_a_wait_is_not_refused_for_its_length() {
    let machine = Machine::new();
    let (ours, theirs) = (11, 12);
    let (active, exported) = (0, 1);
    fs::create_dir_all(machine.at("sys/module/spl/parameters")).expect("made");
    machine.write("sys/module/spl/parameters/spl_hostid", &format!("{ours}\n"));
    let pools = machine.pools_of(machine.pool(), Duration::from_secs(30));
    for (version, state, host, waits) in [
        ("2.2.2-1", active, theirs, true),
        ("2.2.2-1", exported, theirs, false),
        ("2.2.2-1", active, ours, false),
        ("2.4.4-1", active, theirs, true),
        ("2.4.4-1", exported, theirs, true),
        ("2.4.4-1", active, ours, true),
        ("2.4.4-1", exported, ours, false),
    ] {
        machine.write("sys/module/zfs/version", version);
        machine.write("calls", "");
        used_by(&machine, state, host);
        let case = format!("{version}, state {state}, used by {host}");
        let began = |machine: &Machine| {
            let calls = machine.calls();
            calls.iter().any(|call| call.starts_with("zpool import"))
        };
        // How it ends doesn't matter here: the list of datasets is that of one version only.
        let _ = pools.import(POOL, &won(&[0, 1, 2]));
        assert_eq!(began(&machine), !waits, "{case}");
        let _ = fs::remove_dir_all(machine.at("proc/spl/kstat/zfs/tank"));
        // The day will come on which it isn't exported.
        assert!(!pools.refusals().is_empty(), "{case}");
    }
}
