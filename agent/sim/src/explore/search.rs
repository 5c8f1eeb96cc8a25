//! The search: every state that can be reached within the bounds, once each.
//!
//! ```text
//!   worker: stack of states ──▶ each move ──▶ canonical form ──▶ seen before? ── no ──▶ rules ──▶ on the stack
//!                  │ another worker has nothing to do                │ yes: nothing
//!                  └──▶ shared queue ◀───────────────────────────────┘
//! ```
//!
//! Depth first, so that only the states of one path are whole at a time; of all others 64 bits and the way to them stay.

use super::bounds::Bounds;
use super::world::{Move, NODES, World};
use failover_core::states::State;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Parts of the table of states, each with a lock of its own.
const SHARDS: usize = 256;

/// What is kept of a state.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The state that it was reached from first, and how; the root has itself.
    from: u64,
    by: Move,
    /// Where the ordinary course leads from here, faults ended; itself where nothing more happens.
    heals_to: u64,
    /// That step takes time.
    takes_time: bool,
    good: Good,
}

/// Whether anybody serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Good {
    Serves,
    /// Every controller that could is held back after resets, or failover is off: explained to operators.
    Explained,
    No,
}

/// The digests are spread already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only digests are hashed");
    }
    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

type Table = HashMap<u64, Seen, BuildHasherDefault<AsItIs>>;

/// How an exploration ended.
#[derive(Debug)]
pub struct Found {
    /// Distinct states.
    pub states: u64,
    /// Moves made.
    pub moves: u64,
    /// States left out because `states_max` was reached: then nothing is proved.
    pub dropped: u64,
    /// States in which some controller served.
    pub serving: u64,
    /// A rule that was broken, and the way there from the root.
    pub violation: Option<(String, Vec<Move>)>,
    /// A state from which nobody would ever serve again, and the way there.
    pub stuck: Option<Vec<Move>>,
    /// The most steps with time that any state needs until somebody serves.
    pub longest_to_service: u32,
    /// Wall time.
    pub took: Duration,
    /// Longest stack.
    pub deepest: usize,
}

/// One exploration in progress.
struct Search {
    shards: Vec<Mutex<Table>>,
    queue: Mutex<Vec<(World, u64)>>,
    wake: Condvar,
    idle: AtomicUsize,
    workers: usize,
    states: AtomicU64,
    moves: AtomicU64,
    dropped: AtomicU64,
    deepest: AtomicUsize,
    states_max: u64,
    ended: AtomicBool,
    violation: Mutex<Option<(String, u64, Move)>>,
}

impl Found {
    /// Complete, no rule broken, and service comes back from every state.
    pub fn is_good(&self) -> bool {
        self.dropped == 0 && self.violation.is_none() && self.stuck.is_none()
    }
}

/// Explores everything within `bounds`, with `workers` threads, at most `states_max` states.
pub fn explore(bounds: &Bounds, workers: usize, states_max: u64) -> Found {
    explore_from(
        World::new(bounds.config(), bounds.budget),
        workers,
        states_max,
    )
}

/// The same from a world of one's own.
pub fn explore_from(mut root: World, workers: usize, states_max: u64) -> Found {
    let began = Instant::now();
    root.normalise();
    let digest = root.digest();
    let search = Search {
        shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        queue: Mutex::new(vec![(root, digest)]),
        wake: Condvar::new(),
        idle: AtomicUsize::new(0),
        workers,
        states: AtomicU64::new(1),
        moves: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        deepest: AtomicUsize::new(0),
        states_max,
        ended: AtomicBool::new(false),
        violation: Mutex::new(None),
    };
    search.note(digest, digest, Move::Advance);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| search.work());
        }
    });
    let tables: Vec<Table> = search
        .shards
        .into_iter()
        .map(|shard| shard.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect();
    let mut found = Found {
        states: search.states.into_inner(),
        moves: search.moves.into_inner(),
        dropped: search.dropped.into_inner(),
        serving: 0,
        violation: None,
        stuck: None,
        longest_to_service: 0,
        took: began.elapsed(),
        deepest: search.deepest.into_inner(),
    };
    let violation = search.violation.into_inner();
    if let Some((text, at, last)) = violation.unwrap_or_else(PoisonError::into_inner) {
        let mut way = way_to(&tables, at);
        way.push(last);
        found.violation = Some((text, way));
    } else if found.dropped == 0 {
        super::progress::judge(&Graph(&tables), &mut found);
    }
    found.took = began.elapsed();
    found
}

fn shard_of(digest: u64) -> usize {
    // Neither end: the table of a shard uses the lowest bits and the highest ones itself.
    (digest >> 40) as usize % SHARDS
}

fn way_to(tables: &[Table], mut at: u64) -> Vec<Move> {
    let mut way = Vec::new();
    while let Some(seen) = tables[shard_of(at)].get(&at)
        && seen.from != at
    {
        way.push(seen.by);
        at = seen.from;
    }
    way.reverse();
    way
}

/// The states that were found, for whoever looks for states that lead nowhere.
pub(super) struct Graph<'a>(&'a [Table]);

impl Graph<'_> {
    pub(super) fn states(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|table| table.keys().copied())
    }

    /// Where the ordinary course leads, and whether that takes time; `None` for a state in which somebody serves, or
    /// nobody may.
    pub(super) fn course(&self, at: u64) -> Option<(u64, bool)> {
        let seen = self.0[shard_of(at)].get(&at)?;
        (seen.good == Good::No).then_some((seen.heals_to, seen.takes_time))
    }

    pub(super) fn serving(&self) -> u64 {
        let seen = self.0.iter().flat_map(|table| table.values());
        seen.filter(|seen| seen.good == Good::Serves).count() as u64
    }

    pub(super) fn way_to(&self, at: u64) -> Vec<Move> {
        way_to(self.0, at)
    }
}

/// A state whose moves are being made.
struct Open {
    world: World,
    digest: u64,
    moves: Vec<Move>,
    heal: Option<Move>,
}

impl Search {
    fn shard(&self, digest: u64) -> std::sync::MutexGuard<'_, Table> {
        let shard = &self.shards[shard_of(digest)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is new.
    fn note(&self, digest: u64, from: u64, by: Move) -> bool {
        match self.shard(digest).entry(digest) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(Seen {
                    from,
                    by,
                    heals_to: digest,
                    takes_time: false,
                    good: Good::No,
                });
                true
            }
        }
    }

    fn work(&self) {
        while let Some((world, digest)) = self.take() {
            let mut stack = vec![self.open(world, digest)];
            while let Some(open) = stack.last_mut() {
                if self.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Some(chosen) = open.moves.pop() else {
                    stack.pop();
                    continue;
                };
                let Some((world, digest)) = self.step(open, chosen) else {
                    continue;
                };
                if self.idle.load(Ordering::Relaxed) > 0 {
                    self.give(world, digest);
                } else {
                    let open = self.open(world, digest);
                    stack.push(open);
                    self.deepest.fetch_max(stack.len(), Ordering::Relaxed);
                }
            }
        }
    }

    fn take(&self) -> Option<(World, u64)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.ended.load(Ordering::Acquire) {
                return None;
            }
            if let Some(next) = queue.pop() {
                return Some(next);
            }
            if self.idle.fetch_add(1, Ordering::AcqRel) + 1 == self.workers {
                self.ended.store(true, Ordering::Release);
                self.wake.notify_all();
                return None;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn give(&self, world: World, digest: u64) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push((world, digest));
        self.wake.notify_one();
    }

    /// A state that is new: what it says about service, and its moves.
    fn open(&self, world: World, digest: u64) -> Open {
        let heal = world.course();
        let good = if NODES.into_iter().any(|node| world.serves(node)) {
            Good::Serves
        } else if world.is_explained() {
            Good::Explained
        } else {
            Good::No
        };
        if let Some(seen) = self.shard(digest).get_mut(&digest) {
            seen.good = good;
        }
        // The last one is made first: the ordinary course.
        let mut moves = world.moves();
        moves.reverse();
        Open {
            world,
            digest,
            moves,
            heal,
        }
    }

    /// Makes one move; the state that it leads to, if nobody was there before.
    fn step(&self, open: &Open, chosen: Move) -> Option<(World, u64)> {
        self.moves.fetch_add(1, Ordering::Relaxed);
        let mut world = open.world.clone();
        let made = catch_unwind(AssertUnwindSafe(|| {
            world.make(chosen);
            world.normalise();
        }));
        let broken = match &made {
            Ok(()) => world.broken().map(str::to_owned),
            Err(_) => Some("the core failed an assertion of its own".to_owned()),
        };
        if let Some(text) = broken {
            let mut violation = self
                .violation
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            violation.get_or_insert((text, open.digest, chosen));
            self.ended.store(true, Ordering::Release);
            self.wake.notify_all();
            return None;
        }
        let digest = world.digest();
        if open.heal == Some(chosen)
            && let Some(seen) = self.shard(open.digest).get_mut(&open.digest)
        {
            seen.heals_to = digest;
            seen.takes_time = chosen == Move::Advance;
        }
        if !self.note(digest, open.digest, chosen) {
            return None;
        }
        if self.states.fetch_add(1, Ordering::Relaxed) >= self.states_max {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.ended.store(true, Ordering::Release);
            self.wake.notify_all();
            return None;
        }
        Some((world, digest))
    }
}

impl World {
    /// The next move of the ordinary course, and how a fault ends where it must: machines that stand still go on, disks
    /// come back; without any machine that runs one gets power. Cut links stay, and so does a machine that is off.
    pub fn course(&self) -> Option<Move> {
        let moves = self.moves();
        let runs = NODES.into_iter().any(|node| {
            let host = &self.hosts[node as usize];
            host.core.is_some() && !host.frozen
        });
        let ends = |chosen: &&Move| match **chosen {
            Move::Insert(_) => true,
            Move::Step(node, place) => {
                let work = &self.hosts[node as usize].work;
                work[usize::from(place)].held
            }
            Move::Boot(_) | Move::Start(_) | Move::Thaw(_) => !runs,
            _ => false,
        };
        moves
            .iter()
            .find(ends)
            .or_else(|| moves.iter().find(|chosen| chosen.is_ordinary()))
            .copied()
    }

    /// Somebody serves, or operators are told why nobody does.
    pub(super) fn is_good(&self) -> bool {
        NODES.into_iter().any(|node| self.serves(node)) || self.is_explained()
    }

    /// No controller serves, and operators are told why: held back after resets, or failover is off.
    pub(super) fn is_explained(&self) -> bool {
        let mut hosts = self.hosts.iter();
        let settings = self.hosts.iter().filter_map(|host| host.kept.settings);
        let is_off = settings
            .max_by_key(|one| one.version)
            .is_some_and(|one| one.disabled);
        is_off
            || hosts.any(|host| {
                let state = host.core.as_ref().map(|core| core.state());
                state == Some(State::Held)
            })
    }
}
