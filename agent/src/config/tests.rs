//! Mistakes in a configuration and how they are named.

use super::*;
use std::path::Path;

/// A folder with a key, and a good configuration of a pair.
fn good() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("pair.key");
    PairKey::create(&key).expect("a key");
    let text = format!(
        r#"node = "B"
pair_key = "{}"
disks = ["d1", "d2", "d3"]
critical_interfaces = ["eth0"]

[timing]
beat_ms = 40

[[links]]
local = "10.0.1.2:7400"
peer = "10.0.1.1:7400"

[[links]]
local = "[fd00::2]:7400"
peer = "[fd00::1]:7400"
interface = "hb1"

[[vips]]
interface = "eth0"
address = "192.0.2.10/24"

[[pools]]
name = "tank"
device = "/dev/sda1"
mountpoint = "/srv/tank"
fstype = "ext4"
"#,
        key.display()
    );
    (dir, text)
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/etc/f.toml"))
}

#[test]
fn a_good_one_is_read() {
    let (_dir, text) = good();
    let config = parse(&text).expect("good");
    let core = config.core();
    assert_eq!((core.node, core.links, core.has_peer), (Node::B, 2, true));
    assert_eq!(core.pair, config.pair_key.as_ref().expect("a key").tag());
    assert_eq!((core.timing.beat_ms, core.timing.dead_ms), (40, 250));
    assert!(core.disks.is_sorted());
    let words = explain(&config);
    assert!(
        words.contains("link 1: [fd00::2]:7400 to [fd00::1]:7400 on hb1"),
        "{words}"
    );
    assert!(words.contains("beat_ms = 40 (default 50)"), "{words}");
    assert!(words.contains("RDMA"), "{words}");
}

#[test]
fn what_belongs_to_a_pool_is_found_by_its_name() {
    let (_dir, text) = good();
    let text = text.replace("192.0.2.10/24\"", "192.0.2.10/24\"\npool = \"tank\"")
        + "units = [\"smbd.service\"]\n[[services.hooks]]\nname = \"x\"\npool = \"tank\"\nstart = [\"/a\"]\nstop = [\"/b\"]\n";
    let config = parse(&text).expect("good");
    assert_eq!(config.vips[0].pool.as_deref(), Some("tank"));
    assert_eq!(config.pool_id("tank"), Some(PoolId(0)));
    assert_eq!(config.pool_id("dock"), None);
    let words = explain(&config);
    for part in [
        "on eth0, of pool tank",
        "units with pool tank: smbd.service",
        "x (of pool tank)",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let freed = text.replacen("pool = \"tank\"\n", "", 1);
    let freed = parse(&freed).expect("good");
    assert!(difference(&config, &freed).expect("may change").vips);
}

/// One mistake each: what to replace, by what, and what the message must start with.
#[test]
fn every_mistake_is_named_with_line_key_and_remedy() {
    let (_dir, text) = good();
    let cases = [
        (
            "node = \"B\"",
            "node = \"C\"",
            ":1: node: unknown variant `C`",
        ),
        (
            "node = \"B\"",
            "nod = \"B\"",
            ":1: nod: unknown field `nod`",
        ),
        (
            "beat_ms = 40",
            "beat = 40",
            ":7: timing.beat: unknown field `beat`",
        ),
        (
            "beat_ms = 40",
            "beat_ms = \"x\"",
            ":7: timing.beat_ms: invalid type",
        ),
        (
            "beat_ms = 40",
            "dead_ms = 100",
            ":7: timing.dead_ms: vip_lease_ms (200) + lease_slack_ms (50) <=",
        ),
        (
            "10.0.1.1:7400",
            "10.0.1.1",
            ":11: links[0].peer: invalid socket address",
        ),
        (
            "10.0.1.1:7400",
            "10.0.1.2:7400",
            ":11: links[0].peer: 10.0.1.2:7400 is this controller's own",
        ),
        (
            "[fd00::1]:7400",
            "10.0.9.1:7400",
            ":15: links[1].peer: 10.0.9.1:7400 and local [fd00::2]:7400 differ",
        ),
        (
            "\"hb1\"",
            "\"a name too long for it\"",
            ":16: links[1].interface: \"a name too long",
        ),
        (
            "192.0.2.10/24",
            "192.0.2.10",
            ":20: vips[0].address: \"192.0.2.10\" is not an address with a prefix",
        ),
        (
            "192.0.2.10/24",
            "192.0.2.10/33",
            ":20: vips[0].address: \"192.0.2.10/33\" is not",
        ),
        (
            "192.0.2.10/24\"",
            "192.0.2.10/24\"\npool = \"dock\"",
            ":21: vips[0].pool: \"dock\" is not the name of a configured pool",
        ),
        (
            "fstype = \"ext4\"",
            "fstype = \"ext4\"\n[[services.hooks]]\nname = \"x\"\npool = \"dock\"\nstart = [\"/a\"]\nstop = [\"/b\"]",
            ":29: services.hooks[0].pool: \"dock\" is not the name of a configured pool",
        ),
        (
            "192.0.2.10/24",
            "10.0.1.1/24",
            ":20: vips[0].address: 10.0.1.1 is also the address of a heartbeat",
        ),
        (
            "disks = [\"d1\", \"d2\", \"d3\"]",
            "disks = []",
            ":3: disks: none, though heartbeat links are configured",
        ),
        (
            "\"d1\", \"d2\"",
            "\"d1\", \"d1\"",
            ":3: disks[1]: \"d1\" is the same disk as \"d1\"",
        ),
        (
            "\"d1\", \"d2\"",
            "\"wwn-0x5000C500A1B2C3D4\", \"naa.5000c500a1b2c3d4\"",
            ":3: disks[1]: \"naa.5000c500a1b2c3d4\" is the same disk as \"wwn-0x5000C500A1B2C3D4\"",
        ),
        (
            "critical_interfaces",
            "accept_volatile_reservations = true\ncritical_interfaces",
            ":4: accept_volatile_reservations: true, though there is no watchdog",
        ),
        (
            "\"/srv/tank\"",
            "\"srv/tank\"",
            ":25: pools[0].mountpoint: srv/tank is not an absolute path",
        ),
        (
            "name = \"tank\"",
            "nam = \"tank\"",
            ":23: pools[0].nam: unknown field `nam`",
        ),
        (
            "fstype = \"ext4\"",
            "",
            ":22: pools[0].fstype: missing; name the type",
        ),
        ("pair.key", "none.key", ":2: pair_key: "),
    ];
    for (from, to, expected) in cases {
        assert!(text.contains(from), "{from}");
        let errors = parse(&text.replacen(from, to, 1)).expect_err(to);
        let said = errors.0[0].to_string();
        let expected = format!("/etc/f.toml{expected}");
        assert!(said.starts_with(&expected), "{from} -> {to}: {said}");
        assert!(!errors.0[0].remedy.is_empty());
    }
}

/// However each controller's operator wrote it.
#[test]
fn an_identity_has_one_digest() {
    let (_dir, text) = good();
    let text = text.replace("fstype", "disks = [\"0x5000C500A1B2C3D4\"]\nfstype");
    let core = |written: &str| {
        let config = parse(&text.replace("\"d1\"", written)).expect(written);
        (config.core().disks, config.pools[0].disks.clone())
    };
    let one = core("\"naa.5000c500a1b2c3d4\"");
    assert!(one.0.iter().any(|disk| disk.name == "naa.5000c500a1b2c3d4"));
    assert_eq!(one.1, ["naa.5000c500a1b2c3d4"]);
    assert_eq!(core("\"wwn-0x5000c500a1b2c3d4\""), one);
}

#[test]
fn a_missing_key_and_a_missing_file_are_named() {
    let (_dir, text) = good();
    let without: String = text
        .lines()
        .filter(|l| !l.starts_with("pair_key"))
        .collect::<Vec<_>>()
        .join("\n");
    let errors = parse(&without).expect_err("no key");
    assert!(errors.to_string().contains("pair_key: missing"), "{errors}");
    let errors = Config::load(Path::new("/nowhere/f.toml")).expect_err("no file");
    assert!(
        errors
            .to_string()
            .starts_with("/nowhere/f.toml: can't be read"),
        "{errors}"
    );
}

#[test]
fn a_change_is_told_by_key_and_what_cannot_change_is_refused() {
    let (_dir, text) = good();
    let old = parse(&text).expect("good");
    let changed =
        |from: &str, to: &str| difference(&old, &parse(&text.replace(from, to)).expect(to));
    assert_eq!(changed("x", "x"), Ok(Difference::default()));
    assert_eq!(
        changed("beat_ms = 40", "beat_ms = 45")
            .expect("may")
            .changed,
        ["timing.beat_ms"]
    );
    let vips = changed("192.0.2.10", "192.0.2.11").expect("may");
    assert_eq!(
        (vips.changed, vips.vips, vips.interfaces),
        (vec!["vips".to_owned()], true, false)
    );
    let both = text
        .replace("10.0.1.1:7400", "10.0.1.3:7400")
        .replace("\"d3\"", "\"d4\"");
    let refused = difference(&old, &parse(&both).expect("good")).expect_err("may not");
    assert_eq!(refused.0, ["links", "disks"]);
    assert!(
        refused
            .to_string()
            .starts_with("links, disks can't change at run time")
    );
}

const ZFS: &str = r#"
[[pools]]
name = "store"
kind = "zfs"
guid = "8890991074401163934"
may_stay_locked = ["store/vault"]

[[pools.keys]]
dataset = "store/private"
file = "/root/private.key"
"#;

#[test]
fn a_pool_of_zfs_is_read() {
    let (_dir, text) = good();
    let config = parse(&format!("{text}{ZFS}")).expect("good");
    let PoolKind::Zfs(zfs) = &config.pools[1].kind else {
        panic!("of ZFS");
    };
    assert_eq!(zfs.guid, 8_890_991_074_401_163_934);
    assert_eq!(zfs.key_store, Path::new(KEY_STORE));
    assert_eq!(zfs.keys[0].dataset, "store/private");
    assert!(explain(&config).contains("pool store: of ZFS"));
}

/// One mistake each: what to replace, by what, and what the message must contain.
#[test]
fn mistakes_in_pools_are_named() {
    let (_dir, text) = good();
    let text = format!("{text}{ZFS}");
    let cases = [
        (
            "\"8890991074401163934\"",
            "\"0x12\"",
            "pools[1].guid: \"0x12\" can't be the GUID",
        ),
        (
            "\"8890991074401163934\"",
            "\"0\"",
            "pools[1].guid: \"0\" can't be the GUID",
        ),
        (
            "guid = \"8890991074401163934\"",
            "",
            "pools[1].guid: missing; write the number",
        ),
        (
            "kind = \"zfs\"",
            "kind = \"mount\"",
            "pools[1].guid: is a key of a `zfs` pool",
        ),
        (
            "kind = \"zfs\"",
            "kind = \"zfs\"\ndevice = \"/dev/sdb\"",
            "pools[1].device: is a key of a `mount` pool",
        ),
        (
            "kind = \"zfs\"",
            "kind = \"zfs\"\nkeys_replicated = true",
            "unknown field `keys_replicated`",
        ),
        (
            "\"store/private\"",
            "\"tank/private\"",
            "is no dataset of pool store",
        ),
        (
            "\"store/private\"",
            "\"store/../x\"",
            "is no dataset of pool store",
        ),
        (
            "\"store/vault\"",
            "\"store/vault/\"",
            "may_stay_locked[0]: \"store/vault/\" is no dataset",
        ),
        (
            "\"/root/private.key\"",
            "\"private.key\"",
            "is not an absolute path",
        ),
        (
            "\"/root/private.key\"",
            "\"/root/../key\"",
            "is no plain path",
        ),
        (
            "name = \"store\"",
            "name = \"2store\"",
            "can't be the name of a ZFS pool",
        ),
        (
            "fstype = \"ext4\"",
            "fstype = \"ext4\"\nvolume = \"vg\"",
            "has no effect without `assemble`",
        ),
        (
            "fstype = \"ext4\"",
            "fstype = \"ext4\"\nassemble = \"lvm\"",
            "pools[0].volume: missing",
        ),
        (
            "fstype = \"ext4\"",
            "fstype = \"ext4\"\nassemble = \"lvm\"\nvolume = \"-f\"",
            "can't be that of a volume",
        ),
        (
            "fstype = \"ext4\"",
            "fstype = \"ext4\"\nassemble = \"mdraid\"\nvolume = \"md0\"",
            "can't be that of a volume",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(text.contains(from), "{from}");
        let errors = parse(&text.replacen(from, to, 1))
            .expect_err(to)
            .to_string();
        assert!(errors.contains(expected), "{from} -> {to}: {errors}");
    }
    let twice = ZFS.replace("store", "other");
    let errors = parse(&format!("{text}{twice}"))
        .expect_err("twice")
        .to_string();
    assert!(errors.contains("is the GUID of another pool"), "{errors}");
}
