//! Links that fall silent while another one speaks, and what the loop's own pauses are not.

use super::*;

/// A controller that hears its peer on link 0, each 50 ms, and what it told.
struct Pair {
    controller: Controller,
    now: Instant,
    told: Vec<(String, String)>,
}

impl Pair {
    fn new() -> Pair {
        let (controller, now) = controller_in(State::Standby);
        Pair {
            controller,
            now,
            told: Vec::new(),
        }
    }

    /// Lets time pass, while these links speak.
    fn pass(&mut self, time_ms: u64, speaking: &[usize]) {
        for _ in 0..time_ms / 50 {
            self.now = self.now + ms(50);
            for link in speaking {
                self.controller.peer.links[*link].heard = Some(self.now);
                self.controller.peer.heard = Some(self.now);
            }
            for action in self.controller.handle(self.now, Event::Wake) {
                if let Action::Notify(notice) = action
                    && notice.id.contains("LINK")
                {
                    self.told.push((notice.id, notice.text));
                }
            }
        }
    }

    fn told(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.told)
    }
}

#[test]
fn a_silent_link_is_told_of_once_and_so_is_its_return() {
    let mut pair = Pair::new();
    pair.pass(5000, &[0, 1]);
    pair.pass(1900, &[0]);
    assert_eq!(pair.told(), [], "a burst of losses");
    pair.pass(60_000, &[0]);
    let told = pair.told();
    let [(id, text)] = told.as_slice() else {
        panic!("once: {told:?}");
    };
    assert_eq!(id, "LINK_SILENT");
    assert!(
        text.contains("link 1 has been silent for 2000 ms"),
        "{text}"
    );
    // It comes and goes: not told of again, and not well yet.
    pair.pass(9000, &[0, 1]);
    pair.pass(3000, &[0]);
    pair.pass(9000, &[0, 1]);
    assert_eq!(pair.told(), []);
    pair.pass(2000, &[0, 1]);
    let told = pair.told();
    let [(id, text)] = told.as_slice() else {
        panic!("back: {told:?}");
    };
    assert_eq!(id, "LINK_BACK");
    assert!(text.contains("link 1 speaks again"), "{text}");
    pair.pass(3000, &[0]);
    assert_eq!(pair.told().len(), 1, "the next time");
}

#[test]
fn a_link_that_never_spoke_is_told_of_and_a_dead_peer_is_not_its_links() {
    let mut pair = Pair::new();
    pair.controller.peer.links[1].up = false;
    pair.pass(3000, &[0]);
    let told = pair.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("link 1 (no carrier)"), "{told:?}");
    let mut pair = Pair::new();
    pair.pass(3000, &[0, 1]);
    pair.pass(60_000, &[]);
    assert_eq!(pair.told(), []);
    // Its links come back one after the other.
    pair.pass(1500, &[0]);
    pair.pass(3000, &[0, 1]);
    assert_eq!(pair.told(), []);
}

/// Time in which we didn't run is no link's silence.
#[test]
fn an_own_stall_silences_no_link() {
    let mut pair = Pair::new();
    pair.pass(3000, &[0, 1]);
    pair.now = pair.now + ms(30_000);
    pair.pass(3000, &[0, 1]);
    assert_eq!(pair.told(), []);
}

/// What the loop plans to sleep is shorter than a stall: only time in which it should have run and didn't counts as one.
#[test]
fn no_planned_sleep_is_a_stall() {
    for state in State::ALL.iter().copied() {
        let (mut controller, mut now) = controller_in(state);
        let stall = ms(controller.config.timing.stall_ms);
        for _ in 0..200 {
            let _ = controller.handle(now, Event::Wake);
            if controller.state() == State::Halted {
                break;
            }
            let Some((due, why)) = controller.next_timeout() else {
                panic!("{state:?}: sleeps for ever");
            };
            let slept = due.since(now);
            assert!(slept < stall, "{state:?} sleeps {slept:?}: {why}");
            now = now.max(due);
        }
        assert_eq!(controller.last_stall, None, "{state:?}");
    }
}
