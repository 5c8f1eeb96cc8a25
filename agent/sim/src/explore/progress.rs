//! Whether service comes back from every state: the ordinary course of each is followed until somebody serves.

use super::search::{Found, Graph};
use std::collections::HashMap;

/// Follows every state's course; a course that comes back to itself without service is stuck.
pub(super) fn judge(graph: &Graph<'_>, found: &mut Found) {
    found.serving = graph.serving();
    // Steps with time until somebody serves, for each state without service that was followed.
    let mut known: HashMap<u64, u32> = HashMap::new();
    for start in graph.states() {
        let mut way = Vec::new();
        let mut at = start;
        let mut steps = loop {
            if let Some(steps) = known.get(&at) {
                break *steps;
            }
            match graph.course(at) {
                None => break 0,
                Some((next, takes_time)) => {
                    if next == at || way.len() > WAY_MAX {
                        found.stuck = Some(graph.way_to(start));
                        return;
                    }
                    way.push((at, takes_time));
                    at = next;
                }
            }
        };
        for (at, takes_time) in way.into_iter().rev() {
            steps += u32::from(takes_time);
            known.insert(at, steps);
        }
        found.longest_to_service = found.longest_to_service.max(steps);
    }
}

/// A course longer than this goes in a circle.
const WAY_MAX: usize = 100_000;
