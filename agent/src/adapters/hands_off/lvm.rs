//! LVM: volume groups that would be activated by themselves (`man lvmautoactivation`).
//!
//! A group isn't activated by itself if it says so (`vgchange --setautoactivation n`, seen in the backup that LVM keeps
//! of each group), or if `auto_activation_volume_list` doesn't name it. `event_activation = 0` only moves it to the boot.
//! With `use_devicesfile = 1` LVM sees only what its devices file names (`man lvmdevices`). What a pattern of
//! `global_filter` rejects isn't judged here.

use super::names::{Member, Names};
use super::{Files, Finding, lines};

const RULES: [&str; 3] = ["69-lvm.rules", "69-dm-lvm.rules", "69-dm-lvm-metad.rules"];
/// The later one wins.
const CONFIGS: [&str; 2] = ["etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf"];
const DEVICES: &str = "etc/lvm/devices/system.devices";
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
    let (mut list, mut filter) = (None, None);
    let (mut by_file, mut file) = (None, None);
    for path in CONFIGS {
        let Some(text) = files.text(path, &mut found) else {
            continue;
        };
        if let Some((line, entries)) = list_of(&text, LIST) {
            list = Some((path, line, entries));
        }
        filter = list_of(&text, "global_filter").or(filter);
        by_file = value_of(&text, "use_devicesfile").or(by_file);
        file = value_of(&text, "devicesfile").or(file);
    }
    let rejects = filter.is_some_and(|(_, entries)| entries.iter().any(|one| one.starts_with('r')));
    let by_file =
        by_file.as_deref() == Some("1") && file.is_none_or(|name| name == "system.devices");
    let devices = by_file.then(|| files.text(DEVICES, &mut found)).flatten();
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
        let named = |text: &String| text.lines().any(|line| names_member(line, member, names));
        if !devices.as_ref().is_none_or(named) {
            continue;
        }
        let name = &member.name;
        let (problem, remedy) = match group {
            Some(Group { name: group, .. }) => (
                format!(
                    "the volume group {group} on the shared {name} would be activated by itself"
                ),
                format!(
                    "vgchange --setautoactivation n {group}, then vgcfgbackup {group} on both controllers; or {LIST} = []"
                ),
            ),
            None => (
                format!(
                    "a volume group on the shared {name} would be activated by itself, as far as can be told"
                ),
                format!(
                    "vgchange --setautoactivation n on it, then vgcfgbackup on both controllers; or {LIST} = []"
                ),
            ),
        };
        let finding = files.at(path, line, problem, &remedy);
        found.push(match rejects {
            true => Finding {
                problem: format!(
                    "{}, unless global_filter rejects it, which can't be judged here",
                    finding.problem
                ),
                doubtful: true,
                ..finding
            },
            false => finding,
        });
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

/// Whether a line of the devices file means the device of a member: by its PVID, by the identity of the disk, or, where
/// it has no PVID, by the name.
fn names_member(line: &str, member: &Member, names: &Names) -> bool {
    if line.trim_start().starts_with('#') {
        return false;
    }
    let field = |key: &str| {
        let mut fields = line.split_whitespace();
        let value = fields.find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        value.filter(|value| *value != ".")
    };
    let on = |node: Option<&str>| node.is_some_and(|node| member.name.starts_with(node));
    let pvid = field("PVID");
    if pvid.is_some_and(|pvid| pvid == member.uuid.replace('-', "")) {
        return true;
    }
    let by_id = field("IDNAME").and_then(|id| match id.split_once('.') {
        Some(("naa", rest)) => Some(format!("/dev/disk/by-id/wwn-0x{}", rest.to_lowercase())),
        Some(("eui", _)) => Some(format!("/dev/disk/by-id/nvme-{id}")),
        _ => None,
    });
    if by_id.is_some_and(|link| on(names.node(&link))) {
        return true;
    }
    pvid.is_none() && field("DEVNAME").is_some_and(|name| on(names.node(name)))
}

/// The plain value of a setting, without its quotes.
fn value_of(text: &str, key: &str) -> Option<String> {
    let mut value = None;
    for (_, line) in lines(text) {
        let line = line.split('#').next().unwrap_or_default();
        let Some((left, right)) = line.split_once('=') else {
            continue;
        };
        let name = left.trim().rsplit([' ', '\t', '/', '{']).next();
        if name == Some(key) {
            let plain = right.trim().trim_end_matches('}').trim();
            value = Some(plain.trim_matches('"').to_owned());
        }
    }
    value
}

/// The list of a setting and its line; it may go over several.
fn list_of(text: &str, key: &str) -> Option<(usize, Vec<String>)> {
    let mut start = None;
    let mut value = String::new();
    for (line, text) in lines(text) {
        let text = text.split('#').next().unwrap_or_default();
        if let Some((_, after)) = text.split_once(key) {
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
