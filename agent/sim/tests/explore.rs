//! The exploration: the canonical form loses nothing that matters, small bounds hold every rule, wrong timers don't.

use failover_core::config::CoreConfig;
use failover_sim::explore::bounds::{Bounds, Budget};
use failover_sim::explore::search::{explore, explore_from};
use failover_sim::explore::way::{Outcome, Way};
use failover_sim::explore::world::{Move, World};
use failover_sim::rng::Rng;
use std::fs;
use std::path::Path;

fn bounds(budget: Budget) -> Bounds {
    Bounds {
        links: 2,
        disks: 3,
        budget,
    }
}

/// Random ways with many faults: a world that was put into its canonical form after each move, and one that never was, can
/// make the same moves, and have the same canonical form all the time. Left out is what the form changes on purpose: a
/// restart waits for 20 ms, which it lengthens to the grid, and a second adoption's counter in the keys begins anew.
#[test]
fn the_canonical_form_goes_on_as_the_state_would_have() {
    let budget = Budget {
        crashes: 3,
        kills: 1,
        pauses: 2,
        losses: 20,
        cuts: 3,
        disks: 3,
        failures: 4,
        holds: 4,
        disorder: 40,
        commands: 3,
    };
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let bounds = bounds(budget);
        let mut plain = World::new(bounds.config(), budget);
        let mut canonical = plain.clone();
        canonical.normalise();
        for turn in 0..600 {
            let mut moves = canonical.moves();
            moves.retain(|one| !matches!(one, Move::Restart(_)));
            let ordinary: Vec<Move> = moves
                .iter()
                .copied()
                .filter(|one| one.is_ordinary())
                .collect();
            // Faults are many in the list, and would be used up in the first moment.
            let from = if rng.below(12) > 0 && !ordinary.is_empty() {
                &ordinary
            } else {
                &moves
            };
            let chosen = from[rng.below(from.len() as u64) as usize];
            assert!(
                plain.moves().contains(&chosen),
                "seed {seed}, turn {turn}: {chosen}"
            );
            plain.make(chosen);
            canonical.make(chosen);
            assert_eq!(
                plain.broken(),
                canonical.broken(),
                "seed {seed}, turn {turn}"
            );
            canonical.normalise();
            let mut same = plain.clone();
            same.normalise();
            assert_eq!(
                same.digest(),
                canonical.digest(),
                "seed {seed}, turn {turn}: {chosen}"
            );
        }
    }
}

#[test]
fn small_bounds_hold_every_rule() {
    for budget in [
        Budget::default(),
        Budget {
            losses: 1,
            ..Budget::default()
        },
    ] {
        let found = explore(&bounds(budget), 2, 1_000_000);
        assert!(found.is_good(), "{budget}: {found:?}");
        assert!(
            found.states > 500 && found.serving > found.states / 2,
            "{found:?}"
        );
    }
}

/// A's lease outlives the silence after which the peer takes over, and B waits for the lease that it believes in.
fn with_a_long_lease([a, b]: [CoreConfig; 2]) -> [CoreConfig; 2] {
    let mut timing = a.timing.clone();
    timing.vip_lease_ms = 900;
    [CoreConfig { timing, ..a }, b]
}

/// Whoever is cut off still answers when the other does.
#[test]
fn a_lease_that_is_too_long_is_found() {
    let budget = Budget {
        pauses: 1,
        ..Budget::default()
    };
    let config = with_a_long_lease(bounds(budget).config());
    // One worker finds the same way each time.
    let found = explore_from(World::new(config.clone(), budget), 1, 3_000_000);
    let (rule, moves) = found.violation.expect("two of them answer");
    assert!(rule.contains("answer at the virtual addresses"), "{rule}");
    // The way there in words, made short: it can be read, parsed and gone again, and ends the same.
    let way = Way::of(&bounds(budget), &config, &moves);
    let short = way.shortened(&config);
    let text = short.to_string();
    assert!(text.lines().count() <= 8, "{text}");
    assert!(text.contains("freeze "), "{text}");
    let again = Way::parse(&text).expect("what was printed can be read");
    assert_eq!(again, short);
    let end = again.go(&config, |_, _| {});
    assert!(
        matches!(end, Outcome::Broken(ref text, _) if *text == rule),
        "{end:?}"
    );
    // With the right timers the same way breaks nothing.
    let end = again.go(&bounds(budget).config(), |_, _| {});
    assert!(!matches!(end, Outcome::Broken(..)), "{end:?}");
}

/// What an exploration printed once, as a file: the ways in which a wrong core or wrong timers broke a rule. `explore --replay
/// FILE` tells their stories.
#[test]
fn kept_ways_break_nothing_any_more() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ways");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("readable");
        let way = Way::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let config = way.bounds().config();
        let end = way.go(&config, |_, _| {});
        assert_eq!(end, Outcome::Fine, "{}", path.display());
        count += 1;
    }
    assert!(count > 0);
    let lease = include_str!("ways/long_lease.txt");
    let way = Way::parse(lease).expect("a way");
    let config = with_a_long_lease(way.bounds().config());
    let end = way.go(&config, |_, _| {});
    assert!(matches!(end, Outcome::Broken(..)), "{end:?}");
}
