//! What an import must not open: devices that this machine sees, on disks that weren't won.

use super::*;
use crate::adapters::zfs::label;

/// Label of the disk `number`, with the recorded paths at which this machine has the devices.
fn label_here(machine: &Machine, number: u64) -> List {
    let mut label = machine.label(number, 0);
    let Some(Value::List(tree)) = label.0.get_mut("vdev_tree") else {
        panic!("a tree");
    };
    let Some(Value::Lists(leaves)) = tree.0.get_mut("children") else {
        panic!("devices");
    };
    for (leaf, name) in leaves.iter_mut().zip(["sdb1", "sdc1", "sdd1"]) {
        let path = machine.at("dev").join(name).display().to_string();
        leaf.0.insert("path".to_owned(), text(&path));
    }
    label
}

/// A machine whose pool has the devices' paths of this machine in its labels.
fn machine() -> Machine {
    let machine = Machine::new();
    for number in 0..3 {
        machine.disk(number, &label_here(&machine, number));
    }
    machine
}

fn import_of(machine: &Machine) -> String {
    let calls = machine.calls();
    let mut imports = calls.iter().filter(|call| call.starts_with("zpool import"));
    let last = imports.next_back().expect("an import");
    last.clone()
}

#[test]
fn a_disk_that_was_not_won_is_found_in_a_file_that_is_no_device() {
    let machine = machine();
    let pools = machine.pools();
    assert_eq!(pools.import(POOL, &won(&[0, 1])), Ok(Change::Made));
    let file = machine.at(&format!("withheld/{GUID}/102"));
    let call = import_of(&machine);
    assert!(call.contains(&format!("-d {}", file.display())), "{call}");
    assert!(call.contains("sdc1") && !call.contains("sdd1"), "{call}");
    // As `zpool import` reads it: large enough, and the first label of a sibling with the device's own GUID.
    let bytes = fs::read(&file).expect("the file");
    assert_eq!(bytes.len(), 64 << 20);
    let ((at, length), _) = label::places(0);
    let at = usize::try_from(at).expect("small");
    let found = label::read(&bytes[at..at + length]).expect("whole");
    let found = found.expect("a label");
    assert_eq!((found.pool_guid, found.guid), (GUID, 102));
    assert_eq!((found.txg, found.top.expect("a tree").guid), (90, 50));
    // Nothing after the list: no checksum, so the kernel takes it for no device.
    assert!(bytes[at + found.list.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_does_not_answer_is_withheld_too() {
    let machine = machine();
    let pools = machine.pools_of(machine.pool(), Duration::from_secs(18));
    let mut busy = pools.devices.busy.lock().expect("not poisoned");
    busy.insert(Machine::identity(0));
    drop(busy);
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    let call = import_of(&machine);
    assert!(
        call.contains(&format!("withheld/{GUID}/100")) && !call.contains("sdb1"),
        "{call}"
    );
}

/// Nobody fences it.
#[test]
fn a_disk_that_the_configuration_does_not_name_is_withheld() {
    let machine = machine();
    let mut pool = machine.pool();
    pool.disks.truncate(2);
    let pools = machine.pools_of(pool, Duration::from_secs(60));
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    let call = import_of(&machine);
    assert!(call.contains(&format!("withheld/{GUID}/102")), "{call}");
}

#[test]
fn what_is_not_seen_or_was_read_keeps_its_path() {
    let machine = machine();
    let pools = machine.pools();
    // Its label is broken, but ZFS may find one at its end.
    fs::write(machine.at("dev/sdd1"), vec![0; 1 << 20]).expect("written");
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    assert!(!import_of(&machine).contains("withheld"));
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    // Pulled: it comes back by its recorded path.
    fs::remove_file(machine.at("dev/sdd1")).expect("removed");
    fs::remove_dir_all(machine.at("sys/block/sdd")).expect("removed");
    assert_eq!(pools.import(POOL, &won(&[0, 1])), Ok(Change::Made));
    assert!(!import_of(&machine).contains("withheld"));
    assert!(!machine.at("withheld").exists());
}

#[test]
fn the_next_import_starts_afresh() {
    let machine = machine();
    let pools = machine.pools();
    assert_eq!(pools.import(POOL, &won(&[0, 1])), Ok(Change::Made));
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    assert_eq!(pools.import(POOL, &won(&[1, 2])), Ok(Change::Made));
    let call = import_of(&machine);
    assert!(
        call.contains(&format!("withheld/{GUID}/100")) && call.contains("sdd1"),
        "{call}"
    );
    assert!(!machine.at(&format!("withheld/{GUID}/102")).exists());
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    assert!(!import_of(&machine).contains("withheld"));
}

#[test]
fn what_cannot_be_withheld_is_not_imported() {
    let machine = machine();
    machine.write("withheld", "a file where the folder should be");
    let why = refused(&machine, &machine.pools(), &[0, 1]);
    assert!(
        why.contains("must be kept from it") && why.contains("withheld"),
        "{why}"
    );
}

/// A top-level vdev of which no label tells was removed, or lies on what isn't given to the import.
#[test]
fn a_whole_vdev_that_may_be_withheld_is_a_refusal_until_it_is_known_to_be_none() {
    let machine = machine();
    for number in 0..3 {
        let mut label = label_here(&machine, number);
        label.0.insert("vdev_children".to_owned(), Value::Number(2));
        machine.disk(number, &label);
    }
    let pools = machine.pools();
    let why = refused(&machine, &pools, &[0, 1]);
    assert!(
        why.contains(&Machine::identity(2)) && why.contains("1 of its 2 top-level vdevs"),
        "{why}"
    );
    // The labels of all disks tell of no other: it was removed.
    assert!(pools.look_ahead(&pools.pools[0]).is_err(), "told");
    assert_eq!(pools.import(POOL, &won(&[0, 1])), Ok(Change::Made));
    assert!(import_of(&machine).contains("withheld"));
    assert_eq!(pools.export(POOL), Ok(Change::Made));
    // A daemon that never saw them together: a disk that isn't there can't be opened.
    fs::remove_file(machine.at("dev/sdd1")).expect("removed");
    fs::remove_dir_all(machine.at("sys/block/sdd")).expect("removed");
    assert_eq!(
        machine.pools().import(POOL, &won(&[0, 1])),
        Ok(Change::Made)
    );
}

/// A log device that was removed leaves a hole, and labels tell of it.
#[test]
fn a_hole_is_no_vdev_that_may_be_withheld() {
    let machine = machine();
    for number in 0..3 {
        let mut label = label_here(&machine, number);
        label.0.insert("vdev_children".to_owned(), Value::Number(2));
        let holes = Value::Numbers(vec![1]);
        label.0.insert("hole_array".to_owned(), holes);
        machine.disk(number, &label);
    }
    let pools = machine.pools();
    assert_eq!(pools.import(POOL, &won(&[0, 1])), Ok(Change::Made));
}
