//! The curve as a table.

use super::port::is_stuck;
use super::{Measured, Setting, measure};
use std::fmt::Write as _;
use std::time::Duration;

/// p50, p99 and the longest, by nearest rank.
fn percentiles<T: Copy + Ord + Default>(mut values: Vec<T>) -> [T; 3] {
    values.sort_unstable();
    let at = |per_mille: usize| {
        let rank = (values.len() * per_mille).div_ceil(1000).max(1);
        values.get(rank - 1).copied().unwrap_or_default()
    };
    [at(500), at(990), at(1000)]
}

/// Runs the curve and answers with its table.
///
/// # Errors
/// A run failed.
pub fn curve(
    disks: &[usize],
    latency: Duration,
    runs: usize,
    steady: Duration,
    alone: Duration,
) -> Result<String, String> {
    let mut out = format!(
        "the daemon's own threads in real time, {} ms a command; verdict and owned in ms: p50 / p99 / longest of {runs} \
         runs; a port's command in ms the same\n\
         {:>6} {:>6} {:>22} {:>24} {:>6} {:>20} {:>8} {:>10} {:>8} {:>9}\n",
        latency.as_millis(),
        "disks",
        "stuck",
        "verdict",
        "owned",
        "held",
        "port",
        "% core",
        "commands/s",
        "threads",
        "resident",
    );
    for count in disks {
        for stuck_percent in [0, 10] {
            if stuck_percent > 0 && !(0..*count).any(|index| is_stuck(index, stuck_percent)) {
                continue;
            }
            let line = one_line(*count, latency, stuck_percent, runs, steady, alone)?;
            let _ = writeln!(out, "{line}");
        }
    }
    Ok(out)
}

fn one_line(
    disks: usize,
    latency: Duration,
    stuck_percent: usize,
    runs: usize,
    steady: Duration,
    alone: Duration,
) -> Result<String, String> {
    let mut all = Vec::new();
    for run in 0..runs {
        all.push(measure(Setting {
            disks,
            latency,
            stuck_percent,
            // Once is enough for these.
            steady: if run + 1 == runs {
                steady
            } else {
                Duration::ZERO
            },
            alone: if run + 1 == runs {
                alone
            } else {
                Duration::ZERO
            },
        })?);
    }
    let millis = |of: fn(&Measured) -> Duration| {
        let micros: Vec<u64> = all.iter().map(|one| of(one).as_micros() as u64).collect();
        percentiles(micros).map(|micros| format!("{:.1}", micros as f64 / 1000.0))
    };
    let ports: Vec<u32> = all.iter().flat_map(|one| one.ports_us.clone()).collect();
    let ports = percentiles(ports).map(|micros| format!("{:.2}", f64::from(micros) / 1000.0));
    let least_held = all.iter().map(|one| one.held).min().unwrap_or(0);
    let last = all.last().ok_or("no run")?;
    let kept = match alone.is_zero() {
        true => String::new(),
        false => format!(
            "   {} s alone: {}, {} held, {} ms dark",
            alone.as_secs(),
            last.alone_as,
            last.held,
            last.dark.as_millis()
        ),
    };
    Ok(format!(
        "{disks:>6} {stuck_percent:>5}% {:>22} {:>24} {least_held:>6} {:>20} {:>8.2} {:>10} {:>8} {:>5} MiB{kept}",
        millis(|one| one.verdict).join(" / "),
        millis(|one| one.owned).join(" / "),
        ports.join(" / "),
        last.steady_percent.unwrap_or(0.0),
        last.steady_commands,
        last.threads,
        last.resident_kib / 1024,
    ))
}
