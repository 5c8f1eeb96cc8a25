//! The demo's negative controls: the pair set up wrongly on purpose, and the judge or the observer that has to find the harm.
//!
//! The daemons are the ones that ship and read what they would read anywhere: wrong is what is around them, or that two
//! configurations, each right by itself, don't fit each other.

use super::cases::taken_over;
use super::judge::Verdict;
use super::pair::{Pair, Stop};
use super::place::Place;
use crate::shelf::now_micros;
use clap::ValueEnum;
use failover_core::ids::Node;
use nix::sys::signal::Signal;
use std::fs;
use std::io;

/// The frozen MASTER is looked at for this long after the other one serves.
const LOOK_MS: u64 = 1000;
/// Interval of the questions who has the virtual address.
const ASK_MS: u64 = 10;
/// A lease ten times as long as the other one's, and the silence that the check demands with it.
const LONG_LEASE: &str = "[timing]\nvip_lease_ms = 2000\ndead_ms = 2050\ndisk_silent_ms = 2050\n";

/// What is set up wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Control {
    /// The shelf's disks take every write, whoever is registered.
    TargetRefusesNobody,
    /// A's lease is ten times as long as B believes.
    TimersDiffer,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Which.
    pub control: Control,
    /// Client against disks.
    pub verdict: Verdict,
    /// The harm that was found; none, if nobody noticed any.
    pub harm: Option<String>,
}

impl Control {
    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Control::TargetRefusesNobody => "target_refuses_nobody",
            Control::TimersDiffer => "timers_differ",
        }
    }

    /// The sentences that announce it.
    const fn title(self) -> &'static str {
        match self {
            Control::TargetRefusesNobody => {
                "Control: the shelf takes every write, whoever is registered. The MASTER's daemon is stopped (SIGSTOP), its\n\
                 kernel goes on. On a shelf that fences the disks refuse it; here the judge has to find writes of both."
            }
            Control::TimersDiffer => {
                "Control: A's lease is ten times as long as B believes; each configuration passes the daemon's check. The\n\
                 MASTER's daemon is stopped (SIGSTOP). With the same timers on both it is silent before the other one\n\
                 announces; here the observer has to find that both answer."
            }
        }
    }

    /// Changes what the daemons will read.
    pub(super) fn set_up(self, place: &Place) -> io::Result<()> {
        match self {
            Control::TargetRefusesNobody => Ok(()),
            Control::TimersDiffer => {
                let path = place.config(Node::A);
                let text = fs::read_to_string(&path)?;
                fs::write(&path, text.replacen("[timing]\n", LONG_LEASE, 1))
            }
        }
    }
}

/// Freezes the MASTER of a pair that serves, and looks for the harm.
pub fn run(pair: &mut Pair, control: Control) -> Result<Shown, Stop> {
    pair.narrator.title(control.title());
    let old = pair
        .master()
        .ok_or_else(|| Stop::Broken("nobody is MASTER".to_owned()))?;
    if control == Control::TimersDiffer && old != Node::A {
        return Err(Stop::Broken(
            "A has the long lease, and B was elected".to_owned(),
        ));
    }
    let frozen = now_micros();
    pair.signal_daemon(old, Signal::SIGSTOP);
    pair.narrator.say(old, "its daemon is frozen");
    taken_over(pair, old)?;
    for _ in 0..LOOK_MS / ASK_MS {
        pair.observer.ask();
        pair.pass(ASK_MS)?;
    }
    let verdict = pair.audit()?;
    let harm = match control {
        Control::TargetRefusesNobody => written_by_two(&verdict),
        Control::TimersDiffer => answered_by_two(pair, old, frozen),
    };
    pair.narrator.tell(&match &harm {
        Some(harm) => format!("as it has to be: {harm}"),
        None => "NOT NOTICED: no harm was found where there must be some".to_owned(),
    });
    Ok(Shown {
        control,
        verdict,
        harm,
    })
}

fn written_by_two(verdict: &Verdict) -> Option<String> {
    (verdict.double > 0).then(|| {
        format!(
            "the judge says FAIL: the disks took {} writes of one controller after the other had begun to import",
            verdict.double
        )
    })
}

/// Answers of the old owner between the first and the last one of the new owner.
fn answered_by_two(pair: &Pair, old: Node, since: u64) -> Option<String> {
    let new = pair.observer.answers_of(old.other(), since);
    let (first, last) = (*new.first()?, *new.last()?);
    let late = pair.observer.answers_of(old, since).into_iter();
    let late: Vec<u64> = late.filter(|at| (first..=last).contains(at)).collect();
    let until = late.last()?;
    Some(format!(
        "the observer saw both answer for the virtual address for {} ms: {old} {} times, {} {} times",
        (until - first) / 1000,
        late.len(),
        old.other(),
        new.len()
    ))
}
