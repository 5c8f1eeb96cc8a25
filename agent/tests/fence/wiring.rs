//! From the configuration's identities to reservations on the disks of a machine, as its paths come and go.

use crate::bench::{Device, Nodes, PATIENT, key};
use crate::disk_paths::{Machine, ONE, TWO, shelf};
use crate::scsi_target::Target;
use failover_core::adapters::Fence as _;
use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::{DiskId, Node, PathId};
use failover_core::perform::perform_disk;
use failover_core::pr::PrCommand;
use failoverd::adapters::fence::RealFence;
use failoverd::assemble;
use failoverd::config::Config;
use failoverd::disks;
use failoverd::pair_key::PairKey;
use std::path::Path;
use std::sync::Arc;

const GONE: &str = "naa.5000c50000000009";

fn config(folder: &Path, disks: &[&str]) -> Config {
    let key = folder.join("pair.key");
    if !key.exists() {
        PairKey::create(&key).expect("a key");
    }
    let disks: Vec<String> = disks.iter().map(|disk| format!("{disk:?}")).collect();
    let text = format!(
        "node = \"A\"\npair_key = \"{}\"\ndisks = [{}]\n",
        key.display(),
        disks.join(", ")
    );
    Config::parse(&text, Path::new("/etc/f.toml")).expect("good")
}

fn refused(machine: &Machine, entries: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), entries);
    let errors = disks::find(&config, &machine.roots()).expect_err("refused");
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn what_cannot_be_used_is_named_by_key_with_the_remedy() {
    let mut machine = shelf();
    machine.partition("sdd", "sdd2", "8:50");
    machine.mounts = "22 1 8:50 / / rw - ext4 /dev/sdd2 rw\n".into();
    machine.volume("dm-0", "mpatha", "253:0", &["sdb", "sdc"]);
    let said = refused(
        &machine,
        &["/dev/sdb", "/dev/mapper/mpatha", TWO, "d1", "naa.5*"],
    );
    let expected = [
        "/etc/f.toml:3: disks[0]: \"/dev/sdb\" is the name of a device, which",
        "/etc/f.toml:3: disks[1]: \"/dev/mapper/mpatha\" is a device-mapper node, whose",
        "/etc/f.toml:3: disks[2]: \"naa.5000c50000000002\" is sdd, which this machine uses for /: ",
        "/etc/f.toml:3: disks[3]: \"d1\" is no identity of a disk",
        "/etc/f.toml:3: disks[4]: \"naa.5*\" is a pattern",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
        assert!(said.contains("; "), "{said}");
    }
    assert!(said[1].ends_with(ONE), "{}", said[1]);
}

#[test]
fn a_missing_disk_is_told_and_counts_as_unreachable() {
    let machine = shelf();
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &["wwn-0x5000C50000000001", GONE]);
    let looked = assemble::look_at_machine(&config, &machine.roots(), folder.path());
    let (lines, hands_on) = looked.expect("fine");
    assert_eq!(hands_on, []);
    assert_eq!(
        lines,
        [
            format!("shared disk {ONE}: sdc (2:0:0:0), sdb (3:0:0:0)"),
            format!("shared disk {GONE}: missing; it counts as unreachable"),
        ]
    );
    let nodes = Arc::new(Nodes::default());
    let fence = disks::fence(&config, &machine.roots(), nodes).expect("fine");
    let looked = perform_disk(&fence, DiskId::of(GONE), DiskWork::Survey, PATIENT);
    assert!(matches!(looked, DiskOutcome::Unreachable(_)), "{looked:?}");
}

/// Disk one behind two paths of a machine, and the daemon's fence on it.
fn wired(machine: &Machine, folder: &Path) -> (Nodes, Config, RealFence) {
    let target = Target::new([0x50, 0, 0xc5, 0, 0, 0, 0, 1]);
    let nodes = Nodes::default();
    for (number, name) in ["sdc", "sdb", "sdx", "sdy"].into_iter().enumerate() {
        nodes.plug(name, Device::Scsi(target.clone(), ("a", number as u8)));
    }
    let config = config(folder, &[ONE]);
    let fence = disks::fence(&config, &machine.roots(), Arc::new(nodes.clone())).expect("fine");
    (nodes, config, fence)
}

fn read_keys(fence: &RealFence, path: u8) -> bool {
    let read = || fence.execute(DiskId::of(ONE), PathId(path), PrCommand::ReadKeys, PATIENT);
    // The first answer of a new path is its power-on unit attention.
    read().is_ok() || read().is_ok()
}

#[test]
fn the_configured_disk_is_taken_over_every_path() {
    let machine = shelf();
    let folder = tempfile::tempdir().expect("a folder");
    let (_nodes, _config, fence) = wired(&machine, folder.path());
    let mine = key(Node::A, 1, 0);
    let surveyed = Survey {
        wero: true,
        ..Survey::default()
    };
    let work = DiskWork::take(mine, surveyed);
    let id = DiskId::of(ONE);
    assert_eq!(perform_disk(&fence, id, work, PATIENT), DiskOutcome::Taken);
    assert_eq!(fence.paths(id), 2);
}

#[test]
fn paths_are_followed_as_they_come_and_go() {
    let mut machine = shelf();
    let folder = tempfile::tempdir().expect("a folder");
    let (_nodes, config, fence) = wired(&machine, folder.path());
    assert!(read_keys(&fence, 0) && read_keys(&fence, 1));
    let look = |machine: &Machine| disks::look_again(&fence, &config.disks, &machine.roots());
    machine.unplug("sdb");
    assert_eq!(look(&machine), [""; 0]);
    assert!(read_keys(&fence, 0) && !read_keys(&fence, 1));
    // It comes back under another name.
    machine.write("devices/3:0:0:0/gone", b"");
    machine.scsi("sdx", "4:0:0:0", 0x5000_c500_0000_0001);
    assert_eq!(look(&machine), [""; 0]);
    assert!(read_keys(&fence, 1));
    machine.unplug("sdx");
    machine.unplug("sdc");
    let said = look(&machine);
    assert!(said[0].contains("has lost its last path"), "{said:?}");
    assert_eq!(look(&machine), [""; 0], "said once");
}

#[test]
fn a_disk_that_another_one_imitates_keeps_its_paths() {
    let mut machine = shelf();
    let folder = tempfile::tempdir().expect("a folder");
    let (_nodes, config, fence) = wired(&machine, folder.path());
    machine.scsi("sdy", "9:0:0:0", 0x5000_c500_0000_0001);
    machine.write("devices/9:0:0:0/vpd_pg80", b"\0\x80\0\x02Z2");
    let said = disks::look_again(&fence, &config.disks, &machine.roots());
    assert!(said[0].contains("two different disks"), "{said:?}");
    assert!(read_keys(&fence, 0) && read_keys(&fence, 1));
    assert_eq!(fence.paths(DiskId::of(ONE)), 2);
}

#[test]
fn a_machine_that_uses_a_shared_disk_by_itself_is_refused_with_every_line() {
    let machine = shelf();
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &[ONE]);
    std::fs::create_dir(folder.path().join("etc")).expect("a folder");
    let lines = "/dev/sdb /x ext4 defaults 0 0\n/dev/sdc /y ext4 defaults 0 0\n";
    std::fs::write(folder.path().join("etc/fstab"), lines).expect("written");
    let looked = assemble::look_at_machine(&config, &machine.roots(), folder.path());
    let (_, hands_on) = looked.expect("fine");
    let refused = assemble::refuse_hands_on(&config, &hands_on)
        .expect_err("refused")
        .0;
    assert!(
        refused.contains("/etc/fstab:1: ") && refused.contains("\n/etc/fstab:2: "),
        "{refused}"
    );
    assemble::refuse_hands_on(&config, &[]).expect("nothing found");
}
