//! The list as data: cases of steps, read from their text.

use crate::disk::{Nexus, PATHS_MAX};
use failover_core::ids::Node;
use failover_core::pr::PrCommand;
use std::fmt;
use std::str::FromStr;

/// A command that a nexus sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A reservation command of the daemon's; where it registers, with APTPL.
    Reservation(PrCommand),
    /// REGISTER without APTPL.
    RegisterVolatile {
        /// Key that the nexus has.
        old: u64,
        /// Key that it shall have.
        new: u64,
    },
    /// RESERVE with another type.
    ReserveType {
        /// The nexus's key.
        key: u64,
        /// Code of the type.
        kind: u8,
    },
    /// RELEASE with another type.
    ReleaseType {
        /// The nexus's key.
        key: u64,
        /// Code of the type.
        kind: u8,
    },
    /// PREEMPT with another type.
    PreemptType {
        /// The nexus's key.
        own: u64,
        /// Key to remove.
        victim: u64,
        /// Code of the type.
        kind: u8,
    },
    /// REPORT CAPABILITIES.
    Capabilities,
    /// TEST UNIT READY.
    TestUnitReady,
    /// Reads the block and forgets it.
    Read,
    /// Reads the block and tells its number.
    ReadBlock,
    /// Writes the block, full of this number.
    Write(u8),
    /// Logical unit reset, by this nexus's task management.
    ResetUnit,
}

/// What happens to the target as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Reads and writes stay inside.
    MediumStops,
    /// And come to their end.
    MediumGoesOn,
    /// The target's power fails and comes back.
    PowerCycle,
}

/// One line of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command and its answer.
    Ask(Nexus, Command, String),
    /// A command whose answer comes later.
    Begin(Nexus, Command),
    /// That answer.
    End(Nexus, String),
    /// TEST UNIT READY until no unit attention is left.
    Settle(Nexus),
    /// Something happens.
    Do(Deed),
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Unique.
    pub name: String,
    /// In order; differences count them from 1.
    pub steps: Vec<Step>,
}

/// Reads a list.
///
/// # Errors
/// The first line that isn't understood, by its number.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |why: String| format!("line {}: {why}: {line:?}", index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            if cases.iter().any(|case| case.name == name) {
                return Err(wrong("a second case of that name".to_owned()));
            }
            let (name, steps) = (name.to_owned(), Vec::new());
            cases.push(Case { name, steps });
            continue;
        }
        let case = cases
            .last_mut()
            .ok_or_else(|| wrong("a step before the first case".to_owned()))?;
        case.steps.push(line.parse().map_err(wrong)?);
    }
    Ok(cases)
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Step, String> {
        match line {
            "medium stops" => return Ok(Step::Do(Deed::MediumStops)),
            "medium goes on" => return Ok(Step::Do(Deed::MediumGoesOn)),
            "power cycle" => return Ok(Step::Do(Deed::PowerCycle)),
            _ => {}
        }
        let (nexus, rest) = line.split_once(' ').ok_or("a nexus alone")?;
        let nexus = parse_nexus(nexus)?;
        if rest == "settles" {
            return Ok(Step::Settle(nexus));
        }
        if let Some(expected) = rest.strip_prefix("... : ") {
            return Ok(Step::End(nexus, expected.to_owned()));
        }
        if let Some(command) = rest.strip_suffix(" ...") {
            return Ok(Step::Begin(nexus, command.parse()?));
        }
        let (command, expected) = rest.split_once(" : ").ok_or("no answer")?;
        Ok(Step::Ask(nexus, command.parse()?, expected.to_owned()))
    }
}

/// Reads `A0`.
///
/// # Errors
/// It is no nexus.
pub fn parse_nexus(word: &str) -> Result<Nexus, String> {
    let node = match word.get(..1) {
        Some("A") => Node::A,
        Some("B") => Node::B,
        _ => return Err(format!("{word:?} is no nexus")),
    };
    let path = word[1..].parse().ok();
    let path = path.filter(|path| usize::from(*path) < PATHS_MAX);
    path.map(|path| Nexus::new(node, path))
        .ok_or_else(|| format!("{word:?} is no nexus"))
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Command, String> {
        let words: Vec<&str> = text.split(' ').collect();
        let numbers: Result<Vec<u64>, _> = words[1..].iter().map(|word| word.parse()).collect();
        let numbers = numbers.map_err(|_| format!("{text:?}: keys are numbers"))?;
        let kind = |kind: u64| u8::try_from(kind).map_err(|_| format!("{text:?}: no such type"));
        let of = |command| Ok(Command::Reservation(command));
        match (words[0], &numbers[..]) {
            ("read-keys", []) => of(PrCommand::ReadKeys),
            ("read-reservation", []) => of(PrCommand::ReadReservation),
            ("read-full", []) => of(PrCommand::ReadFull),
            ("register", &[old, new]) => of(PrCommand::Register { old, new }),
            ("register-ignore", &[new]) => of(PrCommand::RegisterIgnore { new }),
            ("reserve", &[key]) => of(PrCommand::Reserve { key }),
            ("release", &[key]) => of(PrCommand::Release { key }),
            ("clear", &[key]) => of(PrCommand::Clear { key }),
            ("preempt", &[own, victim]) => of(PrCommand::Preempt { own, victim }),
            ("preempt-abort", &[own, victim]) => of(PrCommand::PreemptAbort { own, victim }),
            ("register-volatile", &[old, new]) => Ok(Command::RegisterVolatile { old, new }),
            ("reserve-type", &[key, code]) => Ok(Command::ReserveType {
                key,
                kind: kind(code)?,
            }),
            ("release-type", &[key, code]) => Ok(Command::ReleaseType {
                key,
                kind: kind(code)?,
            }),
            ("preempt-type", &[own, victim, code]) => Ok(Command::PreemptType {
                own,
                victim,
                kind: kind(code)?,
            }),
            ("capabilities", []) => Ok(Command::Capabilities),
            ("test-unit-ready", []) => Ok(Command::TestUnitReady),
            ("read", []) => Ok(Command::Read),
            ("read-block", []) => Ok(Command::ReadBlock),
            ("write", &[number]) => Ok(Command::Write(kind(number)?)),
            ("reset-unit", []) => Ok(Command::ResetUnit),
            _ => Err(format!("{text:?} is no command")),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Command::Reservation(command) => match command {
                PrCommand::ReadKeys => write!(f, "read-keys"),
                PrCommand::ReadReservation => write!(f, "read-reservation"),
                PrCommand::ReadFull => write!(f, "read-full"),
                PrCommand::Register { old, new } => write!(f, "register {old} {new}"),
                PrCommand::RegisterIgnore { new } => write!(f, "register-ignore {new}"),
                PrCommand::Reserve { key } => write!(f, "reserve {key}"),
                PrCommand::Release { key } => write!(f, "release {key}"),
                PrCommand::Clear { key } => write!(f, "clear {key}"),
                PrCommand::Preempt { own, victim } => write!(f, "preempt {own} {victim}"),
                PrCommand::PreemptAbort { own, victim } => {
                    write!(f, "preempt-abort {own} {victim}")
                }
            },
            Command::RegisterVolatile { old, new } => write!(f, "register-volatile {old} {new}"),
            Command::ReserveType { key, kind } => write!(f, "reserve-type {key} {kind}"),
            Command::ReleaseType { key, kind } => write!(f, "release-type {key} {kind}"),
            Command::PreemptType { own, victim, kind } => {
                write!(f, "preempt-type {own} {victim} {kind}")
            }
            Command::Capabilities => write!(f, "capabilities"),
            Command::TestUnitReady => write!(f, "test-unit-ready"),
            Command::Read => write!(f, "read"),
            Command::ReadBlock => write!(f, "read-block"),
            Command::Write(number) => write!(f, "write {number}"),
            Command::ResetUnit => write!(f, "reset-unit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::LIST;

    #[test]
    fn the_list_is_whole() {
        let cases = parse(LIST).expect("understood");
        assert!(cases.len() > 60, "{} cases", cases.len());
        for case in cases {
            assert!(case.steps.len() > 1, "{} checks nothing", case.name);
        }
    }

    #[test]
    fn commands_both_ways() {
        for case in parse(LIST).expect("understood") {
            for step in case.steps {
                if let Step::Ask(_, command, _) | Step::Begin(_, command) = step {
                    assert_eq!(command.to_string().parse(), Ok(command));
                }
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_told_by_its_line() {
        for (text, why) in [
            ("A0 reserve 1 : good", "line 1: a step before"),
            ("== a\n== a", "line 2: a second case"),
            ("== a\nC0 reserve 1 : good", "no nexus"),
            ("== a\nA9 reserve 1 : good", "no nexus"),
            ("== a\nA0 reserve : good", "no command"),
            ("== a\nA0 reserve x : good", "keys are numbers"),
            ("== a\nA0 write 256 : good", "no such type"),
            ("== a\nA0 reserve 1", "no answer"),
        ] {
            let told = parse(text).expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
