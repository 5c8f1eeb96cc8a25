//! Resetting this machine at once: the end of a controller that must not go on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Resets the machine. Comes back only where it can't.
pub trait Reset: Send + Sync {
    /// Resets now, without clean-up: no sync, no stopping, nothing that could wait for a disk. `reason` goes to the
    /// kernel's log first, which survives in the console and pstore where the journal doesn't.
    fn reset(&self, reason: &str) -> Result<(), std::io::Error>;
}

impl<F: Fn(&str) -> std::io::Result<()> + Send + Sync> Reset for F {
    fn reset(&self, reason: &str) -> std::io::Result<()> {
        self(reason)
    }
}

/// By the kernel: sysrq `b`, which asks nobody, then the reboot call, for kernels without sysrq. That one shuts devices
/// down first and may wait for a disk: it is second for that reason. Both files are opened before they are needed.
#[derive(Debug)]
pub struct KernelReset {
    trigger: io::Result<File>,
    log: io::Result<File>,
    reboot: fn() -> io::Result<()>,
}

impl Default for KernelReset {
    fn default() -> KernelReset {
        let (trigger, log) = (Path::new("/proc/sysrq-trigger"), Path::new("/dev/kmsg"));
        KernelReset::by(trigger, log, reboot)
    }
}

/// Doesn't sync either.
fn reboot() -> io::Result<()> {
    nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)?;
    Ok(())
}

impl KernelReset {
    /// Writes to other files than the kernel's and calls something else in the place of reboot: for tests.
    pub fn by(trigger: &Path, log: &Path, reboot: fn() -> io::Result<()>) -> KernelReset {
        let open = |path| OpenOptions::new().write(true).open(path);
        KernelReset {
            trigger: open(trigger),
            log: open(log),
            reboot,
        }
    }

    /// Why no reset will be possible, with the remedy; `None` where one is, as far as can be told without trying.
    pub fn hindrance(&self) -> Option<String> {
        let sysrq = self.trigger.as_ref().err()?;
        if may_reboot() {
            return None;
        }
        Some(format!(
            "this controller can't reset itself when it has lost the disks: /proc/sysrq-trigger: {sysrq}, and reboot(2) \
             isn't permitted; install /usr/share/failoverd/no-sysrq.conf as a drop-in of the unit, or name a program \
             of the board as reset.command"
        ))
    }
}

/// CAP_SYS_BOOT is in the effective set (`man 5 proc`, status, CapEff).
fn may_reboot() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| {
        let bits = line.strip_prefix("CapEff:")?.trim();
        u64::from_str_radix(bits, 16).ok()
    });
    effective.is_some_and(|bits| bits >> 22 & 1 == 1)
}

impl Reset for KernelReset {
    fn reset(&self, reason: &str) -> std::io::Result<()> {
        if let Ok(mut log) = self.log.as_ref() {
            // One line, at the most urgent level; the log must not hold up the reset.
            let line: String = reason
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            let line: String = line.chars().take(800).collect();
            let _ = log
                .write_all(format!("<0>failoverd: resetting this controller: {line}\n").as_bytes());
        }
        let trigger = match self.trigger.as_ref() {
            Ok(mut trigger) => trigger.write_all(b"b").map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Still here: it had no effect, whatever it said.
        (self.reboot)().map_err(|error| {
            let sysrq = trigger.err().unwrap_or_else(|| "had no effect".to_owned());
            io::Error::other(format!("sysrq: {sysrq}; reboot: {error}"))
        })
    }
}

/// By a command: for trials, and for machines whose board resets them by a tool of its own. Not waited for.
#[derive(Clone, Debug)]
pub struct CommandReset {
    /// Program (absolute path) and arguments; the reason follows as the last one.
    pub command: Vec<String>,
}

impl Reset for CommandReset {
    fn reset(&self, reason: &str) -> std::io::Result<()> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| std::io::Error::other("the reset command is empty"))?;
        Command::new(program)
            .args(arguments)
            .arg(reason)
            .stdin(Stdio::null())
            .spawn()
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn the_reason_is_logged_before_the_trigger() {
        let folder = tempfile::tempdir().expect("a folder");
        let trigger = folder.path().join("trigger");
        let log = folder.path().join("log");
        std::fs::write(&trigger, "").expect("a file");
        std::fs::write(&log, "").expect("a file");
        let reset = KernelReset::by(&trigger, &log, || Ok(()));
        reset.reset("fenced by B\nin epoch 7").expect("reset");
        assert_eq!(std::fs::read_to_string(&trigger).expect("text"), "b");
        let said = std::fs::read_to_string(&log).expect("text");
        assert_eq!(
            said,
            "<0>failoverd: resetting this controller: fenced by B in epoch 7\n"
        );
    }

    #[test]
    fn a_reset_that_can_not_be_is_an_error() {
        let nowhere = Path::new("/nowhere/at/all");
        let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let reset = KernelReset::by(nowhere, nowhere, refused);
        let hindered = reset
            .hindrance()
            .is_some_and(|why| why.contains("no-sysrq.conf"));
        assert_ne!(hindered, may_reboot());
        let said = reset.reset("why").expect_err("still here").to_string();
        assert!(
            said.contains("sysrq: No such file") && said.contains("reboot: Operation not"),
            "{said}"
        );
        assert!(CommandReset { command: vec![] }.reset("why").is_err());
    }

    #[test]
    fn where_sysrq_does_nothing_the_machine_is_rebooted() {
        static REBOOTED: AtomicBool = AtomicBool::new(false);
        let reboot = || {
            REBOOTED.store(true, Ordering::Relaxed);
            Ok(())
        };
        let trigger = tempfile::NamedTempFile::new().expect("a file");
        let reset = KernelReset::by(trigger.path(), Path::new("/nowhere"), reboot);
        reset.reset("why").expect("reset");
        assert!(REBOOTED.load(Ordering::Relaxed));
    }

    #[test]
    fn a_command_gets_the_reason() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let script = format!("echo \"$1\" > {}", file.path().display());
        let command = ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        CommandReset { command }
            .reset("disks lost")
            .expect("started");
        for _ in 0..500 {
            if std::fs::read_to_string(file.path()).expect("text") == "disks lost\n" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the command didn't run");
    }
}
