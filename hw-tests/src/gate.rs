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
    /// Reads the identity of this machine: DMI chassis serial, else `/etc/machine-id`.
    pub fn here() -> Machine {
        let read = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            let text = text.trim().to_owned();
            (!text.is_empty() && text != "None" && text != "Not Specified").then_some(text)
        };
        let identity = read("/sys/class/dmi/id/chassis_serial").or_else(|| read("/etc/machine-id"));
        Machine {
            identity,
            in_use: Vec::new(),
        }
    }
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
        if let Some((_, by)) = self.machine.in_use.iter().find(|(used, _)| used == disk) {
            return Err(Refusal::InUse(disk.to_owned(), by.clone()));
        }
        match self.consent.disks.iter().any(|consented| consented == disk) {
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
