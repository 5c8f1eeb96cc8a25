//! failoverd: the daemon.

use clap::{Args, Parser, Subcommand};
use failoverd::adapters::disk_paths::Roots;
use failoverd::assemble;
use failoverd::config::{Config, default_text, explain};
use failoverd::daemon::{self, Exit};
use failoverd::disks::SharedDisks;
use failoverd::pair_key::PairKey;
use std::error::Error;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const SIGNALS: &str = "\
Signals:
  SIGTERM  ends it; a MASTER hands over first if its peer can take over. If the file `restart` is in the runtime
           folder (it is used up), or systemd is restarting the unit, it announces a restart instead and leaves
           services, pools and addresses as they are.
  SIGHUP   reads the configuration again and applies what may change at run time; all or nothing.

Exit codes: 0 done, or ended in order; 1 refused or failed, the reason is on standard error; 2 wrong usage.";

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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (cli.command, cli.what) {
        (Some(Command::NewKey { file }), _) => new_key(&file),
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

fn check(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = Config::load(file)?;
    print!("{}", explain(&config));
    let found = assemble::look_at_machine(&config, &Roots::default())?;
    if !found.is_empty() {
        println!("on this machine:");
    }
    for sentence in found {
        println!("  - {sentence}");
    }
    Ok(())
}

fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    log_to_the_right_place();
    let config = Config::load(file)?;
    let disks = SharedDisks::open(&config)?;
    let (adapters, watchdog) = assemble::real(&config, disks.fence.clone())?;
    match daemon::run(config, adapters)? {
        Exit::Stopped => watchdog.disarm(),
        // The successor takes it over, armed.
        Exit::Restart => {}
    }
    Ok(())
}

/// The journal where the service manager connected us to it, else standard error.
fn log_to_the_right_place() {
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO);
    if under_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
    } else {
        let lines = tracing_subscriber::fmt::layer()
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
