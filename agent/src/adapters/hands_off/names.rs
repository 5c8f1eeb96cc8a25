//! Every name under which the system could find a shared disk, one of its partitions, or a volume on it.

use crate::adapters::disk_paths::{Roots, SharedDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Volumes on volumes on volumes.
const DEPTH_MAX: usize = 16;
/// Partitions and volumes that are followed.
const DEVICES_MAX: usize = 65_536;

/// A device that carries a part of an array or a volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name, `sda1`.
    pub(super) name: String,
    /// UUID of the array (mdadm) or of the physical volume (LVM).
    pub(super) uuid: String,
    /// Name of the array, where udev knows it.
    pub(super) array: Option<String>,
}

/// All names.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Below /dev: `sda1`, `mapper/mpatha`, `disk/by-id/wwn-0x…`; with the kernel's name.
    nodes: BTreeMap<String, String>,
    /// `UUID=…`, `LABEL=…`, `PARTUUID=…`, `PARTLABEL=…` in small letters; with the kernel's name.
    tags: BTreeMap<String, String>,
    pub(super) md: Vec<Member>,
    pub(super) lvm: Vec<Member>,
}

impl Names {
    pub(super) fn of(disks: &[SharedDisk], roots: &Roots, files: &Path) -> Names {
        let mut names = Names::default();
        let mut level: BTreeSet<String> = disks
            .iter()
            .flat_map(|disk| &disk.paths)
            .map(|path| path.node.name.clone())
            .collect();
        let mut seen = BTreeSet::new();
        for _ in 0..DEPTH_MAX {
            let mut above = BTreeSet::new();
            for name in &level {
                let place = roots.sys.join("block").join(name);
                names.add(name, &place, files);
                above.extend(below(&place.join("holders")));
                for part in below(&place) {
                    let place = place.join(&part);
                    if place.join("partition").exists() {
                        names.add(&part, &place, files);
                        above.extend(below(&place.join("holders")));
                    }
                }
            }
            seen.append(&mut level);
            level = above
                .into_iter()
                .filter(|name| !seen.contains(name))
                .collect();
            if level.is_empty() || seen.len() > DEVICES_MAX {
                break;
            }
        }
        names
    }

    fn add(&mut self, name: &str, place: &Path, files: &Path) {
        let mut node = |below_dev: String| {
            self.nodes.insert(below_dev, name.to_owned());
        };
        node(name.to_owned());
        let read = |path: &str| fs::read_to_string(place.join(path)).unwrap_or_default();
        let alias = read("dm/name");
        if !alias.trim().is_empty() {
            node(format!("mapper/{}", alias.trim()));
        }
        let number = read("dev");
        // What udev found out when the disk appeared: nothing here opens it (man udev, "/run/udev/data").
        let database = files
            .join("run/udev/data")
            .join(format!("b{}", number.trim()));
        let database = fs::read_to_string(database).unwrap_or_default();
        let mut properties = BTreeMap::new();
        for line in database.lines() {
            match line.split_at_checked(2) {
                Some(("S:", link)) => node(link.to_owned()),
                Some(("E:", property)) => properties.extend(property.split_once('=')),
                _ => {}
            }
        }
        let tags = [
            ("uuid", "ID_FS_UUID"),
            ("label", "ID_FS_LABEL"),
            ("partuuid", "ID_PART_ENTRY_UUID"),
            ("partlabel", "ID_PART_ENTRY_NAME"),
        ];
        for (tag, property) in tags {
            if let Some(value) = properties.get(property) {
                let tag = format!("{tag}={}", unescape(value, "\\x", 16).to_lowercase());
                self.tags.insert(tag, name.to_owned());
            }
        }
        let member = || Member {
            name: name.to_owned(),
            uuid: (*properties.get("ID_FS_UUID").unwrap_or(&"")).to_owned(),
            array: properties.get("MD_NAME").map(|name| (*name).to_owned()),
        };
        match properties.get("ID_FS_TYPE") {
            Some(&"linux_raid_member") => self.md.push(member()),
            Some(&"LVM2_member") => self.lvm.push(member()),
            _ => {}
        }
    }

    /// The kernel's name of the shared device that a path means: `/dev/disk/by-id/…`, `/dev/sda1`.
    pub(super) fn node(&self, path: &str) -> Option<&str> {
        let below_dev = path.strip_prefix("/dev/")?;
        self.nodes.get(below_dev).map(String::as_str)
    }

    /// That of what an fstab line begins with: a path or a tag (`man fstab`).
    pub(super) fn spec(&self, spec: &str) -> Option<&str> {
        if let Some(node) = self.node(spec) {
            return Some(node);
        }
        let (tag, value) = spec.split_once('=')?;
        let value = value.trim_matches('"').to_lowercase();
        let tag = tag.to_lowercase();
        if tag == "id" {
            return self.node(&format!("/dev/disk/by-id/{value}"));
        }
        self.tags.get(&format!("{tag}={value}")).map(String::as_str)
    }
}

/// Replaces numbers of a base after a mark: `\x20` (udev, 2 digits of base 16), `\040` (fstab, 3 of base 8).
pub(super) fn unescape(text: &str, mark: &str, base: u32) -> String {
    let digits = if base == 8 { 3 } else { 2 };
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(mark) {
        plain.push_str(before);
        let number = after.get(..digits);
        match number.and_then(|number| u8::from_str_radix(number, base).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &after[digits..];
            }
            None => {
                plain.push_str(mark);
                rest = after;
            }
        }
    }
    plain + rest
}

fn below(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.flatten().take(DEVICES_MAX);
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
