//! failoverd: the daemon.

use clap::{Args, Parser, Subcommand};
use failoverd::adapters::disk_paths::Roots;
use failoverd::adapters::fence::DeviceNodes;
use failoverd::assemble::{self, Kept, WatchdogEnd};
use failoverd::config::{Config, Paths, default_text, explain};
use failoverd::daemon::{self, Exit, RunError};
use failoverd::disks::SharedDisks;
use failoverd::fence_commands::{self, CheckOrder, ClearOrder, Ground};
use failoverd::pair_key::PairKey;
use failoverd::record::log;
use failoverd::record::report::{self, Telling};
use failoverd::record::what_if::{self, Change};
use failoverd::supervisor;
use std::error::Error;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The installed configuration.
const DEFAULT_CONFIG: &str = "/etc/failoverd/failoverd.toml";
/// Exit code of a check whose disk doesn't pass.
const DOES_NOT_PASS: u8 = 3;

/// Exit code of a replay whose decisions are others.
const DIFFERS: u8 = 3;

const SIGNALS: &str = "\
Signals:
  SIGTERM  ends it; a MASTER hands over first if its peer can take over. If the file `restart` is in the runtime
           folder (it is used up), or systemd is restarting the unit, it announces a restart instead and leaves
           services, pools and addresses as they are.
  SIGHUP   reads the configuration again and applies what may change at run time; all or nothing.

Exit codes: 0 done, or ended in order; 1 refused, failed, or halted without a reset, the reason is on standard error; 2 wrong
usage; 3 a checked disk doesn't pass, or a replay decides otherwise.";

/// High availability for a pair of storage controllers.
#[derive(Parser)]
#[command(name = "failoverd", version, after_help = SIGNALS, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    what: What,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
#[group(multiple = false)]
struct What {
    /// Run with this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Explain what a configuration says, and what it can't do.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Print a commented configuration.
    #[arg(long)]
    print_default_config: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new key for a pair: 32 random bytes that only their owner can read.
    NewKey {
        /// The file; never overwritten.
        file: PathBuf,
    },
    /// Check one disk, or clear reservations in an emergency.
    #[command(subcommand)]
    Fence(Fence),
    /// Make the decisions of a recorded incident again, on any machine, and compare them with what was decided.
    ///
    /// `midctl incident export` writes the file. Nothing of this machine is looked at or changed. Exit code 3: a decision
    /// differs, or the file is damaged.
    Replay {
        /// The file.
        file: PathBuf,
        /// Stop so many seconds after its beginning.
        #[arg(long, value_name = "SECONDS")]
        until: Option<f64>,
        /// Tell the evidence of each transition, what came with it and what was asked for.
        #[arg(long)]
        explain: bool,
        /// Tell what the same inputs would have led to with this timer instead; may be given several times.
        #[arg(long, value_name = "TIMER=VALUE", conflicts_with = "explain")]
        what_if: Vec<Change>,
    },
}

#[derive(Subcommand)]
enum Fence {
    /// Check whether one disk keeps reservations as the pair needs them, and how fast.
    ///
    /// Registers, reserves, preempts and resets on that disk alone, which nobody may use meanwhile: a disk with
    /// registrations, mounted, or owned by a running failoverd is refused. Writes its first block as it is, to see
    /// that this is refused. Exit code 3: the disk doesn't pass.
    Check {
        /// Identity of the disk, or one of its nodes.
        disk: String,
        /// Its identity once more.
        #[arg(long, value_name = "IDENTITY")]
        yes_destroy_reservations_on: Option<String>,
        /// For its timers, its list of disks and its state folder; the default one may be missing.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// In an emergency: remove every registration and reservation from disks, with failoverd stopped on both
    /// controllers.
    ///
    /// Refused while this controller owns or runs failoverd, and while any key on the shared disks moves: the other
    /// controller owns then. Watches them for about 13 seconds. After it nothing keeps either controller from
    /// writing until one of them takes over: power the other one off first. It stands in the history.
    Clear {
        /// Identity of a disk, or one of its nodes.
        #[arg(required_unless_present = "all")]
        disk: Option<String>,
        /// All shared disks.
        #[arg(long, conflicts_with = "disk")]
        all: bool,
        /// The disk's identity once more; for all of them, the pair's four digits, which --check shows.
        #[arg(long, value_name = "IDENTITY|PAIR")]
        yes_clear_reservations_on: Option<String>,
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (cli.command, cli.what) {
        (Some(Command::Fence(command)), _) => match fence(command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        (Some(Command::NewKey { file }), _) => new_key(&file),
        (
            Some(Command::Replay {
                file,
                until,
                explain,
                what_if,
            }),
            _,
        ) => match replay(&file, until, explain, &what_if) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(DIFFERS),
            Err(error) => Err(error),
        },
        (None, what) if what.print_default_config => {
            print!("{}", default_text());
            Ok(())
        }
        (
            None,
            What {
                check: Some(file), ..
            },
        ) => check(&file),
        (
            None,
            What {
                config: Some(file), ..
            },
        ) => run(&file),
        (None, _) => Err("nothing to do: --config FILE runs the daemon, --help tells more".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failoverd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn new_key(file: &Path) -> Result<(), Box<dyn Error>> {
    PairKey::create(file)?;
    println!(
        "{}: a new key; copy it to the other controller by a safe way and name it there and here as `pair_key`",
        file.display()
    );
    Ok(())
}

/// A log, which is no endless device.
fn read_log(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = log::LOG_MAX_BYTES;
    std::fs::File::open(file)?
        .take(most + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(std::io::Error::other(format!(
            "longer than any log: {most} bytes"
        ))),
        false => Ok(bytes),
    }
}

/// Whether every decision is the same.
fn replay(
    file: &Path,
    until: Option<f64>,
    explain: bool,
    changes: &[Change],
) -> Result<bool, Box<dyn Error>> {
    let named = |why: String| format!("{}: {why}", file.display());
    let until = until.map(Duration::try_from_secs_f64).transpose();
    let until = until.map_err(|error| format!("--until: {error}"))?;
    let bytes = read_log(file).map_err(|error| named(error.to_string()))?;
    let segments = log::parse(&bytes).map_err(named)?;
    let mut out = std::io::stdout().lock();
    if changes.is_empty() {
        let telling = Telling { until, explain };
        return Ok(match report::tell(&segments, telling, &mut out) {
            // A reader that went away (`| head`) is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => true,
            told => told?.is_same(),
        });
    }
    let Some((began, _)) = report::span(&segments) else {
        return Err(named("nothing is recorded in it".to_owned()).into());
    };
    let until = until.map(|until| began + until);
    for sentence in report::summarise(&segments, until).flaws() {
        eprintln!("failoverd: {sentence}");
    }
    let ways = what_if::ways(&segments, changes, until);
    match ways.tell(began, changes, &mut out) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(true),
    }
}

fn fence(command: Fence) -> Result<ExitCode, Box<dyn Error>> {
    let dev = Path::new("/dev");
    let ground = Ground {
        roots: Roots::default(),
        dev: dev.to_owned(),
        opener: Arc::new(DeviceNodes::new(dev)),
    };
    match command {
        Fence::Check {
            disk,
            yes_destroy_reservations_on: confirmed,
            config,
            json,
        } => {
            let config = match config {
                Some(file) => Some(Config::load(&file)?),
                None if Path::new(DEFAULT_CONFIG).exists() => {
                    Some(Config::load(Path::new(DEFAULT_CONFIG))?)
                }
                None => None,
            };
            let order = CheckOrder { disk, confirmed };
            let (findings, not_kept) = fence_commands::check(&order, config.as_ref(), &ground)?;
            match json {
                true => println!("{}", serde_json::to_string(&findings)?),
                false => print!("{}", findings.table()),
            }
            if let Some(why) = not_kept {
                eprintln!("failoverd: {why}");
            }
            Ok(match findings.passed() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(DOES_NOT_PASS),
            })
        }
        Fence::Clear {
            disk,
            all: _,
            yes_clear_reservations_on: confirmed,
            config,
        } => {
            log_to_the_right_place();
            let config = Config::load(&config)?;
            let order = ClearOrder { disk, confirmed };
            let pace = fence_commands::pace(&config.timing);
            let cleared = fence_commands::clear(&order, &config, &ground, pace)?;
            for disk in &cleared {
                println!("{}: clear; removed {}", disk.disk, disk.removed.join(", "));
            }
            if cleared.is_empty() {
                println!("nothing was registered or reserved");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = Config::load(file)?;
    print!("{}", explain(&config));
    let (found, hands_on) = assemble::look_at_machine(&config, &Roots::default(), Path::new("/"))?;
    if !found.is_empty() {
        println!("on this machine:");
    }
    for sentence in found {
        println!("  - {sentence}");
    }
    if !hands_on.is_empty() {
        let lines: Vec<String> = hands_on.iter().map(ToString::to_string).collect();
        return Err(lines.join("\n").into());
    }
    Ok(())
}

/// A panic ends this process: the recorder's thread has a moment to write what led to it.
fn linger_in_panics() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        std::thread::sleep(Duration::from_millis(100));
    }));
}

fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    linger_in_panics();
    log_to_the_right_place();
    // SAFETY: the first thing that this process does with descriptors, and nothing else takes over any.
    let kept = unsafe { supervisor::take_kept() };
    let mut attempt = Attempt {
        kept,
        watchdog: WatchdogEnd::default(),
        runtime_dir: Paths::default().runtime_dir,
    };
    let ended = attempt.run(file);
    if let Err(error) = &ended {
        // A control thread that ran petted it, and may have left anything here.
        let ran = matches!(error.downcast_ref(), Some(RunError::Died));
        if !ran {
            assemble::give_up(&attempt.runtime_dir, &mut attempt.kept, &attempt.watchdog);
        }
    }
    match ended? {
        Exit::Stopped => attempt.watchdog.disarm(),
        // The successor takes it over, armed.
        Exit::Restart => {}
        // Armed still: what is imported here ends with the machine.
        Exit::Halted => {
            return Err(
                "this controller halted and its reset did not come; the watchdog stays armed, where there is one; \
                 reset the machine, or power it off"
                    .into(),
            );
        }
    }
    Ok(())
}

/// What a start that fails leaves to be dealt with.
struct Attempt {
    kept: Kept,
    watchdog: WatchdogEnd,
    /// The default one until the configuration is read.
    runtime_dir: PathBuf,
}

impl Attempt {
    fn run(&mut self, file: &Path) -> Result<Exit, Box<dyn Error>> {
        let config = Config::load(file)?;
        self.runtime_dir.clone_from(&config.paths.runtime_dir);
        let disks = SharedDisks::open(&config)?;
        let (shared, roots) = (disks.fence.shared(), Roots::default());
        let hands_on = assemble::hands_on(&config, &shared, &roots, Path::new("/"));
        assemble::refuse_hands_on(&config, &hands_on)?;
        assemble::refuse_pools(&config)?;
        let (adapters, watchdog) = assemble::real(&config, disks.fence.clone(), &mut self.kept)?;
        self.watchdog = watchdog;
        Ok(daemon::run(config, adapters)?)
    }
}

/// The journal where the service manager connected us to it, else standard error.
fn log_to_the_right_place() {
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO);
    if under_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        // With a prefix no field would be one that journald knows: MESSAGE_ID leads to the catalogue's text.
        registry.with(journal.with_field_prefix(None)).init();
    } else {
        let lines = tracing_subscriber::fmt::layer()
            // For people: the catalogue's id isn't.
            .fmt_fields(format::debug_fn(|line, field, value| match field.name() {
                "message" => write!(line, "{value:?}"),
                "message_id" => Ok(()),
                name => write!(line, " {name}={value:?}"),
            }))
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
        registry.with(lines).init();
    }
}

/// JOURNAL_STREAM names the device and inode of the stream: it counts only if standard error still is that stream.
fn under_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = nix::sys::stat::fstat(std::io::stderr().as_fd());
    found.is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}
