//! Runs of a real pair under random faults, recorded by the daemons, and their decisions made again.
//!
//! ```text
//!   replays (this process)
//!    ├─ recorded-run SEED   a pair in namespaces of its own: kills, freezes, cuts, power, handovers
//!    │     └─ a/run/record/*, b/run/record/*, state/incidents/*     what the daemons recorded
//!    └─ each log ─▶ Replay ─▶ the same decisions?   with an event left out: other ones?
//! ```

use super::cases::PATIENCE_MS;
use super::namespaces;
use super::narrator::{Narrator, Voice};
use super::pair::{NODES, Pair, Stop};
use super::place::Place;
use crate::rng::Rng;
use crate::shelf::server::Shape;
use clap::Args;
use failover_api::HistoryRecord;
use failover_core::action::Action;
use failover_core::event::Event;
use failover_core::ids::Node;
use failoverd::record::log::{self, Input, Segment};
use failoverd::record::replay::Replay;
use failoverd::record::report::{self, Summary};
use failoverd::record::what_if;
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Transitions that each controller's log has at least.
const TRANSITIONS_MIN: usize = 3;
/// Disks of the shelf.
const DISKS: usize = 6;

/// Flags of the replays.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// How many runs.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Number of the first.
    #[arg(long, default_value_t = 0)]
    from: u32,
    /// Runs beside each other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Keep the folder of each run here, also of those that were well.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What all runs gave.
#[derive(Default)]
struct Total {
    runs: u32,
    logs: usize,
    steps: usize,
    events: usize,
    transitions: usize,
    fewest: Option<usize>,
    altered: usize,
    unchanged: usize,
    incidents: usize,
    faults: Vec<String>,
}

/// Records all runs and makes their decisions again; whether all were the same.
pub fn run(args: &ReplayArgs) -> Result<bool, String> {
    let began = Instant::now();
    let temporary = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    let next = AtomicU32::new(args.from);
    let end = args.from.saturating_add(args.runs);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let one = one_run(seed, &dir.join(seed.to_string()), args.dir.is_some());
                    let mut total = total
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                    total.add(seed, one);
                }
            });
        }
    });
    let total = total
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(total.tell(began.elapsed()))
}

/// One log of one controller.
struct Made {
    node: Node,
    summary: Summary,
    /// With an event left out it decides otherwise.
    alters: bool,
    /// With no timer changed, the other way is the same.
    unchanged: bool,
    /// Those that it kept by itself: before its resets.
    incidents: Vec<(PathBuf, Summary)>,
}

fn one_run(seed: u32, dir: &Path, keep: bool) -> Result<Vec<Made>, String> {
    record_apart(seed, dir)?;
    let mut all = Vec::new();
    let place = Place::existing(dir);
    for node in NODES {
        let folder = place.node_dir(node);
        let key = fs::read(folder.join("pair.key")).map_err(|error| error.to_string())?;
        let segments = parsed(&place.runtime(node).join("record"), &key)?;
        all.push(Made {
            node,
            summary: report::summarise(&segments, None),
            alters: alters(&segments),
            unchanged: unchanged(&segments),
            incidents: incidents(&folder.join("state/incidents"))?,
        });
    }
    let incident_is_well = |(_, summary): &(PathBuf, Summary)| summary.is_same();
    let is_well = |made: &Made| {
        made.summary.is_same()
            && made.alters
            && made.unchanged
            && made.incidents.iter().all(incident_is_well)
    };
    if !keep && all.iter().all(is_well) {
        // The folder of all goes in the end.
        let _ = fs::remove_dir_all(dir);
    }
    Ok(all)
}

/// A run has a process of its own: it enters a network of its own, and what goes wrong in it ends it alone.
fn record_apart(seed: u32, dir: &Path) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(dir).map_err(told)?;
    let out = File::create(dir.join("run.log")).map_err(told)?;
    let program = std::env::current_exe().map_err(told)?;
    let status = Command::new(program)
        .arg("recorded-run")
        .arg(seed.to_string())
        .arg(dir)
        .stdout(out.try_clone().map_err(told)?)
        .stderr(out)
        .status()
        .map_err(told)?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(dir.join("run.log")).unwrap_or_default();
    let last = text.lines().last().unwrap_or("it said nothing");
    Err(format!("the run ended with {status}: {last}"))
}

/// What a controller recorded since its last boot.
fn parsed(folder: &Path, key: &[u8]) -> Result<Vec<Segment>, String> {
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    let mut bytes = Vec::new();
    for file in files(folder).map_err(told)? {
        let segment = fs::read(file).map_err(told)?;
        bytes.extend_from_slice(log::whole_frames(&segment));
    }
    if bytes.windows(key.len()).any(|part| part == key) {
        return Err(format!("{}: the pair's key is in it", folder.display()));
    }
    log::parse(&bytes).map_err(|why| format!("{}: {why}", folder.display()))
}

fn incidents(folder: &Path) -> Result<Vec<(PathBuf, Summary)>, String> {
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    let mut all = Vec::new();
    for file in files(folder).map_err(told)? {
        let bytes = fs::read(&file).map_err(told)?;
        let segments = log::parse(&bytes).map_err(|why| format!("{}: {why}", file.display()))?;
        all.push((file, report::summarise(&segments, None)));
    }
    Ok(all)
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Leaves out what came with the last transition that answered to anything but time.
fn alters(segments: &[Segment]) -> bool {
    let mut last = None;
    Replay::run(segments, None, |made| {
        let decides = |action: &Action| matches!(action, Action::History(_));
        if let Input::Events { events, .. } = &made.step.input
            && events.iter().any(|event| *event != Event::Wake)
            && made.actions.iter().any(decides)
        {
            last = Some(made.number);
        }
    });
    let mut other = segments.to_vec();
    let mut steps = other.iter_mut().flat_map(|segment| &mut segment.steps);
    // They are numbered from 1.
    let Some(step) = last.and_then(|number: usize| steps.nth(number - 1)) else {
        return false;
    };
    if let Input::Events { events, .. } = &mut step.input {
        events.clear();
    }
    !report::summarise(&other, None).is_same()
}

/// Without a change, `--what-if` leads to the same transitions.
fn unchanged(segments: &[Segment]) -> bool {
    let ways = what_if::ways(segments, &[], None);
    let words = |all: &[HistoryRecord]| -> Vec<(String, String, String)> {
        let one =
            |record: &HistoryRecord| (record.from.clone(), record.to.clone(), record.why.clone());
        all.iter().map(one).collect()
    };
    words(&ways.as_it_was) == words(&ways.with_it)
}

impl Total {
    fn add(&mut self, seed: u32, run: Result<Vec<Made>, String>) {
        self.runs += 1;
        let made = match run {
            Ok(made) => made,
            Err(why) => {
                self.faults.push(format!("run {seed}: {why}"));
                return;
            }
        };
        for Made {
            node,
            summary,
            alters,
            unchanged,
            incidents,
        } in made
        {
            self.logs += 1;
            self.steps += summary.steps;
            self.events += summary.events;
            self.transitions += summary.transitions;
            let fewest = self.fewest.get_or_insert(summary.transitions);
            *fewest = summary.transitions.min(*fewest);
            self.altered += usize::from(alters);
            if !summary.is_same() {
                let what = summary.differ.1.iter().chain(&summary.damaged).next();
                let what = what.map_or("it is empty", String::as_str);
                self.faults
                    .push(format!("run {seed}, controller {node}: {what}"));
            }
            self.incidents += incidents.len();
            for (file, _) in incidents.iter().filter(|(_, summary)| !summary.is_same()) {
                self.faults
                    .push(format!("run {seed}: {} differs", file.display()));
            }
            self.unchanged += usize::from(unchanged);
            if !alters {
                let text = "with an event left out it decides the same";
                self.faults
                    .push(format!("run {seed}, controller {node}: {text}"));
            }
            if summary.transitions < TRANSITIONS_MIN {
                let text = format!("{} transitions only", summary.transitions);
                self.faults
                    .push(format!("run {seed}, controller {node}: {text}"));
            }
        }
    }

    fn tell(&self, took: Duration) -> bool {
        println!(
            "{} runs of a real pair, {} logs in {:.0} s: {} steps with {} events made again, {} transitions, at least {} in each log",
            self.runs,
            self.logs,
            took.as_secs_f64(),
            self.steps,
            self.events,
            self.transitions,
            self.fewest.unwrap_or_default()
        );
        println!(
            "{} of {} logs decide otherwise once an event is left out; {} incidents were kept, and made again too",
            self.altered, self.logs, self.incidents
        );
        // Its answers are the nearest of their kind: an ending that hangs on one look may come out otherwise.
        println!(
            "{} of {} logs lead to the same transitions by --what-if without a change",
            self.unchanged, self.logs
        );
        for fault in self.faults.iter().take(20) {
            println!("FAULT: {fault}");
        }
        println!("{} faults", self.faults.len());
        let most_ways_are_the_same = self.unchanged * 2 >= self.logs;
        self.faults.is_empty() && self.runs > 0 && most_ways_are_the_same
    }
}

// ---- one run, in its own process -----------------------------------------------------------------------------------

/// Leads a pair through the faults of a seed, and back to a whole pair.
pub fn record(seed: u32, dir: &Path) -> Result<(), String> {
    let place = Place::prepare(dir, DISKS)?;
    namespaces::enter_own_network()?;
    let shape = Shape {
        disks: DISKS,
        latency: Duration::from_millis(1),
        refuses_nobody: false,
    };
    let narrator = Narrator::new(Voice::Quiet);
    let run = Pair::lay_out(place, shape, narrator).and_then(|mut pair| lead(&mut pair, seed));
    run.map_err(|stop| match stop {
        Stop::Signal => "ended by a signal".to_owned(),
        Stop::Broken(why) => why,
    })
}

fn lead(pair: &mut Pair, seed: u32) -> Result<(), Stop> {
    let mut rng = Rng::new(u64::from(seed));
    for node in NODES {
        pair.boot(node)?;
    }
    whole(pair)?;
    for _ in 0..rng.between(2, 4) {
        harm(pair, &mut rng)?;
        if rng.percent(50) {
            whole(pair)?;
        }
    }
    whole(pair)?;
    // Each of them decides at least once more.
    if let Some(master) = pair.master() {
        super::cases::handover(pair, master)?;
    }
    whole(pair)?;
    let verdict = pair.audit()?;
    match verdict.lost + verdict.double {
        0 => Ok(()),
        _ => Err(Stop::Broken(format!("records: {verdict:?}"))),
    }
}

fn whole(pair: &mut Pair) -> Result<(), Stop> {
    pair.wait(PATIENCE_MS, "a whole pair", |pair| pair.is_whole())
}

/// One random fault, and its end.
fn harm(pair: &mut Pair, rng: &mut Rng) -> Result<(), Stop> {
    let master = pair.master().unwrap_or(Node::A);
    let node = if rng.percent(70) {
        master
    } else {
        master.other()
    };
    let ms = rng.between(20, 1400);
    match rng.below(6) {
        0 | 1 => {
            pair.kill_daemon(node);
            pair.pass(ms)?;
            // It may have been reset meanwhile: then it boots by itself.
            if pair.is_on(node) && !pair.has_daemon(node) {
                pair.start_daemon(node)?;
            }
        }
        2 | 3 => {
            pair.signal_daemon(node, Signal::SIGSTOP);
            pair.pass(ms)?;
            pair.signal_daemon(node, Signal::SIGCONT);
        }
        4 => {
            let links = rng.pick(&[&[0][..], &[1], &[0, 1]]);
            for link in links {
                pair.set_link(*link, false)?;
            }
            pair.pass(ms)?;
            for link in links {
                pair.set_link(*link, true)?;
            }
        }
        _ => {
            pair.power_off(node)?;
            pair.pass(ms)?;
            pair.boot(node)?;
        }
    }
    pair.pass(rng.below(300))
}
