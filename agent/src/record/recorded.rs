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
    /// `None` where nothing can be recorded.
    recorder: Option<Recorder>,
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
        mut recorder: Option<Recorder>,
    ) -> (Recorded, Vec<Action>) {
        if let Some(recorder) = &mut recorder {
            recorder.input(InputRef::Start {
                now,
                config: &config,
                restored: &restored,
            });
        }
        let (controller, actions) = Controller::new(now, config, restored);
        if let Some(recorder) = &mut recorder {
            recorder.answered(digest_of(&actions));
        }
        let recorded = Recorded {
            controller,
            recorder,
        };
        (recorded, actions)
    }

    /// [`Controller::handle_all`].
    pub(crate) fn handle_all(&mut self, now: Instant, events: Vec<Event>) -> Vec<Action> {
        self.comes(InputRef::Events {
            now,
            events: &events,
        });
        let actions = self.controller.handle_all(now, events);
        self.followed(actions)
    }

    /// [`Controller::reconfigure`].
    pub(crate) fn reconfigure(&mut self, now: Instant, config: CoreConfig) -> Vec<Action> {
        self.comes(InputRef::Config {
            now,
            config: &config,
        });
        let actions = self.controller.reconfigure(now, config);
        self.followed(actions)
    }

    /// [`Recorder::is_written`].
    #[cfg(test)]
    pub(crate) fn is_written(&self) -> bool {
        self.recorder.as_ref().is_none_or(Recorder::is_written)
    }

    fn comes(&mut self, input: InputRef<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.make_room(&self.controller);
            recorder.input(input);
        }
    }

    fn followed(&mut self, actions: Vec<Action>) -> Vec<Action> {
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(digest_of(&actions));
            for action in &actions {
                if let Action::History(record) = action {
                    recorder.decided(record);
                }
            }
        }
        actions
    }

    /// Before a reset: what is recorded is kept where the next boot finds it, within `patience`.
    pub(crate) fn settle(&mut self, patience: Duration) {
        if let Some(recorder) = &mut self.recorder {
            recorder.settle(patience);
        }
    }
}
