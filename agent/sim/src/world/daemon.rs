//! The daemon: its start, its events, its timer, its pauses.

use super::{BUSY_US, World};
use crate::coverage::{event_kind, state_index};
use crate::machine::Daemon;
use crate::queue::Happening;
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::{LinkId, Node};
use failover_core::states::State;
use failover_core::time::Instant;

/// Timeouts within a millisecond that are no endless loop, and one more for each disk, whose looks may fall due one by one.
const WAKES_MAX: u32 = 200;
/// Datagrams that a socket keeps while its daemon is paused.
const SOCKET_MAX: usize = 400;

impl World {
    /// The clock of a machine.
    pub(crate) fn local(&self, node: Node) -> Instant {
        let zero = self.machines[node as usize].clock_zero;
        Instant::from_micros((self.now as i64 - zero) as u64)
    }

    pub(crate) fn lives_on(&self, node: Node, life: u32) -> bool {
        let daemon = self.machines[node as usize].daemon.as_ref();
        daemon.is_some_and(|daemon| daemon.life == life)
    }

    /// The state of a daemon that runs.
    pub(crate) fn state(&self, node: Node) -> Option<State> {
        let daemon = self.machines[node as usize].daemon.as_ref();
        daemon.map(|daemon| daemon.controller.state())
    }

    /// Starts a daemon with what its journal and runtime folder say.
    pub(crate) fn start_daemon(&mut self, node: Node) {
        let machine = &self.machines[node as usize];
        let alone = self.plan.single && node == Node::B;
        if !machine.powered || machine.daemon.is_some() || alone {
            return;
        }
        self.lives += 1;
        let session = self.rng.next();
        let mut restored = machine.kernel.durable.clone();
        restored.owner = machine.kernel.owner.clone();
        restored.owner_unreadable = machine.kernel.owner_damaged;
        restored.session = session;
        let config = self.plan.config(node, session);
        tell!(self, node, "the daemon starts");
        let (controller, actions) = Controller::new(self.local(node), config, restored);
        let (now, lan_up) = (self.now, self.machines[node as usize].lan_up);
        self.ledger.daemon_started(node, session);
        self.machines[node as usize].stopping = None;
        self.machines[node as usize].daemon = Some(Daemon {
            life: self.lives,
            controller,
            session,
            paused: false,
            inbox: Vec::new(),
            gathered: Vec::new(),
            held_tasks: Vec::new(),
            wake_at: None,
            running_since: now,
            state_since: now,
            wakes_now: (0, 0),
        });
        self.carry_out_actions(node, actions);
        self.arm(node);
        if !lan_up {
            self.feed(node, Event::Lan { up: false });
        }
        for link in 0..self.plan.links {
            let up = self.machines[node as usize].links_up[usize::from(link)];
            if !up && self.lives_on(node, self.lives) {
                let link = LinkId(link);
                self.feed(node, Event::Link { link, up });
            }
        }
    }

    /// Hands an event to the daemon, or keeps it while the daemon is paused.
    pub(crate) fn feed(&mut self, node: Node, event: Event) {
        self.feed_all(node, vec![event]);
    }

    /// Hands events to the daemon that came together.
    pub(crate) fn feed_all(&mut self, node: Node, events: Vec<Event>) {
        let local = self.local(node);
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        if daemon.paused {
            let room = SOCKET_MAX.saturating_sub(daemon.inbox.len());
            daemon.inbox.extend(events.into_iter().take(room));
            return;
        }
        let before = daemon.controller.state();
        for event in &events {
            self.coverage.events += 1;
            self.coverage.matrix[state_index(before)][event_kind(event)] += 1;
        }
        let actions = daemon.controller.handle_all(local, events);
        let after = daemon.controller.state();
        if before != after {
            daemon.state_since = self.now;
            self.state_changed(node, before, after);
        }
        self.carry_out_actions(node, actions);
        self.arm(node);
    }

    pub(crate) fn wake(&mut self, node: Node, life: u32) {
        let now = self.now;
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        if daemon.life != life || daemon.wake_at.is_none_or(|at| at > now) {
            return;
        }
        daemon.wake_at = None;
        if daemon.paused {
            return;
        }
        let (at, count) = daemon.wakes_now;
        daemon.wakes_now = if now < at + 1000 {
            (at, count + 1)
        } else {
            (now, 1)
        };
        if daemon.wakes_now.1 > WAKES_MAX + u32::from(self.plan.disks) {
            let why = daemon.controller.next_timeout();
            let text = format!("{node}: the control loop turns without rest: {why:?}");
            self.violate("ends", text);
            return;
        }
        self.feed(node, Event::Wake);
    }

    /// Puts the daemon's next timeout on the agenda.
    fn arm(&mut self, node: Node) {
        let jitter = match self.conditions.busy[node as usize] {
            true => BUSY_US,
            false => self.plan.jitter_us,
        };
        let late = self.rng.below(jitter + 1);
        let now = self.now;
        let machine = &mut self.machines[node as usize];
        let zero = machine.clock_zero;
        let Some(daemon) = machine.daemon.as_mut() else {
            return;
        };
        let Some((at, _)) = daemon.controller.next_timeout() else {
            return;
        };
        let due = (at.micros() as i64 + zero).max(now as i64) as u64;
        // The runtime's timers count milliseconds, which matters where a thousand looks fall due one after the other.
        let due = match self.plan.gathers() {
            true => due.next_multiple_of(1000),
            false => due,
        };
        let at = due.max(now + 1) + if due > now { late } else { late / 8 };
        if daemon
            .wake_at
            .is_some_and(|armed| armed <= at && armed > now)
        {
            return;
        }
        daemon.wake_at = Some(at);
        let life = daemon.life;
        self.queue.push(at, Happening::Wake { node, life });
    }

    /// SIGCONT: queued datagrams first, then everything else.
    pub(crate) fn resume(&mut self, node: Node) {
        let now = self.now;
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        if !daemon.paused {
            return;
        }
        tell!(self, node, "the daemon runs again");
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        daemon.paused = false;
        daemon.running_since = now;
        daemon.wake_at = None;
        let life = daemon.life;
        let tasks = std::mem::take(&mut daemon.held_tasks);
        let (beats, rest): (Vec<Event>, Vec<Event>) = std::mem::take(&mut daemon.inbox)
            .into_iter()
            .partition(|event| matches!(event, Event::Beat { .. }));
        for beat in beats {
            if self.lives_on(node, life) {
                self.feed(node, beat);
            }
        }
        if self.lives_on(node, life) && !rest.is_empty() {
            self.feed_all(node, rest);
        }
        for task in tasks {
            self.answered(task);
        }
        if self.lives_on(node, life) {
            self.feed(node, Event::Wake);
        }
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, node: Node, until: u64) {
        let Some(daemon) = self.machines[node as usize].daemon.as_mut() else {
            return;
        };
        daemon.paused = true;
        let life = daemon.life;
        self.queue.push(until, Happening::Resume { node, life });
        tell!(self, node, "the daemon is paused");
    }

    /// SIGKILL. What runs in the kernel goes on; work that had not begun is gone.
    pub(crate) fn kill(&mut self, node: Node) {
        if self.machines[node as usize].daemon.take().is_none() {
            return;
        }
        tell!(self, node, "the daemon is killed");
        self.drop_lanes(node);
        let damaged = self.heal_at != u64::MAX && self.rng.percent(10);
        let kernel = &mut self.machines[node as usize].kernel;
        if damaged && kernel.owner.take().is_some() {
            tell!(self, node, "its owner record is damaged");
            self.machines[node as usize].kernel.owner_damaged = true;
        }
    }

    /// SIGTERM.
    pub(crate) fn stop(&mut self, node: Node, restart: bool) {
        if self.machines[node as usize].daemon.is_some() {
            self.machines[node as usize].stopping = Some(restart);
            self.feed(node, Event::Stop { restart });
        }
    }
}
