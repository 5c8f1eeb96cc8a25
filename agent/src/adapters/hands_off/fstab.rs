//! `/etc/fstab` (`man fstab`).

use super::names::{Names, unescape};
use super::{Files, Finding, lines};
use std::path::{Path, PathBuf};

const FSTAB: &str = "etc/fstab";

pub(super) fn look(
    files: &Files<'_>,
    names: &Names,
    pools: &[(String, Option<PathBuf>)],
) -> Vec<Finding> {
    let mut found = Vec::new();
    let Some(text) = files.text(FSTAB, &mut found) else {
        return found;
    };
    for (line, text) in lines(&text) {
        let mut fields = text
            .split_whitespace()
            .map(|field| unescape(field, "\\", 8));
        let (Some(spec), Some(place)) = (fields.next(), fields.next()) else {
            continue;
        };
        if spec.starts_with('#') {
            continue;
        }
        let fstype = fields.next().unwrap_or_default();
        let dataset = spec.split('/').next().filter(|_| fstype == "zfs");
        let pool = pools.iter().find(|(name, mountpoint)| {
            Some(name.as_str()) == dataset || mountpoint.as_deref() == Some(Path::new(&place))
        });
        let problem = match (names.spec(&spec), pool) {
            (Some(disk), _) => format!("{spec} is the shared {disk}: a boot would use it"),
            (None, Some((pool, _))) => {
                format!("{spec} on {place} is the shared pool {pool}: a boot would mount it")
            }
            (None, None) => continue,
        };
        let remedy =
            "take the line out: the MASTER's daemon mounts the pool; then systemctl daemon-reload";
        found.push(files.at(FSTAB, line, problem, remedy));
    }
    found
}
