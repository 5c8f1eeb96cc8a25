//! The controller: all that it knows, and what it does about each event.

use crate::action::{Action, Restored};
use crate::config::CoreConfig;
use crate::event::Event;
use crate::time::Instant;
use failover_api::{StateReport, Status};

/// One controller of the pair.
pub struct Controller {
    _config: CoreConfig,
}

impl Controller {
    /// A controller that starts now. Carry out the actions before the first event.
    pub fn new(
        _now: Instant,
        config: CoreConfig,
        _restored: Restored,
    ) -> (Controller, Vec<Action>) {
        (Controller { _config: config }, Vec::new())
    }

    /// Takes one event and answers what to do, in this order.
    pub fn handle(&mut self, _now: Instant, _event: Event) -> Vec<Action> {
        Vec::new()
    }

    /// When `Event::Wake` is due, and what for. Ask again after every `handle`.
    pub fn next_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// The public state, in one word.
    pub fn status(&self) -> Status {
        Status::Electing
    }

    /// Internal state, in one word.
    pub fn state_name(&self) -> &'static str {
        "starting"
    }

    /// Everything this controller knows.
    pub fn report(&self, _now: Instant) -> StateReport {
        unreachable!("written with the state machine")
    }

    /// Takes a new configuration; only what may change at run time may differ.
    pub fn reconfigure(&mut self, _now: Instant, config: CoreConfig) -> Vec<Action> {
        self._config = config;
        Vec::new()
    }
}
