//! The demo's processes: each is this program again, in its controller's namespace, and dies with the demo.

use super::namespaces::NetworkNamespace;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid, setsid};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A child process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    /// It was waited for.
    ended: bool,
}

impl Process {
    /// Starts this program with `args`, its output appended to `log`. Call it from the main thread only: the
    /// kernel kills the child when the thread that made it ends.
    pub fn spawn<S: AsRef<OsStr>>(
        args: &[S],
        namespace: Option<&NetworkNamespace>,
        log: &Path,
    ) -> io::Result<Process> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let namespace = namespace
            .map(|namespace| namespace.as_fd().try_clone_to_owned())
            .transpose()?;
        let parent = getpid();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("failover-sim")
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let prepare = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A session of its own, as a service has: no Ctrl-C of the terminal, and a fair share of the processor
            // where the scheduler shares by session.
            setsid()?;
            // The demo takes its signals from a descriptor and has them blocked.
            SigSet::empty().thread_set_mask()?;
            if getppid() != parent {
                return Err(io::Error::other("the demo ended meanwhile"));
            }
            match &namespace {
                Some(namespace) => Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?),
                None => Ok(()),
            }
        };
        // SAFETY: between fork and exec only prctl, setsid, sigprocmask, getppid and setns are called, all async-signal-safe; an
        // error is built without allocation but for the one that ends the child.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        Ok(Process {
            pid: Pid::from_raw(child.id() as i32),
            ended: false,
        })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends it a signal; nothing happens if it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if !self.has_ended() {
            // It can end between the two calls; then there is nobody to tell.
            let _ = kill(self.pid, signal);
        }
    }

    /// Whether it has ended, without waiting.
    pub fn has_ended(&mut self) -> bool {
        if !self.ended {
            self.ended = !matches!(
                waitpid(self.pid, Some(WaitPidFlag::WNOHANG)),
                Ok(WaitStatus::StillAlive)
            );
        }
        self.ended
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        while !self.ended {
            self.ended = !matches!(waitpid(self.pid, None), Err(nix::errno::Errno::EINTR));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
