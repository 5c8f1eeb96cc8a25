//! The demo's negative control: the pair set up wrongly on purpose, and the judge that has to find the harm.
//!
//! The daemons are the ones that ship, and so is what they read: wrong is what is around them. `failoverd fence check`
//! would refuse such a target.

use super::cases::taken_over;
use super::judge::Verdict;
use super::pair::{Pair, Stop};
use clap::ValueEnum;
use nix::sys::signal::Signal;

/// The frozen MASTER's kernel writes on for this long after the other one serves.
const WRITES_MS: u64 = 1000;

/// What is set up wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Control {
    /// The shelf's disks take every write, whoever is registered.
    TargetRefusesNobody,
}

impl Control {
    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Control::TargetRefusesNobody => "target_refuses_nobody",
        }
    }

    /// The judge found its harm.
    pub const fn is_seen(self, verdict: &Verdict) -> bool {
        match self {
            Control::TargetRefusesNobody => verdict.double > 0,
        }
    }
}

/// Does the harm to a pair that serves, and has it judged.
pub fn run(pair: &mut Pair, control: Control) -> Result<Verdict, Stop> {
    pair.narrator.title(
        "Control: the shelf takes every write, whoever is registered. The MASTER's daemon is stopped (SIGSTOP), its\n\
         kernel goes on. On a shelf that fences the disks refuse it; here the judge has to find writes of both.",
    );
    let old = pair
        .master()
        .ok_or_else(|| Stop::Broken("nobody is MASTER".to_owned()))?;
    pair.signal_daemon(old, Signal::SIGSTOP);
    pair.narrator.say(old, "its daemon is frozen");
    taken_over(pair, old)?;
    pair.pass(WRITES_MS)?;
    let verdict = pair.audit()?;
    pair.narrator.tell(&match control.is_seen(&verdict) {
        true => format!(
            "as it has to be, the judge says FAIL: {} writes by one controller after the other had imported, {} \
             acknowledged records lost",
            verdict.double, verdict.lost
        ),
        false => "NOT NOTICED: the judge found no harm where there must be some".to_owned(),
    });
    Ok(verdict)
}
