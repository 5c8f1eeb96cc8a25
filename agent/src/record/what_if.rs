//! What the same inputs would have led to under other timers.
//!
//! ```text
//!   log ─▶ as it was: transitions, and of each piece of work when it was asked for, how long it took, how it ended
//!       └▶ beats, carriers, commands ─▶ a controller with other timers ─ work ─▶ ends as the nearest of its kind did
//! ```
//!
//! Only what was recorded can answer: where the other controller asks for what nothing in the log resembles, the log
//! can't tell what would have happened, and says so. It is surest for the timers by which a peer is judged.

use super::log::{Input, Segment};
use super::replay::{Made, Replay, at};
use crate::config::ROLL_LATENCY_MS;
use failover_api::HistoryRecord;
use failover_core::action::{Action, Outcome, Work};
use failover_core::config::{CoreConfig, Timing};
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::OpId;
use failover_core::time::{Instant, ms};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io::{self, Write};
use std::time::Duration;

/// Beats whose numbers are kept, for the peer's echoes of them.
const SENT_MAX: usize = 256;
/// Steps of the other controller for each recorded one; more is a loop.
const STEPS_FACTOR: usize = 20;

/// One timer's other value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub timer: String,
    /// Its value.
    pub value: u64,
}

impl std::str::FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let (timer, value) = text
            .split_once('=')
            .ok_or("write it as dead_ms=500".to_owned())?;
        let (timer, value) = (timer.trim(), value.trim());
        if !Timing::FIELDS.iter().any(|(name, ..)| *name == timer) {
            return Err(format!(
                "{timer} is no timer; `failoverd --print-default-config` lists them"
            ));
        }
        let value = value
            .parse()
            .map_err(|_| format!("{timer} takes a whole number, not {value}"))?;
        Ok(Change {
            timer: timer.to_owned(),
            value,
        })
    }
}

/// The same timers with the changes in them.
fn changed(timing: &Timing, changes: &[Change]) -> Timing {
    let mut all = serde_json::to_value(timing).unwrap_or_default();
    for change in changes {
        all[&change.timer] = change.value.into();
    }
    // Every name was looked up, and every value is a number.
    serde_json::from_value(all).unwrap_or_else(|_| timing.clone())
}

/// Both ways of a log.
#[derive(Debug, Default)]
pub struct Ways {
    /// Transitions as they were.
    pub as_it_was: Vec<HistoryRecord>,
    /// Those with the changes.
    pub with_it: Vec<HistoryRecord>,
    /// Work that nothing recorded resembles, and the first of it.
    pub unanswered: (u64, Option<(Instant, String)>),
    /// What the configuration check says of these timers, if it refuses them.
    pub refused: Option<String>,
    /// From when on the other way wasn't gone any more: it turned without rest.
    pub given_up: Option<Instant>,
}

/// How one piece of work went.
struct Answer {
    asked: Instant,
    took: Duration,
    outcome: Outcome,
}

/// What is known of the recorded way.
#[derive(Default)]
struct Recorded {
    transitions: Vec<HistoryRecord>,
    /// By kind, in the order of asking.
    answers: BTreeMap<String, Vec<Answer>>,
    open: BTreeMap<OpId, (Instant, String)>,
    /// Numbers of beats, and when they were sent.
    sent: BTreeMap<u64, Instant>,
    /// Ends of work that was asked for before the log began.
    unasked: BTreeSet<OpId>,
    steps: usize,
}

impl Recorded {
    fn of(segments: &[Segment], until: Option<Instant>) -> Recorded {
        let mut recorded = Recorded::default();
        Replay::run(segments, until, |made| recorded.take(made));
        recorded
    }

    fn take(&mut self, made: &Made<'_>) {
        self.steps += 1;
        let now = made.now.unwrap_or_default();
        if let Input::Events { events, .. } = &made.step.input {
            for event in events {
                let Event::Done { op, outcome, .. } = event else {
                    continue;
                };
                let Some((asked, kind)) = self.open.remove(op) else {
                    self.unasked.insert(*op);
                    continue;
                };
                self.answers.entry(kind).or_default().push(Answer {
                    asked,
                    took: now.since(asked),
                    outcome: outcome.clone(),
                });
            }
        }
        if matches!(made.step.input, Input::Start { .. }) {
            self.open.clear();
        }
        for action in &made.actions {
            match action {
                Action::Run { op, work } => {
                    self.open.insert(*op, (now, kind(work)));
                }
                Action::Send(beat) => {
                    self.sent.insert(beat.seq, now);
                }
                Action::History(record) => self.transitions.push(record.clone()),
                _ => {}
            }
        }
    }
}

/// Work of one kind may answer for other work of it.
fn kind(work: &Work) -> String {
    match work {
        Work::Disk { disk, work } => format!("{} of disk {disk}", word(work)),
        Work::Record(entry) => format!("record of {}", word(entry)),
        Work::Prescan(pool) => format!("look ahead at pool {}", pool.0),
        Work::Import { pool, .. } => format!("import of pool {}", pool.0),
        Work::Export(pool) => format!("export of pool {}", pool.0),
        Work::Remember(_) => "owner record".to_owned(),
        Work::StartServices(_) => "start of the services".to_owned(),
        Work::StopServices => "end of the services".to_owned(),
        Work::AddVips(_) => "rise of the addresses".to_owned(),
        Work::RemoveVips => "removal of the addresses".to_owned(),
        Work::AnnounceVips(_) => "announcement of the addresses".to_owned(),
    }
}

/// The variant's name.
pub(super) fn word(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|letter: char| !letter.is_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

/// Goes both ways of a log.
pub fn ways(segments: &[Segment], changes: &[Change], until: Option<Instant>) -> Ways {
    let recorded = Recorded::of(segments, until);
    let mut other = Other {
        recorded: &recorded,
        changes,
        controller: None,
        first: None,
        due: BTreeMap::new(),
        number: 0,
        sent: VecDeque::new(),
        ways: Ways::default(),
        now: Instant::default(),
        steps_left: recorded.steps.saturating_mul(STEPS_FACTOR),
    };
    for step in segments.iter().flat_map(|segment| &segment.steps) {
        if at(&step.input).zip(until).is_some_and(|(at, end)| at > end) {
            break;
        }
        other.take(&step.input);
    }
    let mut ways = other.ways;
    ways.as_it_was = recorded.transitions;
    ways
}

/// The controller with other timers.
struct Other<'a> {
    recorded: &'a Recorded,
    changes: &'a [Change],
    controller: Option<Controller>,
    /// A state with which the log begins, until a moment is known.
    first: Option<Controller>,
    /// Work that is under way, by when it ends.
    due: BTreeMap<(Instant, u64), (OpId, Outcome)>,
    number: u64,
    /// Numbers of its beats, and when they were sent.
    sent: VecDeque<(Instant, u64)>,
    ways: Ways,
    now: Instant,
    steps_left: usize,
}

impl Other<'_> {
    fn take(&mut self, input: &Input) {
        match (input, at(input)) {
            // The run before ended somewhere in between.
            (Input::Start { now, .. }, _) => self.now = *now,
            (_, Some(now)) => {
                self.begin(now);
                self.pass(now);
            }
            (_, None) => {}
        }
        match input {
            Input::Start {
                now,
                config,
                restored,
            } => {
                self.due.clear();
                let (controller, actions) =
                    Controller::new(*now, self.config(config), restored.clone());
                self.controller = Some(controller);
                self.carry_out(actions);
            }
            // Only the first: the others are of the recorded way.
            Input::State { controller, .. } if self.controller.is_none() => {
                self.first = Some((**controller).clone());
            }
            Input::State { .. } => {}
            Input::Config { config, .. } => {
                let config = self.config(config);
                self.reconfigure(config);
            }
            Input::Events { events, .. } => {
                for event in events {
                    let is_its_own = match event {
                        Event::Wake => true,
                        Event::Done { op, .. } => !self.recorded.unasked.contains(op),
                        _ => false,
                    };
                    if !is_its_own {
                        self.handle(event.clone());
                    }
                }
            }
        }
    }

    fn config(&mut self, config: &CoreConfig) -> CoreConfig {
        let timing = changed(&config.timing, self.changes);
        self.ways.refused = timing
            .check(ROLL_LATENCY_MS)
            .err()
            .map(|why| why.join("; "));
        CoreConfig {
            timing,
            ..config.clone()
        }
    }

    fn reconfigure(&mut self, config: CoreConfig) {
        let now = self.now;
        if let Some(controller) = &mut self.controller {
            let actions = controller.reconfigure(now, config);
            self.carry_out(actions);
        }
    }

    /// The state with which a log begins has its first moment from what follows it.
    fn begin(&mut self, now: Instant) {
        let Some(controller) = self.first.take() else {
            return;
        };
        self.now = now;
        let config = self.config(&controller.config().clone());
        self.controller = Some(controller);
        self.reconfigure(config);
    }

    /// Lets time pass: timers and work that end before `now`. Where the recorded daemon stood still, so does this one.
    fn pass(&mut self, now: Instant) {
        let stall = self
            .controller
            .as_ref()
            .map(|core| ms(core.config().timing.stall_ms));
        if stall.is_some_and(|stall| now.since(self.now) > stall) {
            self.now = now;
        }
        while self.ways.given_up.is_none() {
            if self.steps_left == 0 {
                self.ways.given_up = Some(self.now);
                break;
            }
            let timer = self.controller.as_ref().and_then(Controller::next_timeout);
            let timer = timer.map(|(at, _)| at.max(self.now));
            let work = self.due.first_key_value().map(|(key, _)| *key);
            let next = timer.into_iter().chain(work.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= now) else {
                break;
            };
            self.now = self.now.max(next);
            match work.filter(|(at, _)| *at == next) {
                Some(key) => {
                    if let Some((op, outcome)) = self.due.remove(&key) {
                        let waited = Duration::ZERO;
                        self.handle(Event::Done {
                            op,
                            waited,
                            outcome,
                        });
                    }
                }
                None => self.handle(Event::Wake),
            }
        }
        self.now = self.now.max(now);
    }

    fn handle(&mut self, mut event: Event) {
        self.steps_left = self.steps_left.saturating_sub(1);
        if self.ways.given_up.is_some() {
            return;
        }
        if let Event::Beat { beat, .. } = &mut event
            && let Some(echo) = &mut beat.echo
            && let Some(at) = self.recorded.sent.get(&echo.seq)
        {
            // The beat that this controller had sent last by then.
            let ours = self.sent.iter().rev().find(|(sent, _)| sent <= at);
            echo.seq = ours.map_or(echo.seq, |(_, seq)| *seq);
        }
        let now = self.now;
        if let Some(controller) = &mut self.controller {
            let actions = controller.handle(now, event);
            self.carry_out(actions);
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { op, work } => self.answer(op, &kind(&work)),
                Action::Send(beat) => {
                    self.sent.push_back((self.now, beat.seq));
                    if self.sent.len() > SENT_MAX {
                        self.sent.pop_front();
                    }
                }
                Action::History(record) => self.ways.with_it.push(record),
                _ => {}
            }
        }
    }

    /// Work ends as the nearest of its kind did.
    fn answer(&mut self, op: OpId, kind: &str) {
        let empty = Vec::new();
        let answers = self.recorded.answers.get(kind).unwrap_or(&empty);
        let after = answers.partition_point(|answer| answer.asked < self.now);
        let before = after.checked_sub(1).and_then(|index| answers.get(index));
        let distance = |answer: &&Answer| {
            let (since, until) = (self.now.since(answer.asked), answer.asked.since(self.now));
            since.max(until)
        };
        let nearest = answers
            .get(after)
            .into_iter()
            .chain(before)
            .min_by_key(distance);
        let Some(Answer { took, outcome, .. }) = nearest else {
            self.ways.unanswered.0 += 1;
            let first = &mut self.ways.unanswered.1;
            first.get_or_insert_with(|| (self.now, kind.to_owned()));
            return;
        };
        self.number += 1;
        self.due
            .insert((self.now + *took, self.number), (op, outcome.clone()));
    }
}

impl Ways {
    /// Tells both ways, side by side as long as they are the same.
    ///
    /// # Errors
    /// `out` can't be written.
    pub fn tell(&self, began: Instant, changes: &[Change], out: &mut impl Write) -> io::Result<()> {
        let seconds = |at: Instant| format!("{:>10.3}", at.since(began).as_secs_f64());
        let moment = |record: &HistoryRecord| seconds(Instant::from_micros(record.at_micros));
        let words =
            |record: &HistoryRecord| format!("{} -> {}  ({})", record.from, record.to, record.why);
        let list: Vec<String> = changes
            .iter()
            .map(|change| format!("{} = {}", change.timer, change.value))
            .collect();
        writeln!(out, "What if {}", list.join(", "))?;
        if let Some(why) = &self.refused {
            writeln!(out, "(a configuration with it is refused: {why})")?;
        }
        let same = |(was, with): &(&HistoryRecord, &HistoryRecord)| words(was) == words(with);
        let pairs = self.as_it_was.iter().zip(&self.with_it);
        let both: Vec<_> = pairs.take_while(same).collect();
        writeln!(out, "\n{:>10}  {:>10}", "as it was", "with it")?;
        for (was, with) in &both {
            writeln!(out, "{}  {}  {}", moment(was), moment(with), words(was))?;
        }
        for record in &self.as_it_was[both.len()..] {
            writeln!(out, "{}  {:>10}  {}", moment(record), "-", words(record))?;
        }
        for record in &self.with_it[both.len()..] {
            writeln!(out, "{:>10}  {}  {}", "-", moment(record), words(record))?;
        }
        if let Some(at) = self.given_up {
            writeln!(
                out,
                "\nFrom {} on the other way turned without rest, and was not gone further",
                seconds(at).trim()
            )?;
        }
        if let (count, Some((at, kind))) = &self.unanswered {
            writeln!(
                out,
                "\nFrom {} on the log can't tell for sure: nothing recorded answers some of the work that was asked \
                 for, {count} in all, first a {kind}",
                seconds(*at).trim()
            )?;
        }
        Ok(())
    }
}
