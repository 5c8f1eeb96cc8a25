//! The disks that this machine runs from: those beneath its own file systems and its swap.

use super::scan::{number, slaves, text};
use super::{Inventory, Roots};
use crate::adapters::mounts::{self, Mount};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// What the system itself lives in. `/boot` with everything under it.
const OWN: [&str; 4] = ["/", "/usr", "/var", "/efi"];
/// Volumes on volumes on volumes.
const DEPTH_MAX: usize = 16;
/// File systems that need no disk of this machine.
const DISKLESS: [&str; 9] = [
    "tmpfs", "ramfs", "rootfs", "nfs", "nfs4", "9p", "virtiofs", "devtmpfs", "ceph",
];

/// Whole devices by the names of themselves and their partitions, and by device number.
struct Devices<'r> {
    roots: &'r Roots,
    whole: BTreeMap<String, String>,
    numbers: BTreeMap<(u32, u32), String>,
}

/// Notes the disks that `inventory` must not be asked for.
///
/// # Errors
/// The mounts can't be read.
pub(super) fn note(roots: &Roots, names: &[String], inventory: &mut Inventory) -> io::Result<()> {
    let devices = Devices::read(roots, names);
    let mounts = fs::read_to_string(roots.proc.join("self/mountinfo"))?;
    let mounts = mounts::parse(&mounts);
    for mount in &mounts {
        let shown = mount.mountpoint.to_string_lossy();
        if OWN.contains(&&*shown) || mount.mountpoint.starts_with("/boot") {
            devices.note_mount(mount, &shown, inventory);
        }
    }
    // A kernel without swap has no such file.
    let swaps = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    for line in swaps.lines().skip(1) {
        let mut words = line.split_whitespace();
        let (Some(file), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        match kind {
            "partition" => devices.note_source(Path::new(file), "swap", inventory),
            _ => {
                let covering = mounts
                    .iter()
                    .filter(|mount| Path::new(file).starts_with(&mount.mountpoint))
                    .max_by_key(|mount| mount.mountpoint.as_os_str().len());
                match covering {
                    Some(mount) => devices.note_mount(mount, "swap", inventory),
                    None => inventory.boot_unknown.push(format!("swap file {file}")),
                }
            }
        }
    }
    Ok(())
}

impl<'r> Devices<'r> {
    fn read(roots: &'r Roots, names: &[String]) -> Devices<'r> {
        let mut devices = Devices {
            roots,
            whole: BTreeMap::new(),
            numbers: BTreeMap::new(),
        };
        for name in names {
            let place = roots.sys.join("block").join(name);
            devices.add(name, name, &place);
            if let Some(alias) = text(&place.join("dm/name")) {
                devices.whole.insert(alias, name.clone());
            }
            let Ok(entries) = fs::read_dir(&place) else {
                continue;
            };
            for entry in entries.flatten() {
                let place = entry.path();
                if place.join("partition").exists()
                    && let Ok(partition) = entry.file_name().into_string()
                {
                    devices.add(&partition, name, &place);
                }
            }
        }
        devices
    }

    fn add(&mut self, name: &str, whole: &str, place: &Path) {
        self.whole.insert(name.to_owned(), whole.to_owned());
        if let Some(number) = number(&place.join("dev")) {
            self.numbers.insert(number, whole.to_owned());
        }
    }

    fn note_mount(&self, mount: &Mount, used: &str, inventory: &mut Inventory) {
        let number = mount
            .device
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        if let Some(whole) = number.and_then(|number| self.numbers.get(&number)) {
            return self.note_disks(whole, used, inventory);
        }
        if DISKLESS.contains(&mount.fstype.as_str()) {
            return;
        }
        // btrfs and others show a number of their own, but name a device.
        if mount.source.is_absolute() {
            return self.note_source(&mount.source, used, inventory);
        }
        let (fstype, source) = (&mount.fstype, mount.source.display());
        inventory
            .boot_unknown
            .push(format!("{fstype} {source} ({used})"));
    }

    fn note_source(&self, source: &Path, used: &str, inventory: &mut Inventory) {
        let name = source.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| self.whole.get(name)) {
            Some(whole) => self.note_disks(whole, used, inventory),
            None => inventory
                .boot_unknown
                .push(format!("{} ({used})", source.display())),
        }
    }

    /// Follows a volume down to the disks beneath.
    fn note_disks(&self, whole: &str, used: &str, inventory: &mut Inventory) {
        let mut level = BTreeSet::from([whole.to_owned()]);
        for _ in 0..DEPTH_MAX {
            let mut below = BTreeSet::new();
            for name in &level {
                inventory
                    .boot
                    .entry(name.clone())
                    .or_insert_with(|| used.to_owned());
                let place = self.roots.sys.join("block").join(name);
                let parts = slaves(&place);
                below.extend(
                    parts
                        .iter()
                        .filter_map(|part| self.whole.get(part))
                        .cloned(),
                );
            }
            if below.is_empty() {
                return;
            }
            level = below;
        }
        inventory.boot_unknown.push(format!(
            "{whole} ({used}), more than {DEPTH_MAX} volumes deep"
        ));
    }
}
