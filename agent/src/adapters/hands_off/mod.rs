//! What of the operating system would use the shared disks by itself, at a boot or when a disk appears (protocol.md,
//! section 6): read from its configuration, never from the disks.
//!
//! ```text
//!   shared disks ─ sysfs, udev's database ─▶ every name of them, of their partitions and of the volumes above
//!       zpool.cache · zfs-import-* · fstab · mdadm.conf · LVM · multipath.conf ──▶ findings: file, line, remedy
//! ```

mod fstab;
mod lvm;
mod md;
mod multipath;
mod names;
mod zfs;

#[cfg(test)]
mod tests;

use crate::adapters::disk_paths::{Roots, SharedDisk};
use names::Names;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest text file that is read; the longest of them, lvm.conf with its comments, has 120 KiB.
const TEXT_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// One thing that must not be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands.
    pub file: PathBuf,
    /// Line in it, from 1; 0 where it is the file itself.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// The system may be kept off, in a way that can't be judged from here: told, and no reason to refuse a start.
    pub doubtful: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// The disks.
    pub disks: &'a [SharedDisk],
    /// Names of the pools; mountpoints of those whose mountpoint is in our configuration (a ZFS pool has its own).
    pub pools: &'a [(String, Option<PathBuf>)],
}

/// Looks at the configuration below `files` (`/`). Nothing is found where no disk is shared.
pub fn look(shared: Shared<'_>, roots: &Roots, files: &Path) -> Vec<Finding> {
    if shared.disks.is_empty() {
        return Vec::new();
    }
    let names = Names::of(shared.disks, roots, files);
    let files = Files(files);
    let mut found = zfs::look(&files, roots, &names, shared.pools);
    found.extend(fstab::look(&files, &names, shared.pools));
    found.extend(md::look(&files, &names));
    found.extend(lvm::look(&files, &names));
    found.extend(multipath::look(&files, shared.disks));
    found
}

/// The system's files.
struct Files<'a>(&'a Path);

impl Files<'_> {
    /// The text of a file; `None` where there is none. A file that can't be read is a finding of its own.
    fn text(&self, path: &str, found: &mut Vec<Finding>) -> Option<String> {
        let bytes = self.bytes(path, TEXT_MAX_BYTES, found)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&self, path: &str, longest: u64, found: &mut Vec<Finding>) -> Option<Vec<u8>> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            let file = File::open(self.0.join(path))?;
            file.take(longest + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > longest {
                return Err(std::io::Error::other(format!(
                    "longer than {longest} bytes"
                )));
            }
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                found.push(self.at(path, 0, format!("can't be read: {error}"), "check the file"));
                None
            }
        }
    }

    /// Files of a folder whose names end so, in the order of their names.
    fn list(&self, folder: &str, end: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.0.join(folder)) else {
            return Vec::new();
        };
        let names = entries.flatten().take(10_000);
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut paths: Vec<String> = names
            .filter(|name| name.ends_with(end))
            .map(|name| format!("{folder}/{name}"))
            .collect();
        paths.sort();
        paths
    }

    /// A udev rule that is in force: the first folder that has it decides, and an empty file or a link to /dev/null
    /// takes it away.
    fn has_udev_rule(&self, name: &str) -> bool {
        let folders = [
            "etc/udev",
            "run/udev",
            "usr/local/lib/udev",
            "usr/lib/udev",
            "lib/udev",
        ];
        let paths = folders.map(|folder| self.0.join(folder).join("rules.d").join(name));
        let first = paths.iter().find(|path| path.symlink_metadata().is_ok());
        first.is_some_and(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.len() > 0)
        })
    }

    fn at(&self, path: &str, line: usize, problem: String, remedy: &str) -> Finding {
        Finding {
            file: Path::new("/").join(path),
            line,
            problem,
            remedy: remedy.to_owned(),
            doubtful: false,
        }
    }
}

/// Lines with their numbers, from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}
