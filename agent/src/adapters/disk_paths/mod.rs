//! Which disks this machine sees, over which paths, and which of them are the shared ones.
//!
//! ```text
//!   /sys/block ──scan──▶ paths ──by identity──▶ disks ──choose──▶ shared disks ──▶ RealFence
//!   /proc mounts, swaps ──boot──▶ disks of this machine alone ──────┘ refused
//! ```
//!
//! A disk is known by what it says of itself, never by its name under `/dev`. What isn't named in the configuration is
//! foreign: nothing here opens it. Nothing here opens any disk at all: sysfs has what the kernel read already.

mod boot;
mod scan;

use crate::adapters::identity::{Identity, IdentityError};
use crate::adapters::ports::Node;
use failover_core::ids::DiskId;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub use scan::scan;

/// Where the kernel's files are; tests have trees of their own.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Roots {
        Roots {
            sys: "/sys".into(),
            proc: "/proc".into(),
        }
    }
}

/// One path to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPath {
    /// Its device node.
    pub node: Node,
    /// What tells it from the disk's other paths: `host:channel:target:lun`, or `nvme0:1` (subsystem or controller,
    /// namespace).
    pub address: String,
}

/// A disk that this machine sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDisk {
    /// What it says of itself, the most telling first; never empty.
    pub identities: Vec<Identity>,
    /// Its paths, by address.
    pub paths: Vec<DiskPath>,
    /// Bytes; 0 where no path says.
    pub bytes: u64,
    /// Serial number, where it has one.
    pub serial: Option<String>,
    /// Two different disks show this identity, and why that is known.
    pub clash: Option<String>,
}

/// A disk of the configuration, with the paths that lead to it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDisk {
    /// Digest of the identity as the configuration writes it.
    pub id: DiskId,
    /// The identity.
    pub identity: Identity,
    /// Its paths; empty while it isn't there.
    pub paths: Vec<DiskPath>,
}

impl SharedDisk {
    /// Its paths for people: `sdb (2:0:0:0)`.
    pub fn path_names(&self) -> Vec<String> {
        let name = |path: &DiskPath| format!("{} ({})", path.node.name, path.address);
        self.paths.iter().map(name).collect()
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Disks.
    pub disks: Vec<FoundDisk>,
    /// SCSI and NVMe devices without an identity, and why.
    pub unidentified: Vec<(String, String)>,
    /// Device-mapper nodes by their names (`dm-3` and `mpatha`), with the disks beneath.
    pub mapped: BTreeMap<String, Vec<String>>,
    /// Disks of this machine alone: name and what it is used for.
    pub boot: BTreeMap<String, String>,
    /// What this machine runs from, and that couldn't be traced to disks.
    pub boot_unknown: Vec<String>,
}

/// Why a disk can't be used as a shared one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The entry is no identity.
    #[error("disks: {0}")]
    NotAnIdentity(IdentityError),
    /// The entry is a pattern: a disk that isn't there at start would be missing from the count of all disks.
    #[error("disks: {0:?} is a pattern; write out the identities that it stands for")]
    Pattern(String),
    /// The entry names a device-mapper node.
    #[error(
        "disks: {entry:?} is a device-mapper node, whose reservations undo all paths when one fails; name the disk \
         beneath it: {beneath}"
    )]
    DeviceMapper {
        /// As configured.
        entry: String,
        /// Identities of the disks beneath, or how to find them.
        beneath: String,
    },
    /// The disk is this machine's own.
    #[error(
        "disks: {entry:?} is {node}, which this machine uses for {used}: it is never reserved; take it off the list"
    )]
    Boot {
        /// As configured, or what a pattern matched.
        entry: String,
        /// Name of the device.
        node: String,
        /// What for.
        used: String,
    },
    /// Two entries are one disk.
    #[error("disks: {first:?} and {second:?} are the same disk; keep one of them")]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Two disks show the same identity.
    #[error(
        "disks: {entry:?} is shown by two different disks ({why}); a cloned or badly made enclosure: unplug one, or \
         have its identity set"
    )]
    Clash {
        /// As configured.
        entry: String,
        /// What differs.
        why: String,
    },
    /// What a pattern may match by mistake can't be excluded.
    #[error(
        "disks: {pattern:?}: this machine runs from {source_of}, whose disks can't be told, so a pattern could take \
         one of them; write out the identities"
    )]
    BootUnknown {
        /// The pattern.
        pattern: String,
        /// What couldn't be traced.
        source_of: String,
    },
}

impl Refusal {
    /// The entry of the configuration that it is about.
    pub fn entry(&self) -> &str {
        match self {
            Refusal::NotAnIdentity(
                IdentityError::DeviceName(entry) | IdentityError::Unknown(entry),
            )
            | Refusal::Pattern(entry)
            | Refusal::DeviceMapper { entry, .. }
            | Refusal::Boot { entry, .. }
            | Refusal::Twice { second: entry, .. }
            | Refusal::Clash { entry, .. }
            | Refusal::BootUnknown { pattern: entry, .. } => entry,
        }
    }

    /// What is wrong, and what to do about it.
    pub fn problem_and_remedy(&self) -> (String, String) {
        let text = self.to_string();
        let text = text.strip_prefix("disks: ").unwrap_or(&text);
        match text.split_once("; ") {
            Some((problem, remedy)) => (problem.to_owned(), remedy.to_owned()),
            None => (text.to_owned(), "correct the entry".to_owned()),
        }
    }
}

/// The configured disks as they are here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Each configured disk, also one that isn't there.
    pub disks: Vec<SharedDisk>,
    /// Entries without a disk here.
    pub missing: Vec<String>,
}

/// Finds the configured disks: `wanted` are identities as the configuration writes them.
///
/// # Errors
/// Every entry that can't be used, each with its remedy; one is enough to use none.
pub fn choose(inventory: &Inventory, wanted: &[String]) -> Result<Choice, Vec<Refusal>> {
    let mut choice = Choice::default();
    let mut refusals = Vec::new();
    let mut taken: BTreeMap<&Identity, &str> = BTreeMap::new();
    for entry in wanted {
        let (identity, found) = match find(inventory, entry) {
            Ok(found) => found,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        let mut paths = Vec::new();
        match found {
            None => choice.missing.push(entry.clone()),
            Some(disk) => {
                if let Some(first) = taken.insert(&disk.identities[0], entry) {
                    refusals.push(Refusal::Twice {
                        first: first.to_owned(),
                        second: entry.clone(),
                    });
                }
                refusals.extend(own_or_clashing(inventory, entry, disk));
                paths.clone_from(&disk.paths);
            }
        }
        choice.disks.push(SharedDisk {
            id: DiskId::of(entry),
            identity,
            paths,
        });
    }
    match refusals.is_empty() {
        true => Ok(choice),
        false => Err(refusals),
    }
}

fn find<'i>(
    inventory: &'i Inventory,
    entry: &str,
) -> Result<(Identity, Option<&'i FoundDisk>), Refusal> {
    let bare = entry.rsplit('/').next().unwrap_or(entry);
    if let Some(disks) = inventory.mapped.get(bare) {
        let shown = inventory
            .disks
            .iter()
            .filter(|disk| {
                disk.paths
                    .iter()
                    .any(|path| disks.contains(&path.node.name))
            })
            .map(|disk| disk.identities[0].to_string());
        let mut shown: Vec<String> = shown.collect();
        if shown.is_empty() {
            shown
                .push("see /sys/block/NAME/device/wwid of the devices in its slaves folder".into());
        }
        return Err(Refusal::DeviceMapper {
            entry: entry.to_owned(),
            beneath: shown.join(", "),
        });
    }
    if entry.contains(['*', '?']) {
        return Err(Refusal::Pattern(entry.to_owned()));
    }
    let identity = Identity::parse(entry).map_err(Refusal::NotAnIdentity)?;
    let mut disks = inventory.disks.iter();
    let found = disks.find(|disk| disk.identities.contains(&identity));
    Ok((identity, found))
}

fn own_or_clashing(inventory: &Inventory, entry: &str, disk: &FoundDisk) -> Vec<Refusal> {
    let own = disk.paths.iter().find_map(|path| {
        let used = inventory.boot.get(&path.node.name)?;
        Some(Refusal::Boot {
            entry: entry.to_owned(),
            node: path.node.name.clone(),
            used: used.clone(),
        })
    });
    let clash = disk.clash.as_ref().map(|why| Refusal::Clash {
        entry: entry.to_owned(),
        why: why.clone(),
    });
    own.into_iter().chain(clash).collect()
}

/// Identities of the disks that `pattern` matches (`*`: anything, `?`: one character): for whoever writes the
/// configuration, which names each disk.
///
/// # Errors
/// It matches a disk of this machine alone, or one that is shown twice; or which disks are its own isn't known.
pub fn matching(inventory: &Inventory, pattern: &str) -> Result<Vec<Identity>, Vec<Refusal>> {
    let mut refusals: Vec<Refusal> = inventory
        .boot_unknown
        .iter()
        .map(|source_of| Refusal::BootUnknown {
            pattern: pattern.to_owned(),
            source_of: source_of.clone(),
        })
        .collect();
    let mut found = Vec::new();
    for disk in &inventory.disks {
        let hit = |identity: &&Identity| matches(pattern.as_bytes(), identity.as_str().as_bytes());
        if let Some(identity) = disk.identities.iter().find(hit) {
            refusals.extend(own_or_clashing(inventory, identity.as_str(), disk));
            found.push(identity.clone());
        }
    }
    match refusals.is_empty() {
        true => Ok(found),
        false => Err(refusals),
    }
}

/// Whether `text` fits `pattern`. Takes at most length times length steps.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The last star takes one more character.
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        let cases = [
            ("naa.5000c5*", "naa.5000c500a1", true),
            ("*", "", true),
            ("naa.?000*d4", "naa.5000c5d4d4", true),
            ("naa.?000*d4", "naa.5000c5d4d5", false),
            ("naa", "naa.5", false),
            ("a*b*c", "aXbXbc", true),
            ("", "a", false),
        ];
        for (pattern, text, expected) in cases {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }
}
