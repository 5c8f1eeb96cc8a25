//! The report about a run over many seeds, for people.

use crate::coverage::pairs::never;
use crate::coverage::{DISK_RANGES, EVENTS, LINK_RANGES, POOL_RANGES, VIP_RANGES};
use crate::faults::Fault;
use crate::plan::Temper;
use crate::runner::Run;
use failover_core::states::{EDGES, State};
use std::fmt::Write;

/// A run over so many seeds must reach whatever can be reached.
const REACHES_ALL: u64 = 100_000;

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
            self.report_sizes(&mut text);
            self.report_faults(&mut text);
            self.report_matrix(&mut text);
            self.report_edges(&mut text);
        }
        self.report_reached(&mut text, details);
        self.report_violations(&mut text);
        text
    }

    /// No rule is broken, nothing was reached that can't be, and a long run reached all that can.
    pub fn is_good(&self) -> bool {
        let pairs = self.coverage.pairs();
        let all = pairs.missing.is_empty() && !self.coverage.edges.contains(&0);
        let long = self.coverage.seeds >= REACHES_ALL;
        self.violations.is_empty() && pairs.wrong.is_empty() && (all || !long)
    }

    /// The whole report as a page.
    pub fn page(&self, title: &str) -> String {
        let over = match self.over {
            true => "Every seed was run.",
            false => "The run was ended before every seed was run.",
        };
        format!("# {title}\n\n{over}\n\n```text\n{}```\n", self.report(true))
    }

    fn report_reached(&self, text: &mut String, details: bool) {
        let coverage = &self.coverage;
        let edges = coverage.edges.iter().filter(|count| **count > 0).count();
        let pairs = coverage.pairs();
        let possible = pairs.reached + pairs.missing.len();
        let _ = writeln!(
            text,
            "reached {} of {possible} possible pairs of a state and an event, {edges} of {} edges",
            pairs.reached,
            EDGES.len()
        );
        // Few seeds miss many: that is worth a line each only where the run was long, or all is told.
        let long = coverage.seeds >= REACHES_ALL;
        for missing in pairs.missing.iter().filter(|_| long || details) {
            let _ = writeln!(text, "  never reached: {missing}");
        }
        for wrong in &pairs.wrong {
            let _ = writeln!(text, "  reached, and must not be possible: {wrong}");
        }
    }

    fn report_sizes(&self, text: &mut String) {
        let sizes = &self.coverage.sizes;
        let rows = [
            ("disks", &DISK_RANGES[..], &sizes.disks),
            ("links", &LINK_RANGES[..], &sizes.links),
            ("pools", &POOL_RANGES[..], &sizes.pools),
            ("addresses", &VIP_RANGES[..], &sizes.vips),
        ];
        let _ = writeln!(text, "\nseeds by size, up to");
        for (name, ranges, counts) in rows {
            let _ = write!(text, "  {name:<10}");
            for (most, count) in ranges.iter().zip(counts) {
                let _ = write!(text, " {:>14}", format!("{most}: {count}"));
            }
            text.push('\n');
        }
        let share = 100.0 * sizes.large() as f64 / self.coverage.seeds.max(1) as f64;
        let _ = writeln!(
            text,
            "  {} seeds ({share:.2} %) with more than 256 disks",
            sizes.large()
        );
        let _ = writeln!(text, "\nseeds by temper of the hardware");
        for (name, count) in Temper::NAMES.iter().zip(&sizes.tempers) {
            let _ = writeln!(text, "  {count:>9}  {name}");
        }
    }

    fn report_faults(&self, text: &mut String) {
        let _ = writeln!(text, "\nfaults injected");
        for (name, count) in Fault::KINDS.iter().zip(&self.coverage.faults) {
            let _ = writeln!(text, "  {count:>9}  {name}");
        }
    }

    /// A dash is a pair that can't occur (`coverage/pairs.rs`).
    fn report_matrix(&self, text: &mut String) {
        let _ = write!(text, "\n{:<18}", "events by state");
        for name in EVENTS {
            let _ = write!(text, "{name:>11}");
        }
        for (state, row) in State::ALL.iter().zip(&self.coverage.matrix) {
            let _ = write!(text, "\n{:<18}", state.name());
            for (event, count) in row.iter().enumerate() {
                let _ = match (never(*state, event), count) {
                    (Some(_), 0) => write!(text, "{:>11}", "-"),
                    _ => write!(text, "{count:>11}"),
                };
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
                "VIOLATION of {} in seed {seed} at {:.3} s: {}",
                violation.rule,
                violation.at as f64 / 1e6,
                violation.text
            );
            match self.shrunk.iter().find(|(of, _)| of == seed) {
                Some((_, shrunk)) => {
                    let kept: Vec<String> = shrunk.kept.iter().map(ToString::to_string).collect();
                    let (left, all) = (kept.len(), shrunk.drawn);
                    let _ = writeln!(text, "  {left} of its {all} faults break the same rule:");
                    for fault in &shrunk.faults {
                        let _ = writeln!(text, "    {fault}");
                    }
                    let kept = kept.join(",");
                    let _ = writeln!(
                        text,
                        "  their story: failover-sim seeds --seed {seed} --only-faults={kept} --trace"
                    );
                }
                None => {
                    let _ = writeln!(
                        text,
                        "  its story: failover-sim seeds --seed {seed} --trace"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_must_reach_all_that_can_be_reached() {
        let mut run = Run::default();
        assert!(run.is_good(), "a short run need not");
        run.coverage.seeds = REACHES_ALL;
        assert!(!run.is_good());
        run.coverage.edges.fill(1);
        for (state, row) in State::ALL.iter().zip(&mut run.coverage.matrix) {
            for (event, count) in row.iter_mut().enumerate() {
                *count = u64::from(never(*state, event).is_none());
            }
        }
        assert!(run.is_good());
        run.coverage.edges[0] = 0;
        assert!(!run.is_good(), "an edge is missing");
    }

    #[test]
    fn what_cant_be_reached_is_never_good() {
        let mut run = Run::default();
        let halted = State::ALL.len() - 1;
        run.coverage.matrix[halted][0] = 1;
        assert!(!run.is_good());
        let text = run.report(false);
        assert!(
            text.contains("must not be possible: wake in halted"),
            "{text}"
        );
    }
}
