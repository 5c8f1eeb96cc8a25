//! What may go wrong, how often, per seed; and what the faults that hold at a moment add up to.

pub mod apart;

use crate::plan::Plan;
use crate::rng::Rng;
use failover_core::event::Command;
use failover_core::ids::Node;
use failover_core::settings::SettingsChange;

/// Greatest number of disks of a world.
pub const DISKS_MAX: usize = 8;
/// Greatest number of links of a world.
pub const LINKS_MAX: usize = 3;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A link carries nothing; one way if `from` says from whom.
    LinkCut {
        /// Which.
        link: u8,
        /// One way only.
        from: Option<Node>,
    },
    /// No link carries anything; one way if `from` says from whom.
    LinksCut {
        /// One way only.
        from: Option<Node>,
    },
    /// A link loses, delays, doubles and reorders.
    LinkPoor {
        /// Which.
        link: u8,
        /// Percentage lost.
        loss: u8,
        /// Delay at most, milliseconds.
        delay_ms: u16,
        /// Percentage doubled.
        doubled: u8,
    },
    /// SIGSTOP and SIGCONT of the daemon.
    Pause(Node),
    /// SIGKILL of the daemon; a new one starts when the fault ends.
    Kill(Node),
    /// A machine loses power; it boots when the fault ends.
    PowerLoss(Node),
    /// Both machines lose power.
    PairPowerLoss,
    /// The shelf loses power and gets it back.
    ShelfPower,
    /// A disk answers nothing, for one controller or both.
    DiskMissing {
        /// Which.
        disk: u8,
        /// To whom; both if absent.
        to: Option<Node>,
    },
    /// A disk is slow.
    DiskSlow {
        /// Which.
        disk: u8,
        /// Added to each command's way, milliseconds.
        by_ms: u16,
    },
    /// A disk holds every command until the fault ends or the command's time runs out.
    DiskStuck {
        /// Which.
        disk: u8,
    },
    /// Commands fail before or after they were carried out.
    DiskFlaky {
        /// Which.
        disk: u8,
        /// Percentage.
        percent: u8,
    },
    /// One path to one disk is down.
    PathDown {
        /// Which disk.
        disk: u8,
        /// From which controller.
        node: Node,
        /// Which path.
        path: u8,
    },
    /// A logical unit reset.
    DiskReset {
        /// Which.
        disk: u8,
    },
    /// Answers to work come late, or never.
    Answers {
        /// Whose.
        node: Node,
        /// Percentage that is late.
        late: u8,
        /// Percentage that never comes; of a disk: not before the faults end.
        never: u8,
    },
    /// Journal records are slow and fail.
    Journal {
        /// Whose.
        node: Node,
        /// Added, milliseconds.
        slow_ms: u16,
        /// Percentage that fails.
        fails: u8,
    },
    /// Imports and exports are slow and fail.
    Pools {
        /// Whose.
        node: Node,
        /// Added, milliseconds.
        slow_ms: u16,
        /// Percentage that fails.
        fails: u8,
    },
    /// Services are slow and fail.
    Services {
        /// Whose.
        node: Node,
        /// Added, milliseconds.
        slow_ms: u16,
        /// Percentage that fails.
        fails: u8,
    },
    /// Addresses are slow and fail.
    Vips {
        /// Whose.
        node: Node,
        /// Added, milliseconds.
        slow_ms: u16,
        /// Percentage that fails.
        fails: u8,
    },
    /// The clients' network is gone.
    Lan(Node),
    /// An operator asks.
    Operator(Node, Command),
    /// SIGTERM; a new daemon starts when the fault ends.
    Stop {
        /// Whose.
        node: Node,
        /// It comes back at once.
        restart: bool,
    },
    /// Somebody flushes the kernel's table: the lease is gone.
    LeaseFlushed(Node),
    /// The machine is busy: the control loop runs late.
    Busy(Node),
    /// A host that isn't of the pair registers on disks.
    Stranger {
        /// Which, a bit each.
        disks: u8,
        /// It takes them: everybody else's registration is gone.
        takes: bool,
    },
    /// A machine boots, and for a while nothing shows that its pools are exported.
    Unclean(Node),
    /// Several disks answer nothing, for one controller or both.
    DisksMissing {
        /// Which, a bit each.
        disks: u8,
        /// To whom; both if absent.
        to: Option<Node>,
    },
    /// A controller has more to do on its disks than goes at once: work waits for its turn.
    Crowded {
        /// Which.
        node: Node,
        /// For so long at most, milliseconds.
        by_ms: u16,
    },
    /// One path of a controller to a disk holds every command, as a stuck disk does.
    PathStuck {
        /// To which.
        disk: u8,
        /// Whose.
        node: Node,
        /// Which.
        path: u8,
    },
}

/// Kinds that `draw` knows: the first of `Fault::KINDS`.
const DRAWN: u64 = 26;

impl Fault {
    /// Names of the kinds, in the order of `kind`.
    pub const KINDS: [&'static str; 29] = [
        "link cut",
        "links cut",
        "link poor",
        "daemon paused",
        "daemon killed",
        "power loss",
        "power loss of both",
        "shelf power cycle",
        "disk missing",
        "disk slow",
        "disk stuck",
        "disk flaky",
        "path down",
        "disk reset",
        "answers late or never",
        "journal",
        "pools",
        "services",
        "addresses",
        "clients' network",
        "operator",
        "stop",
        "lease flushed",
        "busy",
        "another host's keys",
        "unclean boot",
        "disks missing",
        "crowded",
        "path stuck",
    ];

    /// Number of its kind.
    pub fn kind(self) -> usize {
        match self {
            Fault::LinkCut { .. } => 0,
            Fault::LinksCut { .. } => 1,
            Fault::LinkPoor { .. } => 2,
            Fault::Pause(_) => 3,
            Fault::Kill(_) => 4,
            Fault::PowerLoss(_) => 5,
            Fault::PairPowerLoss => 6,
            Fault::ShelfPower => 7,
            Fault::DiskMissing { .. } => 8,
            Fault::DiskSlow { .. } => 9,
            Fault::DiskStuck { .. } => 10,
            Fault::DiskFlaky { .. } => 11,
            Fault::PathDown { .. } => 12,
            Fault::DiskReset { .. } => 13,
            Fault::Answers { .. } => 14,
            Fault::Journal { .. } => 15,
            Fault::Pools { .. } => 16,
            Fault::Services { .. } => 17,
            Fault::Vips { .. } => 18,
            Fault::Lan(_) => 19,
            Fault::Operator(..) => 20,
            Fault::Stop { .. } => 21,
            Fault::LeaseFlushed(_) => 22,
            Fault::Busy(_) => 23,
            Fault::Stranger { .. } => 24,
            Fault::Unclean(_) => 25,
            Fault::DisksMissing { .. } => 26,
            Fault::Crowded { .. } => 27,
            Fault::PathStuck { .. } => 28,
        }
    }
}

/// A fault and its time.
#[derive(Clone, Copy, Debug)]
pub struct Episode {
    /// Begin, microseconds.
    pub at: u64,
    /// End, microseconds.
    pub until: u64,
    /// What.
    pub fault: Fault,
}

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// By link, by sender.
    pub links: [[LinkCondition; 2]; LINKS_MAX],
    /// By controller, by disk.
    pub disks: [[DiskCondition; DISKS_MAX]; 2],
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
    pub strangers: u8,
    /// Exports can't be proved, by controller.
    pub unclean: [bool; 2],
    /// Longest wait of disk work for its turn, milliseconds, by controller.
    pub crowded_ms: [u16; 2],
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
    /// What these faults add up to.
    pub fn of(faults: impl Iterator<Item = Fault>) -> Conditions {
        let mut sum = Conditions::default();
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
                    for (index, disk) in self.disks[node as usize].iter_mut().enumerate() {
                        disk.missing |= disks >> index & 1 == 1;
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
            Fault::Stranger { disks, .. } => self.strangers |= disks,
            Fault::Unclean(node) => self.unclean[node as usize] = true,
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

    fn both(&mut self, disk: u8, change: impl Fn(&mut DiskCondition)) {
        for node in &mut self.disks {
            change(&mut node[usize::from(disk)]);
        }
    }
}

/// The faults of a seed, and when they stop.
pub fn draw(rng: &mut Rng, plan: &Plan) -> (Vec<Episode>, u64) {
    let end = rng.between(11_000, 14_000) * 1000;
    let mut kinds: Vec<u64> = (0..DRAWN).collect();
    let share = rng.pick(&[10, 25, 45]);
    kinds.retain(|_| rng.percent(share));
    if kinds.is_empty() {
        kinds.push(rng.below(DRAWN));
    }
    let gap_us = rng.pick(&[300, 700, 1500, 3000]) * 1000;
    let longest_us = rng.pick(&[300, 1500, 5000]) * 1000;
    let mut at = rng.between(50, 2500) * 1000;
    let mut episodes = Vec::new();
    while at < end {
        let kind = rng.pick(&kinds);
        let until = (at + rng.between(20_000, longest_us)).min(end);
        if let Some(fault) = one(rng, plan, kind) {
            let until = match fault {
                // A volatile shelf needs longer than the watchdog: protocol.md section 6.
                Fault::ShelfPower if !plan.aptpl => at + rng.between(2_600, 4_000) * 1000,
                Fault::Pause(_) => {
                    let longest = rng.pick(&[90, 300, 1000, 4000]);
                    at + rng.between(10, longest) * 1000
                }
                // Longer than a controller tries before it gives up.
                Fault::Unclean(_) => at + (plan.boot_ms + rng.between(6_000, 12_000)) * 1000,
                _ => until,
            };
            // Nor may the end of all faults give a volatile shelf its power back before that.
            let cut_short = fault == Fault::ShelfPower && until > end;
            if !cut_short {
                episodes.push(Episode { at, until, fault });
            }
            if matches!(fault, Fault::Lan(_)) && at.is_multiple_of(3) {
                // One switch carried both: only the disks are left to speak.
                let fault = Fault::LinksCut { from: None };
                episodes.push(Episode { at, until, fault });
            }
        }
        at += rng.between(gap_us / 10, 2 * gap_us);
    }
    (episodes, end)
}

fn one(rng: &mut Rng, plan: &Plan, kind: u64) -> Option<Fault> {
    let node = match plan.single {
        true => Node::A,
        false => rng.pick(&[Node::A, Node::B]),
    };
    let disk = rng.below(u64::from(plan.disks)) as u8;
    let from = rng.pick(&[None, None, Some(Node::A), Some(Node::B)]);
    let slow_ms = rng.pick(&[0, 50, 400, 3000]);
    let fails = rng.pick(&[0, 20, 60, 100]);
    if kind <= 2 && plan.dark {
        return None;
    }
    let link = rng.below(u64::from(plan.links)) as u8;
    Some(match kind {
        0 => Fault::LinkCut { link, from },
        1 => Fault::LinksCut { from },
        2 => Fault::LinkPoor {
            link,
            loss: rng.pick(&[0, 10, 50, 90]),
            delay_ms: rng.pick(&[0, 5, 60, 400]),
            doubled: rng.pick(&[0, 20, 60]),
        },
        3 => Fault::Pause(node),
        4 => Fault::Kill(node),
        5 => Fault::PowerLoss(node),
        6 => Fault::PairPowerLoss,
        7 => Fault::ShelfPower,
        8 => Fault::DiskMissing { disk, to: from },
        9 => Fault::DiskSlow {
            disk,
            by_ms: rng.pick(&[5, 30, 120, 400]),
        },
        10 => Fault::DiskStuck { disk },
        11 => Fault::DiskFlaky {
            disk,
            percent: rng.pick(&[5, 30, 80]),
        },
        12 => Fault::PathDown {
            disk,
            node,
            path: rng.below(u64::from(plan.paths)) as u8,
        },
        13 => Fault::DiskReset { disk },
        14 => Fault::Answers {
            node,
            late: rng.pick(&[1, 5, 30]),
            never: rng.pick(&[0, 1, 5]),
        },
        15 => Fault::Journal {
            node,
            slow_ms,
            fails,
        },
        16 => Fault::Pools {
            node,
            slow_ms,
            fails,
        },
        17 => Fault::Services {
            node,
            slow_ms,
            fails,
        },
        18 => Fault::Vips {
            node,
            slow_ms,
            fails,
        },
        19 => Fault::Lan(node),
        20 => Fault::Operator(node, command(rng)),
        21 => Fault::Stop {
            node,
            restart: rng.percent(60),
        },
        22 => Fault::LeaseFlushed(node),
        23 => Fault::Busy(node),
        24 => stranger(rng, plan),
        _ => Fault::Unclean(node),
    })
}

/// One disk, a minority, or most of them.
fn stranger(rng: &mut Rng, plan: &Plan) -> Fault {
    let all = u64::from(plan.disks);
    let count = rng.pick(&[1, 1, (all / 2).max(1), all / 2 + 1]);
    let first = rng.below(all);
    let disks = (0..count.min(all)).fold(0, |bits, place| bits | 1 << ((first + place) % all));
    Fault::Stranger {
        disks,
        takes: rng.percent(70),
    }
}

fn command(rng: &mut Rng) -> Command {
    match rng.below(8) {
        0..=2 => Command::BecomePassive,
        3 | 4 => Command::ForceMaster,
        _ => {
            let disabled = rng.pick(&[None, Some(true), Some(false)]);
            let master = rng.pick(&[None, Some(Node::A), Some(Node::B)]);
            let timeout_s = rng.pick(&[None, None, Some(0), Some(1)]);
            Command::Update(SettingsChange {
                disabled,
                master,
                timeout_s,
            })
        }
    }
}
