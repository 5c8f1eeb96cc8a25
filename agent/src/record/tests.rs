use super::log::{self, Frame, Input, Segment, Step, Written};
use super::what_if::{self, Change};
use super::writer::{self, Incidents};
use super::{Recorded, report};
use failover_core::action::{Action, Outcome, Restored};
use failover_core::config::{CoreConfig, PoolConfig, Timing};
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::{Node, PoolId};
use failover_core::states::State;
use failover_core::time::{Instant, ms};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

fn config() -> CoreConfig {
    CoreConfig {
        node: Node::A,
        pair: 0x51a7,
        has_peer: false,
        links: 0,
        disks: Vec::new(),
        pools: vec![PoolConfig {
            id: PoolId(0),
            name: "tank".to_owned(),
        }],
        arbiters: 3,
        version: "1".to_owned(),
        seed: 7,
        timing: Timing::default(),
    }
}

/// A controller alone, whose work ends well 5 ms later.
struct Alone {
    recorded: Recorded,
    now: Instant,
    ends: VecDeque<(Instant, Event)>,
}

impl Alone {
    fn start(recorder: writer::Recorder) -> Alone {
        let now = Instant::from_millis(1000);
        let (recorded, actions) =
            Recorded::start(now, config(), Restored::default(), Some(recorder));
        let mut alone = Alone {
            recorded,
            now,
            ends: VecDeque::new(),
        };
        alone.take(actions);
        alone
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Action::Run { op, .. } = action {
                let done = Event::Done {
                    op,
                    waited: Duration::ZERO,
                    outcome: Outcome::Ok,
                };
                self.ends.push_back((self.now + ms(5), done));
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let actions = self.recorded.handle_all(self.now, vec![event]);
        self.take(actions);
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let timer = self.recorded.next_timeout().map(|(at, _)| at.max(self.now));
            let end = self.ends.front().map(|(at, _)| *at);
            let next = timer.into_iter().chain(end).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            if end == Some(next)
                && let Some((_, event)) = self.ends.pop_front()
            {
                self.handle(event);
            } else {
                self.handle(Event::Wake);
            }
        }
        self.now = until;
    }
}

/// What a run up to its end as a MASTER records.
fn a_run(folder: &Path) -> (Vec<u8>, Incidents) {
    let (recorder, incidents, thread) =
        writer::start(&folder.join("run"), &folder.join("state"), Node::A).expect("started");
    let mut alone = Alone::start(recorder);
    alone.run_until(Instant::from_millis(3000));
    assert_eq!(alone.recorded.state(), State::Active);
    alone.handle(Event::Lan { up: false });
    alone.run_until(Instant::from_millis(4000));
    alone.handle(Event::Stop { restart: false });
    alone.run_until(Instant::from_millis(6000));
    drop(alone);
    thread.join().expect("it ends");
    let kept = incidents.list().expect("listed");
    let name = &kept.last().expect("one is kept").name;
    let (bytes, _) = incidents
        .read(name, 0, usize::MAX)
        .expect("read")
        .expect("it is there");
    (bytes, incidents)
}

fn parsed(bytes: &[u8]) -> Vec<Segment> {
    log::parse(bytes).expect("a log")
}

/// The same log with other steps, its checksums right.
fn written_anew(segment: &Segment, change: impl Fn(usize, &mut Step)) -> Vec<u8> {
    let mut written = Written::new(&segment.head);
    for (index, step) in segment.steps.iter().enumerate() {
        let mut step = step.clone();
        change(index, &mut step);
        let frame = |frame: &Frame| postcard::to_allocvec(frame).expect("bytes");
        written.frame(&frame(&Frame::Input(Box::new(step.input))));
        if let Some(actions) = step.actions {
            written.frame(&frame(&Frame::Actions(actions)));
        }
    }
    written.bytes
}

#[test]
fn a_log_leads_to_the_same_decisions() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, incidents) = a_run(folder.path());
    let segments = parsed(&bytes);
    let summary = report::summarise(&segments, None);
    assert!(summary.is_same(), "{summary:?}");
    assert!(summary.transitions >= 8, "{summary:?}");
    let name = incidents.list().expect("listed").remove(0).name;
    assert!(name.ends_with("Z-surveying"), "{name}");
    // Written anew it is the same, to the last byte.
    assert_eq!(written_anew(&segments[0], |_, _| {}), bytes);
}

#[test]
fn a_log_with_a_flipped_event_diverges() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, _) = a_run(folder.path());
    let segments = parsed(&bytes);
    let flip = |_: usize, step: &mut Step| {
        if let Input::Events { events, .. } = &mut step.input {
            for event in events {
                if let Event::Stop { restart } = event {
                    *restart = !*restart;
                }
            }
        }
    };
    let flipped = written_anew(&segments[0], flip);
    let summary = report::summarise(&parsed(&flipped), None);
    assert!(
        summary.differ.0 > 0 && summary.damaged.is_empty(),
        "{summary:?}"
    );
    // Most answers can't be left out unseen; the others say what is known.
    let (mut answers, mut told) = (0, 0);
    let is_answer = |step: &Step| {
        let Input::Events { events, .. } = &step.input else {
            return false;
        };
        matches!(events[..], [Event::Done { .. }])
    };
    for left_out in 0..segments[0].steps.len() {
        let mut other = segments.clone();
        if is_answer(&other[0].steps.remove(left_out)) {
            answers += 1;
            told += usize::from(!report::summarise(&other, None).is_same());
        }
    }
    assert!(told * 2 > answers, "{told} of {answers}");
}

#[test]
fn damage_is_found_and_the_rest_stands_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, _) = a_run(folder.path());
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let told = match log::parse(&damaged) {
            Err(why) => !why.is_empty(),
            Ok(segments) => !report::summarise(&segments, None).is_same(),
        };
        assert!(told, "byte {at}");
    }
    // Cut off where a daemon was killed in the middle of a frame.
    for end in (log::MAGIC.len()..bytes.len()).step_by(11) {
        let whole = log::whole_frames(&bytes[..end]);
        if let Ok(segments) = log::parse(whole) {
            let summary = report::summarise(&segments, None);
            assert!(summary.damaged.is_empty() && summary.differ.0 == 0, "{end}");
        }
    }
    let mut two = bytes[..bytes.len() - 3].to_vec();
    two.extend_from_slice(&bytes);
    let segments = parsed(&two);
    assert_eq!(segments.len(), 2);
    assert!(segments[0].damage.is_some() && segments[1].damage.is_none());
    assert!(log::parse(b"").is_err() && log::parse(b"{}").is_err());
}

#[test]
fn a_full_segment_is_followed_by_one_with_the_whole_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recorder, incidents, thread) =
        writer::start(&folder.path().join("run"), folder.path(), Node::A).expect("started");
    let mut alone = Alone::start(recorder);
    for step in 0..90_000 {
        alone.now = Instant::from_millis(3000 + step);
        alone.handle(Event::Lan { up: step % 2 == 0 });
        // No daemon is as quick as this, and the queue is bounded.
        while step % 1000 == 0 && !alone.recorded.is_written() {
            std::thread::yield_now();
        }
    }
    let name = incidents.keep().expect("kept");
    drop(alone);
    thread.join().expect("it ends");
    let (bytes, length) = incidents
        .read(&name, 0, usize::MAX)
        .expect("read")
        .expect("there");
    assert_eq!(bytes.len() as u64, length);
    let segments = parsed(&bytes);
    assert!(segments.len() >= 2, "{}", segments.len());
    assert!(matches!(
        segments[1].steps[0].input,
        Input::State {
            after_gap: false,
            ..
        }
    ));
    let summary = report::summarise(&segments, None);
    assert!(summary.is_same(), "{summary:?}");
    // Each stands by itself; what is missing in between is told.
    assert!(report::summarise(&segments[1..], None).is_same());
    let mut headless = segments[1..].to_vec();
    headless[0].steps.remove(0);
    assert!(!report::summarise(&headless, None).is_same());
    assert_eq!(incidents.read("../journal", 0, 1).expect("looked"), None);
}

#[test]
fn other_timers_lead_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bytes, _) = a_run(folder.path());
    let segments = parsed(&bytes);
    let unchanged = what_if::ways(&segments, &[], None);
    let words = |all: &[failover_api::HistoryRecord]| -> Vec<(u64, String)> {
        let one = |record: &failover_api::HistoryRecord| (record.at_micros, record.to.clone());
        all.iter().map(one).collect()
    };
    assert_eq!(words(&unchanged.as_it_was), words(&unchanged.with_it));
    assert_eq!(unchanged.unanswered.0, 0, "{:?}", unchanged.unanswered);
    let change: Change = "dead_ms=500".parse().expect("a change");
    let ways = what_if::ways(&segments, &[change], None);
    let surveys = |all: &[failover_api::HistoryRecord]| {
        let one = all.iter().find(|one| one.to == "surveying");
        one.map(|one| one.at_micros)
    };
    assert_eq!(surveys(&ways.as_it_was), Some(1_250_000));
    assert_eq!(surveys(&ways.with_it), Some(1_500_000));
    for wrong in ["dead_ms", "dead=5", "dead_ms=x", "dead_ms=-1"] {
        assert!(wrong.parse::<Change>().is_err(), "{wrong}");
    }
}

/// A log that an earlier build of this format wrote. Where it can't be read any more, what is recorded has another form:
/// `FORMAT` must grow, and then `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn logs_of_this_format_can_be_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/golden.log");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let folder = tempfile::tempdir().expect("a folder");
        let segment = parsed(&a_run(folder.path()).0).remove(0);
        let mut bytes = written_anew(&segment, |_, _| {});
        let controller = controller_after(&segment);
        let mut head = segment.head.clone();
        head.number += 1;
        let mut written = Written::new(&head);
        let input = Input::State {
            after_gap: false,
            controller: Box::new(controller),
        };
        let frame = Frame::Input(Box::new(input));
        written.frame(&postcard::to_allocvec(&frame).expect("bytes"));
        bytes.extend_from_slice(&written.bytes);
        std::fs::write(&path, bytes).expect("written");
    }
    let segments = parsed(&std::fs::read(&path).expect("it is there"));
    assert_eq!(segments[0].head.format, log::FORMAT);
    assert!(segments.iter().all(|segment| segment.damage.is_none()));
    let Some(Step {
        input: Input::State { controller, .. },
        ..
    }) = segments[1].steps.first()
    else {
        panic!("it ends with a state");
    };
    assert_eq!(controller.state(), State::Stopping);
}

/// The controller at the end of a segment.
fn controller_after(segment: &Segment) -> Controller {
    let mut made = None;
    for step in &segment.steps {
        match (&step.input, &mut made) {
            (
                Input::Start {
                    now,
                    config,
                    restored,
                },
                _,
            ) => {
                made = Some(Controller::new(*now, config.clone(), restored.clone()).0);
            }
            (Input::Events { now, events }, Some(controller)) => {
                controller.handle_all(*now, events.iter().cloned());
            }
            _ => {}
        }
    }
    made.expect("it begins with a start")
}
