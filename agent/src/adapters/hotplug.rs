//! Hears from the kernel when disks come and go (`NETLINK_KOBJECT_UEVENT`), in a thread of its own.
//!
//! The kernel's datagrams, not udev's: those come later, or never where no udev runs. What comes is only a reason to
//! look at sysfs again; nothing is believed of it.

use super::netlink::Netlink;
use failover_core::adapters::Failure;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Group of the kernel's own datagrams.
const GROUP_KERNEL: u32 = 1;
/// `UEVENT_BUFFER_SIZE` of the kernel is 2 KiB, and the header comes before it.
const DATAGRAM_MAX: usize = 8 * 1024;
/// Fields of one event; the kernel has 64 at most (`UEVENT_NUM_ENVP`).
const FIELDS_MAX: usize = 64;
/// Interval at which the thread looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(100);
/// A look waits until nothing has come for this long: a path brings several events.
const QUIET: Duration = Duration::from_millis(200);
/// But no longer than this, and no look follows another sooner.
const LONGEST: Duration = Duration::from_secs(1);
/// Everything is looked at again now and then, should an event ever be lost unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One event of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent<'a> {
    /// `add`, `remove`, `change`, …
    pub action: &'a str,
    /// Path under `/sys`.
    pub devpath: &'a str,
    /// `block`, `nvme`, `scsi`, …
    pub subsystem: &'a str,
    /// `disk` or `partition`, for block devices.
    pub devtype: Option<&'a str>,
}

impl Uevent<'_> {
    /// Reads a datagram: `ACTION@DEVPATH`, then `KEY=VALUE` fields, each ended by a zero byte. `None` for anything
    /// else, udev's own datagrams included, and where header and fields differ.
    pub fn parse(datagram: &[u8]) -> Option<Uevent<'_>> {
        let body = datagram.strip_suffix(&[0])?;
        let mut parts = body.split(|byte| *byte == 0);
        let header = std::str::from_utf8(parts.next()?).ok()?;
        let (action, devpath) = header.split_once('@')?;
        let (mut subsystem, mut devtype) = (None, None);
        for (number, part) in parts.enumerate() {
            if number >= FIELDS_MAX {
                return None;
            }
            // A field in another encoding is nobody's that we need.
            let Ok(part) = std::str::from_utf8(part) else {
                continue;
            };
            match part.split_once('=')? {
                ("ACTION", value) if value != action => return None,
                ("DEVPATH", value) if value != devpath => return None,
                ("SUBSYSTEM", value) => subsystem = Some(value),
                ("DEVTYPE", value) => devtype = Some(value),
                _ => {}
            }
        }
        let plain = !action.is_empty() && action.bytes().all(|byte| byte.is_ascii_lowercase());
        (plain && devpath.starts_with('/')).then_some(Uevent {
            action,
            devpath,
            subsystem: subsystem?,
            devtype,
        })
    }
}

/// Whether an event may mean that a path to a disk came, went or changed.
pub const DISK_EVENTS: fn(&Uevent<'_>) -> bool =
    |event| event.subsystem == "block" && event.devtype == Some("disk");

/// The listener; ends when dropped.
#[derive(Debug)]
pub struct Hotplug {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hotplug {
    /// Calls `look` on its own thread soon after events that `matter`, once for a burst of them, and every half
    /// minute.
    ///
    /// # Errors
    /// No socket or thread for it.
    pub fn start(
        matter: fn(&Uevent<'_>) -> bool,
        mut look: impl FnMut() + Send + 'static,
    ) -> Result<Hotplug, Failure> {
        let failed = |why: String| Failure(format!("disks that come and go can't be heard: {why}"));
        let socket = Netlink::open(SockProtocol::NetlinkKObjectUEvent, GROUP_KERNEL)
            .map_err(|errno| failed(format!("uevents: {errno}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::Builder::new()
            .name("hotplug".to_owned())
            .spawn(move || {
                let mut due = Due::new(Instant::now());
                let mut buffer = vec![0; DATAGRAM_MAX];
                while !ended.load(Ordering::Relaxed) {
                    match socket.receive(&mut buffer, LOOK_UP) {
                        Ok(Some(length)) => {
                            let event = buffer.get(..length).and_then(Uevent::parse);
                            if event.is_some_and(|event| matter(&event)) {
                                due.heard(Instant::now());
                            }
                        }
                        Ok(None) => {}
                        // More came than fits: what was lost may have mattered.
                        Err(Errno::ENOBUFS) => due.heard(Instant::now()),
                        Err(errno) => {
                            tracing::warn!(%errno, "reading uevents failed");
                            std::thread::sleep(LOOK_UP);
                        }
                    }
                    if due.is(Instant::now()) {
                        look();
                        due = Due::new(Instant::now());
                    }
                }
            })
            .map_err(|error| failed(format!("no thread: {error}")))?;
        Ok(Hotplug {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Hotplug {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When the next look is due.
#[derive(Debug)]
struct Due {
    looked: Instant,
    /// First and newest event since then.
    heard: Option<(Instant, Instant)>,
}

impl Due {
    fn new(looked: Instant) -> Due {
        Due {
            looked,
            heard: None,
        }
    }

    fn heard(&mut self, now: Instant) {
        let (first, _) = self.heard.unwrap_or((now, now));
        self.heard = Some((first, now));
    }

    fn is(&self, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        match self.heard {
            // Storms (a cable of a hundred disks) cost one look a second.
            Some((first, newest)) => {
                since(first) >= LONGEST || since(newest) >= QUIET && since(self.looked) >= LONGEST
            }
            None => since(self.looked) >= LOOK_AGAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: &[u8] = b"add@/devices/pci0/host2/2:0:0:0/block/sdb\0ACTION=add\0\
        DEVPATH=/devices/pci0/host2/2:0:0:0/block/sdb\0SUBSYSTEM=block\0MAJOR=8\0MINOR=16\0DEVNAME=sdb\0\
        DEVTYPE=disk\0DISKSEQ=12\0SEQNUM=4711\0";

    #[test]
    fn an_event_of_the_kernel_is_read() {
        let event = Uevent::parse(ADD).expect("read");
        assert_eq!(event.action, "add");
        assert!(event.devpath.ends_with("/block/sdb"));
        assert_eq!((event.subsystem, event.devtype), ("block", Some("disk")));
        assert!(DISK_EVENTS(&event));
        let other =
            b"change@/devices/x\0ACTION=change\0DEVPATH=/devices/x\0SUBSYSTEM=net\0SEQNUM=1\0";
        assert!(!DISK_EVENTS(&Uevent::parse(other).expect("read")));
        let part = b"add@/devices/x\0SUBSYSTEM=block\0DEVTYPE=partition\0";
        assert!(!DISK_EVENTS(&Uevent::parse(part).expect("read")));
    }

    #[test]
    fn other_bytes_are_no_events() {
        let cases: [&[u8]; 9] = [
            b"",
            b"\0",
            b"add@/x",
            b"add@/x\0",
            b"libudev\0\xfe\xed\xca\xfe\0",
            b"add@/x\0SUBSYSTEM=block\0ACTION=remove\0",
            b"add@/x\0SUBSYSTEM=block\0DEVPATH=/y\0",
            b"add@x\0SUBSYSTEM=block\0",
            b"add@/x\0SUBSYSTEM=block\0no field\0",
        ];
        for bytes in cases {
            assert_eq!(Uevent::parse(bytes), None, "{bytes:?}");
        }
        let mut many = b"add@/x\0SUBSYSTEM=block\0".to_vec();
        many.extend(b"A=1\0".repeat(FIELDS_MAX + 1));
        assert_eq!(Uevent::parse(&many), None);
        let strange = b"add@/x\0SUBSYSTEM=block\0NAME=\xff\xfe\0";
        assert!(Uevent::parse(strange).is_some());
    }

    #[test]
    fn cut_and_changed_datagrams_never_panic() {
        for length in 0..ADD.len() {
            let _ = Uevent::parse(&ADD[..length]);
            let mut changed = ADD.to_vec();
            for byte in [0, b'=', b'@', 0xff] {
                changed[length] = byte;
                let _ = Uevent::parse(&changed);
            }
        }
    }

    #[test]
    fn a_burst_is_one_look_and_a_storm_one_a_second() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut due = Due::new(start);
        assert!(!due.is(at(29_000)) && due.is(at(30_000)));
        due.heard(at(5_000));
        due.heard(at(5_150));
        assert!(!due.is(at(5_200)) && due.is(at(5_350)));
        let mut due = Due::new(start);
        due.heard(at(10));
        assert!(!due.is(at(500)), "it looked just now");
        for millis in (20..1_010).step_by(10) {
            assert!(!due.is(at(millis)));
            due.heard(at(millis));
        }
        assert!(due.is(at(1_010)));
    }
}
