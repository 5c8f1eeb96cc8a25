//! LVM: volume groups that would be activated by themselves (`man lvmautoactivation`).
//!
//! A group isn't activated by itself if it says so (`vgchange --setautoactivation n`, seen in the backup that LVM keeps
//! of each group), or if `auto_activation_volume_list` doesn't name it. `event_activation = 0` only moves it to the boot.

use super::names::Names;
use super::{Files, Finding, lines};

const RULES: [&str; 3] = ["69-lvm.rules", "69-dm-lvm.rules", "69-dm-lvm-metad.rules"];
/// The later one wins.
const CONFIGS: [&str; 2] = ["etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf"];
const LIST: &str = "auto_activation_volume_list";

/// A group as its backup describes it.
struct Group {
    name: String,
    text: String,
    off: bool,
}

pub(super) fn look(files: &Files<'_>, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    if names.lvm.is_empty() || !RULES.iter().any(|rule| files.has_udev_rule(rule)) {
        return found;
    }
    let mut list = None;
    for path in CONFIGS {
        if let Some(text) = files.text(path, &mut found)
            && let Some((line, entries)) = activation_list(&text)
        {
            list = Some((path, line, entries));
        }
    }
    let groups: Vec<Group> = files
        .list("etc/lvm/backup", "")
        .iter()
        .filter_map(|path| Some(group(path, files.text(path, &mut found)?)))
        .collect();
    for member in &names.lvm {
        let group = groups
            .iter()
            .find(|group| group.text.contains(&format!("\"{}\"", member.uuid)));
        let (path, line) = list
            .as_ref()
            .map_or((CONFIGS[0], 0), |(path, line, _)| (*path, *line));
        let listed = list.as_ref().is_none_or(|(_, _, entries)| match group {
            Some(group) => entries.iter().any(|entry| names_group(entry, &group.name)),
            None => !entries.is_empty(),
        });
        if !listed || group.is_some_and(|group| group.off) {
            continue;
        }
        let name = &member.name;
        let (problem, remedy) = match group {
            Some(Group { name: group, .. }) => (
                format!(
                    "the volume group {group} on the shared {name} would be activated by itself"
                ),
                format!(
                    "vgchange --setautoactivation n {group}, then vgcfgbackup {group} on both controllers"
                ),
            ),
            None => (
                format!(
                    "a volume group on the shared {name} would be activated by itself, as far as can be told"
                ),
                format!(
                    "vgchange --setautoactivation n on it, then vgcfgbackup on both controllers; or an {LIST} without it"
                ),
            ),
        };
        found.push(files.at(path, line, problem, &remedy));
    }
    found
}

fn group(path: &str, text: String) -> Group {
    // The group's own flags stand before its parts.
    let head = text.split("physical_volumes").next().unwrap_or_default();
    Group {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        off: head.contains("\"NOAUTOACTIVATE\""),
        text,
    }
}

/// The list and its line; it may go over several.
fn activation_list(text: &str) -> Option<(usize, Vec<String>)> {
    let mut start = None;
    let mut value = String::new();
    for (line, text) in lines(text) {
        let text = text.split('#').next().unwrap_or_default();
        if let Some((_, after)) = text.split_once(LIST) {
            value.clear();
            value.push_str(after.split_once('=').map_or("", |(_, value)| value));
            start = Some((line, false));
        } else if let Some((_, false)) = start {
            value.push_str(text);
        }
        if let Some((line, false)) = start
            && (value.contains(']') || !value.contains('['))
        {
            start = Some((line, true));
        }
    }
    let (line, _) = start?;
    let entries = value.split('"').skip(1).step_by(2);
    Some((line, entries.map(str::to_owned).collect()))
}

/// `vg`, `vg/lv`; a tag may be that of any group.
fn names_group(entry: &str, group: &str) -> bool {
    entry.starts_with('@') || entry.split('/').next() == Some(group)
}
