//! Every key of the configuration in one table: the commented default file and the reference page come from it.

use failover_core::config::Timing;
use std::fmt::Write;

/// A part of the file.
struct Section {
    /// `""`, `[name]` or `[[name]]`.
    header: &'static str,
    doc: &'static str,
    /// The whole part is optional and stands commented out in the default file.
    optional: bool,
    keys: &'static [Key],
}

struct Key {
    name: &'static str,
    form: &'static str,
    /// In the table of the reference; empty: there is none.
    default: &'static str,
    /// In the default file.
    example: &'static str,
    doc: &'static str,
}

const fn key(
    name: &'static str,
    form: &'static str,
    default: &'static str,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        form,
        default,
        example,
        doc,
    }
}

const SECTIONS: &[Section] = &[
    Section {
        header: "",
        doc: "",
        optional: false,
        keys: &[
            key(
                "node",
                "\"A\" or \"B\"",
                "",
                "\"A\"",
                "This controller's place in the pair: one is A, the other B.",
            ),
            key(
                "pair_key",
                "path",
                "",
                "\"/etc/failoverd/pair.key\"",
                "Key of the pair, 32 random bytes that nobody else can read, the same on both controllers: made by `failoverd new-key FILE`. Needed as soon as links or shared disks are configured.",
            ),
            key(
                "disks",
                "list of identities",
                "[]",
                "[\"naa.5000c500a1b2c3d4\", \"naa.5000c500a1b2c3d5\", \"naa.5000c500a1b2c3d6\"]",
                "Shared disks by identity, the same list on both controllers: the text in `/sys/block/NAME/device/wwid` (NVMe: `/sys/block/NAME/wwid`); `wwn-0x…` and `nvme-eui.…` as in `/dev/disk/by-id` mean the same. Names under `/dev`, device-mapper nodes and disks that this machine runs from are refused; a disk that is missing counts as unreachable.",
            ),
            key(
                "accept_volatile_reservations",
                "true or false",
                "false",
                "false",
                "Use disks that can't keep registrations through power loss (APTPL) all the same; needs a watchdog whose timeout is shorter than the shelf takes to come back.",
            ),
            key(
                "arbiters",
                "1, 3 or 5",
                "3",
                "3",
                "Number of the disks that settle a race; 1 where there are fewer than three disks.",
            ),
            key(
                "critical_interfaces",
                "list of names",
                "[]",
                "[\"eth0\"]",
                "Interfaces of the clients' network. A controller on which all of them have lost their carrier can't take over, and a MASTER in that state offers itself.",
            ),
        ],
    },
    Section {
        header: "[paths]",
        doc: "Folders, and the control socket.",
        optional: false,
        keys: &[
            key(
                "state_dir",
                "path",
                "/var/lib/failoverd",
                "\"/var/lib/failoverd\"",
                "Journal and history. Must survive a boot.",
            ),
            key(
                "runtime_dir",
                "path",
                "/run/failoverd",
                "\"/run/failoverd\"",
                "Owner record and restart flag. Must not survive a boot.",
            ),
            key(
                "socket",
                "path",
                "/run/failoverd/failoverd.sock",
                "\"/run/failoverd/failoverd.sock\"",
                "Control socket; at most 107 bytes.",
            ),
        ],
    },
    Section {
        header: "[services]",
        doc: "Services that run only on the MASTER: after the import the units of systemd, ordered by systemd, then the hooks, then for each imported pool its units and its hooks; stopped in the reverse order.",
        optional: false,
        keys: &[
            key(
                "target",
                "name",
                "",
                "\"failover-active.target\"",
                "Target of systemd; services belong to it by `WantedBy=`.",
            ),
            key(
                "units",
                "list of names",
                "[]",
                "[\"nfs-server.service\"]",
                "Further units of systemd.",
            ),
        ],
    },
    Section {
        header: "[[services.hooks]]",
        doc: "A service without systemd. Both programs must be repeatable: starting what runs and stopping what is stopped succeed.",
        optional: true,
        keys: &[
            key("name", "text", "", "\"exports\"", "Its name in messages."),
            key(
                "pool",
                "name of a pool",
                "none",
                "\"tank\"",
                "Pool that it belongs to: it is started only where that pool is imported, after those that belong to none.",
            ),
            key(
                "start",
                "list: program, arguments",
                "",
                "[\"/usr/local/sbin/exports\", \"on\"]",
                "Starts it; done when it exits with 0. Absolute path, no shell.",
            ),
            key(
                "stop",
                "list: program, arguments",
                "",
                "[\"/usr/local/sbin/exports\", \"off\"]",
                "Stops it; done when it exits with 0.",
            ),
            key(
                "timeout_ms",
                "milliseconds",
                "5000",
                "5000",
                "Deadline of each; the program is killed then. At most timing.services_ms.",
            ),
        ],
    },
    Section {
        header: "[watchdog]",
        doc: "Hardware watchdog: resets the machine when the daemon has stood still for long. It only cleans up; no timer of a failover counts on it.",
        optional: true,
        keys: &[
            key("device", "path", "", "\"/dev/watchdog\"", "Its device."),
            key(
                "timeout_s",
                "seconds",
                "10",
                "10",
                "Time without a sign of life after which it resets.",
            ),
        ],
    },
    Section {
        header: "[reset]",
        doc: "How this controller resets itself when it has lost the disks.",
        optional: false,
        keys: &[key(
            "command",
            "list: program, arguments",
            "",
            "[\"/usr/local/sbin/power-cycle-me\"]",
            "Program in place of the kernel's immediate reset; the reason follows as the last argument. It must not flush anything.",
        )],
    },
    Section {
        header: "[[links]]",
        doc: "Heartbeat links to the other controller; two or more on separate cables. Without any this controller is SINGLE.",
        optional: true,
        keys: &[
            key(
                "local",
                "\"address:port\"",
                "",
                "\"10.0.1.1:7400\"",
                "This controller's address on the link; `[address]:port` for IPv6.",
            ),
            key(
                "peer",
                "\"address:port\"",
                "",
                "\"10.0.1.2:7400\"",
                "The other controller's address on the link.",
            ),
            key(
                "interface",
                "name",
                "",
                "\"hb0\"",
                "Interface that the link is bound to, and whose carrier is watched.",
            ),
        ],
    },
    Section {
        header: "[[vips]]",
        doc: "Virtual addresses: on the MASTER alone. May change at run time (SIGHUP).",
        optional: true,
        keys: &[
            key(
                "interface",
                "name",
                "",
                "\"eth0\"",
                "Interface that carries it.",
            ),
            key(
                "address",
                "\"address/prefix\"",
                "",
                "\"192.0.2.10/24\"",
                "IPv4 or IPv6 address with the length of its network's prefix.",
            ),
            key(
                "pool",
                "name of a pool",
                "none",
                "\"tank\"",
                "Pool that it belongs to: it is up only where and while that pool is imported. None: wherever the MASTER is.",
            ),
        ],
    },
    Section {
        header: "[[pools]]",
        doc: "Pools on the shared disks, the same list in the same order on both controllers. This one is a filesystem on a block device.",
        optional: true,
        keys: &[
            key("name", "text", "", "\"tank\"", "Its name."),
            key(
                "kind",
                "\"mount\" or \"zfs\"",
                "\"mount\"",
                "\"mount\"",
                "What it is: a filesystem on a block device, or a pool of ZFS.",
            ),
            key(
                "device",
                "path",
                "",
                "\"/dev/disk/by-id/wwn-0x5000c500a1b2c3d4-part1\"",
                "Block device, or a file for a loop device.",
            ),
            key(
                "mountpoint",
                "path",
                "",
                "\"/srv/tank\"",
                "Folder that it is mounted on.",
            ),
            key("fstype", "name", "", "\"ext4\"", "Type of the filesystem."),
            key("options", "list", "[]", "[\"noatime\"]", "Mount options."),
            key(
                "assemble",
                "\"lvm\" or \"mdraid\"",
                "",
                "\"lvm\"",
                "What puts `device` together before it can be mounted, from the won disks alone, and takes it apart again: a volume group of LVM, or an array of md. Neither may be assembled by the system itself.",
            ),
            key(
                "volume",
                "name or UUID",
                "",
                "\"vg_tank\"",
                "The volume group's name, or the array's UUID as `mdadm --detail` prints it. It belongs to one pool alone.",
            ),
            key(
                "disks",
                "list of identities",
                "all of `disks`",
                "[\"naa.5000c500a1b2c3d4\"]",
                "Shared disks that it lies on; each must be won before it is imported.",
            ),
            key(
                "units",
                "list of names",
                "[]",
                "[\"smbd.service\"]",
                "Units of systemd that run only where this pool is imported; started after the services that belong to no pool.",
            ),
        ],
    },
    Section {
        header: "[[pools]]",
        doc: "A pool of ZFS. Its mountpoints, shares and volumes are those of its properties. It is imported by `zpool import -N -f` from its own devices alone, never with a rewind, without a log device, or read-only; properties are never changed. `multihost=on` is left as it is, but makes an import wait (36 s measured with the defaults of ZFS): it is refused where `timing.import_ms` is too short for that.",
        optional: true,
        keys: &[
            key(
                "name",
                "text",
                "",
                "\"store\"",
                "Its name in ZFS. A pool of that GUID with another name isn't imported.",
            ),
            key(
                "kind",
                "\"mount\" or \"zfs\"",
                "\"mount\"",
                "\"zfs\"",
                "Makes it a pool of ZFS.",
            ),
            key(
                "guid",
                "\"number\"",
                "",
                "\"1234567890123456789\"",
                "Its GUID, as `zpool get -H -o value guid NAME` prints it: what is imported.",
            ),
            key(
                "disks",
                "list of identities",
                "all of `disks`",
                "[\"naa.5000c500a1b2c3d5\", \"naa.5000c500a1b2c3d6\"]",
                "Shared disks that it lies on. A disk that isn't won isn't given to the import; a pool that can't do without it isn't imported.",
            ),
            key(
                "key_store",
                "path",
                "/etc/failoverd/keys",
                "\"/etc/failoverd/keys\"",
                "Folder with the keys of encrypted datasets: that of the encryption root `tank/private` is in `tank/private.key`, in the form of its `keyformat`. Files that others than root can read are refused. Nothing is copied to the other controller: put the same files there.",
            ),
            key(
                "may_stay_locked",
                "list of datasets",
                "[]",
                "[\"store/vault\"]",
                "Encryption roots whose keys people load by hand: without a key for them the pool serves all the same. For every other one a missing key fails the import.",
            ),
        ],
    },
    Section {
        header: "[[pools.keys]]",
        doc: "A key of the pool above that isn't in its key store.",
        optional: true,
        keys: &[
            key(
                "dataset",
                "name",
                "",
                "\"store/private\"",
                "The encryption root.",
            ),
            key(
                "file",
                "path",
                "",
                "\"/root/private.key\"",
                "File with its key, that only root can read.",
            ),
        ],
    },
];

const TIMING_DOC: &str = "Timers, in the unit that their names end with. The defaults meet every target together; relations \
between them are checked, and a broken one is named. May change at run time (SIGHUP).";

/// The commented default configuration.
pub fn default_text() -> String {
    let mut out = String::from(
        "# Configuration of failoverd. Commented keys show their form or their default.\n\
         # `failoverd --check FILE` explains what it reads.\n",
    );
    // A single key or table may be commented out in TOML, but tables must follow the top-level keys.
    for section in SECTIONS {
        section_text(&mut out, section);
        if section.header == "[reset]" {
            timing_text(&mut out);
        }
    }
    out
}

fn section_text(out: &mut String, section: &Section) {
    out.push('\n');
    comment(out, section.doc);
    if !section.header.is_empty() {
        let mark = if section.optional { "#" } else { "" };
        let _ = writeln!(out, "{mark}{}", section.header);
    }
    for key in section.keys {
        comment(out, &key.doc.replace('`', "'"));
        let mark = if key.name == "node" { "" } else { "#" };
        let _ = writeln!(out, "{mark}{} = {}", key.name, key.example);
    }
}

fn timing_text(out: &mut String) {
    out.push('\n');
    comment(out, TIMING_DOC);
    out.push_str("[timing]\n");
    for (name, default, doc) in Timing::FIELDS {
        comment(out, &doc.concat());
        let _ = writeln!(out, "#{name} = {default}");
    }
}

/// Comment lines of at most 100 characters.
fn comment(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() > 97 {
            let _ = writeln!(out, "#{line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "#{line}");
    }
}

/// The reference page of the configuration.
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Made from the code by a test; UPDATE_DOCS=1 cargo test -p failoverd writes it anew. -->\n\n\
         One TOML file. Unknown keys are refused; every mistake is named with file, line, key and remedy.\n\
         `failoverd --print-default-config` prints it with comments, `failoverd --check FILE` explains one.\n\n\
         SIGHUP reads it again and applies what differs: timers, virtual addresses (an unchanged one is never touched) and\n\
         critical interfaces. If anything else differs, nothing is applied and the keys are named.\n",
    );
    for section in SECTIONS {
        let title = match section.header {
            "" => "Top level".to_owned(),
            header => format!("`{header}`"),
        };
        let _ = write!(out, "\n## {title}\n\n");
        if !section.doc.is_empty() {
            let _ = write!(out, "{}\n\n", section.doc);
        }
        out.push_str("| key | form | default | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let default = match key.default {
                "" => "–".to_owned(),
                default => format!("`{default}`"),
            };
            let (name, form, doc) = (key.name, key.form, key.doc);
            let _ = writeln!(out, "| `{name}` | {form} | {default} | {doc} |");
        }
    }
    let _ = write!(out, "\n## `[timing]`\n\n{TIMING_DOC}\n\n");
    out.push_str("| key | default | meaning |\n|---|---|---|\n");
    for (name, default, doc) in Timing::FIELDS {
        let _ = writeln!(out, "| `{name}` | {default} | {} |", doc.concat().trim());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::raw::RawConfig;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The default file with every example in force.
    fn uncommented() -> String {
        let lines = default_text();
        let lines = lines.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_default_file_loads_and_is_single() {
        let config = Config::parse(&default_text(), Path::new("default")).expect("loads");
        assert!(!config.has_peer());
        assert_eq!(config.timing, Timing::default());
        assert_eq!(config.core().disks.len(), 0);
    }

    #[test]
    fn every_key_is_in_the_table_and_every_example_is_right() {
        let raw: RawConfig = toml::from_str(&uncommented()).unwrap_or_else(|e| panic!("{e}"));
        let value = toml::Value::try_from(&raw).expect("TOML");
        let mut read = BTreeSet::new();
        walk("", &value, &mut read);
        let mut table = BTreeSet::new();
        for section in SECTIONS {
            let name = section.header.trim_matches(['[', ']']);
            let dot = if name.is_empty() { "" } else { "." };
            table.extend(
                section
                    .keys
                    .iter()
                    .map(|key| format!("{name}{dot}{}", key.name)),
            );
        }
        table.extend(
            Timing::FIELDS
                .iter()
                .map(|(name, ..)| format!("timing.{name}")),
        );
        assert_eq!(read, table);
    }

    fn walk(path: &str, value: &toml::Value, out: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(&format!("{path}{dot}{key}"), value, out);
                }
            }
            toml::Value::Array(list) if list.iter().all(toml::Value::is_table) => {
                list.iter().for_each(|value| walk(path, value, out));
            }
            _ => {
                out.insert(path.to_owned());
            }
        }
    }

    /// With the right files in place the examples pass every check but those of files.
    #[test]
    fn the_examples_pass_the_checks() {
        let errors = Config::parse(&uncommented(), Path::new("example")).expect_err("no key file");
        assert_eq!(errors.0.len(), 1, "{errors}");
        assert_eq!(errors.0[0].key, "pair_key");
        assert!(errors.0[0].line.is_some());
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
        let made = reference_markdown();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &made).expect("written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == made,
            "docs/config.md is old: UPDATE_DOCS=1 cargo test -p failoverd reference"
        );
    }
}
