//! SCSI commands through the kernel: the SG_IO ioctl on `/dev/sdX`.
//!
//! - The node is opened for reading only, even for PERSISTENT RESERVE OUT. Closing a disk that was open for writing
//!   makes udev read its partitions anew and blkid probe it, on a disk that the other controller may be using; and
//!   with ZFS a probe at the wrong moment delays an import by seconds.
//! - The kernel checks each command (`scsi_cmd_allowed`): INQUIRY passes on any descriptor, PERSISTENT RESERVE IN and
//!   OUT are on neither of its lists and pass only with CAP_SYS_RAWIO, however the node was opened. With it, the mode
//!   of the descriptor isn't looked at: that is why reading is enough.
//! - The kernel raises every timeout on this node to 7 s (`BLK_MIN_SG_TIMEOUT`). That is as well: a command that times
//!   out starts the SCSI error handler, which stops all commands of the host adapter while it aborts and resets. So
//!   the deadline of a takeover is kept by whoever waits for us, not by this timeout.
//! - A dm node is never opened: SG_IO there goes to one path of the map's choosing.

use crate::adapters::ports::{Data, Node, PortError, ScsiEnd, ScsiPort};
use crate::adapters::scsi::sense::SENSE_MAX;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

const SG_IO: libc::c_int = 0x2285;
const SG_SCSI_RESET: libc::c_int = 0x2284;
/// `SG_SCSI_RESET_DEVICE | SG_SCSI_RESET_NO_ESCALATE`: the unit, and never its target, bus or adapter instead.
const RESET_UNIT: libc::c_int = 0x101;
const INTERFACE: libc::c_int = b'S' as libc::c_int;
const TO_DEVICE: libc::c_int = -2;
const FROM_DEVICE: libc::c_int = -3;
/// Most data of one command of ours.
const DATA_MAX: usize = 64 * 1024;

const STATUS_CHECK_CONDITION: u8 = 0x02;
const STATUS_RESERVATION_CONFLICT: u8 = 0x18;
/// `DRIVER_SENSE`: kernels before 5.14 say with it that there are sense data; no failure.
const DRIVER_SENSE: u16 = 0x08;

/// `struct sg_io_hdr` of `scsi/sg.h`.
#[repr(C)]
#[derive(Debug)]
struct Header {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Header>() == 88);

/// The macro's functions are public: kept in here.
mod request {
    nix::ioctl_readwrite_bad!(sg_io, super::SG_IO, super::Header);
    nix::ioctl_readwrite_bad!(sg_scsi_reset, super::SG_SCSI_RESET, libc::c_int);
}

impl Header {
    /// No command, no data.
    const fn empty() -> Header {
        Header {
            interface_id: INTERFACE,
            dxfer_direction: FROM_DEVICE,
            cmd_len: 0,
            mx_sb_len: 0,
            iovec_count: 0,
            dxfer_len: 0,
            dxferp: std::ptr::null_mut(),
            cmdp: std::ptr::null(),
            sbp: std::ptr::null_mut(),
            timeout: 1,
            flags: 0,
            pack_id: 0,
            usr_ptr: std::ptr::null_mut(),
            status: 0,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status: 0,
            driver_status: 0,
            resid: 0,
            duration: 0,
            info: 0,
        }
    }
}

/// One opened path to a SCSI disk.
#[derive(Debug)]
pub struct SgPort {
    device: File,
    name: String,
}

impl SgPort {
    /// Opens the node of a path under `dev` (`/dev`), for reading.
    ///
    /// # Errors
    /// Opens the node for reading, as the head of this module tells.
    pub fn open(dev: &Path, node: &Node) -> Result<SgPort, PortError> {
        Ok(SgPort {
            device: open_node(dev, node)?,
            name: node.name.clone(),
        })
    }
}

/// Opens a path's node for reading and checks that it is the device that sysfs spoke of.
///
/// # Errors
/// It is missing, no block device, or has another device number; or this process may not open it.
pub(crate) fn open_node(dev: &Path, node: &Node) -> Result<File, PortError> {
    let path = dev.join(&node.name);
    let shown = path.display();
    // Without O_NONBLOCK an open waits for a drive that is spinning up.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&path);
    let file = opened.map_err(|error| errno_error("opening", &path.to_string_lossy(), &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| PortError::Failed(format!("{shown}: {error}")))?;
    if !metadata.file_type().is_block_device() {
        let why = format!("{shown} is no block device; remove it, udev makes the right one");
        return Err(PortError::Failed(why));
    }
    let number = metadata.rdev();
    let found = (libc::major(number), libc::minor(number));
    if found != node.number {
        let (wanted, found) = (node.number, found);
        return Err(PortError::Gone(format!(
            "{shown} is device {}:{} now, it was {}:{}: the name went to another disk",
            found.0, found.1, wanted.0, wanted.1
        )));
    }
    Ok(file)
}

/// An error of the kernel, by what can be done about it.
pub(crate) fn errno_error(doing: &str, name: &str, error: &std::io::Error) -> PortError {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    match errno {
        Errno::EPERM | Errno::EACCES => PortError::Denied(format!(
            "{doing} {name}: {errno}; the daemon must run as root with CAP_SYS_RAWIO and CAP_SYS_ADMIN"
        )),
        Errno::ENODEV | Errno::ENXIO | Errno::ENOENT => {
            PortError::Gone(format!("{doing} {name}: {errno}: the device is gone"))
        }
        errno => PortError::Failed(format!("{doing} {name}: {errno}")),
    }
}

impl ScsiPort for SgPort {
    fn submit(
        &mut self,
        cdb: &[u8],
        data: Data<'_>,
        timeout: Duration,
    ) -> Result<ScsiEnd, PortError> {
        let mut sense = [0_u8; SENSE_MAX];
        let (direction, mut buffer) = match data {
            Data::Out(bytes) => (TO_DEVICE, bytes.to_vec()),
            Data::In(room) => (FROM_DEVICE, vec![0; room]),
        };
        let (Ok(cmd_len), true) = (u8::try_from(cdb.len()), buffer.len() <= DATA_MAX) else {
            let why = "the command or its data are too long";
            return Err(PortError::Failed(format!("{}: {why}", self.name)));
        };
        let mut header = Header {
            dxfer_direction: direction,
            cmd_len,
            mx_sb_len: SENSE_MAX as u8,
            dxfer_len: buffer.len() as u32,
            dxferp: buffer.as_mut_ptr().cast(),
            cmdp: cdb.as_ptr(),
            sbp: sense.as_mut_ptr(),
            timeout: u32::try_from(timeout.as_millis())
                .unwrap_or(u32::MAX)
                .max(1),
            ..Header::empty()
        };
        // SAFETY: the three pointers are to `cdb`, `buffer` and `sense`, which live through the call and are as long
        // as the header says; the ioctl is synchronous and keeps none of them. The descriptor is open.
        let done = unsafe { request::sg_io(self.device.as_raw_fd(), &raw mut header) };
        if let Err(errno) = done {
            return Err(errno_error("sending to", &self.name, &errno.into()));
        }
        if matches!(data, Data::Out(_)) {
            buffer.clear();
        }
        ended(&self.name, &header, &sense, buffer)
    }

    fn reset_unit(&mut self) -> Result<(), PortError> {
        let mut what = RESET_UNIT;
        // SAFETY: the pointer is to one int that lives through the call; the ioctl reads it and keeps nothing. The
        // descriptor is open.
        let done = unsafe { request::sg_scsi_reset(self.device.as_raw_fd(), &raw mut what) };
        match done {
            Ok(_) => Ok(()),
            Err(errno) => Err(errno_error("resetting", &self.name, &errno.into())),
        }
    }
}

/// Reads the header that the kernel filled in.
fn ended(
    name: &str,
    header: &Header,
    sense: &[u8],
    mut data: Vec<u8>,
) -> Result<ScsiEnd, PortError> {
    let sense = &sense[..sense.len().min(header.sb_len_wr.into())];
    // Before the host's status: some kernels tell a reservation conflict and some sense data there as well.
    let told = header.status == STATUS_RESERVATION_CONFLICT
        || header.status == STATUS_CHECK_CONDITION && !sense.is_empty();
    if !told && header.host_status != 0 {
        let words = host_words(header.host_status);
        let why = format!("{name}: {words} (host status {:#x})", header.host_status);
        return Err(match header.host_status {
            0x01 | 0x04 => PortError::Gone(why),
            _ => PortError::Failed(why),
        });
    }
    let driver = header.driver_status & 0x0f;
    if !told && driver != 0 && driver != DRIVER_SENSE {
        return Err(PortError::Failed(format!(
            "{name}: the driver gave up (driver status {:#x})",
            header.driver_status
        )));
    }
    let missing = usize::try_from(header.resid).unwrap_or(0);
    data.truncate(data.len().saturating_sub(missing));
    Ok(ScsiEnd {
        status: header.status & 0x7e,
        sense: sense.to_vec(),
        data,
    })
}

/// The kernel's host bytes (`scsi/scsi_status.h`) in words.
fn host_words(status: u16) -> &'static str {
    match status {
        0x01 => "no connection to the disk",
        0x02 => "the bus stayed busy",
        0x03 => "the command's time ran out and it was aborted",
        0x04 => "no such target",
        0x05 => "the command was aborted",
        0x06 => "parity error",
        0x07 => "the adapter reports an error",
        0x08 => "the bus or the device was reset",
        0x0b => "transient error of the adapter",
        0x0e => "the path was disrupted",
        0x0f => "the path is being given up",
        0x14 => "the path is marginal",
        _ => "the command failed on its way",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::ports::Kind;

    #[test]
    fn good_data_are_as_long_as_the_kernel_says() {
        let mut done = Header::empty();
        done.resid = 4;
        let end = ended("sdb", &done, &[0; 252], vec![7; 10]).expect("good");
        assert_eq!((end.status, end.data.len(), end.sense.len()), (0, 6, 0));
        done.resid = -3;
        let end = ended("sdb", &done, &[0; 252], vec![7; 10]).expect("good");
        assert_eq!(end.data.len(), 10);
        done.resid = 99;
        let end = ended("sdb", &done, &[0; 252], vec![7; 10]).expect("good");
        assert_eq!(end.data.len(), 0);
    }

    #[test]
    fn a_conflict_is_told_whatever_the_host_byte_says() {
        let mut done = Header::empty();
        done.status = STATUS_RESERVATION_CONFLICT;
        // DID_NEXUS_FAILURE
        done.host_status = 0x11;
        let end = ended("sdb", &done, &[0; 252], vec![]).expect("told");
        assert_eq!(end.status, STATUS_RESERVATION_CONFLICT);
    }

    #[test]
    fn sense_data_are_told_with_an_old_kernels_driver_byte() {
        let mut done = Header::empty();
        done.status = STATUS_CHECK_CONDITION;
        done.driver_status = DRIVER_SENSE;
        done.sb_len_wr = 18;
        let end = ended("sdb", &done, &[0x70; 252], vec![]).expect("told");
        assert_eq!((end.status, end.sense.len()), (2, 18));
    }

    #[test]
    fn failures_of_path_and_driver_are_told_apart_from_a_gone_disk() {
        let mut done = Header::empty();
        done.host_status = 0x03;
        let error = ended("sdb", &done, &[], vec![]).expect_err("timed out");
        assert!(matches!(&error, PortError::Failed(why) if why.contains("time ran out")));
        done.host_status = 0x01;
        let error = ended("sdb", &done, &[], vec![]).expect_err("gone");
        assert!(matches!(error, PortError::Gone(_)));
        done.host_status = 0;
        done.driver_status = 0x06;
        let error = ended("sdb", &done, &[], vec![]).expect_err("driver");
        assert!(matches!(error, PortError::Failed(_)));
    }

    #[test]
    fn what_is_no_disk_is_not_opened() {
        let node = |name: &str| Node {
            kind: Kind::Scsi,
            name: name.to_owned(),
            number: (8, 16),
        };
        let error = SgPort::open(Path::new("/dev"), &node("null")).expect_err("a character device");
        assert!(matches!(&error, PortError::Failed(why) if why.contains("no block device")));
        let folder = tempfile::tempdir().expect("a folder");
        let error = SgPort::open(folder.path(), &node("sdb")).expect_err("nothing there");
        assert!(matches!(error, PortError::Gone(_)));
    }

    #[test]
    fn a_node_that_refuses_the_command_says_so() {
        let device = File::open("/dev/null").expect("it is always there");
        let name = "null".to_owned();
        let mut port = SgPort { device, name };
        let answer = port.submit(
            &[0x12, 0, 0, 0, 36, 0],
            Data::In(36),
            Duration::from_secs(1),
        );
        assert!(matches!(&answer, Err(PortError::Failed(why)) if why.contains("null")));
        let long = port.submit(&[0; 6], Data::In(DATA_MAX + 1), Duration::from_secs(1));
        assert!(matches!(&long, Err(PortError::Failed(why)) if why.contains("too long")));
    }
}
