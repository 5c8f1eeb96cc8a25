//! Devices that an import must not open, though this machine sees them.
//!
//! The kernel opens every device of a pool, by the path in the configuration that `zpool import` makes from the labels. A
//! device that was found has the path at which it was found; every other one keeps the recorded path, and that leads to
//! the disk that wasn't won: it would be read and written beside its owner, or hold up the import if it hangs.
//!
//! ```text
//!   missing device, its recorded path leads to something here
//!       └──▶ runtime_dir/withheld/POOL/DEVICE: a file with the label of a sibling and its own GUID
//!                └──▶ `zpool import -d` finds the device there; the kernel refuses to open a file as a disk, at once
//! ```
//!
//! The file stays while the pool is imported, since it is the device's path in the pool now. The next import writes the
//! path at which the device is found then. What this machine doesn't see keeps its recorded path: it can't be opened,
//! and comes back by that path.

use super::devices::{Found, Survey};
use super::label;
use super::tree::{Missing, Tree};
use super::{Member, ZfsPools};
use failover_core::adapters::Failure;
use failover_core::ids::DiskId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The smallest file in which `zpool import` looks for a label (64 MiB, `SPA_MINDEVSIZE`). It is sparse.
const FILE_LEN: u64 = 64 << 20;

impl ZfsPools {
    /// Makes the files for the devices of `tree` that weren't found and must not be opened; where they are.
    ///
    /// # Errors
    /// One can't be made: then the pool must not be imported.
    pub(super) fn withhold(
        &self,
        one: &Member,
        survey: &Survey,
        tree: &Tree,
    ) -> Result<Vec<PathBuf>, Failure> {
        let missing = tree.missing();
        let is_read = |device: &&Missing| survey.read.contains(&resolved(device));
        let present: Vec<&Missing> = missing
            .iter()
            .filter(|device| is_here(device) && !is_read(device))
            .collect();
        if present.is_empty() {
            return Ok(Vec::new());
        }
        let folder = self.places.withheld.join(one.pool.guid.to_string());
        let failed = |what: &Path, why: &str| {
            one.say(&format!(
                "not imported: a device of a disk that wasn't won must be kept from it, and {}: {why}",
                what.display()
            ))
        };
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&folder, &error.to_string()));
            }
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error.to_string()))?;
        let mut files = Vec::new();
        for device in present {
            let file = folder.join(device.guid.to_string());
            let list = sibling(&survey.found, device)
                .and_then(|list| label::of_sibling(list, device.guid))
                .ok_or_else(|| failed(&file, "no label to make it from"))?;
            write(&file, &list).map_err(|error| failed(&file, &error.to_string()))?;
            // Where it was withheld before, its recorded path is such a file.
            let recorded = device.path.as_deref().unwrap_or_default();
            let path = match Path::new(recorded).starts_with(&self.places.withheld) {
                true => "/dev/disk/by-id/NAME",
                false => recorded,
            };
            tracing::warn!(
                "pool {}: imported without {device}, which this machine sees but doesn't hold; once it does, the next \
                 import takes it in, or at once: `ln -sfn {path} {} && zpool online {} {}`",
                one.pool.name,
                file.display(),
                one.pool.name,
                device.guid,
            );
            files.push(file);
        }
        Ok(files)
    }

    /// Refuses a pool of which a whole top-level vdev may lie on disks that weren't won. No label tells of it then, but
    /// the pool itself does, and the kernel would open it by the recorded paths. Vdevs that were removed look the same;
    /// once all labels were seen together it is known how many those are.
    pub(super) fn no_top_is_withheld(
        &self,
        one: &Member,
        tree: &Tree,
        survey: &Survey,
        lost: &[String],
    ) -> Result<(), Failure> {
        if lost.is_empty() && survey.is_complete() {
            one.note_tops(tree);
        }
        if tree.unseen().is_empty() || one.has_all_tops(tree) {
            return Ok(());
        }
        let mut kept = self.devices.seen(lost);
        kept.extend(survey.silent.iter().cloned());
        match kept.is_empty() {
            true => Ok(()),
            false => Err(one.say(&format!(
                "not imported: a part of it that it can't do without may lie on disks that aren't given to it: {}{}",
                kept.join(", "),
                tree.unseen()
            ))),
        }
    }
}

impl Member {
    /// Notes the top-level vdevs of a pool all of whose disks were read.
    pub(super) fn note_tops(&self, tree: &Tree) {
        *self.lock_tops() = Some(tree.tops());
    }

    /// Whether the labels tell of all top-level vdevs that the labels of all disks told of.
    fn has_all_tops(&self, tree: &Tree) -> bool {
        self.lock_tops().as_ref() == Some(&tree.tops())
    }
}

/// Whether its recorded path leads anywhere; where that can't be told, it does.
fn is_here(device: &Missing) -> bool {
    let path = device.path.as_deref().filter(|_| device.is_disk);
    path.is_some_and(|path| !matches!(fs::exists(path), Ok(false)))
}

/// Where its recorded path leads to. What lies on a disk that was won and read, and has no label that we understand, is
/// left to ZFS.
fn resolved(device: &Missing) -> PathBuf {
    let path = Path::new(device.path.as_deref().unwrap_or_default());
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The newest label of the same top-level vdev: `zpool import` takes the newest, and this must be none that it doesn't
/// have already.
fn sibling<'f>(found: &'f [Found], device: &Missing) -> Option<&'f [u8]> {
    let labels = found.iter().map(|found| &found.label);
    let same = labels.filter(|label| {
        label
            .top
            .as_ref()
            .is_some_and(|top| top.guid == device.top_guid)
    });
    let newest = same.max_by_key(|label| label.txg)?;
    Some(&newest.list)
}

/// A file with the first label of a device. Its checksum is left away: the kernel would take it for no device.
fn write(path: &Path, list: &[u8]) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(FILE_LEN)?;
    file.write_all_at(list, label::places(0).0.0)
}

/// Disks of the pool that were won, and the others.
pub(super) fn divide(disks: &[String], won: &[DiskId]) -> (Vec<String>, Vec<String>) {
    let all = disks.iter().cloned();
    all.partition(|disk| won.contains(&DiskId::of(disk)))
}
