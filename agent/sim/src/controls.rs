//! Negative controls: the pair set up wrongly on purpose, and the rules of the simulator that have to notice.
//!
//! The shipped daemon refuses the timers of the first kind when it reads its configuration
//! ([`failover_core::config::Timing::check`]), and `failoverd fence check` the target; the simulator sets them past both.
//! Each control is run rightly set up as well: then nothing may be broken.

use crate::invariants::Violation;
use crate::plan::Plan;
use crate::script;
use crate::story::Story;
use crate::world::World;
use failover_core::config::Timing;
use failover_core::ids::Node;

/// Seeds until one must have broken the rule. The first is found among the first 30 today.
const SEEDS_MAX: u64 = 300;

/// One control.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// Its name.
    pub name: &'static str,
    /// What is wrong.
    pub wrong: Wrong,
    /// The rules of which one must be broken.
    pub rules: &'static [&'static str],
    /// What that is for whoever runs such a pair.
    pub harm: &'static str,
}

/// What is set up wrongly, and what is done to the pair.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    /// The timers of both controllers, in seeds.
    Timers(fn(&mut Timing)),
    /// The timers of A alone, each of the two sets being right by itself; A freezes.
    TimersOfA(fn(&mut Timing)),
    /// The disks take every write; the MASTER freezes.
    Target,
}

/// What came of a control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the wrong set-up broke, and in which seed, where it is one of seeds.
    pub wrongly: Option<(Violation, Option<u64>)>,
    /// What the right one broke.
    pub rightly: Option<Violation>,
}

/// A MASTER whose daemon stands still for three seconds while its kernel goes on.
const FREEZE: &str = "run 3s\npause A 3s\nrun 4s";

/// All of them.
pub const CONTROLS: [Control; 5] = [
    Control {
        name: "target_refuses_nobody",
        wrong: Wrong::Target,
        rules: &["exclusive-writer", "no-write-after-loss"],
        harm: "the frozen MASTER's kernel writes to the pool that the other controller has imported: data is lost",
    },
    Control {
        name: "timers_differ",
        wrong: Wrong::TimersOfA(|timing| {
            timing.vip_lease_ms = 2000;
            timing.dead_ms = 2050;
            timing.disk_silent_ms = 2050;
        }),
        rules: &["one-answers"],
        harm: "the other controller waits for the lease that it knows, and both answer clients",
    },
    Control {
        name: "silence_shorter_than_lease",
        wrong: Wrong::Timers(|timing| {
            timing.dead_ms = 60;
            timing.disk_silent_ms = 60;
        }),
        rules: &["no-false-takeover"],
        harm: "a MASTER that serves is taken for dead and reset",
    },
    Control {
        name: "rolls_rarer_than_silence",
        wrong: Wrong::Timers(|timing| timing.disk_beat_ms = 2 * timing.disk_silent_ms),
        rules: &["heals", "stays-lit"],
        harm: "whoever owns can't prove its lease by the disks: it goes dark or halts",
    },
    Control {
        name: "slow_rolls_rarer_than_slow_lease",
        wrong: Wrong::Timers(|timing| timing.slow_roll_ms = 2 * timing.slow_lease_ms),
        rules: &["stays-lit"],
        harm: "a MASTER alone is dark between two rolls",
    },
];

impl Control {
    /// Runs it wrongly and rightly set up.
    ///
    /// # Errors
    /// Its script can't be read.
    pub fn run(&self) -> Result<Outcome, String> {
        match self.wrong {
            Wrong::Timers(change) => Ok(self.in_seeds(change)),
            Wrong::TimersOfA(_) | Wrong::Target => {
                let wrongly = self.in_script(true)?;
                Ok(Outcome {
                    wrongly: wrongly.map(|violation| (violation, None)),
                    rightly: self.in_script(false)?,
                })
            }
        }
    }

    /// It did its harm, and the rule told so.
    pub fn is_shown(&self, outcome: &Outcome) -> bool {
        let told = outcome.wrongly.as_ref();
        outcome.rightly.is_none()
            && told.is_some_and(|(violation, _)| self.rules.contains(&violation.rule))
    }

    /// The first seed that breaks one of the rules by these timers, and what it breaks without them. Another rule may be
    /// broken before.
    fn in_seeds(&self, change: fn(&mut Timing)) -> Outcome {
        let broken = (1..=SEEDS_MAX).find_map(|seed| {
            let mut world = World::of_seed(seed, Story::Off);
            change(&mut world.plan.timing);
            let (_, violation) = world.run_seed();
            let violation = violation.filter(|violation| self.rules.contains(&violation.rule));
            violation.map(|violation| (violation, Some(seed)))
        });
        let seed = broken.as_ref().and_then(|(_, seed)| *seed);
        let rightly = seed.and_then(|seed| World::of_seed(seed, Story::Off).run_seed().1);
        Outcome {
            wrongly: broken,
            rightly,
        }
    }

    fn in_script(&self, wrong: bool) -> Result<Option<Violation>, String> {
        let mut world = World::scripted(Plan::calm(), Story::Off);
        let right = world.plan.timing.clone();
        match self.wrong {
            Wrong::Timers(change) | Wrong::TimersOfA(change) if wrong => {
                change(&mut world.plan.timing);
            }
            Wrong::Target if wrong => {
                let disks = world.bays.iter_mut();
                disks.for_each(|bay| bay.disk.refuse_nobody());
            }
            Wrong::Timers(_) | Wrong::TimersOfA(_) | Wrong::Target => {}
        }
        world.start_daemon(Node::A);
        // The world judges by A's timers: by themselves they are as right as B's.
        let of_a = std::mem::replace(&mut world.plan.timing, right);
        world.start_daemon(Node::B);
        world.plan.timing = of_a;
        script::run_in(&mut world, FREEZE)?;
        Ok(world.violation().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_control_does_its_harm_and_is_noticed() {
        for control in CONTROLS {
            let outcome = control.run().expect("run");
            assert!(control.is_shown(&outcome), "{}: {outcome:?}", control.name);
        }
    }

    /// What the daemon's configuration would let pass is no control of its check.
    #[test]
    fn the_check_refuses_the_timers_of_both_and_passes_those_of_one() {
        for control in CONTROLS {
            let mut timing = Timing::default();
            match control.wrong {
                Wrong::Timers(change) => {
                    change(&mut timing);
                    let broken = timing.check(50).expect_err(control.name);
                    assert!(!broken.is_empty());
                }
                Wrong::TimersOfA(change) => {
                    change(&mut timing);
                    assert_eq!(timing.check(50), Ok(()), "{}", control.name);
                }
                Wrong::Target => {}
            }
        }
    }
}
