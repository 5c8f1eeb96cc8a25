//! The hardware watchdog: resets the machine when nobody pets it. It cleans up after a loser; no timer of the safety
//! protocol counts on it.

use failover_core::adapters::{Failure, Watchdog};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

mod request {
    nix::ioctl_read!(get_timeout, b'W', 7, libc::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(keepalive, b'W', 5, libc::c_int);
}

/// A watchdog device. Dropped without `disarm`, it stays armed and resets the machine: a daemon that ended without
/// cleaning up is what it is for.
#[derive(Debug)]
pub struct DeviceWatchdog {
    device: File,
    timeout: Duration,
    failed: bool,
}

impl DeviceWatchdog {
    /// Opens the device, which arms it, and sets its timeout in whole seconds.
    pub fn open(path: &Path, timeout: Duration) -> Result<DeviceWatchdog, Failure> {
        let name = path.display();
        let failure = |what: String| Failure(format!("watchdog {name}: {what}"));
        let wanted = i32::try_from(timeout.as_secs())
            .ok()
            .filter(|seconds| *seconds >= 1)
            .ok_or_else(|| failure("its timeout must be 1 s to 2^31 s".to_owned()))?;
        let device = OpenOptions::new().write(true).open(path).map_err(|error| {
            failure(format!(
                "can't be opened: {error}; load its driver, and see that neither systemd (RuntimeWatchdogSec) nor \
                 another daemon holds it"
            ))
        })?;
        let mut seconds = wanted;
        // SAFETY: the request reads and writes one int, which outlives the call; the descriptor is open.
        let set = unsafe { request::set_timeout(device.as_raw_fd(), &mut seconds) };
        if let Err(errno) = set {
            // Some devices have one fixed timeout, which will do if it is not longer than what was asked for.
            // SAFETY: the request writes one int, which outlives the call; the descriptor is open.
            let fixed = unsafe { request::get_timeout(device.as_raw_fd(), &mut seconds) };
            if fixed.is_err() || seconds < 1 || seconds > wanted {
                let mut watchdog = DeviceWatchdog {
                    device,
                    timeout,
                    failed: false,
                };
                watchdog.release();
                return Err(failure(format!(
                    "can't be set to {wanted} s: {errno}; choose a timeout that the device has"
                )));
            }
        }
        // The device rounds to what it can; what it answered counts.
        let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(DeviceWatchdog {
            device,
            timeout,
            failed: false,
        })
    }

    /// The timeout in force.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Disarms and closes the device: for a clean exit alone, after everything that had to stop was stopped. Devices
    /// built with `nowayout` stay armed all the same.
    pub fn disarm(mut self) {
        self.release();
    }

    /// The letter that says: closed on purpose.
    fn release(&mut self) {
        let _ = self.device.write_all(b"V");
    }
}

impl Watchdog for DeviceWatchdog {
    fn pet(&mut self) {
        let mut unused = 0;
        // SAFETY: the request takes an int that the kernel ignores and that outlives the call; the descriptor is open.
        let result = unsafe { request::keepalive(self.device.as_raw_fd(), &mut unused) };
        if let (Err(errno), false) = (result, self.failed) {
            self.failed = true; // said once: this runs several times a second
            tracing::error!(%errno, "the watchdog can't be petted: it will reset this machine");
        }
    }
}

/// For machines without a watchdog.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWatchdog;

impl Watchdog for NoWatchdog {
    fn pet(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused_with_the_remedy() {
        let open = |path: &str, seconds| {
            DeviceWatchdog::open(Path::new(path), Duration::from_secs(seconds))
                .expect_err("none")
                .0
        };
        assert!(open("/nowhere/watchdog", 10).contains("load its driver"));
        assert!(open("/dev/null", 10).contains("can't be set to 10 s"));
        assert!(open("/dev/null", 0).contains("must be 1 s"));
    }
}
