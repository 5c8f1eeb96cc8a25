//! Two daemons as they are shipped, on disks that speak bytes: from sysfs and the configuration to MASTER and back.

use crate::bench::{Device, Nodes};
use crate::disk_paths::Machine;
use crate::scsi_target::Target;
use failover_api::{FenceDisk, FenceStatus};
use failover_core::event::Command;
use failover_core::ids::Node;
use failoverd::assemble;
use failoverd::config::Config;
use failoverd::daemon::{Handle, Running, start};
use failoverd::disks;
use failoverd::pair_key::PairKey;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DISKS: u8 = 4;

fn naa(number: u8) -> u64 {
    0x5000_c500_0000_0000 | u64::from(number)
}

/// A shelf, and two controllers with two paths to each of its disks.
struct Shelf {
    folder: tempfile::TempDir,
    targets: Vec<Target>,
    ports: [u16; 2],
}

impl Shelf {
    fn new() -> Shelf {
        let folder = tempfile::tempdir().expect("a folder");
        PairKey::create(&folder.path().join("pair.key")).expect("a key");
        let sockets = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"));
        Shelf {
            targets: (0..DISKS)
                .map(|number| Target::new(naa(number).to_be_bytes()))
                .collect(),
            ports: sockets.map(|socket| socket.local_addr().expect("bound").port()),
            folder,
        }
    }

    fn config(&self, node: Node) -> Config {
        let at = self.folder.path().display();
        let disks: Vec<String> = (0..DISKS)
            .map(|number| match node {
                // Each operator's way to write it.
                Node::A => format!("\"naa.{:016x}\"", naa(number)),
                Node::B => format!("\"wwn-0x{:016X}\"", naa(number)),
            })
            .collect();
        let (local, peer) = (self.ports[node as usize], self.ports[node.other() as usize]);
        let text = format!(
            "node = \"{node}\"\npair_key = \"{at}/pair.key\"\ndisks = [{}]\n\
             [reset]\ncommand = [\"/bin/true\"]\n\
             [paths]\nstate_dir = \"{at}/{node}/state\"\nruntime_dir = \"{at}/{node}/run\"\nsocket = \"{at}/{node}/s\"\n\
             [[links]]\nlocal = \"127.0.0.1:{local}\"\npeer = \"127.0.0.1:{peer}\"\n",
            disks.join(", ")
        );
        Config::parse(&text, Path::new("/etc/f.toml")).expect("good")
    }

    /// The controller's sysfs, its nodes and its daemon.
    fn start(&self, node: Node) -> (Running, Handle) {
        let initiator = if node == Node::A { "a" } else { "b" };
        let mut machine = Machine::new();
        let nodes = Nodes::default();
        for (number, target) in (0..DISKS).zip(&self.targets) {
            for port in 0..2 {
                let letter = char::from(b'a' + 2 * number + port);
                let name = format!("sd{letter}");
                machine.scsi(&name, &format!("{}:0:{number}:0", port + 2), naa(number));
                nodes.plug(&name, Device::Scsi(target.clone(), (initiator, port)));
            }
        }
        let config = self.config(node);
        let fence = disks::fence(&config, &machine.roots(), Arc::new(nodes)).expect("found");
        let (adapters, _watchdog) =
            assemble::real(&config, Arc::new(fence), &mut assemble::Kept::new())
                .expect("assembled");
        let running = start(config, adapters).expect("starts");
        let handle = running.handle();
        (running, handle)
    }

    /// Initiators registered on each disk.
    fn registered(&self) -> Vec<Vec<(&'static str, u8)>> {
        let disks = self.targets.iter();
        disks
            .map(|disk| disk.with(|disk| disk.keys.keys().copied().collect()))
            .collect()
    }
}

fn status(handle: &Handle) -> String {
    handle.backend().report().status.to_string()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every disk that this controller looks at is `node`'s: a standby looks at the arbiters alone.
fn all_of(seen: &FenceStatus, node: Node) -> bool {
    let looked_at = |disk: &&FenceDisk| disk.arbiter || seen.node == node;
    let whole = seen.disk_list.iter().filter(looked_at).all(|disk| {
        let holder = disk.holder.as_ref().and_then(|key| key.node);
        let paths = disk.paths.as_ref().map(Vec::len);
        holder == Some(node) && paths == Some(2) && disk.failure.is_none()
    });
    whole && seen.disk_list.len() == usize::from(DISKS)
}

#[test]
fn a_pair_owns_real_disks_and_hands_them_over() {
    let shelf = Shelf::new();
    let (a, b) = (shelf.start(Node::A), shelf.start(Node::B));
    wait_for("one serves, the other can take over", || {
        let mut both = [status(&a.1), status(&b.1)];
        both.sort();
        let ready = |handle: &Handle| handle.backend().report().eligible;
        both == ["BACKUP", "MASTER"] && (ready(&a.1) || ready(&b.1))
    });
    let (master, backup, names) = match status(&a.1).as_str() {
        "MASTER" => (a, b, ["a", "b"]),
        _ => (b, a, ["b", "a"]),
    };
    let owner = master.1.backend().report().node;
    let both_paths = |name| vec![vec![(name, 0), (name, 1)]; usize::from(DISKS)];
    assert_eq!(shelf.registered(), both_paths(names[0]));
    wait_for("both see it on every disk", || {
        let seen = [&master.1, &backup.1].map(|handle| handle.backend().fence());
        seen.iter().all(|seen| all_of(seen, owner))
    });
    let seen = master.1.backend().fence();
    let disk = &seen.disk_list[0];
    assert_eq!(disk.owner, "ours");
    assert!(disk.look_us.is_some() && disk.age_ms.is_some());
    let keys = disk.registrations.as_ref().expect("looked at");
    assert_eq!(keys.len(), 1, "one key on both paths");
    assert_eq!(keys[0].phase.as_deref(), Some("owner"));

    let handed = master.1.backend().command(Command::BecomePassive);
    assert_eq!(handed.blocking_recv().expect("answered"), Ok(()));
    wait_for("the other owns them", || {
        all_of(&backup.1.backend().fence(), owner.other())
            && shelf.registered() == both_paths(names[1])
    });
    assert_eq!(status(&backup.1), "MASTER");
    for (running, handle) in [master, backup] {
        handle.stop(false);
        running.join().expect("ends in order");
    }
}
