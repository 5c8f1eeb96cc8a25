//! Network namespaces: of the demo itself (the clients' network) and of each controller.
//!
//! Root gets plain ones. An ordinary user first becomes root of a user namespace of its own, which needs no
//! privilege where the system allows it.

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::thread;

/// Leaves the machine's network for an empty one. Call it before any thread exists.
pub fn enter_own_network() -> Result<(), String> {
    if geteuid().is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| refused("a user namespace", error))?;
    // user_namespaces(7): an ordinary user may map groups only after giving up setgroups.
    let map = |file: &str, text: &str| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| format!("mapping this user into its namespace ({file}): {error}"))
    };
    map("setgroups", "deny")?;
    map("uid_map", &format!("0 {uid} 1"))?;
    map("gid_map", &format!("0 {gid} 1"))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("a network namespace", error))?;
    Ok(())
}

/// Why the system refused, and what to do about it.
fn refused(what: &str, error: Errno) -> String {
    let setting = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let is = |path: &str, value: &str| setting(path).trim() == value;
    let remedy = if is(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "AppArmor restricts user namespaces here: run it as root, or allow them with \
         `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "user namespaces are switched off here: run it as root, or allow them with \
         `sudo sysctl kernel.unprivileged_userns_clone=1`"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "user namespaces are switched off here: run it as root, or allow them with \
         `sudo sysctl user.max_user_namespaces=10000`"
    } else {
        "run it as root, or outside the container, or allow the container user namespaces \
         (seccomp and AppArmor profiles often forbid unshare)"
    };
    format!("the demo needs {what} of its own and the system refused it ({error}); {remedy}")
}

/// A network namespace that lives as long as this value or a process in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
}

impl NetworkNamespace {
    /// A new, empty one.
    pub fn new() -> io::Result<NetworkNamespace> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .map_err(|_| io::Error::other("the namespace's thread panicked"))??;
        Ok(NetworkNamespace { file })
    }

    /// Runs `work` on a thread inside it.
    pub fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let file = self.file.try_clone()?;
        let done = thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            work()
        });
        done.join()
            .map_err(|_| io::Error::other("a thread in the namespace panicked"))?
    }

    /// Its descriptor, for netlink.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
