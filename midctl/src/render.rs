//! What the human views have in common: tables, ages, moments, colours.

use crate::terminal::Terminal;
use comfy_table::{ContentArrangement, Table, presets};

/// Between two columns.
const GAP: u16 = 2;

/// A table without lines, as wide as the terminal at most; piped, nothing is wrapped.
pub fn table(terminal: Terminal) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match terminal.columns {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(columns);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table
}

/// The table as text: columns two spaces apart, no spaces at line ends.
pub fn show(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n") + "\n"
}

/// A duration in the one or two units that matter.
pub fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis} ms"),
        1..=59 => format!("{}.{} s", seconds, millis % 1000 / 100),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago; never, if never.
pub fn ago(age_ms: Option<u64>) -> String {
    match age_ms {
        Some(age) => format!("{} ago", duration(age)),
        None => "never".to_owned(),
    }
}

/// A short span, in microseconds.
pub fn span(micros: u64) -> String {
    match micros {
        0..=9_999 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => duration(micros / 1000),
    }
}

/// A moment of the wall clock, in UTC, so that both controllers' histories can be laid side by side.
pub fn moment(wall_ms: u64) -> String {
    let (days, rest) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (seconds, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// Year, month and day of a number of days since 1970, counted in eras of 400 years that begin on 1 March.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// `3 disks`, `1 disk`.
pub fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Numbers with their words, those above zero: "3 ours, 1 foreign"; `none` where all are zero.
pub fn counted<N: std::fmt::Display + PartialOrd + Default>(
    parts: &[(N, &str)],
    none: &str,
) -> String {
    let named: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > N::default())
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    match named.as_slice() {
        [] => none.to_owned(),
        named => named.join(", "),
    }
}

/// Colours of the words that matter, set after the layout so that they take no width.
pub fn colour(text: &str, terminal: Terminal) -> String {
    const GREEN: &str = "32";
    const YELLOW: &str = "33";
    const RED: &str = "31";
    const BOLD: &str = "1";
    if !terminal.colours {
        return text.to_owned();
    }
    let words = [
        ("MASTER", GREEN),
        ("BACKUP", GREEN),
        ("ELECTING", YELLOW),
        ("IMPORTING", YELLOW),
        ("SINGLE", BOLD),
        ("ERROR", RED),
        ("NOT READY", RED),
        ("READY", GREEN),
    ];
    let mut coloured = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        // Words stand in the second column; the first one found on a line is the one meant.
        let found = words
            .iter()
            .filter_map(|(word, colour)| line.find(word).map(|at| (at, word, colour)))
            .filter(|(at, _, _)| *at <= SECOND_COLUMN)
            .min_by_key(|(at, word, _)| (*at, std::cmp::Reverse(word.len())));
        match found {
            Some((at, word, colour)) => {
                let (before, rest) = line.split_at(at);
                let after = &rest[word.len()..];
                coloured.push_str(&format!("{before}\x1b[{colour}m{word}\x1b[0m{after}"));
            }
            None => coloured.push_str(line),
        }
    }
    coloured
}

const SECOND_COLUMN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_readable() {
        assert_eq!(duration(12), "12 ms");
        assert_eq!(duration(1250), "1.2 s");
        assert_eq!(duration(61_000), "1 min 1 s");
        assert_eq!(duration(11_520_000), "3 h 12 min");
        assert_eq!(duration(90_000_000), "1 d 1 h");
        assert_eq!(span(1_250), "1.2 ms");
        assert_eq!(span(251_000), "251 ms");
        assert_eq!(ago(None), "never");
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(moment(1_795_246_230_123), "2026-11-21 07:30:30.123");
        assert_eq!(moment(4_107_542_399_999), "2100-02-28 23:59:59.999");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01 00:00:00.000");
    }

    #[test]
    fn colours_take_the_longer_word() {
        let terminal = Terminal {
            columns: Some(80),
            colours: true,
        };
        assert_eq!(
            colour("Failover  NOT READY\n", terminal),
            "Failover  \x1b[31mNOT READY\x1b[0m\n"
        );
    }
}
