//! Which disks are found and which are refused, on sysfs trees made for the purpose.

use failover_core::ids::DiskId;
use failoverd::adapters::disk_paths::{Inventory, Refusal, Roots, choose, matching, scan};
use failoverd::adapters::ports::Kind;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A machine's `/sys` and `/proc`.
pub struct Machine {
    folder: tempfile::TempDir,
    pub mounts: String,
    swaps: String,
    minor: u32,
}

impl Machine {
    pub fn new() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["sys/block", "sys/devices", "proc/self"] {
            fs::create_dir_all(folder.path().join(name)).expect("a folder");
        }
        Machine {
            folder,
            mounts: "22 1 0:21 / / rw - tmpfs tmpfs rw\n".into(),
            swaps: "Filename Type Size Used Priority\n".into(),
            minor: 0,
        }
    }

    pub fn write(&self, path: &str, content: &[u8]) {
        let path = self.folder.path().join("sys").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("written");
    }

    fn block(&mut self, name: &str, gigabytes: u64) {
        self.minor += 16;
        let minor = self.minor;
        self.write(
            &format!("block/{name}/dev"),
            format!("8:{minor}\n").as_bytes(),
        );
        let sectors = gigabytes * 2_000_000;
        self.write(
            &format!("block/{name}/size"),
            format!("{sectors}\n").as_bytes(),
        );
    }

    pub fn partition(&self, disk: &str, name: &str, number: &str) {
        self.write(&format!("block/{disk}/{name}/partition"), b"1\n");
        self.write(&format!("block/{disk}/{name}/dev"), number.as_bytes());
    }

    /// A path to a SCSI disk whose unit has this NAA designator.
    pub fn scsi(&mut self, name: &str, address: &str, naa: u64) {
        self.block(name, 10);
        let device = format!("devices/{address}");
        self.write(&format!("{device}/type"), b"0\n");
        let mut page = vec![0, 0x83, 0, 12, 0x01, 0x03, 0, 8];
        page.extend(naa.to_be_bytes());
        self.write(&format!("{device}/vpd_pg83"), &page);
        self.write(&format!("{device}/vpd_pg80"), b"\0\x80\0\x04 Z1 ");
        let sys = self.folder.path().join("sys");
        symlink(sys.join(device), sys.join(format!("block/{name}/device"))).expect("a link");
    }

    pub fn nvme(&mut self, name: &str, controller: &str) {
        self.block(name, 10);
        self.write(&format!("devices/{controller}/serial"), b"S1\n");
        self.write(&format!("block/{name}/nsid"), b"1\n");
        let sys = self.folder.path().join("sys");
        let device = sys.join(format!("block/{name}/device"));
        symlink(sys.join("devices").join(controller), device).expect("a link");
    }

    /// A volume over devices.
    pub fn volume(&mut self, name: &str, alias: &str, number: &str, beneath: &[&str]) {
        self.block(name, 10);
        self.write(&format!("block/{name}/dev"), number.as_bytes());
        self.write(&format!("block/{name}/dm/name"), alias.as_bytes());
        for part in beneath {
            self.write(&format!("block/{name}/slaves/{part}/dev"), b"");
        }
    }

    /// Where its files are.
    pub fn roots(&self) -> Roots {
        let root = |name: &str| -> PathBuf { self.folder.path().join(name) };
        fs::write(root("proc/self/mountinfo"), &self.mounts).expect("written");
        fs::write(root("proc/swaps"), &self.swaps).expect("written");
        Roots {
            sys: root("sys"),
            proc: root("proc"),
        }
    }

    /// Takes a block device away.
    pub fn unplug(&self, name: &str) {
        let place = self.folder.path().join("sys/block").join(name);
        fs::remove_dir_all(place).expect("was there");
    }

    fn scan(&self) -> Inventory {
        scan(&self.roots()).expect("readable")
    }
}

pub const ONE: &str = "naa.5000c50000000001";
pub const TWO: &str = "naa.5000c50000000002";

fn wanted(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

fn refusals(inventory: &Inventory, entries: &[&str]) -> Vec<Refusal> {
    choose(inventory, &wanted(entries)).expect_err("refused")
}

/// Two paths to disk one, one to disk two.
pub fn shelf() -> Machine {
    let mut machine = Machine::new();
    machine.scsi("sdb", "3:0:0:0", 0x5000_c500_0000_0001);
    machine.scsi("sdc", "2:0:0:0", 0x5000_c500_0000_0001);
    machine.scsi("sdd", "2:0:1:0", 0x5000_c500_0000_0002);
    machine
}

#[test]
fn paths_with_one_identity_are_one_disk() {
    let inventory = shelf().scan();
    assert_eq!(inventory.disks.len(), 2);
    let choice = choose(&inventory, &wanted(&["wwn-0x5000c50000000001", TWO])).expect("fine");
    let first = &choice.disks[0];
    assert_eq!(first.id, DiskId::of("wwn-0x5000c50000000001"));
    assert_eq!(first.identity.as_str(), ONE);
    let paths: Vec<(&str, &str)> = first
        .paths
        .iter()
        .map(|path| (path.address.as_str(), path.node.name.as_str()))
        .collect();
    assert_eq!(paths, [("2:0:0:0", "sdc"), ("3:0:0:0", "sdb")]);
    assert_eq!(first.paths[0].node.kind, Kind::Scsi);
    assert_eq!(first.paths[1].node.number, (8, 16));
    assert!(choice.missing.is_empty());
}

#[test]
fn a_disk_that_is_not_there_is_missing_not_refused() {
    let inventory = shelf().scan();
    let gone = "naa.5000c50000000009";
    let choice = choose(&inventory, &wanted(&[ONE, gone])).expect("fine");
    assert_eq!(choice.missing, [gone]);
    assert!(choice.disks[1].paths.is_empty());
}

#[test]
fn names_and_patterns_are_no_entries() {
    let inventory = shelf().scan();
    for entry in ["/dev/sdb", "sdb"] {
        let refused = refusals(&inventory, &[entry]);
        assert!(matches!(refused[..], [Refusal::NotAnIdentity(_)]));
        assert!(refused[0].to_string().contains("wwid"), "{}", refused[0]);
    }
    let refused = refusals(&inventory, &["naa.5000c5*"]);
    assert!(matches!(refused[..], [Refusal::Pattern(_)]));
}

#[test]
fn a_mapped_node_is_refused_by_the_disk_beneath_it() {
    let mut machine = shelf();
    machine.volume("dm-0", "mpatha", "253:0", &["sdb", "sdc"]);
    let inventory = machine.scan();
    for entry in ["/dev/mapper/mpatha", "mpatha", "dm-0", "/dev/dm-0"] {
        let refused = refusals(&inventory, &[entry]);
        assert!(matches!(refused[..], [Refusal::DeviceMapper { .. }]));
        assert!(refused[0].to_string().contains(ONE), "{}", refused[0]);
    }
    assert_eq!(inventory.disks.len(), 2, "it is no disk of its own");
}

#[test]
fn the_root_disk_is_never_taken() {
    let mut machine = shelf();
    machine.partition("sdd", "sdd2", "8:50");
    machine.mounts = "22 1 8:50 / / rw - ext4 /dev/sdd2 rw\n".into();
    let refused = refusals(&machine.scan(), &[ONE, TWO]);
    assert_eq!(
        refused,
        [Refusal::Boot {
            entry: TWO.into(),
            node: "sdd".into(),
            used: "/".into()
        }]
    );
    assert!(refused[0].to_string().contains("take it off the list"));
}

#[test]
fn the_boot_disk_under_a_volume_is_never_taken() {
    let mut machine = shelf();
    machine.partition("sdd", "sdd3", "8:51");
    machine.volume("dm-1", "luks", "253:1", &["sdd3"]);
    machine.volume("dm-2", "vg-root", "253:2", &["dm-1"]);
    machine.mounts = "22 1 253:2 / /boot/efi rw - vfat /dev/mapper/vg-root rw\n".into();
    let refused = refusals(&machine.scan(), &[TWO]);
    assert!(matches!(&refused[..], [Refusal::Boot { node, .. }] if node == "sdd"));
}

#[test]
fn the_swap_disk_is_never_taken() {
    let mut machine = shelf();
    machine.partition("sdb", "sdb1", "8:17");
    machine.swaps += "/dev/sdb1 partition 1000 0 -2\n";
    let refused = refusals(&machine.scan(), &[ONE]);
    assert!(matches!(&refused[..], [Refusal::Boot { used, .. }] if used == "swap"));

    let mut machine = shelf();
    machine.partition("sdd", "sdd1", "8:49");
    machine.mounts += "30 22 8:49 / /data rw - xfs /dev/sdd1 rw\n";
    machine.swaps += "/data/swap file 1000 0 -2\n";
    let refused = refusals(&machine.scan(), &[TWO]);
    assert!(matches!(&refused[..], [Refusal::Boot { used, .. }] if used == "swap"));
    machine.swaps = String::new();
    assert!(
        choose(&machine.scan(), &wanted(&[TWO])).is_ok(),
        "other mounts are no boot"
    );
}

#[test]
fn a_root_with_a_number_of_its_own_is_traced_by_its_source() {
    let mut machine = shelf();
    machine.partition("sdd", "sdd2", "8:50");
    machine.mounts = "22 1 0:29 /@ / rw - btrfs /dev/sdd2 rw\n".into();
    let refused = refusals(&machine.scan(), &[TWO]);
    assert!(matches!(&refused[..], [Refusal::Boot { node, .. }] if node == "sdd"));
}

#[test]
fn two_entries_for_one_disk_are_refused() {
    let refused = refusals(&shelf().scan(), &[ONE, "0x5000C50000000001"]);
    assert!(matches!(&refused[..], [Refusal::Twice { first, .. }] if first == ONE));
}

#[test]
fn two_disks_with_one_identity_are_refused() {
    let mut machine = shelf();
    machine.scsi("sde", "5:0:0:0", 0x5000_c500_0000_0002);
    machine.write("block/sde/size", b"77\n");
    let refused = refusals(&machine.scan(), &[TWO]);
    assert!(matches!(&refused[..], [Refusal::Clash { why, .. }] if why.contains("bytes")));

    let mut machine = shelf();
    machine.scsi("sde", "5:0:0:0", 0x5000_c500_0000_0002);
    machine.write("devices/5:0:0:0/vpd_pg80", b"\0\x80\0\x02Z2");
    let refused = refusals(&machine.scan(), &[TWO]);
    assert!(matches!(&refused[..], [Refusal::Clash { why, .. }] if why.contains("serial")));
}

#[test]
fn nvme_namespaces_are_known_by_what_they_say() {
    let mut machine = Machine::new();
    machine.nvme("nvme0n1", "nvme0");
    machine.write(
        "block/nvme0n1/nguid",
        b"00112233-4455-6677-8899-aabbccddeeff\n",
    );
    machine.write("block/nvme0n1/eui", b"00 25 38 8b 71 01 16 a2\n");
    machine.nvme("nvme1n1", "nvme1");
    machine.write(
        "block/nvme1n1/wwid",
        b"eui.00112233445566778899aabbccddeeff\n",
    );
    // A path beneath the kernel's multipath node.
    machine.nvme("nvme0c0n1", "nvme0");
    machine.write("block/nvme0c0n1/hidden", b"1\n");
    // One without an identity of its own.
    machine.nvme("nvme2n1", "nvme2");
    machine.write("block/nvme2n1/wwid", b"nvme.1af4-6465-516e-00000001\n");
    let inventory = machine.scan();
    let entry = "eui.00112233445566778899aabbccddeeff";
    let choice = choose(&inventory, &wanted(&[entry])).expect("fine");
    let paths = &choice.disks[0].paths;
    assert_eq!(paths.len(), 2);
    assert_eq!(paths[0].address, "nvme0:1");
    assert_eq!(paths[0].node.kind, Kind::Nvme);
    let choice = choose(&inventory, &wanted(&["nvme-eui.0025388b710116a2"])).expect("fine");
    assert_eq!(
        choice.disks[0].paths.len(),
        2,
        "any of its identities will do"
    );
    assert_eq!(inventory.unidentified.len(), 1);
    assert_eq!(inventory.unidentified[0].0, "nvme2n1");
}

#[test]
fn what_is_no_disk_is_left_alone() {
    let mut machine = shelf();
    machine.scsi("sr0", "1:0:0:0", 1);
    machine.write("devices/1:0:0:0/type", b"5\n");
    machine.block("loop0", 1);
    machine.block("vda", 1);
    // A broken page of vital product data, and one without any.
    machine.scsi("sdx", "6:0:0:0", 7);
    machine.write("devices/6:0:0:0/vpd_pg83", &[0, 0x83, 0, 40, 1]);
    machine.scsi("sdy", "7:0:0:0", 8);
    machine.write("devices/7:0:0:0/vpd_pg83", &[0, 0x83, 0, 0]);
    machine.scsi("sdz", "8:0:0:0", 9);
    machine.write("devices/8:0:0:0/vpd_pg83", &[0, 0x83, 0, 0]);
    machine.write("devices/8:0:0:0/wwid", b"t10.ATA     DISK  1\n");
    let inventory = machine.scan();
    let names: Vec<&str> = inventory
        .unidentified
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["sdx", "sdy"]);
    assert_eq!(inventory.disks.len(), 3);
}

#[test]
fn a_pattern_lists_disks_but_never_the_systems_own() {
    let mut machine = shelf();
    machine.partition("sdd", "sdd2", "8:50");
    let inventory = machine.scan();
    let found = matching(&inventory, "naa.5000c5*").expect("fine");
    assert_eq!(found.len(), 2);

    machine.mounts = "22 1 8:50 / / rw - ext4 /dev/sdd2 rw\n".into();
    let refused = matching(&machine.scan(), "naa.5000c5*").expect_err("refused");
    assert!(matches!(&refused[..], [Refusal::Boot { entry, .. }] if entry == TWO));

    machine.mounts = "22 1 0:30 / / rw - zfs rpool/ROOT/debian rw\n".into();
    let inventory = machine.scan();
    let refused = matching(&inventory, "naa.5000c5*").expect_err("refused");
    assert!(
        matches!(&refused[..], [Refusal::BootUnknown { source_of, .. }] if source_of.contains("rpool"))
    );
    assert!(
        choose(&inventory, &wanted(&[TWO])).is_ok(),
        "what is written out is the operator's word"
    );
}

#[test]
fn this_machine_can_be_looked_at() {
    scan(&Roots::default()).expect("sysfs and procfs are there");
}
