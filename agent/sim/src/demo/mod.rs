//! `cargo demo`: two real daemons, a real network, an emulated shelf, a client that measures.
//!
//! ```text
//!   demo (driver, client, observer, judge: the clients' network)
//!    ├─ shelf            disks, reservations, log
//!    ├─ host A, host B   each in its controller's namespace: pool and service, the kernel's side
//!    └─ node A, node B   the daemons
//! ```
//!
//! All of it is this one program, started again under other names, in network namespaces that vanish with it.

pub mod adapters;
pub mod cables;
pub mod cases;
pub mod client;
pub mod control;
pub mod datagram;
pub mod host;
pub mod judge;
pub mod load;
pub mod namespaces;
pub mod narrator;
pub mod node;
pub mod observer;
pub mod pair;
pub mod place;
pub mod priority;
pub mod procs;
pub mod replays;
pub mod report;
pub mod rpc;
pub mod watch;

use crate::shelf::server::{Server, Shape};
use cases::{Case, CaseRun};
use clap::{Args, Subcommand};
use control::Control;
use failover_core::ids::Node;
use narrator::{Narrator, Voice};
use pair::{NODES, Pair, Stop};
use place::Place;
use report::Results;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Flags of the demo.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Run only this case; may be given several times.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<Case>,
    /// Run each case this often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Keep the pair up afterwards, until Ctrl-C; without --case nothing is done to it.
    #[arg(long)]
    keep: bool,
    /// Folder for sockets, configurations, logs and result.json [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object on standard output and nothing else there.
    #[arg(long)]
    json: bool,
    /// Disks in the shelf.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=256))]
    disks: u16,
    /// Time that a disk takes for one command, milliseconds.
    #[arg(long, default_value_t = 2.0, value_name = "MS")]
    disk_latency_ms: f64,
    /// Run busy loops, four per processor, beside the pair for this long; without --case nothing else.
    #[arg(long, value_name = "SECONDS")]
    load: Option<u64>,
    /// Set the pair up wrongly on purpose and run nothing else: succeeds only if its harm is found.
    #[arg(long, value_enum, conflicts_with_all = ["cases", "runs", "keep", "load"])]
    control: Option<Control>,
}

/// What this program does for the demo.
#[derive(Subcommand, Clone, Debug)]
pub enum DemoCommand {
    /// Show a pair failing over, measured by a client
    Demo(DemoArgs),
    /// Record runs of a real pair under random faults, and make their decisions again
    Replays(replays::ReplayArgs),
    /// One such run
    #[command(hide = true)]
    RecordedRun {
        /// Draws its faults.
        seed: u32,
        /// Its folder.
        dir: PathBuf,
    },
    /// The shelf's process
    #[command(hide = true)]
    Shelf {
        /// Its socket.
        socket: PathBuf,
        /// Number of disks.
        disks: usize,
        /// Latency of a command, microseconds.
        latency_micros: u64,
        /// Take every write, whoever is registered.
        #[arg(long)]
        refuses_nobody: bool,
    },
    /// A controller's host process
    #[command(hide = true)]
    Host {
        /// A or B.
        node: String,
        /// The demo's folder.
        dir: PathBuf,
        /// Number of disks.
        disks: usize,
    },
    /// A controller's daemon
    #[command(hide = true)]
    Node {
        /// A or B.
        node: String,
        /// The demo's folder.
        dir: PathBuf,
    },
    /// A busy loop
    #[command(hide = true)]
    Busy,
}

/// The arguments as they were meant: `cargo demo -- --runs 20` hands the alias's own `--` on.
pub fn without_separator(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let separated = arguments.get(1).is_some_and(|it| it == "demo")
        && arguments.get(2).is_some_and(|it| it == "--");
    if separated {
        arguments.remove(2);
    }
    arguments
}

/// Carries a command out.
pub fn execute(command: DemoCommand) -> ExitCode {
    let result = match command {
        DemoCommand::Demo(args) => return demo(&args),
        DemoCommand::Replays(args) => match replays::run(&args) {
            Ok(true) => return ExitCode::SUCCESS,
            Ok(false) => return ExitCode::FAILURE,
            Err(why) => Err(why),
        },
        DemoCommand::RecordedRun { seed, dir } => replays::record(seed, &dir),
        DemoCommand::Shelf {
            socket,
            disks,
            latency_micros,
            refuses_nobody,
        } => {
            let shape = Shape {
                disks,
                latency: Duration::from_micros(latency_micros),
                refuses_nobody,
            };
            shelf(&socket, shape)
        }
        DemoCommand::Host { node, dir, disks } => host(&node, &dir, disks),
        DemoCommand::Node { node, dir } => parse_node(&node).and_then(|node| {
            let surroundings = node::Surroundings::of(&Place::existing(&dir), node);
            node::serve(&surroundings).map(|_| ())
        }),
        DemoCommand::Busy => load::spin(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("failover-sim: {why}");
            ExitCode::FAILURE
        }
    }
}

fn shelf(socket: &Path, shape: Shape) -> Result<(), String> {
    priority::real_time(3);
    let served = Server::bind(socket, shape).and_then(Server::serve);
    served.map_err(|error| format!("the shelf: {error}"))
}

fn host(node: &str, dir: &Path, disks: usize) -> Result<(), String> {
    let node = parse_node(node)?;
    let place = Place::existing(dir);
    let bound = host::Host::bind(host::HostPlace {
        node,
        socket: place.host(node),
        shelf: place.shelf(),
        disks,
        vip: cables::VIP,
    });
    let served = bound.and_then(host::Host::serve);
    served.map_err(|error| format!("the host of {node}: {error}"))
}

fn parse_node(text: &str) -> Result<Node, String> {
    match text {
        "A" => Ok(Node::A),
        "B" => Ok(Node::B),
        other => Err(format!("{other:?} is no controller; use A or B")),
    }
}

fn demo(args: &DemoArgs) -> ExitCode {
    match show(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("failover-sim demo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Shows it all; answers whether all was well.
fn show(args: &DemoArgs) -> Result<bool, String> {
    let latency = args.disk_latency_ms;
    if !(0.0..=100.0).contains(&latency) {
        return Err(format!(
            "--disk-latency-ms {latency}: between 0 and 100 is possible"
        ));
    }
    let shape = Shape {
        disks: usize::from(args.disks),
        latency: Duration::from_secs_f64(latency / 1000.0),
        refuses_nobody: args.control == Some(Control::TargetRefusesNobody),
    };
    // Kept until the end of this function, then removed.
    let temporary = match args.dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?),
    };
    let dir = match (&args.dir, &temporary) {
        (Some(dir), _) => dir.as_path(),
        (None, Some(temporary)) => temporary.path(),
        (None, None) => return Err("no folder".to_owned()),
    };
    let place = Place::prepare(dir, shape.disks)?;
    if let Some(control) = args.control {
        let set_up = control.set_up(&place);
        set_up.map_err(|error| format!("changing the configuration: {error}"))?;
    }
    namespaces::enter_own_network()?;
    let voice = if args.json { Voice::Quiet } else { Voice::Full };
    let narrator = Narrator::new(voice);
    narrator.title(&format!(
        "Two controllers, {} disks of {latency} ms a command, a client that sends a record every millisecond.\n\
         Everything lies in {}.",
        shape.disks,
        place.dir().display()
    ));
    let mut results = Results {
        shape,
        cases: BTreeMap::new(),
        verdict: Default::default(),
        load: None,
        control: None,
        broken: None,
    };
    let stop = Pair::lay_out(place, shape, narrator)
        .and_then(|mut pair| run_all(&mut pair, args, &mut results));
    match stop {
        Ok(()) | Err(Stop::Signal) if args.keep => {}
        Ok(()) => {}
        Err(Stop::Signal) => results.broken = Some("ended by a signal".to_owned()),
        Err(Stop::Broken(why)) => results.broken = Some(why),
    }
    conclude(args, dir, &results)
}

fn conclude(args: &DemoArgs, dir: &Path, results: &Results) -> Result<bool, String> {
    let object = results.to_json();
    let succeeded = results.succeeded();
    let file = dir.join("result.json");
    std::fs::write(&file, format!("{object:#}\n"))
        .map_err(|error| format!("writing {}: {error}", file.display()))?;
    if args.json {
        println!("{object}");
    } else {
        println!("\n{}", results.to_table());
    }
    // With a control they are what it is there for, and told by its own words.
    for fault in results
        .faults()
        .iter()
        .filter(|_| args.control.is_none() || !succeeded)
    {
        eprintln!("FAULT: {fault}");
    }
    Ok(succeeded)
}

fn run_all(pair: &mut Pair, args: &DemoArgs, results: &mut Results) -> Result<(), Stop> {
    let cases: Vec<Case> = match args.cases.is_empty() {
        false => args.cases.clone(),
        true if args.keep || args.load.is_some() => Vec::new(),
        true => Case::SHOWN.to_vec(),
    };
    let begun = cases::run(pair, Case::Election)?;
    if let Some(control) = args.control {
        let shown = control::run(pair, control)?;
        results.verdict = shown.verdict.clone();
        results.control = Some(shown);
        return Ok(());
    }
    if cases.contains(&Case::Election) {
        note(results, Case::Election, begun);
    }
    for number in 0..args.runs {
        for case in &cases {
            // The pair is elected once in any case; only who asks for more elections gets them.
            let again = args.cases.contains(case) && number > 0;
            if *case != Case::Election || again {
                let run = cases::run(pair, *case)?;
                note(results, *case, run);
                results.verdict = pair.audit()?;
            }
        }
    }
    if let Some(seconds) = args.load {
        results.load = Some(load::run(pair, seconds)?);
    }
    results.verdict = pair.audit()?;
    if args.keep {
        keep(pair, args, results)?;
    }
    Ok(())
}

fn note(results: &mut Results, case: Case, run: CaseRun) {
    results.cases.entry(case).or_default().push(run);
}

/// Waits for Ctrl-C while the pair lives.
fn keep(pair: &mut Pair, args: &DemoArgs, results: &mut Results) -> Result<(), Stop> {
    if !args.json {
        println!("\nThe pair is up. Try, in another terminal:");
        for node in NODES {
            let socket = pair.place.rpc(node);
            println!("  midctl --socket {} status", socket.display());
        }
        let socket = pair.place.rpc(pair.master().unwrap_or(Node::A));
        println!("  midctl --socket {} history", socket.display());
        println!(
            "  midctl --socket {} call failover.become_passive",
            socket.display()
        );
        println!("Ctrl-C ends it.");
    }
    loop {
        let kept = pair.pass(10_000);
        results.verdict = pair.audit()?;
        kept?;
    }
}
