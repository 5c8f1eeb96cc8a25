use super::*;
use crate::adapters::disk_paths::DiskPath;
use crate::adapters::identity::Identity;
use crate::adapters::nvlist::{self, List, Value};
use crate::adapters::ports::{Kind, Node};
use failover_core::ids::DiskId;
use std::fs;
use std::os::unix::fs::symlink;

const IDENTITY: &str = "naa.6001405aabbccdd00000000000000001";

/// A controller with the shared disk sda (two partitions), and its own disk sdb.
struct Machine {
    folder: tempfile::TempDir,
    disks: Vec<SharedDisk>,
    pools: Vec<(String, Option<PathBuf>)>,
}

impl Machine {
    fn new() -> Machine {
        let node = Node {
            name: "sda".to_owned(),
            kind: Kind::Scsi,
            number: (8, 0),
        };
        let address = "2:0:0:0".to_owned();
        let machine = Machine {
            folder: tempfile::tempdir().expect("a folder"),
            disks: vec![SharedDisk {
                id: DiskId::of(IDENTITY),
                identity: Identity::parse(IDENTITY).expect("an identity"),
                paths: vec![DiskPath { node, address }],
            }],
            pools: vec![("tank".to_owned(), Some("/srv/tank".into()))],
        };
        machine.device(
            "block/sda",
            "8:0",
            "S:disk/by-id/wwn-0x6001405aabbccdd00000000000000001\n",
        );
        machine.part(
            1,
            "E:ID_FS_UUID=C0FFEE00-0001\nE:ID_FS_LABEL=my\\x20pool\nE:ID_PART_ENTRY_UUID=aa-01\n",
        );
        machine.part(2, "S:disk/by-id/wwn-0x6001405aabbccdd00000000000000001-part2\nE:ID_PART_ENTRY_NAME=data\n");
        machine.device(
            "block/sdb",
            "8:16",
            "S:disk/by-id/ata-own\nE:ID_FS_UUID=0b00\n",
        );
        machine
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        symlink(to, path).expect("a link");
    }

    fn device(&self, place: &str, number: &str, database: &str) {
        self.write(&format!("sys/{place}/dev"), format!("{number}\n"));
        self.write(&format!("run/udev/data/b{number}"), database);
    }

    fn part(&self, number: u32, database: &str) {
        let place = format!("block/sda/sda{number}");
        self.write(&format!("sys/{place}/partition"), number.to_string());
        self.device(&place, &format!("8:{number}"), database);
    }

    fn found(&self) -> Vec<String> {
        let roots = Roots {
            sys: self.folder.path().join("sys"),
            proc: self.folder.path().join("proc"),
        };
        let shared = Shared {
            disks: &self.disks,
            pools: &self.pools,
        };
        let found = look(shared, &roots, self.folder.path());
        found.iter().map(Finding::to_string).collect()
    }

    /// Exactly one finding, which begins and goes on so.
    fn finds(&self, beginning: &str, words: &[&str]) {
        let found = self.found();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(beginning), "{found:?}");
        for word in words {
            assert!(found[0].contains(word), "{word}: {found:?}");
        }
    }

    fn finds_nothing(&self) {
        assert_eq!(self.found(), Vec::<String>::new());
    }
}

#[test]
fn a_machine_that_keeps_its_hands_off_passes() {
    let machine = Machine::new();
    machine.finds_nothing();
    machine.write(
        "etc/fstab",
        "# /dev/sda1 /x\nUUID=0b00 / ext4 defaults 0 1\n/dev/sdb2 none swap sw 0 0\n\nbroken\n",
    );
    machine.write("etc/mdadm/mdadm.conf", "HOMEHOST <system>\n");
    machine.write(
        "etc/multipath.conf",
        "defaults {\n  user_friendly_names yes\n}\n",
    );
    machine.finds_nothing();
    let mut none = Machine::new();
    none.disks.clear();
    none.write("etc/fstab", "/dev/sda1 /srv/tank ext4 defaults 0 0\n");
    none.finds_nothing();
}

#[test]
fn a_line_of_fstab_under_any_name_is_found() {
    for spec in [
        "/dev/sda1",
        "/dev/disk/by-id/wwn-0x6001405aabbccdd00000000000000001-part2",
        "UUID=c0ffee00-0001",
        "LABEL=\"my\\040pool\"",
        "PARTUUID=aa-01",
        "PARTLABEL=data",
        "ID=wwn-0x6001405aabbccdd00000000000000001",
    ] {
        let machine = Machine::new();
        machine.write(
            "etc/fstab",
            format!("UUID=0b00 / ext4 defaults 0 1\n{spec} /x ext4 noauto 0 0\n"),
        );
        machine.finds(
            "/etc/fstab:2: ",
            &["is the shared sda", "take the line out"],
        );
    }
    // By what the line mounts, though its device is none that is here.
    for line in [
        "/dev/gone /srv/tank ext4 x 0 0",
        "tank/data /elsewhere zfs x 0 0",
    ] {
        let machine = Machine::new();
        machine.write("etc/fstab", line);
        machine.finds("/etc/fstab:1: ", &["shared pool tank"]);
    }
    // A volume above it.
    let machine = Machine::new();
    machine.write("sys/block/sda/sda1/holders/dm-0/dev", "253:0");
    machine.write("sys/block/dm-0/dm/name", "vg-data\n");
    machine.device("block/dm-0", "253:0", "S:vg/data\n");
    machine.write(
        "etc/fstab",
        "/dev/mapper/vg-data /x ext4 x 0 0\n/dev/vg/data /y ext4 x 0 0\n",
    );
    assert_eq!(machine.found().len(), 2);
}

/// A cache file with a pool of the machine's own and `pool`, whose only disk is a leaf of a mirror.
fn cache(pool: &str, disk: &str) -> Vec<u8> {
    let list = |pairs: Vec<(&str, Value)>| {
        List(
            pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let disk = list(vec![("guid", Value::Number(7)), ("path", text(disk))]);
    let mirror = list(vec![("children", Value::Lists(vec![disk]))]);
    let tree = list(vec![("children", Value::Lists(vec![mirror]))]);
    let pool_list = list(vec![("name", text(pool)), ("vdev_tree", Value::List(tree))]);
    let own = list(vec![("name", text("own"))]);
    nvlist::write::encode(&list(vec![
        ("own", Value::List(own)),
        (pool, Value::List(pool_list)),
    ]))
}

#[test]
fn a_shared_pool_in_the_cache_file_is_found_by_name_and_by_disk() {
    for (pool, disk) in [("tank", "/dev/disk/by-id/nowhere"), ("other", "/dev/sda2")] {
        let machine = Machine::new();
        machine.write("etc/zfs/zpool.cache", cache(pool, disk));
        let remedy = format!("zpool set cachefile=none {pool}");
        machine.finds("/etc/zfs/zpool.cache: the shared pool ", &[pool, &remedy]);
    }
    let machine = Machine::new();
    machine.write("etc/zfs/zpool.cache", cache("other", "/dev/sdb1"));
    machine.finds_nothing();
    machine.write("etc/zfs/zpool.cache", "");
    machine.finds_nothing();
    // Where the module was told another place.
    machine.write(
        "sys/module/zfs/parameters/spa_config_path",
        "/data/zfs.cache\n",
    );
    machine.write("data/zfs.cache", cache("tank", "/dev/sdb1"));
    machine.finds("/data/zfs.cache: ", &["tank"]);
}

#[test]
fn a_damaged_cache_file_is_refused() {
    let whole = cache("other", "/dev/sdb1");
    let machine = Machine::new();
    machine.write("etc/zfs/zpool.cache", &whole[..whole.len() - 9]);
    machine.finds("/etc/zfs/zpool.cache: damaged: ", &["move it away"]);
}

#[test]
fn an_import_unit_that_is_enabled_is_found_and_one_that_is_masked_is_not() {
    let unit = "zfs-import-scan.service";
    let wants = format!("etc/systemd/system/zfs-import.target.wants/{unit}");
    let machine = Machine::new();
    machine.write(&format!("usr/lib/systemd/system/{unit}"), "[Unit]\n");
    machine.finds_nothing();
    machine.link(&wants, &format!("/usr/lib/systemd/system/{unit}"));
    machine.finds(
        &format!("/{wants}: {unit} is enabled"),
        &["systemctl disable"],
    );
    machine.link(&format!("etc/systemd/system/{unit}"), "/dev/null");
    machine.finds_nothing();
    // A link that outlived its unit starts nothing.
    let machine = Machine::new();
    machine.link(&wants, &format!("/usr/lib/systemd/system/{unit}"));
    machine.finds_nothing();
}

const MEMBER: &str =
    "E:ID_FS_TYPE=linux_raid_member\nE:ID_FS_UUID=a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f90\n";
const MD_RULE: &str = "usr/lib/udev/rules.d/64-md-raid-assembly.rules";

#[test]
fn an_array_on_shared_disks_must_not_assemble_itself() {
    let conf = "etc/mdadm/mdadm.conf";
    let machine = Machine::new();
    machine.part(1, MEMBER);
    machine.finds_nothing(); // no mdadm here
    machine.write(MD_RULE, "rule\n");
    machine.finds(
        "/etc/mdadm/mdadm.conf: the shared sda1 is part of an array",
        &["no AUTO line", "AUTO -all"],
    );
    machine.write(conf, "HOMEHOST x\nauto +1.x -all\n");
    machine.finds("/etc/mdadm/mdadm.conf:2: ", &["this line allows it"]);
    machine.write(conf, "AUTO homehost -all\n");
    machine.finds("/etc/mdadm/mdadm.conf:1: ", &["this line allows it"]);
    machine.write(conf, "AUTO -all\nARRAY /dev/md0 UUID=0:0:0:1\n");
    machine.finds_nothing();
    machine.write(
        conf,
        "AUTO -all\nARRAY /dev/md1\n  UUID=A1B2C3D4:E5F60718:293A4B5C:6D7E8F90\n",
    );
    machine.finds("/etc/mdadm/mdadm.conf:2: ", &["names its array"]);
    machine.write(
        conf,
        "ARRAY <ignore> UUID=a1b2c3d4:e5f60718:293a4b5c:6d7e8f90\n",
    );
    machine.finds_nothing();
    machine.write(conf, "");
    machine.link("etc/udev/rules.d/64-md-raid-assembly.rules", "/dev/null");
    machine.finds_nothing();
}

const PV: &str = "E:ID_FS_TYPE=LVM2_member\nE:ID_FS_UUID=AbCdEf-0123-4567-89ab-cdef-0123-456789\n";

fn backup(flags: &str) -> String {
    format!(
        "contents = \"Text Format Volume Group\"\nvg0 {{\nid = \"x\"\nflags = [{flags}]\nphysical_volumes {{\npv0 {{\n\
         id = \"AbCdEf-0123-4567-89ab-cdef-0123-456789\"\nflags = []\n}}\n}}\n}}\n"
    )
}

#[test]
fn a_volume_group_on_shared_disks_must_not_activate_itself() {
    let machine = Machine::new();
    machine.part(2, PV);
    machine.finds_nothing(); // no LVM here
    machine.write("usr/lib/udev/rules.d/69-lvm.rules", "rule\n");
    machine.finds(
        "/etc/lvm/lvm.conf: a volume group on the shared sda2",
        &["vgcfgbackup"],
    );
    machine.write("etc/lvm/backup/vg0", backup(""));
    machine.finds(
        "/etc/lvm/lvm.conf: the volume group vg0",
        &["--setautoactivation n vg0"],
    );
    machine.write("etc/lvm/backup/vg0", backup("\"NOAUTOACTIVATE\""));
    machine.finds_nothing();
    machine.write("etc/lvm/backup/vg0", backup(""));
    let conf = "activation {\n  # auto_activation_volume_list = []\n  auto_activation_volume_list = [ \"root\",\n    \"vg0/data\" ]\n}\n";
    machine.write("etc/lvm/lvm.conf", conf);
    machine.finds("/etc/lvm/lvm.conf:3: the volume group vg0", &[]);
    machine.write(
        "etc/lvm/lvmlocal.conf",
        "activation/auto_activation_volume_list = [ \"root\" ]\n",
    );
    machine.finds_nothing();
    // Which group it is isn't known: only an empty list helps.
    fs::remove_file(machine.folder.path().join("etc/lvm/backup/vg0")).expect("there");
    machine.finds("/etc/lvm/lvmlocal.conf:1: ", &["as far as can be told"]);
    machine.write(
        "etc/lvm/lvmlocal.conf",
        "activation { auto_activation_volume_list = [] }\n",
    );
    machine.finds_nothing();
}

#[test]
fn a_volume_group_that_lvm_is_kept_off_is_not_refused() {
    let machine = Machine::new();
    machine.part(2, PV);
    machine.write("usr/lib/udev/rules.d/69-lvm.rules", "rule\n");
    let conf = "etc/lvm/lvm.conf";
    machine.write(conf, "devices {\n  use_devicesfile = 1\n}\n");
    machine.finds("/etc/lvm/lvm.conf: ", &["auto_activation_volume_list = []"]);
    let devices = "etc/lvm/devices/system.devices";
    let own =
        "# LVM\nVERSION=1.1.2\nIDTYPE=devname IDNAME=/dev/sdb DEVNAME=/dev/sda2 PVID=zz PART=2\n";
    machine.write(devices, own);
    machine.finds_nothing();
    for line in [
        "IDTYPE=devname IDNAME=/dev/sdz DEVNAME=/dev/sdz PVID=AbCdEf0123456789abcdef0123456789",
        "IDTYPE=sys_wwid IDNAME=naa.6001405aabbccdd00000000000000001 DEVNAME=. PVID=zz PART=2",
        "IDTYPE=devname IDNAME=. DEVNAME=/dev/sda2 PVID=.",
    ] {
        machine.write(devices, format!("{own}{line}\n"));
        machine.finds("/etc/lvm/lvm.conf: ", &["sda2"]);
    }
    // Not set: lvm.conf tells the default with which this LVM was built.
    machine.write(devices, own);
    for (default, finds) in [
        ("  # use_devicesfile = 1\n", false),
        ("  # use_devicesfile = 0\n", true),
    ] {
        machine.write(conf, format!("devices {{\n{default}}}\n"));
        match finds {
            true => machine.finds("/etc/lvm/lvm.conf: ", &["sda2"]),
            false => machine.finds_nothing(),
        }
    }
    // Another file, or none that counts.
    machine.write("etc/lvm/lvmlocal.conf", "devices/use_devicesfile = 0\n");
    machine.finds("/etc/lvm/lvm.conf: ", &["sda2"]);
    let doubtful = || {
        let roots = Roots {
            sys: machine.folder.path().join("sys"),
            proc: machine.folder.path().join("proc"),
        };
        let shared = Shared {
            disks: &machine.disks,
            pools: &machine.pools,
        };
        let found = look(shared, &roots, machine.folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].doubtful
    };
    // Neither set nor told: it may be kept off by its devices file, but not by one that names it or isn't there.
    machine.write("etc/lvm/lvmlocal.conf", "");
    machine.write(conf, "devices {\n  # use_devicesfile = is new\n}\n");
    assert!(doubtful());
    let named = "IDTYPE=devname IDNAME=. DEVNAME=/dev/sda2 PVID=.\n";
    machine.write(devices, named);
    assert!(!doubtful());
    fs::remove_file(machine.folder.path().join(devices)).expect("there");
    assert!(!doubtful());
    machine.write(devices, own);
    machine.write("etc/lvm/lvmlocal.conf", "devices/use_devicesfile = 0\n");
    for (filter, doubted) in [("a|.*|", false), ("r|/dev/disk/by-id/wwn-.*|", true)] {
        machine.write(
            conf,
            format!("devices {{\n  global_filter = [ \"{filter}\" ]\n}}\n"),
        );
        assert_eq!(doubtful(), doubted, "{filter}");
    }
}

#[test]
fn a_reservation_key_of_multipathd_is_found_where_it_means_our_disks() {
    let machine = Machine::new();
    machine.write(
        "etc/multipath.conf",
        "defaults {\n  find_multipaths on # reservation_key no\n  reservation_key file\n}\n",
    );
    machine.finds(
        "/etc/multipath.conf:3: defaults gives every disk",
        &["reservation_key out"],
    );
    let block = |wwid: &str| {
        format!("multipaths {{\n multipath {{\n  reservation_key 0x1\n  wwid \"{wwid}\"\n }}\n}}\n")
    };
    machine.write(
        "etc/multipath.conf",
        block("36001405aabbccdd00000000000000002"),
    );
    machine.finds_nothing();
    machine.write(
        "etc/multipath/conf.d/x.conf",
        block("36001405AABBCCDD00000000000000001"),
    );
    machine.finds(
        "/etc/multipath/conf.d/x.conf:3: ",
        &["for the shared naa.6001405a"],
    );
}
