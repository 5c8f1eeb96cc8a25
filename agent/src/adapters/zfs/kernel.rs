//! Whether a pool is imported, as the kernel tells it: `/proc/spl/kstat/zfs/NAME`. No program is asked.
//!
//! Fail closed: what can't be read is an error, and whoever asks takes it for "maybe imported".

use crate::adapters::disk_paths::Roots;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Pools in the kernel that are looked at; far more than a controller has.
const POOLS_MAX: usize = 4096;

/// What the kernel says of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It isn't imported.
    Absent,
    /// It is imported.
    Here {
        /// `ONLINE`, `DEGRADED`, `SUSPENDED`, …
        state: String,
        /// Its GUID is the one asked for; `None` where this version of ZFS doesn't tell.
        is_it: Option<bool>,
    },
}

/// State of a pool that waits for its disks and lets every write hang.
pub(crate) const SUSPENDED: &str = "SUSPENDED";

/// The kernel's side of ZFS.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    kstat: PathBuf,
    module: PathBuf,
    spl: PathBuf,
}

impl Kernel {
    pub(crate) fn new(roots: &Roots) -> Kernel {
        Kernel {
            kstat: roots.proc.join("spl/kstat/zfs"),
            module: roots.sys.join("module/zfs"),
            spl: roots.sys.join("module/spl/parameters"),
        }
    }

    /// Version of the module, such as `(2, 4, 1)`; `None` where it isn't loaded or doesn't say. A third number that isn't
    /// told counts as the newest.
    pub(crate) fn version(&self) -> Option<(u32, u32, u32)> {
        let text = fs::read_to_string(self.module.join("version")).ok()?;
        let mut numbers = text.trim().split(['.', '-', '_', '~']).map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let patch = numbers.next().and_then(Result::ok).unwrap_or(u32::MAX);
        Some((major, minor, patch))
    }

    /// The host id of this machine, as the module notes it in pools; `None` where it has none.
    pub(crate) fn host_id(&self) -> Option<u64> {
        let parameter = |name: &str| {
            let text = fs::read_to_string(self.spl.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let set = parameter("spl_hostid").and_then(|text| text.parse().ok());
        let id = set.filter(|id| *id != 0).or_else(|| {
            let place = parameter("spl_hostid_path").unwrap_or_else(|| "/etc/hostid".to_owned());
            let bytes = fs::read(place).ok()?;
            let id = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
            Some(u64::from(id))
        });
        id.filter(|id| *id != 0)
    }

    /// Whether an import waits for other hosts' writes, where `multihost` is on: never for a pool that this very machine
    /// exported. One that another one exported, or that this one used last, did without the wait before 2.3.6 and 2.4.1
    /// (`spa_activity_check_required`). A version that isn't told counts as one that waits.
    pub(crate) fn waits(&self, is_exported: bool, used_by: Option<u64>) -> bool {
        let is_own = used_by.is_some() && used_by == self.host_id();
        let either_will_do = self.version().is_some_and(|version| {
            version < (2, 3, 6) || ((2, 4, 0)..(2, 4, 1)).contains(&version)
        });
        match either_will_do {
            true => !is_exported && !is_own,
            false => !is_exported || !is_own,
        }
    }

    /// Whether the module is loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.module.exists()
    }

    /// Looks for a pool by its name, and for its GUID under other names.
    ///
    /// # Errors
    /// Something can't be read; or the pool is imported under another name.
    pub(crate) fn find(&self, name: &str, guid: u64) -> Result<Seen, String> {
        let unread = |place: &PathBuf, error: &std::io::Error| {
            format!(
                "whether it is imported can't be told: {}: {error}; it counts as imported",
                place.display()
            )
        };
        let entries = match fs::read_dir(&self.kstat) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match self.module.try_exists() {
                    Ok(false) => Ok(Seen::Absent),
                    // The module is there, and so its folder must be.
                    Ok(true) => Err(unread(&self.kstat, &error)),
                    Err(error) => Err(unread(&self.module, &error)),
                };
            }
            Err(error) => return Err(unread(&self.kstat, &error)),
        };
        let mut seen = Seen::Absent;
        for (count, entry) in entries.enumerate() {
            let entry = entry.map_err(|error| unread(&self.kstat, &error))?;
            if count >= POOLS_MAX {
                return Err(format!(
                    "more than {POOLS_MAX} pools are imported; it counts as imported"
                ));
            }
            let place = entry.path();
            let is_folder = entry
                .file_type()
                .map_err(|error| unread(&place, &error))?
                .is_dir();
            let other = entry.file_name();
            // `$import` and the like: pools that are only looked at.
            if !is_folder || other.to_string_lossy().starts_with('$') {
                continue;
            }
            let is_it = self.guid_of(&place)?.map(|found| found == guid);
            if other.as_os_str() == name {
                let state = place.join("state");
                let text = fs::read_to_string(&state).map_err(|error| unread(&state, &error))?;
                seen = Seen::Here {
                    state: text.trim().to_owned(),
                    is_it,
                };
            } else if is_it == Some(true) {
                return Err(format!(
                    "it is imported under the name {}: export it there (`zpool export {}`)",
                    other.to_string_lossy(),
                    other.to_string_lossy()
                ));
            }
        }
        Ok(seen)
    }

    /// OpenZFS tells it from 2.3 on.
    fn guid_of(&self, place: &std::path::Path) -> Result<Option<u64>, String> {
        let file = place.join("guid");
        match fs::read_to_string(&file) {
            Ok(text) => match text.trim().parse() {
                Ok(guid) => Ok(Some(guid)),
                Err(_) => Err(format!(
                    "{}: {:?} is no GUID; it counts as imported",
                    file.display(),
                    text.trim()
                )),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!(
                "{}: {error}; it counts as imported",
                file.display()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tree() -> (tempfile::TempDir, Kernel) {
        let folder = tempfile::tempdir().expect("a folder");
        let roots = Roots {
            sys: folder.path().join("sys"),
            proc: folder.path().join("proc"),
        };
        fs::create_dir_all(roots.sys.join("module")).expect("made");
        fs::create_dir_all(&roots.proc).expect("made");
        let kernel = Kernel::new(&roots);
        (folder, kernel)
    }

    fn pool(kernel: &Kernel, name: &str, state: &str, guid: Option<&str>) -> PathBuf {
        let place = kernel.kstat.join(name);
        fs::create_dir_all(&place).expect("made");
        fs::create_dir_all(&kernel.module).expect("made");
        fs::write(place.join("state"), format!("{state}\n")).expect("written");
        if let Some(guid) = guid {
            fs::write(place.join("guid"), format!("{guid}\n")).expect("written");
        }
        place
    }

    #[test]
    fn the_kernels_word_counts() {
        let (_folder, kernel) = tree();
        assert_eq!(kernel.find("tank", 7), Ok(Seen::Absent));
        assert!(!kernel.is_loaded());
        pool(&kernel, "other", "ONLINE", Some("8"));
        pool(&kernel, "$import", "ONLINE", Some("7"));
        assert_eq!(kernel.find("tank", 7), Ok(Seen::Absent));
        pool(&kernel, "tank", "SUSPENDED", Some("7"));
        let here = |state: &str, is_it| Seen::Here {
            state: state.to_owned(),
            is_it,
        };
        assert_eq!(kernel.find("tank", 7), Ok(here("SUSPENDED", Some(true))));
        assert_eq!(kernel.find("tank", 6), Ok(here("SUSPENDED", Some(false))));
        assert!(
            kernel
                .find("store", 7)
                .expect_err("another name")
                .contains("under the name tank")
        );
        pool(&kernel, "old", "ONLINE", None);
        assert_eq!(kernel.find("old", 5), Ok(here("ONLINE", None)));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let (_folder, kernel) = tree();
        fs::create_dir_all(&kernel.module).expect("made");
        assert!(
            kernel
                .find("tank", 7)
                .expect_err("no folder")
                .contains("counts as imported")
        );
        let place = pool(&kernel, "tank", "ONLINE", Some("x"));
        assert!(
            kernel
                .find("tank", 7)
                .expect_err("no number")
                .contains("no GUID")
        );
        fs::remove_file(place.join("guid")).expect("removed");
        fs::remove_file(place.join("state")).expect("removed");
        assert!(
            kernel
                .find("tank", 7)
                .expect_err("no state")
                .contains("counts as imported")
        );
        fs::remove_dir_all(&kernel.kstat).expect("removed");
        fs::write(&kernel.kstat, "").expect("written");
        assert!(kernel.find("tank", 7).is_err());
    }

    #[test]
    fn versions() {
        let (_folder, kernel) = tree();
        assert_eq!(kernel.version(), None);
        for (text, version) in [
            ("2.4.4-1~bpo13+1\n", Some((2, 4, 4))),
            ("2.1.11-1\n", Some((2, 1, 11))),
            ("2.5-rc1\n", Some((2, 5, u32::MAX))),
            ("x\n", None),
        ] {
            fs::create_dir_all(&kernel.module).expect("made");
            fs::write(Path::new(&kernel.module).join("version"), text).expect("written");
            assert_eq!(kernel.version(), version, "{text}");
        }
    }

    #[test]
    fn the_host_id_is_the_modules_then_the_files() {
        let (folder, kernel) = tree();
        fs::create_dir_all(&kernel.spl).expect("made");
        let file = folder.path().join("hostid");
        let path = kernel.spl.join("spl_hostid_path");
        fs::write(path, format!("{}\n", file.display())).expect("written");
        assert_eq!(kernel.host_id(), None);
        for (bytes, id) in [
            (&[1, 2][..], None),
            (&[0; 4], None),
            (&[7; 4], Some(0x0707_0707)),
        ] {
            fs::write(&file, bytes).expect("written");
            assert_eq!(kernel.host_id(), id);
        }
        let set = |text: &str| fs::write(kernel.spl.join("spl_hostid"), text).expect("written");
        set("0\n");
        assert_eq!(kernel.host_id(), Some(0x0707_0707));
        set("11\n");
        assert_eq!(kernel.host_id(), Some(11));
    }

    #[test]
    fn who_waits_for_other_hosts_depends_on_the_version() {
        let (_folder, kernel) = tree();
        fs::create_dir_all(&kernel.spl).expect("made");
        fs::create_dir_all(&kernel.module).expect("made");
        fs::write(kernel.spl.join("spl_hostid"), "11\n").expect("written");
        let cases = [
            (false, None),
            (false, Some(12)),
            (false, Some(11)),
            (true, Some(12)),
            (true, None),
            (true, Some(11)),
        ];
        let old = [true, true, false, false, false, false];
        let new = [true, true, true, true, true, false];
        for (version, expected) in [
            ("2.1.11-1", old),
            ("2.2.9-1", old),
            ("2.3.5-1", old),
            ("2.3.6-1", new),
            ("2.4.0-1", old),
            ("2.4.1-1", new),
            ("2.5.0-1", new),
            ("2.3-git", new),
            ("x", new),
        ] {
            fs::write(kernel.module.join("version"), version).expect("written");
            let waits = cases.map(|(is_exported, host)| kernel.waits(is_exported, host));
            assert_eq!(waits, expected, "{version}");
        }
        // Without a host id nobody is this machine.
        fs::remove_file(kernel.spl.join("spl_hostid")).expect("removed");
        fs::write(kernel.spl.join("spl_hostid_path"), "/none\n").expect("written");
        assert!(kernel.waits(true, None) && kernel.waits(true, Some(11)));
    }
}
