//! The check of a disk before it is used, on good targets and on bad ones.

use crate::bench::{Device, NAA, NAME, NGUID, NVME_NAME, Nodes, STRICT, path, shared};
use crate::nvme_target::NvmeTarget;
use crate::scsi_target::{Fault, Flaw, Target};
use failover_core::config::Timing;
use failoverd::adapters::disk_paths::SharedDisk;
use failoverd::adapters::fence::Options;
use failoverd::adapters::ports::Kind;
use failoverd::preflight::{CHECK_KEY, Findings, Latency, Trial, Verdict};
use std::path::Path;
use std::sync::Arc;

const REGISTERED: (&str, u8) = ("b", 0);

fn disk(target: &Target, paths: u8) -> (Nodes, SharedDisk) {
    let nodes = Nodes::default();
    let names = ["sdb", "sdc"];
    let found: Vec<_> = (0..paths)
        .map(|number| {
            let name = names[usize::from(number)];
            nodes.plug(name, Device::Scsi(target.clone(), ("a", number)));
            path(Kind::Scsi, name, &format!("{}:0:0:0", number + 2))
        })
        .collect();
    (nodes, shared(NAME, &found))
}

fn run(target: &Target, paths: u8, options: Options) -> Result<Findings, String> {
    let (nodes, disk) = disk(target, paths);
    Trial::new(Arc::new(nodes), disk, options, Timing::default()).run()
}

/// The verdicts but that of the latency, which is this machine's.
fn verdicts(findings: &Findings) -> Vec<(&str, Verdict)> {
    let all = findings.findings.iter();
    all.map(|finding| (finding.check.as_str(), finding.verdict))
        .filter(|(check, _)| *check != "latency")
        .collect()
}

fn failed(findings: &Findings) -> Vec<&str> {
    let all = verdicts(findings).into_iter();
    all.filter(|(_, verdict)| *verdict == Verdict::Fail)
        .map(|(check, _)| check)
        .collect()
}

fn is_clean(target: &Target) -> bool {
    target.with(|disk| disk.keys.is_empty() && disk.holder.is_none())
}

#[test]
fn a_good_disk_with_two_paths_passes_everything() {
    let target = Target::new(NAA);
    let findings = run(&target, 2, STRICT).expect("checked");
    let all_pass = verdicts(&findings)
        .iter()
        .all(|(_, verdict)| *verdict == Verdict::Pass);
    assert!(all_pass, "{:#?}", findings.findings);
    assert_eq!(findings.findings.len(), 10);
    let counts = [&findings.reads, &findings.rolls].map(|one| one.as_ref().map(|l| l.count));
    assert_eq!(counts, [Some(200); 2]);
    assert!(is_clean(&target));
    let again = run(&target, 2, STRICT).expect("nothing stands against a second one");
    assert_eq!(failed(&again), [""; 0]);
}

#[test]
fn one_path_leaves_the_strangers_write_untested() {
    let target = Target::new(NAA);
    let findings = run(&target, 1, STRICT).expect("checked");
    assert_eq!(failed(&findings), [""; 0]);
    let untested: Vec<&str> = findings
        .findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Untested)
        .map(|finding| finding.said.as_str())
        .collect();
    assert_eq!(untested, ["not testable from one path; needs a second one"]);
    assert!(is_clean(&target));
}

#[test]
fn each_flaw_is_found() {
    let cases = [
        (Flaw::ForgetsOnReset, &["reset of the unit"][..]),
        (
            Flaw::LetsStrangersWrite,
            &["stranger's write", "loser's write"],
        ),
        (Flaw::IgnoresOldKeys, &["compare and swap"]),
        (Flaw::NoAbort, &["preempt and abort"]),
    ];
    for (flaw, expected) in cases {
        let target = Target::new(NAA);
        target.with(|disk| disk.flaw = Some(flaw));
        let findings = run(&target, 2, STRICT).expect("checked");
        assert_eq!(failed(&findings), expected, "{flaw:?}");
        assert!(!findings.passed());
        assert!(is_clean(&target), "{flaw:?}");
    }
}

#[test]
fn a_disk_without_persistence_passes_only_where_that_is_accepted() {
    let target = Target::new(NAA);
    target.with(|disk| disk.knows_aptpl = false);
    let findings = run(&target, 2, STRICT).expect("checked");
    assert!(failed(&findings).contains(&"persistence"));
    let accepting = Options {
        accept_volatile: true,
    };
    let findings = run(&target, 2, accepting).expect("checked");
    assert_eq!(failed(&findings), [""; 0]);
}

#[test]
fn a_disk_in_use_is_refused_untouched() {
    let target = Target::new(NAA);
    target.with(|disk| {
        disk.keys.insert(REGISTERED, 0xfa11_0000_0000_0001);
    });
    let refused = run(&target, 2, STRICT).expect_err("in use");
    assert!(refused.contains("fa11000000000001"), "{refused}");
    target.with(|disk| {
        assert_eq!(disk.keys.len(), 1);
        assert!(disk.log.iter().all(|(_, code, _)| *code != 0x5f));
    });
    // A check that runs on the other controller, or was interrupted there.
    target.with(|disk| disk.keys.insert(REGISTERED, CHECK_KEY | 7));
    let refused = run(&target, 2, STRICT).expect_err("checked elsewhere");
    assert!(refused.contains("another controller"), "{refused}");
    // One that was interrupted here.
    target.with(|disk| {
        disk.keys.clear();
        disk.keys.insert(("a", 1), CHECK_KEY | 9);
    });
    assert_eq!(failed(&run(&target, 2, STRICT).expect("checked")), [""; 0]);
}

#[test]
fn a_dead_disk_is_no_verdict() {
    let target = Target::new(NAA);
    for number in [0, 1] {
        target.fault(("a", number), Some(Fault::Dead));
    }
    let refused = run(&target, 2, STRICT).expect_err("dead");
    assert!(refused.contains("can't be read"), "{refused}");
}

#[test]
fn an_nvme_namespace_is_checked_as_far_as_one_host_can() {
    let target = NvmeTarget::new(NGUID, true);
    let nodes = Nodes::default();
    nodes.plug("nvme0n1", Device::Nvme(target, [7; 16]));
    let disk = shared(NVME_NAME, &[path(Kind::Nvme, "nvme0n1", "nvme0:1")]);
    let trial = Trial::new(Arc::new(nodes), disk, STRICT, Timing::default());
    let findings = trial.run().expect("checked");
    assert_eq!(failed(&findings), [""; 0], "{:#?}", findings.findings);
    let untested = verdicts(&findings)
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Untested);
    let untested: Vec<&str> = untested.map(|(check, _)| check).collect();
    assert_eq!(untested, ["stranger's write", "reset of the unit"]);
}

/// What a run on this machine can't repeat is set.
#[test]
fn the_table_is_as_kept() {
    let target = Target::new(NAA);
    target.with(|disk| disk.flaw = Some(Flaw::ForgetsOnReset));
    let mut findings = run(&target, 2, STRICT).expect("checked");
    let latency = |p999_us| {
        Some(Latency {
            count: 200,
            p50_us: 412,
            p99_us: 9_870,
            p999_us,
        })
    };
    (findings.reads, findings.rolls) = (latency(12_000), latency(90_560));
    for finding in &mut findings.findings {
        if finding.check == "latency" {
            finding.verdict = Verdict::Fail;
            finding.said = "p99.9 90.56 ms, a quarter of disk_silent_ms is 75.00 ms".to_owned();
        }
    }
    findings.timers = vec!["disk_silent_ms = 370 (now 300)".to_owned()];
    golden("fence-check.txt", &findings.table());
}

pub fn golden(name: &str, output: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fence/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, output).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        output,
        kept,
        "{} differs; UPDATE_GOLDEN=1 keeps the present one",
        path.display()
    );
}
