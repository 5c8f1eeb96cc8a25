//! The control thread: the one place where the core is driven.
//!
//! ```text
//!   ┌─▶ read every queued datagram ─▶ every input ─▶ Wake if due ─▶ sleep until the next timeout or a descriptor ─┐
//!   └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!        events ─▶ Controller::handle_all ─▶ actions, in list order ─▶ status published
//! ```
//!
//! Nothing here waits for anybody: work goes to lanes, lines to the logger, datagrams to non-blocking sockets.

use crate::backoffice::Backoffice;
use crate::daemon::DaemonAdapters;
use crate::inbox::{Input, Inputs};
use crate::lanes::Lanes;
use crate::last_words::LastWords;
use crate::links::Links;
use crate::logger::Log;
use crate::realtime;
use crate::record::Recorded;
use crate::supervisor::Supervisor;
use failover_api::{Severity, StateReport, Status};
use failover_core::action::{
    Action, Entry, HaltReason, Lease as LeaseChange, Outcome, Refusal, Work,
};
use failover_core::adapters::{Clock, Failure, Lease, Watchdog};
use failover_core::config::CoreConfig;
use failover_core::event::Event;
use failover_core::ids::{OpId, RequestId};
use failover_core::states::State;
use failover_core::time::{Instant, ms};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Inputs taken between two looks at the sockets and the timers.
const INPUTS_MAX: usize = 64;
/// Pause in which answers of disks gather: one look at everything serves all that came meanwhile.
const GATHER: Duration = ms(2);
/// The same where many came together: a shelf of hundreds is being read, and a look at them all is dear.
const GATHER_MANY: Duration = ms(10);
/// So many.
const MANY: usize = 16;
/// Interval at which the report for readers is made anew though nothing changed.
const REPORT_EVERY: Duration = ms(200);
/// Pause where a timer stays due after it was served: a mistake in it must not take a core for ever.
const OVERDUE: Duration = ms(1);
/// Longest sleep: a bound on what a mistake in a timeout could cost.
const SLEEP_MAX: Duration = ms(1000);

/// Interval at which the service manager hears that a stop goes on.
const STOP_TOLD_EVERY: Duration = ms(1000);
/// What it waits after each time: the control thread may be late, but not dead.
const STOP_STEP: Duration = ms(15_000);

/// What is said of a stop whose handover was taken back.
const TAKEN_BACK: &str = "told to end, but the handover was taken back; the service manager kills this daemon when \
    TimeoutStopSec has passed; end what stood in the way, then `systemctl kill failoverd` tells it again";

type Answer = oneshot::Sender<Result<(), Refusal>>;

/// What the control thread owns.
pub(crate) struct Control {
    controller: Recorded,
    clock: Arc<dyn Clock>,
    links: Links,
    lanes: Lanes,
    inputs: Inputs,
    lease: Box<dyn Lease>,
    watchdog: Box<dyn Watchdog>,
    reset: Arc<dyn Fn(&HaltReason) + Send + Sync>,
    log: Log,
    backoffice: Arc<Backoffice>,
    supervisor: Supervisor,
    missing: Vec<String>,
    last_words: Option<LastWords>,
    settle: Duration,
    /// Self-resets as the core had them recorded last.
    resets: u8,
    /// Told to leave, and when the service manager last heard that this goes on.
    leaving: Option<Instant>,
    /// Told to end, in whatever way.
    ending: bool,
    /// The last stop was taken back.
    taken_back: bool,
    requests: BTreeMap<RequestId, Answer>,
    next_request: u64,
    shown: (Status, &'static str),
    reported_at: Instant,
    /// Work that no lane took.
    refused: Vec<(OpId, Outcome)>,
    lease_lost: bool,
    lease_told: bool,
    /// Inputs may still wait.
    more: bool,
    /// Pieces of work that ended in this turn: more answers may be on their way.
    answered: usize,
    exit: bool,
}

/// What it is made of.
pub(crate) struct Parts {
    pub(crate) controller: Recorded,
    pub(crate) links: Links,
    pub(crate) lanes: Lanes,
    pub(crate) inputs: Inputs,
    pub(crate) log: Log,
    pub(crate) backoffice: Arc<Backoffice>,
    pub(crate) supervisor: Supervisor,
    /// What the process asked of the machine and could not have, in words.
    pub(crate) missing: Vec<String>,
    /// `None` where it can't be kept.
    pub(crate) last_words: Option<LastWords>,
    /// Time that a reset waits for the journal and for its reason: without them nothing would end a loop of resets, and
    /// nobody would know why. The lease has ended and the disks refuse by then.
    pub(crate) settle: Duration,
}

impl Control {
    pub(crate) fn new(parts: Parts, adapters: DaemonAdapters) -> Control {
        let shown = (parts.controller.status(), parts.controller.state_name());
        Control {
            controller: parts.controller,
            links: parts.links,
            lanes: parts.lanes,
            inputs: parts.inputs,
            log: parts.log,
            backoffice: parts.backoffice,
            supervisor: parts.supervisor,
            missing: parts.missing,
            last_words: parts.last_words,
            settle: parts.settle,
            resets: 0,
            leaving: None,
            ending: false,
            taken_back: false,
            reported_at: adapters.clock.now(),
            clock: adapters.clock,
            lease: adapters.lease,
            watchdog: adapters.watchdog,
            reset: adapters.reset,
            requests: BTreeMap::new(),
            next_request: 1,
            shown,
            refused: Vec::new(),
            lease_lost: false,
            lease_told: false,
            more: false,
            answered: 0,
            exit: false,
        }
    }

    /// Runs until the core says that the daemon ends. True: it halted and its reset never came, so that pools may still
    /// be imported here.
    pub(crate) fn run(mut self, first: Vec<Action>, config: &CoreConfig) -> bool {
        self.missing.extend(realtime::prefer_control_thread());
        self.supervisor.starting(self.controller.start_limit());
        // The first beat is among these; the rest takes its milliseconds.
        self.carry_out(first);
        self.lanes.warm(config);
        if !self.missing.is_empty() {
            let text = format!(
                "{}; a busy machine may delay beats",
                self.missing.join(", ")
            );
            self.log.say("NO_REAL_TIME", Severity::Warning, text);
        }
        self.tell_supervisor();
        while !self.exit {
            self.turn();
        }
        let report = self.report();
        self.backoffice.publish(&report);
        self.controller.state() == State::Halted
    }

    fn turn(&mut self) {
        self.take_beats();
        self.take_inputs();
        if self.exit {
            return;
        }
        let due = self.controller.next_timeout().map(|(at, _)| at);
        let now = self.clock.now();
        if due.is_some_and(|at| at <= now) {
            // Again, because inputs took their time: every datagram is read before a timer judges.
            self.take_beats();
            self.handle(Event::Wake);
        }
        self.show(false);
        self.follow_stop();
        if !self.exit {
            self.sleep();
        }
    }

    fn take_beats(&mut self) {
        let mut beats = Vec::new();
        self.links.drain(|link, received, beat| {
            beats.push(Event::Beat {
                link,
                received,
                beat: Box::new(beat),
            });
        });
        for beat in beats {
            if self.exit {
                return;
            }
            self.handle(beat);
        }
    }

    fn take_inputs(&mut self) {
        self.inputs.hush();
        self.inputs.expect(false);
        let refused = std::mem::take(&mut self.refused).into_iter();
        self.handle_all(
            refused
                .map(|(op, outcome)| Event::Done {
                    op,
                    waited: Duration::ZERO,
                    outcome,
                })
                .collect(),
        );
        self.more = true;
        // Answers that come together are taken together: with a thousand disks one look at everything serves many.
        let mut answers = Vec::new();
        for _ in 0..INPUTS_MAX {
            match self.inputs.next() {
                Some(Input::Done {
                    op,
                    waited,
                    outcome,
                }) => answers.push(Event::Done {
                    op,
                    waited,
                    outcome,
                }),
                Some(input) => {
                    self.handle_all(std::mem::take(&mut answers));
                    if !self.exit {
                        self.take(input);
                    }
                }
                None => {
                    self.more = false;
                    break;
                }
            }
            if self.exit {
                return;
            }
        }
        self.answered = answers.len();
        self.handle_all(answers);
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Done {
                op,
                waited,
                outcome,
            } => self.handle(Event::Done {
                op,
                waited,
                outcome,
            }),
            // The core listens no more; the other controller has the settings too.
            Input::Command { answer, .. } if self.controller.state() == State::Halted => {
                let reason =
                    "this controller has halted and waits for its reset; ask the other one"
                        .to_owned();
                // Who asked may have gone.
                let _ = answer.send(Err(Refusal {
                    errno: libc::EAGAIN,
                    reason,
                }));
            }
            Input::Command { command, answer } => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                self.requests.insert(request, answer);
                self.handle(Event::Command { request, command });
                // Requests whose asker went away need no answer.
                self.requests.retain(|_, answer| !answer.is_closed());
            }
            Input::Report(answer) => {
                let report = self.report();
                // Who asked may have given up.
                let _ = answer.try_send(self.backoffice.stamped(report));
            }
            Input::Lan { up } => self.handle(Event::Lan { up }),
            Input::Link { link, up } => self.handle(Event::Link { link, up }),
            // A controller that could not reset itself has nothing left to do in order.
            Input::Stop { .. } if self.controller.state() == State::Halted => self.exit = true,
            Input::Stop { restart } => {
                self.leaving = (!restart).then(|| self.clock.now());
                self.ending = true;
                self.taken_back = false;
                self.handle(Event::Stop { restart });
            }
            Input::Reconfigure(config) => {
                self.lanes.set_deadlines(&config.timing);
                let actions = self.controller.reconfigure(self.clock.now(), *config);
                self.carry_out(actions);
            }
            Input::OnVipLane(job) => self.lanes.on_vip_lane(job),
        }
    }

    fn handle(&mut self, event: Event) {
        self.handle_all(vec![event]);
    }

    fn handle_all(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let actions = self.controller.handle_all(self.clock.now(), events);
        self.carry_out(actions);
        while std::mem::take(&mut self.lease_lost) && !self.exit {
            let actions = self
                .controller
                .handle_all(self.clock.now(), vec![Event::LeaseLost]);
            self.carry_out(actions);
        }
        self.show(true);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { op, work } => {
                    if let Work::Record(Entry::Resets(resets)) = work {
                        self.resets = resets;
                    }
                    if let Err((op, outcome)) = self.lanes.start(op, work) {
                        self.refused.push((op, outcome));
                    }
                }
                Action::Send(beat) => self.links.send(&beat),
                Action::Lease(change) => self.change_lease(change),
                Action::Reply { request, reply } => {
                    if let Some(answer) = self.requests.remove(&request) {
                        // Who asked may have gone.
                        let _ = answer.send(reply);
                    }
                }
                Action::Notify(notice) => self.log.notice(notice),
                Action::History(record) => self.log.history(record),
                Action::PetWatchdog => {
                    self.watchdog.pet();
                    self.supervisor.alive();
                }
                Action::Halt(reason) => {
                    self.settle(&reason);
                    (self.reset)(&reason);
                    // Still here: nobody carries these out any more, and a dropped answer says so. Who was told to end
                    // before has nothing left to do in order.
                    self.requests.clear();
                    self.exit |= self.ending;
                }
                Action::Exit => self.exit = true,
            }
        }
    }

    /// What the next boot must know, written side by side; a disk that hangs holds up no reset.
    fn settle(&mut self, reason: &HaltReason) {
        let began = std::time::Instant::now();
        let epoch = self.controller.report(self.clock.now()).epoch;
        if let Some(last_words) = &self.last_words {
            last_words.begin(&reason.to_string(), epoch, self.resets);
        }
        self.lanes.settle_journal(self.settle);
        if let Some(last_words) = &self.last_words {
            last_words.settle(self.settle.saturating_sub(began.elapsed()));
        }
        self.controller
            .settle(self.settle.saturating_sub(began.elapsed()));
    }

    fn change_lease(&mut self, change: LeaseChange) {
        let now = self.clock.now();
        let result = match change {
            LeaseChange::Grant { until } => self.lease.grant(now, until),
            LeaseChange::Renew { until } => self.lease.renew(now, until),
            LeaseChange::End => self.lease.end(),
        };
        match (result, change) {
            (Ok(()), _) => self.lease_told = false,
            (Err(failure), LeaseChange::Grant { .. } | LeaseChange::Renew { .. }) => {
                self.lease_lost = true;
                self.tell_lease(&failure);
            }
            // It ends by itself a moment later; the core removes the addresses in any case.
            (Err(failure), LeaseChange::End) => self.tell_lease(&failure),
        }
    }

    fn tell_lease(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.lease_told, true) {
            let text = format!("the lease of the virtual addresses: {failure}");
            self.log.say("LEASE_FAILED", Severity::Alarm, text);
        }
    }

    fn report(&mut self) -> StateReport {
        let now = self.clock.now();
        self.reported_at = now;
        self.controller.report(now)
    }

    /// Lets readers and subscribers see a change at once, and everything else a little later.
    fn show(&mut self, handled: bool) {
        let now = (self.controller.status(), self.controller.state_name());
        let changed = now != self.shown;
        if changed {
            self.shown = now;
            self.backoffice.changed();
            self.tell_supervisor();
        } else if handled || self.clock.now().since(self.reported_at) < REPORT_EVERY {
            return;
        }
        let report = self.report();
        self.backoffice.publish(&report);
    }

    /// The state, for `systemctl status`.
    fn tell_supervisor(&mut self) {
        let (status, name) = self.shown;
        let text = match (status, self.controller.why()) {
            _ if self.taken_back => format!("{status} ({name}); {TAKEN_BACK}"),
            (Status::Error, why) => format!("{status} ({name}): {why}"),
            _ => format!("{status} ({name})"),
        };
        self.supervisor.status(&text);
    }

    /// Leaving is a handover first. That may take longer than the service manager waits by itself, and it may be taken
    /// back: then it must be known that the manager's patience ends in a kill. Where the serving fails, too, it leaves
    /// after all.
    fn follow_stop(&mut self) {
        if self.taken_back && self.controller.is_leaving() {
            self.leaving = Some(self.clock.now());
            self.ending = true;
            self.taken_back = false;
        }
        let Some(told_at) = self.leaving else {
            return;
        };
        if self.exit {
            return;
        }
        if self.controller.is_leaving() {
            let now = self.clock.now();
            if now.since(told_at) >= STOP_TOLD_EVERY {
                self.leaving = Some(now);
                self.supervisor.stop_goes_on(STOP_STEP);
            }
            return;
        }
        self.leaving = None;
        self.ending = false;
        self.taken_back = true;
        self.tell_supervisor();
        self.log
            .say("STOP_TAKEN_BACK", Severity::Alarm, TAKEN_BACK.to_owned());
    }

    fn sleep(&mut self) {
        let now = self.clock.now();
        let due = self.controller.next_timeout().map(|(at, _)| at);
        let left = if self.more || !self.refused.is_empty() {
            Duration::ZERO
        } else {
            due.map_or(SLEEP_MAX, |at| match at.since(now) {
                Duration::ZERO => OVERDUE,
                left => left.min(SLEEP_MAX),
            })
        };
        let left = match self.answered {
            0 => left,
            few if few < MANY => left.min(GATHER),
            _ => left.min(GATHER_MANY),
        };
        self.inputs.expect(self.answered > 0);
        let mut waiting: Vec<PollFd<'_>> = self
            .links
            .descriptors()
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        waiting.push(PollFd::new(self.inputs.descriptor(), PollFlags::POLLIN));
        // A wrong descriptor or an interrupted wait only makes the next turn come early.
        let _ = ppoll(&mut waiting, Some(TimeSpec::from_duration(left)), None);
    }
}
