//! The rules that no seed may break, one function each with its rule in prose.
//!
//! The world calls them where things happen; they judge by what truly is, not by what a controller believes.

use crate::disk::Nexus;
use crate::enclosure::{Flight, TaskKind, TaskRun};
use crate::faults::LinkCondition;
use crate::machine::disk_bits;
use crate::plan::{Plan, disk_index};
use crate::world::{NODES, World};
use failover_api::HistoryRecord;
use failover_core::action::{Action, HaltReason, Outcome, Refusal};
use failover_core::beat::{ArbiterList, Beat};
use failover_core::disk_work::{DiskOutcome, DiskWork};
use failover_core::event::{Command, Event};
use failover_core::ids::{DiskId, LinkId, Node, OpId, RequestId};
use failover_core::key::Phase;
use failover_core::pr::PrCommand;
use failover_core::states::State;
use std::collections::VecDeque;

/// Own beats whose sending times are remembered.
const SENT_MAX: usize = 128;
/// Surveys of one disk that are remembered.
const SURVEYS_MAX: usize = 24;
/// Changes of a key on one disk that are remembered.
const MOVES_MAX: usize = 160;
/// Time after the last fault within which the pair must be whole, microseconds.
const HEAL_US: u64 = 150_000_000;

/// A broken rule.
#[derive(Clone, Debug)]
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
    disks: u8,
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
    /// Disks reported as taken in the running takeover, a bit each.
    taken: [u8; 2],
    surveys: [Vec<VecDeque<Vec<u64>>>; 2],
    sent: [VecDeque<(u64, u64)>; 2],
    sessions: [u64; 2],
    echo_proof: [u64; 2],
    /// By disk: when the newest take or roll that succeeded was asked for, and its phase.
    rolls: [Vec<Option<(u64, Phase)>>; 2],
    arbiters: [ArbiterList; 2],
    busy: [Vec<Option<(u32, OpId)>>; 2],
    pub(crate) halts: [u32; 2],
    /// The running takeover was begun because the peer is dead.
    dead_takeover: [bool; 2],
    forced: [bool; 2],
    last_active: [u64; 2],
    asked: Vec<Asked>,
    /// By disk: when the newest look that answered was asked for.
    looked: [Vec<u64>; 2],
    surveying_since: [u64; 2],
    /// The running takeover looks anew before it takes anything.
    looks_anew: [bool; 2],
    /// By disk: when a key of that controller changed on it.
    moved: [Vec<VecDeque<u64>>; 2],
    links_well_since: Vec<Option<u64>>,
    rescued: bool,
}

impl Ledger {
    /// Nothing has happened yet.
    pub fn new(plan: &Plan) -> Ledger {
        let disks = usize::from(plan.disks);
        let none = || vec![None; disks];
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
            taken: [0; 2],
            surveys: [vec![VecDeque::new(); disks], vec![VecDeque::new(); disks]],
            sent: [VecDeque::new(), VecDeque::new()],
            sessions: [0; 2],
            echo_proof: [0; 2],
            rolls: [vec![None; disks], vec![None; disks]],
            arbiters: [list.clone(), list],
            busy: [none(), none()],
            halts: [0; 2],
            dead_takeover: [false; 2],
            forced: [false; 2],
            last_active: [0; 2],
            asked: Vec::new(),
            looked: [vec![0; disks], vec![0; disks]],
            surveying_since: [0; 2],
            looks_anew: [false; 2],
            moved: [vec![VecDeque::new(); disks], vec![VecDeque::new(); disks]],
            links_well_since: vec![Some(0); usize::from(plan.links)],
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
        self.dead_takeover[at] = false;
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

    // ---- writes --------------------------------------------------------------------------------------------

    /// no-write-after-loss: no write of one controller lands on a disk of a pool once the other began to import that
    /// pool with that disk. Commands that were inside the disk when it was fenced count: only an abort removes them.
    pub(crate) fn landed(&mut self, disk: usize, flight: Flight) {
        let writer = flight.nexus.node;
        self.landed_writes[flight.pool] += 1;
        let Some(import) = self.ledger.imports[flight.pool] else {
            return;
        };
        if import.node != writer && import.disks >> disk & 1 == 1 {
            let other = import.node;
            self.violate(
                "no-write-after-loss",
                format!(
                    "a write of {writer} landed on d{disk} (pool {}) after {other} began its import",
                    flight.pool
                ),
            );
        }
    }

    /// exclusive-writer: never have both controllers a pool imported and most of its disks accept both.
    fn exclusive_writer(&mut self) {
        for pool in 0..self.plan.pools.len() {
            let imported = |node: Node| self.machines[node as usize].kernel.imported[pool];
            let (Some(a), Some(b)) = (imported(Node::A), imported(Node::B)) else {
                continue;
            };
            let writes = |node: Node, disk: usize| {
                let paths = 0..self.plan.paths;
                let bay = &self.bays[disk].disk;
                paths
                    .map(|path| Nexus::new(node, path))
                    .any(|nexus| bay.may_write(nexus))
            };
            let both = (0..self.bays.len())
                .filter(|disk| (a & b) >> disk & 1 == 1)
                .filter(|disk| writes(Node::A, *disk) && writes(Node::B, *disk))
                .count();
            if 2 * both > self.plan.pools[pool].disks.len() {
                self.violate(
                    "exclusive-writer",
                    format!("both have pool {pool} imported and {both} of its disks accept both"),
                );
            }
        }
    }

    // ---- disk work -----------------------------------------------------------------------------------------

    /// Judges disk work when it is asked for.
    pub(crate) fn disk_work_asked(&mut self, node: Node, op: OpId, disk: usize, work: &DiskWork) {
        self.one_at_a_time(node, op, disk);
        let at = node as usize;
        match work {
            DiskWork::Take { key, surveyed } => {
                self.record_before_act(node, u64::from(key.epoch.0), "a key");
                self.ledger.epochs[at] = key.epoch.0;
                self.surveyed_before(node, disk, &surveyed.keys);
            }
            DiskWork::Roll { to, .. } | DiskWork::Answer { key: to } => {
                self.record_before_act(node, u64::from(to.epoch.0), "a key");
                if matches!(work, DiskWork::Roll { .. }) {
                    self.ledger.epochs[at] = to.epoch.0;
                }
            }
            DiskWork::Expel { victims, .. } => {
                let known = self.ledger.surveys[at][disk]
                    .iter()
                    .any(|seen| victims.iter().all(|victim| seen.contains(victim)));
                if !known {
                    self.violate(
                        "no-blind-preempt",
                        format!("{node} expels keys from d{disk} that no look had shown it"),
                    );
                }
            }
            DiskWork::Survey | DiskWork::Leave { .. } => {}
        }
    }

    /// one-at-a-time: no work on a disk is asked for while earlier work on it is unanswered.
    fn one_at_a_time(&mut self, node: Node, op: OpId, disk: usize) {
        let Some(daemon) = self.machines[node as usize].daemon.as_ref() else {
            return;
        };
        let life = daemon.life;
        let busy = self.ledger.busy[node as usize][disk].replace((life, op));
        if busy.is_some_and(|(of, _)| of == life) {
            self.violate(
                "one-at-a-time",
                format!("{node} asks for work on d{disk} while earlier work there is unanswered"),
            );
        }
    }

    /// no-blind-preempt: a takeover's keys to remove are exactly those that one look of this run has shown.
    fn surveyed_before(&mut self, node: Node, disk: usize, keys: &[u64]) {
        let known = self.ledger.surveys[node as usize][disk]
            .iter()
            .any(|seen| seen == keys);
        if !known {
            self.violate(
                "no-blind-preempt",
                format!("{node} takes d{disk} by a survey that no look had answered"),
            );
        }
    }

    /// no-blind-preempt: and each command preempts only those.
    pub(crate) fn command_issued(&mut self, task: &TaskRun) {
        let victim = match task.command {
            PrCommand::Preempt { victim, .. } | PrCommand::PreemptAbort { victim, .. } => victim,
            _ => return,
        };
        let named = match &task.kind {
            TaskKind::Take { surveyed, .. } => surveyed.contains(&victim),
            TaskKind::Expel { victims } => victims.contains(&victim),
            TaskKind::Look | TaskKind::Roll { .. } | TaskKind::Leave | TaskKind::Answer => false,
        };
        if !named {
            let (node, disk) = (task.node, task.disk);
            self.violate(
                "no-blind-preempt",
                format!("{node} preempts a key on d{disk} that it had not surveyed"),
            );
        }
    }

    /// no-release-without-export: nobody ends its reservation on a disk of a pool that it has imported.
    pub(crate) fn command_done(&mut self, task: &TaskRun) {
        let moves = matches!(
            task.command,
            PrCommand::Register { .. } | PrCommand::RegisterIgnore { .. }
        );
        if moves {
            let ring = &mut self.ledger.moved[task.node as usize][task.disk];
            if ring.len() == MOVES_MAX {
                ring.pop_front();
            }
            ring.push_back(self.now);
        }
        let ends = matches!(
            task.command,
            PrCommand::Register { new: 0, .. }
                | PrCommand::RegisterIgnore { new: 0 }
                | PrCommand::Release { .. }
                | PrCommand::Clear { .. }
        );
        let (node, disk) = (task.node, task.disk);
        if !ends || self.bays[disk].disk.holder().is_some() {
            return;
        }
        let machine = &self.machines[node as usize];
        let used = (0..self.plan.pools.len())
            .filter_map(|pool| machine.kernel.writes(pool))
            .any(|disks| disks >> disk & 1 == 1);
        if used && machine.powered {
            self.violate(
                "no-release-without-export",
                format!("{node} ended the reservation of d{disk} with a pool on it imported"),
            );
        }
    }

    /// Remembers what disk work proved.
    pub(crate) fn disk_work_ended(&mut self, task: &TaskRun, outcome: &DiskOutcome) {
        if !self.lives_on(task.node, task.life) {
            return;
        }
        let at = task.node as usize;
        let survey = match outcome {
            DiskOutcome::Surveyed(survey)
            | DiskOutcome::Fenced(survey)
            | DiskOutcome::LostRace(Some(survey)) => Some(survey),
            _ => None,
        };
        if matches!(task.kind, TaskKind::Look) && survey.is_some() {
            self.ledger.looked[at][task.disk] = task.issued;
        }
        if let Some(survey) = survey {
            let ring = &mut self.ledger.surveys[at][task.disk];
            if ring.back() != Some(&survey.keys) {
                if ring.len() == SURVEYS_MAX {
                    ring.pop_front();
                }
                ring.push_back(survey.keys.clone());
            }
        }
        let proof = match (&task.kind, outcome) {
            (TaskKind::Take { key, .. }, DiskOutcome::Taken) => {
                if key.epoch.0 == self.ledger.epochs[at] {
                    self.ledger.taken[at] |= 1 << task.disk;
                }
                Some(key.phase)
            }
            (TaskKind::Roll { to }, DiskOutcome::Rolled { .. }) => Some(to.phase),
            _ => None,
        };
        if let Some(phase) = proof {
            self.ledger.rolls[at][task.disk] = Some((task.issued, phase));
        }
    }

    /// Notes that work was answered.
    pub(crate) fn answer_delivered(&mut self, node: Node, op: OpId) {
        for busy in &mut self.ledger.busy[node as usize] {
            if busy.is_some_and(|(_, of)| of == op) {
                *busy = None;
            }
        }
    }

    // ---- epochs, imports -----------------------------------------------------------------------------------

    /// record-before-act: an epoch is durable in the journal before a disk or the peer sees it.
    fn record_before_act(&mut self, node: Node, epoch: u64, where_to: &str) {
        let durable = self.machines[node as usize].kernel.durable.epoch.0;
        if epoch > durable {
            self.violate(
                "record-before-act",
                format!("{node} shows epoch {epoch} in {where_to}; its journal has {durable}"),
            );
        }
    }

    /// Judges an import when it begins.
    pub(crate) fn import_begins(&mut self, node: Node, pool: usize, won: &[DiskId]) {
        let won = disk_bits(won);
        self.fence_before_import(node, won);
        self.epoch_advances(node);
        let of_pool = self.plan.pools[pool]
            .disks
            .iter()
            .fold(0, |bits, disk| bits | 1 << disk);
        let already = self.machines[node as usize].kernel.imported[pool].is_some();
        let lacking = (of_pool & !won).count_ones() as usize;
        let refused = lacking > usize::from(self.plan.pools[pool].spare);
        if !already && !refused {
            self.ledger.imports[pool] = Some(Import {
                node,
                disks: of_pool & won,
            });
        }
    }

    /// fence-before-import: an import names only disks that were reported as taken in this takeover (or stand in the
    /// owner record of this boot), and they are more than half of all.
    fn fence_before_import(&mut self, node: Node, won: u8) {
        let taken = self.ledger.taken[node as usize];
        let owner = &self.machines[node as usize].kernel.owner;
        let recorded = owner.as_ref().map_or(0, |owner| disk_bits(&owner.won));
        if won & !(taken | recorded) != 0 {
            self.violate(
                "fence-before-import",
                format!("{node} imports with disks {won:08b}; it had taken {taken:08b}"),
            );
        }
        if 2 * won.count_ones() as usize <= self.bays.len() {
            let all = self.bays.len();
            self.violate(
                "fence-before-import",
                format!("{node} imports with {} of {all} disks", won.count_ones()),
            );
        }
    }

    /// With the keys of volatile disks the memory of past epochs goes: a controller that was off meanwhile can't know
    /// them. `accept_volatile_reservations` accepts that; the watchdog has reset whoever might still write.
    pub(crate) fn keys_are_gone(&mut self) {
        self.ledger.import_epochs = [0; 2];
    }

    /// epoch-advances: every import is in a greater epoch than every import of the other controller before it.
    fn epoch_advances(&mut self, node: Node) {
        let epoch = self.ledger.epochs[node as usize];
        let other = self.ledger.import_epochs[node.other() as usize];
        let own = self.ledger.import_epochs[node as usize];
        if epoch <= other || epoch < own {
            self.violate(
                "epoch-advances",
                format!(
                    "{node} imports in epoch {epoch}, after imports in {other} and its own in {own}"
                ),
            );
        }
        self.ledger.import_epochs[node as usize] = own.max(epoch);
    }

    pub(crate) fn import_ended(&mut self, node: Node) {
        self.exclusive_writer();
        self.fresh_import(node);
    }

    /// fresh-import: an import trusts nothing that was read before the last disk was fenced.
    fn fresh_import(&mut self, node: Node) {
        if std::mem::take(&mut self.machines[node as usize].kernel.stale_import) {
            self.violate(
                "fresh-import",
                format!("{node} imported blocks that the other controller wrote over after they were read ahead"),
            );
        }
    }

    /// import-before-address: services start and addresses come up only where a pool is imported.
    pub(crate) fn services_begin(&mut self, node: Node) {
        self.import_before(node, "services start");
    }

    /// import-before-address, of addresses.
    pub(crate) fn vips_begin(&mut self, node: Node) {
        self.import_before(node, "addresses come up");
    }

    fn import_before(&mut self, node: Node, what: &str) {
        if !self.machines[node as usize].kernel.has_pool() {
            self.violate(
                "import-before-address",
                format!("{what} on {node} without any imported pool"),
            );
        }
    }

    // ---- addresses and their lease -------------------------------------------------------------------------

    /// one-answers: the virtual addresses are never answered, nor announced, by one controller while the other's
    /// lease lives and its addresses are on.
    pub(crate) fn addresses_changed(&mut self, node: Node) {
        let now = self.now;
        let other = node.other();
        let answers = |node: Node| self.machines[node as usize].kernel.answers(now);
        if answers(node) && answers(other) {
            self.violate(
                "one-answers",
                format!("{node} brings its addresses up while {other} still answers"),
            );
        }
    }

    /// lease-by-proof: a lease ends no later than its proof allows, counted from when the proof was asked for: an
    /// own beat that the peer echoed, or rolls that succeeded on a majority of the arbiters.
    pub(crate) fn lease_given(&mut self, node: Node, until: u64) {
        self.addresses_changed(node);
        let timing = &self.plan.timing;
        let (lease, slow, restart) = (
            timing.vip_lease_ms * 1000,
            timing.slow_lease_ms * 1000,
            timing.restart_ms * 1000,
        );
        let at = node as usize;
        let by_phase = |phase: Option<Phase>, validity: u64| {
            self.roll_majority(node, phase)
                .map_or(0, |asked| asked + validity)
        };
        let allowed = (self.ledger.echo_proof[at] + lease)
            .max(by_phase(None, lease))
            .max(by_phase(Some(Phase::OwnerSlow), slow))
            .max(by_phase(Some(Phase::Restarting), restart));
        if until > allowed + 1 {
            self.violate(
                "lease-by-proof",
                format!(
                    "{node} has a lease until {until} us; its proofs allow {allowed} us (echo of {} us)",
                    self.ledger.echo_proof[at]
                ),
            );
        }
    }

    /// The latest moment such that a majority was rolled at it or later.
    fn roll_majority(&self, node: Node, phase: Option<Phase>) -> Option<u64> {
        let at = node as usize;
        let asked = |disk: usize| {
            self.ledger.rolls[at]
                .get(disk)
                .copied()
                .flatten()
                .filter(|(_, rolled)| phase.is_none_or(|phase| *rolled == phase))
                .map(|(asked, _)| asked)
        };
        let majority = |disks: &mut dyn Iterator<Item = usize>| -> Option<u64> {
            let mut times: Vec<Option<u64>> = disks.map(asked).collect();
            times.sort_unstable();
            let half = (times.len() - 1) / 2;
            times.get(half).copied().flatten()
        };
        let list = &self.ledger.arbiters[at];
        let mut by_list = majority(&mut list.disks.iter().map(|id| disk_index(*id)));
        if !list.previous.is_empty() {
            by_list = by_list.min(majority(
                &mut list.previous.iter().map(|id| disk_index(*id)),
            ));
        }
        by_list.max(majority(&mut (0..self.bays.len())))
    }

    /// no-lingering-address: a controller whose pools the other has long imported answers no more.
    fn no_lingering_address(&mut self) {
        for node in NODES {
            if !self.machines[node as usize].kernel.answers(self.now) {
                continue;
            }
            let other = node.other();
            let serving = self.state(other) == Some(State::Active)
                && self.machines[other as usize].kernel.has_pool();
            if serving && self.machines[other as usize].kernel.answers(self.now) {
                self.violate(
                    "no-lingering-address",
                    format!("{node} still answers while {other} serves"),
                );
            }
        }
    }

    // ---- beats ---------------------------------------------------------------------------------------------

    /// Judges and remembers a beat that is sent.
    pub(crate) fn beat_sent(&mut self, node: Node, beat: &Beat) {
        self.record_before_act(node, beat.epoch.0, "a beat");
        let at = node as usize;
        let ring = &mut self.ledger.sent[at];
        if ring.len() == SENT_MAX {
            ring.pop_front();
        }
        ring.push_back((beat.seq, self.now));
        if self.ledger.arbiters[at] != beat.arbiters {
            self.ledger.arbiters[at] = beat.arbiters.clone();
        }
    }

    /// Remembers which own beat came back as an echo.
    pub(crate) fn heard_echo(&mut self, node: Node, beat: &Beat) {
        let at = node as usize;
        let Some(echo) = beat
            .echo
            .filter(|e| e.session.0 == self.ledger.sessions[at])
        else {
            return;
        };
        if let Some((_, sent)) = self.ledger.sent[at]
            .iter()
            .find(|(seq, _)| *seq == echo.seq)
        {
            self.ledger.echo_proof[at] = self.ledger.echo_proof[at].max(*sent);
        }
    }

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
            Event::Done { op, outcome },
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

    // ---- states --------------------------------------------------------------------------------------------

    /// Follows a change of state.
    pub(crate) fn state_changed(&mut self, node: Node, before: State, after: State) {
        if before == State::Active {
            self.ledger.last_active[node as usize] = self.now;
        }
        if after == State::FencingArbiters {
            self.ledger.taken[node as usize] = 0;
            self.looks_first(node);
            if self.ledger.dead_takeover[node as usize] {
                self.no_false_takeover(node);
            }
        }
        self.standby_owns_nothing(node);
    }

    /// Follows an edge.
    pub(crate) fn edge_taken(&mut self, node: Node, record: &HistoryRecord) {
        self.coverage.edge(&record.from, &record.to, &record.why);
        if record.to == "surveying" {
            let at = node as usize;
            self.ledger.dead_takeover[at] = record.why.ends_with("dead");
            self.ledger.surveying_since[at] = self.now;
            let handover = record.why.contains("handing-over");
            self.ledger.looks_anew[at] = !handover && !self.ledger.dead_takeover[at];
            self.reset_hold(node);
        }
    }

    /// reset-hold: a controller that reset itself twice within `reset_hold_min` takes nothing until an operator says so.
    fn reset_hold(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        if machine.kernel.durable.resets >= 2
            && self.plan.timing.reset_hold_min > 0
            && !self.ledger.forced[node as usize]
            && machine
                .daemon
                .as_ref()
                .is_some_and(|daemon| daemon.running_since + 50_000_000 > self.now)
            && self.ledger.halts[node as usize] >= 2
        {
            let resets = machine.kernel.durable.resets;
            self.violate(
                "reset-hold",
                format!("{node} takes over after {resets} self-resets"),
            );
        }
    }

    /// standby-owns-nothing: a controller that doesn't own has no pool, no address, no service.
    fn standby_owns_nothing(&mut self, node: Node) {
        let Some(state) = self.state(node) else {
            return;
        };
        let nothing = match state {
            State::Electing
            | State::Standby
            | State::Surveying
            | State::FencingArbiters
            | State::FencingRest
            | State::WritingHandover
            | State::HandedOver
            | State::Reverting
            | State::Yielding
            | State::Stopping
            | State::Held => true,
            State::Starting
            | State::Adopting
            | State::Importing
            | State::StartingServices
            | State::Announcing
            | State::Active
            | State::Failed
            | State::RemovingVips
            | State::StoppingServices
            | State::Exporting
            | State::Restarting
            | State::Halted => false,
        };
        let kernel = &self.machines[node as usize].kernel;
        let what = [
            (kernel.has_pool(), "a pool imported"),
            (kernel.vips, "addresses on"),
            (kernel.services, "services up"),
        ];
        if nothing && let Some((_, what)) = what.into_iter().find(|(here, _)| *here) {
            self.violate(
                "standby-owns-nothing",
                format!("{node} is {} with {what}", state.name()),
            );
        }
    }

    /// no-false-takeover: while the owner serves, and one link delivers both ways or both controllers reach every
    /// disk, no takeover for its death begins.
    fn no_false_takeover(&mut self, taker: Node) {
        let owner = taker.other();
        let timing = &self.plan.timing;
        let quiet_ms = timing.dead_ms.max(timing.disk_silent_ms)
            + timing.roll_after_ms
            + 2 * timing.disk_beat_ms
            + timing.disk_op_ms
            + 4 * self.plan.jitter_us / 1000;
        let long_ago = self.now.saturating_sub(quiet_ms * 1000);
        let Some(daemon) = self.machines[owner as usize].daemon.as_ref() else {
            return;
        };
        let serving = daemon.controller.state() == State::Active
            && !daemon.paused
            && daemon.running_since.max(daemon.state_since) <= long_ago;
        let by_link = self
            .ledger
            .links_well_since
            .iter()
            .any(|well| well.is_some_and(|since| since <= long_ago));
        let by_disks = !self.keys_may_look_still(owner);
        if serving && (by_link || by_disks) {
            let channel = if by_link { "a link" } else { "the disks" };
            self.violate(
                "no-false-takeover",
                format!("{taker} takes over from {owner}, which serves; {channel} said so"),
            );
        }
    }

    /// Whether a majority of the arbiters, or more than half of all disks, can have shown unchanged keys of `owner`
    /// for `disk_silent_ms` to looks that ended no longer ago than a look may take.
    fn keys_may_look_still(&self, owner: Node) -> bool {
        let timing = &self.plan.timing;
        let window = timing.disk_silent_ms * 1000;
        let look = (timing.disk_read_ms + timing.disk_op_ms) * 1000 + 4 * self.plan.jitter_us;
        let from = self.now.saturating_sub(window + look + 60_000);
        let still = |disk: usize| {
            let mut last = from;
            let moves = self.ledger.moved[owner as usize][disk].iter().copied();
            for at in moves.filter(|at| *at > from).chain([self.now]) {
                if at - last >= window {
                    return true;
                }
                last = at;
            }
            false
        };
        let list = &self.ledger.arbiters[owner.other() as usize].disks;
        let arbiters = list.iter().filter(|id| still(disk_index(**id))).count();
        let all = (0..self.bays.len()).filter(|disk| still(*disk)).count();
        2 * arbiters > list.len() || 2 * all > self.bays.len()
    }

    /// looks-first: a taker writes nothing to any disk before a majority of the arbiters answered its looks.
    fn looks_first(&mut self, node: Node) {
        let at = node as usize;
        if !self.ledger.looks_anew[at] {
            return;
        }
        let since = self.ledger.surveying_since[at];
        let looked = |disk: usize| self.ledger.looked[at][disk] >= since;
        let list = &self.ledger.arbiters[at].disks;
        let arbiters = list.iter().filter(|id| looked(disk_index(**id))).count();
        let all = (0..self.bays.len()).filter(|disk| looked(*disk)).count();
        if 2 * arbiters <= list.len() && 2 * all <= self.bays.len() {
            self.violate(
                "looks-first",
                format!("{node} takes disks after {arbiters} arbiters answered its look"),
            );
        }
    }

    /// halt-with-cause: nobody resets itself for being fenced while it holds most disks and most arbiters.
    pub(crate) fn halt_with_cause(&mut self, node: Node, reason: &HaltReason) {
        if !matches!(reason, HaltReason::Fenced { .. }) {
            return;
        }
        let holds = |disk: usize| {
            let holder = self.bays[disk].disk.holder();
            holder.is_some_and(|holder| holder.node == node)
        };
        let lists = &self.ledger.arbiters[node as usize];
        let most = |list: &[DiskId]| {
            let held = list.iter().filter(|id| holds(disk_index(**id))).count();
            list.is_empty() || 2 * held > list.len()
        };
        // Until the peer knows a changed list, it may win by the one before.
        let arbiters = most(&lists.disks) && most(&lists.previous);
        let all = (0..self.bays.len()).filter(|disk| holds(*disk)).count();
        if arbiters && 2 * all > self.bays.len() {
            self.violate(
                "halt-with-cause",
                format!("{node} resets itself as fenced and holds {all} disks and the arbiters"),
            );
        }
    }

    /// Follows the health of the links.
    pub(crate) fn conditions_changed(&mut self) {
        let now = self.now;
        let conditions = &self.conditions;
        let busy = conditions.busy != [false; 2];
        let follow = |well: &mut Option<u64>, ill: bool| match (ill, &well) {
            (true, _) => *well = None,
            (false, None) => *well = Some(now),
            (false, Some(_)) => {}
        };
        for (link, well) in self.ledger.links_well_since.iter_mut().enumerate() {
            let ill = busy || conditions.links[link] != [LinkCondition::default(); 2];
            follow(well, ill);
        }
    }

    /// Before a daemon ends by itself.
    pub(crate) fn checked_exit(&mut self, node: Node) {
        if self.machines[node as usize].stopping.is_none() {
            self.violate(
                "ends",
                format!("{node}: the daemon ends, nobody told it to"),
            );
        }
    }

    // ---- operators -----------------------------------------------------------------------------------------

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

    // ---- at any time ---------------------------------------------------------------------------------------

    /// Looks at the rules that hold at any time.
    pub(crate) fn check(&mut self) {
        self.exclusive_writer();
        self.no_lingering_address();
        for node in NODES {
            self.standby_owns_nothing(node);
            self.ends(node);
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

    /// ends: no step of a takeover or handover lasts longer than its deadlines allow.
    fn ends(&mut self, node: Node) {
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
                timing.vips_ms + timing.slow_watch_ms.max(timing.restart_ms) + timing.disk_lost_ms
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
    fn requests_end(&mut self) {
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

    /// heals: within a bound after the last fault exactly one controller serves, a pool imported, the addresses
    /// answering and every disk its own; the other stands by, or is held for an operator, and is registered nowhere.
    fn heals(&mut self) {
        let serves = |node: Node| {
            let kernel = &self.machines[node as usize].kernel;
            self.state(node) == Some(State::Active)
                && kernel.has_pool()
                && kernel.services
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
        let rests = |node: Node| matches!(self.state(node), Some(State::Standby | State::Held));
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
                && matches!(
                    self.state(node.other()),
                    Some(State::Held | State::Electing | State::Standby)
                )
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
