//! The rules that no seed may break, one function each with its rule in prose.
//!
//! The world calls them where things happen; they judge by what truly is, not by what a controller believes.

mod addresses;
mod commands;
mod ends;
mod imports;
mod links;
mod stale;
mod states;
mod steady;
mod writers;

use crate::disk_set::DiskSet;
use crate::plan::Plan;
use crate::world::{NODES, World};
use failover_core::beat::ArbiterList;
use failover_core::event::Command;
use failover_core::ids::{Node, OpId, RequestId};
use failover_core::key::Phase;
use std::collections::{BTreeMap, VecDeque};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// When, true time in microseconds.
    pub at: u64,
    /// What was seen.
    pub text: String,
}

/// The last import of a pool that began.
#[derive(Clone, Copy, Debug)]
struct Import {
    node: Node,
    disks: DiskSet,
}

/// A request of an operator that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: RequestId,
    node: Node,
    life: u32,
    at: u64,
    command: Command,
}

/// What the rules remember.
pub struct Ledger {
    imports: Vec<Option<Import>>,
    import_epochs: [u32; 2],
    /// Epoch of the keys that a controller asked for last.
    epochs: [u32; 2],
    /// Disks reported as taken in the running takeover.
    taken: [DiskSet; 2],
    /// Disks whose last work was a take.
    taking: [DiskSet; 2],
    /// Disks that were left, and not worked on with a new key since.
    left: [DiskSet; 2],
    surveys: [Vec<VecDeque<Vec<u64>>>; 2],
    sent: [VecDeque<(u64, u64)>; 2],
    sessions: [u64; 2],
    echo_proof: [u64; 2],
    /// By disk: when the newest take or roll that succeeded was asked for, and its phase.
    rolls: [Vec<Option<(u64, Phase)>>; 2],
    arbiters: [ArbiterList; 2],
    /// By disk: the run that has unanswered work on it.
    busy: [Vec<Option<u32>>; 2],
    /// The disk of each unanswered work.
    working: [BTreeMap<OpId, usize>; 2],
    pub(crate) halts: [u32; 2],
    /// The running takeover was begun because the peer is dead.
    dead_takeover: [bool; 2],
    forced: [bool; 2],
    last_active: [u64; 2],
    /// By controller: when its last handover went back, in this run of the daemon.
    went_back_at: [Option<u64>; 2],
    asked: Vec<Asked>,
    /// By disk: when the newest look that answered was asked for.
    looked: [Vec<u64>; 2],
    surveying_since: [u64; 2],
    /// The running takeover looks anew before it takes anything.
    looks_anew: [bool; 2],
    /// By disk: when a key of that controller changed on it.
    moved: [Vec<VecDeque<u64>>; 2],
    links_well_since: Vec<Option<u64>>,
    /// By link, by sender: since when it carries nothing.
    links_cut_since: Vec<[Option<u64>; 2]>,
    /// By controller: links that its alarms call silent, a bit each.
    links_told: [u8; 2],
    /// By controller: since when it isn't so late at every turn that it counts each pause as a stall of its own.
    judges_since: [Option<u64>; 2],
    /// By controller: since when nothing has ailed it or its disks, and since when it has been dark nevertheless.
    calm_since: [Option<u64>; 2],
    /// As `calm_since`, but that disks may be missing.
    reaching_since: [Option<u64>; 2],
    dark_since: [Option<u64>; 2],
    /// By controller, by disk: since when it answers nothing, or is another host's.
    missing_since: [Vec<Option<u64>>; 2],
    /// By controller: disks that its alarms have named since all were well.
    named: [DiskSet; 2],
    rescued: bool,
}

impl Ledger {
    /// Nothing has happened yet.
    pub fn new(plan: &Plan) -> Ledger {
        let disks = usize::from(plan.disks);
        let wanted = if disks < 3 { 1 } else { 3 };
        let list = ArbiterList {
            version: 0,
            disks: (0..wanted).map(crate::plan::disk_id).collect(),
            previous: Vec::new(),
        };
        Ledger {
            imports: vec![None; plan.pools.len()],
            import_epochs: [0; 2],
            epochs: [0; 2],
            taken: [DiskSet::EMPTY; 2],
            taking: [DiskSet::EMPTY; 2],
            left: [DiskSet::EMPTY; 2],
            surveys: [vec![VecDeque::new(); disks], vec![VecDeque::new(); disks]],
            sent: [VecDeque::new(), VecDeque::new()],
            sessions: [0; 2],
            echo_proof: [0; 2],
            rolls: [vec![None; disks], vec![None; disks]],
            arbiters: [list.clone(), list],
            busy: [vec![None; disks], vec![None; disks]],
            working: Default::default(),
            halts: [0; 2],
            dead_takeover: [false; 2],
            forced: [false; 2],
            last_active: [0; 2],
            went_back_at: [None; 2],
            asked: Vec::new(),
            looked: [vec![0; disks], vec![0; disks]],
            surveying_since: [0; 2],
            looks_anew: [false; 2],
            moved: [vec![VecDeque::new(); disks], vec![VecDeque::new(); disks]],
            links_well_since: vec![Some(0); usize::from(plan.links)],
            links_cut_since: vec![[None; 2]; usize::from(plan.links)],
            links_told: [0; 2],
            judges_since: [Some(0); 2],
            calm_since: [Some(0); 2],
            reaching_since: [Some(0); 2],
            dark_since: [None; 2],
            missing_since: [vec![None; disks], vec![None; disks]],
            named: [DiskSet::EMPTY; 2],
            rescued: false,
        }
    }

    /// A new run of a daemon: what an earlier run was told proves nothing to it.
    pub fn daemon_started(&mut self, node: Node, session: u64) {
        let at = node as usize;
        self.sessions[at] = session;
        self.sent[at].clear();
        self.echo_proof[at] = 0;
        self.forced[at] = false;
        self.went_back_at[at] = None;
        self.dead_takeover[at] = false;
        self.named[at] = DiskSet::EMPTY;
        self.links_told[at] = 0;
        self.left[at] = DiskSet::EMPTY;
        self.working[at].clear();
        for disk in 0..self.rolls[at].len() {
            self.rolls[at][disk] = None;
            self.busy[at][disk] = None;
            self.surveys[at][disk].clear();
        }
    }
}

impl World {
    pub(crate) fn violate(&mut self, rule: &'static str, text: String) {
        if self.violation.is_some() {
            return;
        }
        if self.story.on() {
            let line = format!("VIOLATION of {rule}: {text}");
            self.story.line(self.now, None, &line);
            let disks = self.describe_disks();
            self.story.line(self.now, None, &disks);
        }
        self.violation = Some(Violation {
            rule,
            at: self.now,
            text,
        });
    }

    pub(crate) fn story_of_plan(&mut self) {
        if self.story.on() {
            let text = format!("{:?}", self.plan);
            self.story.line(0, None, &text);
        }
    }

    // ---- at any time ---------------------------------------------------------------------------------------

    /// Looks at the rules that hold at any time.
    pub(crate) fn check(&mut self) {
        self.exclusive_writer();
        self.no_lingering_address();
        for node in NODES {
            self.standby_owns_nothing(node);
            self.ends(node);
            self.stays_lit(node);
            self.pool_with_its_address(node);
            self.losses(node);
            self.silent_links(node);
            self.steadily_verified(node);
            self.watchdog(node);
        }
        self.requests_end();
        if self.healing {
            self.heals();
        }
        self.end_if_done();
    }

    /// The hardware watchdog, where there is one.
    fn watchdog(&mut self, node: Node) {
        let Some(limit) = self.plan.watchdog_us else {
            return;
        };
        let machine = &self.machines[node as usize];
        if machine.powered && machine.petted.is_some_and(|at| at + limit < self.now) {
            tell!(self, node, "the watchdog bites");
            self.power_off(node);
            let boot = self.machines[node as usize].boot;
            let at = self.now + self.plan.boot_ms * 1000;
            let what = crate::queue::Happening::Boot { node, boot };
            self.queue.push(at, what);
        }
    }
}
