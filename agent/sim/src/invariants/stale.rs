//! What came once already changes nothing.

use crate::world::World;
use failover_core::action::{Action, Outcome};
use failover_core::beat::Beat;
use failover_core::disk_work::DiskOutcome;
use failover_core::event::Event;
use failover_core::ids::{LinkId, Node, OpId};
use std::time::Duration;

impl World {
    /// stale-changes-nothing: a beat that came once already changes nothing.
    pub(crate) fn replay_beat(&mut self, node: Node, link: u8, beat: &Beat) {
        if !self.rng.percent(2) {
            return;
        }
        let event = Event::Beat {
            link: LinkId(link),
            received: self.local(node),
            beat: Box::new(beat.clone()),
        };
        self.stale(node, event, "a beat that had come already");
    }

    /// stale-changes-nothing: an answer that came once already, or to work that nobody asked for, changes nothing.
    pub(crate) fn replay_answer(&mut self, node: Node, life: u32, op: OpId) {
        if !self.lives_on(node, life) || !self.rng.percent(3) {
            return;
        }
        let op = if self.rng.percent(50) {
            op
        } else {
            OpId(u64::MAX - self.rng.below(1000))
        };
        let outcome = match self.rng.below(3) {
            0 => Outcome::Ok,
            1 => Outcome::Failed("stale".to_owned()),
            _ => Outcome::Disk(DiskOutcome::Taken),
        };
        self.stale(
            node,
            Event::Done {
                op,
                waited: Duration::ZERO,
                outcome,
            },
            "an answer to no work of this run",
        );
    }

    fn stale(&mut self, node: Node, event: Event, what: &str) {
        let running = |world: &World| {
            let daemon = world.machines[node as usize].daemon.as_ref();
            daemon.is_some_and(|daemon| !daemon.paused)
        };
        if !running(self) {
            return;
        }
        // What has become due at this very moment comes first, until nothing more follows.
        for _ in 0..3 {
            if running(self) {
                self.feed(node, Event::Wake);
            }
        }
        let local = self.local(node);
        if !running(self) || self.violation.is_some() {
            return;
        }
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        let before = daemon.controller.state();
        let actions = daemon.controller.handle(local, event);
        let after = daemon.controller.state();
        let effects: Vec<&Action> = actions
            .iter()
            .filter(|action| !matches!(action, Action::PetWatchdog))
            .collect();
        if before != after || !effects.is_empty() {
            let text = format!("{node}: {what} led from {before:?} to {after:?}: {effects:?}");
            self.violate("stale-changes-nothing", text);
        }
    }
}
