//! Which moves are possible.

use super::world::{Kind, Move, NODES, Running, World};
use failover_core::action::Work;
use failover_core::controller::Controller;
use failover_core::ids::Node;
use failover_core::states::State;
use failover_core::time::Instant;

impl World {
    /// Every move that is possible now: the ordinary ones first, then faults, their ends and commands within the budget.
    pub fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        self.ordinary(&mut moves);
        self.ends_of_faults(&mut moves);
        self.faults(&mut moves);
        moves
    }

    fn links(&self) -> std::ops::Range<u8> {
        0..self.cut.len() as u8
    }

    fn runs(&self, node: Node) -> Option<&Controller> {
        let host = &self.hosts[node as usize];
        host.core.as_ref().filter(|_| !host.frozen)
    }

    fn is_due(&self, node: Node) -> bool {
        let due = self.runs(node).and_then(Controller::next_timeout);
        due.is_some_and(|(at, _)| at <= self.now)
    }

    fn has_flight(&self, to: Node, link: u8) -> bool {
        let mut flights = self.wires.iter();
        flights.any(|flight| flight.to == to && flight.link == link)
    }

    /// What happens next as a rule: beats, then answers, then timers, first those of A.
    fn first(&self) -> Option<Move> {
        NODES.into_iter().find_map(|node| self.waiting(node).next())
    }

    /// Everything that this controller may hear now, but for answers that are held up.
    fn waiting(&self, node: Node) -> impl Iterator<Item = Move> + '_ {
        let arriving = self
            .links()
            .filter(move |link| self.has_flight(node, *link));
        let arriving = arriving.map(move |link| Move::Deliver(node, link));
        let work = self.hosts[node as usize].work.iter().enumerate();
        let answers =
            work.filter(move |(place, running)| !running.held && self.is_its_turn(node, *place));
        let answers = answers.map(move |(place, _)| Move::Step(node, place as u8));
        let timer = self.is_due(node).then_some(Move::Wake(node));
        arriving.chain(answers).chain(timer)
    }

    /// Work on a pool waits for earlier work on it: the daemon has one lane for each.
    fn is_its_turn(&self, node: Node, place: usize) -> bool {
        let work = &self.hosts[node as usize].work;
        let lane = |running: &Running| match &running.kind {
            Kind::Other(Work::Import { pool, .. } | Work::Export(pool)) => Some(*pool),
            _ => None,
        };
        let own = work.get(place).and_then(lane);
        own.is_none() || work[..place].iter().all(|running| lane(running) != own)
    }

    /// Whether something else comes first as a rule.
    pub(super) fn is_out_of_order(&self, chosen: Move) -> bool {
        let held = |node: Node, place: u8| {
            let work = &self.hosts[node as usize].work;
            work.get(usize::from(place))
                .is_none_or(|running| running.held)
        };
        match chosen {
            Move::Step(node, place) if held(node, place) => false,
            Move::Deliver(..) | Move::Wake(_) | Move::Step(..) => self.first() != Some(chosen),
            _ => false,
        }
    }

    fn ordinary(&self, moves: &mut Vec<Move>) {
        let most = if self.left.disorder > 0 {
            usize::MAX
        } else {
            1
        };
        let waiting = NODES.into_iter().flat_map(|node| self.waiting(node));
        moves.extend(waiting.take(most));
        if self.may_advance() {
            moves.push(Move::Advance);
        }
    }

    /// What the rule says happens next, time included.
    pub(super) fn ordinary_move(&self) -> Option<Move> {
        let advance = || self.may_advance().then_some(Move::Advance);
        self.first().or_else(advance)
    }

    /// Nothing is left that would happen before time goes on.
    fn may_advance(&self) -> bool {
        self.first().is_none() && self.next_moment().is_some()
    }

    pub(super) fn next_moment(&self) -> Option<Instant> {
        let timers = NODES.into_iter().filter_map(|node| {
            let (at, _) = self.runs(node)?.next_timeout()?;
            Some(at)
        });
        timers.filter(|at| *at > self.now).min()
    }

    fn ends_of_faults(&self, moves: &mut Vec<Move>) {
        for node in NODES {
            let host = &self.hosts[node as usize];
            if !host.on {
                moves.push(Move::Boot(node));
            } else if host.core.is_none() {
                moves.push(Move::Start(node));
            } else if host.frozen {
                moves.push(Move::Thaw(node));
            }
            let held = host.work.iter().enumerate();
            let held =
                held.filter(|(place, running)| running.held && self.is_its_turn(node, *place));
            moves.extend(held.map(|(place, _)| Move::Step(node, place as u8)));
        }
        let cut = self.links().filter(|link| self.cut[usize::from(*link)]);
        moves.extend(cut.map(Move::Mend));
        let disks = 0..self.disks.len() as u8;
        let gone = disks.filter(|disk| self.disks[usize::from(*disk)].gone);
        moves.extend(gone.map(Move::Insert));
    }

    fn faults(&self, moves: &mut Vec<Move>) {
        let left = self.left;
        for node in NODES {
            let host = &self.hosts[node as usize];
            if left.losses > 0 {
                let links = self.links();
                let arriving = links.filter(|link| self.has_flight(node, *link));
                moves.extend(arriving.map(|link| Move::Lose(node, link)));
            }
            if left.failures > 0 {
                let open = host.work.len() as u8;
                moves.extend((0..open).map(|place| Move::Fail(node, place)));
            }
            if left.holds > 0 {
                let work = host.work.iter().enumerate();
                let quick = work.filter(|(_, running)| !running.held);
                moves.extend(quick.map(|(place, _)| Move::Hold(node, place as u8)));
            }
            if left.crashes > 0 && host.on {
                moves.push(Move::Crash(node));
            }
            let Some(core) = self.runs(node) else {
                continue;
            };
            if left.kills > 0 {
                moves.push(Move::Kill(node));
            }
            if left.pauses > 0 {
                moves.push(Move::Freeze(node));
            }
            if left.commands > 0 {
                moves.push(Move::Restart(node));
                moves.push(Move::Disable(node, true));
                if core.state() == State::Active {
                    moves.push(Move::Passive(node));
                }
            }
        }
        if left.cuts > 0 {
            let whole = self.links().filter(|link| !self.cut[usize::from(*link)]);
            moves.extend(whole.map(Move::Cut));
        }
        if left.disks > 0 {
            let disks = 0..self.disks.len() as u8;
            let there = disks.filter(|disk| !self.disks[usize::from(*disk)].gone);
            moves.extend(there.map(Move::Pull));
        }
    }
}
