//! Busy loops beside the pair: four per processor, which neither the daemons' beats nor the lease may notice.

use super::pair::{Pair, Stop};
use super::priority;
use super::procs::Process;
use super::report::Load;
use crate::shelf::now_micros;
use std::hint::black_box;

const LOOPS_PER_PROCESSOR: usize = 4;
const SETTLE_MS: u64 = 500;

/// Turns for ever.
pub fn spin() -> Result<(), String> {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Runs the loops for `seconds` and measures meanwhile.
pub fn run(pair: &mut Pair, seconds: u64) -> Result<Load, Stop> {
    pair.narrator
        .title("Load: busy loops beside the pair; nothing may happen.");
    pair.wait(10_000, "a whole pair before the load", |pair| {
        pair.is_whole()
    })?;
    pair.pass(SETTLE_MS)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let loops = LOOPS_PER_PROCESSOR * processors;
    let log = pair.place.dir().join("busy.log");
    let lapses = pair.lapses();
    let began = now_micros();
    let mut busy = Vec::new();
    for _ in 0..loops {
        busy.push(Process::spawn(&["busy"], None, &log)?);
    }
    pair.pass(seconds * 1000)?;
    let end = now_micros();
    drop(busy);
    // What happened under load may be told a little later.
    pair.pass(SETTLE_MS)?;
    let book = pair.client.book();
    let load = Load {
        seconds,
        loops,
        real_time: priority::permitted(),
        gap: book.longest_gap(began, end).micros(),
        client_late: book.own_lateness(began),
        transitions: pair.history_since(began).len() as u64,
        lapses: pair.lapses() - lapses,
    };
    drop(book);
    pair.narrator.tell(&format!(
        "load: longest gap {} ms, {} transitions, {} lease lapses",
        load.gap / 1000,
        load.transitions,
        load.lapses
    ));
    Ok(load)
}
