//! Many seeds on all cores, and the report about them.

use crate::coverage::{Coverage, EVENTS};
use crate::faults::Fault;
use crate::invariants::Violation;
use crate::story::Story;
use crate::world::World;
use failover_core::states::{EDGES, State};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Result of a run over many seeds.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Counters over all seeds.
    pub coverage: Coverage,
    /// The broken rules found, with their seeds, sorted by seed.
    pub violations: Vec<(u64, Violation)>,
    /// How long it took.
    pub took: Duration,
}

/// Says which seed was running when a panic comes: with it the seed can be traced.
fn say_seed_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(seed) = SEED.get() {
                eprintln!("VIOLATION of no-panic in seed {seed}");
            }
            earlier(info);
        }));
    });
}

/// Runs one seed.
pub fn run_seed(seed: u64, story: Story) -> (Coverage, Option<Violation>) {
    say_seed_on_panic();
    SEED.set(Some(seed));
    let end = World::of_seed(seed, story).run_seed();
    SEED.set(None);
    end
}

/// Runs `count` seeds from `start` on `jobs` threads; ends early after `stop_after` violations or `limit`.
pub fn run_seeds(
    start: u64,
    count: u64,
    jobs: usize,
    stop_after: usize,
    limit: Option<Duration>,
) -> Run {
    let begun = Instant::now();
    let next = AtomicU64::new(start);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Run::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                let mut mine = Coverage::default();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= start + count || limit.is_some_and(|limit| begun.elapsed() > limit) {
                        break;
                    }
                    let (coverage, violation) = run_seed(seed, Story::Off);
                    mine.add(&coverage);
                    if let Some(violation) = violation {
                        let mut sum = sum.lock().unwrap_or_else(|p| p.into_inner());
                        sum.violations.push((seed, violation));
                        if sum.violations.len() >= stop_after {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                let mut sum = sum.lock().unwrap_or_else(|p| p.into_inner());
                sum.coverage.add(&mine);
            });
        }
    });
    let mut run = sum.into_inner().unwrap_or_else(|p| p.into_inner());
    run.violations.sort_by_key(|(seed, _)| *seed);
    run.took = begun.elapsed();
    run
}

impl Run {
    /// The report for people.
    pub fn report(&self, details: bool) -> String {
        let mut text = String::new();
        let coverage = &self.coverage;
        let seconds = self.took.as_secs_f64().max(0.001);
        let simulated = coverage.simulated_us as f64 / 1e6;
        let _ = writeln!(
            text,
            "{} seeds in {seconds:.1} s: {:.0} seeds/s; {simulated:.0} simulated s ({:.1} a seed)",
            coverage.seeds,
            coverage.seeds as f64 / seconds,
            simulated / coverage.seeds.max(1) as f64
        );
        let _ = writeln!(
            text,
            "{} events taken, {} disk commands, {} writes accepted, {} refused, {} aborted inside disks",
            coverage.events,
            coverage.commands,
            coverage.writes,
            coverage.refused_writes,
            coverage.aborted_writes
        );
        let (slowest, seed) = coverage.slowest;
        let _ = writeln!(
            text,
            "slowest return to a whole pair after the faults: {:.1} s (seed {seed})",
            slowest as f64 / 1e6
        );
        if details {
            self.report_faults(&mut text);
            self.report_matrix(&mut text);
            self.report_edges(&mut text);
        }
        let edges = coverage.edges.iter().filter(|count| **count > 0).count();
        let reached = |(index, state): &(usize, &State)| {
            coverage.matrix[*index].iter().any(|count| *count > 0)
                || EDGES
                    .iter()
                    .zip(&coverage.edges)
                    .any(|(edge, count)| edge.to == **state && *count > 0)
        };
        let states = State::ALL.iter().enumerate().filter(reached);
        let _ = writeln!(
            text,
            "reached: {} of {} states, {edges} of {} edges",
            states.count(),
            State::ALL.len(),
            EDGES.len()
        );
        self.report_violations(&mut text);
        text
    }

    fn report_faults(&self, text: &mut String) {
        let _ = writeln!(text, "\nfaults injected");
        for (name, count) in Fault::KINDS.iter().zip(self.coverage.faults) {
            let _ = writeln!(text, "  {count:>9}  {name}");
        }
    }

    fn report_matrix(&self, text: &mut String) {
        let _ = write!(text, "\n{:<18}", "events by state");
        for name in EVENTS {
            let _ = write!(text, "{name:>11}");
        }
        for (state, row) in State::ALL.iter().zip(&self.coverage.matrix) {
            let _ = write!(text, "\n{:<18}", state.name());
            for count in row {
                let _ = write!(text, "{count:>11}");
            }
        }
        text.push('\n');
    }

    fn report_edges(&self, text: &mut String) {
        let _ = writeln!(text, "\nedges");
        for (edge, count) in EDGES.iter().zip(&self.coverage.edges) {
            let mark = if *count == 0 { "NEVER" } else { "" };
            let _ = writeln!(
                text,
                "  {count:>9} {mark:<5} {} -> {}: {}",
                edge.from.name(),
                edge.to.name(),
                edge.why
            );
        }
        let _ = writeln!(text, "\nhalts: {:?}", self.coverage.halts);
        let _ = writeln!(text, "refusals by errno: {:?}", self.coverage.refusals);
        let _ = writeln!(text, "notices: {:?}\n", self.coverage.notices);
    }

    fn report_violations(&self, text: &mut String) {
        if self.violations.is_empty() {
            let _ = writeln!(text, "no violation");
        }
        for (seed, violation) in &self.violations {
            let _ = writeln!(
                text,
                "VIOLATION of {} in seed {seed} at {:.3} s: {}\n  its story: failover-sim trace {seed}",
                violation.rule,
                violation.at as f64 / 1e6,
                violation.text
            );
        }
    }
}
