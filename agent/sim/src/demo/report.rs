//! The results: a table for people, one JSON object for programs.

use super::cases::{Case, CaseRun};
use super::control::Shown;
use super::judge::Verdict;
use crate::shelf::server::Shape;
use comfy_table::Table;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The phases, in the order of the table.
pub const PHASES: [&str; 6] = ["detect", "decide", "fence", "import", "services", "vip"];

/// Everything that a run gave.
#[derive(Clone, Debug)]
pub struct Results {
    /// The shelf.
    pub shape: Shape,
    /// Each case with its runs.
    pub cases: BTreeMap<Case, Vec<CaseRun>>,
    /// Client against disks.
    pub verdict: Verdict,
    /// The load case, if it ran.
    pub load: Option<Load>,
    /// The pair was set up wrongly on purpose.
    pub control: Option<Shown>,
    /// Why the run ended early.
    pub broken: Option<String>,
}

/// What the load case gave.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// How long it lasted, seconds.
    pub seconds: u64,
    /// Busy loops.
    pub loops: usize,
    /// Real-time priority was permitted.
    pub real_time: bool,
    /// Longest time between two acknowledgements, microseconds.
    pub gap: u64,
    /// Longest time by which the client itself was late, microseconds.
    pub client_late: u64,
    /// Transitions of the two state machines.
    pub transitions: u64,
    /// Looks at which a controller served without a lease.
    pub lapses: u64,
}

impl Load {
    /// What must not be. Without real-time priority a starved sender may be taken over: that is counted, not judged.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.real_time && self.transitions > 0 {
            faults.push(format!("{} transitions under load", self.transitions));
        }
        if self.real_time && self.gap > 200_000 {
            faults.push(format!("a gap of {} ms under load", self.gap / 1000));
        }
        if self.real_time && self.lapses > 0 {
            faults.push(format!("the lease lapsed {} times under load", self.lapses));
        }
        faults
    }
}

/// The value below which the share `percent` of `sorted` lies (nearest rank).
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}

fn ms(micros: u64) -> f64 {
    (micros as f64 / 100.0).round() / 10.0
}

fn distribution(values: &[u64]) -> Value {
    json!({
        "p50": ms(percentile(values, 50)),
        "p99": ms(percentile(values, 99)),
        "max": ms(values.last().copied().unwrap_or_default()),
    })
}

impl Results {
    /// Everything that must not be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (case, runs) in &self.cases {
            for (number, run) in runs.iter().enumerate() {
                let named = |fault: &String| format!("{} run {}: {fault}", case.name(), number + 1);
                faults.extend(run.faults.iter().map(named));
            }
        }
        if self.verdict.lost > 0 {
            faults.push(format!(
                "{} acknowledged records are lost",
                self.verdict.lost
            ));
        }
        if self.verdict.double > 0 {
            faults.push(format!("{} records written by two", self.verdict.double));
        }
        faults.extend(self.load.iter().flat_map(Load::faults));
        faults.extend(self.broken.clone());
        faults
    }

    /// Whether the run showed what it had to: no fault, or with a control its harm and nothing that ended it early.
    pub fn succeeded(&self) -> bool {
        match &self.control {
            Some(shown) => self.broken.is_none() && shown.harm.is_some(),
            None => self.faults().is_empty(),
        }
    }

    /// The object of `--json` and of `result.json`.
    pub fn to_json(&self) -> Value {
        let cases: Vec<Value> = self.cases.iter().map(case_json).collect();
        let mut object = json!({
            "cases": cases,
            "records": {
                "acknowledged": self.verdict.acknowledged,
                "lost": self.verdict.lost,
                "double": self.verdict.double,
                "written": self.verdict.written,
                "refused": self.verdict.refused,
            },
            "shelf": {
                "disks": self.shape.disks,
                "latency_ms": self.shape.latency.as_secs_f64() * 1000.0,
                "verified_records": super::host::VERIFIED,
            },
            "faults": self.faults(),
        });
        if let Some(shown) = &self.control {
            object["control"] = json!({
                "name": shown.control.name(),
                "harm": shown.harm,
            });
        }
        if let Some(load) = &self.load {
            object["load"] = json!({
                "seconds": load.seconds,
                "loops": load.loops,
                "real_time": load.real_time,
                "gap_ms": ms(load.gap),
                "client_late_ms": ms(load.client_late),
                "transitions": load.transitions,
                "lease_lapses": load.lapses,
            });
        }
        object
    }

    /// The table.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        let mut header = vec!["case".to_owned(), "runs".to_owned()];
        header.extend(PHASES.iter().map(|phase| (*phase).to_owned()));
        header.extend(["dark p50", "dark p99", "dark max", "gap max"].map(str::to_owned));
        table.set_header(header);
        for (case, runs) in &self.cases {
            table.add_row(row(*case, runs));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        let mut text = format!(
            "Shelf: {} disks, {} ms a command; an import verifies the last {} checksums of the pool's log.\n\
             Phases: median, ms. Dark, ms: longest gap between two acknowledgements, counted if any record\n\
             had to be sent a second time. Gap: the longest one, counted always.\n\n{table}\n\n",
            self.shape.disks,
            self.shape.latency.as_secs_f64() * 1000.0,
            super::host::VERIFIED,
        );
        text.push_str(&self.extras());
        text.push_str(&format!(
            "records acknowledged {}, lost {}, written by two {}; writes accepted by the disks {}, refused {}\n",
            self.verdict.acknowledged,
            self.verdict.lost,
            self.verdict.double,
            self.verdict.written,
            self.verdict.refused
        ));
        text
    }

    fn extras(&self) -> String {
        let mut text = String::new();
        if let Some(runs) = self.cases.get(&Case::Freeze) {
            let silent = runs.iter().filter_map(|run| run.silent).max().unwrap_or(0);
            let margin = runs.iter().filter_map(|run| run.margin).min().unwrap_or(0);
            let late: u64 = runs.iter().filter_map(|run| run.late_writes).sum();
            text.push_str(&format!(
                "frozen MASTER: silent at the latest after {:.0} ms, at least {:.0} ms before the new one announced; \
                 {late} writes accepted after it resumed\n",
                ms(silent),
                margin as f64 / 1000.0
            ));
        }
        if let Some(load) = &self.load {
            text.push_str(&format!(
                "load: {} busy loops for {} s, {}: longest gap {:.0} ms (the client itself late by {:.0} ms at most), \
                 {} transitions, {} lease lapses\n",
                load.loops,
                load.seconds,
                match load.real_time {
                    true => "daemons with real-time priority",
                    false => "no real-time priority (counted, not judged)",
                },
                ms(load.gap),
                ms(load.client_late),
                load.transitions,
                load.lapses
            ));
        }
        text
    }
}

fn case_json((case, runs): (&Case, &Vec<CaseRun>)) -> Value {
    let mut phases = Map::new();
    for phase in PHASES {
        let times = sorted(runs.iter().filter_map(|run| run.phases.get(phase).copied()));
        if !times.is_empty() {
            phases.insert(phase.to_owned(), distribution(&times));
        }
    }
    let mut object = json!({
        "case": case.name(),
        "runs": runs.len(),
        "transitions": runs.iter().map(|run| run.transitions).sum::<u64>(),
        "dark_ms": distribution(&sorted(runs.iter().map(|run| run.dark))),
        "phases_ms": phases,
        "gap_ms": distribution(&sorted(runs.iter().map(|run| run.gap))),
        "whole_ms": distribution(&sorted(runs.iter().map(|run| run.whole))),
    });
    let margin = runs.iter().filter_map(|run| run.margin).min();
    if let Some(margin) = margin {
        object["margin_ms"] = json!({"min": margin as f64 / 1000.0});
    }
    let silent = sorted(runs.iter().filter_map(|run| run.silent));
    if !silent.is_empty() {
        let late: u64 = runs.iter().filter_map(|run| run.late_writes).sum();
        object["silent_ms"] = distribution(&silent);
        object["writes_after_resume"] = json!(late);
    }
    object
}

fn row(case: Case, runs: &[CaseRun]) -> Vec<String> {
    let mut cells = vec![case.name().to_owned(), runs.len().to_string()];
    for phase in PHASES {
        let times = sorted(runs.iter().filter_map(|run| run.phases.get(phase).copied()));
        cells.push(match times.is_empty() {
            true => "·".to_owned(),
            false => format!("{:.1}", ms(percentile(&times, 50))),
        });
    }
    let dark = sorted(runs.iter().map(|run| run.dark));
    for percent in [50, 99, 100] {
        cells.push(format!("{:.0}", ms(percentile(&dark, percent))));
    }
    let gaps = sorted(runs.iter().map(|run| run.gap));
    cells.push(format!("{:.0}", ms(percentile(&gaps, 100))));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<u64> = (1..=20).collect();
        assert_eq!(percentile(&values, 50), 10);
        assert_eq!(percentile(&values, 99), 20);
        assert_eq!(percentile(&values[..1], 50), 1);
        assert_eq!(percentile(&[], 50), 0);
    }
}
