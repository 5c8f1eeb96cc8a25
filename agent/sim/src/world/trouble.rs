//! Power and faults.

use super::{NODES, World};
use crate::faults::{Conditions, Fault};
use crate::queue::Happening;
use failover_core::event::Event;
use failover_core::ids::{LinkId, Node};

impl World {
    /// Takes a machine's power.
    pub(crate) fn power_off(&mut self, node: Node) {
        if !self.machines[node as usize].powered {
            return;
        }
        tell!(self, node, "no power");
        self.lose_journal(node);
        let machine = &mut self.machines[node as usize];
        machine.powered = false;
        machine.boot += 1;
        machine.daemon = None;
        machine.petted = None;
        machine.stopping = None;
        machine.kernel.lose_power();
        for lane in &mut machine.lanes {
            *lane = Default::default();
        }
        self.tell_links();
    }

    /// Gives a machine power; its daemon starts a little later.
    pub(crate) fn boot(&mut self, node: Node) {
        let wait = self.rng.between(5_000, 200_000);
        let machine = &mut self.machines[node as usize];
        if machine.powered {
            return;
        }
        machine.powered = true;
        machine.clock_zero = self.now as i64 - self.rng.between(1_000_000, 9_000_000) as i64;
        let boot = machine.boot;
        tell!(self, node, "boots");
        self.queue
            .push(self.now + wait, Happening::Start { node, boot });
        self.tell_links();
    }

    pub(crate) fn begin_episode(&mut self, index: u16) {
        let episode = self.episodes[usize::from(index)];
        self.active.push(index);
        self.begin_fault(episode.fault, episode.until);
    }

    pub(crate) fn end_episode(&mut self, index: u16) {
        if self.active.contains(&index) {
            self.active.retain(|each| *each != index);
            self.end_fault(self.episodes[usize::from(index)].fault);
        }
    }

    /// Begins a fault that ends at `until`.
    pub(crate) fn begin_fault(&mut self, fault: Fault, until: u64) {
        self.coverage.faults[fault.kind()] += 1;
        if self.story.on() && !self.brief {
            let text = format!(
                "FAULT {fault:?} for {} ms",
                until.saturating_sub(self.now) / 1000
            );
            self.story.line(self.now, None, &text);
        }
        self.recompute();
        match fault {
            Fault::Pause(node) => self.pause(node, until),
            Fault::Kill(node) => self.kill(node),
            Fault::PowerLoss(node) => self.power_off(node),
            Fault::PairPowerLoss => {
                self.power_off(Node::A);
                self.power_off(Node::B);
            }
            Fault::ShelfPower => self.shelf_off(),
            Fault::DiskReset { disk } => self.reset_disk(usize::from(disk)),
            Fault::Lan(_) => self.tell_lan(),
            Fault::Operator(node, command) => self.ask(node, command),
            Fault::Stop { node, restart } => self.stop(node, restart),
            Fault::LeaseFlushed(node) => {
                self.machines[node as usize].kernel.lease_until = None;
            }
            Fault::Stranger { disks, takes } => self.stranger_comes(disks, takes),
            Fault::Unclean(node) => {
                self.power_off(node);
                self.power_on(node);
            }
            Fault::LinkCut { .. }
            | Fault::LinksCut { .. }
            | Fault::LinkPoor { .. }
            | Fault::DiskMissing { .. }
            | Fault::DisksMissing { .. }
            | Fault::Crowded { .. }
            | Fault::PathStuck { .. }
            | Fault::Attentions { .. }
            | Fault::DiskSlow { .. }
            | Fault::DiskStuck { .. }
            | Fault::DiskFlaky { .. }
            | Fault::PathDown { .. }
            | Fault::Answers { .. }
            | Fault::Journal { .. }
            | Fault::Pools { .. }
            | Fault::Services { .. }
            | Fault::Vips { .. }
            | Fault::Busy(_) => {}
        }
    }

    /// Ends a fault.
    pub(crate) fn end_fault(&mut self, fault: Fault) {
        self.recompute();
        match fault {
            Fault::Kill(node) => self.start_daemon(node),
            Fault::PowerLoss(node) => self.power_on(node),
            Fault::PairPowerLoss => {
                self.power_on(Node::A);
                self.power_on(Node::B);
            }
            Fault::ShelfPower => self.shelf_on(),
            Fault::DiskStuck { .. } | Fault::PathStuck { .. } => self.release_stuck(),
            Fault::Stranger { disks, .. } => self.stranger_goes(disks),
            Fault::Lan(_) => self.tell_lan(),
            Fault::LinkCut { .. }
            | Fault::LinksCut { .. }
            | Fault::LinkPoor { .. }
            | Fault::Pause(_)
            | Fault::DiskMissing { .. }
            | Fault::DisksMissing { .. }
            | Fault::Crowded { .. }
            | Fault::Attentions { .. }
            | Fault::DiskSlow { .. }
            | Fault::DiskFlaky { .. }
            | Fault::PathDown { .. }
            | Fault::DiskReset { .. }
            | Fault::Answers { .. }
            | Fault::Journal { .. }
            | Fault::Pools { .. }
            | Fault::Services { .. }
            | Fault::Vips { .. }
            | Fault::Operator(..)
            | Fault::Stop { .. }
            | Fault::LeaseFlushed(_)
            | Fault::Unclean(_)
            | Fault::Busy(_) => {}
        }
    }

    fn power_on(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        if !machine.powered {
            let (boot, at) = (machine.boot, self.now + self.plan.boot_ms * 1000);
            self.queue.push(at, Happening::Boot { node, boot });
        }
    }

    /// Sums up the faults that hold now.
    pub(crate) fn recompute(&mut self) {
        let faults = self
            .active
            .iter()
            .map(|index| self.episodes[usize::from(*index)].fault);
        self.conditions = Conditions::of(self.bays.len(), faults);
        if self.plan.dark && !self.healing {
            self.conditions.cut_links();
        }
        self.conditions_changed();
        self.tell_links();
    }

    fn tell_lan(&mut self) {
        for node in NODES {
            let up = !self.conditions.lan_down[node as usize];
            if std::mem::replace(&mut self.machines[node as usize].lan_up, up) != up {
                self.feed(node, Event::Lan { up });
            }
        }
    }

    /// A link has a carrier unless it is cut both ways, or the machine at its other end has no power.
    fn tell_links(&mut self) {
        if !self.plan.temper.carrier {
            return;
        }
        for node in NODES {
            for link in 0..self.plan.links {
                let cut = self.conditions.links[usize::from(link)];
                let up =
                    self.machines[node.other() as usize].powered && !(cut[0].cut && cut[1].cut);
                let was = &mut self.machines[node as usize].links_up[usize::from(link)];
                if std::mem::replace(was, up) != up {
                    let link = LinkId(link);
                    self.feed(node, Event::Link { link, up });
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        if self.story.on() {
            self.story.line(
                self.now,
                None,
                "every fault ends; the pair must become whole",
            );
        }
        self.healing = true;
        for index in std::mem::take(&mut self.active) {
            self.end_fault(self.episodes[usize::from(index)].fault);
        }
        self.recompute();
        self.release_stuck();
        for (node, life, op, waited, outcome) in std::mem::take(&mut self.withheld) {
            self.done(node, life, op, waited, outcome);
        }
        for node in NODES {
            if self.machines[node as usize].powered {
                self.start_daemon(node);
            } else {
                self.power_on(node);
            }
        }
    }
}
