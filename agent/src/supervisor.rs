//! What the service manager (systemd) is told from the control thread, and the descriptor that it keeps for the next
//! daemon (`man sd_notify`, `man systemd.service`, "FileDescriptorStoreMax").
//!
//! ```text
//!   control thread ── WATCHDOG=1 · STATUS= · EXTEND_TIMEOUT_USEC= ──▶ NOTIFY_SOCKET     never waits
//!   start          ── FDSTORE=1 + descriptor ───────────────────────▶
//!   the next start ◀── LISTEN_FDS, LISTEN_FDNAMES ────────────────────
//! ```
//!
//! Without a service manager nothing is told and nothing kept.

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest status line; systemd shows one line.
const STATUS_MAX_CHARS: usize = 300;

/// The control thread's way to the service manager. What the manager's queue has no room for is told again with the
/// next sign of life.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    way: Option<(UnixDatagram, PathBuf)>,
    /// The manager's limit between two signs of life.
    limit: Option<Duration>,
    /// The limit of the start is in force.
    starting: bool,
    unsent: Option<String>,
}

impl Supervisor {
    /// The one that started this process; none where none did.
    pub(crate) fn of_this_process() -> Supervisor {
        let path = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from);
        path.map_or_else(Supervisor::default, |path| {
            Supervisor::at(path, sd_notify::watchdog_enabled())
        })
    }

    fn at(path: PathBuf, limit: Option<Duration>) -> Supervisor {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Supervisor {
            way: socket.ok().map(|socket| (socket, path)),
            limit,
            ..Supervisor::default()
        }
    }

    /// Until the first sign of life the limit is `longest`: cleaning up after an earlier run takes its time, and
    /// ending a daemon in the middle of it would begin it anew.
    pub(crate) fn starting(&mut self, longest: Duration) {
        if let Some(limit) = self.limit {
            self.starting = true;
            self.send(&[limit_text(limit.max(longest))]);
        }
    }

    /// A sign of life: the core called this controller healthy.
    pub(crate) fn alive(&mut self) {
        let mut lines = Vec::new();
        if let Some(limit) = self.limit {
            lines.push("WATCHDOG=1".to_owned());
            if self.starting {
                lines.push(limit_text(limit));
            }
        }
        let status = self.unsent.take();
        lines.extend(status.iter().map(|status| format!("STATUS={status}")));
        if lines.is_empty() {
            return;
        }
        match self.send(&lines) {
            true => self.starting = false,
            false => self.unsent = status,
        }
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(&mut self, text: &str) {
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(STATUS_MAX_CHARS)
            .collect();
        if !self.send(&[format!("STATUS={text}")]) {
            self.unsent = Some(text);
        }
    }

    /// The stop goes on: the manager must not kill this daemon within `longest` from now.
    pub(crate) fn stop_goes_on(&mut self, longest: Duration) {
        self.send(&[format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros())]);
    }

    /// Whether it was taken.
    fn send(&self, lines: &[String]) -> bool {
        let Some((socket, path)) = &self.way else {
            return true;
        };
        let text = lines.join("\n") + "\n";
        socket
            .send_to(text.as_bytes(), path)
            .is_ok_and(|sent| sent == text.len())
    }
}

fn limit_text(limit: Duration) -> String {
    format!("WATCHDOG_USEC={}", limit.as_micros())
}

/// Descriptors that an earlier run of this unit left with the service manager, by name, closed in child processes.
/// They are this process's own from here on.
///
/// # Safety
/// Once in a process, before anything else of it takes over descriptors that it did not open.
pub unsafe fn take_kept() -> BTreeMap<String, OwnedFd> {
    match sd_notify::listen_fds_with_names() {
        Ok(kept) => kept
            .map(|(descriptor, name)| {
                // SAFETY: the manager passed it open, and by the contract above nobody else owns it.
                (name, unsafe { OwnedFd::from_raw_fd(descriptor) })
            })
            .collect(),
        Err(error) => {
            tracing::warn!("what the service manager kept can't be taken over: {error}");
            BTreeMap::new()
        }
    }
}

/// Leaves a copy of a descriptor with the service manager: it outlives this process, and goes to the next start.
///
/// # Errors
/// The manager could not be told.
pub fn keep(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => keep_at(Path::new(&path), name, descriptor),
        None => Ok(()),
    }
}

fn keep_at(path: &Path, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // FDPOLL=0: a descriptor that can't be polled hasn't ended.
    let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
    let socket = UnixDatagram::unbound()?;
    let address = UnixAddr::new(path)?;
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let parts = [IoSlice::new(text.as_bytes())];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg(socket.as_raw_fd(), &parts, &rights, flags, Some(&address))?;
    Ok(())
}

/// Takes back what [`keep`] left.
///
/// # Errors
/// The manager could not be told.
pub fn forget(name: &str) -> io::Result<()> {
    sd_notify::notify(&[
        sd_notify::NotifyState::Custom("FDSTOREREMOVE=1"),
        sd_notify::NotifyState::Custom(&format!("FDNAME={name}")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(folder: &std::path::Path) -> (UnixDatagram, PathBuf) {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).expect("a time-out");
        (socket, path)
    }

    fn told(socket: &UnixDatagram) -> String {
        let mut text = [0; 1024];
        let length = socket.recv(&mut text).expect("told");
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[test]
    fn the_long_limit_of_a_start_ends_with_the_first_sign_of_life() {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, path) = manager(folder.path());
        let mut supervisor = Supervisor::at(path, Some(Duration::from_secs(8)));
        supervisor.starting(Duration::from_secs(90));
        assert_eq!(told(&socket), "WATCHDOG_USEC=90000000\n");
        supervisor.alive();
        assert_eq!(told(&socket), "WATCHDOG=1\nWATCHDOG_USEC=8000000\n");
        supervisor.alive();
        assert_eq!(told(&socket), "WATCHDOG=1\n");
        supervisor.stop_goes_on(Duration::from_secs(15));
        assert_eq!(told(&socket), "EXTEND_TIMEOUT_USEC=15000000\n");
    }

    #[test]
    fn a_descriptor_goes_to_the_manager_with_its_name() {
        use nix::sys::socket::{ControlMessageOwned, recvmsg};
        use std::io::{IoSliceMut, Read, Seek, Write};
        use std::os::fd::AsFd;
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, path) = manager(folder.path());
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"the same").expect("written");
        keep_at(&path, "watchdog", file.as_fd()).expect("kept");
        let (mut text, mut room) = ([0; 128], nix::cmsg_space!([std::os::fd::RawFd; 1]));
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags);
        let message = message.expect("told");
        let Some(ControlMessageOwned::ScmRights(kept)) = message.cmsgs().expect("whole").next()
        else {
            panic!("no descriptor");
        };
        let length = message.bytes;
        // SAFETY: the kernel just made it for this process, and nobody else knows its number.
        let mut kept = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(kept[0]) });
        let mut read = String::new();
        kept.rewind().expect("back");
        kept.read_to_string(&mut read).expect("read");
        assert_eq!(read, "the same");
        assert_eq!(&text[..length], b"FDSTORE=1\nFDNAME=watchdog\nFDPOLL=0\n");
    }

    #[test]
    fn a_full_queue_costs_no_time_and_no_status() {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, path) = manager(folder.path());
        let mut supervisor = Supervisor::at(path, None);
        while supervisor.unsent.is_none() {
            supervisor.status("BACKUP\nof nobody");
        }
        socket.set_nonblocking(true).expect("set");
        let mut text = [0; 1024];
        while socket.recv(&mut text).is_ok() {}
        supervisor.alive();
        assert_eq!(told(&socket), "STATUS=BACKUP of nobody\n");
        supervisor.alive();
        assert!(socket.recv(&mut text).is_err(), "told once");
    }
}
