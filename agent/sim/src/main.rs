//! The simulator and the demo.

use clap::Parser;
use failover_sim::demo::{self, DemoCommand};
use std::process::ExitCode;

/// Pretend hardware for failoverd: the demo and the simulator
#[derive(Parser, Debug)]
struct Arguments {
    #[command(subcommand)]
    command: DemoCommand,
}

fn main() -> ExitCode {
    demo::execute(Arguments::parse().command)
}
