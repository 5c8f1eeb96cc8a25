//! What `failoverd replay` says of a log.

use super::log::{Head, Input, Segment, Step};
use super::replay::{self, Made, Replay, Same};
use super::what_if::word;
use failover_api::{HistoryRecord, Notice};
use failover_core::action::{Action, Outcome, Work};
use failover_core::disk_work::DiskWork;
use failover_core::event::Event;
use failover_core::ids::{DiskId, PoolId};
use failover_core::time::Instant;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// Differing steps that are shown.
const SHOWN_MAX: usize = 5;

/// How much is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telling {
    /// Nothing after this long from the log's beginning.
    pub until: Option<Duration>,
    /// The evidence of each transition, what came with it, and what was asked for.
    pub explain: bool,
}

/// What became of the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps made again.
    pub steps: usize,
    /// Events in them.
    pub events: usize,
    /// Transitions in them.
    pub transitions: usize,
    /// Steps whose decision differs, and the sentence about each of the first.
    pub differ: (usize, Vec<String>),
    /// Steps that nothing could be compared with: what came before them is missing.
    pub missing: usize,
    /// Segments with a damaged end, in words.
    pub damaged: Vec<String>,
}

impl Summary {
    /// What keeps the log from being replayed as a whole, in sentences.
    pub fn flaws(&self) -> Vec<String> {
        let mut flaws: Vec<String> = Vec::new();
        flaws.extend(self.damaged.iter().map(|what| format!("damaged: {what}")));
        if self.differ.0 > 0 {
            let first = self.differ.1.first().map_or("", String::as_str);
            flaws.push(format!("{} steps decide otherwise: {first}", self.differ.0));
        }
        if self.missing > 0 {
            flaws.push(format!(
                "{} steps had nothing to be compared with: what came before them is missing",
                self.missing
            ));
        }
        flaws
    }

    /// Every step was made again, and each the same.
    pub fn is_same(&self) -> bool {
        self.differ.0 == 0 && self.missing == 0 && self.damaged.is_empty() && self.steps > 0
    }
}

/// When the first and the last step of a log came.
pub fn span(segments: &[Segment]) -> Option<(Instant, Instant)> {
    let steps = || segments.iter().flat_map(|segment| &segment.steps);
    let first = steps().find_map(|step| replay::at(&step.input))?;
    let last = steps().rev().find_map(|step| replay::at(&step.input))?;
    Some((first, last))
}

/// Makes the decisions of a log again, without a word.
pub fn summarise(segments: &[Segment], until: Option<Instant>) -> Summary {
    let mut summary = Summary::new(segments);
    Replay::run(segments, until, |made| summary.count(made));
    summary
}

/// Makes the decisions of a log again and tells them.
///
/// # Errors
/// `out` can't be written.
pub fn tell(segments: &[Segment], telling: Telling, out: &mut impl Write) -> io::Result<Summary> {
    let mut summary = Summary::new(segments);
    let (Some((first, last)), Some(segment)) = (span(segments), segments.first()) else {
        writeln!(out, "nothing is recorded in it")?;
        return Ok(summary);
    };
    tell_head(&segment.head, segments.len(), (first, last), out)?;
    let until = telling.until.map(|until| first + until);
    let mut result = Ok(());
    let mut names = Names::default();
    Replay::run(segments, until, |made| {
        summary.count(made);
        if result.is_ok() {
            let since = made.now.unwrap_or(first).since(first);
            names.learn(&made.step.input);
            result = tell_step(made, since, telling.explain.then_some(&names), out);
        }
    });
    result?;
    summary.tell(out)?;
    Ok(summary)
}

fn tell_head(
    head: &Head,
    segments: usize,
    (first, last): (Instant, Instant),
    out: &mut impl Write,
) -> io::Result<()> {
    let began = head.wall_micros.saturating_add(first.micros() as i64);
    let began = jiff::Timestamp::from_microsecond(began).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    writeln!(
        out,
        "Recorded by  failoverd {} on controller {}",
        head.program, head.node
    )?;
    writeln!(
        out,
        "Began        {} (its clock), boot {}",
        began.strftime("%Y-%m-%d %H:%M:%S UTC"),
        head.boot
    )?;
    let plural = if segments == 1 { "" } else { "s" };
    writeln!(
        out,
        "Length       {:.1} s in {segments} segment{plural}",
        last.since(first).as_secs_f64()
    )?;
    if head.program != env!("CARGO_PKG_VERSION") {
        writeln!(
            out,
            "             this is failoverd {}: other decisions may be a change of the program",
            env!("CARGO_PKG_VERSION")
        )?;
    }
    writeln!(out)
}

fn tell_step(
    made: &Made<'_>,
    since: Duration,
    explain: Option<&Names>,
    out: &mut impl Write,
) -> io::Result<()> {
    let at = format!("{:>10.3}", since.as_secs_f64());
    if let Input::Start { .. } = made.step.input {
        writeln!(out, "{at}  the daemon starts")?;
    }
    if let Input::State {
        after_gap: true, ..
    } = made.step.input
    {
        writeln!(out, "{at}  what came before this could not be recorded")?;
    }
    let is_transition = |action: &&Action| matches!(action, Action::History(_));
    if explain.is_some() && made.actions.iter().any(|action| is_transition(&action)) {
        writeln!(
            out,
            "{at}  step {}: {}",
            made.number,
            came(&made.step.input)
        )?;
    }
    for action in &made.actions {
        match action {
            Action::History(record) => tell_transition(&at, record, explain.is_some(), out)?,
            Action::Notify(Notice { id, text, .. }) => writeln!(out, "{at}  [{id}] {text}")?,
            Action::Halt(reason) => writeln!(out, "{at}  resets this controller: {reason}")?,
            Action::Reply { reply, .. } => match reply {
                Ok(()) => writeln!(out, "{at}  answers: done")?,
                Err(refusal) => writeln!(out, "{at}  answers: {}", refusal.reason)?,
            },
            Action::Run { work, .. } => {
                if let Some(what) = explain.and_then(|names| names.of_work(work)) {
                    writeln!(out, "{at}  asks for {what}")?;
                }
            }
            _ => {}
        }
    }
    if let Same::No(why) = &made.same {
        writeln!(out, "{at}  DIFFERS at step {}: {why}", made.number)?;
    }
    Ok(())
}

/// What the configuration calls disks and pools.
#[derive(Default)]
struct Names {
    disks: BTreeMap<DiskId, String>,
    pools: BTreeMap<PoolId, String>,
}

impl Names {
    fn learn(&mut self, input: &Input) {
        let config = match input {
            Input::Start { config, .. } => config,
            Input::State { controller, .. } => controller.config(),
            Input::Events { .. } | Input::Config { .. } => return,
        };
        let disks = config.disks.iter();
        self.disks = disks.map(|disk| (disk.id, disk.name.clone())).collect();
        let pools = config.pools.iter();
        self.pools = pools.map(|pool| (pool.id, pool.name.clone())).collect();
    }

    fn pools(&self, pools: &[PoolId]) -> String {
        let name = |pool: &PoolId| self.pools.get(pool).cloned();
        let names: Vec<String> = pools.iter().filter_map(name).collect();
        match names.as_slice() {
            [] => "no pool".to_owned(),
            names => names.join(", "),
        }
    }

    /// `None` for what is asked for all the time: looks and rolls.
    fn of_work(&self, work: &Work) -> Option<String> {
        Some(match work {
            Work::Disk { disk, work } => {
                let what = match work {
                    DiskWork::Survey | DiskWork::Roll { .. } | DiskWork::Answer { .. } => {
                        return None;
                    }
                    DiskWork::Take { .. } => "the taking of",
                    DiskWork::Leave { .. } => "leaving",
                    DiskWork::Expel { .. } => "the removal of others' keys from",
                };
                let name = self.disks.get(disk).map_or("unknown", String::as_str);
                format!("{what} disk {name}")
            }
            Work::Record(entry) => format!("the record {entry:?}"),
            Work::Remember(Some(_)) => "the owner record".to_owned(),
            Work::Remember(None) => "the owner record's removal".to_owned(),
            Work::Prescan(pool) => format!("a look ahead at pool {}", self.pools(&[*pool])),
            Work::Import { pool, won } => {
                format!(
                    "the import of pool {} with {} disks won",
                    self.pools(&[*pool]),
                    won.len()
                )
            }
            Work::Export(pool) => format!("the export of pool {}", self.pools(&[*pool])),
            Work::StartServices(pools) => {
                format!("the services, with those of {}", self.pools(pools))
            }
            Work::StopServices => "the services' end".to_owned(),
            Work::AddVips(pools) => format!("the addresses, with those of {}", self.pools(pools)),
            Work::RemoveVips => "the addresses' removal".to_owned(),
            Work::AnnounceVips(_) => "announcements of the addresses".to_owned(),
        })
    }
}

fn tell_transition(
    at: &str,
    record: &HistoryRecord,
    explain: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let HistoryRecord {
        from,
        to,
        why,
        epoch,
        ..
    } = record;
    writeln!(out, "{at}  {from} -> {to}  ({why}; epoch {epoch})")?;
    if !explain {
        return Ok(());
    }
    for evidence in &record.evidence {
        let age = evidence.age_ms.map(|age| format!(", {age} ms old"));
        let age = age.unwrap_or_default();
        writeln!(
            out,
            "            {}: {}{age}",
            evidence.source, evidence.saw
        )?;
    }
    for phase in &record.phases {
        let took = phase.micros as f64 / 1000.0;
        writeln!(
            out,
            "            {} took {took:.1} ms of {} ms",
            phase.phase, phase.budget_ms
        )?;
    }
    Ok(())
}

/// What came, in few words.
fn came(input: &Input) -> String {
    let events = match input {
        Input::Start { .. } => return "the start".to_owned(),
        Input::State { .. } => return "the recorded state".to_owned(),
        Input::Config { .. } => return "a changed configuration".to_owned(),
        Input::Events { events, .. } => events,
    };
    let mut words: Vec<String> = events.iter().take(3).map(in_words).collect();
    if let Some(more) = events.len().checked_sub(4) {
        words.push(format!("{} more", more + 1));
    }
    words.join(", ")
}

fn in_words(event: &Event) -> String {
    match event {
        Event::Wake => "a timer is due".to_owned(),
        Event::Beat { link, beat, .. } => format!(
            "a beat on link {}: {} {}, epoch {}",
            link.0, beat.node, beat.status, beat.epoch
        ),
        Event::Done { op, outcome, .. } => match outcome {
            Outcome::Ok => format!("work {} is done", op.0),
            Outcome::Failed(why) => format!("work {} failed: {why}", op.0),
            Outcome::Disk(outcome) => format!("work {} on a disk ended: {}", op.0, word(outcome)),
        },
        Event::Command { command, .. } => format!("an operator asks: {command:?}"),
        Event::Lan { up } => format!("the clients' network: {}", carrier(*up)),
        Event::Link { link, up } => format!("link {}: {}", link.0, carrier(*up)),
        Event::LeaseLost => "the kernel lost the lease".to_owned(),
        Event::Stop { restart: true } => "told to come back at once".to_owned(),
        Event::Stop { restart: false } => "told to end".to_owned(),
    }
}

fn carrier(up: bool) -> &'static str {
    if up { "carrier" } else { "no carrier" }
}

impl Summary {
    fn new(segments: &[Segment]) -> Summary {
        let damaged = segments.iter().filter_map(|segment| {
            let damage = segment.damage.as_ref()?;
            Some(format!("segment {}: {damage}", segment.head.number))
        });
        Summary {
            damaged: damaged.collect(),
            ..Summary::default()
        }
    }

    fn count(&mut self, made: &Made<'_>) {
        self.steps += 1;
        if let Step {
            input: Input::Events { events, .. },
            ..
        } = made.step
        {
            self.events += events.len();
        }
        let is_transition = |action: &&Action| matches!(action, Action::History(_));
        self.transitions += made.actions.iter().filter(is_transition).count();
        match &made.same {
            Same::Yes | Same::Begins | Same::Unfinished => {}
            Same::Missing => self.missing += 1,
            Same::No(why) => {
                self.differ.0 += 1;
                if self.differ.1.len() < SHOWN_MAX {
                    self.differ.1.push(format!("step {}: {why}", made.number));
                }
            }
        }
    }

    fn tell(&self, out: &mut impl Write) -> io::Result<()> {
        let Summary {
            steps,
            events,
            transitions,
            differ,
            ..
        } = self;
        writeln!(
            out,
            "\n{steps} steps with {events} events made again, {transitions} transitions; {} differ",
            differ.0
        )?;
        for sentence in self.flaws() {
            writeln!(out, "{sentence}")?;
        }
        if self.is_same() {
            writeln!(out, "the same decisions, bit for bit")?;
        }
        Ok(())
    }
}
