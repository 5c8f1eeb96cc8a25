//! `[[pools]]`: the keys of each kind of pool, and their checks.

use super::{Check, canonical, raw};
use crate::adapters::assembly::Assembly;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// Most keys that a pool may name; each is loaded by a program of its own.
const KEYS_MAX: usize = 256;

/// A pool as the file has it: the keys of every kind, each checked against its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPool {
    pub(super) name: String,
    #[serde(default)]
    pub(super) kind: RawKind,
    #[serde(default)]
    pub(super) disks: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) units: Vec<String>,
    // kind = "mount"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mountpoint: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fstype: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) options: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) assemble: Option<RawAssemble>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) volume: Option<String>,
    // kind = "zfs"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_store: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) may_stay_locked: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) keys: Vec<KeyFile>,
}

/// Kinds of pools, as the file names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawKind {
    #[default]
    Mount,
    Zfs,
}

/// What a device is put together by, as the file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawAssemble {
    Lvm,
    MdRaid,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Its name, the same on both controllers.
    pub name: String,
    /// Shared disks that it lies on; none: all of them.
    pub disks: Vec<String>,
    /// Units of systemd that are started only where it is imported.
    pub units: Vec<String>,
    /// What it is.
    pub kind: PoolKind,
}

/// What a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// A filesystem on a block device.
    Mount(MountSettings),
    /// A pool of ZFS.
    Zfs(ZfsSettings),
}

/// A filesystem on a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSettings {
    /// Block device (or a file for a loop device).
    pub device: PathBuf,
    /// Folder it is mounted on.
    pub mountpoint: PathBuf,
    /// Type of the filesystem.
    pub fstype: String,
    /// Mount options.
    pub options: Vec<String>,
    /// What the device has to be put together from.
    pub assembly: Option<Assembly>,
}

/// A pool of ZFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZfsSettings {
    /// Its GUID; never 0.
    pub guid: u64,
    /// Folder with the key of each encryption root `a/b` in the file `a/b.key`.
    pub key_store: PathBuf,
    /// Keys in other files.
    pub keys: Vec<KeyFile>,
    /// Encryption roots without whose keys the pool serves all the same.
    pub may_stay_locked: Vec<String>,
}

/// The key of one encryption root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The encryption root.
    pub dataset: String,
    /// File with its key, in the form that its `keyformat` says.
    pub file: PathBuf,
}

/// Where keys are looked for that no entry names.
pub const KEY_STORE: &str = "/etc/failoverd/keys";

/// Whether `name` may be the name of a dataset: components of the characters that ZFS allows, none of them `.` or `..`.
fn is_dataset(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " -_.:".contains(c);
    name.len() <= 255
        && name
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.chars().all(allowed))
}

impl Check<'_> {
    /// Checks every pool; those that are right come back.
    pub(super) fn pools(&mut self, raw: &raw::RawConfig) -> Vec<PoolSettings> {
        self.bounded("pools", raw.pools.len(), super::POOLS_MAX);
        let mut pools: Vec<PoolSettings> = Vec::new();
        for (index, pool) in raw.pools.iter().enumerate() {
            let key = |name: &str| format!("pools[{index}].{name}");
            if pool.name.is_empty() || raw.pools[..index].iter().any(|p| p.name == pool.name) {
                let problem = format!("{:?} is empty or used twice", pool.name);
                self.refuse(&key("name"), problem, "give each pool a name of its own");
            }
            for (place, disk) in pool.disks.iter().enumerate() {
                let known = |text: &String| canonical(text) == canonical(disk);
                if !raw.disks.iter().any(known) {
                    let problem = format!("{disk:?} isn't one of the shared disks");
                    let key = key(&format!("disks[{place}]"));
                    self.refuse(&key, problem, "name it in `disks` too");
                }
            }
            self.bounded(&key("units"), pool.units.len(), super::HOOKS_MAX);
            self.keys_of_its_kind(index, pool);
            let kind = match pool.kind {
                RawKind::Mount => self.mount(index, pool, &pools).map(PoolKind::Mount),
                RawKind::Zfs => self.zfs(index, pool, &pools).map(PoolKind::Zfs),
            };
            pools.extend(kind.map(|kind| PoolSettings {
                name: pool.name.clone(),
                disks: pool.disks.iter().map(|text| canonical(text)).collect(),
                units: pool.units.clone(),
                kind,
            }));
        }
        pools
    }

    /// Refuses keys of another kind: they would be without effect.
    fn keys_of_its_kind(&mut self, index: usize, pool: &RawPool) {
        let given = [
            ("device", RawKind::Mount, pool.device.is_some()),
            ("mountpoint", RawKind::Mount, pool.mountpoint.is_some()),
            ("fstype", RawKind::Mount, pool.fstype.is_some()),
            ("options", RawKind::Mount, !pool.options.is_empty()),
            ("assemble", RawKind::Mount, pool.assemble.is_some()),
            ("volume", RawKind::Mount, pool.volume.is_some()),
            ("guid", RawKind::Zfs, pool.guid.is_some()),
            ("key_store", RawKind::Zfs, pool.key_store.is_some()),
            (
                "may_stay_locked",
                RawKind::Zfs,
                !pool.may_stay_locked.is_empty(),
            ),
            ("keys", RawKind::Zfs, !pool.keys.is_empty()),
        ];
        for (name, kind, is_given) in given {
            if is_given && kind != pool.kind {
                let (problem, remedy) = match kind {
                    RawKind::Mount => (
                        "is a key of a `mount` pool, and this one is of kind \"zfs\"",
                        "remove it: ZFS knows its mountpoints and options itself",
                    ),
                    RawKind::Zfs => (
                        "is a key of a `zfs` pool, and this one is of kind \"mount\"",
                        "remove it, or add kind = \"zfs\"",
                    ),
                };
                self.refuse(&format!("pools[{index}].{name}"), problem, remedy);
            }
        }
    }

    /// A key that its kind can't do without.
    fn needed<T: Clone>(&mut self, key: &str, value: &Option<T>, remedy: &str) -> Option<T> {
        if value.is_none() {
            self.refuse(key, "missing", remedy);
        }
        value.clone()
    }

    fn mount(
        &mut self,
        index: usize,
        pool: &RawPool,
        before: &[PoolSettings],
    ) -> Option<MountSettings> {
        let key = |name: &str| format!("pools[{index}].{name}");
        let device = self.needed(&key("device"), &pool.device, "name its block device");
        let mountpoint = self.needed(&key("mountpoint"), &pool.mountpoint, "name its folder");
        let fstype = "name the type of the filesystem, for example ext4 or xfs";
        let fstype = self.needed(&key("fstype"), &pool.fstype, fstype);
        let settings = MountSettings {
            device: device?,
            mountpoint: mountpoint?,
            fstype: fstype?,
            options: pool.options.clone(),
            assembly: self.assembly(index, pool, before),
        };
        let same = |other: &PoolSettings| match &other.kind {
            PoolKind::Mount(other) => {
                other.mountpoint == settings.mountpoint || other.device == settings.device
            }
            PoolKind::Zfs(_) => false,
        };
        if before.iter().any(same) {
            let problem = "device or mountpoint of another pool";
            self.refuse(&key("device"), problem, "give each pool its own");
        }
        self.absolute(&key("device"), &settings.device);
        self.absolute(&key("mountpoint"), &settings.mountpoint);
        if settings.fstype.is_empty() {
            let remedy = "name the type of the filesystem, for example ext4 or xfs";
            self.refuse(&key("fstype"), "empty", remedy);
        }
        Some(settings)
    }

    fn assembly(
        &mut self,
        index: usize,
        pool: &RawPool,
        before: &[PoolSettings],
    ) -> Option<Assembly> {
        let key = format!("pools[{index}].volume");
        let remedy = "name the volume group, or the array's UUID that `mdadm --detail` prints";
        let assemble = match (pool.assemble, &pool.volume) {
            (None, None) => return None,
            (None, Some(_)) => {
                let remedy = "add assemble = \"lvm\" or \"mdraid\", or remove it";
                self.refuse(&key, "has no effect without `assemble`", remedy);
                return None;
            }
            (Some(assemble), _) => assemble,
        };
        let volume = self.needed(&key, &pool.volume, remedy)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
        let (good, assembly) = match assemble {
            RawAssemble::Lvm => (
                volume.len() <= 127
                    && volume.chars().all(plain)
                    && !volume.starts_with('-')
                    && !matches!(volume.as_str(), "" | "." | ".."),
                Assembly::Lvm(volume.clone()),
            ),
            RawAssemble::MdRaid => {
                let parts: Vec<&str> = volume.split(':').collect();
                let hex =
                    |part: &&str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
                let good = parts.len() == 4 && parts.iter().all(hex);
                (good, Assembly::MdRaid(volume.clone()))
            }
        };
        if !good {
            self.refuse(
                &key,
                format!("{volume:?} can't be that of a volume"),
                remedy,
            );
        }
        let same = |other: &PoolSettings| match &other.kind {
            PoolKind::Mount(mount) => mount.assembly.as_ref() == Some(&assembly),
            PoolKind::Zfs(_) => false,
        };
        if before.iter().any(same) {
            let problem =
                format!("{volume} is the volume of another pool, which takes it apart as a whole");
            self.refuse(
                &key,
                problem,
                "give each pool a volume group or array of its own",
            );
        }
        Some(assembly)
    }

    fn zfs(
        &mut self,
        index: usize,
        pool: &RawPool,
        before: &[PoolSettings],
    ) -> Option<ZfsSettings> {
        let key = |name: &str| format!("pools[{index}].{name}");
        let starts_right = pool.name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_dataset(&pool.name) || pool.name.contains('/') || !starts_right {
            let problem = format!("{:?} can't be the name of a ZFS pool", pool.name);
            self.refuse(
                &key("name"),
                problem,
                "use the name that `zpool list` shows",
            );
        }
        let remedy = "write the number that `zpool get -H -o value guid NAME` prints";
        let text = self.needed(&key("guid"), &pool.guid, remedy)?;
        let guid = match text.parse::<u64>() {
            Ok(guid) if guid != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => guid,
            _ => {
                let problem = format!("{text:?} can't be the GUID of a pool");
                self.refuse(&key("guid"), problem, remedy);
                return None;
            }
        };
        let same = |other: &PoolSettings| matches!(&other.kind, PoolKind::Zfs(z) if z.guid == guid);
        if before.iter().any(same) {
            let problem = format!("{guid} is the GUID of another pool here");
            self.refuse(&key("guid"), problem, "name each pool once");
        }
        self.bounded(&key("keys"), pool.keys.len(), KEYS_MAX);
        self.bounded(
            &key("may_stay_locked"),
            pool.may_stay_locked.len(),
            KEYS_MAX,
        );
        let key_store = pool.key_store.clone().unwrap_or_else(|| KEY_STORE.into());
        self.plain_path(&key("key_store"), &key_store);
        for (place, one) in pool.keys.iter().enumerate() {
            let key = |name: &str| format!("pools[{index}].keys[{place}].{name}");
            self.dataset_of(&key("dataset"), &one.dataset, &pool.name);
            self.plain_path(&key("file"), &one.file);
            let twice = |other: &KeyFile| other.dataset == one.dataset;
            if pool.keys[..place].iter().any(twice) {
                let problem = format!("{:?} has a key already", one.dataset);
                self.refuse(&key("dataset"), problem, "name each encryption root once");
            }
        }
        for (place, dataset) in pool.may_stay_locked.iter().enumerate() {
            self.dataset_of(
                &key(&format!("may_stay_locked[{place}]")),
                dataset,
                &pool.name,
            );
        }
        Some(ZfsSettings {
            guid,
            key_store,
            keys: pool.keys.clone(),
            may_stay_locked: pool.may_stay_locked.clone(),
        })
    }

    fn dataset_of(&mut self, key: &str, dataset: &str, pool: &str) {
        let root = dataset.split('/').next().unwrap_or("");
        if !is_dataset(dataset) || root != pool {
            let problem = format!("{dataset:?} is no dataset of pool {pool}");
            self.refuse(key, problem, "write its whole name, such as tank/private");
        }
    }

    /// Absolute, and without `..`: the tools get it as a part of a longer text.
    fn plain_path(&mut self, key: &str, path: &Path) {
        self.absolute(key, path);
        let up = |part: Component<'_>| part == Component::ParentDir;
        if path.components().any(up) || path.to_str().is_none_or(|text| text.contains('\n')) {
            let problem = format!("{} is no plain path", path.display());
            self.refuse(key, problem, "write it without `..` and line breaks");
        }
    }
}
