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
//! pair: keys rest then, and every disk is verified each `verify_ms`. Before that, if asked for, nobody answers for a while:
//! every disk is rolled then, and the lease must live by that. No pools, services or addresses: their times are
//! measured elsewhere.

mod peer;
mod port;
mod report;

use failover_core::ids::{Epoch, Node};
use failover_core::key::{EpochBits, Key, Phase};
use failoverd::adapters::clock::BootClock;
use failoverd::adapters::fence::{Options, RealFence};
use failoverd::config::Config;
use failoverd::daemon::{DaemonAdapters, Handle, start};
use failoverd::pair_key::PairKey;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use peer::{Leases, Nothing, Standby};
use port::{Bays, Shelf, identity, lock, shared};
pub use report::curve;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A takeover that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(120);

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
    /// How long it serves without a peer before that.
    pub alone: Duration,
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
    /// Time without a lease while nobody answered, and what the daemon said it was after that.
    pub dark: Duration,
    /// See `dark`.
    pub alone_as: String,
    /// What commands really took at the emulated ports, microseconds, sorted.
    pub ports_us: Vec<u32>,
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
    let lease = Leases::default();
    let fence = RealFence::new(Arc::new(bays), options, &shared(setting.disks)?);
    let adapters = DaemonAdapters {
        clock: Arc::new(BootClock),
        fence: Arc::new(fence),
        pools: Arc::new(Nothing),
        services: Arc::new(Nothing),
        vips: Arc::new(Nothing),
        lease: Box::new(lease.clone()),
        watchdog: Box::new(Nothing),
        reset: Arc::new(|reason| eprintln!("it would reset this machine: {reason}")),
        reconfigure: None,
        paths: None,
    };
    let running = start(config, adapters).map_err(|error| error.to_string())?;
    let handle = running.handle();
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| peer.answer(key));
        let measured = watch(&handle, &shelf, &peer, &lease, setting);
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

fn watch(
    handle: &Handle,
    shelf: &Shelf,
    peer: &Standby,
    lease: &Leases,
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
        dark: Duration::ZERO,
        alone_as: String::new(),
        ports_us,
    };
    if !setting.alone.is_zero() {
        lease.count_anew();
        std::thread::sleep(setting.alone);
        measured.dark = lease.dark();
        measured.alone_as = backend.report().status.to_string();
        measured.held = shelf.held_by(Node::A);
    }
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

#[cfg(test)]
mod tests {
    use super::port::is_stuck;
    use super::*;

    /// No bound of time: the machine may be busy. What is taken and what isn't must be right.
    #[test]
    fn the_daemon_takes_what_answers_and_leaves_what_hangs() {
        let setting = Setting {
            disks: 120,
            latency: Duration::from_millis(1),
            stuck_percent: 10,
            steady: Duration::ZERO,
            alone: Duration::ZERO,
        };
        let stuck = (0..120).filter(|index| is_stuck(*index, 10)).count();
        assert_eq!(stuck, 12);
        let measured = measure(setting).expect("it serves");
        assert!(
            measured.held <= 120 - stuck && measured.held > 60,
            "{measured:?}"
        );
        assert!(measured.verdict <= measured.owned);
        assert!(measured.ports_us.iter().all(|took| *took >= 1000));
    }
}
