//! `midctl`: the command line of failoverd.
//!
//! ```text
//!   main.rs      arguments, exit codes
//!   commands.rs  one function per command
//!   client.rs    the connection: every wait has a deadline
//!   status.rs, fence.rs, history.rs, incident.rs, methods.rs   what people read       render.rs  their common parts
//! ```

mod client;
mod commands;
mod fence;
mod history;
mod incident;
mod methods;
mod render;
mod status;
mod terminal;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the daemon answered with an error
  2  wrong usage: nothing was asked
  3  no connection to the daemon, or it was lost
  4  no answer in time
  5  the daemon answered something that can't be understood

Results go to standard output, everything else to standard error.";

/// Control failoverd: the failover of a pair of storage controllers.
#[derive(Parser)]
#[command(name = "midctl", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Midctl {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Clone)]
struct Global {
    /// Socket of the daemon.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/failoverd/failoverd.sock"
    )]
    socket: PathBuf,
    /// Wait at most this long for an answer, connecting included.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    timeout: Duration,
    /// Print JSON: results as one line, strings in quotes; errors as one line on standard error.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show the pair on one screen.
    Status,
    /// Show the newest transitions of this controller: when, what, why, and how long each phase took.
    History {
        /// How many.
        #[arg(short, long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        number: u32,
        /// Show the evidence of each transition too.
        #[arg(short, long)]
        evidence: bool,
    },
    /// Show the reservations on the shared disks.
    #[command(subcommand)]
    Fence(Fence),
    /// List what is kept of past decisions, or bring one to where it can be replayed.
    #[command(subcommand)]
    Incident(Incident),
    /// Call a method and print its result: a string as it is, anything else as one line of JSON.
    Call {
        /// Name of the method; `midctl methods` lists them.
        method: String,
        /// Arguments: JSON where it is JSON, else a string; `-` reads one JSON value from standard input.
        #[arg(value_name = "JSON", allow_negative_numbers = true)]
        arguments: Vec<String>,
    },
    /// Ask whether the daemon answers.
    Ping,
    /// Print events as they come, each as one line of JSON.
    Subscribe {
        /// Name of the event, for example `failover.status`; `*` is all of them.
        event: String,
        /// End after so many events.
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        number: Option<u64>,
        /// End after so many seconds: as a success, but with exit code 4 if `--number` wasn't reached.
        #[arg(short = 't', long = "for", value_name = "SECONDS", value_parser = seconds)]
        during: Option<Duration>,
    },
    /// List the methods, or explain one.
    Methods {
        /// Which one to explain.
        method: Option<String>,
    },
}

#[derive(Subcommand)]
enum Incident {
    /// List the incidents that the daemon keeps, oldest first.
    List,
    /// Write an incident into a file for `failoverd replay`, which makes its decisions again on any machine.
    ///
    /// It holds everything that entered the daemon's decisions, and no secrets.
    Export {
        /// Which; without it, what is recorded up to now.
        name: Option<String>,
        /// The file, which must not be there yet; by default the incident's name with `.log`, or `incident.log`.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Fence {
    /// Show who holds and who is registered on each shared disk, as the daemon saw it last.
    Status,
    /// Check a disk before it is used: runs `failoverd fence check`, as root, on the controller itself.
    Check {
        /// As `failoverd fence check` takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Remove reservations in an emergency: runs `failoverd fence clear`, as root, with the daemon stopped.
    Clear {
        /// As `failoverd fence clear` takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// A positive number of seconds, at most a year.
fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR_S: f64 = 365.0 * 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= YEAR_S => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("must be a number of seconds greater than 0".to_owned()),
    }
}

fn main() -> ExitCode {
    let Midctl { global, command } = Midctl::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("midctl: cannot start: {error}");
            return ExitCode::from(3);
        }
    };
    let done = runtime.block_on(async {
        match &command {
            Command::Status => commands::status(&global).await,
            Command::History { number, evidence } => {
                commands::history(&global, *number, *evidence).await
            }
            Command::Fence(Fence::Status) => commands::fence_status(&global).await,
            Command::Fence(Fence::Check { arguments }) => {
                Err(fence::done_by_failoverd("check", arguments, global.json))
            }
            Command::Fence(Fence::Clear { arguments }) => {
                Err(fence::done_by_failoverd("clear", arguments, global.json))
            }
            Command::Incident(Incident::List) => commands::incidents(&global).await,
            Command::Incident(Incident::Export { name, file }) => {
                commands::export_incident(&global, name.as_deref(), file.as_deref()).await
            }
            Command::Call { method, arguments } => commands::call(&global, method, arguments).await,
            Command::Ping => commands::ping(&global).await,
            Command::Subscribe {
                event,
                number,
                during,
            } => commands::subscribe(&global, event, *number, *during).await,
            Command::Methods { method } => commands::methods(&global, method.as_deref()),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(global.json);
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Midctl::command().debug_assert();
    }

    #[test]
    fn seconds_are_positive() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "x", "NaN", "inf", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
