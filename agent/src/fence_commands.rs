//! What `failoverd fence …` does around a check and a clearing: names, confirmations, refusals, records.

use crate::adapters::disk_paths::{self, Inventory, Roots, SharedDisk, choose};
use crate::adapters::fence::{Options, RealFence};
use crate::adapters::identity::Identity;
use crate::adapters::ports::{Node, Opener};
use crate::assemble;
use crate::clearing::{Cleared, Clearing, Pace};
use crate::config::Config;
use crate::disks;
use crate::engine::Engine;
use crate::history::{HistoryFile, Past};
use crate::instance::Instance;
use crate::journal;
use crate::pair_key::PairKey;
use crate::preflight::{self, Findings, Trial};
use failover_api::{Evidence, HistoryRecord, Status};
use failover_core::adapters::Clock as _;
use failover_core::config::Timing;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The machine that a command works on.
#[derive(Clone)]
pub struct Ground {
    /// Its sysfs and procfs.
    pub roots: Roots,
    /// Its device nodes, for names and for the question whether they are in use.
    pub dev: PathBuf,
    /// Opens them.
    pub opener: Arc<dyn Opener>,
}

/// `failoverd fence check`.
#[derive(Clone, Debug)]
pub struct CheckOrder {
    /// Identity, or the name of a node.
    pub disk: String,
    /// Identity as typed to confirm.
    pub confirmed: Option<String>,
}

/// Checks one disk; without a configuration the timers are the defaults and nothing is kept. Answers with what was
/// found and, where that couldn't be kept, why.
///
/// # Errors
/// The disk is refused; nothing was sent to it but reads.
pub fn check(
    order: &CheckOrder,
    config: Option<&Config>,
    ground: &Ground,
) -> Result<(Findings, Option<String>), String> {
    let Named { disk, identities } = named(&order.disk, ground)?;
    let shown = |text: &str| Identity::parse(text).is_ok_and(|typed| identities.contains(&typed));
    if !order.confirmed.as_deref().is_some_and(shown) {
        return Err(format!(
            "{} is {}: its reservations would be changed and its unit reset; confirm with \
             --yes-destroy-reservations-on {}",
            order.disk, disk.identity, disk.identity
        ));
    }
    for path in &disk.paths {
        unused(&ground.dev, &path.node)?;
    }
    let entry = config.and_then(|config| config.disks.iter().find(|entry| shown(entry)));
    let configured = config.filter(|_| entry.is_some());
    let name = entry.and_then(|entry| Identity::parse(entry).ok());
    let name = name.unwrap_or_else(|| disk.identity.clone());
    // The daemon owns it, or would begin to in the middle of it.
    let _instance = configured.map(claim).transpose()?;
    let options = Options {
        accept_volatile: config.is_some_and(|config| config.accept_volatile),
    };
    let timing = config.map_or_else(Timing::default, |config| config.timing.clone());
    let findings = Trial::new(ground.opener.clone(), disk, options, timing).run()?;
    let kept = config.map(|config| {
        let folder = &config.paths.state_dir;
        std::fs::create_dir_all(folder)
            .and_then(|()| preflight::keep(folder, &name, &findings))
            .map_err(|error| format!("{}: the result isn't kept: {error}", folder.display()))
    });
    Ok((findings, kept.and_then(Result::err)))
}

/// A disk that an operator named.
struct Named {
    disk: SharedDisk,
    /// All that it shows: the configuration may have another one than the operator.
    identities: Vec<Identity>,
}

/// The disk of that identity or node, with its paths.
fn named(text: &str, ground: &Ground) -> Result<Named, String> {
    let inventory = disk_paths::scan(&ground.roots)
        .map_err(|error| format!("this machine's disks can't be listed: {error}"))?;
    let node = node_name(text, &ground.dev);
    let of_node = inventory.disks.iter().find(|disk| {
        let mut paths = disk.paths.iter();
        paths.any(|path| Some(&path.node.name) == node.as_ref())
    });
    let entry = match of_node {
        Some(disk) => disk.identities[0].to_string(),
        None => text.to_owned(),
    };
    let disk = chosen(&inventory, &entry)?;
    let mut found = inventory.disks.into_iter();
    match found.find(|found| found.identities.contains(&disk.identity)) {
        Some(found) => Ok(Named {
            disk,
            identities: found.identities,
        }),
        None => Err(format!(
            "disk {entry} isn't here; check its power and cables"
        )),
    }
}

fn chosen(inventory: &Inventory, entry: &str) -> Result<SharedDisk, String> {
    let refused = |refusals: Vec<disk_paths::Refusal>| {
        let words = refusals.iter().map(|refusal| {
            let (problem, remedy) = refusal.problem_and_remedy();
            format!("{problem}; {remedy}")
        });
        words.collect::<Vec<_>>().join("\n")
    };
    let mut choice = choose(inventory, &[entry.to_owned()]).map_err(refused)?;
    choice
        .disks
        .pop()
        .ok_or_else(|| format!("disk {entry} isn't here"))
}

/// `sdb` of `sdb`, of `/dev/sdb` and of a link under `/dev` that leads to it.
fn node_name(text: &str, dev: &Path) -> Option<String> {
    let path = match text.contains('/') {
        true => std::fs::canonicalize(text).unwrap_or_else(|_| PathBuf::from(text)),
        false => dev.join(text),
    };
    path.file_name()?.to_str().map(str::to_owned)
}

/// Refuses a disk that is mounted, or used by a volume: the kernel lets nobody else claim it then.
fn unused(dev: &Path, node: &Node) -> Result<(), String> {
    let path = dev.join(&node.name);
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC);
    match options.open(&path) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(format!(
            "{} is in use on this machine (mounted, or part of a volume); stop that first",
            path.display()
        )),
        // Whether it can be opened at all is told by the first command.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn claim(config: &Config) -> Result<Instance, String> {
    let folder = &config.paths.runtime_dir;
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("{}: can't be made: {error}", folder.display()))?;
    Instance::claim(folder).map_err(|failure| failure.0)
}

/// `failoverd fence clear`.
#[derive(Clone, Debug)]
pub struct ClearOrder {
    /// Identity or node of one disk; `None` for all shared disks.
    pub disk: Option<String>,
    /// As typed to confirm: the disk's identity, or the pair's tag for all.
    pub confirmed: Option<String>,
}

/// How the keys are watched with a configuration's timers: as long as the slowest owner may rest.
pub fn pace(timing: &Timing) -> Pace {
    let restart = timing.restart_ms + timing.lease_slack_ms;
    Pace {
        watch: Duration::from_millis(timing.slow_watch_ms.max(restart)),
        every: Duration::from_millis(500),
    }
}

/// Clears disks and writes that into the history.
///
/// # Errors
/// It is refused, or failed; what was cleared before a failure is in the history all the same.
pub fn clear(
    order: &ClearOrder,
    config: &Config,
    ground: &Ground,
    pace: Pace,
) -> Result<Vec<Cleared>, String> {
    let (choice, _) = disks::find(config, &ground.roots).map_err(|errors| errors.to_string())?;
    let mut watched = choice.disks;
    let pair = config.pair_key.as_ref().map_or(0, PairKey::tag);
    let (targets, needed) = match &order.disk {
        Some(text) => {
            let Named { disk, identities } = named(text, ground)?;
            let known = watched
                .iter()
                .find(|known| identities.contains(&known.identity));
            let target = known.cloned().unwrap_or_else(|| disk.clone());
            if known.is_none() {
                watched.push(disk);
            }
            (vec![target.id], target.identity.to_string())
        }
        None => (
            watched.iter().map(|disk| disk.id).collect(),
            format!("{pair:04x}"),
        ),
    };
    if targets.is_empty() {
        return Err(format!(
            "{}: no shared disk is configured",
            config.file.display()
        ));
    }
    let typed = order.confirmed.as_deref().map(|text| {
        Identity::parse(text).map_or_else(|_| text.to_owned(), |identity| identity.to_string())
    });
    if typed.as_deref() != Some(needed.as_str()) {
        return Err(format!(
            "{}: after this nothing keeps either controller from writing; power the other controller off, or stop \
             failoverd and export the pools there, then confirm with --yes-clear-reservations-on {needed}",
            what(&order.disk, targets.len())
        ));
    }
    let _instance = claim(config)?;
    owns_nothing(config)?;
    let stored = journal::smallest_arbiter_list(&config.paths.state_dir).map_err(|f| f.0)?;
    let configured = usize::from(config.arbiters);
    let configured = if config.disks.len() < configured {
        1
    } else {
        configured
    };
    let arbiters = stored.unwrap_or(configured).min(configured);
    let options = Options {
        accept_volatile: config.accept_volatile,
    };
    let fence = RealFence::new(ground.opener.clone(), options, &watched);
    let fence = Engine::new(Arc::new(fence)).map_err(|error| format!("no thread: {error}"))?;
    let clearing = Clearing {
        fence: &fence,
        watched: &watched,
        targets: &targets,
        arbiters,
        pair,
        pace,
    };
    let mut cleared = Vec::new();
    let done = clearing.run(&mut cleared);
    let asked = what(&order.disk, targets.len());
    record(config, &asked, &cleared, done.as_ref().err());
    done.map(|()| cleared)
}

fn what(disk: &Option<String>, count: usize) -> String {
    match disk {
        Some(disk) => format!("clearing {disk}"),
        None => format!("clearing all {count} shared disks"),
    }
}

/// This controller isn't an owner whose daemon died.
fn owns_nothing(config: &Config) -> Result<(), String> {
    let owned =
        journal::owned_in_this_boot(&config.paths.runtime_dir).map_err(|failure| failure.0)?;
    if owned {
        return Err(
            "this controller owned the disks when its daemon ended, in this boot: start failoverd, which goes on, or \
             reset this machine"
                .to_owned(),
        );
    }
    let imported = assemble::imported_pools(config).map_err(|failure| failure.0)?;
    if !imported.is_empty() {
        return Err(format!(
            "pools are imported on this controller ({}): export them first",
            imported.join(", ")
        ));
    }
    Ok(())
}

/// Into the history, as every change of who owns is; and into the log.
fn record(config: &Config, asked: &str, cleared: &[Cleared], failure: Option<&String>) {
    let why = match failure {
        None => format!("an operator's `fence clear`: {asked}"),
        Some(why) => format!("an operator's `fence clear` failed: {asked}: {why}"),
    };
    tracing::warn!("{why}");
    let evidence = cleared.iter().map(|disk| Evidence {
        source: format!("disk {}", disk.disk),
        saw: format!("removed {}", disk.removed.join(", ")),
        age_ms: Some(0),
    });
    let record = HistoryRecord {
        seq: 0,
        at_micros: crate::adapters::clock::BootClock.now().micros(),
        wall_ms: None,
        node: config.node,
        from: "stopped".to_owned(),
        to: "stopped".to_owned(),
        status: Status::Backup,
        why,
        evidence: evidence.collect(),
        epoch: 0,
        phases: Vec::new(),
    };
    HistoryFile::open(&config.paths.state_dir, Past::default()).keep(record);
}
