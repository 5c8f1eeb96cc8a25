//! What is mounted where, as the kernel tells it.

use std::path::{Path, PathBuf};

/// One mount of this process's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of the device, as `8:1`.
    pub(crate) device: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) fstype: String,
    pub(crate) source: PathBuf,
}

/// The kernel's list of this process's mounts.
pub(crate) const OWN: &str = "/proc/thread-self/mountinfo";

/// Mounts in the kernel's list `table`.
pub(crate) fn mounts(table: &Path) -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string(table)?))
}

/// Lines of `/proc/PID/mountinfo`; a line of another form is left out.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ');
    let device = head.nth(2)?.to_owned();
    let mountpoint = unescape(head.nth(1)?);
    let mut tail = tail.split(' ');
    Some(Mount {
        device,
        mountpoint,
        fstype: tail.next()?.to_owned(),
        source: unescape(tail.next()?),
    })
}

/// Blanks and the like stand as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4);
        let octal = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (byte, octal) {
            (b'\\', Some(value)) => {
                plain.push(value);
                at += 4;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

/// Up to `limit` processes that keep `mountpoint` busy, each as `name (pid)`: by an open file, a working folder, a
/// root or a program, or by a mount namespace of their own in which `device` is still mounted.
pub(crate) fn holders(mountpoint: &Path, device: &str, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return found;
    };
    let own_namespace = std::fs::read_link("/proc/thread-self/ns/mnt").ok();
    for process in processes.flatten() {
        let path = process.path();
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        let Some(pid) = process.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if !is_process(&pid) {
            continue;
        }
        // In another namespace the same path may be another folder; there the device tells.
        let elsewhere = std::fs::read_link(path.join("ns/mnt")).ok() != own_namespace;
        let holds = match elsewhere {
            true => std::fs::read_to_string(path.join("mountinfo"))
                .is_ok_and(|text| parse(&text).iter().any(|m| m.device == device)),
            false => uses(&path, mountpoint),
        };
        if holds {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", name.trim_end()));
            if found.len() >= limit {
                break;
            }
        }
    }
    found
}

/// Reads links alone: looking at the files behind them could hang on a dead disk.
fn uses(process: &Path, mountpoint: &Path) -> bool {
    let under = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(mountpoint));
    if ["cwd", "root", "exe"]
        .iter()
        .any(|name| under(process.join(name)))
    {
        return true;
    }
    let Ok(files) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    files.flatten().take(4096).any(|file| under(file.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_understood() {
        let line = "98 28 7:3 / /srv/pool\\040one rw,noatime shared:50 - ext4 /dev/loop3 rw,errors=remount-ro";
        let all = parse(&format!("{line}\nnonsense\n"));
        assert_eq!(
            all,
            [Mount {
                device: "7:3".to_owned(),
                mountpoint: "/srv/pool one".into(),
                fstype: "ext4".to_owned(),
                source: "/dev/loop3".into(),
            }]
        );
    }

    #[test]
    fn a_backslash_without_digits_stays() {
        assert_eq!(unescape("a\\b\\04"), PathBuf::from("a\\b\\04"));
    }
}
