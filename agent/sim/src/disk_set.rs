//! Sets of disks, by their index. A set is a plain value of 160 bytes: small worlds touch its first word alone, large ones
//! need no other type.

use std::fmt;
use std::ops::{BitAnd, BitOr, Sub};

/// Greatest number of disks of a world.
pub const DISKS_MAX: usize = 1255;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = DISKS_MAX.div_ceil(BITS);

/// A set of disks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DiskSet {
    words: [u64; WORDS],
}

impl DiskSet {
    /// No disk.
    pub const EMPTY: DiskSet = DiskSet { words: [0; WORDS] };

    /// The first `count` disks.
    pub fn first(count: usize) -> DiskSet {
        (0..count).collect()
    }

    /// Adds a disk.
    pub fn insert(&mut self, disk: usize) {
        self.words[disk / BITS] |= 1 << (disk % BITS);
    }

    /// Removes a disk.
    pub fn remove(&mut self, disk: usize) {
        self.words[disk / BITS] &= !(1 << (disk % BITS));
    }

    /// Adds or removes a disk.
    pub fn set(&mut self, disk: usize, is_in: bool) {
        match is_in {
            true => self.insert(disk),
            false => self.remove(disk),
        }
    }

    /// A disk is in it; one beyond the greatest index never is.
    pub fn contains(&self, disk: usize) -> bool {
        let word = self.words.get(disk / BITS);
        word.is_some_and(|word| word >> (disk % BITS) & 1 == 1)
    }

    /// Number of its disks.
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// It has no disk.
    pub fn is_empty(&self) -> bool {
        *self == DiskSet::EMPTY
    }

    /// Its disks, in their order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let words = self.words.into_iter().enumerate();
        words
            .filter(|(_, word)| *word != 0)
            .flat_map(|(place, word)| {
                let rest = |word: &u64| Some(word & (word - 1)).filter(|rest| *rest != 0);
                std::iter::successors(Some(word), rest)
                    .map(move |word| place * BITS + word.trailing_zeros() as usize)
            })
    }

    fn by_word(mut self, other: DiskSet, both: impl Fn(u64, u64) -> u64) -> DiskSet {
        for (word, theirs) in self.words.iter_mut().zip(other.words) {
            *word = both(*word, theirs);
        }
        self
    }
}

impl BitAnd for DiskSet {
    type Output = DiskSet;

    fn bitand(self, other: DiskSet) -> DiskSet {
        self.by_word(other, |a, b| a & b)
    }
}

impl BitOr for DiskSet {
    type Output = DiskSet;

    fn bitor(self, other: DiskSet) -> DiskSet {
        self.by_word(other, |a, b| a | b)
    }
}

/// Those of the first that the second doesn't have.
impl Sub for DiskSet {
    type Output = DiskSet;

    fn sub(self, other: DiskSet) -> DiskSet {
        self.by_word(other, |a, b| a & !b)
    }
}

impl FromIterator<usize> for DiskSet {
    fn from_iter<I: IntoIterator<Item = usize>>(disks: I) -> DiskSet {
        let mut set = DiskSet::EMPTY;
        disks.into_iter().for_each(|disk| set.insert(disk));
        set
    }
}

/// Runs of neighbours as `first-last`.
impl fmt::Debug for DiskSet {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for disk in self.iter() {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == disk => *last = disk,
                _ => runs.push((disk, disk)),
            }
        }
        let run = |(first, last): (usize, usize)| match first == last {
            true => format!("d{first}"),
            false => format!("d{first}-{last}"),
        };
        let runs: Vec<String> = runs.into_iter().map(run).collect();
        write!(to, "{{{}}}", runs.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in() {
        let disks = [0, 3, 63, 64, 127, 640, DISKS_MAX - 1];
        let set: DiskSet = disks.into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), disks);
        assert_eq!(set.len(), disks.len());
        assert!(set.contains(640) && !set.contains(641) && !set.contains(100_000));
    }

    #[test]
    fn it_adds_and_takes_away() {
        let (five, three) = (DiskSet::first(5), DiskSet::first(3));
        assert_eq!(five - three, [3, 4].into_iter().collect());
        assert_eq!((five & three, five | three), (three, five));
        let mut none = three;
        (0..3).for_each(|disk| none.set(disk, false));
        assert!(none.is_empty() && (three - five).is_empty());
    }

    #[test]
    fn neighbours_are_told_as_a_run() {
        let mut set = DiskSet::first(4);
        set.insert(700);
        assert_eq!(format!("{set:?}"), "{d0-3 d700}");
    }
}
