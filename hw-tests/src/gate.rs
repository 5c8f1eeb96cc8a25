//! The consent gate: what may be destroyed, on which machine, said by a person in a file.
//!
//! ```toml
//! # /etc/failoverd/hw-tests.toml, mode 0600
//! machine = "chassis serial or machine id, exactly as `Machine::here` reads it"
//! i_understand_that_these_disks_will_be_erased = ["5000c500a1b2c3d4", "5000c500a1b2c3d5"]
//! may_reset_this_machine = false
//! ```

use serde::Deserialize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the consent file is looked for.
pub const CONSENT_FILE: &str = "/etc/failoverd/hw-tests.toml";
/// Size above which a file is no consent file.
const CONSENT_BYTES_MAX: u64 = 64 * 1024;

/// What a person has consented to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// Identity of the machine that it was written for.
    pub machine: String,
    /// Identities (WWN, EUI or NGUID) of the disks that may be erased.
    #[serde(rename = "i_understand_that_these_disks_will_be_erased")]
    pub disks: Vec<String>,
    /// Whether a test may reset this machine.
    #[serde(default)]
    pub may_reset_this_machine: bool,
}

/// Why nothing may run.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no consent file.
    #[error(
        "{0} is not there: hardware tests erase disks, so they run only after a person has written it; \
         its form is described in hw-tests/src/gate.rs"
    )]
    NoFile(PathBuf),
    /// The file can't be read.
    #[error("{path} can't be read: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could have written it.
    #[error(
        "{path} has mode {mode:04o}: a consent that others could have written is none; chmod 600 it"
    )]
    OpenToOthers {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It isn't a regular, small file.
    #[error("{0} is not a regular file of at most 64 KiB")]
    NotAFile(PathBuf),
    /// It doesn't parse.
    #[error("{path}: {source}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It was written for another machine.
    #[error(
        "the consent is for machine {consented:?}, this is {here:?}: write a new one for this machine"
    )]
    OtherMachine {
        /// Machine in the file.
        consented: String,
        /// This machine.
        here: String,
    },
    /// This machine has no identity.
    #[error(
        "this machine tells no identity (no chassis serial, no machine id), so no consent can name it"
    )]
    Nameless,
    /// No disk is named.
    #[error("the consent names no disk")]
    NoDisks,
    /// A disk isn't in the list.
    #[error("disk {0:?} is not in the consent: it is left alone")]
    NotConsented(String),
    /// A disk holds the running system or is mounted.
    #[error(
        "disk {0:?} is in use by this machine ({1}): it is left alone whatever the consent says"
    )]
    InUse(String, String),
    /// The machine may not be reset.
    #[error("the consent does not say may_reset_this_machine = true")]
    NoReset,
}

/// What the gate needs to know of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Chassis serial, or machine id where there is none.
    pub identity: Option<String>,
    /// Disks in use, by identity, and for what.
    pub in_use: Vec<(String, String)>,
}

impl Machine {
    /// Reads this machine: its identity and the disks that it uses.
    pub fn here() -> Machine {
        Machine::read(Path::new("/"))
    }

    /// The same below another root, for tests: DMI chassis serial, else `/etc/machine-id`; each disk of `/sys/block`
    /// that is mounted, swapped to or held by another block device, itself or by a partition.
    pub fn read(root: &Path) -> Machine {
        let identity = ["sys/class/dmi/id/chassis_serial", "etc/machine-id"]
            .iter()
            .find_map(|path| word_of(&root.join(path)))
            .filter(|word| word != "None" && word != "Not Specified")
            .or_else(|| word_of(&root.join("etc/machine-id")));
        Machine {
            identity,
            in_use: in_use(root),
        }
    }
}

/// (identity, use) of every disk in use. One without an identity can't be named by a consent either.
fn in_use(root: &Path) -> Vec<(String, String)> {
    let mounted = mounted(root);
    let swaps = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    let mut found = Vec::new();
    for disk in folders(&root.join("sys/block")) {
        let Some(identity) =
            word_of(&disk.join("device/wwid")).or_else(|| word_of(&disk.join("wwid")))
        else {
            continue;
        };
        let parts = folders(&disk)
            .into_iter()
            .filter(|part| part.join("partition").exists());
        for part in std::iter::once(disk.clone()).chain(parts) {
            let name = part
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let number = word_of(&part.join("dev")).unwrap_or_default();
            let holders = folders(&part.join("holders"));
            let swapped = swaps
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}")));
            let by = match mounted.iter().find(|(device, _)| *device == number) {
                Some((_, place)) => format!("{name} is mounted on {place}"),
                None if swapped => format!("{name} is swap space"),
                None if !holders.is_empty() => {
                    format!("{name} is part of {}", holders[0].display())
                }
                None => continue,
            };
            found.push((identity.clone(), by));
        }
    }
    found
}

/// ("major:minor", mountpoint) of what is mounted (proc_pid_mountinfo(5): fields 3 and 5).
fn mounted(root: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            Some((fields.next()?.to_owned(), fields.nth(1)?.to_owned()))
        })
        .collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found.retain(|path| path.is_dir());
    found
}

fn word_of(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A disk's identity without the prefix of its kind: `naa.5000c500a1b2c3d4`, `wwn-0x5000c500a1b2c3d4` and
/// `5000C500A1B2C3D4` are one.
fn bare(identity: &str) -> String {
    let lower = identity.to_ascii_lowercase();
    let kinds = ["wwn-0x", "nvme-eui.", "naa.", "eui.", "0x"];
    let bare = kinds.iter().find_map(|kind| lower.strip_prefix(kind));
    bare.unwrap_or(&lower).to_owned()
}

/// A consent that was checked against this machine: the only way to a disk or a reset.
#[derive(Clone, Debug)]
pub struct Gate {
    consent: Consent,
    machine: Machine,
}

impl Gate {
    /// Opens the gate, or says why not.
    pub fn open(path: &Path, machine: Machine) -> Result<Gate, Refusal> {
        let consent = load(path)?;
        let Some(here) = machine.identity.clone() else {
            return Err(Refusal::Nameless);
        };
        if consent.machine != here {
            return Err(Refusal::OtherMachine {
                consented: consent.machine,
                here,
            });
        }
        if consent.disks.is_empty() {
            return Err(Refusal::NoDisks);
        }
        Ok(Gate { consent, machine })
    }

    /// Whether `disk` may be erased.
    pub fn may_erase(&self, disk: &str) -> Result<(), Refusal> {
        let same = |other: &str| bare(other) == bare(disk);
        if let Some((_, by)) = self.machine.in_use.iter().find(|(used, _)| same(used)) {
            return Err(Refusal::InUse(disk.to_owned(), by.clone()));
        }
        match self.consent.disks.iter().any(|consented| same(consented)) {
            true => Ok(()),
            false => Err(Refusal::NotConsented(disk.to_owned())),
        }
    }

    /// Whether this machine may be reset.
    pub fn may_reset(&self) -> Result<(), Refusal> {
        if self.consent.may_reset_this_machine {
            Ok(())
        } else {
            Err(Refusal::NoReset)
        }
    }
}

fn load(path: &Path) -> Result<Consent, Refusal> {
    let unreadable = |source| Refusal::Unreadable {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Refusal::NoFile(path.to_owned()));
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() || metadata.len() > CONSENT_BYTES_MAX {
        return Err(Refusal::NotAFile(path.to_owned()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Refusal::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let malformed = |source| Refusal::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    };
    toml::from_str(&text).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const GOOD: &str =
        "machine = \"SN1\"\ni_understand_that_these_disks_will_be_erased = [\"d1\"]\n";

    fn machine() -> Machine {
        let in_use = vec![("boot".to_owned(), "mounted on /".to_owned())];
        Machine {
            identity: Some("SN1".to_owned()),
            in_use,
        }
    }

    fn open(text: &str, mode: u32) -> Result<Gate, Refusal> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("consent.toml");
        fs::write(&path, text).expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode is set");
        Gate::open(&path, machine())
    }

    /// A machine's files: two disks, of which `sda` has a mounted partition and `sdb` a partition that is held.
    fn files() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
            fs::write(path, text).expect("the file is written");
        };
        put("etc/machine-id", "0123\n");
        for (disk, dev) in [
            ("sda", "8:0"),
            ("sdb", "8:16"),
            ("sdc", "8:32"),
            ("sdd", "8:48"),
        ] {
            put(
                &format!("sys/block/{disk}/device/wwid"),
                &format!("naa.{disk}\n"),
            );
            put(&format!("sys/block/{disk}/dev"), dev);
        }
        put("sys/block/sda/sda1/partition", "1");
        put("sys/block/sda/sda1/dev", "8:1");
        put("sys/block/sdb/sdb1/partition", "1");
        put("sys/block/sdb/sdb1/dev", "8:17");
        put("sys/block/sdb/sdb1/holders/dm-0/x", "");
        put(
            "proc/swaps",
            "Filename Type Size\n/dev/sdd partition 1 0 -2\n",
        );
        put(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw,noatime - ext4 /dev/root rw\n",
        );
        folder
    }

    #[test]
    fn disks_that_are_mounted_held_or_swapped_to_are_in_use() {
        let files = files();
        let machine = Machine::read(files.path());
        assert_eq!(machine.identity.as_deref(), Some("0123"));
        let used: Vec<&str> = machine
            .in_use
            .iter()
            .map(|(disk, _)| disk.as_str())
            .collect();
        assert_eq!(used, ["naa.sda", "naa.sdb", "naa.sdd"]);
    }

    #[test]
    fn a_chassis_serial_counts_before_the_machine_id() {
        let files = files();
        let serial = files.path().join("sys/class/dmi/id/chassis_serial");
        fs::create_dir_all(serial.parent().expect("a folder")).expect("it is made");
        fs::write(&serial, "SN9\n").expect("written");
        let identity = |root: &Path| Machine::read(root).identity;
        assert_eq!(identity(files.path()).as_deref(), Some("SN9"));
        fs::write(&serial, "Not Specified\n").expect("written");
        assert_eq!(identity(files.path()).as_deref(), Some("0123"));
    }

    #[test]
    fn one_disk_has_many_spellings() {
        let mut used = machine();
        used.in_use = vec![("naa.5000c500a1b2c3d4".to_owned(), "mounted".to_owned())];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("consent.toml");
        let text = GOOD.replace("d1", "5000C500A1B2C3D4");
        fs::write(&path, text).expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
        let gate = Gate::open(&path, used).expect("the gate opens");
        let refusal = gate.may_erase("wwn-0x5000c500a1b2c3d4").unwrap_err();
        assert!(matches!(refusal, Refusal::InUse(..)), "{refusal}");
        let gate = Gate::open(&path, machine()).expect("the gate opens");
        assert!(gate.may_erase("wwn-0x5000c500a1b2c3d4").is_ok());
    }

    #[test]
    fn nothing_runs_without_a_file() {
        let refusal = Gate::open(Path::new("/nonexistent/consent.toml"), machine()).unwrap_err();
        assert!(matches!(refusal, Refusal::NoFile(_)), "{refusal}");
    }

    #[test]
    fn a_file_that_others_can_write_is_no_consent() {
        assert!(matches!(
            open(GOOD, 0o622),
            Err(Refusal::OpenToOthers { mode: 0o622, .. })
        ));
    }

    #[test]
    fn a_link_is_no_consent() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("link.toml");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("a link is made");
        assert!(matches!(
            Gate::open(&path, machine()),
            Err(Refusal::NotAFile(_))
        ));
    }

    #[test]
    fn another_machine_is_refused() {
        let text = GOOD.replace("SN1", "SN2");
        assert!(matches!(
            open(&text, 0o600),
            Err(Refusal::OtherMachine { .. })
        ));
    }

    #[test]
    fn a_machine_without_identity_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("consent.toml");
        fs::write(&path, GOOD).expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
        assert!(matches!(
            Gate::open(&path, Machine::default()),
            Err(Refusal::Nameless)
        ));
    }

    #[test]
    fn unknown_words_and_missing_lists_are_refused() {
        assert!(matches!(
            open("machine = \"SN1\"\n", 0o600),
            Err(Refusal::Malformed { .. })
        ));
        let text = format!("{GOOD}all_disks = true\n");
        assert!(matches!(open(&text, 0o600), Err(Refusal::Malformed { .. })));
        let none = GOOD.replace("\"d1\"", "");
        assert!(matches!(open(&none, 0o600), Err(Refusal::NoDisks)));
    }

    #[test]
    fn only_named_disks_that_are_not_in_use_may_be_erased() {
        let gate =
            open(&GOOD.replace("\"d1\"", "\"d1\", \"boot\""), 0o600).expect("the gate opens");
        assert!(gate.may_erase("d1").is_ok());
        assert!(matches!(
            gate.may_erase("d2"),
            Err(Refusal::NotConsented(_))
        ));
        assert!(matches!(gate.may_erase("boot"), Err(Refusal::InUse(..))));
        assert!(matches!(gate.may_reset(), Err(Refusal::NoReset)));
    }
}
