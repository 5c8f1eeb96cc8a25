//! Makes the decisions of a log again, and compares.

use super::log::{Input, Segment, Step, digest_of};
use failover_core::action::Action;
use failover_core::controller::Controller;
use failover_core::time::Instant;

/// How a step's decision compares with the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Same {
    /// Bit for bit.
    Yes,
    /// The actions, or the recorded state, are others: a sentence.
    No(String),
    /// The daemon ended before it was known what followed.
    Unfinished,
    /// A whole state with which the log begins.
    Begins,
    /// Nothing to compare with: what came before is missing.
    Missing,
}

/// One step, made again.
pub struct Made<'a> {
    /// Number in the log, from 1.
    pub number: usize,
    /// When; absent before the first moment is known.
    pub now: Option<Instant>,
    /// What was recorded.
    pub step: &'a Step,
    /// What the core asks for.
    pub actions: Vec<Action>,
    /// Whether that is what it asked for.
    pub same: Same,
}

/// Goes through the segments of a log in their order.
#[derive(Default)]
pub struct Replay {
    controller: Option<Controller>,
    now: Option<Instant>,
    number: usize,
    /// Boot and number of the segment before, if its end is whole.
    before: Option<(String, u64)>,
}

impl Replay {
    /// Makes every step of the log up to `until` again, and shows each to `each`.
    pub fn run(segments: &[Segment], until: Option<Instant>, mut each: impl FnMut(&Made<'_>)) {
        let mut replay = Replay::default();
        for segment in segments {
            replay.enter(segment);
            for step in &segment.steps {
                if at(&step.input).zip(until).is_some_and(|(at, end)| at > end) {
                    return;
                }
                each(&replay.step(step));
            }
            if segment.damage.is_some() {
                replay.before = None;
            }
        }
    }

    /// A segment that isn't the next one stands by itself.
    fn enter(&mut self, segment: &Segment) {
        let head = &segment.head;
        let follows = self
            .before
            .as_ref()
            .is_some_and(|(boot, number)| *boot == head.boot && number + 1 == head.number);
        if !follows {
            self.controller = None;
        }
        self.before = Some((head.boot.clone(), head.number));
    }

    fn step<'a>(&mut self, step: &'a Step) -> Made<'a> {
        self.number += 1;
        self.now = at(&step.input).or(self.now);
        let (actions, same) = self.make(step);
        Made {
            number: self.number,
            now: self.now,
            step,
            actions,
            same,
        }
    }

    fn make(&mut self, step: &Step) -> (Vec<Action>, Same) {
        let actions = match &step.input {
            Input::Start {
                now,
                config,
                restored,
            } => {
                let (controller, actions) = Controller::new(*now, config.clone(), restored.clone());
                self.controller = Some(controller);
                actions
            }
            Input::State {
                after_gap,
                controller,
            } => {
                let ours = self.controller.replace((**controller).clone());
                let same = match ours.filter(|_| !after_gap) {
                    None if self.number == 1 => Same::Begins,
                    None => Same::Missing,
                    Some(ours) => same_state(&ours, controller),
                };
                return (Vec::new(), same);
            }
            Input::Events { now, events } => {
                let Some(controller) = &mut self.controller else {
                    return (Vec::new(), Same::Missing);
                };
                controller.handle_all(*now, events.iter().cloned())
            }
            Input::Config { now, config } => {
                let Some(controller) = &mut self.controller else {
                    return (Vec::new(), Same::Missing);
                };
                controller.reconfigure(*now, config.clone())
            }
        };
        let same = match step.actions {
            None => Same::Unfinished,
            Some(digest) if digest == digest_of(&actions) => Same::Yes,
            Some(_) => Same::No("what the core asks for now is not what it asked for".to_owned()),
        };
        (actions, same)
    }
}

/// When an input came, if it says so.
pub fn at(input: &Input) -> Option<Instant> {
    match input {
        Input::Start { now, .. } | Input::Events { now, .. } | Input::Config { now, .. } => {
            Some(*now)
        }
        Input::State { .. } => None,
    }
}

fn same_state(ours: &Controller, recorded: &Controller) -> Same {
    let bytes = |controller: &Controller| postcard::to_allocvec(controller).ok();
    match bytes(ours) == bytes(recorded) {
        true => Same::Yes,
        false => Same::No("the controller's state now is not the recorded one".to_owned()),
    }
}
