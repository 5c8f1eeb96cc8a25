//! From an imported pool to one that serves: keys, mounts, volumes.

use super::*;

#[test]
fn keys_are_loaded_before_the_mounts_and_a_missing_one_is_told() {
    let machine = Machine::new();
    machine.write("datasets", &format!("{DATASETS}{LOCKED}"));
    let pools = machine.pools();
    let why = pools.import(POOL, &won(&[0, 1, 2])).expect_err("no key").0;
    assert!(
        why.contains("no key for tank/p") && why.contains("keys/tank/p.key"),
        "{why}"
    );
    assert_eq!(pools.imported(POOL), Ok(true), "but not served");
    fs::create_dir_all(machine.at("keys/tank")).expect("made");
    machine.write("keys/tank/p.key", "a passphrase");
    let mode = |mode| {
        let file = machine.at("keys/tank/p.key");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("set");
    };
    mode(0o644);
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("open to all")
        .0;
    assert!(why.contains("chmod 600"), "{why}");
    mode(0o600);
    machine.write(
        "zfs-load-key.does",
        "echo \"Key load error: Incorrect key provided for 'tank/p'.\" >&2; exit 255",
    );
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("a wrong key")
        .0;
    assert!(why.contains("Incorrect key"), "{why}");
    fs::remove_file(machine.at("zfs-load-key.does")).expect("removed");
    machine.write("calls", "");
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    let calls = machine.calls();
    let place = |start: &str| {
        calls
            .iter()
            .position(|call| call.starts_with(start))
            .expect(start)
    };
    let load = format!(
        "zfs load-key -L file://{} tank/p",
        machine.at("keys/tank/p.key").display()
    );
    assert!(calls.contains(&load), "{calls:?}");
    assert!(place("zfs load-key") < place("zfs mount tank/p"));
    assert!(place("zfs mount tank") < place("zfs share tank/p"));
}

#[test]
fn a_dataset_that_may_stay_locked_keeps_nothing_from_serving() {
    let machine = Machine::new();
    machine.write("datasets", &format!("{DATASETS}{LOCKED}"));
    let mut pool = machine.pool();
    pool.may_stay_locked = vec!["tank/p".to_owned()];
    let pools = machine.pools_of(pool, Duration::from_secs(60));
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::Made));
    assert!(
        !machine
            .calls()
            .iter()
            .any(|call| call.contains("load-key") || call.contains("mount tank/p"))
    );
}

#[test]
fn what_is_not_mounted_or_has_no_node_is_no_import() {
    let machine = Machine::new();
    let volume = "tank/v\tvolume\t-\t-\t-\t-\tnone\t-\t-\tdefault\n";
    machine.write("datasets", &format!("{DATASETS}{volume}"));
    let pools = machine.pools_of(machine.pool(), Duration::from_secs(4));
    machine.write(
        "zfs-mount.does",
        "echo \"cannot mount '/tank': directory is not empty\" >&2; exit 1",
    );
    let why = pools
        .import(POOL, &won(&[0, 1, 2]))
        .expect_err("not mounted")
        .0;
    assert!(
        why.contains("not mounted: tank") && why.contains("directory is not empty"),
        "{why}"
    );
    fs::remove_file(machine.at("zfs-mount.does")).expect("removed");
    let why = pools.import(POOL, &won(&[0, 1, 2])).expect_err("no node").0;
    assert!(why.contains("tank/v") && why.contains("zvol"), "{why}");
    fs::create_dir_all(machine.at("dev/zvol/tank")).expect("made");
    machine.write("dev/zvol/tank/v", "");
    assert_eq!(pools.import(POOL, &won(&[0, 1, 2])), Ok(Change::AlreadySo));
}
