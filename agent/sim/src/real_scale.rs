//! How the shipped daemon copes with many disks, in real time: its control thread, its disk engine and its SCSI codec
//! before emulated disks that answer bytes.
//!
//! ```text
//!   daemon::start ─▶ control thread ─▶ engine's threads ─▶ RealFence ─▶ SCSI bytes ─▶ Emulated: waits, then a Disk
//!                         │ history, with times                             └ stuck: waits until the run ends
//!                         └▶ verdict, owned        getrusage of this process ─▶ share of a core while it verifies
//! ```
//!
//! A dead peer's key holds every disk, so each run is a whole takeover. After it a standby answers the beats, as in a whole
//! pair: keys rest then, and every disk is verified each `verify_ms`. No pools, services or addresses: their times are
//! measured elsewhere.

use crate::disk::{Disk, Nexus};
use crate::scale::standby;
use failover_core::adapters::{
    Change, Failure, Lease, Pools, Services, Vips, Watchdog as WatchdogTrait,
};
use failover_core::ids::{DiskId, Epoch, Node, PoolId};
use failover_core::key::{EpochBits, Key, Phase};
use failover_core::pr::{PrCommand, PrError, PrReply};
use failover_core::time::Instant as BootInstant;
use failoverd::adapters::clock::BootClock;
use failoverd::adapters::disk_paths::{DiskPath, SharedDisk};
use failoverd::adapters::fence::{Options, RealFence};
use failoverd::adapters::identity::Identity;
use failoverd::adapters::ports::{
    Data, Kind, Node as DeviceNode, Opener, Port, PortError, ScsiEnd, ScsiPort,
};
use failoverd::adapters::scsi::ReservationType;
use failoverd::adapters::scsi::pr_in::{FullStatus, Held, Keys, Registration, Reservation};
use failoverd::adapters::scsi::pr_out::{self, Action, Parameters};
use failoverd::config::Config;
use failoverd::daemon::{DaemonAdapters, Handle, start};
use failoverd::links::Inspector;
use failoverd::pair_key::PairKey;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A takeover that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(120);
const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Shared disks.
    pub disks: usize,
    /// What a command takes at least.
    pub latency: Duration,
    /// Percentage of the disks, arbiters excepted, that answer nothing.
    pub stuck_percent: usize,
    /// How long the verifying is watched; not at all if zero.
    pub steady: Duration,
}

/// What one takeover took.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From the decision until the arbiters are won.
    pub verdict: Duration,
    /// From the decision until every disk is taken or given up.
    pub owned: Duration,
    /// Disks that hold our reservation at that moment or a little later.
    pub held: usize,
    /// This process's share of one core while it verifies every disk.
    pub steady_percent: Option<f64>,
    /// Commands a second while it does.
    pub steady_commands: u64,
    /// Threads of this process then, and memory that is there, KiB.
    pub threads: usize,
    /// See `threads`.
    pub resident_kib: usize,
    /// What commands really took at the emulated ports, microseconds, sorted.
    pub ports_us: Vec<u32>,
}

/// What all emulated disks share.
struct Shelf {
    latency: Duration,
    disks: Vec<Mutex<Disk>>,
    stuck: Mutex<bool>,
    released: Condvar,
    took_us: Mutex<Vec<u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    fn new(setting: Setting, owner: Key) -> Shelf {
        let key = owner.to_bits();
        let owned = |_| {
            let mut disk = Disk::new(true);
            for command in [
                PrCommand::RegisterIgnore { new: key },
                PrCommand::Reserve { key },
            ] {
                // A new disk takes both.
                let _ = disk.execute(Nexus::new(owner.node, 0), command);
            }
            Mutex::new(disk)
        };
        Shelf {
            latency: setting.latency,
            disks: (0..setting.disks).map(owned).collect(),
            stuck: Mutex::new(setting.stuck_percent > 0),
            released: Condvar::new(),
            took_us: Mutex::default(),
        }
    }

    fn release(&self) {
        *lock(&self.stuck) = false;
        self.released.notify_all();
    }

    fn held_by(&self, node: Node) -> usize {
        let held = |disk: &&Mutex<Disk>| lock(disk).holder().is_some_and(|by| by.node == node);
        self.disks.iter().filter(held).count()
    }
}

/// Every tenth of a hundred and so on; the arbiters, which are the first three, never.
fn is_stuck(index: usize, percent: usize) -> bool {
    index >= 3 && index % 100 < percent
}

fn identity(index: usize) -> String {
    format!("naa.5000c500{index:08x}")
}

/// One path to one emulated disk.
struct Emulated {
    shelf: Arc<Shelf>,
    index: usize,
    stuck: bool,
}

struct Bays {
    shelf: Arc<Shelf>,
    stuck_percent: usize,
}

impl Opener for Bays {
    fn open(&self, node: &DeviceNode) -> Result<Port, PortError> {
        let number = node.name.strip_prefix("sd").and_then(|n| n.parse().ok());
        let index: usize = number.ok_or_else(|| PortError::Gone(node.name.clone()))?;
        Ok(Port::Scsi(Box::new(Emulated {
            shelf: self.shelf.clone(),
            index,
            stuck: is_stuck(index, self.stuck_percent),
        })))
    }
}

impl ScsiPort for Emulated {
    fn submit(
        &mut self,
        cdb: &[u8],
        data: Data<'_>,
        _timeout: Duration,
    ) -> Result<ScsiEnd, PortError> {
        // Who the disk is, is told from memory: the kernel has it cached too.
        if cdb.first() == Some(&0x12) {
            return Ok(good(self.identification()));
        }
        let began = Instant::now();
        std::thread::sleep(self.shelf.latency);
        if self.stuck {
            let held = |stuck: &mut bool| *stuck;
            let state = self
                .shelf
                .released
                .wait_while(lock(&self.shelf.stuck), held);
            drop(state.unwrap_or_else(PoisonError::into_inner));
        }
        let end = self.answer(cdb, data);
        if !self.stuck {
            let took = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
            lock(&self.shelf.took_us).push(took);
        }
        Ok(end)
    }
}

fn good(data: Vec<u8>) -> ScsiEnd {
    ScsiEnd {
        data,
        ..ScsiEnd::default()
    }
}

/// Fixed format (SPC-4 4.5.3).
fn check(key: u8, asc: u8, ascq: u8) -> ScsiEnd {
    let sense = vec![
        0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0,
    ];
    ScsiEnd {
        status: 2,
        sense,
        data: Vec::new(),
    }
}

impl Emulated {
    /// VPD page 83h: one NAA designator.
    fn identification(&self) -> Vec<u8> {
        let naa = 0x5000_c500_0000_0000_u64 | self.index as u64;
        let mut page = vec![0, 0x83, 0, 12, 0x01, 0x03, 0, 8];
        page.extend(naa.to_be_bytes());
        page
    }

    fn answer(&self, cdb: &[u8], data: Data<'_>) -> ScsiEnd {
        let Some(command) = command_of(cdb, data) else {
            return check(5, 0x20, 0);
        };
        let Some(disk) = self.shelf.disks.get(self.index) else {
            return check(5, 0x25, 0);
        };
        let mut disk = lock(disk);
        match disk.execute(Nexus::new(Node::A, 0), command) {
            Ok(reply) => good(bytes_of(reply, &disk)),
            Err(PrError::Conflict) => ScsiEnd {
                status: 0x18,
                ..ScsiEnd::default()
            },
            Err(PrError::UnitAttention(_)) => check(6, 0x29, 0),
            Err(PrError::Illegal(_)) => check(5, 0x24, 0),
            Err(PrError::Transport(_)) => check(4, 0x44, 0),
        }
    }
}

fn command_of(cdb: &[u8], data: Data<'_>) -> Option<PrCommand> {
    let Data::Out(list) = data else {
        return match cdb.get(..2)? {
            [0x5e, 0] => Some(PrCommand::ReadKeys),
            [0x5e, 1] => Some(PrCommand::ReadReservation),
            [0x5e, 3] => Some(PrCommand::ReadFull),
            _ => None,
        };
    };
    let (action, _, _) = pr_out::Action::of_cdb(cdb).ok()?;
    let Parameters {
        key: own,
        action_key,
        ..
    } = Parameters::decode(list).ok()?;
    Some(match action {
        Action::Register => PrCommand::Register {
            old: own,
            new: action_key,
        },
        Action::RegisterAndIgnore => PrCommand::RegisterIgnore { new: action_key },
        Action::Reserve => PrCommand::Reserve { key: own },
        Action::Release => PrCommand::Release { key: own },
        Action::Clear => PrCommand::Clear { key: own },
        Action::Preempt => PrCommand::Preempt {
            own,
            victim: action_key,
        },
        Action::PreemptAndAbort => PrCommand::PreemptAbort {
            own,
            victim: action_key,
        },
    })
}

fn bytes_of(reply: PrReply, disk: &Disk) -> Vec<u8> {
    match reply {
        PrReply::Good => Vec::new(),
        PrReply::Keys { generation, keys } => Keys { generation, keys }.encode(),
        PrReply::Reservation {
            generation, holder, ..
        } => {
            let held = holder.map(|key| Held {
                key,
                scope: 0,
                kind: WERO,
            });
            Reservation { generation, held }.encode()
        }
        PrReply::Full { generation, .. } => {
            let holder = disk.holder();
            let one = |(nexus, key): (Nexus, u64)| Registration {
                key,
                holder: holder == Some(nexus),
                all_target_ports: false,
                scope: 0,
                kind: if holder == Some(nexus) {
                    WERO
                } else {
                    ReservationType::from_code(0)
                },
                target_port: 1,
                transport_id: vec![0; 24],
            };
            let registrations = disk.registrations().map(one).collect();
            FullStatus {
                generation,
                registrations,
            }
            .encode()
        }
    }
}

/// Nothing but disks.
struct Nothing;

impl Pools for Nothing {
    fn prescan(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }
    fn discard(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }
    fn import(&self, _pool: PoolId, _won: &[DiskId]) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn export(&self, _pool: PoolId) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn imported(&self, _pool: PoolId) -> Result<bool, Failure> {
        Ok(false)
    }
}

impl Services for Nothing {
    fn start(&self, _: &[PoolId]) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn stop(&self) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
}

impl Vips for Nothing {
    fn add(&self, _: &[PoolId]) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn remove(&self) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn announce(&self, _: &[PoolId]) -> Result<(), Failure> {
        Ok(())
    }
}

impl Lease for Nothing {
    fn grant(&mut self, _now: BootInstant, _until: BootInstant) -> Result<(), Failure> {
        Ok(())
    }
    fn renew(&mut self, _now: BootInstant, _until: BootInstant) -> Result<(), Failure> {
        Ok(())
    }
    fn end(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl WatchdogTrait for Nothing {
    fn pet(&mut self) {}
}

/// A standby that answers every beat once it is told to, until it is dropped.
struct Standby {
    socket: UdpSocket,
    awake: AtomicBool,
    ended: AtomicBool,
}

impl Standby {
    fn new() -> Result<Standby, String> {
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let patience = Some(Duration::from_millis(100));
        socket
            .set_read_timeout(patience)
            .map_err(|error| error.to_string())?;
        Ok(Standby {
            socket,
            awake: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    fn port(&self) -> Result<u16, String> {
        let address = self.socket.local_addr();
        Ok(address.map_err(|error| error.to_string())?.port())
    }

    fn answer(&self, key: PairKey) {
        let inspector = Inspector::new(key, Node::B);
        let mut buffer = [0; 2048];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            if !self.awake.load(Ordering::Relaxed) {
                continue;
            }
            if let Ok(beat) = inspector.inspect(&buffer[..length]) {
                let answer = inspector.seal(&standby(&beat));
                // A lost beat is answered by the next.
                let _ = self.socket.send_to(&answer, from);
            }
        }
    }
}

fn config(folder: &Path, disks: usize, peer: u16) -> Result<Config, String> {
    let key = folder.join("pair.key");
    PairKey::create(&key).map_err(|error| error.to_string())?;
    let names: Vec<String> = (0..disks)
        .map(|index| format!("\"{}\"", identity(index)))
        .collect();
    let at = folder.display();
    let text = format!(
        "node = \"A\"\npair_key = \"{at}/pair.key\"\ndisks = [{}]\n[reset]\ncommand = [\"/bin/true\"]\n\
         [paths]\nstate_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\nsocket = \"{at}/s\"\n\
         [[links]]\nlocal = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{peer}\"\n",
        names.join(", "),
        free_port()?
    );
    Config::parse(&text, Path::new("/etc/scale.toml")).map_err(|errors| errors.to_string())
}

fn free_port() -> Result<u16, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    Ok(address.port())
}

/// One takeover, and the verifying after it.
///
/// # Errors
/// The daemon doesn't start, or doesn't own the disks in time.
pub fn measure(setting: Setting) -> Result<Measured, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let peer = Standby::new()?;
    let config = config(folder.path(), setting.disks, peer.port()?)?;
    let key = config.pair_key.clone().ok_or("a pair has a key")?;
    let owner = Key {
        pair: config.core().pair,
        node: Node::B,
        held: false,
        phase: Phase::Owner,
        incarnation: 1,
        epoch: EpochBits::of(Epoch(1)),
        beat: 0,
    };
    let shelf = Arc::new(Shelf::new(setting, owner));
    let bays = Bays {
        shelf: shelf.clone(),
        stuck_percent: setting.stuck_percent,
    };
    let options = Options {
        accept_volatile: false,
    };
    let fence = RealFence::new(Arc::new(bays), options, &shared(setting.disks)?);
    let adapters = DaemonAdapters {
        clock: Arc::new(BootClock),
        fence: Arc::new(fence),
        pools: Arc::new(Nothing),
        services: Arc::new(Nothing),
        vips: Arc::new(Nothing),
        lease: Box::new(Nothing),
        watchdog: Box::new(Nothing),
        reset: Arc::new(|reason| eprintln!("it would reset this machine: {reason}")),
        reconfigure: None,
        paths: None,
    };
    let running = start(config, adapters).map_err(|error| error.to_string())?;
    let handle = running.handle();
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| peer.answer(key));
        let measured = watch(&handle, &shelf, &peer, setting);
        peer.ended.store(true, Ordering::Relaxed);
        measured
    });
    shelf.release();
    handle.stop(false);
    let ended = running.join().map_err(|error| error.to_string());
    let measured = measured?;
    ended?;
    Ok(measured)
}

fn shared(disks: usize) -> Result<Vec<SharedDisk>, String> {
    let shared = |index| {
        let name = identity(index);
        let path = DiskPath {
            node: DeviceNode {
                kind: Kind::Scsi,
                name: format!("sd{index}"),
                number: (8, 0),
            },
            address: format!("0:0:{index}:0"),
        };
        Ok(SharedDisk {
            id: DiskId::of(&name),
            identity: Identity::parse(&name).map_err(|error| error.to_string())?,
            paths: vec![path],
        })
    };
    (0..disks).map(shared).collect()
}

fn watch(
    handle: &Handle,
    shelf: &Shelf,
    peer: &Standby,
    setting: Setting,
) -> Result<Measured, String> {
    let began = Instant::now();
    let backend = handle.backend();
    while backend.report().status.to_string() != "MASTER" {
        if began.elapsed() > PATIENCE {
            let state = backend.report().status;
            return Err(format!("{} disks: still {state}", setting.disks));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The log's thread is a little behind.
    let mut history = backend.history(64);
    while !history.iter().any(|record| record.to == "active") && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
        history = backend.history(64);
    }
    let at = |to: &str| {
        let mut records = history.iter().rev();
        let record = records.find(|record| record.to == to);
        let record = record.ok_or_else(|| format!("the history has no {to}"))?;
        Ok::<u64, String>(record.at_micros)
    };
    let decided = at("fencing-arbiters")?;
    let since = |moment: u64| Duration::from_micros(moment.saturating_sub(decided));
    let (verdict, owned) = (since(at("fencing-rest")?), since(at("importing")?));
    let mut ports_us = std::mem::take(&mut *lock(&shelf.took_us));
    ports_us.sort_unstable();
    let mut measured = Measured {
        verdict,
        owned,
        held: shelf.held_by(Node::A),
        steady_percent: None,
        steady_commands: 0,
        threads: 0,
        resident_kib: 0,
        ports_us,
    };
    if !setting.steady.is_zero() {
        peer.awake.store(true, Ordering::Relaxed);
        // The takeover's last work is done by then, and the keys rest.
        std::thread::sleep(Duration::from_secs(2));
        lock(&shelf.took_us).clear();
        let (spent, began) = (processor_time(), Instant::now());
        std::thread::sleep(setting.steady);
        let (spent, took) = (processor_time() - spent, began.elapsed());
        measured.steady_percent = Some(100.0 * spent.as_secs_f64() / took.as_secs_f64());
        let commands = lock(&shelf.took_us).len();
        measured.steady_commands = (commands as f64 / took.as_secs_f64()) as u64;
        (measured.threads, measured.resident_kib) = (of_process("Threads:"), of_process("VmRSS:"));
    }
    Ok(measured)
}

/// User and system time of this process.
fn processor_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Duration::ZERO;
    };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn of_process(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// p50, p99 and the longest, by nearest rank.
fn percentiles<T: Copy + Ord + Default>(mut values: Vec<T>) -> [T; 3] {
    values.sort_unstable();
    let at = |per_mille: usize| {
        let rank = (values.len() * per_mille).div_ceil(1000).max(1);
        values.get(rank - 1).copied().unwrap_or_default()
    };
    [at(500), at(990), at(1000)]
}

/// Runs the curve and answers with its table.
///
/// # Errors
/// A run failed.
pub fn curve(
    disks: &[usize],
    latency: Duration,
    runs: usize,
    steady: Duration,
) -> Result<String, String> {
    let mut out = format!(
        "the daemon's own threads in real time, {} ms a command; verdict and owned in ms: p50 / p99 / longest of {runs} \
         runs; a port's command in ms the same\n\
         {:>6} {:>6} {:>22} {:>24} {:>6} {:>20} {:>8} {:>10} {:>8} {:>9}\n",
        latency.as_millis(),
        "disks",
        "stuck",
        "verdict",
        "owned",
        "held",
        "port",
        "% core",
        "commands/s",
        "threads",
        "resident",
    );
    for count in disks {
        for stuck_percent in [0, 10] {
            if stuck_percent > 0 && !(0..*count).any(|index| is_stuck(index, stuck_percent)) {
                continue;
            }
            let line = one_line(*count, latency, stuck_percent, runs, steady)?;
            let _ = writeln!(out, "{line}");
        }
    }
    Ok(out)
}

fn one_line(
    disks: usize,
    latency: Duration,
    stuck_percent: usize,
    runs: usize,
    steady: Duration,
) -> Result<String, String> {
    let mut all = Vec::new();
    for run in 0..runs {
        all.push(measure(Setting {
            disks,
            latency,
            stuck_percent,
            // Once is enough for it.
            steady: if run + 1 == runs {
                steady
            } else {
                Duration::ZERO
            },
        })?);
    }
    let millis = |of: fn(&Measured) -> Duration| {
        let micros: Vec<u64> = all.iter().map(|one| of(one).as_micros() as u64).collect();
        percentiles(micros).map(|micros| format!("{:.1}", micros as f64 / 1000.0))
    };
    let ports: Vec<u32> = all.iter().flat_map(|one| one.ports_us.clone()).collect();
    let ports = percentiles(ports).map(|micros| format!("{:.2}", f64::from(micros) / 1000.0));
    let least_held = all.iter().map(|one| one.held).min().unwrap_or(0);
    let last = all.last().ok_or("no run")?;
    Ok(format!(
        "{disks:>6} {stuck_percent:>5}% {:>22} {:>24} {least_held:>6} {:>20} {:>8.2} {:>10} {:>8} {:>5} MiB",
        millis(|one| one.verdict).join(" / "),
        millis(|one| one.owned).join(" / "),
        ports.join(" / "),
        last.steady_percent.unwrap_or(0.0),
        last.steady_commands,
        last.threads,
        last.resident_kib / 1024,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No bound of time: the machine may be busy. What is taken and what isn't must be right.
    #[test]
    fn the_daemon_takes_what_answers_and_leaves_what_hangs() {
        let setting = Setting {
            disks: 120,
            latency: Duration::from_millis(1),
            stuck_percent: 10,
            steady: Duration::ZERO,
        };
        let stuck = (0..120).filter(|index| is_stuck(*index, 10)).count();
        assert_eq!(stuck, 17);
        let measured = measure(setting).expect("it serves");
        assert!(
            measured.held <= 120 - stuck && measured.held > 60,
            "{measured:?}"
        );
        assert!(measured.verdict <= measured.owned);
        assert!(measured.ports_us.iter().all(|took| *took >= 1000));
    }
}
