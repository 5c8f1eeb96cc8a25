//! One daemon per runtime folder, judged by process identity: a process that died with a thread stuck in the kernel
//! keeps its file locks, but it doesn't run any more.

use crate::journal::replace;
use failover_core::adapters::Failure;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for another start that is looking at the same moment.
const PATIENCE: Duration = Duration::from_millis(200);

/// Held while the daemon runs.
#[derive(Debug)]
pub(crate) struct Instance {
    path: PathBuf,
    us: String,
}

impl Instance {
    /// Claims the folder, unless a live process has it.
    pub(crate) fn claim(runtime_dir: &Path) -> Result<Instance, Failure> {
        let path = runtime_dir.join("instance");
        let failed = |error: std::io::Error| {
            Failure(format!(
                "{}: can't be written: {error}; check the runtime folder",
                path.display()
            ))
        };
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false);
        let gate = options
            .open(runtime_dir.join("instance.lock"))
            .map_err(failed)?;
        let _gate = pass(gate, &path);
        let found = fs::read_to_string(&path).unwrap_or_default();
        if let Some((pid, started)) = found.trim().split_once(' ')
            && let Ok(pid) = pid.parse::<u32>()
            && start_time(pid).as_deref() == Some(started)
            && pid != std::process::id()
        {
            return Err(Failure(format!(
                "another failoverd (process {pid}) runs with {}; stop it first",
                runtime_dir.display()
            )));
        }
        let pid = std::process::id();
        let us = format!("{pid} {}", start_time(pid).unwrap_or_default());
        replace(&path, us.as_bytes(), false).map_err(failed)?;
        Ok(Instance { path, us })
    }
}

/// Two starts at one moment must not both find nobody. A dead process can hold the gate with a stuck thread: the look
/// itself still decides then.
fn pass(gate: File, path: &Path) -> Option<Flock<File>> {
    let started = Instant::now();
    let mut gate = gate;
    while started.elapsed() < PATIENCE {
        match Flock::lock(gate, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Some(held),
            Err((file, _)) => gate = file,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    tracing::warn!(
        "{}: its gate stays locked; looked at without it",
        path.display()
    );
    None
}

impl Drop for Instance {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|found| found == self.us) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// When a live process started, in the kernel's ticks; a zombie doesn't live.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_process_is_refused_and_a_dead_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let parent = nix::unistd::getppid().as_raw() as u32;
        let ours = start_time(parent).expect("the parent lives");
        let path = dir.path().join("instance");
        fs::write(&path, format!("{parent} {ours}")).expect("written");
        let error = Instance::claim(dir.path()).expect_err("taken");
        assert!(error.0.contains(&format!("process {parent}")), "{error}");
        fs::write(&path, format!("{parent} 1{ours}")).expect("written");
        let instance = Instance::claim(dir.path()).expect("another process of that number");
        drop(instance);
        assert!(!path.exists());
    }
}
