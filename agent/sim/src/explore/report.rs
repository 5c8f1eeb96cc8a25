//! What an exploration tells: a table with a line for each bound, and the way to whatever broke a rule.

use super::bounds::{Bounds, Size, bounds_of};
use super::search::{Found, explore};
use super::way::Way;
use super::world::Move;
use std::io::{self, Write};
use std::time::Duration;

/// Explores each bound of a size, and prints a line for each as it ends. Answers whether every one is complete, no rule was
/// broken, and service comes back from every state.
///
/// # Errors
/// `out` can't be written.
pub fn run(size: Size, workers: usize, states_max: u64, out: &mut impl Write) -> io::Result<bool> {
    writeln!(
        out,
        "{:<32} {:>11} {:>12} {:>9} {:>11} {:>8} {:>11}  end",
        "bounds", "states", "moves", "% serving", "to service", "s", "states/s"
    )?;
    let (mut states, mut took, mut good) = (0, Duration::ZERO, true);
    for bounds in bounds_of(size) {
        let found = explore(&bounds, workers, states_max);
        line(out, &bounds, &found)?;
        states += found.states;
        took += found.took;
        good &= found.is_good();
        let way = found.violation.as_ref().map(|(_, way)| way);
        if let Some(way) = way.or(found.stuck.as_ref()) {
            tell(out, &bounds, way)?;
        }
    }
    let seconds = took.as_secs_f64();
    writeln!(
        out,
        "{states} states in {seconds:.1} s, {:.0} a second",
        states as f64 / seconds
    )?;
    Ok(good)
}

fn line(out: &mut impl Write, bounds: &Bounds, found: &Found) -> io::Result<()> {
    let seconds = found.took.as_secs_f64();
    let end = match (&found.violation, &found.stuck, found.dropped) {
        (Some((rule, _)), ..) => format!("VIOLATION: {rule}"),
        (None, Some(_), _) => "STUCK: from here nobody ever serves again".to_owned(),
        (None, None, 0) => "complete".to_owned(),
        (None, None, _) => "CUT OFF: more states than allowed".to_owned(),
    };
    writeln!(
        out,
        "{:<32} {:>11} {:>12} {:>9.1} {:>11} {seconds:>8.1} {:>11.0}  {end}",
        bounds.budget,
        found.states,
        found.moves,
        100.0 * found.serving as f64 / found.states as f64,
        found.longest_to_service,
        found.states as f64 / seconds
    )
}

/// The shortest way that was found to what is wrong, and its story: text that `explore --replay` goes again.
fn tell(out: &mut impl Write, bounds: &Bounds, moves: &[Move]) -> io::Result<()> {
    let config = bounds.config();
    let way = Way::of(bounds, &config, moves).shortened(&config);
    writeln!(out, "\n{way}----\n{}", way.story(&config))
}
