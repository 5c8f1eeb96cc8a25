//! The conformance list of reservations on the lab's disks.
//!
//! ```text
//!   judge (here) ── lines ── lab.d/trials/reservations.py ─┬─ ssh ─ serve /dev/sda (controller a, path 0)
//!                                                          ├─ ssh ─ serve /dev/sdc (controller a, path 1)
//!                                                          ├─ …                    (controller b)
//!                                                          └─ power and medium of the enclosure
//! ```
//!
//! One line for each thing:
//!
//! | the judge says | it is answered with |
//! |---|---|
//! | `begin A0 COMMAND` | nothing |
//! | `end A0 MILLIS` | the answer, or `-` when none came within that time |
//! | `do medium stops`, `do medium goes on`, `do power cycle` | `done`, or why not |
//! | `told LINE` | nothing: what came of a case |

use failover_sim::conformance::judge::{differences, judge};
use failover_sim::conformance::list::{Command, Deed, Step, parse};
use failover_sim::conformance::scsi::ScsiPath;
use failover_sim::conformance::{Answer, DIFFERENCES_OF_LIO, LIST, Target};
use failover_sim::disk::Nexus;
use failoverd::adapters::ports::{Kind, Node};
use failoverd::adapters::sg_io::SgPort;
use nix::sys::stat::{major, minor};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Carries out the commands that come line by line on one path, and answers each with a line, until the input ends.
///
/// # Errors
/// The device is no SCSI disk that answers, or nobody reads the answers.
pub fn serve(device: &Path, commands: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut path = ScsiPath::new(Box::new(open(device)?)).map_err(io::Error::other)?;
    for line in commands.lines() {
        let answer = match line?.parse::<Command>() {
            Ok(command) => path.ask(command),
            Err(why) => Answer::of(format!("failed: {why}")),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn open(device: &Path) -> io::Result<SgPort> {
    let device = device.canonicalize()?;
    let number = device.metadata()?.rdev();
    let (Some(folder), Some(name)) = (device.parent(), device.file_name()) else {
        return Err(io::Error::other("no device node"));
    };
    let node = Node {
        kind: Kind::Scsi,
        name: name.to_string_lossy().into_owned(),
        number: (major(number) as u32, minor(number) as u32),
    };
    SgPort::open(folder, &node).map_err(io::Error::other)
}

/// Runs the list on a target with so many paths from each controller, reached by lines. Answers whether it answered as
/// the list and LIO's known differences say.
///
/// # Errors
/// Whoever is at the other end of the lines went away, or says what isn't understood.
pub fn judged(paths: u8, answers: impl BufRead, says: impl Write) -> io::Result<bool> {
    let cases = parse(LIST).map_err(io::Error::other)?;
    let listed = differences(DIFFERENCES_OF_LIO).map_err(io::Error::other)?;
    let mut relay = Relay {
        paths,
        answers,
        says,
    };
    let mut told = Vec::new();
    let report = judge(&mut relay, &cases, &listed, |line| {
        told.push(line.to_owned())
    });
    let report = report.map_err(io::Error::other);
    for line in told {
        relay.say(&format!("told {}", line.replace('\n', ";")))?;
    }
    let report = report?;
    relay.say(&format!("told summary: {}", report.summary()))?;
    Ok(report.wrong.is_empty())
}

/// The target at the other end of the lines.
struct Relay<R, W> {
    paths: u8,
    answers: R,
    says: W,
}

impl<R: BufRead, W: Write> Relay<R, W> {
    fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.says, "{line}")?;
        self.says.flush()
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.say(line)?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}

impl<R: BufRead, W: Write> Target for Relay<R, W> {
    fn lacks(&self, step: &Step) -> Option<&'static str> {
        let (Step::Ask(nexus, ..)
        | Step::Begin(nexus, _)
        | Step::End(nexus, _)
        | Step::Settle(nexus)) = step
        else {
            return None;
        };
        (nexus.path.0 >= self.paths).then_some("there is no second path: `lab up --paths 2`")
    }

    fn begin(&mut self, nexus: Nexus, command: Command) -> Result<(), String> {
        let line = format!("begin {}{} {command}", nexus.node, nexus.path.0);
        self.say(&line).map_err(|error| error.to_string())
    }

    fn end(&mut self, nexus: Nexus, within: Duration) -> Result<Option<Answer>, String> {
        let line = format!("end {}{} {}", nexus.node, nexus.path.0, within.as_millis());
        let answer = self.ask(&line).map_err(|error| error.to_string())?;
        Ok((answer != "-").then(|| Answer::parse(&answer)))
    }

    fn act(&mut self, deed: Deed) -> Result<(), String> {
        let words = match deed {
            Deed::MediumStops => "medium stops",
            Deed::MediumGoesOn => "medium goes on",
            Deed::PowerCycle => "power cycle",
        };
        let done = self.ask(&format!("do {words}"));
        match done.map_err(|error| error.to_string())?.as_str() {
            "done" => Ok(()),
            why => Err(why.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_not_clean_is_no_verdict() {
        let mut says = Vec::new();
        let ended = judged(1, &b"good\ngood\nconflict\n"[..], &mut says);
        let why = ended.expect_err("no verdict").to_string();
        assert!(why.contains("register.new: cleaning"), "{why}");
        let says = String::from_utf8(says).expect("text");
        assert!(
            says.starts_with("begin A0 test-unit-ready\nend A0 90000\nbegin B0"),
            "{says}"
        );
    }

    #[test]
    fn what_is_no_disk_serves_nothing() {
        assert!(serve(Path::new("/dev/null"), &b""[..], Vec::new()).is_err());
    }
}
