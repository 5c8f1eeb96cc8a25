//! The few ioctls of block and loop devices that a mounted pool needs.

use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOOP_SET_FD: libc::c_int = 0x4c00;
const LOOP_CLR_FD: libc::c_int = 0x4c01;
const LOOP_CTL_GET_FREE: libc::c_int = 0x4c82;
/// `_IO(0x12, 97)`.
const BLKFLSBUF: libc::c_int = 0x1261;
/// `_IO(0x12, 95)`.
const BLKRRPART: libc::c_int = 0x125f;
/// Another program may take the free device that we were told of; we ask again.
const ATTEMPTS: u32 = 16;

nix::ioctl_none_bad!(ioctl_flush_buffers, BLKFLSBUF);
nix::ioctl_none_bad!(ioctl_reread_partitions, BLKRRPART);
nix::ioctl_none_bad!(ioctl_loop_free, LOOP_CTL_GET_FREE);
nix::ioctl_write_int_bad!(ioctl_loop_set, LOOP_SET_FD);
nix::ioctl_none_bad!(ioctl_loop_clear, LOOP_CLR_FD);

/// Writes what is dirty and drops every cached block of the device, so that the next reader asks the disk.
pub(crate) fn drop_buffers(device: &File) -> nix::Result<()> {
    // SAFETY: the request takes no argument; the descriptor is open while `device` lives.
    unsafe { ioctl_flush_buffers(device.as_raw_fd()) }.map(|_| ())
}

/// The loop device whose backing file is `file`, if there is one.
pub(crate) fn loop_of(file: &Path) -> std::io::Result<Option<PathBuf>> {
    let wanted = file.canonicalize()?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let backing = entry.path().join("loop/backing_file");
        // Not a loop device, or one that was detached just now.
        let Ok(text) = std::fs::read_to_string(backing) else {
            continue;
        };
        if Path::new(text.trim_end_matches('\n')) == wanted {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

/// Attaches `file` to a free loop device.
pub(crate) fn attach_loop(file: &Path) -> std::io::Result<PathBuf> {
    let backing = OpenOptions::new().read(true).write(true).open(file)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let mut last = Errno::EBUSY;
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument and returns a number; the descriptor is open.
        let number = unsafe { ioctl_loop_free(control.as_raw_fd()) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        // SAFETY: the argument is a descriptor that is open; the kernel takes its own reference to the file.
        match unsafe { ioctl_loop_set(device.as_raw_fd(), backing.as_raw_fd()) } {
            Ok(_) => return Ok(path),
            Err(Errno::EBUSY) => last = Errno::EBUSY,
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(last.into())
}

/// Detaches a loop device from its file; one that has none is fine.
pub(crate) fn detach_loop(path: &Path) -> std::io::Result<()> {
    let device = File::open(path)?;
    // SAFETY: the request takes no argument; the descriptor is open.
    match unsafe { ioctl_loop_clear(device.as_raw_fd()) } {
        Ok(_) | Err(Errno::ENXIO) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a block device for reading, past the cache if `direct`.
pub(crate) fn open_block(path: &Path, direct: bool) -> std::io::Result<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags | libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        Ok(file)
    } else {
        Err(Errno::ENOTBLK.into())
    }
}

/// Whether no filesystem, of whatever mount namespace, and no volume holds the device.
pub(crate) fn is_free(path: &Path) -> std::io::Result<bool> {
    // Exclusive opening of a block device fails exactly while the kernel has it claimed for another use.
    let flags = libc::O_EXCL | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match opened {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has the kernel read the disk's partition table again; `EBUSY` while a partition is in use. Needs no write access.
pub(crate) fn reread_partitions(disk: &File) -> nix::Result<()> {
    // SAFETY: the request takes no argument; the descriptor is open while `disk` lives.
    unsafe { ioctl_reread_partitions(disk.as_raw_fd()) }.map(|_| ())
}

/// Opens for reading past the cache, where the file allows that.
pub(crate) fn open_direct(path: &Path) -> std::io::Result<File> {
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags | libc::O_CLOEXEC);
        options.open(path)
    };
    match open(libc::O_DIRECT) {
        // A file on a tmpfs has no cache to pass.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        other => other,
    }
}

/// Reads up to `length` bytes from `at`; fewer only at the end of the file.
pub(crate) fn read_whole(file: &File, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = read_aligned(file, at, length)?;
    while bytes.len() < length {
        let more = read_aligned(file, at + bytes.len() as u64, length - bytes.len())?;
        if more.is_empty() {
            break;
        }
        bytes.extend(more);
    }
    Ok(bytes)
}

/// Reads once with a buffer that direct access accepts.
pub(crate) fn read_aligned(disk: &File, at: u64, len: usize) -> std::io::Result<Vec<u8>> {
    const ALIGN: usize = 4096;
    let mut buffer = vec![0u8; len + ALIGN];
    let skip = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
    let read = disk.read_at(&mut buffer[skip..skip + len], at)?;
    Ok(buffer[skip..skip + read].to_vec())
}
