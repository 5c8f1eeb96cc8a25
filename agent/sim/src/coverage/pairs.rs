//! Which kinds of events a state can meet at all: every pair of a state and a kind that isn't here must be reached by a long
//! run, and none that is here may be.

use super::{EVENTS, event_name};
use failover_core::states::State;

/// Pairs that can't occur: states, kinds of events, why.
pub struct Never {
    /// In these states
    pub states: &'static [State],
    /// none of these kinds comes,
    pub events: &'static [&'static str],
    /// because of this.
    pub why: &'static str,
}

/// Every pair that can't occur.
pub const NEVER: &[Never] = &[
    Never {
        states: &[State::Halted],
        events: &EVENTS,
        why: "the reset follows in the turn that halts; the core takes nothing in after that (`Controller::handle_all`), and \
              the daemon answers commands and SIGTERM itself (`control.rs`)",
    },
    Never {
        states: &[
            State::Starting,
            State::Adopting,
            State::Electing,
            State::Standby,
            State::Surveying,
            State::FencingArbiters,
            State::Yielding,
            State::Held,
        ],
        events: &["lease lost"],
        why: "only an owner asks the kernel for a longer lease, and a refusal is told in the turn that asked \
              (`control.rs`, `handle_all`)",
    },
    Never {
        states: &[
            State::FencingRest,
            State::Importing,
            State::StartingServices,
        ],
        events: &["lease lost"],
        why: "nothing is on yet: the first lease is granted in `announcing`, and one found by adoption isn't touched before \
              (`owner/rolls.rs`, `gave_up_the_long_lease`)",
    },
    Never {
        states: &[State::StoppingServices, State::Exporting],
        events: &["lease lost"],
        why: "the lease ends when a handover begins; one that was inherited has been given up before the addresses are off",
    },
    Never {
        states: &[
            State::WritingHandover,
            State::HandedOver,
            State::Reverting,
            State::Stopping,
        ],
        events: &["lease lost"],
        why: "its pools are exported, its lease ended when the handover began, and none is asked for before it owns again",
    },
];

/// Why this pair can't occur, if it can't.
pub fn never(state: State, event: usize) -> Option<&'static str> {
    let name = event_name(event);
    let of = |never: &&Never| never.states.contains(&state) && never.events.contains(&name);
    NEVER.iter().find(of).map(|never| never.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_reason() {
        for state in State::ALL {
            for event in EVENTS {
                let of =
                    |never: &&Never| never.states.contains(&state) && never.events.contains(&event);
                assert!(NEVER.iter().filter(of).count() <= 1, "{state:?}, {event}");
            }
        }
        let known = |never: &Never| never.events.iter().all(|name| EVENTS.contains(name));
        assert!(NEVER.iter().all(known), "each kind is one of EVENTS");
    }
}
