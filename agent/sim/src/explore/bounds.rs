//! What an exploration is bounded by.

use super::world::Move;
use failover_core::config::{CoreConfig, DiskConfig, PoolConfig, Timing};
use failover_core::ids::{DiskId, Node, PoolId};
use std::fmt;

/// Faults and commands that may still come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Power losses.
    pub crashes: u8,
    /// Daemons killed.
    pub kills: u8,
    /// Daemons that stand still for any time.
    pub pauses: u8,
    /// Beats lost.
    pub losses: u8,
    /// Links cut, in both directions.
    pub cuts: u8,
    /// Disks that answer nobody for any time.
    pub disks: u8,
    /// Single commands to a disk, imports or exports that fail.
    pub failures: u8,
    /// Commands to a disk, imports or exports that take long.
    pub holds: u8,
    /// Times that a controller hears something before what comes first as a rule.
    pub disorder: u8,
    /// Operators' commands.
    pub commands: u8,
}

impl Budget {
    pub(super) fn spend(&mut self, chosen: Move) {
        let of = match chosen {
            Move::Crash(_) => &mut self.crashes,
            Move::Kill(_) => &mut self.kills,
            Move::Freeze(_) => &mut self.pauses,
            Move::Lose(..) => &mut self.losses,
            Move::Cut(_) => &mut self.cuts,
            Move::Pull(_) => &mut self.disks,
            Move::Fail(..) => &mut self.failures,
            Move::Hold(..) => &mut self.holds,
            Move::Passive(_) | Move::Disable(_, true) | Move::Restart(_) => &mut self.commands,
            _ => return,
        };
        *of = of.saturating_sub(1);
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.crashes, "power loss"),
            (self.kills, "daemon killed"),
            (self.pauses, "daemon paused"),
            (self.losses, "beat lost"),
            (self.cuts, "link cut"),
            (self.disks, "disk pulled"),
            (self.failures, "failure"),
            (self.holds, "held up"),
            (self.disorder, "out of order"),
            (self.commands, "command"),
        ];
        let some = all.iter().filter(|(count, _)| *count > 0);
        let words: Vec<String> = some
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        f.pad(&if words.is_empty() {
            "no fault".to_owned()
        } else {
            words.join(", ")
        })
    }
}

/// How much is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds; what every change must pass.
    Small,
    /// Minutes.
    Medium,
    /// Hours.
    Large,
}

/// The explorations of a size, each of them complete within its own bounds.
pub fn bounds_of(size: Size) -> Vec<Bounds> {
    let none = Budget::default();
    let of = |budget: Budget| Bounds {
        links: 2,
        disks: 3,
        budget,
    };
    let one_of_each = [
        Budget { crashes: 1, ..none },
        Budget { kills: 1, ..none },
        Budget { pauses: 1, ..none },
        Budget { cuts: 1, ..none },
        Budget { disks: 1, ..none },
        Budget {
            commands: 1,
            ..none
        },
    ];
    let small = [
        Budget {
            disorder: 1,
            ..none
        },
        Budget { losses: 1, ..none },
        Budget {
            failures: 1,
            ..none
        },
    ];
    let medium = [
        Budget { losses: 2, ..none },
        Budget {
            losses: 1,
            disorder: 1,
            ..none
        },
    ];
    let pairs = [
        Budget {
            crashes: 1,
            losses: 1,
            ..none
        },
        Budget {
            crashes: 1,
            disorder: 1,
            ..none
        },
        Budget {
            crashes: 1,
            disks: 1,
            ..none
        },
        Budget { crashes: 2, ..none },
        Budget {
            pauses: 1,
            disorder: 1,
            ..none
        },
        Budget {
            commands: 1,
            crashes: 1,
            ..none
        },
        Budget { cuts: 2, ..none },
    ];
    let budgets: Vec<Budget> = match size {
        Size::Small => small.to_vec(),
        Size::Medium => [&small[..], &medium, &one_of_each].concat(),
        Size::Large => [&small[..], &medium, &one_of_each, &pairs].concat(),
    };
    budgets.into_iter().map(of).collect()
}

/// Sizes and faults of one exploration.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Heartbeat links.
    pub links: u8,
    /// Shared disks, all of them arbiters.
    pub disks: u8,
    /// Faults, each at any moment.
    pub budget: Budget,
}

impl Bounds {
    /// Both controllers' configurations. The quick timers are the shipped ones; those that only bound how long something
    /// may take are shorter, so that their end is explored too.
    pub fn config(&self) -> [CoreConfig; 2] {
        [Node::A, Node::B].map(|node| CoreConfig {
            node,
            pair: 0x4e18,
            has_peer: true,
            links: self.links,
            disks: (1..=u64::from(self.disks))
                .map(|id| DiskConfig {
                    id: DiskId(id),
                    name: id.to_string(),
                })
                .collect(),
            pools: vec![PoolConfig {
                id: PoolId(0),
                name: "tank".to_owned(),
            }],
            arbiters: self.disks,
            version: String::new(),
            seed: 1 + node as u64,
            timing: timing(),
        })
    }
}

/// See [`Bounds::config`].
pub fn timing() -> Timing {
    Timing {
        restart_ms: 500,
        not_serving_ms: 500,
        hold_ms: 500,
        handover_ms: 500,
        alone_after_ms: 600,
        slow_roll_ms: 200,
        slow_lease_ms: 500,
        slow_watch_ms: 600,
        import_ms: 500,
        export_ms: 500,
        services_ms: 500,
        vips_ms: 500,
        record_ms: 500,
        ..Timing::default()
    }
}
