//! What the labels of a pool's disks say together: is it whole, can it be imported, what is missing.

use super::label::{Label, LabelState, Uberblock, Vdev};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Missing devices that a message names.
const NAMED_MAX: usize = 8;

/// A pool as its labels show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Its name, in the newest label.
    pub(crate) name: String,
    pub(crate) state: LabelState,
    /// Host that used it last.
    pub(crate) host: Option<(u64, String)>,
    /// The newest uberblock.
    pub(crate) uberblock: Option<Uberblock>,
    /// Top-level vdevs, by their guid.
    tops: BTreeMap<u64, Vdev>,
    /// Number of top-level vdevs that there are, holes left away.
    tops_expected: u64,
    /// Devices that were found.
    found: BTreeSet<u64>,
}

/// Whether a pool can be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every device is there.
    Whole,
    /// Some are missing, but it works without them.
    Degraded(Vec<Missing>),
    /// It doesn't work without these.
    Unusable(Vec<Missing>),
}

/// A device that isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) guid: u64,
    /// Of the top-level vdev that it is in.
    pub(crate) top_guid: u64,
    /// Not a file or the like.
    pub(crate) is_disk: bool,
    /// Where it was when the pool was last in use.
    pub(crate) path: Option<String>,
    /// `raidz2 vdev 0`.
    pub(crate) part_of: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path} (guid {}, of {})", self.guid, self.part_of),
            None => write!(f, "guid {} (of {})", self.guid, self.part_of),
        }
    }
}

/// Several, as one text.
pub(crate) fn names(missing: &[Missing]) -> String {
    let named: Vec<String> = missing
        .iter()
        .take(NAMED_MAX)
        .map(Missing::to_string)
        .collect();
    let more = missing.len().saturating_sub(NAMED_MAX);
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Puts the labels of the pool `guid` together; `None` where there is none of it.
pub(crate) fn assemble<'l>(guid: u64, labels: impl Iterator<Item = &'l Label>) -> Option<Tree> {
    let labels: Vec<&Label> = labels
        .filter(|label| label.pool_guid == guid && label.top.is_some())
        .collect();
    // A disk that was away for a while still has the pool of that time on it.
    let newest = labels.iter().max_by_key(|label| label.txg)?;
    let mut tree = Tree {
        name: newest.pool_name.clone(),
        state: newest.state,
        host: newest.host.clone(),
        uberblock: labels.iter().filter_map(|label| label.uberblock).max(),
        tops: BTreeMap::new(),
        tops_expected: newest.tops.saturating_sub(newest.holes),
        found: BTreeSet::new(),
    };
    let mut age: BTreeMap<u64, u64> = BTreeMap::new();
    for label in &labels {
        let Some(top) = &label.top else { continue };
        tree.found.insert(label.guid);
        let newer = age.get(&top.guid).is_none_or(|txg| *txg < label.txg);
        if newer {
            age.insert(top.guid, label.txg);
            tree.tops.insert(top.guid, top.clone());
        }
    }
    Some(tree)
}

impl Tree {
    /// What a message adds about top-level vdevs of which no label tells; nothing where there are none. ZFS counts those
    /// that were removed with the others for ever. Labels tell of the holes that log devices leave, but only the pool
    /// itself tells removed ones that held data (`indirect`) from missing ones: `zpool import` decides.
    pub(crate) fn unseen(&self) -> String {
        let seen = self.tops.len() as u64;
        match self.tops_expected.saturating_sub(seen) {
            0 => String::new(),
            unseen => format!(
                "; no device was found of {unseen} of its {} top-level vdevs: they were removed from the pool (`zpool \
                 remove`), or all of their disks are missing (does `disks` name every disk of the pool?)",
                self.tops_expected
            ),
        }
    }

    /// Host that used it last, as ZFS has it.
    pub(crate) fn host_id(&self) -> Option<u64> {
        self.host.as_ref().map(|(id, _)| *id)
    }

    /// GUIDs of the top-level vdevs that labels tell of, and the number of all.
    pub(crate) fn tops(&self) -> (BTreeSet<u64>, u64) {
        (self.tops.keys().copied().collect(), self.tops_expected)
    }

    /// Devices that weren't found, of the vdevs that labels tell of.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let tops = self.tops.values();
        tops.flat_map(|top| self.missing_of(top)).collect()
    }

    fn missing_of(&self, top: &Vdev) -> Vec<Missing> {
        let mut missing = Vec::new();
        collect(top, top, &self.found, &mut missing);
        missing
    }

    /// Of the vdevs that labels tell of.
    pub(crate) fn health(&self) -> Health {
        let mut all = Vec::new();
        let mut needed = Vec::new();
        for top in self.tops.values() {
            let missing = self.missing_of(top);
            if !works(top, &self.found) {
                needed.extend(missing.clone());
            }
            all.extend(missing);
        }
        match (needed.is_empty(), all.is_empty()) {
            (false, _) => Health::Unusable(needed),
            (true, false) => Health::Degraded(all),
            (true, true) => Health::Whole,
        }
    }
}

fn title(vdev: &Vdev) -> String {
    let log = if vdev.is_log { "log " } else { "" };
    let parity = match vdev.parity {
        0 => String::new(),
        parity => parity.to_string(),
    };
    format!("{log}{}{parity} vdev {}", vdev.kind, vdev.id)
}

fn collect(vdev: &Vdev, top: &Vdev, found: &BTreeSet<u64>, missing: &mut Vec<Missing>) {
    if vdev.children.is_empty() {
        if !is_there(vdev, found) {
            missing.push(Missing {
                guid: vdev.guid,
                top_guid: top.guid,
                is_disk: vdev.kind == "disk",
                path: vdev.path.clone(),
                part_of: title(top),
            });
        }
        return;
    }
    for child in &vdev.children {
        collect(child, top, found, missing);
    }
}

/// A hole is what a removed vdev leaves; a distributed spare lies on the others of its draid.
fn is_there(leaf: &Vdev, found: &BTreeSet<u64>) -> bool {
    matches!(leaf.kind.as_str(), "hole" | "indirect" | "dspare") || found.contains(&leaf.guid)
}

fn works(vdev: &Vdev, found: &BTreeSet<u64>) -> bool {
    if vdev.children.is_empty() {
        return is_there(vdev, found);
    }
    let lost = vdev
        .children
        .iter()
        .filter(|child| !works(child, found))
        .count();
    match vdev.kind.as_str() {
        // Per group of a draid the same number may be lost; more than that in all may still work: ZFS decides.
        "draid" => (lost as u64) <= vdev.parity || lost < vdev.children.len() / 2,
        "raidz" => (lost as u64) <= vdev.parity,
        // mirror, replacing, spare
        _ => lost < vdev.children.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(guid: u64) -> Vdev {
        Vdev {
            kind: "disk".to_owned(),
            guid,
            id: guid,
            parity: 0,
            is_log: false,
            path: Some(format!("/dev/d{guid}")),
            children: Vec::new(),
        }
    }

    fn group(kind: &str, guid: u64, parity: u64, children: Vec<Vdev>) -> Vdev {
        Vdev {
            kind: kind.to_owned(),
            parity,
            children,
            path: None,
            ..leaf(guid)
        }
    }

    fn label(guid: u64, txg: u64, tops: u64, top: &Vdev) -> Label {
        Label {
            state: LabelState::Active,
            pool_guid: 1,
            pool_name: "tank".to_owned(),
            txg,
            guid,
            tops,
            holes: 0,
            host: None,
            top: Some(top.clone()),
            shift: 12,
            uberblock: None,
            list: Vec::new(),
        }
    }

    fn health(tops: u64, parts: &[(&Vdev, &[u64])]) -> Health {
        let labels: Vec<Label> = parts
            .iter()
            .flat_map(|(top, guids)| guids.iter().map(|guid| label(*guid, 5, tops, top)))
            .collect();
        assemble(1, labels.iter()).expect("labels").health()
    }

    #[test]
    fn as_many_may_be_missing_as_its_redundancy_says() {
        let raidz = group("raidz", 50, 2, (1..=4).map(leaf).collect());
        assert_eq!(health(1, &[(&raidz, &[1, 2, 3, 4])]), Health::Whole);
        let Health::Degraded(missing) = health(1, &[(&raidz, &[1, 3])]) else {
            panic!("two may be missing");
        };
        assert_eq!(
            names(&missing),
            "/dev/d2 (guid 2, of raidz2 vdev 50), /dev/d4 (guid 4, of raidz2 vdev 50)"
        );
        assert!(
            matches!(health(1, &[(&raidz, &[1])]), Health::Unusable(missing) if missing.len() == 3)
        );
        let mirror = group("mirror", 60, 0, vec![leaf(5), leaf(6)]);
        assert!(matches!(health(1, &[(&mirror, &[6])]), Health::Degraded(_)));
        let mut log = leaf(8);
        log.is_log = true;
        let both = [(&mirror, &[5, 6][..]), (&log, &[8][..])];
        assert_eq!(health(2, &both), Health::Whole);
    }

    #[test]
    fn a_replacement_in_progress_and_a_hole_are_understood() {
        let replacing = group("replacing", 70, 0, vec![leaf(2), leaf(9)]);
        let raidz = group("raidz", 50, 1, vec![leaf(1), replacing, leaf(3)]);
        assert!(matches!(
            health(1, &[(&raidz, &[1, 9, 3])]),
            Health::Degraded(_)
        ));
        assert!(matches!(
            health(1, &[(&raidz, &[1, 9])]),
            Health::Degraded(_)
        ));
        assert!(matches!(health(1, &[(&raidz, &[9])]), Health::Unusable(_)));
        let mut hole = leaf(0);
        hole.kind = "hole".to_owned();
        assert!(works(&hole, &BTreeSet::new()));
    }

    #[test]
    fn a_top_level_vdev_of_which_no_label_tells_is_left_to_zfs() {
        let single = leaf(7);
        let labels = [label(7, 9, 3, &single)];
        let tree = assemble(1, labels.iter()).expect("labels");
        assert_eq!(tree.health(), Health::Whole);
        let told = tree.unseen();
        assert!(told.contains("2 of its 3 top-level vdevs"), "{told}");
        for (tops, holes) in [(1, 0), (3, 2)] {
            let mut labels = [label(7, 9, tops, &single)];
            labels[0].holes = holes;
            let tree = assemble(1, labels.iter()).expect("labels");
            assert_eq!(tree.unseen(), "");
        }
    }

    #[test]
    fn an_old_label_of_a_disk_that_was_away_counts_less() {
        let old = group("mirror", 60, 0, vec![leaf(1), leaf(2)]);
        let new = group("mirror", 60, 0, vec![leaf(1), leaf(2), leaf(3)]);
        let mut labels = [
            label(2, 9, 1, &new),
            label(1, 4, 1, &old),
            label(3, 9, 1, &new),
        ];
        labels[1].pool_name = "before".to_owned();
        let tree = assemble(1, labels.iter()).expect("labels");
        assert_eq!((tree.name.as_str(), tree.health()), ("tank", Health::Whole));
        assert_eq!(assemble(2, labels.iter()), None);
    }
}
