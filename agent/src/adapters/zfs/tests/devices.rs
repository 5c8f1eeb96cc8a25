//! How the devices of a pool are found.

use super::*;

#[test]
fn a_disk_at_which_an_earlier_look_hangs_hides_no_other() {
    let machine = Machine::new();
    let pools = machine.pools_of(machine.pool(), Duration::from_secs(18));
    let mut busy = pools.devices.busy.lock().expect("not poisoned");
    busy.insert(Machine::identity(0));
    drop(busy);
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    let call = &machine.calls()[0];
    assert!(
        !call.contains("sdb1") && call.contains("sdc1") && call.contains("sdd1"),
        "{call}"
    );
}

#[test]
fn a_changed_partition_table_is_told_where_it_cannot_be_read_again() {
    let machine = Machine::new();
    let table = crate::adapters::zfs::gpt::tests::encode(512, &[(1, 2048, 6143), (9, 7000, 7007)]);
    fs::write(machine.at("dev/sdb"), table).expect("written");
    let pools = machine.pools();
    let survey = pools.devices.survey(
        &[Machine::identity(0)],
        GUID,
        crate::adapters::zfs::devices::Depth::Labels,
        Instant::now() + Duration::from_secs(20),
    );
    let survey = survey.expect("listed");
    // A plain file has no partitions to read again.
    assert!(
        survey.remarks[0].contains("another controller changed its partitions"),
        "{survey:?}"
    );
    assert_eq!((survey.reread, survey.found.len()), (0, 1));
}

#[test]
fn lasting_names_are_used_where_they_lead_to_the_device() {
    let machine = Machine::new();
    fs::create_dir_all(machine.at("dev/disk/by-id")).expect("made");
    let link = |number: u64, to: &str| {
        let name = format!("dev/disk/by-id/wwn-0x5000c500a1b2c3d{number}-part1");
        symlink(to, machine.at(&name)).expect("linked");
    };
    link(0, "../../sdb1");
    link(1, "../../sdz1");
    machine
        .pools()
        .import(POOL, &won(&[0, 1, 2]))
        .expect("imported");
    let call = &machine.calls()[0];
    assert!(
        call.contains("/by-id/wwn-0x5000c500a1b2c3d0-part1") && call.contains("dev/sdc1"),
        "{call}"
    );
    assert!(Path::new(&machine.at("dev/sdc1")).exists());
}
