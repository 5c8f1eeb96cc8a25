//! The label of a disk of a pool: who it is, what the pool looks like, and whether it waits for other hosts.
//!
//! ```text
//!   256 KiB = 16 KiB (unused, boot) · 112 KiB name-value list · 128 KiB ring of uberblocks
//! ```
//!
//! The first two labels are the first 512 KiB of the device. Format: OpenZFS, `vdev_label.c` and `uberblock_impl.h`.

use crate::adapters::nvlist::{self, List, NvlistError};
use std::time::Duration;

/// Bytes of one label.
pub(crate) const LABEL_LEN: usize = 256 << 10;
const LIST_AT: usize = 16 << 10;
const RING_AT: usize = 128 << 10;
const UBERBLOCK_MAGIC: u64 = 0x00ba_b10c;
const MMP_MAGIC: u64 = 0xa11c_ea11;
/// Smallest and largest slot of the ring, as powers of 2.
const SLOTS: std::ops::RangeInclusive<u32> = 10..=13;
/// Children of a vdev, and vdevs of a pool, that are believed.
const VDEVS_MAX: usize = 8192;

/// State of the pool as its label has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LabelState {
    /// In use, or not exported by who used it last.
    Active,
    /// Exported.
    Exported,
    /// Destroyed.
    Destroyed,
    /// A spare, or a cache: it belongs to a pool, but doesn't say to which.
    Auxiliary,
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) state: LabelState,
    /// 0 for a spare or cache.
    pub(crate) pool_guid: u64,
    pub(crate) pool_name: String,
    /// Transaction group in which it was written.
    pub(crate) txg: u64,
    /// The device itself.
    pub(crate) guid: u64,
    /// Number of the pool's top-level vdevs.
    pub(crate) tops: u64,
    /// How many of them are holes: what a log device leaves that was removed.
    pub(crate) holes: u64,
    /// Host that used it last, where it says.
    pub(crate) host: Option<(u64, String)>,
    /// The top-level vdev that the device is in; none for a spare or cache.
    pub(crate) top: Option<Vdev>,
    /// Size of a slot of the ring, as a power of 2.
    pub(crate) shift: u32,
    /// The newest uberblock, once the ring was read.
    pub(crate) uberblock: Option<Uberblock>,
    /// Its name-value list, packed.
    pub(crate) list: Vec<u8>,
}

/// A vdev.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vdev {
    /// `disk`, `file`, `mirror`, `raidz`, `draid`, `replacing`, `spare`, `hole`, …
    pub(crate) kind: String,
    pub(crate) guid: u64,
    /// Place among its siblings.
    pub(crate) id: u64,
    /// Of raidz and draid.
    pub(crate) parity: u64,
    pub(crate) is_log: bool,
    /// Where the device was, for whoever looks for it.
    pub(crate) path: Option<String>,
    pub(crate) children: Vec<Vdev>,
}

/// What counts here of an uberblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uberblock {
    pub(crate) txg: u64,
    timestamp: u64,
    /// 0 while `multihost` is off.
    mmp_delay_ns: u64,
    mmp_config: u64,
}

impl Uberblock {
    /// Whether `multihost` was on when it was written.
    pub(crate) fn is_multihost(&self) -> bool {
        self.mmp_delay_ns != 0
    }

    /// The longest that an import waits for other hosts' writes, then for its own claim; none while `multihost` is off.
    ///
    /// Twice the time after which the owner would suspend the pool, and up to a quarter more by chance; then ten
    /// intervals for the claim (OpenZFS 2.4, `spa_activity_check_duration`, `spa_activity_check_claim`).
    pub(crate) fn longest_check(&self) -> Option<Duration> {
        if !self.is_multihost() {
            return None;
        }
        let interval_ms = match self.mmp_config & 1 {
            0 => 1000,
            _ => self.mmp_config >> 8 & 0xff_ffff,
        };
        let fails = match self.mmp_config & 4 {
            0 => 0,
            _ => self.mmp_config >> 48,
        };
        let wait_ms = match fails {
            // The owner never suspends: the tunable zfs_multihost_import_intervals, 20 by default, decides.
            0 => 20 * (interval_ms + self.mmp_delay_ns / 1_000_000).max(50),
            fails => 2 * fails * interval_ms,
        };
        Some(Duration::from_millis(wait_ms * 5 / 4 + 10 * interval_ms))
    }
}

/// Where the name-value list and the ring of the label number `number` (0 or 1) are on a device, and their lengths.
pub(crate) fn places(number: u64) -> ((u64, usize), (u64, usize)) {
    let start = number * LABEL_LEN as u64;
    (
        (start + LIST_AT as u64, RING_AT - LIST_AT),
        (start + RING_AT as u64, LABEL_LEN - RING_AT),
    )
}

/// Reads the name-value list of a label. `Ok(None)` where there is no valid one, or one of another age.
///
/// # Errors
/// It goes on beyond `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Label>, Cut> {
    match nvlist::decode_start(bytes) {
        Ok((list, length)) => Ok(of(&list).map(|label| Label {
            list: bytes[..length].to_vec(),
            ..label
        })),
        Err(NvlistError::Short(_)) => Err(Cut),
        Err(_) => Ok(None),
    }
}

/// The name-value list of a device of the same pool and top-level vdev that has the GUID `guid`; `None` where `bytes` are
/// no list of a device.
pub(crate) fn of_sibling(bytes: &[u8], guid: u64) -> Option<Vec<u8>> {
    nvlist::with_number(bytes, "guid", guid).ok().flatten()
}

/// The bytes end in the middle of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

fn of(list: &List) -> Option<Label> {
    let guid = list.number("guid").filter(|guid| *guid != 0)?;
    let state = match list.number("state")? {
        0 => LabelState::Active,
        1 => LabelState::Exported,
        2 => LabelState::Destroyed,
        3 | 4 => LabelState::Auxiliary,
        _ => return None,
    };
    let mut label = Label {
        state,
        pool_guid: 0,
        pool_name: String::new(),
        txg: 0,
        guid,
        tops: 0,
        holes: 0,
        host: None,
        top: None,
        shift: 0,
        uberblock: None,
        list: Vec::new(),
    };
    if state == LabelState::Auxiliary {
        return Some(label);
    }
    // A device that was just added has no transaction group yet: not a part of the pool.
    label.txg = list.number("txg").filter(|txg| *txg != 0)?;
    label.pool_guid = list.number("pool_guid")?;
    label.pool_name = list.text("name")?.to_owned();
    label.tops = list.number("vdev_children").unwrap_or(1);
    label.holes = list.numbers("hole_array").len() as u64;
    let host = list.number("hostid");
    label.host = host.map(|id| (id, list.text("hostname").unwrap_or("?").to_owned()));
    let tree = list.list("vdev_tree")?;
    let mut left = VDEVS_MAX;
    label.top = Some(vdev(tree, &mut left)?);
    let shift = tree
        .number("ashift")
        .and_then(|shift| u32::try_from(shift).ok());
    label.shift = shift.unwrap_or(0).clamp(*SLOTS.start(), *SLOTS.end());
    Some(label)
}

fn vdev(list: &List, left: &mut usize) -> Option<Vdev> {
    *left = left.checked_sub(1)?;
    let mut children = Vec::new();
    for child in list.lists("children") {
        children.push(vdev(child, left)?);
    }
    Some(Vdev {
        kind: list.text("type")?.to_owned(),
        guid: list.number("guid")?,
        id: list.number("id").unwrap_or(0),
        parity: list.number("nparity").unwrap_or(0),
        is_log: list.number("is_log") == Some(1),
        path: list.text("path").map(str::to_owned),
        children,
    })
}

impl Label {
    /// Takes the newest uberblock from the ring of the same label.
    pub(crate) fn take_ring(&mut self, ring: &[u8]) {
        let slot = 1 << self.shift.clamp(*SLOTS.start(), *SLOTS.end());
        self.uberblock = ring.chunks(slot).filter_map(uberblock).max();
    }
}

/// Fields are 64 bits each, in the byte order of who wrote them; 128 bytes of them are a block pointer.
fn uberblock(slot: &[u8]) -> Option<Uberblock> {
    let word = |number: usize| {
        let bytes = slot.get(number * 8..number * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let swapped = match word(0)? {
        UBERBLOCK_MAGIC => false,
        magic if magic.swap_bytes() == UBERBLOCK_MAGIC => true,
        _ => return None,
    };
    let word = |number| word(number).map(|word| if swapped { word.swap_bytes() } else { word });
    let is_mmp = word(22)? == MMP_MAGIC;
    Some(Uberblock {
        txg: word(2)?,
        timestamp: word(4)?,
        mmp_delay_ns: if is_mmp { word(23)? } else { 0 },
        mmp_config: if is_mmp { word(24)? } else { 0 },
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::adapters::nvlist::{Value, write};
    use std::collections::BTreeMap;

    /// A list of pairs.
    pub(crate) fn list<const N: usize>(pairs: [(&str, Value); N]) -> List {
        List(BTreeMap::from(
            pairs.map(|(name, value)| (name.to_owned(), value)),
        ))
    }

    pub(crate) fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// A label with its uberblock: `mmp` is its delay and configuration.
    pub(crate) fn encode(list: &List, txg: u64, mmp: Option<(u64, u64)>) -> Vec<u8> {
        let mut bytes = vec![0; LABEL_LEN];
        let packed = write::encode(list);
        bytes[LIST_AT..LIST_AT + packed.len()].copy_from_slice(&packed);
        for (slot, txg) in [(1, txg), (2, txg - 1)] {
            let at = RING_AT + slot * 4096;
            let (delay, config) = mmp.unwrap_or((0, 0));
            let words = [
                (0, UBERBLOCK_MAGIC),
                (2, txg),
                (4, 1000),
                (22, MMP_MAGIC),
                (23, delay),
                (24, config),
            ];
            for (number, word) in words {
                bytes[at + number * 8..at + number * 8 + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads all of a label, as it is on a device.
    pub(crate) fn whole(bytes: &[u8]) -> Option<Label> {
        let mut label = read(&bytes[LIST_AT..RING_AT]).ok().flatten()?;
        label.take_ring(&bytes[RING_AT..LABEL_LEN]);
        Some(label)
    }

    fn sample() -> List {
        let leaf = |guid: u64| {
            list([
                ("type", text("disk")),
                ("guid", Value::Number(guid)),
                ("path", text("/dev/sda1")),
            ])
        };
        let tree = list([
            ("type", text("raidz")),
            ("guid", Value::Number(50)),
            ("nparity", Value::Number(2)),
            ("ashift", Value::Number(12)),
            ("children", Value::Lists(vec![leaf(7), leaf(8)])),
        ]);
        list([
            ("name", text("tank")),
            ("state", Value::Number(0)),
            ("txg", Value::Number(90)),
            ("pool_guid", Value::Number(4711)),
            ("guid", Value::Number(7)),
            ("vdev_children", Value::Number(1)),
            ("hostid", Value::Number(0xa)),
            ("hostname", text("a")),
            ("vdev_tree", Value::List(tree)),
        ])
    }

    /// Interval 1 s, 10 failures: the defaults.
    const DEFAULTS: u64 = 10 << 48 | 1000 << 8 | 7;

    #[test]
    fn a_label_is_read() {
        let bytes = encode(&sample(), 91, None);
        let label = whole(&bytes).expect("a label");
        assert_eq!(
            (label.pool_guid, label.pool_name.as_str(), label.guid),
            (4711, "tank", 7)
        );
        assert_eq!(label.host, Some((0xa, "a".to_owned())));
        let top = label.top.clone().expect("a tree");
        assert_eq!(
            (top.kind.as_str(), top.parity, top.children.len()),
            ("raidz", 2, 2)
        );
        assert_eq!(label.uberblock.map(|block| block.txg), Some(91));
        assert!(!label.uberblock.expect("one").is_multihost());
        assert_eq!(read(&[0; 1000]), Ok(None));
        assert_eq!(read(&bytes[LIST_AT..LIST_AT + 300]), Err(Cut));
        assert_eq!(places(1), ((272 << 10, 112 << 10), (384 << 10, 128 << 10)));
    }

    #[test]
    fn the_wait_for_other_hosts_is_told() {
        let check = |mmp| {
            let label = whole(&encode(&sample(), 91, Some(mmp))).expect("a label");
            label.uberblock.expect("one").longest_check()
        };
        assert_eq!(check((0, DEFAULTS)), None);
        assert_eq!(check((1, DEFAULTS)), Some(Duration::from_secs(35)));
        let quick = 10 << 48 | 100 << 8 | 7;
        assert_eq!(check((1, quick)), Some(Duration::from_millis(3500)));
        // An owner that never suspends.
        assert_eq!(
            check((1_000_000, 1000 << 8 | 7)),
            Some(Duration::from_millis(35_025))
        );
        // Every value that the 64 bits can have has an answer.
        for config in [u64::MAX, 1 << 63, 5, 0] {
            let _ = check((u64::MAX, config));
        }
    }

    /// From a raidz2 of eight, OpenZFS 2.4.4, `multihost` off.
    #[test]
    fn a_captured_label_is_read() {
        let list = include_bytes!("captured/2.4/label.bin");
        let mut label = read(list).expect("whole").expect("a label");
        assert_eq!(
            (label.pool_guid, label.pool_name.as_str()),
            (8890991074401163934, "tank")
        );
        assert_eq!((label.state, label.tops), (LabelState::Active, 1));
        let top = label.top.as_ref().expect("a tree");
        assert_eq!(
            (top.kind.as_str(), top.parity, top.children.len()),
            ("raidz", 2, 8)
        );
        assert!(top.children.iter().any(|child| child.guid == label.guid));
        let path = top.children[3].path.as_deref();
        assert_eq!(
            path,
            Some("/dev/disk/by-id/wwn-0x60014051ab0000000000000000000003-part1")
        );
        let sibling = of_sibling(list, 17).expect("a number");
        assert_eq!(sibling.len(), label.list.len(), "what follows is left away");
        let sibling = read(&sibling).expect("whole").expect("a label");
        assert_eq!((sibling.guid, &sibling.top), (17, &label.top));
        assert_eq!(sibling.pool_guid, label.pool_guid);
        label.take_ring(include_bytes!("captured/2.4/uberblock.bin"));
        assert_eq!(label.uberblock.expect("one").longest_check(), None);
        for length in 0..list.len() - 60 {
            assert_eq!(read(&list[..length]), Err(Cut), "{length}");
        }
        for place in 0..list.len() {
            let mut changed = list.to_vec();
            changed[place] ^= 0x55;
            let _ = read(&changed);
        }
    }

    #[test]
    fn spares_say_no_pool_and_changed_labels_never_panic() {
        let spare = list([("state", Value::Number(3)), ("guid", Value::Number(9))]);
        let label = whole(&encode(&spare, 5, None)).expect("a label");
        assert_eq!((label.state, label.top), (LabelState::Auxiliary, None));
        let whole = encode(&sample(), 91, Some((1, DEFAULTS)));
        let used = (LIST_AT..LIST_AT + 1200).chain(RING_AT + 4096..RING_AT + 4300);
        for place in used.step_by(3) {
            let mut changed = whole.clone();
            changed[place] ^= 0xff;
            let _ = self::whole(&changed);
        }
    }
}
