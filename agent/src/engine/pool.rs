//! The engine's inside: what waits, what flies, who works, and the watch over it.

use super::{
    BULK_MAX, Class, LOOKS_MAX, Load, Piece, PrAnswer, TAKES_MAX, YOUNG, YOUNG_MAX, realtime,
};
use failover_core::adapters::Fence;
use failover_core::ids::{DiskId, PathId};
use failover_core::pr::{PrCommand, PrError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Stack of a thread: locked memory, so no more than it needs. Its calls are shallow and its buffers on the heap.
pub(super) const STACK_BYTES: usize = 128 * 1024;
/// A surplus thread without work ends.
const IDLE: Duration = Duration::from_secs(60);
/// Pause after a thread couldn't be made.
const NO_THREAD: Duration = Duration::from_millis(100);

/// A piece of work, and where it stands.
pub(super) struct Turn {
    disk: DiskId,
    class: Class,
    deadline: Duration,
    /// After this it isn't begun: whoever asked asks again, and if this process stood still another controller may own
    /// the disk by now.
    begin_by: Instant,
    /// `deadline` from its first command on, once that was sent: after this nothing more of a bounded piece is.
    send_by: Option<Instant>,
    piece: Box<dyn Piece>,
    /// Its next command; `None` before the first.
    next: Option<(PathId, PrCommand)>,
}

impl Turn {
    pub(super) fn new(
        disk: DiskId,
        class: Class,
        deadline: Duration,
        piece: Box<dyn Piece>,
    ) -> Turn {
        Turn {
            disk,
            class,
            deadline,
            begin_by: Instant::now() + deadline,
            send_by: None,
            piece,
            next: None,
        }
    }

    /// When a command that is sent now is overdue.
    fn due(&self, now: Instant) -> Instant {
        let due = now + self.deadline;
        let send_by = self.send_by.filter(|_| self.piece.is_bounded());
        send_by.map_or(due, |by| by.min(due))
    }

    fn no_turn(&self) -> String {
        if self.piece.is_forbidden() {
            return "no turn before it might not be done any more; nothing was sent".to_owned();
        }
        let waited = self.deadline.as_millis();
        format!("no turn within {waited} ms; nothing was sent")
    }
}

/// A command that was sent and has not ended.
pub(super) struct Flight {
    disk: DiskId,
    path: PathId,
    class: Class,
    sent: Instant,
    due: Instant,
    /// It is in the count.
    young: bool,
    /// Whose it is; `None` once that was told that nothing came.
    turn: Option<Turn>,
}

impl Flight {
    fn young_until(&self) -> Instant {
        self.due.min(self.sent + YOUNG)
    }
}

#[derive(Default)]
pub(super) struct State {
    /// By class.
    waiting: [VecDeque<Turn>; 3],
    /// Disks with a piece at work or waiting for a place, and what waits behind it.
    disks: BTreeMap<DiskId, VecDeque<Turn>>,
    flights: BTreeMap<u64, Flight>,
    tickets: u64,
    /// Places taken, by class.
    young: [usize; 3],
    young_peak: usize,
    idle: Vec<Thread>,
    workers: usize,
    /// Those of them that were made and haven't looked for work yet.
    starting: usize,
    /// Threads made so far, for their names.
    made: usize,
    /// Threads that stay without work.
    warm: usize,
    /// When the watch looks again by itself.
    watch_at: Option<Instant>,
    closing: bool,
}

pub(super) struct Shared {
    pub(super) fence: Arc<dyn Fence>,
    state: Mutex<State>,
    /// Wakes the watch.
    alarm: Condvar,
}

impl State {
    fn young(&self) -> usize {
        self.young.iter().sum()
    }

    /// A place is free for this class.
    fn has_place(&self, class: Class) -> bool {
        let [_, takes, looks] = self.young;
        let own = match class {
            Class::Prompt => true,
            Class::Take => takes < TAKES_MAX && takes + looks < BULK_MAX,
            Class::Look => looks < LOOKS_MAX && takes + looks < BULK_MAX,
        };
        own && self.young() < YOUNG_MAX
    }

    fn ready(&self) -> Option<Class> {
        let ready = |class: &Class| !self.waiting[*class as usize].is_empty();
        let mut classes = Class::ALL.into_iter().filter(ready);
        classes.find(|class| self.has_place(*class))
    }

    /// The next piece that may go on, with its place taken.
    fn next_turn(&mut self) -> Option<Turn> {
        let class = self.ready()?;
        self.take_place(class);
        self.waiting[class as usize].pop_front()
    }

    /// Pieces whose turn didn't come in time; and when the next is late. Those that were begun go on before all others.
    fn without_turn(&mut self, now: Instant) -> (Vec<Turn>, Option<Instant>) {
        let mut late = Vec::new();
        let mut next = None;
        for waiting in &mut self.waiting {
            while let Some(at) = waiting.iter().position(|turn| turn.next.is_none()) {
                if waiting[at].begin_by >= now {
                    next = next.into_iter().chain([waiting[at].begin_by]).min();
                    break;
                }
                late.extend(waiting.remove(at));
            }
        }
        (late, next)
    }

    fn take_place(&mut self, class: Class) {
        self.young[class as usize] += 1;
        self.young_peak = self.young_peak.max(self.young());
    }

    fn free_place(&mut self, class: Class) {
        self.young[class as usize] = self.young[class as usize].saturating_sub(1);
    }

    /// Threads that may be there: one for each place, and one in place of each that hangs.
    fn workers_max(&self) -> usize {
        let old = self.flights.values().filter(|flight| !flight.young).count();
        YOUNG_MAX + old
    }

    /// The command that a path is stuck with: nobody waits for it any more.
    fn stuck_since(&self, disk: DiskId, path: PathId) -> Option<Instant> {
        let stuck =
            |flight: &&Flight| flight.turn.is_none() && flight.disk == disk && flight.path == path;
        // Only those that left the count can be: there are few.
        self.flights.values().find(stuck).map(|flight| flight.sent)
    }

    /// A command to the disk that nobody waits for any more is still on its way.
    fn is_hung(&self, disk: DiskId) -> bool {
        let hung = |flight: &Flight| flight.turn.is_none() && flight.disk == disk;
        self.flights.values().any(hung)
    }

    /// A disk's piece has ended: the one behind it comes next.
    fn free_disk(&mut self, disk: DiskId) {
        let Some(behind) = self.disks.get_mut(&disk) else {
            return;
        };
        match behind.pop_front() {
            Some(turn) => self.waiting[turn.class as usize].push_back(turn),
            None => {
                self.disks.remove(&disk);
            }
        }
    }
}

fn no_answer(why: String) -> PrAnswer {
    Err(PrError::Transport(why))
}

impl Shared {
    pub(super) fn new(fence: Arc<dyn Fence>) -> Shared {
        Shared {
            fence,
            state: Mutex::default(),
            alarm: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.idle.drain(..).for_each(|thread| thread.unpark());
        drop(state);
        self.alarm.notify_all();
    }

    pub(super) fn warm(&self, workers: usize) {
        self.lock().warm = workers;
        self.alarm.notify_all();
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        let old = state.flights.values().filter(|flight| !flight.young);
        let behind: usize = state.disks.values().map(VecDeque::len).sum();
        Load {
            young: state.young(),
            old: old.count(),
            waiting: state.waiting.iter().map(VecDeque::len).sum::<usize>() + behind,
            workers: state.workers,
            young_peak: state.young_peak,
        }
    }

    /// Takes a piece in, and wakes somebody who can begin it.
    pub(super) fn admit(&self, turn: Turn, most: usize) -> Result<(), String> {
        let mut state = self.lock();
        if let Some(behind) = state.disks.get_mut(&turn.disk) {
            if behind.len() >= most {
                return Err(format!("{most} pieces of work wait for disk {}", turn.disk));
            }
            behind.push_back(turn);
            return Ok(());
        }
        state.disks.insert(turn.disk, VecDeque::new());
        state.waiting[turn.class as usize].push_back(turn);
        self.wake_one(state);
        Ok(())
    }

    /// Wakes a worker if something may begin; the watch, if there is none to wake.
    fn wake_one(&self, mut state: MutexGuard<'_, State>) {
        if state.ready().is_none() {
            return;
        }
        let idle = state.idle.pop();
        drop(state);
        match idle {
            Some(thread) => thread.unpark(),
            None => self.alarm.notify_all(),
        }
    }

    // ---- workers -------------------------------------------------------------------------------------------

    fn work(&self) {
        let mut state = self.lock();
        state.starting -= 1;
        loop {
            if state.closing || state.workers > state.workers_max() {
                break;
            }
            if let Some(turn) = state.next_turn() {
                drop(state);
                self.drive(turn);
                state = self.lock();
                continue;
            }
            let own = std::thread::current();
            let id = own.id();
            state.idle.push(own);
            drop(state);
            let slept = Instant::now();
            std::thread::park_timeout(IDLE);
            state = self.lock();
            let still_idle = state.idle.iter().position(|thread| thread.id() == id);
            if let Some(at) = still_idle {
                state.idle.remove(at);
                if slept.elapsed() >= IDLE && state.workers > state.warm {
                    break;
                }
            }
        }
        state.workers -= 1;
    }

    /// Carries a piece on that has a place, until it ends, loses its place, or its command is overdue.
    fn drive(&self, mut turn: Turn) {
        let (disk, class) = (turn.disk, turn.class);
        let hung = || self.lock().is_hung(disk);
        let mut step = match turn.next.take() {
            Some(next) => Some(next),
            None if Instant::now() > turn.begin_by || turn.piece.is_forbidden() => {
                let why = turn.no_turn();
                turn.piece.not_begun(why);
                None
            }
            None => {
                turn.send_by = Some(Instant::now() + turn.deadline);
                turn.piece.next(None, &hung)
            }
        };
        loop {
            let Some((path, command)) = step else {
                let mut state = self.lock();
                state.free_place(class);
                state.free_disk(disk);
                return;
            };
            let ticket = match self.send_off(turn, path) {
                Ok(ticket) => ticket,
                Err((back, why)) => {
                    turn = *back;
                    step = turn.piece.next(Some(no_answer(why)), &hung);
                    continue;
                }
            };
            let answer = self.execute(disk, path, command, ticket.1);
            let Some(flight) = self.lock().flights.remove(&ticket.0) else {
                return;
            };
            let Some(back) = flight.turn else {
                // Told long ago that nothing came.
                return;
            };
            turn = back;
            step = turn.piece.next(Some(answer), &hung);
            if !flight.young {
                return self.go_on_later(turn, step);
            }
        }
    }

    fn execute(
        &self,
        disk: DiskId,
        path: PathId,
        command: PrCommand,
        deadline: Duration,
    ) -> PrAnswer {
        let call = || self.fence.execute(disk, path, command, deadline);
        // A mistake in an adapter must not cost a place for good.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_or_else(|_| {
            no_answer(format!("disk {disk}: its adapter panicked; see the log"))
        })
    }

    /// Notes that a command is on its way; not where its path is stuck with an earlier one, which nothing overtakes.
    fn send_off(&self, turn: Turn, path: PathId) -> Result<(u64, Duration), (Box<Turn>, String)> {
        let now = Instant::now();
        let late = turn.piece.is_bounded() && turn.send_by.is_some_and(|by| now >= by);
        if late || turn.piece.is_forbidden() {
            let name = self.fence.name(turn.disk, path);
            let why = match late {
                true => format!("not done within {} ms", turn.deadline.as_millis()),
                false => "it may not be done any more".to_owned(),
            };
            let why = format!("{name}: {why}; the rest of it was not sent");
            return Err((Box::new(turn), why));
        }
        let mut state = self.lock();
        if let Some(since) = state.stuck_since(turn.disk, path) {
            let age = now.saturating_duration_since(since).as_millis();
            drop(state);
            let name = self.fence.name(turn.disk, path);
            let why = format!(
                "{name}: the command before is still on its way after {age} ms; this one was not sent"
            );
            return Err((Box::new(turn), why));
        }
        state.tickets += 1;
        let (ticket, deadline) = (state.tickets, turn.deadline);
        let flight = Flight {
            disk: turn.disk,
            path,
            class: turn.class,
            sent: now,
            due: turn.due(now),
            young: true,
            turn: Some(turn),
        };
        let look_at = flight.young_until();
        state.flights.insert(ticket, flight);
        if state.watch_at.is_none_or(|at| look_at < at) {
            state.watch_at = Some(look_at);
            drop(state);
            self.alarm.notify_all();
        }
        Ok((ticket, deadline))
    }

    /// A piece without a place: it has ended, or waits for one before all others of its class.
    fn go_on_later(&self, mut turn: Turn, step: Option<(PathId, PrCommand)>) {
        let mut state = self.lock();
        match step {
            None => state.free_disk(turn.disk),
            Some(next) => {
                turn.next = Some(next);
                state.waiting[turn.class as usize].push_front(turn);
            }
        }
        self.wake_one(state);
    }

    // ---- the watch -----------------------------------------------------------------------------------------

    pub(super) fn watch(self: &Arc<Self>) {
        let mut state = self.lock();
        let mut no_thread_until = None;
        while !state.closing {
            let now = Instant::now();
            let overdue = Self::look_at_flights(&mut state, now);
            if !overdue.is_empty() {
                drop(state);
                for (mut turn, path, sent) in overdue {
                    let name = self.fence.name(turn.disk, path);
                    let waited = now.saturating_duration_since(sent).as_millis();
                    let why = format!("{name}: no answer (waited {waited} ms)");
                    let hung = || self.lock().is_hung(turn.disk);
                    let step = turn.piece.next(Some(no_answer(why)), &hung);
                    self.go_on_later(turn, step);
                }
                state = self.lock();
                continue;
            }
            let (late, begin_by) = state.without_turn(now);
            if !late.is_empty() {
                drop(state);
                for turn in late {
                    let why = turn.no_turn();
                    self.give_up(vec![turn], &why);
                }
                state = self.lock();
                continue;
            }
            if no_thread_until.is_none_or(|until| until <= now) {
                no_thread_until = None;
                let wanted = Self::wanted_workers(&mut state);
                if wanted > 0 {
                    drop(state);
                    no_thread_until = self.make_workers(wanted).err().map(|()| now + NO_THREAD);
                    state = self.lock();
                    continue;
                }
            }
            let flights = state.flights.values();
            let times = flights.flat_map(|flight| {
                let young = flight.young.then(|| flight.young_until());
                young.or_else(|| flight.turn.as_ref().map(|_| flight.due))
            });
            let next = times.chain(no_thread_until).chain(begin_by).min();
            state.watch_at = next;
            state = match next {
                None => self
                    .alarm
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    let waited = self.alarm.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes old commands out of the count, and overdue ones away from their pieces.
    fn look_at_flights(state: &mut State, now: Instant) -> Vec<(Turn, PathId, Instant)> {
        let mut overdue = Vec::new();
        let mut aged = Vec::new();
        for flight in state.flights.values_mut() {
            if flight.young && flight.young_until() <= now {
                flight.young = false;
                aged.push(flight.class);
            }
            if flight.due > now {
                continue;
            }
            if let Some(turn) = flight.turn.take() {
                overdue.push((turn, flight.path, flight.sent));
            }
        }
        aged.into_iter().for_each(|class| state.free_place(class));
        overdue
    }

    /// Wakes threads for what may begin; how many must be made beside those. They count already.
    fn wanted_workers(state: &mut State) -> usize {
        let places = Class::ALL.into_iter().map(|class| {
            let waiting = state.waiting[class as usize].len();
            if state.has_place(class) { waiting } else { 0 }
        });
        let mut wanted = places
            .sum::<usize>()
            .min(YOUNG_MAX - state.young().min(YOUNG_MAX))
            .saturating_sub(state.starting);
        while wanted > 0
            && let Some(thread) = state.idle.pop()
        {
            thread.unpark();
            wanted -= 1;
        }
        let most = state.workers_max();
        let all = (state.workers + wanted).max(state.warm).min(most);
        let more = all.saturating_sub(state.workers);
        state.workers += more;
        state.starting += more;
        more
    }

    /// Makes threads: each is a system call that nobody must wait for with the mutex held. Without any thread and any hope
    /// of one, nothing waits in vain.
    fn make_workers(self: &Arc<Self>, wanted: usize) -> Result<(), ()> {
        for missing in (1..=wanted).rev() {
            let shared = self.clone();
            let number = {
                let mut state = self.lock();
                state.made += 1;
                state.made
            };
            let made = std::thread::Builder::new()
                .name(format!("disks-{}", number % 10_000))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    realtime::prefer_lane();
                    shared.work();
                });
            if let Err(error) = made {
                tracing::error!("no thread for work on the disks: {error}");
                let mut state = self.lock();
                state.workers -= missing;
                state.starting -= missing;
                if state.workers == 0 {
                    let all = state.waiting.iter_mut().flat_map(std::mem::take).collect();
                    drop(state);
                    self.give_up(all, &format!("no thread for it: {error}"));
                }
                return Err(());
            }
        }
        Ok(())
    }

    /// Tells pieces that nothing of them is sent.
    fn give_up(&self, turns: Vec<Turn>, why: &str) {
        for mut turn in turns {
            turn.piece.not_begun(why.to_owned());
            self.lock().free_disk(turn.disk);
        }
    }
}
