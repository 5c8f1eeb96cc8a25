//! The canonical form of a state: at one moment, with everything numbered from one place.
//!
//! Two passes over all that both controllers, their work, the wires and the disks remember. The first collects which
//! epochs, key counters, beat numbers and numbers of work are in use; the second replaces them:
//!
//! | what | becomes | because the core asks only |
//! |---|---|---|
//! | a moment | its distance from now, at most [`HORIZON`] back | for distances, up to its longest timer |
//! | an epoch | its place, gaps of more than one kept as two | which is newer, and which is the next |
//! | a counter in keys | its place among those of the same takeover | which is newer, and whether it changed |
//! | a beat's number | its distance from the newest of its run, gaps at most [`GAP_MAX`] | which is newer, and whether it is far behind |
//! | number of work | its place | which is which |

use super::world::{Flight, Kind, NOON, World};
use failover_core::beat::{Beat, Echo};
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::{Epoch, OpId, Session};
use failover_core::memory::{Holder, Visitor, walk_beat, walk_bits, walk_command};
use failover_core::time::{Instant, ms};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Longer ago than any timer of an exploration looks back.
const HORIZON: Duration = ms(2500);
/// More than the numbers that an echo or a slow link may be behind.
const GAP_MAX: u64 = 70;
/// All moments are multiples of it, but for drawn pauses and the 20 ms that a restart waits, which are lengthened to one.
const GRID_MICROS: u64 = 50_000;
/// Number of the newest beat.
const NEWEST: u64 = 1_000_000;

/// What is in use.
struct Collect {
    pair: u16,
    reference: Epoch,
    epochs: Vec<u64>,
    beats: Vec<(Holder, u16)>,
    seqs: BTreeMap<Session, Vec<u64>>,
    /// Beats that a controller, or a wire to or from it, still knows.
    echoable: Vec<Echo>,
}

impl Visitor for Collect {
    fn instant(&mut self, _: &mut Instant) {}
    fn epoch(&mut self, epoch: &mut Epoch) {
        if epoch.0 != 0 {
            self.epochs.push(epoch.0);
        }
    }
    fn key_beat(&mut self, of: Holder, beat: &mut u16) {
        self.beats.push((of, *beat));
    }
    fn seq(&mut self, run: Session, seq: &mut u64) {
        self.seqs.entry(run).or_default().push(*seq);
    }
    fn op(&mut self, _: &mut OpId) {}
    fn may_be_echoed(&self, session: Session, seq: u64) -> bool {
        self.echoable.contains(&Echo { session, seq })
    }
    fn pair(&self) -> u16 {
        self.pair
    }
    fn reference(&self) -> Epoch {
        self.reference
    }
}

/// Old values and what becomes of them, sorted.
type Places = Vec<(u64, u64)>;

fn of(places: &Places, old: u64) -> u64 {
    match places.binary_search_by_key(&old, |(old, _)| *old) {
        Ok(place) => places[place].1,
        Err(_) => old,
    }
}

/// Numbered from 1, gaps between neighbours at most `gap`.
fn from_below(mut values: Vec<u64>, gap: u64) -> Places {
    values.sort_unstable();
    values.dedup();
    let (mut before, mut place) = (0, 0);
    let number = |value: u64| {
        place += if place == 0 {
            1
        } else {
            (value - before).min(gap)
        };
        before = value;
        (value, place)
    };
    values.into_iter().map(number).collect()
}

/// The greatest becomes `NEWEST`, gaps are kept up to `GAP_MAX`; 0 stays.
fn from_above(mut values: Vec<u64>) -> Places {
    values.retain(|value| *value != 0);
    values.sort_unstable();
    values.dedup();
    let (mut after, mut place) = (*values.last().unwrap_or(&0), NEWEST);
    let mut places: Places = Vec::with_capacity(values.len());
    for value in values.into_iter().rev() {
        place -= (after - value).min(GAP_MAX);
        after = value;
        places.push((value, place));
    }
    places.reverse();
    places
}

/// Replaces.
struct Replace {
    now: Instant,
    pair: u16,
    reference: Epoch,
    epochs: Places,
    beats: Vec<(Holder, u16)>,
    seqs: BTreeMap<Session, Places>,
    ops: Places,
    echoable: Vec<Echo>,
}

impl Visitor for Replace {
    fn instant(&mut self, at: &mut Instant) {
        let (at_micros, now) = (at.micros(), self.now.micros());
        let moved = match at_micros.checked_sub(now) {
            Some(ahead) => NOON.micros() + ahead.next_multiple_of(GRID_MICROS),
            None => {
                let behind = (now - at_micros) / GRID_MICROS * GRID_MICROS;
                NOON.micros() - behind.min(HORIZON.as_micros() as u64)
            }
        };
        *at = Instant::from_micros(moved);
    }
    fn epoch(&mut self, epoch: &mut Epoch) {
        if epoch.0 != 0 {
            epoch.0 = of(&self.epochs, epoch.0);
        }
    }
    fn key_beat(&mut self, of: Holder, beat: &mut u16) {
        let first = self.beats.partition_point(|one| *one < (of, 0));
        let place = self.beats.partition_point(|one| *one < (of, *beat));
        *beat = (place - first) as u16 + 1;
    }
    fn seq(&mut self, run: Session, seq: &mut u64) {
        if let Some(places) = self.seqs.get(&run) {
            *seq = of(places, *seq);
        }
    }
    fn op(&mut self, op: &mut OpId) {
        op.0 = match self.ops.last() {
            Some((last, place)) if op.0 > *last => *place,
            _ => of(&self.ops, op.0),
        };
        if self.ops.is_empty() {
            op.0 = 0;
        }
    }
    fn may_be_echoed(&self, session: Session, seq: u64) -> bool {
        self.echoable.contains(&Echo { session, seq })
    }
    fn pair(&self) -> u16 {
        self.pair
    }
    fn reference(&self) -> Epoch {
        self.reference
    }
}

impl World {
    /// Puts it into its canonical form, from which it goes on exactly as it would have.
    pub fn normalise(&mut self) {
        let echoable = self.known_beats();
        let mut collect = Collect {
            pair: self.config[0].pair,
            reference: self.imported,
            epochs: Vec::new(),
            beats: Vec::new(),
            seqs: BTreeMap::new(),
            echoable: echoable.clone(),
        };
        self.walk(&mut collect, |_, _| {});
        let mut replace = Replace {
            now: self.now,
            pair: collect.pair,
            reference: self.imported,
            epochs: from_below(collect.epochs, 2),
            beats: {
                collect.beats.sort_unstable();
                collect.beats.dedup();
                collect.beats
            },
            seqs: {
                let seqs = collect.seqs.into_iter();
                seqs.map(|(run, seqs)| (run, from_above(seqs))).collect()
            },
            ops: Vec::new(),
            echoable,
        };
        self.walk(&mut replace, |replace, core| {
            let open = core.map(|core| core.open_work().map(|op| op.0).collect());
            replace.ops = from_below(open.unwrap_or_default(), 1);
        });
        self.now = NOON;
        self.wires.sort_by_key(|flight| (flight.to, flight.link));
    }

    /// Visits everything; `host` is called before each machine with its core.
    fn walk<V: Visitor>(&mut self, visitor: &mut V, host: impl Fn(&mut V, Option<&Controller>)) {
        for one in &mut self.hosts {
            host(visitor, one.core.as_ref());
            if let Some(core) = &mut one.core {
                core.walk(visitor);
            }
            one.kept.walk(visitor);
            visitor.instant(&mut one.lease);
            if let Some(holding) = &mut one.pools {
                visitor.epoch(&mut holding.epoch);
            }
            for event in &mut one.inbox {
                walk_event(visitor, event);
            }
            for running in &mut one.work {
                visitor.op(&mut running.op);
                if let Kind::Disk {
                    task, next, until, ..
                } = &mut running.kind
                {
                    until.iter_mut().for_each(|at| visitor.instant(at));
                    task.walk(visitor);
                    walk_command(visitor, &mut next.1);
                }
            }
        }
        for Flight { beat, .. } in &mut self.wires {
            walk_beat(visitor, beat);
        }
        for bay in &mut self.disks {
            bay.disk.each_key(|bits| walk_bits(visitor, bits));
        }
        visitor.epoch(&mut self.imported);
    }

    /// Beats that may come back as an echo: each peer's newest, and what is on the wires.
    fn known_beats(&self) -> Vec<Echo> {
        let cores = self.hosts.iter().filter_map(|host| host.core.as_ref());
        let mut known: Vec<Echo> = cores.flat_map(Controller::known_beats).collect();
        let mut see = |beat: &Beat| {
            known.push(Echo {
                session: beat.session,
                seq: beat.seq,
            });
            known.extend(beat.echo);
        };
        self.wires.iter().for_each(|flight| see(&flight.beat));
        for event in self.hosts.iter().flat_map(|host| &host.inbox) {
            if let Event::Beat { beat, .. } = event {
                see(beat);
            }
        }
        known
    }

    /// Of a state in canonical form: 64 bits that tell it from others. That two of 10^7 states share them by chance has a
    /// probability of 3 in a million.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for host in &self.hosts {
            match &host.core {
                Some(core) => core.digest(&mut hasher),
                None => 0_u8.hash(&mut hasher),
            }
            (host.on, host.frozen, &host.inbox, &host.kept).hash(&mut hasher);
            (&host.pools, host.services, host.addresses, host.lease).hash(&mut hasher);
            host.work.hash(&mut hasher);
        }
        (
            &self.disks,
            &self.wires,
            &self.cut,
            self.left,
            self.imported,
        )
            .hash(&mut hasher);
        hasher.finish()
    }
}

fn walk_event(visitor: &mut impl Visitor, event: &mut Event) {
    match event {
        Event::Beat { received, beat, .. } => {
            visitor.instant(received);
            walk_beat(visitor, beat);
        }
        Event::Done { op, outcome, .. } => {
            visitor.op(op);
            if let failover_core::action::Outcome::Disk(outcome) = outcome {
                outcome.walk(visitor);
            }
        }
        Event::Wake
        | Event::Command { .. }
        | Event::Lan { .. }
        | Event::Link { .. }
        | Event::LeaseLost
        | Event::Stop { .. } => {}
    }
}
