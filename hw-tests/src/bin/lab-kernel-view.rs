//! Looks at a virtual address as this machine's kernel shows it, until standard input ends; prints what it saw as JSON.

use clap::Parser;
use hw_tests::kernel_view;
use std::io::Read;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Asks the kernel again and again whether an address is there and whether its lease lives.
///
/// Ends when standard input does, and prints one JSON object: samples, longest_ms, absent, first_absent.
#[derive(Parser)]
#[command(name = "lab-kernel-view", version)]
struct Cli {
    /// The virtual address.
    address: Ipv4Addr,
    /// Time from one look to the next.
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Release);
    });
    let pause = Duration::from_millis(cli.pause_ms);
    let seen = kernel_view::watch(cli.address, pause, || ended.load(Ordering::Acquire));
    match seen.map(|seen| serde_json::to_string(&seen)) {
        Ok(Ok(line)) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("lab-kernel-view: the kernel can't be asked: {error}");
    ExitCode::FAILURE
}
