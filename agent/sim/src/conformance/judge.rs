//! What a target answered against what the list and the target's known differences say.

use super::Target;
use super::list::Case;
use super::run::{Outcome, run};
use std::collections::BTreeMap;

/// A known difference: what the target answers to a step in place of the list's answer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it answers.
    pub answer: String,
    /// Why that is left so.
    pub reason: String,
}

/// By case and number of the step.
pub type Differences = BTreeMap<(String, usize), Difference>;

/// Reads a file of differences: `CASE STEP : ANSWER`, and below it, indented, the reason; one without a reason of its
/// own has that of the next one.
///
/// # Errors
/// The first line that isn't understood, or differences without any reason.
pub fn differences(text: &str) -> Result<Differences, String> {
    let mut all = Differences::new();
    let mut waiting: Vec<((String, usize), String)> = Vec::new();
    let mut reason = String::new();
    for line in text.lines().chain(["= end"]) {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if line.starts_with(' ') {
            let gap = if reason.is_empty() { "" } else { " " };
            reason = format!("{reason}{gap}{}", line.trim());
            continue;
        }
        if !reason.is_empty() {
            for (key, answer) in waiting.drain(..) {
                let reason = reason.clone();
                if let Some(twice) = all.insert(key.clone(), Difference { answer, reason }) {
                    return Err(format!("{key:?} is listed twice: {}", twice.answer));
                }
            }
            reason.clear();
        }
        if line == "= end" {
            break;
        }
        let parts = line.split_once(" : ").and_then(|(place, answer)| {
            let (case, step) = place.split_once(' ')?;
            Some(((case.to_owned(), step.parse().ok()?), answer.to_owned()))
        });
        waiting.push(parts.ok_or_else(|| format!("not understood: {line:?}"))?);
    }
    match waiting.first() {
        None => Ok(all),
        Some((key, _)) => Err(format!("{key:?} has no reason")),
    }
}

/// What came of a whole list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases that were run.
    pub run: usize,
    /// Steps whose answers were compared.
    pub compared: usize,
    /// Cases that were left out, and why.
    pub skipped: Vec<(String, &'static str)>,
    /// Known differences that were seen again: case, step, answer.
    pub known: Vec<String>,
    /// What is wrong: an answer that is nowhere listed, or a listed one that isn't given any more.
    pub wrong: Vec<String>,
}

/// Runs every case and compares. `tell` is told each case as it ends.
///
/// # Errors
/// The target can't be reached any more.
pub fn judge(
    target: &mut dyn Target,
    cases: &[Case],
    differences: &Differences,
    mut tell: impl FnMut(&str),
) -> Result<Report, String> {
    let mut report = Report::default();
    for (name, step) in differences.keys() {
        let case = cases.iter().find(|case| case.name == *name);
        if case.is_none_or(|case| *step == 0 || *step > case.steps.len()) {
            let why = format!("{name} {step}: a difference is listed, but there is no such step");
            tell(&format!("DIFFERENT: {why}"));
            report.wrong.push(why);
        }
    }
    for case in cases {
        let outcome = run(target, case)?;
        tell(&report.add(&outcome, differences));
    }
    Ok(report)
}

impl Report {
    /// Adds a case; answers its line.
    fn add(&mut self, outcome: &Outcome, differences: &Differences) -> String {
        let case = &outcome.case;
        if let Some(why) = outcome.skipped {
            self.skipped.push((case.clone(), why));
            return format!("SKIPPED: {case}: {why}");
        }
        self.run += 1;
        let (mut known, mut wrong) = (0, Vec::new());
        for step in &outcome.steps {
            self.compared += 1;
            let (number, expected, told) = (step.number, &step.expected, &step.told);
            match differences.get(&(case.clone(), number)) {
                None if told == expected => {}
                Some(listed) if *told == listed.answer => {
                    known += 1;
                    self.known.push(format!("{case} {number} : {told}"));
                }
                None => wrong.push(format!("{case} {number} : {told}   (the list: {expected})")),
                Some(listed) => wrong.push(format!(
                    "{case} {number} : {told}   (listed as a difference: {})",
                    listed.answer
                )),
            }
        }
        let line = match (known, wrong.len()) {
            (0, 0) => format!("ok: {case}"),
            (known, 0) => format!("ok: {case}, with {known} known difference(s)"),
            _ => format!("DIFFERENT: {}", wrong.join("\n           ")),
        };
        self.wrong.extend(wrong);
        line
    }

    /// In one line.
    pub fn summary(&self) -> String {
        format!(
            "{} cases, {} answers compared, {} known differences, {} wrong, {} cases skipped",
            self.run,
            self.compared,
            self.known.len(),
            self.wrong.len(),
            self.skipped.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::emulated::Emulated;
    use crate::conformance::list::parse;

    const LIST: &str = "== one\nA0 register 0 1 : good\nA0 reserve 2 : good\n";

    fn judged(differences_text: &str) -> Vec<String> {
        let cases = parse(LIST).expect("understood");
        let listed = differences(differences_text).expect("understood");
        let mut target = Emulated::new();
        let report = judge(&mut target, &cases, &listed, |_| {});
        report.expect("run").wrong
    }

    #[test]
    fn an_answer_that_is_not_listed_fails_and_so_does_a_listed_one_that_is_gone() {
        let wrong = judged("");
        assert_eq!(wrong, ["one 2 : conflict   (the list: good)"]);
        let reason = "\n    because of the moon\n";
        assert_eq!(judged(&format!("one 2 : conflict{reason}")), [""; 0]);
        let gone = judged(&format!("one 2 : conflict\none 1 : conflict{reason}"));
        assert_eq!(gone, ["one 1 : good   (listed as a difference: conflict)"]);
        let nowhere = judged(&format!("one 2 : conflict\none 3 : good{reason}"));
        assert_eq!(nowhere.len(), 1, "{nowhere:?}");
    }

    #[test]
    fn every_difference_has_a_reason() {
        assert!(differences("one 2 : conflict\n").is_err());
        assert!(differences("one : conflict\n  why\n").is_err());
        let listed = differences("a 1 : x\na 2 : y\n  why\n  it is so\nb 1 : z\n  other\n");
        let listed = listed.expect("understood");
        assert_eq!(listed[&("a".to_owned(), 1)].reason, "why it is so");
        assert_eq!(listed[&("b".to_owned(), 1)].reason, "other");
        assert!(differences("a 1 : x\n  why\na 1 : y\n  why\n").is_err());
    }
}
