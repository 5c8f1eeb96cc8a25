//! Seeds that once broke a rule hold for good.

use failover_sim::pinned::PINNED;
use failover_sim::runner::run_seed;
use failover_sim::story::Story;

#[test]
fn seeds_that_broke_a_rule_hold() {
    for (seed, showed) in PINNED {
        if let (_, Some(violation)) = run_seed(*seed, Story::Off) {
            panic!(
                "seed {seed} ({showed}) breaks {} again: {}",
                violation.rule, violation.text
            );
        }
    }
}
