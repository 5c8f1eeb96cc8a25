//! `failoverd fence check`: whether one real disk keeps the rules that the pair stands on, and how fast it is.
//!
//! ```text
//!   program ── named, confirmed, unused ──▶ trial ── commands over RealFence, raw ones over its ports ──▶ Findings
//!                                            └ its registrations are taken off again, whatever happened
//!   Findings ──▶ table, JSON, Kept (state folder) ──▶ failover.fence.status
//! ```

mod demands;
mod kept;
mod latency;
mod raw;
mod trial;

pub use demands::{demands, effect, lengthened, silence_ms};
pub use kept::{Kept, keep, read_kept};
pub use latency::{Latency, needed_timers};
pub use trial::{CHECK_KEY, Trial};

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How one part of a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it must be.
    Pass,
    /// Not so: this disk can't be used as it is.
    Fail,
    /// It can't be tested from here; the text says why.
    Untested,
}

impl Verdict {
    /// The word in tables.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::Untested => "not testable",
        }
    }
}

/// One part of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was seen.
    pub said: String,
}

/// Everything that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Identity of the disk.
    pub disk: String,
    /// Its paths: name of the node, address.
    pub paths: Vec<String>,
    /// Each part.
    pub findings: Vec<Finding>,
    /// READ KEYS.
    pub reads: Option<Latency>,
    /// REGISTER, from one key to the next.
    pub rolls: Option<Latency>,
    /// Timers that the disk would need and the configuration doesn't have, as `name = value (now value)`.
    pub timers: Vec<String>,
    /// What they would mean for a takeover; `None` where the timers do.
    pub effect: Option<String>,
}

impl Findings {
    /// Nothing failed.
    pub fn passed(&self) -> bool {
        let failed = |finding: &Finding| finding.verdict == Verdict::Fail;
        !self.findings.iter().any(failed)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!("Disk   {}\n", self.disk);
        let _ = writeln!(out, "Paths  {}\n", self.paths.join(", "));
        let width = self.findings.iter().map(|finding| finding.check.len());
        let width = width.max().unwrap_or(0).max(5);
        let _ = writeln!(out, "{:width$}  RESULT        SAW", "CHECK");
        for finding in &self.findings {
            let (check, word) = (&finding.check, finding.verdict.word());
            let _ = writeln!(out, "{check:width$}  {word:12}  {}", finding.said);
        }
        let _ = writeln!(out, "\nLATENCY      N       P50       P99     P99.9");
        for (name, latency) in [("READ KEYS", &self.reads), ("roll", &self.rolls)] {
            let Some(latency) = latency else { continue };
            let [p50, p99, p999] = [latency.p50_us, latency.p99_us, latency.p999_us].map(millis);
            let _ = writeln!(
                out,
                "{name:9} {:>4} {p50:>9} {p99:>9} {p999:>9}",
                latency.count
            );
        }
        if !self.timers.is_empty() {
            let _ = writeln!(out, "\nTimers that this disk would need:");
            for timer in &self.timers {
                let _ = writeln!(out, "  {timer}");
            }
            if let Some(effect) = &self.effect {
                let _ = writeln!(out, "With them {effect}.");
            }
        }
        let verdict = match self.passed() {
            true => "The disk passes.",
            false => "The disk does NOT pass.",
        };
        let _ = writeln!(out, "\n{verdict}");
        out
    }
}

/// Microseconds as milliseconds with two digits.
fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}
