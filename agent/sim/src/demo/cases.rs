//! What is done to the pair, and what is measured each time.

use super::client::Gap;
use super::pair::{NODES, Pair, Stop};
use crate::shelf::now_micros;
use clap::ValueEnum;
use failover_api::HistoryRecord;
use failover_core::ids::Node;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;

/// Time in which every case must lead back to a whole pair.
pub const WHOLE_MS: u64 = 3_000;
/// Longer than that nobody waits.
pub(super) const PATIENCE_MS: u64 = 12_000;
/// A takeover that hasn't happened by then won't.
const TAKEOVER_MS: u64 = 5_000;
/// Undisturbed service before each case, so that nothing of the one before is measured.
const SETTLE_MS: u64 = 150;
/// A cut cable stays cut for longer than any detection takes.
const CUT_MS: u64 = 900;

/// A case of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Case {
    /// Both controllers switched on together.
    Election,
    /// Planned handover.
    Handover,
    /// kill -9 of the MASTER's daemon, started again once the other serves.
    Crash,
    /// SIGSTOP of the MASTER's daemon, SIGCONT once the other serves.
    Freeze,
    /// The MASTER loses power: links, disk paths and processes at once.
    PowerCut,
    /// One heartbeat link cut.
    OneLinkCut,
    /// All heartbeat links cut, both live.
    AllLinksCut,
    /// The MASTER's daemon restarted, announced.
    Restart,
    /// kill -9 of the MASTER's daemon, started again at once.
    QuickRestart,
}

impl Case {
    /// Those that a run without `--case` shows, in order.
    pub const SHOWN: [Case; 9] = [
        Case::Election,
        Case::Handover,
        Case::Crash,
        Case::Freeze,
        Case::PowerCut,
        Case::OneLinkCut,
        Case::AllLinksCut,
        Case::Restart,
        Case::QuickRestart,
    ];

    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Case::Election => "election",
            Case::Handover => "handover",
            Case::Crash => "crash",
            Case::Freeze => "freeze",
            Case::PowerCut => "power_cut",
            Case::OneLinkCut => "one_link_cut",
            Case::AllLinksCut => "all_links_cut",
            Case::Restart => "restart",
            Case::QuickRestart => "quick_restart",
        }
    }

    /// The sentence that announces it.
    pub const fn title(self) -> &'static str {
        match self {
            Case::Election => "Election: both controllers are switched on; one must serve.",
            Case::Handover => "Planned handover: the MASTER is asked to become passive.",
            Case::Crash => "Crash: the MASTER's daemon is killed (kill -9) and stays dead.",
            Case::Freeze => "Freeze: the MASTER's daemon is stopped (SIGSTOP), its kernel goes on.",
            Case::PowerCut => {
                "Power cut: the MASTER's links, disk paths and processes, all at once."
            }
            Case::OneLinkCut => "One heartbeat link is cut: nothing may happen.",
            Case::AllLinksCut => {
                "All heartbeat links are cut, both live: the disks say so, nothing may happen."
            }
            Case::Restart => "The MASTER's daemon restarts, announced: nothing may happen.",
            Case::QuickRestart => {
                "The MASTER's daemon is killed (kill -9) and starts again at once: nothing may happen."
            }
        }
    }

    /// The other controller must serve afterwards; otherwise nothing may happen.
    pub const fn moves(self) -> bool {
        match self {
            Case::Handover | Case::Crash | Case::Freeze | Case::PowerCut => true,
            Case::Election
            | Case::OneLinkCut
            | Case::AllLinksCut
            | Case::Restart
            | Case::QuickRestart => false,
        }
    }
}

/// What one run of a case gave.
#[derive(Clone, Debug, Default)]
pub struct CaseRun {
    /// Dark time as the client saw it, microseconds.
    pub dark: u64,
    /// Longest time between two acknowledgements, microseconds.
    pub gap: u64,
    /// When it began, microseconds after the event.
    pub gap_at: i64,
    /// Transitions of the two state machines.
    pub transitions: u64,
    /// Of a takeover or handover: phases and their microseconds.
    pub phases: BTreeMap<String, u64>,
    /// From the event to a whole pair, microseconds.
    pub whole: u64,
    /// After a freeze: from the freeze to the last answer of the frozen controller, microseconds.
    pub silent: Option<u64>,
    /// From the last answer of the old owner to the new one's first announcement, microseconds.
    pub margin: Option<i64>,
    /// Writes of the old owner that the disks accepted after it was resumed.
    pub late_writes: Option<u64>,
    /// What must not be; empty if all is well.
    pub faults: Vec<String>,
}

/// What a case leaves behind for measuring.
struct Deed {
    /// When it was done.
    at: u64,
    /// Who was MASTER.
    old: Node,
    /// When a frozen daemon was resumed.
    resumed: Option<u64>,
}

/// Runs one case on a whole pair and leads back to a whole pair.
pub fn run(pair: &mut Pair, case: Case) -> Result<CaseRun, Stop> {
    pair.narrator.title(case.title());
    if case == Case::Election {
        return election(pair);
    }
    pair.wait(PATIENCE_MS, "a whole pair before the case", |pair| {
        pair.is_whole()
    })?;
    pair.pass(SETTLE_MS)?;
    let old = pair
        .master()
        .ok_or_else(|| Stop::Broken("nobody is MASTER any more".to_owned()))?;
    let deed = perform(pair, case, old)?;
    pair.wait(PATIENCE_MS, "a whole pair after the case", |pair| {
        pair.is_whole()
    })?;
    measure(pair, case, &deed)
}

fn perform(pair: &mut Pair, case: Case, old: Node) -> Result<Deed, Stop> {
    let at = now_micros();
    let mut resumed = None;
    match case {
        Case::Election => {}
        Case::Handover => handover(pair, old)?,
        Case::Crash => {
            pair.kill_daemon(old);
            pair.narrator.say(old, "its daemon is killed");
            taken_over(pair, old)?;
            pair.narrator.say(old, "its daemon starts again");
            pair.start_daemon(old)?;
            back_from_reset(pair, old)?;
        }
        Case::Freeze => {
            pair.signal_daemon(old, Signal::SIGSTOP);
            pair.narrator.say(old, "its daemon is frozen");
            taken_over(pair, old)?;
            pair.pass(100)?;
            resumed = Some(now_micros());
            pair.signal_daemon(old, Signal::SIGCONT);
            pair.narrator.say(old, "its daemon is resumed");
            back_from_reset(pair, old)?;
        }
        Case::PowerCut => {
            pair.power_off(old)?;
            pair.narrator.say(old, "has no power");
            taken_over(pair, old)?;
            pair.narrator.say(old, "has power again and boots");
            pair.boot(old)?;
        }
        Case::OneLinkCut => cut(pair, &[(at / 1_000_000 % 2) as usize])?,
        Case::AllLinksCut => cut(pair, &[0, 1])?,
        Case::Restart => restart(pair, old)?,
        Case::QuickRestart => {
            pair.kill_daemon(old);
            pair.start_daemon(old)?;
            pair.narrator
                .say(old, "its daemon is killed and starts again");
            pair.pass(CUT_MS)?;
        }
    }
    Ok(Deed { at, old, resumed })
}

/// The other one serves: it says so and the client has heard from it.
pub(super) fn taken_over(pair: &mut Pair, old: Node) -> Result<(), Stop> {
    let from = now_micros();
    pair.wait(TAKEOVER_MS, "a takeover by the other controller", |pair| {
        let new = old.other();
        let served = pair.client.book().first_by(new, from).is_some();
        let report = pair.report(new);
        served && report.is_some_and(|report| report.status == failover_api::Status::Master)
    })
}

/// A controller that finds itself fenced resets; its daemon answers again afterwards.
fn back_from_reset(pair: &mut Pair, node: Node) -> Result<(), Stop> {
    let before = pair.resets(node);
    pair.wait(PATIENCE_MS, "the old owner's reset", |pair| {
        pair.resets(node) > before || pair.daemon_ended(node)
    })
}

pub(super) fn handover(pair: &mut Pair, old: Node) -> Result<(), Stop> {
    let call = pair.call(old, "failover.become_passive");
    pair.wait(PATIENCE_MS, "the answer to become_passive", |_| {
        call.result().is_some()
    })?;
    match call.result() {
        Some(Err(error)) => Err(Stop::Broken(format!("become_passive: {error}"))),
        _ => Ok(()),
    }
}

fn cut(pair: &mut Pair, links: &[usize]) -> Result<(), Stop> {
    for link in links {
        pair.set_link(*link, false)?;
        pair.narrator.tell(&format!("heartbeat link {link} is cut"));
    }
    pair.pass(CUT_MS)?;
    for link in links {
        pair.set_link(*link, true)?;
        pair.narrator
            .tell(&format!("heartbeat link {link} is whole again"));
    }
    Ok(())
}

fn restart(pair: &mut Pair, node: Node) -> Result<(), Stop> {
    let flag = pair.place.runtime(node).join("restart");
    std::fs::write(&flag, b"")?;
    pair.signal_daemon(node, Signal::SIGTERM);
    pair.narrator.say(node, "its daemon is told to restart");
    pair.wait(PATIENCE_MS, "the daemon's end", |pair| {
        pair.daemon_ended(node)
    })?;
    pair.narrator.say(node, "its daemon starts again");
    pair.start_daemon(node)?;
    pair.pass(CUT_MS)
}

/// Switches both off, if they are on, and on together.
fn election(pair: &mut Pair) -> Result<CaseRun, Stop> {
    for node in NODES {
        pair.power_off(node)?;
    }
    let at = now_micros();
    for node in NODES {
        pair.boot(node)?;
    }
    pair.wait(PATIENCE_MS, "an election", |pair| pair.is_whole())?;
    let old = pair.master().unwrap_or(Node::A).other();
    let deed = Deed {
        at,
        old,
        resumed: None,
    };
    measure(pair, Case::Election, &deed)
}

fn measure(pair: &mut Pair, case: Case, deed: &Deed) -> Result<CaseRun, Stop> {
    let end = now_micros();
    let new = pair.master().unwrap_or(deed.old);
    if !matches!(case, Case::OneLinkCut | Case::AllLinksCut) {
        // The pair can be whole a moment before its history has been read.
        pair.wait(PATIENCE_MS, "the history of it", |pair| {
            !phases(&pair.history_since(deed.at), new).is_empty()
        })?;
    }
    let history = pair.history_since(deed.at);
    let mut run = CaseRun {
        whole: end - deed.at,
        transitions: history.len() as u64,
        phases: phases(&history, new),
        ..CaseRun::default()
    };
    let last_answer = {
        let book = pair.client.book();
        let gap: Gap = book.longest_gap(deed.at, end);
        run.gap = gap.micros();
        run.gap_at = gap.from as i64 - deed.at as i64;
        run.dark = match case {
            // Nothing was served before: dark until the first answer.
            Case::Election => book.first_after(deed.at).unwrap_or(end) - deed.at,
            _ => book.dark(deed.at, end),
        };
        if book.own_lateness(deed.at) > 20_000 {
            run.faults.push(format!(
                "the client itself was late by {} ms: its figures are too high",
                book.own_lateness(deed.at) / 1000
            ));
        }
        book.last_by(deed.old, end)
    };
    if case.moves() {
        measure_move(pair, case, deed, last_answer, &mut run)?;
        if new == deed.old {
            run.faults
                .push("the MASTER is the same as before".to_owned());
        }
    } else if case != Case::Election {
        unmoved(case, deed, new, &mut run);
    }
    if run.whole > WHOLE_MS * 1000 {
        run.faults.push(format!(
            "the pair was whole again after {} ms only",
            run.whole / 1000
        ));
    }
    tell(pair, case, &run);
    Ok(run)
}

fn measure_move(
    pair: &mut Pair,
    case: Case,
    deed: &Deed,
    last_answer: Option<u64>,
    run: &mut CaseRun,
) -> Result<(), Stop> {
    let last_answer = last_answer.unwrap_or(deed.at).max(deed.at);
    let announced = pair.observer.first_by(deed.old.other(), deed.at);
    run.margin = announced.map(|at| at as i64 - last_answer as i64);
    if run.margin.is_some_and(|margin| margin < 0) {
        run.faults
            .push("the old owner answered after the new one had announced".to_owned());
    }
    if case == Case::Freeze {
        run.silent = Some(last_answer - deed.at);
        if last_answer - deed.at > 250_000 {
            run.faults
                .push("the frozen MASTER answered for more than 250 ms".to_owned());
        }
    }
    if let Some(resumed) = deed.resumed {
        let late = pair.landed_since(deed.old, resumed)? as u64;
        run.late_writes = Some(late);
        if late > 0 {
            run.faults
                .push(format!("{late} writes were accepted after the resume"));
        }
    }
    Ok(())
}

/// Cases in which nothing may happen.
fn unmoved(case: Case, deed: &Deed, new: Node, run: &mut CaseRun) {
    if new != deed.old {
        run.faults.push("the MASTER moved".to_owned());
    }
    let restarts = matches!(case, Case::Restart | Case::QuickRestart);
    if run.transitions > 0 && !restarts {
        run.faults
            .push(format!("{} transitions where none may be", run.transitions));
    }
}

/// The phases of the takeover that `new` completed last.
fn phases(history: &[HistoryRecord], new: Node) -> BTreeMap<String, u64> {
    let of_new = |record: &&HistoryRecord| record.node == new && !record.phases.is_empty();
    let last = history.iter().rev().find(of_new);
    let phases = last.iter().flat_map(|record| &record.phases);
    phases
        .map(|phase| (phase.phase.clone(), phase.micros))
        .collect()
}

fn tell(pair: &Pair, case: Case, run: &CaseRun) {
    let ms = |micros: u64| micros as f64 / 1000.0;
    let mut text = format!(
        "client: dark for {:.0} ms, longest gap {:.0} ms ({:.0} ms after the event); whole again after {:.0} ms",
        ms(run.dark),
        ms(run.gap),
        run.gap_at as f64 / 1000.0,
        ms(run.whole)
    );
    if let (Some(silent), Some(margin)) = (run.silent, run.margin) {
        text.push_str(&format!(
            "; frozen MASTER silent after {:.0} ms, {:.0} ms before the new one announced; {} writes accepted after it resumed",
            ms(silent),
            margin as f64 / 1000.0,
            run.late_writes.unwrap_or(0)
        ));
    }
    pair.narrator.tell(&text);
    for fault in &run.faults {
        pair.narrator.tell(&format!("FAULT: {fault}"));
    }
    pair.narrator.progress(&format!("{}: {text}", case.name()));
    for fault in &run.faults {
        pair.narrator
            .progress(&format!("{}: FAULT: {fault}", case.name()));
    }
}
