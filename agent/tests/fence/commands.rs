//! `failoverd fence check` and `fence clear`: what they refuse, what they do, what stays of it.

use crate::bench::{Device, Nodes, key};
use crate::disk_paths::{Machine, ONE, TWO, shelf};
use crate::scsi_target::{Fault, Flaw, Target};
use failover_api::HistoryRecord;
use failover_core::action::{Entry, OwnerRecord};
use failover_core::adapters::Journal as _;
use failover_core::beat::ArbiterList;
use failover_core::ids::{DiskId, Epoch, Node};
use failoverd::assemble;
use failoverd::clearing::{Cleared, Pace};
use failoverd::config::Config;
use failoverd::disks;
use failoverd::fence_commands::{CheckOrder, ClearOrder, Ground, check, clear};
use failoverd::journal::FileJournal;
use failoverd::pair_key::PairKey;
use failoverd::preflight::{Findings, read_kept};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const QUICK: Pace = Pace {
    watch: Duration::from_millis(120),
    every: Duration::from_millis(10),
};

/// A controller with two shared disks, its daemon stopped.
struct Place {
    machine: Machine,
    folder: tempfile::TempDir,
    nodes: Nodes,
    one: Target,
    two: Target,
}

impl Place {
    fn new() -> Place {
        let naa = |last| Target::new([0x50, 0, 0xc5, 0, 0, 0, 0, last]);
        let (one, two) = (naa(1), naa(2));
        let nodes = Nodes::default();
        nodes.plug("sdb", Device::Scsi(one.clone(), ("a", 0)));
        nodes.plug("sdc", Device::Scsi(one.clone(), ("a", 1)));
        nodes.plug("sdd", Device::Scsi(two.clone(), ("a", 0)));
        let folder = tempfile::tempdir().expect("a folder");
        PairKey::create(&folder.path().join("pair.key")).expect("a key");
        Place {
            machine: shelf(),
            folder,
            nodes,
            one,
            two,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> Config {
        let at = self.folder.path().display();
        let text = format!(
            "node = \"A\"\npair_key = \"{at}/pair.key\"\ndisks = [\"{ONE}\", \"{TWO}\"]\n[paths]\n\
             state_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\nsocket = \"{at}/s\"\n"
        );
        Config::parse(&text, &self.path("f.toml")).expect("good")
    }

    fn pair(&self) -> u16 {
        self.config().pair_key.expect("a key").tag()
    }

    fn ground(&self) -> Ground {
        Ground {
            roots: self.machine.roots(),
            dev: self.path("dev"),
            opener: Arc::new(self.nodes.clone()),
        }
    }

    /// The other controller's registration on a disk, as an owner.
    fn owned_by_b(&self, target: &Target) -> u64 {
        let mut bits = key(Node::B, 4, 9);
        bits.pair = self.pair();
        let bits = bits.to_bits();
        target.with(|disk| {
            disk.keys.insert(("b", 0), bits);
            disk.holder = Some((("b", 0), 5));
        });
        bits
    }

    fn clear(&self, disk: Option<&str>, confirmed: &str) -> Result<Vec<Cleared>, String> {
        let order = ClearOrder {
            disk: disk.map(str::to_owned),
            confirmed: Some(confirmed.to_owned()),
        };
        clear(&order, &self.config(), &self.ground(), QUICK)
    }

    fn check(&self, disk: &str, confirmed: Option<&str>) -> Result<Findings, String> {
        let order = CheckOrder {
            disk: disk.to_owned(),
            confirmed: confirmed.map(str::to_owned),
        };
        let (findings, not_kept) = check(&order, Some(&self.config()), &self.ground())?;
        assert_eq!(not_kept, None);
        Ok(findings)
    }

    fn history(&self) -> Vec<HistoryRecord> {
        let text = std::fs::read_to_string(self.path("state/history")).unwrap_or_default();
        let records = text.lines().map(serde_json::from_str);
        records.collect::<Result<_, _>>().expect("records")
    }

    /// As if a daemon ran here: the test's own parent.
    fn daemon_runs(&self) {
        let parent = nix::unistd::getppid();
        let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).expect("it lives");
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        let started = rest.split(' ').nth(19).expect("a start time");
        std::fs::create_dir_all(self.path("run")).expect("a folder");
        std::fs::write(self.path("run/instance"), format!("{parent} {started}")).expect("written");
    }
}

fn registered(target: &Target) -> usize {
    target.with(|disk| disk.keys.len())
}

#[test]
fn one_disk_is_cleared_and_it_stands_in_the_history() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("state")).expect("a folder");
    place.owned_by_b(&place.one);
    place.owned_by_b(&place.two);
    let cleared = place.clear(Some(ONE), ONE).expect("cleared");
    assert_eq!(
        cleared,
        [Cleared {
            disk: ONE.to_owned(),
            removed: vec!["owner of B in epoch 4".to_owned()],
        }]
    );
    assert_eq!((registered(&place.one), registered(&place.two)), (0, 1));
    place.one.with(|disk| assert_eq!(disk.holder, None));
    let history = place.history();
    assert_eq!(history.len(), 1);
    assert_eq!(
        history[0].why,
        format!("an operator's `fence clear`: clearing {ONE}")
    );
    assert_eq!(history[0].evidence[0].saw, "removed owner of B in epoch 4");
}

#[test]
fn all_disks_are_cleared_by_the_pairs_name() {
    let place = Place::new();
    place.owned_by_b(&place.one);
    let pair = format!("{:04x}", place.pair());
    let refused = place.clear(None, ONE).expect_err("not the pair");
    assert!(refused.contains(&format!("--yes-clear-reservations-on {pair}")));
    assert_eq!(registered(&place.one), 1);
    let cleared = place.clear(None, &pair).expect("cleared");
    assert_eq!(cleared.len(), 1, "the other one was clear");
    assert_eq!(registered(&place.one), 0);
}

#[test]
fn nothing_is_cleared_while_a_key_moves_on_any_disk() {
    let place = Place::new();
    let first = place.owned_by_b(&place.one);
    place.owned_by_b(&place.two);
    let stop = Arc::new(AtomicBool::new(false));
    let (target, ended) = (place.one.clone(), stop.clone());
    let owner = std::thread::spawn(move || {
        for beat in (1..).take_while(|_| !ended.load(Ordering::Relaxed)) {
            target.with(|disk| disk.keys.insert(("b", 0), first ^ (beat & 0xff)));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let refused = place.clear(Some(TWO), TWO).expect_err("its owner lives");
    stop.store(true, Ordering::Relaxed);
    owner.join().expect("it ended");
    assert!(
        refused.contains(&format!("keys of disk {ONE} move")),
        "{refused}"
    );
    assert_eq!((registered(&place.one), registered(&place.two)), (1, 1));
}

#[test]
fn nothing_is_cleared_where_an_arbiter_may_be_unread() {
    let place = Place::new();
    place.owned_by_b(&place.one);
    place.two.fault(("a", 0), Some(Fault::Dead));
    let refused = place.clear(Some(ONE), ONE).expect_err("a disk is unread");
    assert!(
        refused.contains("1 of 2 shared disks can't be read"),
        "{refused}"
    );
    assert_eq!(registered(&place.one), 1);
}

#[test]
fn an_owner_and_a_running_daemon_refuse_clearing() {
    let place = Place::new();
    place.owned_by_b(&place.one);
    place.daemon_runs();
    let refused = place.clear(Some(ONE), ONE).expect_err("a daemon runs");
    assert!(refused.contains("another failoverd"), "{refused}");
    std::fs::remove_file(place.path("run/instance")).expect("it ended");
    std::fs::create_dir_all(place.path("state")).expect("a folder");
    let (journal, _) = FileJournal::open(&place.path("state"), &place.path("run")).expect("opens");
    let mut owner = OwnerRecord {
        incarnation: 3,
        epoch: Epoch(4),
        key: key(Node::A, 4, 0),
        serving: true,
        won: Vec::new(),
    };
    journal.remember(Some(&owner)).expect("written");
    let refused = place.clear(Some(ONE), ONE).expect_err("it owned");
    assert!(refused.contains("start failoverd"), "{refused}");
    owner.serving = false;
    std::fs::write(place.path("run/owner"), "damaged").expect("written");
    place.clear(Some(ONE), ONE).expect_err("it may have owned");
    journal.remember(None).expect("written");
    place.clear(Some(ONE), ONE).expect("now it may");
}

#[test]
fn a_check_asks_for_the_identity_and_keeps_its_result() {
    let place = Place::new();
    for (disk, confirmed) in [(ONE, None), ("sdb", Some(TWO)), ("/dev/sdb", Some("sdb"))] {
        let refused = place.check(disk, confirmed).expect_err("not confirmed");
        assert!(
            refused.ends_with(&format!("--yes-destroy-reservations-on {ONE}")),
            "{refused}"
        );
    }
    place.one.with(|disk| assert_eq!(disk.log, []));
    let findings = place.check("sdb", Some("wwn-0x5000C50000000001"));
    assert_eq!(findings.expect("checked").disk, ONE);
    let kept = read_kept(&place.path("state"));
    assert_eq!(kept.keys().collect::<Vec<_>>(), [ONE]);
    assert!(!place.path("run/instance").exists(), "given up again");
}

#[test]
fn a_check_refuses_what_is_in_use() {
    let mut place = Place::new();
    place.owned_by_b(&place.two);
    let refused = place.check(TWO, Some(TWO)).expect_err("registered");
    assert!(refused.contains("fence clear"), "{refused}");
    place.daemon_runs();
    let refused = place.check(ONE, Some(ONE)).expect_err("a daemon runs");
    assert!(refused.contains("another failoverd"), "{refused}");
    place.machine.partition("sdb", "sdb1", "8:17");
    place.machine.mounts = "22 1 8:17 / / rw - ext4 /dev/sdb1 rw\n".into();
    let refused = place.check(ONE, Some(ONE)).expect_err("the root disk");
    assert!(refused.contains("this machine uses for /"), "{refused}");
    let refused = place.check("naa.5000c50000000007", None).expect_err("none");
    assert!(refused.contains("isn't here"), "{refused}");
    place.one.with(|disk| assert_eq!(disk.log, []));
}

/// The configuration has another of its identities than the one that the check finds first.
#[test]
fn a_running_daemons_disk_is_known_by_any_of_its_identities() {
    let mut place = Place::new();
    place.daemon_runs();
    place.machine.nvme("nvme0n1", "nvme0");
    place.machine.write(
        "block/nvme0n1/nguid",
        b"00112233-4455-6677-8899-aabbccddeeff\n",
    );
    place
        .machine
        .write("block/nvme0n1/eui", b"00 25 38 8b 71 01 16 a2\n");
    let mut config = place.config();
    config.disks = vec!["eui.0025388b710116a2".to_owned()];
    let order = CheckOrder {
        disk: "nvme0n1".to_owned(),
        confirmed: Some("eui.00112233445566778899aabbccddeeff".to_owned()),
    };
    let refused = check(&order, Some(&config), &place.ground()).expect_err("a daemon runs");
    assert!(refused.contains("another failoverd"), "{refused}");
}

/// As many disks may be unread as leave a majority of the smallest list that is known, whichever it names.
#[test]
fn the_journals_arbiters_count_where_they_are_fewer() {
    let mut place = Place::new();
    let three = Target::new([0x50, 0, 0xc5, 0, 0, 0, 0, 3]);
    place
        .nodes
        .plug("sde", Device::Scsi(three.clone(), ("a", 0)));
    place.machine.scsi("sde", "2:0:2:0", 0x5000_c500_0000_0003);
    let mut config = place.config();
    config.disks.push("naa.5000c50000000003".to_owned());
    three.fault(("a", 0), Some(Fault::Dead));
    place.owned_by_b(&place.one);
    let order = ClearOrder {
        disk: Some(ONE.to_owned()),
        confirmed: Some(ONE.to_owned()),
    };
    std::fs::create_dir_all(place.path("state")).expect("a folder");
    std::fs::create_dir_all(place.path("run")).expect("a folder");
    let (journal, _) = FileJournal::open(&place.path("state"), &place.path("run")).expect("opens");
    let list = ArbiterList {
        version: 1,
        disks: vec![DiskId(1)],
        previous: Vec::new(),
    };
    journal.record(&Entry::Arbiters(list)).expect("written");
    let refused = clear(&order, &config, &place.ground(), QUICK).expect_err("one is unread");
    assert!(refused.contains("at most 0 may be"), "{refused}");
    let list = ArbiterList {
        version: 2,
        disks: vec![DiskId(1), DiskId(2), DiskId(3)],
        previous: Vec::new(),
    };
    journal.record(&Entry::Arbiters(list)).expect("written");
    let cleared = clear(&order, &config, &place.ground(), QUICK).expect("two of three were read");
    assert_eq!(cleared.len(), 1);
}

/// What a check found counts at the next start and in `--check`: by name, with the reason.
#[test]
fn a_disk_that_failed_its_check_is_refused_for_a_pair() {
    let place = Place::new();
    place
        .one
        .with(|disk| disk.flaw = Some(Flaw::LetsStrangersWrite));
    let found = place.check("sdb", Some(ONE)).expect("checked");
    assert!(!found.passed());
    let at = place.folder.path().display();
    let paired = format!(
        "node = \"A\"\npair_key = \"{at}/pair.key\"\ndisks = [\"{ONE}\", \"{TWO}\"]\n[timing]\ndisk_silent_ms = 30000\n\
         [paths]\nstate_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\nsocket = \"{at}/s\"\n\
         [[links]]\nlocal = \"127.0.0.1:5001\"\npeer = \"127.0.0.1:5002\"\n"
    );
    let paired = Config::parse(&paired, &place.path("f.toml")).expect("good");
    let roots = place.machine.roots();
    let start = || disks::fence(&paired, &roots, Arc::new(place.nodes.clone()));
    let told = start().expect_err("refused").to_string();
    assert!(
        told.contains("disks[0]") && told.contains("stranger's write"),
        "{told}"
    );
    let told = assemble::look_at_machine(&paired, &roots, place.folder.path())
        .expect_err("--check says so too");
    assert!(told.to_string().contains("stranger's write"));
    // Repaired, and checked again.
    place.one.with(|disk| disk.flaw = None);
    place.check("sdb", Some(ONE)).expect("checked");
    start().expect("allowed");
}
