//! The kernel's interface of a watchdog device (Linux, include/uapi/linux/watchdog.h; Documentation/watchdog).

use nix::errno::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

/// `WDIOF_*` of a device: what it can, and what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// It reset the machine last time (`WDIOF_CARDRESET`).
    pub const CARD_RESET: Flags = Flags(0x0020);
    /// Its timeout can be set (`WDIOF_SETTIMEOUT`).
    pub const SET_TIMEOUT: Flags = Flags(0x0080);
    /// A letter before the close disarms it (`WDIOF_MAGICCLOSE`).
    pub const MAGIC_CLOSE: Flags = Flags(0x0100);
    /// It acts before its timeout (`WDIOF_PRETIMEOUT`).
    pub const PRETIMEOUT: Flags = Flags(0x0200);
    /// It can be petted by ioctl (`WDIOF_KEEPALIVEPING`).
    pub const KEEPALIVE: Flags = Flags(0x8000);

    /// Whether all of `flags` are set.
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    /// What it can.
    pub options: Flags,
    /// Its name.
    pub identity: String,
}

/// One open watchdog; whole seconds throughout.
pub trait Device: Send {
    /// What it says of itself.
    fn support(&self) -> Result<Support, Errno>;
    /// Why the machine booted last.
    fn boot_status(&self) -> Result<Flags, Errno>;
    /// Sets the timeout; answers with what the device made of it.
    fn set_timeout(&self, seconds: i32) -> Result<i32, Errno>;
    /// The timeout in force.
    fn timeout(&self) -> Result<i32, Errno>;
    /// Sets how long before its timeout it acts; 0: not before.
    fn set_pretimeout(&self, seconds: i32) -> Result<(), Errno>;
    /// How long before its timeout it acts.
    fn pretimeout(&self) -> Result<i32, Errno>;
    /// Pets it.
    fn keep_alive(&self) -> Result<(), Errno>;
    /// Disarms it: by command, and by the letter that the next close needs.
    fn disarm(&self) -> Result<(), Errno>;
}

/// `struct watchdog_info`.
#[repr(C)]
struct Info {
    options: u32,
    firmware: u32,
    identity: [u8; 32],
}

/// `WDIOS_DISABLECARD`.
const DISABLE_CARD: libc::c_int = 1;

mod request {
    use super::Info;
    nix::ioctl_read!(support, b'W', 0, Info);
    nix::ioctl_read!(boot_status, b'W', 2, libc::c_int);
    nix::ioctl_read!(set_options, b'W', 4, libc::c_int);
    nix::ioctl_read!(keep_alive, b'W', 5, libc::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(timeout, b'W', 7, libc::c_int);
    nix::ioctl_readwrite!(set_pretimeout, b'W', 8, libc::c_int);
    nix::ioctl_read!(pretimeout, b'W', 9, libc::c_int);
}

/// A request on one int: its signature in nix.
type IntRequest = unsafe fn(libc::c_int, *mut libc::c_int) -> nix::Result<libc::c_int>;

fn with_int(file: &File, request: IntRequest, value: libc::c_int) -> Result<libc::c_int, Errno> {
    let mut value = value;
    // SAFETY: each request of this module but `support` reads or writes one int, which outlives the call; the
    // descriptor is open.
    unsafe { request(file.as_raw_fd(), &mut value) }?;
    Ok(value)
}

impl Device for File {
    fn support(&self) -> Result<Support, Errno> {
        let mut info = Info {
            options: 0,
            firmware: 0,
            identity: [0; 32],
        };
        // SAFETY: the request writes one such struct, which outlives the call; the descriptor is open.
        unsafe { request::support(self.as_raw_fd(), &mut info) }?;
        let name = info.identity.split(|byte| *byte == 0).next();
        Ok(Support {
            options: Flags(info.options),
            identity: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
        })
    }

    fn boot_status(&self) -> Result<Flags, Errno> {
        with_int(self, request::boot_status, 0).map(|bits| Flags(bits as u32))
    }

    fn set_timeout(&self, seconds: i32) -> Result<i32, Errno> {
        with_int(self, request::set_timeout, seconds)
    }

    fn timeout(&self) -> Result<i32, Errno> {
        with_int(self, request::timeout, 0)
    }

    fn set_pretimeout(&self, seconds: i32) -> Result<(), Errno> {
        with_int(self, request::set_pretimeout, seconds).map(|_| ())
    }

    fn pretimeout(&self) -> Result<i32, Errno> {
        with_int(self, request::pretimeout, 0)
    }

    fn keep_alive(&self) -> Result<(), Errno> {
        with_int(self, request::keep_alive, 0).map(|_| ())
    }

    fn disarm(&self) -> Result<(), Errno> {
        let mut file = self;
        let letter = file.write_all(b"V");
        // The letter works at the last close; a thread stuck in the kernel can hold one copy open for ever.
        with_int(self, request::set_options, DISABLE_CARD)?;
        letter.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}
