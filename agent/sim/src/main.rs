//! The command line of the simulator and the demo.

use clap::{Parser, Subcommand};
use failover_sim::controls::CONTROLS;
use failover_sim::demo::{self, DemoCommand};
use failover_sim::explore::bounds::Size;
use failover_sim::explore::report;
use failover_sim::explore::way::{Outcome, Way};
use failover_sim::matrix;
use failover_sim::mutants::{self, End};
use failover_sim::real_scale;
use failover_sim::runner::{self, Seeds, run_seed};
use failover_sim::scale::{self, Setting};
use failover_sim::script;
use failover_sim::shrink::Kept;
use failover_sim::story::Story;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Pretend hardware for failoverd: the demo, seeded simulation, mutants, scenarios.
#[derive(Parser)]
#[command(name = "failover-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds, each a pair of real controllers on pretend hardware with faults of its own.
    Seeds {
        /// How many.
        #[arg(default_value_t = 1000)]
        count: u64,
        /// The first one.
        #[arg(long, visible_alias = "from", default_value_t = 1)]
        start: u64,
        /// Threads; one per core by default.
        #[arg(long)]
        jobs: Option<usize>,
        /// End after this many seconds.
        #[arg(long)]
        seconds: Option<u64>,
        /// Go on until so many seeds broke a rule.
        #[arg(long, default_value_t = 1)]
        violations: usize,
        /// Only the summary.
        #[arg(long)]
        brief: bool,
        /// Only this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Tell its story.
        #[arg(long, requires = "seed")]
        trace: bool,
        /// With some of its faults alone, by their numbers; 3:250 cuts number 3 to 250 ms.
        #[arg(long, requires = "seed", value_delimiter = ',', value_name = "NUMBERS")]
        only_faults: Option<Vec<Kept>>,
        /// Keep in this file how far it has come, and go on from there.
        #[arg(long, value_name = "FILE")]
        resume: Option<PathBuf>,
        /// Leave the whole report in this file.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Build each mutant of the core and run seeds until a rule catches it.
    Mutants {
        /// Seeds after which a mutant counts as alive.
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
        /// Only this one; may be given several times.
        #[arg(long)]
        only: Vec<String>,
        /// Threads; one per core by default.
        #[arg(long)]
        jobs: Option<usize>,
        /// The checkout; by default the one that this program was built from.
        #[arg(long)]
        root: Option<PathBuf>,
    },
    /// Explore every order of events, faults and commands within bounds.
    Explore {
        /// How much: seconds, minutes or hours.
        #[arg(long, value_enum, default_value_t = Bounds::Small)]
        bounds: Bounds,
        /// Threads; one per core by default.
        #[arg(long)]
        jobs: Option<usize>,
        /// States of one exploration at most; one that has more is cut off, and fails. A million takes about 80 MB.
        #[arg(long, default_value_t = 100_000_000)]
        states_max: u64,
        /// Instead: go the way in this file again, as an exploration printed it, and tell its story.
        #[arg(long, value_name = "FILE")]
        replay: Option<PathBuf>,
    },
    /// Start the pair from every combination of what machines, disks, addresses and links may be found as.
    Matrix {
        /// Threads; one per core by default.
        #[arg(long)]
        jobs: Option<usize>,
        /// Tell the story of this case alone, by its number.
        #[arg(long)]
        case: Option<usize>,
    },
    /// Set the pair up wrongly on purpose: the rules have to notice.
    Controls,
    /// Tell the story of one seed.
    Trace {
        /// Which.
        seed: u64,
    },
    /// Measure how the core copes with many disks in simulated time, or the whole daemon in real time.
    Scale {
        /// Numbers of disks.
        #[arg(long, value_delimiter = ',', default_value = "1,8,64,256,1255")]
        disks: Vec<usize>,
        /// What a command takes, milliseconds.
        #[arg(long, default_value_t = 2)]
        latency_ms: u64,
        /// Commands in flight, in simulated time.
        #[arg(long, default_value_t = 64)]
        in_flight: usize,
        /// The daemon with its own threads, before emulated disks that speak SCSI.
        #[arg(long)]
        real: bool,
        /// Takeovers of each line, with --real.
        #[arg(long, default_value_t = 20)]
        runs: usize,
        /// Seconds for which the verifying is watched, with --real.
        #[arg(long, default_value_t = 5)]
        steady_s: u64,
        /// Seconds for which it serves without a peer, every disk rolled, with --real.
        #[arg(long, default_value_t = 0)]
        alone_s: u64,
    },
    #[command(flatten)]
    Demo(DemoCommand),
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Bounds {
    Small,
    Medium,
    Large,
}

impl From<Bounds> for Size {
    fn from(bounds: Bounds) -> Size {
        match bounds {
            Bounds::Small => Size::Small,
            Bounds::Medium => Size::Medium,
            Bounds::Large => Size::Large,
        }
    }
}

fn main() -> ExitCode {
    match Arguments::parse_from(demo::without_separator(std::env::args_os())).command {
        Command::Seeds {
            seed: Some(seed),
            trace,
            only_faults,
            ..
        } => one_seed(seed, trace, only_faults.as_deref()),
        Command::Seeds {
            count,
            start,
            jobs,
            seconds,
            violations,
            brief,
            seed: None,
            resume,
            report,
            trace: _,
            only_faults: _,
        } => {
            let seeds = Seeds {
                start,
                count,
                jobs: jobs.unwrap_or_else(cores),
                stop_after: violations,
                limit: seconds.map(Duration::from_secs),
                resume,
            };
            many_seeds(&seeds, brief, report.as_deref())
        }
        Command::Mutants {
            seeds,
            only,
            jobs,
            root,
        } => {
            let root = root.unwrap_or_else(mutants::workspace);
            run_mutants(&root, seeds, &only, jobs.unwrap_or_else(cores))
        }
        Command::Scale {
            disks,
            latency_ms,
            real: true,
            runs,
            steady_s,
            alone_s,
            ..
        } => {
            let latency = Duration::from_millis(latency_ms);
            let steady = Duration::from_secs(steady_s);
            let alone = Duration::from_secs(alone_s);
            match real_scale::curve(&disks, latency, runs.max(1), steady, alone) {
                Ok(table) => print!("{table}"),
                Err(why) => {
                    eprintln!("{why}");
                    return ExitCode::FAILURE;
                }
            }
            ExitCode::SUCCESS
        }
        Command::Scale {
            disks,
            latency_ms,
            in_flight,
            ..
        } => many_disks(&disks, latency_ms, in_flight),
        Command::Explore {
            replay: Some(file), ..
        } => go_again(&file),
        Command::Explore {
            bounds,
            jobs,
            states_max,
            replay: None,
        } => {
            let jobs = jobs.unwrap_or_else(cores);
            let end = report::run(bounds.into(), jobs, states_max, &mut std::io::stdout());
            code(end.unwrap_or(false))
        }
        Command::Matrix {
            case: Some(number), ..
        } => one_case(number),
        Command::Matrix { jobs, case: None } => start_matrix(jobs.unwrap_or_else(cores)),
        Command::Controls => run_controls(),
        Command::Trace { seed } => one_seed(seed, true, None),
        Command::Demo(command) => demo::execute(command),
    }
}

fn one_case(number: usize) -> ExitCode {
    let cases = matrix::cases();
    let Some(case) = cases.get(number) else {
        eprintln!("there are {} cases, numbered from 0", cases.len());
        return ExitCode::FAILURE;
    };
    println!("case {number}: {case}");
    let (_, end) = matrix::run_case(*case, Story::Print);
    println!("{end:?}");
    code(!matches!(end, matrix::End::Wrong(_)))
}

fn start_matrix(jobs: usize) -> ExitCode {
    let cases = matrix::cases();
    let number = |case: &matrix::Case| cases.iter().position(|one| one == case).unwrap_or(0);
    let began = std::time::Instant::now();
    let outcome = matrix::run(jobs);
    let seconds = began.elapsed().as_secs_f64();
    println!("{} cases in {seconds:.1} s", cases.len());
    for (bound, count) in &outcome.served {
        println!(
            "{count:>6}  one controller serves within {:.1} s",
            *bound as f64 / 1e6
        );
    }
    for (words, (count, case, at)) in &outcome.late {
        let at = *at as f64 / 1e6;
        println!("{count:>6}  one serves after more than 5 s, at most {at:.1} s; at 5 s: {words}");
        println!("        such as case {}: {case}", number(case));
    }
    for (words, (count, case)) in &outcome.stopped {
        println!("{count:>6}  nobody serves: {words}");
        println!("        such as case {}: {case}", number(case));
    }
    for (case, why) in outcome.wrong.iter().take(20) {
        println!("WRONG   case {}: {case}: {why}", number(case));
    }
    println!("{} wrong", outcome.wrong.len());
    code(outcome.wrong.is_empty())
}

/// Goes a way that an exploration printed; fails where a rule is broken on it.
fn go_again(file: &Path) -> ExitCode {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    let (way, _) = script::divide(&text);
    match Way::parse(way) {
        Ok(way) => {
            let config = way.bounds().config();
            print!("{}", way.story(&config));
            code(way.go(&config, |_, _| {}) == Outcome::Fine)
        }
        Err(why) => {
            eprintln!("{}: {why}", file.display());
            ExitCode::FAILURE
        }
    }
}

/// Fails unless each control did its harm and was noticed.
fn run_controls() -> ExitCode {
    let mut shown = 0;
    for control in CONTROLS {
        match control.run() {
            Err(why) => println!("{}: {why}", control.name),
            Ok(outcome) if control.is_shown(&outcome) => {
                shown += 1;
                println!("{}: {}", control.name, control.harm);
                if let Some((violation, seed)) = &outcome.wrongly {
                    let seed = seed.map_or(String::new(), |seed| format!("seed {seed}: "));
                    println!(
                        "  VIOLATION, as it has to be: {seed}{}: {}",
                        violation.rule, violation.text
                    );
                }
                println!("  rightly set up, the same run breaks nothing");
            }
            Ok(outcome) => println!("{}: NOT NOTICED: {outcome:?}", control.name),
        }
    }
    println!(
        "{shown} of {} controls did their harm and were noticed",
        CONTROLS.len()
    );
    code(shown == CONTROLS.len())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

fn run_mutants(root: &Path, seeds: u64, only: &[String], jobs: usize) -> ExitCode {
    let lab = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("mutants");
    let names = match mutants::names(root) {
        Ok(names) => names,
        Err(error) => {
            eprintln!(
                "the mutants under {} can't be read: {error}; run this from a checkout",
                root.display()
            );
            return ExitCode::FAILURE;
        }
    };
    let chosen = names
        .iter()
        .filter(|name| only.is_empty() || only.contains(name));
    let (mut tried, mut caught) = (0, 0);
    println!("{:<26} {:<26} {:>7}  in", "mutant", "caught by", "s");
    for name in chosen {
        tried += 1;
        let (end, took) = mutants::try_mutant(root, &lab, name, seeds, jobs);
        match end {
            End::Caught { rule, by } => {
                caught += 1;
                println!("{name:<26} {rule:<26} {:>7.1}  {by}", took.as_secs_f64());
            }
            End::Alive => println!("{name:<26} ALIVE after {seeds} seeds"),
            End::Failed(why) => println!("{name:<26} NOT TRIED: {why}"),
        }
    }
    println!("{caught} of {tried} caught");
    code(caught == tried && tried > 0)
}

fn many_seeds(seeds: &Seeds, brief: bool, report: Option<&Path>) -> ExitCode {
    let run = match runner::run(seeds) {
        Ok(run) => run,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", run.report(!brief));
    let title = format!("{} seeds from {}", seeds.count, seeds.start);
    if let Some(path) = report
        && let Err(error) = std::fs::write(path, run.page(&title))
    {
        eprintln!("{}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    code(run.is_good())
}

fn one_seed(seed: u64, trace: bool, kept: Option<&[Kept]>) -> ExitCode {
    let story = if trace { Story::Print } else { Story::Off };
    let (_, violation) = run_seed(seed, story, kept);
    match &violation {
        Some(violation) => println!(
            "VIOLATION of {} in seed {seed} at {:.3} s: {}",
            violation.rule,
            violation.at as f64 / 1e6,
            violation.text
        ),
        None => println!("seed {seed}: no violation"),
    }
    code(violation.is_none())
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn many_disks(disks: &[usize], latency_ms: u64, in_flight: usize) -> ExitCode {
    println!(
        "{latency_ms} ms a command, {in_flight} commands in flight; times are simulated but for the core's own"
    );
    println!(
        "{:>6} {:>7} {:>12} {:>10} {:>10} {:>14} {:>15} {:>11}",
        "disks",
        "stuck",
        "verdict ms",
        "owned ms",
        "core ms",
        "longest turn",
        "steady, % core",
        "commands/s"
    );
    for disks in disks {
        for stuck_percent in [0, 10] {
            let setting = Setting {
                disks: *disks,
                latency: Duration::from_millis(latency_ms),
                stuck_percent,
                in_flight,
            };
            match scale::measure(setting) {
                Ok(m) => println!(
                    "{disks:>6} {:>6}% {:>12.1} {:>10.1} {:>10.1} {:>11.2} ms {:>15.2} {:>11}",
                    stuck_percent,
                    m.verdict.as_secs_f64() * 1000.0,
                    m.owned.as_secs_f64() * 1000.0,
                    m.core.as_secs_f64() * 1000.0,
                    m.longest_turn.as_secs_f64() * 1000.0,
                    m.steady_percent,
                    m.steady_commands
                ),
                Err(why) => {
                    eprintln!("{why}");
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}
