//! The controller and the recorder of everything that enters it.

use super::log::{InputRef, digest_of};
use super::writer::Recorder;
use failover_core::action::{Action, Restored};
use failover_core::config::CoreConfig;
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::time::Instant;
use std::ops::Deref;
use std::time::Duration;

/// A controller whose every input is recorded: there is no other way in.
pub(crate) struct Recorded {
    controller: Controller,
    recorder: Recorder,
}

impl Deref for Recorded {
    type Target = Controller;

    fn deref(&self) -> &Controller {
        &self.controller
    }
}

impl Recorded {
    /// A daemon's start.
    pub(crate) fn start(
        now: Instant,
        config: CoreConfig,
        restored: Restored,
        mut recorder: Recorder,
    ) -> (Recorded, Vec<Action>) {
        let input = InputRef::Start {
            now,
            config: &config,
            restored: &restored,
        };
        recorder.input(&input);
        let (controller, actions) = Controller::new(now, config, restored);
        recorder.answered(digest_of(&actions));
        let recorded = Recorded {
            controller,
            recorder,
        };
        (recorded, actions)
    }

    /// [`Controller::handle_all`].
    pub(crate) fn handle_all(&mut self, now: Instant, events: Vec<Event>) -> Vec<Action> {
        self.recorder.make_room(&self.controller);
        self.recorder.input(&InputRef::Events {
            now,
            events: &events,
        });
        let actions = self.controller.handle_all(now, events);
        self.took(actions)
    }

    /// [`Controller::reconfigure`].
    pub(crate) fn reconfigure(&mut self, now: Instant, config: CoreConfig) -> Vec<Action> {
        self.recorder.make_room(&self.controller);
        self.recorder.input(&InputRef::Config {
            now,
            config: &config,
        });
        let actions = self.controller.reconfigure(now, config);
        self.took(actions)
    }

    fn took(&mut self, actions: Vec<Action>) -> Vec<Action> {
        self.recorder.answered(digest_of(&actions));
        for action in &actions {
            if let Action::History(record) = action {
                self.recorder.decided(record);
            }
        }
        actions
    }

    /// Before a reset: what is recorded is kept where the next boot finds it, within `patience`.
    pub(crate) fn settle(&mut self, patience: Duration) {
        self.recorder.settle(patience);
    }
}
