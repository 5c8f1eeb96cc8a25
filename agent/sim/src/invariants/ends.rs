//! Everything ends: steps, requests, and trouble after the last fault.

use super::Asked;
use crate::world::{NODES, World};
use failover_core::action::Refusal;
use failover_core::event::{Command, Event};
use failover_core::ids::{Node, RequestId};
use failover_core::states::State;

/// Time after the last fault within which the pair must be whole, microseconds.
const HEAL_US: u64 = 150_000_000;

impl World {
    /// An operator asks.
    pub(crate) fn ask(&mut self, node: Node, command: Command) {
        let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
            return;
        };
        let life = daemon.life;
        self.requests += 1;
        let request = RequestId(self.requests);
        if command == Command::ForceMaster {
            self.ledger.forced[node as usize] = true;
        }
        let asked = Asked {
            request,
            node,
            life,
            at: self.now,
            command,
        };
        self.ledger.asked.push(asked);
        self.feed(node, Event::Command { request, command });
    }

    /// answered-truly: every request is answered once; `become_passive` answers yes only once the peer serves.
    pub(crate) fn replied(&mut self, node: Node, request: RequestId, reply: Result<(), Refusal>) {
        let Some(index) = self
            .ledger
            .asked
            .iter()
            .position(|asked| asked.request == request)
        else {
            self.violate(
                "answered-truly",
                format!("{node} answers request {} twice or unasked", request.0),
            );
            return;
        };
        let asked = self.ledger.asked.swap_remove(index);
        match reply {
            Err(refusal) => {
                tell!(self, node, "refused: {}", refusal.reason);
                *self.coverage.refusals.entry(refusal.errno).or_default() += 1;
            }
            Ok(()) => {
                tell!(self, node, "answered: {:?} is done", asked.command);
                let peer = node.other();
                let recent = self.ledger.last_active[peer as usize] + 3_000_000 >= self.now;
                let serves = matches!(self.state(peer), Some(State::Active | State::Restarting));
                if asked.command == Command::BecomePassive && !serves && !recent {
                    self.violate(
                        "answered-truly",
                        format!("{node} says that it became passive, but {peer} doesn't serve"),
                    );
                }
            }
        }
    }

    /// ends: no step of a takeover or handover lasts longer than its deadlines allow.
    pub(crate) fn ends(&mut self, node: Node) {
        let timing = &self.plan.timing;
        let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
            return;
        };
        if daemon.paused {
            return;
        }
        let state = daemon.controller.state();
        let limit_ms = match state {
            State::Electing
            | State::Standby
            | State::Active
            | State::Failed
            | State::Held
            | State::Starting => return,
            State::Adopting | State::WritingHandover | State::Reverting => timing.disk_lost_ms,
            State::Surveying => 2 * timing.disk_op_ms,
            State::FencingArbiters => 12 * (timing.abort_ms + timing.disk_op_ms),
            State::FencingRest => 2 * timing.abort_ms,
            State::Importing => timing.import_ms,
            State::StartingServices | State::StoppingServices => timing.services_ms,
            State::Announcing => {
                let lease = timing.slow_watch_ms.max(timing.restart_ms);
                timing.vips_ms + lease + timing.disk_lost_ms + timing.not_serving_ms
            }
            State::RemovingVips => timing.vips_ms,
            State::Exporting => timing.export_ms,
            State::HandedOver => timing.handover_ms + timing.disk_lost_ms,
            State::Restarting => 1000,
            State::Yielding => timing.abort_ms,
            State::Stopping => 4 * timing.beat_ms,
            State::Halted => 0,
        };
        let since = daemon.state_since.max(daemon.running_since);
        let lasts = self.now.saturating_sub(since) / 1000;
        if lasts > limit_ms + 1500 {
            self.violate(
                "ends",
                format!("{node} is {} since {lasts} ms", state.name()),
            );
        }
    }

    /// ends: every request is answered within the sum of the deadlines of what it waits for.
    pub(crate) fn requests_end(&mut self) {
        let timing = &self.plan.timing;
        let limit_ms = timing.vips_ms
            + 2 * timing.services_ms
            + timing.export_ms
            + timing.handover_ms
            + timing.import_ms
            + timing.record_ms
            + 8000;
        let now = self.now;
        let machines = &self.machines;
        self.ledger.asked.retain(|asked| {
            let daemon = machines[asked.node as usize].daemon.as_ref();
            daemon.is_some_and(|daemon| daemon.life == asked.life)
        });
        let late = self.ledger.asked.iter().find(|asked| {
            let since = machines[asked.node as usize]
                .daemon
                .as_ref()
                .filter(|daemon| !daemon.paused)
                .map_or(now, |daemon| daemon.running_since.max(asked.at));
            now > since + limit_ms * 1000
        });
        if let Some(late) = late.copied() {
            self.violate(
                "ends",
                format!("{} never answered {:?}", late.node, late.command),
            );
        }
    }

    /// heals: within a bound after the last fault exactly one controller serves, every pool imported, its services
    /// running, its addresses answering and every disk its own; the other stands by, or is held for an operator, and is registered nowhere.
    pub(crate) fn heals(&mut self) {
        let serves = |node: Node| {
            let kernel = &self.machines[node as usize].kernel;
            self.state(node) == Some(State::Active)
                && kernel.imported.iter().all(Option::is_some)
                && kernel.services.all()
                && kernel.vips.all()
                && kernel.answers(self.now)
        };
        let holds_all = |node: Node| {
            self.bays.iter().all(|bay| {
                let holder = bay.disk.holder();
                holder.is_some_and(|holder| holder.node == node)
                    && bay
                        .disk
                        .registrations()
                        .all(|(nexus, _)| nexus.node == node)
            })
        };
        let single = self.plan.single;
        let rests =
            |node: Node| single || matches!(self.state(node), Some(State::Standby | State::Held));
        let whole = NODES
            .into_iter()
            .any(|node| serves(node) && holds_all(node) && rests(node.other()));
        match (whole, self.whole_since) {
            (true, None) => {
                self.whole_since = Some(self.now);
                let took = self.now.saturating_sub(self.heal_at);
                self.coverage.slowest = self.coverage.slowest.max((took, self.seed));
            }
            (false, Some(_)) => self.whole_since = None,
            _ => {}
        }
        let stuck = NODES.into_iter().find(|node| {
            self.state(*node) == Some(State::Held)
                && (single
                    || matches!(
                        self.state(node.other()),
                        Some(State::Held | State::Electing | State::Standby)
                    ))
        });
        if let Some(node) = stuck
            && !whole
            && !self.ledger.rescued
            && self.now > self.heal_at + 8_000_000
        {
            self.ledger.rescued = true;
            self.ask(node, Command::ForceMaster);
        }
        if !whole && self.now > self.heal_at + HEAL_US {
            let state = |node: Node| self.state(node).map_or("no daemon", State::name);
            let text = format!(
                "{} s after the last fault A is {} and B is {}",
                HEAL_US / 1_000_000,
                state(Node::A),
                state(Node::B)
            );
            self.violate("heals", text);
        }
    }
}
