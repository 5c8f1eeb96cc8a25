//! Makes the faults of a failing seed few and short, as long as the same rule stays broken.
//!
//! ```text
//!   all faults ─▶ drop halves, quarters, … single ones (ddmin: Zeller, Hildebrandt 2002) ─▶ shorten each that is left
//! ```

use crate::faults::Episode;
use crate::story::Story;
use crate::world::World;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Time that shrinking one seed may take.
const SHRINK_FOR: Duration = Duration::from_secs(60);
/// Shortest length that a fault is cut to, milliseconds.
const LEAST_MS: u64 = 1;

/// A fault that is left: its number among those that the seed draws, and its length where that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub number: usize,
    /// Its length, milliseconds.
    pub length_ms: Option<u64>,
}

impl fmt::Display for Kept {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length_ms {
            Some(length_ms) => write!(to, "{}:{length_ms}", self.number),
            None => write!(to, "{}", self.number),
        }
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Kept, String> {
        let number = |text: &str| {
            let number = text.parse::<u64>();
            number.map_err(|_| format!("{text} is no number: write 3, or 3:250 for 250 ms of it"))
        };
        let (place, length) = match text.split_once(':') {
            Some((place, length)) => (place, Some(number(length)?)),
            None => (text, None),
        };
        Ok(Kept {
            number: number(place)? as usize,
            length_ms: length,
        })
    }
}

/// Those of these faults that are kept, as long as they are kept.
pub fn only(episodes: &[Episode], kept: &[Kept]) -> Vec<Episode> {
    let one = |kept: &Kept| {
        let episode = *episodes.get(kept.number)?;
        let until = kept.length_ms.map(|ms| episode.at + ms * 1000);
        Some(Episode {
            until: until.map_or(episode.until, |until| until.min(episode.until)),
            ..episode
        })
    };
    kept.iter().filter_map(one).collect()
}

/// A failing seed with fewer faults.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left.
    pub kept: Vec<Kept>,
    /// The same, in words.
    pub faults: Vec<String>,
    /// How many there were.
    pub drawn: usize,
}

/// Shrinks the faults of a seed that breaks `rule`.
pub fn seed(seed: u64, rule: &str) -> Shrunk {
    let end = Instant::now() + SHRINK_FOR;
    let episodes = World::of_seed(seed, Story::Off).episodes;
    let breaks = |kept: &[Kept]| {
        if Instant::now() > end {
            return false;
        }
        let world = World::of_seed_with(seed, Story::Off, Some(kept));
        let (_, violation) = world.run_seed();
        violation.is_some_and(|violation| violation.rule == rule)
    };
    let all = (0..episodes.len()).map(|number| Kept {
        number,
        length_ms: None,
    });
    let kept = fewest(all.collect(), breaks);
    let kept = shortest(kept, &episodes, breaks);
    let words = |episode: &Episode| {
        let (at, for_ms) = (episode.at / 1000, (episode.until - episode.at) / 1000);
        format!("at {at} ms for {for_ms} ms: {:?}", episode.fault)
    };
    Shrunk {
        faults: only(&episodes, &kept).iter().map(words).collect(),
        drawn: episodes.len(),
        kept,
    }
}

/// Drops whatever isn't needed for `fails` to stay true of the rest: no single one of what is left can be spared.
pub fn fewest<T: Copy>(mut left: Vec<T>, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut parts = 2;
    while !left.is_empty() {
        let size = left.len().div_ceil(parts).max(1);
        let without = |part: usize| -> Vec<T> {
            let (begin, end) = (part * size, ((part + 1) * size).min(left.len()));
            [&left[..begin], &left[end..]].concat()
        };
        let pieces = left.len().div_ceil(size);
        match (0..pieces).map(without).find(|rest| fails(rest)) {
            Some(rest) => {
                left = rest;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts *= 2,
        }
    }
    left
}

/// Halves the length of each fault for as long as `fails` stays true.
fn shortest(
    mut kept: Vec<Kept>,
    episodes: &[Episode],
    fails: impl Fn(&[Kept]) -> bool,
) -> Vec<Kept> {
    for place in 0..kept.len() {
        let episode = episodes[kept[place].number];
        let mut length_ms = (episode.until - episode.at) / 1000;
        while length_ms / 2 >= LEAST_MS {
            length_ms /= 2;
            let before = kept[place].length_ms.replace(length_ms);
            if !fails(&kept) {
                kept[place].length_ms = before;
                break;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_is_needed_is_left() {
        let tries = Cell::new(0);
        let needs = |needed: &'static [u32]| {
            let tries = &tries;
            move |left: &[u32]| {
                tries.set(tries.get() + 1);
                needed.iter().all(|each| left.contains(each))
            }
        };
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(fewest(all.clone(), needs(&[3, 57, 58])), [3, 57, 58]);
        assert_eq!(fewest(all.clone(), needs(&[99])), [99]);
        assert!(fewest(all, needs(&[])).is_empty(), "nothing is needed");
        assert!(tries.get() < 200, "{} tries", tries.get());
    }

    #[test]
    fn faults_become_short() {
        let episode = |at, until| Episode {
            at,
            until,
            fault: crate::faults::Fault::ShelfPower,
        };
        let episodes = [episode(0, 800_000), episode(5, 800_005)];
        let kept = [0, 1].map(|number| Kept {
            number,
            length_ms: None,
        });
        let needs_150_ms = |kept: &[Kept]| {
            let left = only(&episodes, kept);
            left[0].until - left[0].at >= 150_000
        };
        let kept = shortest(kept.to_vec(), &episodes, needs_150_ms);
        let lengths: Vec<Option<u64>> = kept.iter().map(|kept| kept.length_ms).collect();
        assert_eq!(lengths, [Some(200), Some(1)]);
    }

    #[test]
    fn kept_faults_are_written_and_read() {
        for text in ["3", "12:250"] {
            assert_eq!(
                text.parse::<Kept>().map(|kept| kept.to_string()),
                Ok(text.to_owned())
            );
        }
        assert!("3:x".parse::<Kept>().is_err());
    }
}
