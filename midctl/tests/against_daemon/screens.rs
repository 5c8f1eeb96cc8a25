//! What people see: each screen as it was kept.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// Compares with a kept output; `UPDATE_GOLDEN=1` keeps the present one.
fn golden(name: &str, output: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, output).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        output,
        kept,
        "{} differs; UPDATE_GOLDEN=1 keeps what midctl prints now",
        path.display()
    );
}

fn in_columns(served: &Served, columns: &str, arguments: &[&str]) -> String {
    let mut command = served.command(arguments);
    let output = command
        .env("COLUMNS", columns)
        .output()
        .expect("midctl runs");
    assert_eq!(err(&output), "");
    let text = out(&output);
    let width = columns.parse().expect("a number");
    for line in text.lines() {
        assert!(
            line.chars().count() <= width,
            "too wide for {width}: {line}"
        );
        assert_eq!(line, line.trim_end());
    }
    text
}

#[test]
fn the_pair_is_shown_on_one_screen() {
    let served = Served::start();
    golden("status.txt", &served.out(&["status"]));
    golden("status-100.txt", &in_columns(&served, "100", &["status"]));
    served.daemon.change(trouble);
    golden("status-trouble.txt", &served.out(&["status"]));
    golden(
        "status-trouble-60.txt",
        &in_columns(&served, "60", &["status"]),
    );
    let state: Value = serde_json::from_str(&served.out(&["--json", "status"])).expect("JSON");
    assert_eq!(state["status"], "ERROR");
}

#[test]
fn a_pool_that_failed_alone_is_shown_with_its_address() {
    let served = Served::start();
    served.daemon.change(|report| {
        report.pools.push(failover_api::PoolReport {
            pool: "dock".to_owned(),
            state: "imported".to_owned(),
        });
        report.pools[0].state = "failed: it needs disk07, which was not won".to_owned();
        report.vip_list[1].on = false;
    });
    golden("status-pool-failed.txt", &served.out(&["status"]));
}

/// Much that can go wrong, at once.
fn trouble(report: &mut failover_api::StateReport) {
    use failover_api::{DisabledReason, DiskSummary};
    report.status = Status::Error;
    report.state = "halted".to_owned();
    report.why = "it halted because a majority of the shared disks was lost".to_owned();
    report.eligible = false;
    report.blockers = vec!["20 of 24 disks can't be read".to_owned()];
    report.config.disabled = true;
    report.disabled_reasons = vec![DisabledReason::NoFailover, DisabledReason::NoPong];
    report.vips_on = false;
    report.lease_ms = None;
    report.pools[0].state = "failed: disk07 is missing".to_owned();
    report.disks = DiskSummary {
        ours: 3,
        foreign: 1,
        unreadable: 20,
        ..DiskSummary::default()
    };
    for disk in &mut report.disk_list[3..23] {
        disk.owner = "unreadable".to_owned();
        disk.epoch = None;
        disk.age_ms = None;
    }
    report.disk_list[23].owner = "foreign".to_owned();
    report.links[1].age_ms = None;
    if let Some(peer) = &mut report.peer {
        peer.heard = false;
        peer.age_ms = Some(432_000);
        peer.eligible = false;
    }
}

#[test]
fn the_history_is_a_table_where_it_fits() {
    let served = Served::start();
    golden("history.txt", &served.out(&["history"]));
    golden("history-120.txt", &in_columns(&served, "120", &["history"]));
    golden(
        "history-60.txt",
        &in_columns(&served, "60", &["history", "-n", "1"]),
    );
    golden(
        "history-evidence.txt",
        &served.out(&["history", "-n", "1", "-e"]),
    );
    let records: Value =
        serde_json::from_str(&served.out(&["--json", "history", "-n", "2"])).expect("JSON");
    assert_eq!(records.as_array().map(Vec::len), Some(2));
    assert_eq!(records[1]["time"], json!({"$date": 1_795_246_233_123_u64}));
}

#[test]
fn incidents_are_listed_and_brought_here() {
    let served = Served::start();
    golden("incidents.txt", &served.out(&["incident", "list"]));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("one.log");
    let path = file.to_str().expect("plain");
    let name = "2026-11-28T15:50:12Z-surveying";
    let said = served.out(&["incident", "export", name, "--file", path]);
    assert!(said.contains(&format!("failoverd replay {path}")), "{said}");
    assert_eq!(std::fs::read(&file).expect("written"), pretend::INCIDENT);
    let mode = std::fs::metadata(&file)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nothing that is there is overwritten, and of nothing that isn't there anything stays.
    let again = served.midctl(&["incident", "export", name, "--file", path]);
    assert_eq!(again.status.code(), Some(2));
    let other = folder.path().join("other.log");
    let path = other.to_str().expect("plain");
    let unknown = served.midctl(&["incident", "export", "yesterday", "--file", path]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        said.starts_with("[EINVAL] name: no incident yesterday"),
        "{said}"
    );
    assert!(!other.exists());
}

#[test]
fn methods_are_explained_without_a_daemon() {
    let run = |arguments: &[&str]| {
        let output = midctl().args(arguments).output().expect("midctl runs");
        assert_eq!(output.status.code(), Some(0));
        out(&output)
    };
    golden("help-fence.txt", &run(&["fence", "--help"]));
    golden("methods.txt", &run(&["methods"]));
    golden("methods-update.txt", &run(&["methods", "failover.update"]));
    golden("help.txt", &run(&["--help"]));
    let all: Value = serde_json::from_str(&run(&["--json", "methods"])).expect("JSON");
    assert_eq!(all["failover.update"]["roles"], json!(["FAILOVER_WRITE"]));
}

#[test]
fn the_map_of_the_disks_looks_as_kept() {
    let served = Served::start();
    golden("fence-status.txt", &served.out(&["fence", "status"]));
    golden(
        "fence-status-100.txt",
        &in_columns(&served, "100", &["fence", "status"]),
    );
    let json = served.out(&["--json", "fence", "status"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["disk_list"][0]["holder"]["phase"], "owner");
    assert_eq!(
        json["disk_list"][1]["registrations"][1]["node"],
        Value::Null
    );
    assert_eq!(
        json["disk_list"][0]["check"]["time"]["$date"],
        1_795_246_230_123_u64
    );
}
