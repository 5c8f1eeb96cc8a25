//! What the faults that hold at a moment add up to.

use super::{Fault, LINKS_MAX};
use crate::disk_set::DiskSet;
use failover_core::ids::Node;

/// Condition of one link in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCondition {
    /// Carries nothing.
    pub cut: bool,
    /// Percentage lost.
    pub loss: u8,
    /// Delay at most, milliseconds.
    pub delay_ms: u16,
    /// Percentage doubled.
    pub doubled: u8,
}

/// Condition of one disk as one controller meets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCondition {
    /// Answers nothing.
    pub missing: bool,
    /// Holds commands.
    pub stuck: bool,
    /// Added to each way, milliseconds.
    pub slow_ms: u16,
    /// Percentage that fails.
    pub flaky: u8,
    /// Paths that are down, a bit each.
    pub paths_down: u8,
    /// Paths that hold commands, a bit each.
    pub paths_stuck: u8,
}

/// Condition of one kind of other work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCondition {
    /// Added, milliseconds.
    pub slow_ms: u16,
    /// Percentage that fails.
    pub fails: u8,
}

/// Everything that is wrong at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// By link, by sender.
    pub links: [[LinkCondition; 2]; LINKS_MAX],
    /// By controller, by disk.
    pub disks: [Vec<DiskCondition>; 2],
    /// The shelf has no power.
    pub shelf_down: bool,
    /// Percentages of answers that are late and that never come, by controller.
    pub answers: [(u8, u8); 2],
    /// By controller.
    pub journal: [WorkCondition; 2],
    /// By controller.
    pub pools: [WorkCondition; 2],
    /// By controller.
    pub services: [WorkCondition; 2],
    /// By controller.
    pub vips: [WorkCondition; 2],
    /// No carrier on the clients' network, by controller.
    pub lan_down: [bool; 2],
    /// The control loop runs late, by controller.
    pub busy: [bool; 2],
    /// Disks with keys of a host that isn't of the pair, a bit each.
    pub strangers: DiskSet,
    /// Exports can't be proved, by controller.
    pub unclean: [bool; 2],
    /// Longest wait of disk work for its turn, milliseconds, by controller.
    pub crowded_ms: [u16; 2],
    /// Percentage of commands that meet a unit attention which nothing explains, by controller.
    pub attentions: [u8; 2],
}

impl DiskCondition {
    /// A command over this path is held.
    pub fn holds(&self, path: u8) -> bool {
        self.stuck || self.paths_stuck >> path & 1 == 1
    }

    /// Nothing comes through over this path.
    pub fn is_shut(&self, path: u8) -> bool {
        (self.paths_down | self.paths_stuck) >> path & 1 == 1
    }
}

impl Conditions {
    /// Nothing is wrong with so many disks, nor with anything else.
    pub fn none(disks: usize) -> Conditions {
        let whole = || vec![DiskCondition::default(); disks];
        Conditions {
            links: Default::default(),
            disks: [whole(), whole()],
            shelf_down: false,
            answers: Default::default(),
            journal: Default::default(),
            pools: Default::default(),
            services: Default::default(),
            vips: Default::default(),
            lan_down: Default::default(),
            busy: Default::default(),
            strangers: DiskSet::EMPTY,
            unclean: Default::default(),
            crowded_ms: Default::default(),
            attentions: Default::default(),
        }
    }

    /// What these faults of a world with so many disks add up to.
    pub fn of(disks: usize, faults: impl Iterator<Item = Fault>) -> Conditions {
        let mut sum = Conditions::none(disks);
        for fault in faults {
            sum.add(fault);
        }
        sum
    }

    fn add(&mut self, fault: Fault) {
        let hits = |only: Option<Node>, node: Node| only.is_none_or(|only| only == node);
        match fault {
            Fault::LinkCut { link, from } => {
                for node in [Node::A, Node::B] {
                    self.links[usize::from(link)][node as usize].cut |= hits(from, node);
                }
            }
            Fault::LinksCut { from: None } => self.cut_links(),
            Fault::LinksCut { from: Some(from) } => {
                for link in &mut self.links {
                    link[from as usize].cut = true;
                }
            }
            Fault::LinkPoor {
                link,
                loss,
                delay_ms,
                doubled,
            } => {
                for condition in &mut self.links[usize::from(link)] {
                    condition.loss = condition.loss.max(loss);
                    condition.delay_ms = condition.delay_ms.max(delay_ms);
                    condition.doubled = condition.doubled.max(doubled);
                }
            }
            Fault::ShelfPower => self.shelf_down = true,
            Fault::DiskMissing { disk, to } => {
                for node in [Node::A, Node::B] {
                    self.disks[node as usize][usize::from(disk)].missing |= hits(to, node);
                }
            }
            Fault::Crowded { node, by_ms } => self.crowded_ms[node as usize] = by_ms,
            Fault::DisksMissing { disks, to } => {
                for node in [Node::A, Node::B]
                    .into_iter()
                    .filter(|node| hits(to, *node))
                {
                    for disk in disks.iter() {
                        self.disks[node as usize][disk].missing = true;
                    }
                }
            }
            Fault::DiskSlow { disk, by_ms } => self.both(disk, |d| d.slow_ms = by_ms),
            Fault::DiskStuck { disk } => self.both(disk, |d| d.stuck = true),
            Fault::DiskFlaky { disk, percent } => self.both(disk, |d| d.flaky = percent),
            Fault::PathDown { disk, node, path } => {
                self.disks[node as usize][usize::from(disk)].paths_down |= 1 << path;
            }
            Fault::PathStuck { disk, node, path } => {
                self.disks[node as usize][usize::from(disk)].paths_stuck |= 1 << path;
            }
            Fault::Answers { node, late, never } => self.answers[node as usize] = (late, never),
            Fault::Journal {
                node,
                slow_ms,
                fails,
            } => self.journal[node as usize] = WorkCondition { slow_ms, fails },
            Fault::Pools {
                node,
                slow_ms,
                fails,
            } => self.pools[node as usize] = WorkCondition { slow_ms, fails },
            Fault::Services {
                node,
                slow_ms,
                fails,
            } => self.services[node as usize] = WorkCondition { slow_ms, fails },
            Fault::Vips {
                node,
                slow_ms,
                fails,
            } => self.vips[node as usize] = WorkCondition { slow_ms, fails },
            Fault::Lan(node) => self.lan_down[node as usize] = true,
            Fault::Busy(node) => self.busy[node as usize] = true,
            Fault::Stranger { disks, .. } => self.strangers = self.strangers | disks,
            Fault::Unclean(node) => self.unclean[node as usize] = true,
            Fault::Attentions { node, percent } => self.attentions[node as usize] = percent,
            Fault::Pause(_)
            | Fault::Kill(_)
            | Fault::PowerLoss(_)
            | Fault::PairPowerLoss
            | Fault::DiskReset { .. }
            | Fault::Operator(..)
            | Fault::Stop { .. }
            | Fault::LeaseFlushed(_) => {}
        }
    }

    /// No link carries anything.
    pub fn cut_links(&mut self) {
        for condition in self.links.as_flattened_mut() {
            condition.cut = true;
        }
    }

    fn both(&mut self, disk: u16, change: impl Fn(&mut DiskCondition)) {
        for node in &mut self.disks {
            change(&mut node[usize::from(disk)]);
        }
    }
}
