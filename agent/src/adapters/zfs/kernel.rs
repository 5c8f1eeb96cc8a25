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
}

impl Kernel {
    pub(crate) fn new(roots: &Roots) -> Kernel {
        Kernel {
            kstat: roots.proc.join("spl/kstat/zfs"),
            module: roots.sys.join("module/zfs"),
        }
    }

    /// Version of the module, such as `(2, 4)`; `None` where it isn't loaded or doesn't say.
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let text = fs::read_to_string(self.module.join("version")).ok()?;
        let mut numbers = text.trim().split(['.', '-', '_', '~']).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
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
            ("2.4.4-1~bpo13+1\n", Some((2, 4))),
            ("2.1.11-1\n", Some((2, 1))),
            ("x\n", None),
        ] {
            fs::create_dir_all(&kernel.module).expect("made");
            fs::write(Path::new(&kernel.module).join("version"), text).expect("written");
            assert_eq!(kernel.version(), version, "{text}");
        }
    }
}
