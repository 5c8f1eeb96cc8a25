//! What this controller knows of each shared disk, and what majorities follow from it.

use crate::beat::ArbiterList;
use crate::config::DiskConfig;
use crate::disk_work::Survey;
use crate::ids::{DiskId, Node, OpId};
use crate::key::{Key, Phase};
use crate::memory::{Visitor, Walk as _, walk_bits};
use crate::owner::ARBITER_FAILURES;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// One disk.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Disk {
    /// Its identity.
    pub id: DiskId,
    /// For people.
    pub name: String,
    /// Work in flight; no second one is asked for meanwhile.
    pub busy: Option<OpId>,
    /// The last successful look: when it was asked for, and what was there.
    pub look: Option<(Instant, Survey)>,
    /// The last look failed or was overdue.
    pub failed: bool,
    /// Failed or overdue operations in a row.
    pub failures: u32,
    /// When the oldest look of an unbroken run of successful, equal looks was answered.
    pub unchanged_since: Option<Instant>,
    /// The keys had been seen to change since this run began to watch.
    pub moved: bool,
    /// Keys that are there now, and when each was first seen.
    pub first_seen: Vec<(u64, Instant)>,
    /// Key that we hold on it.
    pub ours: Option<Key>,
    /// It was ours and isn't any more.
    pub lost: bool,
    /// Newest asking time of a look, roll or take that showed it as ours.
    pub ok_at: Option<Instant>,
    /// Newest asking time of a roll or take on it that succeeded.
    pub rolled_at: Option<Instant>,
    /// A key of ours that must be taken off as soon as the disk is free.
    pub owed: Option<Key>,
    /// Not tried again before.
    pub owed_again: Instant,
    /// When the next look is due.
    pub look_at: Instant,
    /// A roll was due while other work was in flight: it comes as soon as the disk is free.
    pub roll_waits: bool,
    /// A key that isn't this pair's was on it at the owner's last look.
    pub stranger: bool,
    /// When foreign keys were removed from it last.
    pub expelled_at: Option<Instant>,
    /// When our answer to an offer on it was asked for last, until that answer is taken back.
    pub answered_at: Option<Instant>,
}

impl Disk {
    fn walk(&mut self, visitor: &mut impl Visitor) {
        let Disk {
            id: _,
            name: _,
            busy,
            look,
            failed: _,
            failures,
            unchanged_since,
            moved: _,
            first_seen,
            ours,
            lost: _,
            ok_at,
            rolled_at,
            owed,
            owed_again,
            look_at,
            roll_waits: _,
            stranger: _,
            expelled_at,
            answered_at,
        } = self;
        busy.iter_mut().for_each(|op| visitor.op(op));
        if let Some((asked, survey)) = look {
            visitor.instant(asked);
            visitor.survey(survey);
        }
        // Nothing counts further.
        *failures = (*failures).min(ARBITER_FAILURES);
        visitor.maybe([unchanged_since, ok_at, rolled_at, expelled_at, answered_at]);
        visitor.instants([owed_again, look_at]);
        for (bits, at) in first_seen {
            walk_bits(visitor, bits);
            visitor.instant(at);
        }
        for key in [ours, owed].into_iter().flatten() {
            visitor.key(key);
        }
    }
}

/// A verdict over a jury of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// A majority says yes.
    Yes,
    /// So many say no that a majority can't say yes.
    No,
    /// Too few answered.
    Unknown,
}

/// All shared disks and the arbiter lists.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Disks {
    /// Each disk, sorted by identity.
    pub all: BTreeMap<DiskId, Disk>,
    /// Arbiter lists in force.
    pub arbiters: ArbiterList,
    /// What no disks at all say: yes to a single controller; a pair without disks has no judge.
    pub of_none: Verdict,
    pair: u16,
}

impl Disks {
    /// Disks of the configuration, nothing known of them; without a stored arbiter list the first `wanted` configured
    /// disks are it.
    pub fn new(
        now: Instant,
        config: &[DiskConfig],
        stored: Option<ArbiterList>,
        wanted: u8,
        pair: u16,
    ) -> Disks {
        let disk = |config: &DiskConfig| Disk {
            id: config.id,
            name: config.name.clone(),
            busy: None,
            look: None,
            failed: false,
            failures: 0,
            unchanged_since: None,
            moved: false,
            first_seen: Vec::new(),
            ours: None,
            lost: false,
            ok_at: None,
            rolled_at: None,
            owed: None,
            owed_again: now,
            look_at: now,
            roll_waits: false,
            stranger: false,
            expelled_at: None,
            answered_at: None,
        };
        let all: BTreeMap<DiskId, Disk> = config
            .iter()
            .map(|config| (config.id, disk(config)))
            .collect();
        let wanted = if config.len() < usize::from(wanted) {
            1
        } else {
            usize::from(wanted)
        };
        let first = || ArbiterList {
            version: 0,
            disks: config.iter().map(|disk| disk.id).take(wanted).collect(),
            previous: Vec::new(),
        };
        Disks {
            all,
            arbiters: stored.unwrap_or_else(first),
            of_none: Verdict::Yes,
            pair,
        }
    }

    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor) {
        let Disks {
            all,
            arbiters: _,
            of_none: _,
            pair: _,
        } = self;
        all.values_mut().for_each(|disk| disk.walk(visitor));
    }

    /// Members of the arbiter lists in the order in which they are taken.
    pub fn arbiter_ids(&self) -> Vec<DiskId> {
        let mut ids = self.arbiters.disks.clone();
        ids.extend(
            self.arbiters
                .previous
                .iter()
                .filter(|id| !self.arbiters.disks.contains(id)),
        );
        ids.retain(|id| self.all.contains_key(id));
        ids
    }

    /// Whether a disk is an arbiter.
    pub fn is_arbiter(&self, id: DiskId) -> bool {
        self.arbiters.disks.contains(&id) || self.arbiters.previous.contains(&id)
    }

    /// What the jury says: a majority of each arbiter list; where too few of one can answer, more than half of all
    /// configured disks. `says` answers `None` for a disk that can't tell.
    pub fn verdict(&self, says: impl Fn(&Disk) -> Option<bool>) -> Verdict {
        if self.all.is_empty() {
            return self.of_none;
        }
        let mut worst = Verdict::Yes;
        for list in [&self.arbiters.disks, &self.arbiters.previous] {
            if list.is_empty() {
                continue;
            }
            match Self::majority(
                list.iter().map(|id| self.all.get(id).and_then(&says)),
                list.len(),
            ) {
                Verdict::Yes => {}
                Verdict::No => return Verdict::No,
                Verdict::Unknown => worst = Verdict::Unknown,
            }
        }
        if worst == Verdict::Yes {
            return Verdict::Yes;
        }
        self.verdict_of_all(says)
    }

    /// What both juries say: yes where the arbiters and more than half of all disks do, no where either does. A taker that
    /// couldn't read the arbiters won by all disks, so who goes on owning must ask both.
    pub fn verdict_of_both(&self, says: impl Fn(&Disk) -> Option<bool>) -> Verdict {
        match (self.verdict(&says), self.verdict_of_all(&says)) {
            (Verdict::Yes, Verdict::Yes) => Verdict::Yes,
            (Verdict::No, _) | (_, Verdict::No) => Verdict::No,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
        }
    }

    /// What more than half of all configured disks say.
    pub fn verdict_of_all(&self, says: impl Fn(&Disk) -> Option<bool>) -> Verdict {
        if self.all.is_empty() {
            return self.of_none;
        }
        Self::majority(self.all.values().map(says), self.all.len())
    }

    /// Half of all configured disks or more say so: no majority of them can do without one that does.
    pub fn half_says(&self, says: impl Fn(&Disk) -> bool) -> bool {
        let yes = self.all.values().filter(|disk| says(disk)).count();
        2 * yes >= self.all.len()
    }

    fn majority(votes: impl Iterator<Item = Option<bool>>, of: usize) -> Verdict {
        let (mut yes, mut no) = (0, 0);
        for vote in votes {
            match vote {
                Some(true) => yes += 1,
                Some(false) => no += 1,
                None => {}
            }
        }
        if 2 * yes > of {
            Verdict::Yes
        } else if 2 * (of - no) <= of {
            Verdict::No
        } else {
            Verdict::Unknown
        }
    }

    /// A majority of each arbiter list was read by its last look.
    pub fn arbiters_readable(&self) -> bool {
        [&self.arbiters.disks, &self.arbiters.previous]
            .into_iter()
            .all(|list| {
                let readable = |id: &&DiskId| {
                    self.all
                        .get(id)
                        .is_some_and(|disk| disk.look.is_some() && !disk.failed)
                };
                list.is_empty() || 2 * list.iter().filter(readable).count() > list.len()
            })
    }

    /// A majority of each arbiter list is held by us.
    pub fn arbiters_held(&self) -> bool {
        [&self.arbiters.disks, &self.arbiters.previous]
            .into_iter()
            .all(|list| {
                let held = |id: &&DiskId| {
                    self.all
                        .get(id)
                        .is_some_and(|disk| disk.ours.is_some() && !disk.lost)
                };
                list.is_empty() || 2 * list.iter().filter(held).count() > list.len()
            })
    }

    /// Takes a successful look that was asked for at `asked`.
    pub fn looked(&mut self, id: DiskId, asked: Instant, now: Instant, survey: Survey) {
        let Some(disk) = self.all.get_mut(&id) else {
            return;
        };
        let same = disk
            .look
            .as_ref()
            .is_some_and(|(_, old)| old.keys == survey.keys && old.holder == survey.holder);
        if disk.look.is_some() && !same {
            disk.moved = true;
        }
        if disk.failed || !same || disk.unchanged_since.is_none() {
            // The keys were read at some moment before the answer: only from the answer on have they surely rested.
            disk.unchanged_since = Some(now);
        }
        disk.first_seen.retain(|(key, _)| survey.keys.contains(key));
        for key in &survey.keys {
            if !disk.first_seen.iter().any(|(seen, _)| seen == key) {
                disk.first_seen.push((*key, now));
            }
        }
        disk.failed = false;
        disk.failures = 0;
        disk.look = Some((asked, survey));
    }

    /// A look failed or is overdue: no evidence, and the clock of its silence starts again.
    pub fn look_failed(&mut self, id: DiskId) {
        let Some(disk) = self.all.get_mut(&id) else {
            return;
        };
        disk.failed = true;
        disk.failures = disk.failures.saturating_add(1);
        disk.unchanged_since = None;
    }

    /// Our own process stood still for `gap`: that time is not the owner's silence.
    pub fn stalled(&mut self, now: Instant, gap: Duration) {
        for disk in self.all.values_mut() {
            disk.unchanged_since = disk.unchanged_since.map(|since| (since + gap).min(now));
            disk.ok_at = disk.ok_at.map(|at| (at + gap).min(now));
        }
    }

    /// The latest moment at or after which, as `at` tells, a majority of the jury comes.
    pub fn majority_time(&self, at: impl Fn(&Disk) -> Option<Instant>) -> Option<Instant> {
        let by = |moment: Instant| self.verdict(|disk| at(disk).map(|at| at >= moment));
        // The later the moment the fewer say yes: halving finds the latest without asking a thousand juries.
        let moments = self.moments(&at);
        let first = moments.partition_point(|moment| by(*moment) != Verdict::Yes);
        moments.get(first).copied()
    }

    /// The latest moment at or after which, as `at` tells, more than half of all disks come.
    pub fn majority_time_of_all(&self, at: impl Fn(&Disk) -> Option<Instant>) -> Option<Instant> {
        self.moments(&at).get(self.all.len() / 2).copied()
    }

    /// The latest moment at or after which, as `at` tells, half of all disks or more come.
    pub fn half_time(&self, at: impl Fn(&Disk) -> Option<Instant>) -> Option<Instant> {
        let half = self.all.len().saturating_sub(1) / 2;
        self.moments(&at).get(half).copied()
    }

    /// Moments of all disks, the latest first.
    fn moments(&self, at: impl Fn(&Disk) -> Option<Instant>) -> Vec<Instant> {
        let mut moments: Vec<Instant> = self.all.values().filter_map(at).collect();
        moments.sort_unstable_by(|one, other| other.cmp(one));
        moments
    }

    /// Keys of our pair in a disk's last look.
    pub fn keys_of(&self, disk: &Disk) -> Vec<Key> {
        let Some((_, survey)) = &disk.look else {
            return Vec::new();
        };
        survey
            .keys
            .iter()
            .filter_map(|bits| Key::from_bits(*bits, self.pair))
            .collect()
    }

    /// The key that holds the reservation, if it is of our pair.
    pub fn holder(&self, disk: &Disk) -> Option<Key> {
        let (_, survey) = disk.look.as_ref()?;
        Key::from_bits(survey.holder?, self.pair)
    }

    /// The holder's key, if it says more than that somebody tried.
    pub fn owner_key(&self, disk: &Disk) -> Option<Key> {
        self.holder(disk)
            .filter(|key| !matches!(key.phase, Phase::Candidate | Phase::Yielded))
    }

    /// A key that isn't of our pair is on the disk.
    pub fn has_stranger(&self, disk: &Disk) -> bool {
        let Some((_, survey)) = &disk.look else {
            return false;
        };
        survey
            .keys
            .iter()
            .any(|bits| Key::from_bits(*bits, self.pair).is_none())
    }

    /// Whether a majority shows `node`'s key in phase `phase` as the holder, and no disk a newer one of it: who handed
    /// over, ended and came back takes the disks itself.
    pub fn shows(&self, node: Node, phase: Phase) -> bool {
        let read = |disk: &&Disk| disk.look.is_some() && !disk.failed;
        let all = self.all.values().filter(read);
        let keys = all.flat_map(|disk| self.keys_of(disk));
        let theirs: Vec<Key> = keys.filter(|key| key.node == node).collect();
        let newest = |one: &Key| !theirs.iter().any(|key| key.epoch.is_after(one.epoch));
        let says = |disk: &Disk| {
            read(&disk).then(|| {
                self.holder(disk)
                    .is_some_and(|key| key.node == node && key.phase == phase && newest(&key))
            })
        };
        self.verdict(says) == Verdict::Yes
    }

    /// Newest key that holds a majority, if one node's keys do.
    pub fn owner(&self) -> Option<Key> {
        for node in [Node::A, Node::B] {
            let says = |disk: &Disk| {
                let fresh = disk.look.is_some() && !disk.failed;
                fresh.then(|| self.owner_key(disk).is_some_and(|key| key.node == node))
            };
            if self.verdict(says) == Verdict::Yes {
                let holders = self.all.values().filter_map(|disk| self.owner_key(disk));
                return holders
                    .filter(|key| key.node == node)
                    .max_by_key(|key| key.beat);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::EpochBits;

    fn disks(count: u64) -> Disks {
        let config: Vec<DiskConfig> = (1..=count)
            .map(|id| DiskConfig {
                id: DiskId(id),
                name: id.to_string(),
            })
            .collect();
        Disks::new(Instant::default(), &config, None, 3, 7)
    }

    #[test]
    fn a_majority_of_the_arbiters_decides() {
        let disks = disks(8);
        assert_eq!(disks.arbiter_ids(), [DiskId(1), DiskId(2), DiskId(3)]);
        assert_eq!(disks.verdict(|disk| Some(disk.id.0 != 3)), Verdict::Yes);
        assert_eq!(
            disks.verdict(|disk| Some(disk.id.0 == 3)),
            Verdict::No,
            "the other five have no say"
        );
    }

    /// With these holders in phase and epoch, is it on offer?
    fn on_offer(holders: [(Phase, u32); 3]) -> bool {
        let mut disks = disks(3);
        for (id, (phase, epoch)) in (1..).zip(holders) {
            let key = Key {
                pair: 7,
                node: Node::B,
                held: false,
                phase,
                incarnation: 1,
                epoch: EpochBits(epoch),
                beat: 0,
            };
            let survey = Survey {
                generation: 1,
                keys: vec![key.to_bits()],
                holder: Some(key.to_bits()),
                wero: true,
            };
            disks.looked(DiskId(id), Instant::default(), Instant::default(), survey);
        }
        disks.shows(Node::B, Phase::HandingOver)
    }

    #[test]
    fn a_handover_counts_while_no_disk_shows_a_newer_key_of_its_controller() {
        use Phase::{Candidate, HandingOver, Owner};
        assert!(on_offer([(HandingOver, 3), (HandingOver, 3), (Owner, 3)]));
        assert!(!on_offer([
            (Candidate, 5),
            (HandingOver, 3),
            (HandingOver, 3)
        ]));
        let (last, first) = (0xf_ffff, 0);
        assert!(on_offer([
            (HandingOver, first),
            (HandingOver, first),
            (Owner, last)
        ]));
        assert!(!on_offer([
            (HandingOver, last),
            (HandingOver, last),
            (Candidate, first)
        ]));
    }

    #[test]
    fn unreadable_arbiters_leave_it_to_more_than_half_of_all() {
        let disks = disks(8);
        let says = |disk: &Disk| (disk.id.0 > 2).then_some(true);
        assert_eq!(disks.verdict(says), Verdict::Yes);
        let says = |disk: &Disk| (disk.id.0 > 2).then_some(disk.id.0 > 4);
        assert_eq!(
            disks.verdict(says),
            Verdict::Unknown,
            "four of eight are not more than half"
        );
    }

    #[test]
    fn both_lists_must_agree_while_the_peer_has_not_acknowledged() {
        let mut disks = disks(8);
        disks.arbiters.previous = vec![DiskId(6), DiskId(7), DiskId(8)];
        assert_eq!(disks.verdict(|disk| Some(disk.id.0 <= 3)), Verdict::No);
        assert_eq!(
            disks.verdict(|disk| Some(disk.id.0 <= 3 || disk.id.0 >= 7)),
            Verdict::Yes
        );
    }

    #[test]
    fn a_failed_look_restarts_the_clock_of_silence() {
        let mut disks = disks(1);
        let at = Instant::from_millis;
        disks.looked(DiskId(1), at(10), at(12), Survey::default());
        disks.looked(DiskId(1), at(60), at(62), Survey::default());
        assert_eq!(disks.all[&DiskId(1)].unchanged_since, Some(at(12)));
        disks.look_failed(DiskId(1));
        disks.looked(DiskId(1), at(110), at(112), Survey::default());
        assert_eq!(disks.all[&DiskId(1)].unchanged_since, Some(at(112)));
    }
}
