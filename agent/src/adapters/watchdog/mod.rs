//! The hardware watchdog: resets the machine when nobody pets it. It cleans up after a loser; no timer of the safety
//! protocol counts on it.
//!
//! ```text
//!   start ─ what the service manager kept, or the device ─▶ checked, timeout set and read back ─▶ kept with the manager
//!   control thread ── healthy ──▶ pet
//!   an end in order ──▶ disarm, taken back from the manager          anything else: it stays armed
//! ```
//!
//! A daemon that dies with a thread stuck in the kernel never closes its copy, and the device opens once: the manager's
//! copy is the one that the next daemon goes on with. No child process inherits it.

mod device;

pub use device::{Device, Flags, Support};

use crate::supervisor;
use failover_core::adapters::{Failure, Watchdog};
use nix::errno::Errno;
use nix::sys::stat::{fstat, stat};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the descriptor with the service manager.
pub const KEPT_AS: &str = "watchdog";
/// The core pets it each second; a timeout that one late pet exceeds would reset healthy machines.
const TIMEOUT_MIN_S: i32 = 3;

/// A watchdog device. Dropped without `disarm`, it stays armed and resets the machine: a daemon that ended without
/// cleaning up is what it is for.
pub struct DeviceWatchdog {
    device: Box<dyn Device>,
    path: PathBuf,
    timeout: Duration,
    identity: String,
    failed: bool,
    kept: bool,
}

/// Who left it armed with the service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nobody: this run opened it.
    No,
    /// An earlier run that owned in this boot.
    ByOwner,
    /// An earlier run that didn't.
    ByOther,
}

impl std::fmt::Debug for DeviceWatchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DeviceWatchdog({}, {:?})",
            self.path.display(),
            self.timeout
        )
    }
}

impl DeviceWatchdog {
    /// Goes on with the one that the service manager kept if it is that of `path`; else disarms that one and opens the
    /// device, which arms it. Sets the timeout (whole seconds), reads it back, and leaves a copy with the manager.
    ///
    /// With `owned`, an earlier run owned in this boot, and may have left pools that nobody watches over if this start
    /// fails: the one that was kept then stays armed until one works.
    ///
    /// # Errors
    /// The device isn't there, is another's, or can't do what is needed of it: with the remedy.
    pub fn open(
        path: &Path,
        timeout: Duration,
        kept: Option<OwnedFd>,
        owned: bool,
    ) -> Result<DeviceWatchdog, Failure> {
        let mut stranger = match kept.map(File::from) {
            Some(kept) if same_device(&kept, path) => {
                let left = if owned { Left::ByOwner } else { Left::ByOther };
                return DeviceWatchdog::checked(Box::new(kept), path, timeout, left);
            }
            other => other,
        };
        if !owned && let Some(stranger) = stranger.take() {
            let_go(&stranger);
        }
        let device = OpenOptions::new().write(true).open(path).map_err(|error| {
            failure(path, &format!(
                "can't be opened: {error}; load its driver, and see that neither systemd (RuntimeWatchdogSec) nor \
                 another daemon holds it"
            ))
        })?;
        let copy = device.try_clone();
        let mut watchdog = DeviceWatchdog::checked(Box::new(device), path, timeout, Left::No)?;
        if let Some(stranger) = stranger {
            let_go(&stranger);
        }
        match copy.and_then(|copy| supervisor::keep(KEPT_AS, copy.as_fd())) {
            Ok(()) => watchdog.kept = true,
            Err(error) => {
                tracing::warn!("the service manager doesn't keep the watchdog: {error}");
            }
        }
        Ok(watchdog)
    }

    /// The device must do what it was asked for. One that an earlier run left armed for what it owned stays so if it
    /// doesn't; any other is disarmed.
    fn checked(
        device: Box<dyn Device>,
        path: &Path,
        timeout: Duration,
        left: Left,
    ) -> Result<DeviceWatchdog, Failure> {
        let mut watchdog = DeviceWatchdog {
            device,
            path: path.to_owned(),
            timeout,
            identity: String::new(),
            failed: false,
            kept: left != Left::No,
        };
        match watchdog.set_up(timeout) {
            Ok(()) => Ok(watchdog),
            Err(why) if left == Left::ByOwner => Err(failure(
                path,
                &format!(
                    "{why}; it stays armed, because this controller owned in this boot: it resets this machine unless \
                     failoverd starts"
                ),
            )),
            Err(why) => {
                watchdog.release();
                Err(failure(path, &why))
            }
        }
    }

    fn set_up(&mut self, timeout: Duration) -> Result<(), String> {
        let wanted = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        if wanted < TIMEOUT_MIN_S {
            return Err(format!(
                "timeout_s = {wanted} is too short: it is petted each second, so at least {TIMEOUT_MIN_S}"
            ));
        }
        let support = self.device.support().map_err(|errno| {
            format!("it doesn't say what it can: {errno}; `device` must name a watchdog, as /dev/watchdog0")
        })?;
        self.identity = support.identity;
        if !support.options.has(Flags::KEEPALIVE) {
            return Err("it can't be petted; choose another one".to_owned());
        }
        if !support.options.has(Flags::MAGIC_CLOSE) {
            tracing::warn!(
                "watchdog {}: it can't be disarmed: when this daemon ends the machine resets",
                self.path.display()
            );
        }
        let refused = match support.options.has(Flags::SET_TIMEOUT) {
            true => self.device.set_timeout(wanted).err(),
            false => Some(Errno::EOPNOTSUPP),
        };
        // What the device says afterwards counts: it may round, or have one fixed timeout.
        let in_force = self.device.timeout().map_err(|errno| {
            format!("its timeout can't be read back: {errno}; choose another one")
        })?;
        if !(TIMEOUT_MIN_S..=wanted).contains(&in_force) {
            let why = refused.map_or_else(String::new, |errno| format!(" ({errno})"));
            return Err(format!(
                "can't be set to {wanted} s{why}: {in_force} s is in force; choose a timeout_s that the device has"
            ));
        }
        self.timeout = Duration::from_secs(u64::try_from(in_force).unwrap_or(0));
        if support.options.has(Flags::PRETIMEOUT) {
            self.without_pretimeout()?;
        }
        Ok(())
    }

    /// What a pretimeout does (a panic, a dump) takes its time on a machine that must be gone.
    fn without_pretimeout(&self) -> Result<(), String> {
        let _ = self.device.set_pretimeout(0);
        match self.device.pretimeout() {
            Ok(0) | Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => Ok(()),
            Ok(seconds) => Err(format!(
                "it acts {seconds} s before its timeout, and that can't be turned off; choose another one"
            )),
            Err(errno) => Err(format!("its pretimeout can't be read back: {errno}")),
        }
    }

    /// The timeout in force.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What the device calls itself.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether it says that it reset the machine into this boot.
    pub fn has_bitten(&self) -> bool {
        let status = self.device.boot_status();
        status.is_ok_and(|status| status.has(Flags::CARD_RESET))
    }

    /// Disarms and closes the device: for a clean exit alone, after everything that had to stop was stopped. Devices
    /// built with `nowayout` stay armed all the same.
    pub fn disarm(mut self) {
        self.release();
    }

    fn release(&mut self) {
        if let Err(errno) = self.device.disarm() {
            tracing::warn!(
                "watchdog {}: can't be disarmed: {errno}; it will reset this machine unless failoverd starts again",
                self.path.display()
            );
        }
        if std::mem::take(&mut self.kept) {
            forget();
        }
    }
}

/// What the kernel says of the device below `sys` (`/sys`), in a sentence. Opens nothing: that would arm it.
///
/// # Errors
/// It can't do what is asked of it, with the remedy.
pub fn describe(sys: &Path, path: &Path, timeout_s: u32) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str());
    // /dev/watchdog is the first one under its old name.
    let name = name
        .filter(|name| *name != "watchdog")
        .unwrap_or("watchdog0");
    let place = sys.join("class/watchdog").join(name);
    let read = |attribute: &str| {
        let text = std::fs::read_to_string(place.join(attribute));
        text.ok().map(|text| text.trim().to_owned())
    };
    if !place.exists() {
        return Err(failure(
            path,
            "the kernel knows no such watchdog; load its driver",
        ));
    }
    let longest = read("max_timeout").and_then(|text| text.parse::<u32>().ok());
    if let Some(longest) = longest.filter(|longest| (1..timeout_s).contains(longest)) {
        let what = format!("timeout_s = {timeout_s} is more than its {longest} s; lower it");
        return Err(failure(path, &what));
    }
    if i64::from(timeout_s) < i64::from(TIMEOUT_MIN_S) {
        let what = format!("timeout_s = {timeout_s} is too short: at least {TIMEOUT_MIN_S}");
        return Err(failure(path, &what));
    }
    let identity = read("identity").unwrap_or_else(|| "without a name".to_owned());
    let stays = match read("nowayout").as_deref() {
        Some("1") => "; it can't be disarmed: a machine whose failoverd is stopped resets",
        _ => "",
    };
    let soft = match identity.contains("Software Watchdog") {
        true => "; it is software: a kernel that stands still isn't reset",
        false => "",
    };
    Ok(format!(
        "watchdog {}: {identity}{stays}{soft}",
        path.display()
    ))
}

/// Disarms a watchdog that an earlier run left with the service manager, and that nobody is to pet any more.
pub fn let_go(kept: &File) {
    if let Err(errno) = kept.disarm() {
        tracing::warn!("the watchdog of an earlier run can't be disarmed: {errno}");
    }
    forget();
}

fn forget() {
    if let Err(error) = supervisor::forget(KEPT_AS) {
        tracing::warn!("the service manager still keeps the watchdog: {error}");
    }
}

fn same_device(kept: &File, path: &Path) -> bool {
    match (fstat(kept.as_fd()), stat(path)) {
        (Ok(kept), Ok(named)) => kept.st_rdev == named.st_rdev && kept.st_mode == named.st_mode,
        _ => false,
    }
}

fn failure(path: &Path, what: &str) -> Failure {
    Failure(format!("watchdog {}: {what}", path.display()))
}

impl Watchdog for DeviceWatchdog {
    fn pet(&mut self) {
        let result = self.device.keep_alive();
        if let (Err(errno), false) = (result, self.failed) {
            self.failed = true; // said once: this runs each second
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
mod tests;
