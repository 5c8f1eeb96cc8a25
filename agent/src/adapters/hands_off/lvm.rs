//! LVM: volume groups that would be activated by themselves (`man lvmautoactivation`).
//!
//! A group isn't activated by itself if it says so (`vgchange --setautoactivation n`, seen in the backup that LVM keeps
//! of each group), or if `auto_activation_volume_list` doesn't name it. `event_activation = 0` only moves it to the boot.
//! With `use_devicesfile = 1` LVM sees only what its devices file names (`man lvmdevices`). Where that isn't set the
//! default counts with which LVM was built; lvm.conf tells it as a comment, as it does for each setting. What a pattern
//! of `global_filter` rejects isn't judged here.

use super::names::{Member, Names};
use super::{Files, Finding, lines};

const RULES: [&str; 3] = ["69-lvm.rules", "69-dm-lvm.rules", "69-dm-lvm-metad.rules"];
/// The later one wins.
const CONFIGS: [&str; 2] = ["etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf"];
const DEVICES: &str = "etc/lvm/devices/system.devices";
const LIST: &str = "auto_activation_volume_list";
const BY_FILE: &str = "use_devicesfile";

/// A group as its backup describes it.
struct Group {
    name: String,
    text: String,
    off: bool,
}

/// What of LVM's settings counts here.
#[derive(Default)]
struct Settings {
    /// The groups that are activated by themselves, and where that stands; all, if there is no list.
    list: Option<(&'static str, usize, Vec<String>)>,
    /// `global_filter` rejects something.
    rejects: bool,
    by_file: ByFile,
}

/// Whether LVM sees only what its devices file names.
#[derive(Default, PartialEq, Eq)]
enum ByFile {
    /// The default of this LVM decides, and isn't told: off as it is published, on in RHEL 9 and what comes from it.
    #[default]
    Unknown,
    Yes,
    No,
}

pub(super) fn look(files: &Files<'_>, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    if names.lvm.is_empty() || !RULES.iter().any(|rule| files.has_udev_rule(rule)) {
        return found;
    }
    let settings = Settings::read(files, &mut found);
    let devices = match settings.by_file {
        ByFile::No => None,
        ByFile::Yes | ByFile::Unknown => files.text(DEVICES, &mut found),
    };
    let groups: Vec<Group> = files
        .list("etc/lvm/backup", "")
        .iter()
        .filter_map(|path| Some(group(path, files.text(path, &mut found)?)))
        .collect();
    for member in &names.lvm {
        let group = groups
            .iter()
            .find(|group| group.text.contains(&format!("\"{}\"", member.uuid)));
        if !settings.activate(group) || group.is_some_and(|group| group.off) {
            continue;
        }
        let named = |text: &String| text.lines().any(|line| names_member(line, member, names));
        // Without the file LVM sees everything, whatever the setting is.
        let kept_off = devices.as_ref().is_some_and(|text| !named(text));
        if kept_off && settings.by_file == ByFile::Yes {
            continue;
        }
        let finding = settings.finding(files, member, group);
        let unless = match (settings.rejects, kept_off) {
            (false, false) => None,
            (true, _) => Some("global_filter rejects it, which can't be judged here"),
            (false, true) => Some(
                "LVM goes by its devices file, which doesn't name it: this LVM's own default of use_devicesfile \
                 decides (`lvmconfig --type full devices/use_devicesfile`), so write `use_devicesfile = 1` into \
                 /etc/lvm/lvm.conf",
            ),
        };
        found.push(match unless {
            Some(unless) => Finding {
                problem: format!("{}, unless {unless}", finding.problem),
                doubtful: true,
                ..finding
            },
            None => finding,
        });
    }
    found
}

impl Settings {
    fn read(files: &Files<'_>, found: &mut Vec<Finding>) -> Settings {
        let mut settings = Settings::default();
        let (mut filter, mut file) = (None, None);
        let (mut by_file, mut by_default) = (None, None);
        for path in CONFIGS {
            let Some(text) = files.text(path, found) else {
                continue;
            };
            if let Some((line, entries)) = list_of(&text, LIST) {
                settings.list = Some((path, line, entries));
            }
            filter = list_of(&text, "global_filter").or(filter);
            by_file = value_of(&text, BY_FILE).or(by_file);
            by_default = default_of(&text, BY_FILE).or(by_default);
            file = value_of(&text, "devicesfile").or(file);
        }
        settings.rejects =
            filter.is_some_and(|(_, entries)| entries.iter().any(|one| one.starts_with('r')));
        let other_file = file.is_some_and(|name| name != "system.devices");
        settings.by_file = match by_file.or(by_default).as_deref() {
            _ if other_file => ByFile::No,
            Some("1") => ByFile::Yes,
            Some(_) => ByFile::No,
            None => ByFile::Unknown,
        };
        settings
    }

    /// Whether the group, or any where it isn't known which, is one of those that are activated by themselves.
    fn activate(&self, group: Option<&Group>) -> bool {
        let list = self.list.as_ref();
        list.is_none_or(|(_, _, entries)| match group {
            Some(group) => entries.iter().any(|entry| names_group(entry, &group.name)),
            None => !entries.is_empty(),
        })
    }

    fn finding(&self, files: &Files<'_>, member: &Member, group: Option<&Group>) -> Finding {
        let list = self.list.as_ref();
        let (path, line) = list.map_or((CONFIGS[0], 0), |(path, line, _)| (*path, *line));
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
        files.at(path, line, problem, &remedy)
    }
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

/// The default of a setting: lvm.conf comments out each that has it.
fn default_of(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let comment = line.trim_start().strip_prefix('#')?;
        let (left, right) = comment.split_once('=')?;
        let value = right.trim();
        // Prose that speaks of the setting is no default.
        let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        (left.trim() == key && plain).then(|| value.to_owned())
    })
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
