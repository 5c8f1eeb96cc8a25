//! Seeds that once broke a rule hold for good.

use failover_sim::pinned::{PINNED, PINNED_WIDE};
use failover_sim::runner::run_seed;
use failover_sim::story::Story;

#[test]
fn seeds_that_broke_a_rule_hold() {
    for (seed, showed) in PINNED.iter().chain(PINNED_WIDE) {
        if let (_, Some(violation)) = run_seed(*seed, Story::Off, None) {
            panic!(
                "seed {seed} ({showed}) breaks {} again: {}",
                violation.rule, violation.text
            );
        }
    }
}
