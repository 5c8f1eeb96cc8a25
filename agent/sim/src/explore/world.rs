//! The pair as a value: two machines with the shipped core, their wires, the shared disks. Whatever happens next is a
//! [`Move`]; which of them, and in what order, is whoever's choice.
//!
//! ```text
//!   machine A [core, journal, pools, addresses, work] ──wire── machine B
//!                        └──────── disk 0 · disk 1 · disk 2 ────────┘
//! ```
//!
//! Time stands still but for `Move::Advance`, which goes to the next moment at which anything is due. Before it, every
//! beat on a wire has come or was lost, every timer that is due was heard by whoever runs, and every command was answered
//! but those that are held up. Of what is due at one moment any order is possible; each choice that isn't the first one of
//! the rule (beats, then answers, then timers, first those of A) costs from the budget (delay bounding: Emmi, Qadeer,
//! Rakamaric, POPL 2011).

use super::bounds::Budget;
use crate::disk::{Disk, Nexus};
use failover_core::action::{Action, Lease, Outcome, Restored, Work};
use failover_core::beat::Beat;
use failover_core::config::CoreConfig;
use failover_core::controller::Controller;
use failover_core::disk_work::{DiskStep, DiskTask};
use failover_core::event::{Command, Event};
use failover_core::ids::{DiskId, Epoch, LinkId, Node, OpId, PathId, RequestId};
use failover_core::pr::{PrCommand, PrError};
use failover_core::settings::SettingsChange;
use failover_core::states::State;
use failover_core::time::Instant;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Both controllers.
pub const NODES: [Node; 2] = [Node::A, Node::B];
/// The moment that every stored state is at.
pub const NOON: Instant = Instant::from_millis(1_000_000);

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// The oldest beat on a link to this controller arrives.
    Deliver(Node, u8),
    /// It is lost.
    Lose(Node, u8),
    /// The next step of this controller's work in flight, counted from the oldest, is done.
    Step(Node, u8),
    /// It fails: the path of a disk, or the work.
    Fail(Node, u8),
    /// It takes long: it may be done at any later time.
    Hold(Node, u8),
    /// A timer of this controller is due.
    Wake(Node),
    /// Time goes on to the next moment at which anything is due.
    Advance,
    /// Loses its power.
    Crash(Node),
    /// Gets power, and its daemon starts.
    Boot(Node),
    /// Its daemon is killed; kernel, pools and addresses stay.
    Kill(Node),
    /// Its daemon starts.
    Start(Node),
    /// Its daemon stands still.
    Freeze(Node),
    /// It goes on.
    Thaw(Node),
    /// A heartbeat link is dead in both directions.
    Cut(u8),
    /// It is whole again.
    Mend(u8),
    /// A disk answers nobody.
    Pull(u8),
    /// It answers again, with what it had.
    Insert(u8),
    /// An operator asks it to become passive.
    Passive(Node),
    /// An operator turns automatic failover off, or on again.
    Disable(Node, bool),
    /// Its daemon is asked to restart.
    Restart(Node),
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

impl Move {
    /// Whether it is part of the ordinary course, which no budget bounds.
    pub fn is_ordinary(self) -> bool {
        matches!(
            self,
            Move::Deliver(..) | Move::Step(..) | Move::Wake(_) | Move::Advance
        )
    }
}

/// A shared disk.
#[derive(Clone, Debug, Hash)]
pub(super) struct Bay {
    pub(super) disk: Disk,
    pub(super) gone: bool,
}

/// A beat on its way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Flight {
    pub(super) to: Node,
    pub(super) link: u8,
    pub(super) beat: Beat,
}

/// Work in flight.
#[derive(Clone, Debug, Hash)]
pub(super) struct Running {
    pub(super) op: OpId,
    /// It takes long.
    pub(super) held: bool,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Kind {
    Disk {
        disk: DiskId,
        task: Box<DiskTask>,
        next: (PathId, PrCommand),
        /// Nothing of it is sent from then on.
        until: Option<Instant>,
    },
    Other(Work),
}

/// Pools that a kernel has imported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holding {
    pub(super) won: Vec<DiskId>,
    pub(super) epoch: Epoch,
}

/// One machine.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Its daemon, if it runs.
    pub(super) core: Option<Controller>,
    pub(super) on: bool,
    pub(super) frozen: bool,
    /// What came while its daemon stood still.
    pub(super) inbox: Vec<Event>,
    /// The journal; the owner record is lost with the power.
    pub(super) kept: Restored,
    pub(super) pools: Option<Holding>,
    pub(super) services: bool,
    pub(super) addresses: bool,
    /// End of the lease of the addresses.
    pub(super) lease: Instant,
    pub(super) work: Vec<Running>,
}

/// The pair and everything around it.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) now: Instant,
    pub(super) config: Arc<[CoreConfig; 2]>,
    pub(super) hosts: [Host; 2],
    pub(super) disks: Vec<Bay>,
    pub(super) wires: Vec<Flight>,
    pub(super) cut: Vec<bool>,
    pub(super) left: Budget,
    /// Newest epoch in which pools were imported anywhere.
    pub(super) imported: Epoch,
    /// What a rule said that was broken in the last move.
    pub(super) broken: Option<String>,
}

impl World {
    /// Both machines got power at once, nothing is on the disks.
    pub fn new(config: [CoreConfig; 2], left: Budget) -> World {
        let host = || Host {
            core: None,
            on: false,
            frozen: false,
            inbox: Vec::new(),
            kept: Restored::default(),
            pools: None,
            services: false,
            addresses: false,
            lease: Instant::default(),
            work: Vec::new(),
        };
        let bay = || Bay {
            disk: Disk::new(true),
            gone: false,
        };
        let mut world = World {
            now: NOON,
            hosts: [host(), host()],
            disks: config[0].disks.iter().map(|_| bay()).collect(),
            wires: Vec::new(),
            cut: vec![false; usize::from(config[0].links)],
            config: Arc::new(config),
            left,
            imported: Epoch(0),
            broken: None,
        };
        for node in NODES {
            world.make(Move::Boot(node));
        }
        world
    }

    /// State of a controller's core; `None` while its daemon doesn't run.
    pub fn state(&self, node: Node) -> Option<State> {
        self.hosts[node as usize]
            .core
            .as_ref()
            .map(Controller::state)
    }

    /// Pools, services and addresses are on, and the lease lives.
    pub fn serves(&self, node: Node) -> bool {
        let host = &self.hosts[node as usize];
        host.pools.is_some() && host.services && host.addresses && host.lease > self.now
    }

    /// The time of a state that isn't in canonical form.
    pub fn moment(&self) -> Instant {
        self.now
    }

    /// When a controller's next timer is due, and what for.
    pub fn timer(&self, node: Node) -> Option<(Instant, &str)> {
        self.hosts[node as usize].core.as_ref()?.next_timeout()
    }

    /// What stays of the budget of faults.
    pub fn left(&self) -> Budget {
        self.left
    }

    /// Carries out one move, which must be one of [`World::moves`].
    pub fn make(&mut self, chosen: Move) {
        self.broken = None;
        self.left.spend(chosen);
        if self.is_out_of_order(chosen) {
            self.left.disorder = self.left.disorder.saturating_sub(1);
        }
        match chosen {
            Move::Deliver(to, link) => self.deliver(to, link),
            Move::Lose(to, link) => drop(self.take_flight(to, link)),
            Move::Step(node, place) => self.step(node, place, false),
            Move::Fail(node, place) => self.step(node, place, true),
            Move::Hold(node, place) => {
                self.hosts[node as usize].work[usize::from(place)].held = true
            }
            Move::Wake(node) => self.tell(node, vec![Event::Wake]),
            Move::Advance => self.now = self.next_moment().unwrap_or(self.now),
            Move::Crash(node) => self.power_off(node),
            Move::Boot(node) => {
                self.hosts[node as usize].on = true;
                self.start(node);
            }
            Move::Kill(node) => self.end_daemon(node),
            Move::Start(node) => self.start(node),
            Move::Freeze(node) => self.hosts[node as usize].frozen = true,
            Move::Thaw(node) => {
                let host = &mut self.hosts[node as usize];
                host.frozen = false;
                let mut events = std::mem::take(&mut host.inbox);
                events.push(Event::Wake);
                self.tell(node, events);
            }
            Move::Cut(link) => {
                self.cut[usize::from(link)] = true;
                self.wires.retain(|flight| flight.link != link);
            }
            Move::Mend(link) => self.cut[usize::from(link)] = false,
            Move::Pull(disk) => self.disks[usize::from(disk)].gone = true,
            Move::Insert(disk) => self.disks[usize::from(disk)].gone = false,
            Move::Passive(node) => self.command(node, Command::BecomePassive),
            Move::Disable(node, disabled) => {
                let change = SettingsChange {
                    disabled: Some(disabled),
                    ..SettingsChange::default()
                };
                self.command(node, Command::Update(change));
            }
            Move::Restart(node) => self.tell(node, vec![Event::Stop { restart: true }]),
        }
        let cores = self.hosts.iter_mut().filter_map(|host| host.core.as_mut());
        cores.for_each(Controller::reseed);
        self.judge();
    }

    fn command(&mut self, node: Node, command: Command) {
        let request = RequestId(1);
        self.tell(node, vec![Event::Command { request, command }]);
    }

    // ---- what happens to a machine -------------------------------------------------------------------------

    fn start(&mut self, node: Node) {
        let host = &mut self.hosts[node as usize];
        // Different for each run of either daemon.
        host.kept.session += if host.kept.session == 0 {
            1 + node as u64
        } else {
            2
        };
        let config = self.config[node as usize].clone();
        let (core, actions) = Controller::new(self.now, config, host.kept.clone());
        host.core = Some(core);
        self.act(node, actions);
    }

    fn end_daemon(&mut self, node: Node) {
        let host = &mut self.hosts[node as usize];
        host.core = None;
        host.frozen = false;
        host.inbox.clear();
        host.work.clear();
        self.wires.retain(|flight| flight.to != node);
    }

    fn power_off(&mut self, node: Node) {
        self.end_daemon(node);
        let host = &mut self.hosts[node as usize];
        host.on = false;
        host.kept.owner = None;
        host.pools = None;
        host.services = false;
        host.addresses = false;
        host.lease = Instant::default();
    }

    fn deliver(&mut self, to: Node, link: u8) {
        let Some(flight) = self.take_flight(to, link) else {
            return;
        };
        let event = Event::Beat {
            link: LinkId(link),
            received: self.now,
            beat: Box::new(flight.beat),
        };
        let host = &mut self.hosts[to as usize];
        if host.frozen {
            // However long it stands still: what counts of a link is its newest beat.
            let same = |one: &Event| matches!(one, Event::Beat { link: of, .. } if of.0 == link);
            host.inbox.retain(|one| !same(one));
            host.inbox.push(event);
        } else {
            self.tell(to, vec![event]);
        }
    }

    fn take_flight(&mut self, to: Node, link: u8) -> Option<Flight> {
        let place = self
            .wires
            .iter()
            .position(|flight| flight.to == to && flight.link == link)?;
        Some(self.wires.remove(place))
    }

    /// One command of disk work, or all of other work.
    fn step(&mut self, node: Node, place: u8, fails: bool) {
        let running = self.hosts[node as usize].work.remove(usize::from(place));
        let op = running.op;
        let outcome = match running.kind {
            Kind::Other(work) => match fails {
                true => Outcome::Failed("it failed".to_owned()),
                false => self.carry_out(node, &work),
            },
            Kind::Disk {
                disk,
                mut task,
                next: (path, command),
                until,
            } => {
                let fails = fails || until.is_some_and(|until| self.now >= until);
                let answer = match self.bay(disk).filter(|bay| !bay.gone && !fails) {
                    Some(bay) => bay.disk.execute(Nexus { node, path }, command),
                    None => Err(PrError::Transport("no answer".to_owned())),
                };
                match task.step(Some(answer)) {
                    DiskStep::Command(path, command) => {
                        let next = (path, command);
                        let kind = Kind::Disk {
                            disk,
                            task,
                            next,
                            until,
                        };
                        let held = false;
                        let running = Running { op, held, kind };
                        let work = &mut self.hosts[node as usize].work;
                        work.insert(usize::from(place), running);
                        return;
                    }
                    DiskStep::Done(outcome) => Outcome::Disk(outcome),
                }
            }
        };
        let event = Event::Done {
            op,
            waited: Duration::ZERO,
            outcome,
        };
        let host = &mut self.hosts[node as usize];
        if host.frozen {
            host.inbox.push(event);
        } else {
            self.tell(node, vec![event]);
        }
    }

    fn bay(&mut self, disk: DiskId) -> Option<&mut Bay> {
        let place = self.config[0].disks.iter().position(|one| one.id == disk)?;
        self.disks.get_mut(place)
    }

    // ---- what a core asks for ------------------------------------------------------------------------------

    fn tell(&mut self, node: Node, events: Vec<Event>) {
        let now = self.now;
        if let Some(core) = &mut self.hosts[node as usize].core {
            let actions = core.handle_all(now, events);
            self.act(node, actions);
        }
    }

    fn act(&mut self, node: Node, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        loop {
            let mut events = Vec::new();
            while let Some(action) = actions.pop_front() {
                match action {
                    Action::Run { op, work } => self.run(node, op, work, &mut events),
                    Action::Send(beat) => self.send(node, &beat),
                    Action::Lease(lease) => self.lease(node, lease, &mut events),
                    Action::Halt(_) => {
                        self.power_off(node);
                        return;
                    }
                    Action::Exit => {
                        self.end_daemon(node);
                        return;
                    }
                    Action::Reply { .. }
                    | Action::Notify(_)
                    | Action::History(_)
                    | Action::PetWatchdog => {}
                }
            }
            if events.is_empty() {
                return;
            }
            let now = self.now;
            let Some(core) = &mut self.hosts[node as usize].core else {
                return;
            };
            actions.extend(core.handle_all(now, events));
        }
    }

    fn send(&mut self, node: Node, beat: &Beat) {
        let to = node.other();
        if self.hosts[to as usize].core.is_none() {
            return;
        }
        for link in (0..self.cut.len()).filter(|link| !self.cut[*link]) {
            let link = link as u8;
            let beat = beat.clone();
            self.wires.push(Flight { to, link, beat });
        }
    }

    fn lease(&mut self, node: Node, lease: Lease, events: &mut Vec<Event>) {
        let host = &mut self.hosts[node as usize];
        match lease {
            Lease::Grant { until } => host.lease = until,
            Lease::Renew { until } if host.lease > self.now => host.lease = until,
            Lease::Renew { .. } => events.push(Event::LeaseLost),
            Lease::End => host.lease = Instant::default(),
        }
    }

    /// Disks and pools take their time; what is this machine's alone is done at once.
    fn run(&mut self, node: Node, op: OpId, work: Work, events: &mut Vec<Event>) {
        let kind = match work {
            Work::Disk { disk, work } => {
                let until = work.until();
                let mut task = Box::new(DiskTask::new(work, 1));
                match task.step(None) {
                    DiskStep::Command(path, command) => Kind::Disk {
                        disk,
                        task,
                        next: (path, command),
                        until,
                    },
                    DiskStep::Done(outcome) => {
                        events.push(Event::Done {
                            op,
                            waited: Duration::ZERO,
                            outcome: Outcome::Disk(outcome),
                        });
                        return;
                    }
                }
            }
            Work::Import { .. } | Work::Export(_) => Kind::Other(work),
            _ => {
                let outcome = self.carry_out(node, &work);
                events.push(Event::Done {
                    op,
                    waited: Duration::ZERO,
                    outcome,
                });
                return;
            }
        };
        let held = false;
        let running = Running { op, held, kind };
        self.hosts[node as usize].work.push(running);
    }

    fn carry_out(&mut self, node: Node, work: &Work) -> Outcome {
        let host = &mut self.hosts[node as usize];
        match work {
            Work::Disk { .. } | Work::Prescan(_) | Work::AnnounceVips(_) => {}
            Work::Record(entry) => host.kept.apply(entry.clone()),
            Work::Remember(owner) => host.kept.owner.clone_from(owner),
            Work::Import { won, .. } => self.import(node, won),
            Work::Export(_) => host.pools = None,
            Work::StartServices(_) => host.services = true,
            Work::StopServices => host.services = false,
            Work::AddVips(_) => host.addresses = true,
            Work::RemoveVips => host.addresses = false,
        }
        Outcome::Ok
    }

    fn import(&mut self, node: Node, won: &[DiskId]) {
        let host = &mut self.hosts[node as usize];
        let owner = host.kept.owner.as_ref();
        let epoch = owner.map_or(Epoch(0), |owner| owner.epoch);
        if epoch < self.imported {
            let newest = self.imported;
            self.broken = Some(format!(
                "{node} imports in epoch {epoch}, after an import in epoch {newest}"
            ));
        }
        self.imported = self.imported.max(epoch);
        host.pools = Some(Holding {
            won: won.to_vec(),
            epoch,
        });
    }

    // ---- the rules -----------------------------------------------------------------------------------------

    /// What must hold always.
    fn judge(&mut self) {
        if self.broken.is_some() {
            return;
        }
        for node in NODES {
            let other = node.other();
            let Some(holding) = &self.hosts[node as usize].pools else {
                continue;
            };
            // A kernel that still has the pool imported may write at any moment.
            if self.hosts[other as usize].pools.is_none() {
                continue;
            }
            let older = self.hosts[other as usize].pools.as_ref();
            if older.is_some_and(|older| older.epoch > holding.epoch) {
                continue;
            }
            for (place, disk) in self.config[0].disks.iter().enumerate() {
                let reachable = &self.disks[place].disk;
                if holding.won.contains(&disk.id) && reachable.may_write(Nexus::new(other, 0)) {
                    self.broken = Some(format!(
                        "two writers: {node} has the pools and {other} may still write on disk {place}"
                    ));
                    return;
                }
            }
        }
        let answers = |node: Node| {
            let host = &self.hosts[node as usize];
            host.addresses && host.lease > self.now
        };
        if answers(Node::A) && answers(Node::B) {
            self.broken = Some("both controllers answer at the virtual addresses".to_owned());
        }
    }

    /// The rule that the last move broke.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}
