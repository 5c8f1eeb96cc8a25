//! What may go wrong, how often, per seed.

pub mod apart;
mod conditions;
pub mod wide;

pub use conditions::{Conditions, DiskCondition, LinkCondition, WorkCondition};

use crate::disk_set::DiskSet;
use crate::plan::{Plan, Width};
use crate::rng::Rng;
use failover_core::event::Command;
use failover_core::ids::Node;
use failover_core::settings::SettingsChange;

/// Greatest number of links of a world.
pub const LINKS_MAX: usize = 8;

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
        disk: u16,
        /// To whom; both if absent.
        to: Option<Node>,
    },
    /// A disk is slow.
    DiskSlow {
        /// Which.
        disk: u16,
        /// Added to each command's way, milliseconds.
        by_ms: u16,
    },
    /// A disk holds every command until the fault ends or the command's time runs out.
    DiskStuck {
        /// Which.
        disk: u16,
    },
    /// Commands fail before or after they were carried out.
    DiskFlaky {
        /// Which.
        disk: u16,
        /// Percentage.
        percent: u8,
    },
    /// One path to one disk is down.
    PathDown {
        /// Which disk.
        disk: u16,
        /// From which controller.
        node: Node,
        /// Which path.
        path: u8,
    },
    /// A logical unit reset.
    DiskReset {
        /// Which.
        disk: u16,
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
        /// Which.
        disks: DiskSet,
        /// It takes them: everybody else's registration is gone.
        takes: bool,
    },
    /// A machine boots, and for a while nothing shows that its pools are exported.
    Unclean(Node),
    /// Several disks answer nothing, for one controller or both.
    DisksMissing {
        /// Which.
        disks: DiskSet,
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
        disk: u16,
        /// Whose.
        node: Node,
        /// Which.
        path: u8,
    },
    /// Commands of a controller meet unit attentions that nothing explains.
    Attentions {
        /// Whose.
        node: Node,
        /// Percentage.
        percent: u8,
    },
}

/// Kinds that `draw` knows: the first of `Fault::KINDS`.
const DRAWN: u64 = 26;

impl Fault {
    /// Names of the kinds, in the order of `kind`.
    pub const KINDS: [&'static str; 30] = [
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
        "unit attentions",
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
            Fault::Attentions { .. } => 29,
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

/// The faults of a seed, and when they stop.
pub fn draw(rng: &mut Rng, plan: &Plan) -> (Vec<Episode>, u64) {
    let end = rng.between(11_000, 14_000) * 10 * plan.faulty_percent;
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
    let disk = one_disk(rng, plan);
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

/// Any disk; where there are many, in half of all cases one of the first, among which the arbiters are.
pub(crate) fn one_disk(rng: &mut Rng, plan: &Plan) -> u16 {
    let disk = rng.below(u64::from(plan.disks)) as u16;
    match plan.width {
        Width::Middle | Width::Large if disk.is_multiple_of(2) => disk % 6,
        _ => disk,
    }
}

/// One disk, a minority, or most of them.
fn stranger(rng: &mut Rng, plan: &Plan) -> Fault {
    let all = u64::from(plan.disks);
    let count = rng.pick(&[1, 1, (all / 2).max(1), all / 2 + 1]);
    let first = rng.below(all);
    let disks = (0..count.min(all)).map(|place| ((first + place) % all) as usize);
    let disks = disks.collect();
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
