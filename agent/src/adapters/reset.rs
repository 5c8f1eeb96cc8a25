//! Resetting this machine at once: the end of a controller that must not go on.

use std::io::Write;
use std::path::PathBuf;
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

/// By the kernel: sysrq `b`, or the reboot call where sysrq is missing.
#[derive(Clone, Debug)]
pub struct KernelReset {
    trigger: PathBuf,
    log: PathBuf,
}

impl Default for KernelReset {
    fn default() -> KernelReset {
        KernelReset {
            trigger: "/proc/sysrq-trigger".into(),
            log: "/dev/kmsg".into(),
        }
    }
}

impl KernelReset {
    /// Writes to other files than the kernel's and never calls reboot: for tests.
    pub fn rehearsal(trigger: PathBuf, log: PathBuf) -> KernelReset {
        KernelReset { trigger, log }
    }

    fn real(&self) -> bool {
        self.trigger.starts_with("/proc")
    }
}

impl Reset for KernelReset {
    fn reset(&self, reason: &str) -> std::io::Result<()> {
        let open = |path: &PathBuf| std::fs::OpenOptions::new().write(true).open(path);
        if let Ok(mut log) = open(&self.log) {
            // One line, at the most urgent level; the log must not hold up the reset.
            let line: String = reason
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            let line: String = line.chars().take(800).collect();
            let _ = log
                .write_all(format!("<0>failoverd: resetting this controller: {line}\n").as_bytes());
        }
        let trigger = open(&self.trigger).and_then(|mut trigger| trigger.write_all(b"b"));
        if trigger.is_err() && self.real() {
            // Kernels without sysrq. Doesn't sync either.
            nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)?;
        }
        trigger
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

    #[test]
    fn the_reason_is_logged_before_the_trigger() {
        let folder = tempfile::tempdir().expect("a folder");
        let trigger = folder.path().join("trigger");
        let log = folder.path().join("log");
        std::fs::write(&trigger, "").expect("a file");
        std::fs::write(&log, "").expect("a file");
        let reset = KernelReset::rehearsal(trigger.clone(), log.clone());
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
        let nowhere = PathBuf::from("/nowhere/at/all");
        let reset = KernelReset::rehearsal(nowhere.clone(), nowhere);
        assert!(reset.reset("why").is_err());
        assert!(CommandReset { command: vec![] }.reset("why").is_err());
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
