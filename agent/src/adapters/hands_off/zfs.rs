//! ZFS: pools in the system's cache file, and the units that import by themselves.

use super::names::Names;
use super::{Files, Finding};
use crate::adapters::disk_paths::Roots;
use crate::adapters::nvlist::{self, Value};
use std::path::PathBuf;

const CACHE: &str = "etc/zfs/zpool.cache";
/// 1,255 disks take about 2 MB.
const CACHE_MAX_BYTES: u64 = 64 * 1024 * 1024;
const UNITS: [&str; 2] = ["zfs-import-cache.service", "zfs-import-scan.service"];
const UNIT_FOLDERS: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
];

pub(super) fn look(
    files: &Files<'_>,
    roots: &Roots,
    names: &Names,
    pools: &[(String, Option<PathBuf>)],
) -> Vec<Finding> {
    let mut found = Vec::new();
    look_at_cache(files, roots, names, pools, &mut found);
    for unit in UNITS {
        look_at_unit(files, unit, &mut found);
    }
    found
}

fn look_at_cache(
    files: &Files<'_>,
    roots: &Roots,
    names: &Names,
    pools: &[(String, Option<PathBuf>)],
    found: &mut Vec<Finding>,
) {
    let named = std::fs::read_to_string(roots.sys.join("module/zfs/parameters/spa_config_path"));
    let path = named.unwrap_or_default();
    let path = match path.trim().strip_prefix('/') {
        Some(path) => path,
        None => CACHE,
    };
    let Some(bytes) = files.bytes(path, CACHE_MAX_BYTES, found) else {
        return;
    };
    // An empty one is what is left when the last pool went.
    if bytes.is_empty() {
        return;
    }
    let list = match nvlist::decode(&bytes) {
        Ok(list) => list,
        Err(why) => {
            let remedy = "move it away: ZFS writes it anew for the pools that are imported";
            let problem = format!("damaged: {why}; whether it names a shared pool can't be told");
            found.push(files.at(path, 0, problem, remedy));
            return;
        }
    };
    for (pool, value) in &list.0 {
        let configured = pools.iter().any(|(name, _)| name == pool);
        let is_shared = |path: &str| names.node(path).is_some();
        let disk = match value {
            Value::List(list) => list.find_text("path", &is_shared),
            Value::Number(_) | Value::Numbers(_) | Value::Text(_) | Value::Lists(_) => None,
        };
        let disk = disk.and_then(|path| names.node(path));
        if !configured && disk.is_none() {
            continue;
        }
        let on = disk.map_or_else(String::new, |disk| format!(" (on {disk})"));
        let problem =
            format!("the shared pool {pool}{on} is in it, so that a boot would import it");
        let remedy = format!(
            "zpool set cachefile=none {pool}, where it is imported; else move the file away"
        );
        found.push(files.at(path, 0, problem, &remedy));
    }
}

fn look_at_unit(files: &Files<'_>, unit: &str, found: &mut Vec<Finding>) {
    let places = UNIT_FOLDERS.map(|folder| format!("{folder}/{unit}"));
    // The first folder that has the unit decides; a link to /dev/null masks it.
    let first = places
        .iter()
        .find(|path| files.0.join(path).symlink_metadata().is_ok());
    let masked = first.is_some_and(|path| {
        let link = std::fs::read_link(files.0.join(path));
        link.is_ok_and(|link| link.as_os_str() == "/dev/null")
    });
    if first.is_none() || masked {
        return;
    }
    for folder in UNIT_FOLDERS {
        for end in [".wants", ".requires"] {
            for wants in files.list(folder, end) {
                let path = format!("{wants}/{unit}");
                if files.0.join(&path).symlink_metadata().is_err() {
                    continue;
                }
                let problem = format!("{unit} is enabled: a boot would import pools by itself");
                let remedy = match folder.starts_with("etc") {
                    true => format!("systemctl disable {unit}"),
                    false => format!("systemctl mask {unit}"),
                };
                found.push(files.at(&path, 0, problem, &remedy));
            }
        }
    }
}
