//! `midctl history`: when, what, why, and how long each phase took.

use crate::render::{ago, duration, moment, show, span, table};
use crate::terminal::Terminal;
use failover_api::{Evidence, HistoryRecord, PhaseTime};

/// A table where it fits, else a paragraph per transition.
pub fn view(records: &[HistoryRecord], with_evidence: bool, terminal: Terminal) -> String {
    /// A table needs this many columns to be read with ease.
    const TABLE_COLUMNS: u16 = 100;
    if records.is_empty() {
        return "no transition is recorded yet\n".to_owned();
    }
    let wide = terminal
        .columns
        .is_none_or(|columns| columns >= TABLE_COLUMNS);
    if wide && !with_evidence {
        rows(records, terminal)
    } else {
        paragraphs(records, with_evidence, terminal)
    }
}

fn rows(records: &[HistoryRecord], terminal: Terminal) -> String {
    let mut rows = table(terminal);
    rows.set_header([
        "#",
        "WHEN (UTC)",
        "WHAT",
        "STATUS",
        "EPOCH",
        "WHY",
        "PHASES",
    ]);
    // On a screen a phase per line reads best; in a pipe a record per line does.
    let separator = if terminal.columns.is_some() {
        "\n"
    } else {
        ", "
    };
    for record in records {
        let phases: Vec<String> = record.phases.iter().map(phase).collect();
        rows.add_row([
            record.seq.to_string(),
            when(record),
            what(record),
            record.status.to_string(),
            record.epoch.to_string(),
            record.why.clone(),
            phases.join(separator),
        ]);
    }
    show(&mut rows)
}

fn paragraphs(records: &[HistoryRecord], with_evidence: bool, terminal: Terminal) -> String {
    let mut text = String::new();
    for record in records {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!(
            "#{}  {}  epoch {}\n",
            record.seq,
            when(record),
            record.epoch
        ));
        let mut details = table(terminal);
        let change = format!("{}: {}", what(record), record.status);
        details.add_row(["  what", &change]);
        details.add_row(["  why", &record.why]);
        let phases: Vec<String> = record.phases.iter().map(phase).collect();
        if !phases.is_empty() {
            details.add_row(["  phases", &phases.join(", ")]);
        }
        if with_evidence {
            for (number, piece) in record.evidence.iter().enumerate() {
                let title = if number == 0 { "  evidence" } else { "" };
                details.add_row([title, &saw(piece)]);
            }
        }
        text.push_str(&show(&mut details));
    }
    text
}

fn when(record: &HistoryRecord) -> String {
    match record.wall_ms {
        Some(wall_ms) => moment(wall_ms),
        None => format!("{} after boot", duration(record.at_micros / 1000)),
    }
}

fn what(record: &HistoryRecord) -> String {
    format!("{} {} -> {}", record.node, record.from, record.to)
}

fn phase(phase: &PhaseTime) -> String {
    let over = phase.micros > phase.budget_ms.saturating_mul(1000);
    let budget = match over && phase.budget_ms > 0 {
        true => format!(" (over {})", duration(phase.budget_ms)),
        false => String::new(),
    };
    format!("{} {}{budget}", phase.phase, span(phase.micros))
}

fn saw(piece: &Evidence) -> String {
    format!("{}: {} ({})", piece.source, piece.saw, ago(piece.age_ms))
}
