//! What the controller asks for, carried out.

use super::World;
use crate::queue::Happening;
use failover_core::action::{Action, Lease};
use failover_core::ids::Node;
use std::rc::Rc;

impl World {
    pub(crate) fn carry_out_actions(&mut self, node: Node, actions: Vec<Action>) {
        for action in actions {
            let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
                return;
            };
            let life = daemon.life;
            match action {
                Action::Run { op, work } => self.run_work(node, life, op, work),
                Action::Send(beat) => {
                    self.beat_sent(node, &beat);
                    self.send(node, Rc::new(beat));
                }
                Action::Lease(lease) => self.lease(node, life, lease),
                Action::Reply { request, reply } => self.replied(node, request, reply),
                Action::Notify(notice) => {
                    tell!(self, node, "[{}] {}", notice.id, notice.text);
                    self.noticed(node, &notice);
                    self.calm_handover(node, &notice);
                    self.noticed_of_links(node, &notice);
                    *self.coverage.notices.entry(notice.id).or_default() += 1;
                }
                Action::History(record) => {
                    tell!(
                        self,
                        node,
                        "{} -> {}  ({}; epoch {})",
                        record.from,
                        record.to,
                        record.why,
                        record.epoch
                    );
                    self.edge_taken(node, &record);
                }
                Action::PetWatchdog => self.machines[node as usize].petted = Some(self.now),
                Action::Halt(reason) => {
                    tell!(self, node, "HALT: {reason}");
                    self.coverage.halt(&reason);
                    self.halt_with_cause(node, &reason);
                    self.halted(node);
                    return;
                }
                Action::Exit => {
                    self.exited(node);
                    return;
                }
            }
        }
    }

    pub(crate) fn send(&mut self, node: Node, beat: Rc<failover_core::beat::Beat>) {
        for link in 0..self.plan.links {
            let condition = self.conditions.links[usize::from(link)][node as usize];
            let loss = u64::from(condition.loss).max(self.plan.loss);
            if condition.cut || loss > 0 && self.rng.percent(loss) {
                continue;
            }
            let copies = if condition.doubled > 0 && self.rng.percent(condition.doubled.into()) {
                2
            } else {
                1
            };
            for _ in 0..copies {
                let delay = 60
                    + self.rng.below(300)
                    + self.rng.below(u64::from(condition.delay_ms) * 1000 + 1);
                let beat = Rc::clone(&beat);
                let to = node.other();
                self.queue
                    .push(self.now + delay, Happening::Datagram { to, link, beat });
            }
        }
    }

    fn lease(&mut self, node: Node, life: u32, lease: Lease) {
        let now = self.now;
        let machine = &mut self.machines[node as usize];
        let until = match lease {
            Lease::End => None,
            Lease::Grant { until } | Lease::Renew { until } => Some(machine.true_time(until)),
        };
        let kernel = &mut machine.kernel;
        match (lease, until) {
            (Lease::End, _) | (_, None) => kernel.lease_until = None,
            (Lease::Grant { .. }, Some(until)) => {
                kernel.lease_until = Some(until);
                self.lease_given(node, until);
            }
            (Lease::Renew { .. }, Some(until)) => {
                if kernel.lease_until.is_some_and(|old| now < old) {
                    kernel.lease_until = Some(until);
                    self.lease_given(node, until);
                } else {
                    kernel.lease_until = None;
                    self.queue
                        .push(now + 50, Happening::LeaseLost { node, life });
                }
            }
        }
    }

    fn halted(&mut self, node: Node) {
        self.ledger.halts[node as usize] += 1;
        self.flush_journal(node);
        self.power_off(node);
        let boot = self.machines[node as usize].boot;
        let at = self.now + (self.rng.between(200, 1200) + self.plan.boot_ms) * 1000;
        self.queue.push(at, Happening::Boot { node, boot });
    }

    fn exited(&mut self, node: Node) {
        tell!(self, node, "the daemon ends");
        self.checked_exit(node);
        let machine = &mut self.machines[node as usize];
        machine.daemon = None;
        let restart = machine.stopping.take();
        let boot = machine.boot;
        if restart == Some(false) {
            machine.petted = None;
        }
        self.drop_lanes(node);
        if self.heal_at == u64::MAX && restart != Some(true) {
            return;
        }
        let after = match restart {
            Some(true) if self.heal_at == u64::MAX => 80_000,
            Some(true) if self.rng.percent(85) => self.rng.between(20_000, 300_000),
            Some(true) | None => self.rng.between(300_000, 4_000_000),
            Some(false) => self.rng.between(300_000, 3_000_000),
        };
        self.queue
            .push(self.now + after, Happening::Start { node, boot });
    }
}
