//! The oracle's three parts as one program: `serve` on the MASTER, `send` as its client, `judge` after the run.

use clap::{Parser, Subcommand};
use hw_tests::oracle::client::{Client, Order, acknowledged};
use hw_tests::oracle::judge::judge;
use hw_tests::oracle::log::Log;
use hw_tests::oracle::recorder;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Exit code of a run that lost, doubled, tore or reordered something.
const FAILS: u8 = 3;
/// Notes and logs larger than this are not read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Records every acknowledged write of a pair, and judges whether it kept them.
#[derive(Parser)]
#[command(name = "lab-recorder", version)]
enum Cli {
    #[command(flatten)]
    Part(Part),
}

#[derive(Subcommand)]
enum Part {
    /// Take records, append them to a log, make them durable, acknowledge.
    Serve {
        /// The log; made if it isn't there.
        #[arg(long, value_name = "FILE")]
        log: PathBuf,
        /// Where to listen.
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7500")]
        listen: SocketAddr,
        /// Letter of this controller; stands in what it writes.
        #[arg(long)]
        node: char,
    },
    /// Send records until standard input ends, then wait for those that are open; print a summary as JSON.
    Send {
        /// Where the recorder answers.
        #[arg(long, value_name = "ADDRESS:PORT")]
        to: SocketAddr,
        /// Number of the run; never used before.
        #[arg(long)]
        run: u64,
        /// Acknowledgements and events go there.
        #[arg(long, value_name = "FILE")]
        notes: PathBuf,
        /// Records a second.
        #[arg(long, default_value_t = 50)]
        rate: u32,
        /// Open records at most.
        #[arg(long, default_value_t = 200)]
        open_max: usize,
        /// A connection without an answer for this long is given up.
        #[arg(long, default_value_t = 1000)]
        ack_ms: u64,
        /// A connection may take this long.
        #[arg(long, default_value_t = 200)]
        connect_ms: u64,
        /// Wait this long for open records at the end.
        #[arg(long, default_value_t = 20_000)]
        drain_ms: u64,
    },
    /// Judge a run by its log and its client's notes; print the verdict as JSON. Exit code 3: it fails.
    Judge {
        /// The run.
        #[arg(long)]
        run: u64,
        /// The log.
        #[arg(long, value_name = "FILE")]
        log: PathBuf,
        /// What the client noted.
        #[arg(long, value_name = "FILE")]
        notes: PathBuf,
    },
}

fn main() -> ExitCode {
    let Cli::Part(part) = Cli::parse();
    match run(part) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab-recorder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(part: Part) -> Result<ExitCode, Box<dyn Error>> {
    match part {
        Part::Serve { log, listen, node } => {
            let opened = Log::open(&log).map_err(|error| format!("{}: {error}", log.display()))?;
            eprintln!(
                "{} records found, {} bytes of a torn tail cut off",
                opened.found, opened.cut
            );
            let listener =
                TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
            recorder::tell_ready()?;
            let error = recorder::serve(opened, listener, writer(node));
            Err(format!("{}: {error}", log.display()).into())
        }
        Part::Send {
            to,
            run,
            notes,
            rate,
            open_max,
            ack_ms,
            connect_ms,
            drain_ms,
        } => {
            let file =
                File::create(&notes).map_err(|error| format!("{}: {error}", notes.display()))?;
            let order = Order {
                to,
                run,
                interval: Duration::from_secs(1) / rate.max(1),
                open_max,
                ack: Duration::from_millis(ack_ms),
                connect: Duration::from_millis(connect_ms),
                drain: Duration::from_millis(drain_ms),
            };
            let ended = until_input_ends();
            let summary =
                Client::new(order, BufWriter::new(file)).run(|| ended.load(Ordering::Relaxed))?;
            // Whoever started it may be gone.
            let _ = writeln!(io::stdout(), "{}", serde_json::to_string(&summary)?);
            Ok(ExitCode::SUCCESS)
        }
        Part::Judge { run, log, notes } => {
            let notes = String::from_utf8(read(&notes)?)?;
            let verdict = judge(run, &read(&log)?, &acknowledged(&notes));
            println!("{}", serde_json::to_string(&verdict)?);
            Ok(match verdict.pass {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(FAILS),
            })
        }
    }
}

/// The controller's letter and the milliseconds of this start: no two starts write the same.
fn writer(node: char) -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or_default();
    (u64::from(node as u8) << 56) | (millis & ((1 << 56) - 1))
}

/// Set once standard input has ended, so that the client ends with whoever started it.
fn until_input_ends() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let setter = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        setter.store(true, Ordering::Relaxed);
    });
    ended
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Box<dyn Error>> {
    let in_file = |error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(in_file)?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(in_file)?;
    Ok(bytes)
}
