//! The consent gate as a program: run on each real machine before a test touches it.

use clap::{Parser, Subcommand};
use hw_tests::gate::{CONSENT_FILE, Gate, Machine, Refusal};
use std::path::PathBuf;
use std::process::ExitCode;

/// Says whether tests may erase disks of this machine and reset it: only with a consent file that a person wrote here.
#[derive(Parser)]
#[command(name = "lab-gate", version)]
enum Cli {
    #[command(flatten)]
    Verb(Verb),
}

#[derive(Subcommand)]
enum Verb {
    /// Check the consent for this machine, for each disk, and for a reset if asked; exit code 0 only if all of it is
    /// given.
    Check {
        /// Identity that the caller takes this machine for.
        #[arg(long)]
        machine: String,
        /// A disk that would be erased; more than one by saying it again.
        #[arg(long = "disk", required = true)]
        disks: Vec<String>,
        /// The machine would be reset or lose its power.
        #[arg(long)]
        reset: bool,
        /// The consent file.
        #[arg(long, value_name = "FILE", default_value = CONSENT_FILE)]
        consent: PathBuf,
    },
    /// Print this machine's identity, as a consent has to name it.
    Identity,
}

fn main() -> ExitCode {
    let Cli::Verb(verb) = Cli::parse();
    let here = Machine::here();
    let result = match verb {
        Verb::Identity => here.identity.clone().ok_or(Refusal::Nameless),
        Verb::Check {
            machine,
            disks,
            reset,
            consent,
        } => check(&consent, here, &machine, &disks, reset),
    };
    match result {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(refusal) => {
            eprintln!("lab-gate: {refusal}");
            ExitCode::FAILURE
        }
    }
}

fn check(
    consent: &std::path::Path,
    here: Machine,
    machine: &str,
    disks: &[String],
    reset: bool,
) -> Result<String, Refusal> {
    let identity = here.identity.clone().ok_or(Refusal::Nameless)?;
    let gate = Gate::open(consent, here)?;
    if machine != identity {
        return Err(Refusal::OtherMachine {
            consented: machine.to_owned(),
            here: identity,
        });
    }
    for disk in disks {
        gate.may_erase(disk)?;
    }
    if reset {
        gate.may_reset()?;
    }
    Ok(format!("consent given: {} disks of {machine}", disks.len()))
}
