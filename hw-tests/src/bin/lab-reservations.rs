//! The conformance list of reservations on the lab's disks: see `src/reservations.rs`.

use clap::Parser;
use hw_tests::reservations;
use std::io::{stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the conformance list of persistent reservations.
#[derive(Parser)]
#[command(name = "lab-reservations", version)]
enum Cli {
    /// On a controller: carries out commands on one path, a line each.
    Serve {
        /// The path's device node; its first block is overwritten and its reservations are changed.
        device: PathBuf,
    },
    /// Beside the lab: runs the list over lines and says what came of each case.
    Judge {
        /// Paths from each controller.
        #[arg(long, default_value_t = 1)]
        paths: u8,
    },
}

fn main() -> ExitCode {
    let ended = match Cli::parse() {
        Cli::Serve { device } => {
            reservations::serve(&device, stdin().lock(), stdout()).map(|()| true)
        }
        Cli::Judge { paths } => reservations::judged(paths, stdin().lock(), stdout()),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab-reservations: {error}");
            ExitCode::from(2)
        }
    }
}
