//! Runs cases on a target and notes what it answered.

use super::list::{Case, Command, Deed, Step};
use super::{Answer, Target};
use crate::disk::Nexus;
use failover_core::ids::Node;
use failover_core::pr::PrCommand;
use std::collections::BTreeMap;
use std::time::Duration;

/// Every nexus of the list.
pub const NEXUSES: [Nexus; 4] = [
    Nexus::new(Node::A, 0),
    Nexus::new(Node::A, 1),
    Nexus::new(Node::B, 0),
    Nexus::new(Node::B, 1),
];
/// A key for cleaning that no case has.
const BROOM: u64 = 0xffff;
/// For one command; a power cycle lets them wait.
const PATIENCE: Duration = Duration::from_secs(90);
/// After so long a command counts as being inside. An initiator gives up a session that is blocked for some seconds.
const INSIDE: Duration = Duration::from_millis(500);
/// More unit attentions in a row are a fault.
const ATTENTIONS_MAX: usize = 16;

/// What a target answered in one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub case: String,
    /// What was answered, by the number of the step, where something is expected.
    pub steps: Vec<Answered>,
    /// Why it was left out.
    pub skipped: Option<&'static str>,
}

/// One step's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Counted from 1.
    pub number: usize,
    /// The list's answer.
    pub expected: String,
    /// The target's.
    pub told: String,
}

/// Runs one case.
///
/// # Errors
/// The target can't be reached or made ready: nothing is said about its reservations.
pub fn run(target: &mut dyn Target, case: &Case) -> Result<Outcome, String> {
    let mut outcome = Outcome {
        case: case.name.clone(),
        steps: Vec::new(),
        skipped: case.steps.iter().find_map(|step| target.lacks(step)),
    };
    if outcome.skipped.is_some() {
        return Ok(outcome);
    }
    let failed = |why: String| format!("{}: {why}", case.name);
    target.clean().map_err(failed)?;
    let zero = generation(target).map_err(failed)?;
    let mut run = Run {
        target,
        zero,
        early: BTreeMap::new(),
    };
    for (index, step) in case.steps.iter().enumerate() {
        let answered = run.step(step);
        let answered =
            answered.map_err(|why| format!("{}, step {}: {why}", case.name, index + 1))?;
        if let Some((expected, told)) = answered {
            outcome.steps.push(Answered {
                number: index + 1,
                expected,
                told,
            });
        }
    }
    Ok(outcome)
}

/// The way to a disk that was used before: every registration cleared, every unit attention told.
///
/// # Errors
/// The target doesn't let itself be cleaned.
pub fn clean<T: Target + ?Sized>(target: &mut T) -> Result<(), String> {
    let nexuses = NEXUSES.into_iter();
    let nexuses: Vec<Nexus> = nexuses
        .filter(|nexus| target.lacks(&Step::Settle(*nexus)).is_none())
        .collect();
    for nexus in &nexuses {
        settle(target, *nexus)?;
    }
    for command in [
        PrCommand::RegisterIgnore { new: BROOM },
        PrCommand::Clear { key: BROOM },
    ] {
        let told = ask(target, nexuses[0], Command::Reservation(command))?;
        if told.text != "good" {
            return Err(format!("cleaning: {command:?} was answered with {told}"));
        }
    }
    for nexus in &nexuses {
        settle(target, *nexus)?;
    }
    Ok(())
}

fn ask<T: Target + ?Sized>(
    target: &mut T,
    nexus: Nexus,
    command: Command,
) -> Result<Answer, String> {
    target.begin(nexus, command)?;
    let answer = target.end(nexus, PATIENCE)?;
    answer.ok_or_else(|| format!("no answer to {command}"))
}

fn settle<T: Target + ?Sized>(target: &mut T, nexus: Nexus) -> Result<(), String> {
    let mut told = Answer::of("");
    for _ in 0..ATTENTIONS_MAX {
        told = ask(target, nexus, Command::TestUnitReady)?;
        if told.text == "good" {
            return Ok(());
        }
    }
    Err(format!("it never settles: {told}"))
}

fn generation(target: &mut dyn Target) -> Result<u32, String> {
    let read = Command::Reservation(PrCommand::ReadKeys);
    let told = ask(target, NEXUSES[0], read)?;
    let none = told.text == "keys none";
    let generation = told.generation.filter(|_| none);
    generation.ok_or_else(|| format!("it isn't clean: {told}"))
}

struct Run<'a> {
    target: &'a mut dyn Target,
    /// PRgeneration from which the case counts.
    zero: u32,
    /// Answers that came while their commands were to be inside.
    early: BTreeMap<Nexus, Answer>,
}

impl Run<'_> {
    /// What was expected and told, where something was expected.
    fn step(&mut self, step: &Step) -> Result<Option<(String, String)>, String> {
        match step {
            Step::Ask(nexus, command, expected) => {
                let told = ask(self.target, *nexus, *command)?;
                Ok(Some((expected.clone(), self.counted(told))))
            }
            Step::Begin(nexus, command) => {
                self.target.begin(*nexus, *command)?;
                Ok(None)
            }
            Step::End(nexus, expected) if expected == "inside" => {
                let told = self.target.end(*nexus, INSIDE)?;
                let text = match &told {
                    Some(told) => self.counted(told.clone()),
                    None => "inside".to_owned(),
                };
                self.early.extend(told.map(|told| (*nexus, told)));
                Ok(Some((expected.clone(), text)))
            }
            Step::End(nexus, expected) => {
                let told = match self.early.remove(nexus) {
                    Some(told) => told,
                    None => self.target.end(*nexus, PATIENCE)?.ok_or("no answer")?,
                };
                let told = self.counted(told);
                Ok((expected != "any").then(|| (expected.clone(), told)))
            }
            Step::Settle(nexus) => {
                settle(self.target, *nexus)?;
                Ok(None)
            }
            Step::Do(deed) => {
                self.target.act(*deed)?;
                if *deed == Deed::PowerCycle {
                    self.zero = 0;
                }
                Ok(None)
            }
        }
    }

    fn counted(&self, told: Answer) -> String {
        let generation = told.generation;
        let generation = generation.map(|generation| generation.wrapping_sub(self.zero));
        Answer { generation, ..told }.to_string()
    }
}
