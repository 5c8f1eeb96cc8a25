//! A pair of real daemons in this process: real links on loopback, journals, control thread; disks in memory.

use failover_core::adapters::{
    Change, Clock, Failure, Fence, Lease, Pools, Services, Vips, Watchdog,
};
use failover_core::ids::{DiskId, Node, PathId, PoolId};
use failover_core::pr::{PrCommand, PrError, PrReply};
use failover_core::time::Instant;
use failoverd::adapters::clock::BootClock;
use failoverd::config::Config;
use failoverd::daemon::{DaemonAdapters, Handle, Running};
use failoverd::pair_key::PairKey;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One shared disk: registrations of each controller (one path each) and the reservation's holder.
#[derive(Default)]
struct Disk {
    generation: u32,
    keys: BTreeMap<u8, u64>,
    holder: Option<u8>,
}

/// The shelf: disks in memory that follow the reservation rules closely enough for two honest controllers.
#[derive(Default)]
pub struct Shelf(Mutex<BTreeMap<DiskId, Disk>>);

impl Shelf {
    fn execute(&self, node: Node, disk: DiskId, command: PrCommand) -> Result<PrReply, PrError> {
        let nexus = node as u8;
        let mut disks = self.0.lock().expect("no panic in here");
        let disk = disks.entry(disk).or_default();
        let own = disk.keys.get(&nexus).copied();
        let registered = |key: u64| {
            if own == Some(key) {
                Ok(())
            } else {
                Err(PrError::Conflict)
            }
        };
        match command {
            PrCommand::ReadKeys => {
                return Ok(PrReply::Keys {
                    generation: disk.generation,
                    keys: disk.keys.values().copied().collect(),
                });
            }
            PrCommand::ReadReservation => {
                return Ok(PrReply::Reservation {
                    generation: disk.generation,
                    holder: disk.holder.and_then(|n| disk.keys.get(&n).copied()),
                    wero: disk.holder.is_some(),
                });
            }
            PrCommand::ReadFull => {
                return Ok(PrReply::Full {
                    generation: disk.generation,
                    keys: disk.keys.values().copied().collect(),
                    holder: disk.holder.and_then(|n| disk.keys.get(&n).copied()),
                    wero: disk.holder.is_some(),
                });
            }
            PrCommand::Register { old, new } => {
                registered(old)?;
                disk.register(nexus, new);
            }
            PrCommand::RegisterIgnore { new } => disk.register(nexus, new),
            PrCommand::Reserve { key } => {
                registered(key)?;
                if disk.holder.is_some_and(|holder| holder != nexus) {
                    return Err(PrError::Conflict);
                }
                disk.holder = Some(nexus);
            }
            PrCommand::Preempt { own, victim } | PrCommand::PreemptAbort { own, victim } => {
                registered(own)?;
                if !disk.keys.values().any(|key| *key == victim) {
                    return Err(PrError::Conflict);
                }
                let held = disk
                    .holder
                    .is_some_and(|h| disk.keys.get(&h) == Some(&victim));
                disk.keys.retain(|n, key| *key != victim || *n == nexus);
                if held {
                    disk.holder = Some(nexus);
                }
                disk.generation += 1;
            }
            PrCommand::Release { key } => {
                registered(key)?;
                disk.holder = disk.holder.filter(|holder| *holder != nexus);
            }
            PrCommand::Clear { key } => {
                registered(key)?;
                disk.keys.clear();
                disk.holder = None;
                disk.generation += 1;
            }
        }
        Ok(PrReply::Good)
    }
}

impl Disk {
    fn register(&mut self, nexus: u8, key: u64) {
        if key == 0 {
            self.keys.remove(&nexus);
            self.holder = self.holder.filter(|holder| *holder != nexus);
        } else {
            self.keys.insert(nexus, key);
        }
        self.generation += 1;
    }
}

/// One controller's paths to the shelf.
struct Paths {
    shelf: Arc<Shelf>,
    node: Node,
    world: Arc<World>,
}

impl Fence for Paths {
    fn paths(&self, _disk: DiskId) -> u8 {
        1
    }

    fn execute(
        &self,
        disk: DiskId,
        _path: PathId,
        command: PrCommand,
        deadline: Duration,
    ) -> Result<PrReply, PrError> {
        let all = self.world.all_stuck.load(Ordering::Relaxed);
        if all || self.world.stuck_disk.lock().expect("whole").as_ref() == Some(&disk) {
            std::thread::sleep(deadline);
            return Err(PrError::Transport("stuck".to_owned()));
        }
        self.shelf.execute(self.node, disk, command)
    }
}

/// What one controller did to the world outside.
#[derive(Default)]
pub struct World {
    /// Every adapter call, in order.
    pub calls: Mutex<Vec<String>>,
    /// The lease's end, microseconds.
    pub lease_until: AtomicU64,
    /// The kernel refuses leases.
    pub refuse_lease: AtomicBool,
    /// Why this controller reset itself.
    pub reset: Mutex<Option<String>>,
    /// No disk answers.
    pub all_stuck: AtomicBool,
    /// A disk that answers nothing.
    pub stuck_disk: Mutex<Option<DiskId>>,
    /// No pool can be exported, and each stays imported.
    pub stuck_export: AtomicBool,
}

impl World {
    fn call(&self, what: impl Into<String>) -> Result<Change, Failure> {
        self.calls.lock().expect("whole").push(what.into());
        Ok(Change::Made)
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("whole").clone()
    }
}

/// How long a stuck export takes: more than the shortest `export_ms` that is allowed.
const EXPORT_STUCK: Duration = Duration::from_millis(1500);

/// A world as adapters.
struct Hands(Arc<World>);

impl Pools for Hands {
    fn prescan(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }
    fn discard(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }
    fn import(&self, pool: PoolId, _won: &[DiskId]) -> Result<Change, Failure> {
        self.0.call(format!("import {}", pool.0))
    }
    fn export(&self, pool: PoolId) -> Result<Change, Failure> {
        let done = self.0.call(format!("export {}", pool.0));
        match self.0.stuck_export.load(Ordering::Relaxed) {
            true => {
                std::thread::sleep(EXPORT_STUCK);
                Err(Failure("a thread hangs in the kernel".to_owned()))
            }
            false => done,
        }
    }
    fn imported(&self, _pool: PoolId) -> Result<bool, Failure> {
        Ok(self.0.stuck_export.load(Ordering::Relaxed))
    }
}

impl Services for Hands {
    fn start(&self, _pools: &[PoolId]) -> Result<Change, Failure> {
        self.0.call("start services")
    }
    fn stop(&self) -> Result<Change, Failure> {
        self.0.call("stop services")
    }
}

impl Vips for Hands {
    fn add(&self, _pools: &[PoolId]) -> Result<Change, Failure> {
        self.0.call("add vips")
    }
    fn remove(&self) -> Result<Change, Failure> {
        self.0.call("remove vips")
    }
    fn announce(&self, _pools: &[PoolId]) -> Result<(), Failure> {
        Ok(())
    }
}

impl Lease for Hands {
    fn grant(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
        if self.0.refuse_lease.load(Ordering::Relaxed) {
            return Err(Failure("the table is gone".to_owned()));
        }
        self.0.lease_until.store(until.micros(), Ordering::Relaxed);
        Ok(())
    }
    fn renew(&mut self, now: Instant, until: Instant) -> Result<(), Failure> {
        if now.micros() > self.0.lease_until.load(Ordering::Relaxed) {
            return Err(Failure("the lease lapsed".to_owned()));
        }
        self.grant(now, until)
    }
    fn end(&mut self) -> Result<(), Failure> {
        self.0.lease_until.store(0, Ordering::Relaxed);
        Ok(())
    }
}

impl Watchdog for Hands {
    fn pet(&mut self) {}
}

/// A folder, ports and a shelf for two controllers.
pub struct Bench {
    dir: tempfile::TempDir,
    ports: [[u16; 2]; 2],
    pub shelf: Arc<Shelf>,
    /// Added to both configurations.
    pub extra: String,
    pub disks: usize,
}

impl Bench {
    pub fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a folder");
        PairKey::create(&dir.path().join("pair.key")).expect("a key");
        // Held together, so that the four differ.
        let sockets: Vec<UdpSocket> = (0..4)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let port = |i: usize| sockets[i].local_addr().expect("bound").port();
        Bench {
            ports: [[port(0), port(1)], [port(2), port(3)]],
            dir,
            shelf: Arc::default(),
            extra: String::new(),
            disks: 4,
        }
    }

    /// The other end of a controller's first link.
    pub fn listen_as(&self, node: Node) -> UdpSocket {
        let socket = UdpSocket::bind(("127.0.0.1", self.ports[0][node as usize])).expect("free");
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).expect("a time-out");
        socket
    }

    pub fn folder(&self, node: Node) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    pub fn write_config(&self, node: Node) -> PathBuf {
        let folder = self.folder(node);
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("failoverd.toml");
        std::fs::write(&file, self.text(node, self.dir.path(), &folder)).expect("written");
        file
    }

    fn text(&self, node: Node, shared: &Path, own: &Path) -> String {
        let (shared, own) = (shared.display(), own.display());
        let disks: Vec<String> = (0..self.disks).map(|i| format!("\"disk-{i}\"")).collect();
        let mut text = format!(
            "node = \"{node}\"\npair_key = \"{shared}/pair.key\"\ndisks = [{}]\n\
             [paths]\nstate_dir = \"{own}/state\"\nruntime_dir = \"{own}/run\"\nsocket = \"{own}/s\"\n\
             [[pools]]\nname = \"tank\"\ndevice = \"/dev/null\"\nmountpoint = \"/nowhere\"\nfstype = \"none\"\n\
             [[vips]]\ninterface = \"lo\"\naddress = \"192.0.2.9/24\"\n",
            disks.join(", ")
        );
        for link in 0..2 {
            let local = self.ports[link][node as usize];
            let peer = self.ports[link][node.other() as usize];
            text +=
                &format!("[[links]]\nlocal = \"127.0.0.1:{local}\"\npeer = \"127.0.0.1:{peer}\"\n");
        }
        text + &self.extra
    }

    pub fn start(&self, node: Node) -> Controller {
        let file = self.write_config(node);
        let config = Config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        let world = Arc::new(World::default());
        let adapters = adapters(node, self.shelf.clone(), world.clone());
        let running = failoverd::daemon::start(config, adapters).expect("starts");
        Controller {
            handle: running.handle(),
            running,
            world,
        }
    }
}

pub fn adapters(node: Node, shelf: Arc<Shelf>, world: Arc<World>) -> DaemonAdapters {
    let hands = || Hands(world.clone());
    let seen = world.clone();
    let changed = world.clone();
    DaemonAdapters {
        clock: Arc::new(BootClock) as Arc<dyn Clock>,
        fence: Arc::new(Paths {
            shelf,
            node,
            world: world.clone(),
        }),
        pools: Arc::new(hands()),
        services: Arc::new(hands()),
        vips: Arc::new(hands()),
        lease: Box::new(hands()),
        watchdog: Box::new(hands()),
        reset: Arc::new(move |reason| {
            *seen.reset.lock().expect("whole") = Some(reason.to_string());
        }),
        reconfigure: Some(Arc::new(move |old, new, on| {
            let list = |config: &Config| -> Vec<String> {
                config.vips.iter().map(|v| v.address.to_string()).collect()
            };
            let on = on.is_some();
            let what = format!("vips {:?} to {:?}, on: {on}", list(old), list(new));
            changed.call(what).map(|_| ())
        })),
        paths: None,
    }
}

/// A running controller.
pub struct Controller {
    pub running: Running,
    pub handle: Handle,
    pub world: Arc<World>,
}

impl Controller {
    pub fn status(&self) -> String {
        self.handle.backend().report().status.to_string()
    }

    /// Ends it and waits.
    pub fn stop(self) -> failoverd::daemon::Exit {
        self.handle.stop(false);
        self.running.join().expect("ends in order")
    }
}

/// Waits until `holds`; the bound is far beyond anything that a busy machine needs.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
