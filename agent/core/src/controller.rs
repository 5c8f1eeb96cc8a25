//! The controller: what it knows, how it takes an event, and the book of work in flight.
//!
//! ```text
//!   event ──▶ handle ──▶ take it in ──▶ overdue work fails ──▶ poll the state until it rests ──▶ beat if due ──▶ actions
//! ```
//!
//! Everything is level-triggered: after each event the state looks at all facts anew and acts on what holds now.
//! A condition that will hold later says so with `wake_at`; `next_timeout` is the earliest of those.

mod memory;

use crate::action::{Action, Entry, HaltReason, Lease, Restored, Work};
use crate::beat::{Ask, Beat};
use crate::config::CoreConfig;
use crate::disks::{Disks, Verdict};
use crate::event::Event;
use crate::handover::Handover;
use crate::ids::{Epoch, LinkId, OpId, RequestId, Session};
use crate::key::{EpochBits, Key, Phase};
use crate::link_alarms::LinkAlarms;
use crate::ops::{Job, Pending};
use crate::owner::{Owner, PoolRetries};
use crate::peer::{Heard, Peer};
use crate::settings::{Settings, SettingsChange};
use crate::start::Start;
use crate::states::{Edge, State};
use crate::takeover::Takeover;
use crate::time::{Instant, ms};
use failover_api::{Notice, Severity};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Turns of `poll` after one event; a state machine that needs more is broken.
const POLLS_MAX: u32 = 32;
/// Smallest time between two answers to an unproven run of the peer.
const STRANGER_ANSWER: Duration = ms(10);
/// Answers without proof after which they become rare. Each may renew the lease of an owner, and so puts off the moment at
/// which the disks are silent: one that never hears us, or a replay, must not do so for ever.
const STRANGER_ANSWERS_MAX: u8 = 50;

/// One controller of the pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Controller {
    pub(crate) config: CoreConfig,
    pub(crate) state: State,
    pub(crate) since: Instant,
    pub(crate) why: Cow<'static, str>,
    pub(crate) started: Instant,
    /// When disks were last taken of which most showed no key of the pair, and so told of no lease.
    pub(crate) took_blank_at: Option<Instant>,
    pub(crate) peer: Peer,
    pub(crate) disks: Disks,
    pub(crate) settings: Settings,
    pub(crate) incarnation: u16,
    /// Epoch in force, or last used.
    pub(crate) epoch: Epoch,
    /// Durable and not used yet, if greater than `seen`.
    pub(crate) reserved: Epoch,
    /// Newest epoch seen anywhere.
    pub(crate) seen: Epoch,
    pub(crate) lan_up: bool,
    pub(crate) stop: Option<StopKind>,
    /// A stop whose handover went back; taken up again where the serving fails, too.
    pub(crate) stop_taken_back: Option<StopKind>,
    pub(crate) start: Start,
    pub(crate) takeover: Takeover,
    pub(crate) owner: Owner,
    pub(crate) handover: Handover,
    pub(crate) retries: PoolRetries,
    pub(crate) link_alarms: LinkAlarms,
    pub(crate) resets: u8,
    /// Since this run began, a live owner was seen.
    pub(crate) saw_owner: bool,
    pub(crate) dead_since: Option<Instant>,
    pub(crate) not_serving_since: Option<Instant>,
    pub(crate) ask: Option<Ask>,
    pub(crate) force: Option<Instant>,
    pub(crate) backoff_until: Instant,
    pub(crate) losses: u32,
    pub(crate) import_failed_until: Option<Instant>,
    pub(crate) last_stall: Option<(Instant, Duration)>,
    pub(crate) requests: Vec<Request>,
    pub(crate) history_seq: u64,
    pub(crate) session: Session,
    pub(crate) seq: u64,
    pub(crate) beat_now: bool,
    pub(crate) arbiters_acked: u32,
    pub(crate) random: u64,
    #[serde(skip)]
    pub(crate) out: Vec<Action>,
    pub(crate) journal_again_at: Instant,
    pub(crate) answer_stranger: bool,
    stranger_answered: Instant,
    /// Answers since a run of the peer last counted.
    stranger_answers: u8,
    pub(crate) beat_sent: Instant,
    pub(crate) petted: Instant,
    pub(crate) last_run: Instant,
    wake: Option<(Instant, Cow<'static, str>)>,
    pub(crate) ops: BTreeMap<OpId, Pending>,
    pub(crate) next_op: u64,
}

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum StopKind {
    /// For good.
    Leave,
    /// It comes back at once.
    Restart,
}

/// A request that waits for its end.
#[derive(Clone, Copy, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) wants: Wants,
    pub(crate) until: Instant,
}

/// What a waiting request wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Wants {
    /// The peer serves.
    PeerServes,
    /// The peer serves; then these settings are made.
    PeerServesThen(SettingsChange),
    /// This controller serves.
    WeServe,
}

impl Controller {
    /// A controller that starts now. Carry out the actions before the first event.
    pub fn new(now: Instant, config: CoreConfig, restored: Restored) -> (Controller, Vec<Action>) {
        let Restored {
            incarnation,
            epoch,
            settings,
            arbiters,
            owned: _,
            resets,
            owner,
            owner_unreadable,
            session,
        } = restored;
        let mut disks = Disks::new(now, &config.disks, arbiters, config.arbiters, config.pair);
        if config.has_peer {
            disks.of_none = Verdict::Unknown;
        }
        let acked = disks.arbiters.version;
        let mut controller = Controller {
            state: if owner.is_some() {
                State::Adopting
            } else {
                State::Starting
            },
            since: now,
            why: Cow::Borrowed("the daemon started"),
            started: now,
            took_blank_at: None,
            peer: Peer::new(config.links),
            disks,
            settings: settings.unwrap_or_default(),
            incarnation: owner
                .as_ref()
                .map_or((incarnation + 1) & 0x3ff, |owner| owner.incarnation),
            epoch: owner.as_ref().map_or(Epoch(0), |owner| owner.epoch),
            reserved: Epoch(0),
            seen: epoch.max(owner.as_ref().map_or(Epoch(0), |owner| owner.epoch)),
            lan_up: true,
            stop: None,
            stop_taken_back: None,
            start: Start::new(owner, owner_unreadable),
            takeover: Takeover::default(),
            owner: Owner::new(now),
            handover: Handover::default(),
            retries: PoolRetries::default(),
            link_alarms: LinkAlarms::default(),
            resets,
            saw_owner: false,
            dead_since: None,
            not_serving_since: None,
            ask: None,
            force: None,
            backoff_until: now,
            losses: 0,
            import_failed_until: None,
            last_stall: None,
            requests: Vec::new(),
            history_seq: 0,
            session: Session(session),
            seq: 0,
            beat_now: true,
            arbiters_acked: acked,
            random: config.seed | 1,
            out: Vec::new(),
            journal_again_at: now,
            answer_stranger: false,
            stranger_answered: now,
            stranger_answers: 0,
            beat_sent: now,
            petted: now,
            last_run: now,
            wake: None,
            ops: BTreeMap::new(),
            next_op: 0,
            config,
        };
        controller.poll_all(now);
        let out = std::mem::take(&mut controller.out);
        (controller, out)
    }

    /// Takes one event and answers what to do, in this order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        self.handle_all(now, [event])
    }

    /// Takes several events that came together, in their order, and answers what to do after all of them: with a thousand
    /// disks one look at everything must serve many answers.
    pub fn handle_all(
        &mut self,
        now: Instant,
        events: impl IntoIterator<Item = Event>,
    ) -> Vec<Action> {
        let now = now.max(self.last_run);
        self.notice_stall(now);
        if self.state != State::Halted {
            for event in events {
                self.take_in(now, event);
            }
            self.poll_all(now);
        }
        std::mem::take(&mut self.out)
    }

    /// When `Event::Wake` is due, and what for. Ask again after every `handle`.
    pub fn next_timeout(&self) -> Option<(Instant, &str)> {
        self.wake.as_ref().map(|(at, why)| (*at, why.as_ref()))
    }

    /// Internal state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Name of the internal state.
    pub fn state_name(&self) -> &'static str {
        self.state.name()
    }

    /// The sentence of the last edge.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The configuration in force.
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Told to leave the pair, and on its way; a handover that is taken back ends it, until the serving fails, too.
    pub fn is_leaving(&self) -> bool {
        self.stop == Some(StopKind::Leave)
    }

    /// Takes a new configuration; node, pair, links, disks and pools must be those of the running one.
    pub fn reconfigure(&mut self, now: Instant, config: CoreConfig) -> Vec<Action> {
        self.config.timing = config.timing;
        self.poll_all(now);
        std::mem::take(&mut self.out)
    }

    // ---- taking events in ----------------------------------------------------------------------------------

    /// Time in which this process did not run is nobody's silence (design rule 7).
    fn notice_stall(&mut self, now: Instant) {
        let gap = now.since(self.last_run);
        self.last_run = now;
        if gap <= ms(self.config.timing.stall_ms) {
            return;
        }
        self.last_stall = Some((now, gap));
        self.peer.stalled(now, gap);
        self.disks.stalled(now, gap);
        // Answers that came meanwhile wait to be read: they are not late.
        for pending in self.ops.values_mut().filter(|pending| !pending.overdue) {
            pending.deadline = pending.deadline + gap;
        }
        self.not_serving_since = None;
        self.dead_since = None;
    }

    fn take_in(&mut self, now: Instant, event: Event) {
        match event {
            Event::Wake => {}
            Event::Beat {
                link,
                received,
                beat,
            } => self.beat_came(now, link, received, &beat),
            Event::Done {
                op,
                waited,
                outcome,
            } => self.work_ended(now, op, waited, outcome),
            Event::Command { request, command } => self.command(now, request, command),
            Event::Lan { up } => {
                self.lan_up = up;
                // A switch that was away may have forgotten where the addresses live.
                self.owner.announce_anew(now);
            }
            Event::Link { link, up } => {
                if let Some(link) = self.peer.links.get_mut(usize::from(link.0)) {
                    link.up = up;
                }
            }
            Event::LeaseLost => self.lease_lost(now),
            Event::Stop { restart } => {
                self.stop = Some(if restart {
                    StopKind::Restart
                } else {
                    StopKind::Leave
                });
            }
        }
    }

    fn beat_came(&mut self, now: Instant, link: LinkId, received: Instant, beat: &Beat) {
        if beat.node == self.config.node || !self.config.has_peer {
            self.peer.refused += 1;
            return;
        }
        match self
            .peer
            .hear(now, link, received, beat, self.session, self.seq)
        {
            Heard::Refused | Heard::Life => {}
            Heard::Stranger => {
                if now.since(self.stranger_answered) >= self.stranger_pause() {
                    self.stranger_answered = now;
                    self.stranger_answers = (self.stranger_answers + 1).min(STRANGER_ANSWERS_MAX);
                    self.answer_stranger = true;
                    self.beat_now = true;
                }
            }
            Heard::News => {
                self.stranger_answers = 0;
                self.news(now, beat);
            }
        }
    }

    /// Rare answers leave the disks room to fall silent in between.
    fn stranger_pause(&self) -> Duration {
        let timing = &self.config.timing;
        match self.stranger_answers < STRANGER_ANSWERS_MAX {
            true => STRANGER_ANSWER,
            false => ms(2 * (timing.dead_ms + timing.disk_silent_ms)),
        }
    }

    /// A newer statement of the peer.
    fn news(&mut self, now: Instant, beat: &Beat) {
        self.seen = self.seen.max(beat.epoch);
        if beat.settings.version > self.settings.version {
            self.settings = beat.settings;
            self.run(
                now,
                Job::RecordSettings(None),
                Work::Record(Entry::Settings(self.settings)),
            );
        }
        let theirs = (beat.arbiters.version, beat.arbiters.previous.is_empty());
        let ours = (
            self.disks.arbiters.version,
            self.disks.arbiters.previous.is_empty(),
        );
        if theirs > ours && !self.state.owns() {
            self.disks.arbiters = beat.arbiters.clone();
            let entry = Entry::Arbiters(beat.arbiters.clone());
            self.run(now, Job::RecordArbiters, Work::Record(entry));
        }
        // Answer the owner at once: the fresher our echo, the longer its lease, and the sooner we know of its death.
        let half = ms(self.config.timing.beat_ms / 2);
        if beat.role.owns() && !self.state.owns() && now.since(self.beat_sent) >= half {
            self.beat_now = true;
        }
    }

    // ---- polling -------------------------------------------------------------------------------------------

    /// Looks at all facts until nothing more follows from them.
    fn poll_all(&mut self, now: Instant) {
        self.wake = None;
        self.fail_overdue(now);
        for turn in 0.. {
            assert!(
                turn < POLLS_MAX,
                "the state machine does not come to rest in {:?}",
                self.state
            );
            let before = self.state;
            self.poll(now);
            if self.state == before {
                break;
            }
        }
        self.poll_requests(now);
        self.poll_owed(now);
        if self.state != State::Halted {
            self.judge_links(now);
            self.poll_beat(now);
        }
    }

    fn poll(&mut self, now: Instant) {
        if self.state.owns() {
            self.poll_owner(now);
        }
        match self.state {
            State::Starting => self.poll_starting(now),
            State::Adopting => self.poll_adopting(now),
            State::Electing | State::Standby => self.poll_standby(now),
            State::Surveying => self.poll_surveying(now),
            State::FencingArbiters => self.poll_fencing_arbiters(now),
            State::FencingRest => self.poll_fencing_rest(now),
            State::Importing => self.poll_importing(now),
            State::StartingServices => self.poll_starting_services(now),
            State::Announcing => self.poll_announcing(now),
            State::Active => self.poll_serving(now),
            State::Failed => self.poll_failed(now),
            State::RemovingVips => self.poll_removing_vips(now),
            State::StoppingServices => self.poll_stopping_services(now),
            State::Exporting => self.poll_exporting(now),
            State::WritingHandover => self.poll_writing(now),
            State::HandedOver => self.poll_handed_over(now),
            State::Reverting => self.poll_reverting(now),
            State::Restarting => self.poll_restarting(now),
            State::Yielding => self.poll_yielding(now),
            State::Stopping => self.poll_stopping(now),
            State::Held => self.poll_held(now),
            State::Halted => {}
        }
    }

    /// Says that something is due at `at`.
    pub(crate) fn wake_at(&mut self, at: Instant, why: &'static str) {
        if self
            .wake
            .as_ref()
            .is_none_or(|(earliest, _)| at < *earliest)
        {
            self.wake = Some((at, Cow::Borrowed(why)));
        }
    }

    /// Moves along an edge.
    pub(crate) fn go(&mut self, now: Instant, edge: Edge) {
        assert_eq!(self.state, edge.from, "an edge is taken from its own state");
        self.state = edge.to;
        self.why = Cow::Borrowed(edge.why);
        self.record_history(now, edge);
        self.since = now;
        self.beat_now = true;
    }

    /// Resets the machine: the last action of this run.
    pub(crate) fn halt(&mut self, now: Instant, edge: Edge, reason: HaltReason) {
        self.notice(
            "HALT",
            Severity::Alarm,
            format!("resetting this controller: {reason}"),
        );
        self.out.push(Action::Lease(Lease::End));
        self.go(now, edge);
        let resets = self.resets.saturating_add(1);
        self.run(now, Job::RecordOther, Work::Record(Entry::Resets(resets)));
        self.send_beat(now);
        self.out.push(Action::Halt(reason));
    }

    pub(crate) fn notice(&mut self, id: &str, severity: Severity, text: String) {
        self.out.push(Action::Notify(Notice {
            id: id.to_owned(),
            severity,
            text,
        }));
    }

    /// A pseudo-random number below `below`; the seed is configured, so that a replay draws the same.
    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        // xorshift64 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// The key that this controller puts on disks in epoch `epoch` now.
    pub(crate) fn key(&self, phase: Phase, epoch: Epoch) -> Key {
        Key {
            pair: self.config.pair,
            node: self.config.node,
            held: self.settings.disabled,
            phase,
            incarnation: self.incarnation,
            epoch: EpochBits::of(epoch),
            beat: self.owner.beat,
        }
    }
}

/// errno values of the API, as Linux numbers them.
pub(crate) mod libc_errno {
    pub(crate) const EFAULT: i32 = 14;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ETIMEDOUT: i32 = 110;
}
