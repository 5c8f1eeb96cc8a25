//! Pools of ZFS on a tree of files in place of the kernel's, with programs in place of `zpool` and `zfs` that do as they
//! are told.

use super::label::tests::{encode, list, text};
use super::*;
use crate::adapters::disk_paths::Roots;
use crate::adapters::nvlist::{List, Value};
use failover_core::ids::DiskId;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

mod devices;
mod health;
mod multihost;
mod ready;
mod withheld;

const GUID: u64 = 1234567890123456789;
const POOL: PoolId = PoolId(0);

/// Programs: each notes its arguments, then does what the file `NAME.does` says, or the usual thing.
const ZPOOL: &str = r#"#!/bin/sh
cd 'FOLDER'
echo "zpool $*" >>calls
if [ -e "zpool-$1.does" ]; then . "./zpool-$1.does"; exit; fi
case $1 in
import) mkdir -p proc/spl/kstat/zfs/tank; echo GUID >proc/spl/kstat/zfs/tank/guid; echo ONLINE >proc/spl/kstat/zfs/tank/state;;
export) rm -r proc/spl/kstat/zfs/tank; : >proc/thread-self/mountinfo;;
esac
"#;
const ZFS: &str = r#"#!/bin/sh
cd 'FOLDER'
echo "zfs $*" >>calls
if [ -e "zfs-$1.does" ]; then . "./zfs-$1.does"; exit; fi
case $1 in
list) cat datasets;;
mount) echo '50 28 0:9999998 / /tank rw - zfs tank rw' >>proc/thread-self/mountinfo
  echo '51 28 0:9999999 / /tank/p rw - zfs tank/p rw' >>proc/thread-self/mountinfo;;
esac
"#;
const DATASETS: &str = "tank\tfilesystem\t/tank\ton\t-\t-\tnone\toff\toff\t-\n";
const LOCKED: &str = "tank/p\tfilesystem\t/tank/p\ton\tunavailable\ttank/p\tprompt\ton\toff\t-\n";

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine {
            folder: tempfile::tempdir().expect("a folder"),
        };
        for folder in [
            "proc/self",
            "proc/thread-self",
            "proc/spl/kstat/zfs",
            "sys/block",
            "sys/module/zfs",
            "dev",
        ] {
            fs::create_dir_all(machine.at(folder)).expect("made");
        }
        machine.write("proc/self/mountinfo", "");
        machine.write("proc/thread-self/mountinfo", "");
        machine.write("datasets", DATASETS);
        machine.write("calls", "");
        machine.write("sys/module/zfs/version", "2.2.2-1\n");
        for (name, script) in [("zpool", ZPOOL), ("zfs", ZFS)] {
            let folder = machine.folder.path().display().to_string();
            machine.write(
                name,
                &script
                    .replace("FOLDER", &folder)
                    .replace("GUID", &GUID.to_string()),
            );
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(machine.at(name), mode).expect("set");
        }
        for number in 0..3 {
            machine.disk(number, &machine.label(number, 0));
        }
        machine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("calls")).expect("read");
        text.lines().map(str::to_owned).collect()
    }

    fn identity(number: u64) -> String {
        format!("naa.5000c500a1b2c3d{number}")
    }

    /// Label of the disk `number` in a raidz1 of three.
    fn label(&self, number: u64, state: u64) -> List {
        let leaf = |guid: u64| {
            list([
                ("type", text("disk")),
                ("guid", Value::Number(guid)),
                ("path", text(&format!("/dev/was{guid}"))),
            ])
        };
        let tree = list([
            ("type", text("raidz")),
            ("guid", Value::Number(50)),
            ("nparity", Value::Number(1)),
            ("ashift", Value::Number(12)),
            (
                "children",
                Value::Lists(vec![leaf(100), leaf(101), leaf(102)]),
            ),
        ]);
        list([
            ("name", text("tank")),
            ("state", Value::Number(state)),
            ("txg", Value::Number(90)),
            ("pool_guid", Value::Number(GUID)),
            ("guid", Value::Number(100 + number)),
            ("vdev_children", Value::Number(1)),
            ("vdev_tree", Value::List(tree)),
        ])
    }

    fn disk(&self, number: u64, label: &List) {
        self.disk_with(number, &encode(label, 90, None));
    }

    fn disk_with(&self, number: u64, label: &[u8]) {
        let name = format!("sd{}", char::from(b'b' + number as u8));
        let block = format!("sys/block/{name}");
        let device = format!("sys/devices/0:0:0:{number}");
        fs::create_dir_all(self.at(&format!("{block}/{name}1"))).expect("made");
        fs::create_dir_all(self.at(&format!("{block}/queue"))).expect("made");
        fs::create_dir_all(self.at(&device)).expect("made");
        let _ = symlink(self.at(&device), self.at(&format!("{block}/device")));
        self.write(&format!("{device}/type"), "0\n");
        self.write(&format!("{device}/wwid"), &Machine::identity(number));
        self.write(
            &format!("{block}/dev"),
            &format!("8:{}\n", 16 * (number + 1)),
        );
        self.write(&format!("{block}/size"), "8192\n");
        self.write(&format!("{block}/queue/logical_block_size"), "512\n");
        self.write(&format!("{block}/{name}1/partition"), "1\n");
        self.write(&format!("{block}/{name}1/start"), "2048\n");
        self.write(&format!("{block}/{name}1/size"), "200000\n");
        let table = super::gpt::tests::encode(512, &[(1, 2048, 202_047)]);
        fs::write(self.at(&format!("dev/{name}")), table).expect("written");
        fs::write(self.at(&format!("dev/{name}1")), label).expect("written");
    }

    fn pool(&self) -> ZfsPool {
        ZfsPool {
            name: "tank".to_owned(),
            guid: GUID,
            disks: (0..3).map(Machine::identity).collect(),
            key_store: self.at("keys"),
            keys: Vec::new(),
            may_stay_locked: Vec::new(),
        }
    }

    fn pools_of(&self, pool: ZfsPool, limit: Duration) -> ZfsPools {
        let tools = Tools {
            zpool: self.at("zpool"),
            zfs: self.at("zfs"),
        };
        let places = Places {
            roots: Roots {
                sys: self.at("sys"),
                proc: self.at("proc"),
            },
            dev: self.at("dev"),
            withheld: self.at("withheld"),
        };
        let limits = Limits {
            import: limit,
            export: limit,
        };
        ZfsPools::new(vec![pool], tools, places, limits)
    }

    fn pools(&self) -> ZfsPools {
        self.pools_of(self.pool(), Duration::from_secs(60))
    }
}

fn won(numbers: &[u64]) -> Vec<DiskId> {
    numbers
        .iter()
        .map(|number| DiskId::of(&Machine::identity(*number)))
        .collect()
}

fn refused(machine: &Machine, pools: &ZfsPools, numbers: &[u64]) -> String {
    let why = pools.import(POOL, &won(numbers)).expect_err("refused").0;
    assert!(why.starts_with("pool tank: "), "{why}");
    assert!(
        !machine
            .calls()
            .iter()
            .any(|call| call.starts_with("zpool import")),
        "{why}"
    );
    why
}

#[test]
fn a_pool_comes_and_goes() {
    let machine = Machine::new();
    let pools = machine.pools();
    assert_eq!(pools.imported(POOL), Ok(false));
    assert_eq!(pools.prescan(POOL), Ok(()));
    assert_eq!(pools.export(POOL), Ok(Change::AlreadySo));
    assert!(
        machine.calls().is_empty(),
        "no program for what the kernel tells"
    );
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    let dev = machine.at("dev");
    let import = format!(
        "zpool import -N -f -o cachefile=none -d {0}/sdb1 -d {0}/sdc1 -d {0}/sdd1 {GUID}",
        dev.display()
    );
    let calls = machine.calls();
    assert_eq!(calls[0], import);
    assert_eq!(calls[2..], ["zfs mount tank"]);
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::AlreadySo));
    assert_eq!(pools.imported(POOL), Ok(true));
    assert_eq!(machine.calls().len(), 4, "one more list");
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    assert_eq!(pools.imported(POOL), Ok(false));
    assert!(pools.import(PoolId(3), &[]).is_err());
}

/// From 2.3 on: JSON, and one program for all mounts, beside the list where no keys are to come first.
#[test]
fn a_newer_version_is_asked_in_its_way() {
    let machine = Machine::new();
    machine.write("sys/module/zfs/version", "2.4.4-1\n");
    let property = |value: &str| format!("{{\"value\":\"{value}\"}}");
    let columns = [
        ("mountpoint", "/tank"),
        ("canmount", "on"),
        ("keystatus", "-"),
        ("encryptionroot", "-"),
        ("keylocation", "none"),
        ("sharenfs", "off"),
        ("sharesmb", "off"),
        ("volmode", "default"),
    ];
    let columns = columns.map(|(name, value)| format!("\"{name}\":{}", property(value)));
    let json = |columns: &str| {
        format!(
            "{{\"datasets\":{{\"tank\":{{\"name\":\"tank\",\"type\":\"FILESYSTEM\",\"properties\":{{{columns}}}}}}}}}"
        )
    };
    machine.write("datasets", &json(&columns.join(",")));
    let pools = machine.pools();
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    let mut calls = machine.calls().split_off(1);
    calls.sort();
    assert!(
        calls[0].starts_with("zfs list -j --json-int -r"),
        "{calls:?}"
    );
    assert_eq!(calls[1..], ["zfs mount -R tank"]);
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::AlreadySo));
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    // Cut off in the middle.
    let whole = json(&columns.join(","));
    machine.write("datasets", &whole[..whole.len() - 9]);
    let why = pools.import(POOL, &won(&[0, 1, 2])).expect_err("cut").0;
    assert!(why.contains("JSON of `zfs list`"), "{why}");
}

#[test]
fn a_needed_disk_that_was_not_won_refuses_the_import() {
    let machine = Machine::new();
    let pools = machine.pools();
    let why = refused(&machine, &pools, &[1]);
    assert!(
        why.contains("/dev/was100") && why.contains("/dev/was102"),
        "{why}"
    );
    assert!(
        why.contains(
            "not won (see the fence's report): naa.5000c500a1b2c3d0, naa.5000c500a1b2c3d2"
        ),
        "{why}"
    );
    let why = refused(&machine, &pools, &[]);
    assert!(why.contains("no device of it was found"), "{why}");
    // A raidz1 does without one disk, which isn't given to the import.
    assert_eq!(pools.import(POOL, &won(&[0, 2])), Ok(Change::Made));
    assert!(
        !machine.calls()[0].contains("sdc1"),
        "{:?}",
        machine.calls()
    );
}

#[test]
fn another_pool_of_that_guid_or_name_is_refused() {
    let machine = Machine::new();
    let mut pool = machine.pool();
    pool.name = "store".to_owned();
    let pools = machine.pools_of(pool, Duration::from_secs(60));
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("another name")
        .0;
    assert!(why.contains("has the name tank"), "{why}");
    fs::create_dir_all(machine.at("proc/spl/kstat/zfs/tank")).expect("made");
    machine.write("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    machine.write("proc/spl/kstat/zfs/tank/guid", "77\n");
    let pools = machine.pools();
    let why = refused(&machine, &pools, &[0, 1, 2]);
    assert!(why.contains("another GUID"), "{why}");
    assert_eq!(pools.imported(POOL), Ok(false));
    assert_eq!(pools.export(POOL), Ok(Change::AlreadySo));
    // An older module doesn't tell: the program is asked.
    fs::remove_file(machine.at("proc/spl/kstat/zfs/tank/guid")).expect("removed");
    machine.write("zpool-get.does", "echo 77");
    assert!(refused(&machine, &pools, &[0, 1, 2]).contains("(77, not"));
    assert!(pools.export(POOL).is_err());
    machine.write("zpool-get.does", &format!("echo {GUID}"));
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    machine.write("proc/thread-self/mountinfo", "");
    machine.disk(0, &machine.label(0, 2));
    machine.disk(1, &machine.label(1, 2));
    machine.disk(2, &machine.label(2, 2));
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("destroyed")
        .0;
    assert!(why.contains("destroyed"), "{why}");
}

#[test]
fn an_import_that_fails_tells_why_and_what_is_missing() {
    let machine = Machine::new();
    let pools = machine.pools();
    machine.write(
        "zpool-import.does",
        "echo \"cannot import 'tank': I/O error\n\tDestroy it\" >&2; exit 1",
    );
    let why = pools.import(POOL, &won(&[0, 1])).expect_err("failed").0;
    assert!(
        why.contains("cannot import 'tank': I/O error / Destroy it"),
        "{why}"
    );
    assert!(
        why.contains("not won (see the fence's report): naa.5000c500a1b2c3d2"),
        "{why}"
    );
    machine.write("zpool-import.does", "exit 0");
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("not there")
        .0;
    assert!(why.contains("doesn't show the pool"), "{why}");
}

#[test]
fn an_export_is_done_when_the_kernel_says_so() {
    let machine = Machine::new();
    let pools = machine.pools();
    pools.import(POOL, &won(&[0, 1, 2])).expect("imported");
    machine.write("zpool-export.does", "exit 0");
    let why = pools.export(POOL).expect_err("still there").0;
    assert!(why.contains("the kernel still has it"), "{why}");
    machine.write(
        "zpool-export.does",
        "echo 'cannot unmount /tank: pool or dataset is busy' >&2; exit 1",
    );
    let why = pools.export(POOL).expect_err("busy").0;
    assert!(
        why.contains("is busy") && why.contains("no process was found"),
        "{why}"
    );
    assert!(
        !machine
            .calls()
            .iter()
            .any(|call| call.contains("export -f"))
    );
    fs::remove_file(machine.at("proc/spl/kstat/zfs/tank/state")).expect("removed");
    assert!(pools.imported(POOL).is_err(), "unreadable counts as maybe");
    assert!(pools.export(POOL).is_err());
    machine.write("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    fs::remove_file(machine.at("zpool-export.does")).expect("removed");
    assert_eq!(pools.export(POOL), Ok(Change::Made));
}

#[test]
fn a_suspended_pool_is_imported_and_nothing_is_started_on_it() {
    let machine = Machine::new();
    let pools = machine.pools();
    pools.import(POOL, &won(&[0, 1, 2])).expect("imported");
    machine.write("proc/spl/kstat/zfs/tank/state", "SUSPENDED\n");
    let before = machine.calls().len();
    assert_eq!(pools.imported(POOL), Ok(true));
    for why in [pools.export(POOL), pools.import(POOL, &won(&[0, 1, 2]))] {
        let why = why.expect_err("suspended").0;
        assert!(why.contains("SUSPENDED") && why.contains("reset"), "{why}");
    }
    assert_eq!(machine.calls().len(), before);
    assert!(
        pools
            .findings()
            .iter()
            .any(|finding| finding.text.contains("SUSPENDED"))
    );
}

#[test]
fn a_program_that_hangs_costs_its_deadline() {
    let machine = Machine::new();
    let pools = machine.pools_of(machine.pool(), Duration::from_secs(3));
    machine.write("zpool-import.does", "sleep 1000");
    let began = Instant::now();
    let why = pools.import(POOL, &won(&[0, 1, 2])).expect_err("late").0;
    assert!(
        why.contains("longer than") && why.contains("was killed"),
        "{why}"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(pools.imported(POOL), Ok(false));
}

#[test]
fn a_pool_that_somebody_else_imported_is_not_served_before_it_was_exported() {
    let machine = Machine::new();
    let by_hand = || {
        fs::create_dir_all(machine.at("proc/spl/kstat/zfs/tank")).expect("made");
        machine.write("proc/spl/kstat/zfs/tank/guid", &format!("{GUID}\n"));
        machine.write("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    };
    by_hand();
    let pools = machine.pools();
    let why = refused(&machine, &pools, &[0, 1, 2]);
    assert!(
        why.contains("somebody else") && why.contains("`zpool export tank`"),
        "{why}"
    );
    assert!(pools.look_ahead(&pools.pools[0]).is_err(), "said early");
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::AlreadySo));
    assert_eq!(pools.look_ahead(&pools.pools[0]), Ok(()));
    // A daemon that starts again where an earlier one owned in this boot.
    let adopted = machine.pools().adopting(true);
    let again = adopted.import(POOL, &won(&[0, 1, 2]));
    assert_eq!(again, Ok(Change::AlreadySo));
    // What was imported by hand after an export of ours isn't ours.
    assert_eq!(adopted.export(POOL), Ok(Change::Made));
    by_hand();
    assert!(adopted.import(POOL, &won(&[0, 1, 2])).is_err());
}

/// A late program may have imported it all the same: the next attempt goes on from there.
#[test]
fn what_an_import_that_failed_left_is_ours() {
    let machine = Machine::new();
    let pools = machine.pools();
    machine.write(
        "zpool-import.does",
        &format!(
            "mkdir -p proc/spl/kstat/zfs/tank; echo {GUID} >proc/spl/kstat/zfs/tank/guid; echo ONLINE \
             >proc/spl/kstat/zfs/tank/state; exit 1"
        ),
    );
    assert!(pools.import(POOL, &won(&[0, 1, 2])).is_err());
    let again = pools.import(POOL, &won(&[0, 1, 2]));
    assert!(again.is_ok(), "{again:?}");
}

/// A removed vdev stays in the number of top-level vdevs for ever, and no label tells of it.
#[test]
fn a_pool_with_a_removed_vdev_is_left_to_zpool_and_a_missing_one_named() {
    let machine = Machine::new();
    for number in 0..3 {
        let mut label = machine.label(number, 0);
        label.0.insert("vdev_children".to_owned(), Value::Number(2));
        machine.disk(number, &label);
    }
    let pools = machine.pools();
    machine.write(
        "zpool-import.does",
        "echo 'one or more devices is currently unavailable' >&2; exit 1",
    );
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("all disks of the second are missing")
        .0;
    assert!(
        why.contains("currently unavailable") && why.contains("1 of its 2 top-level vdevs"),
        "{why}"
    );
    let told = pools.findings();
    assert!(
        told.iter()
            .any(|finding| !finding.refused && finding.text.contains("1 of its 2 top-level")),
        "{told:?}"
    );
    fs::remove_file(machine.at("zpool-import.does")).expect("removed");
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
}

#[test]
fn a_module_that_is_not_loaded_is_told_and_nothing_is_imported() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.at("sys/module/zfs")).expect("removed");
    fs::remove_dir_all(machine.at("proc/spl")).expect("removed");
    let pools = machine.pools();
    assert_eq!(pools.imported(POOL), Ok(false));
    assert_eq!(pools.export(POOL), Ok(Change::AlreadySo));
    assert!(refused(&machine, &pools, &[0, 1, 2]).contains("modprobe zfs"));
    assert!(
        pools
            .prescan(POOL)
            .expect_err("no module")
            .0
            .contains("modprobe zfs")
    );
}
