//! Services as commands, for hosts without systemd: each runs in a process group of its own, with a timeout after
//! which the whole group is killed, and with its output kept up to a bound.

use super::services::Service;
use failover_core::adapters::{Change, Failure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Kept of a hook's output: its end, which tells why it failed.
const OUTPUT_KEPT: usize = 4096;
/// Interval at which a running hook is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Time between SIGTERM and SIGKILL, and for the end after SIGKILL.
const GRACE: Duration = Duration::from_millis(300);

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Program (absolute path) and arguments; no shell in between.
    pub command: Vec<String>,
    /// Time it may take.
    pub timeout: Duration,
}

/// Services that start and stop by commands. A hook that leaves a process behind must redirect its output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecServices {
    start: Vec<Hook>,
    stop: Vec<Hook>,
}

impl ExecServices {
    /// Checks the lists. `start` runs in its order until one fails; `stop` runs in its order to its end, whatever
    /// fails. Each hook must be repeatable: starting what runs and stopping what is stopped succeed.
    pub fn new(start: Vec<Hook>, stop: Vec<Hook>) -> Result<ExecServices, Failure> {
        for hook in start.iter().chain(&stop) {
            match hook.command.first() {
                Some(program) if program.starts_with('/') => {}
                _ => {
                    return Err(Failure(format!(
                        "hook {:?}: the program must be an absolute path",
                        hook.command
                    )));
                }
            }
            if hook.timeout.is_zero() {
                return Err(Failure(format!(
                    "hook {:?}: timeout_ms must be at least 1",
                    hook.command
                )));
            }
        }
        Ok(ExecServices { start, stop })
    }
}

impl Service for ExecServices {
    fn start(&self) -> Result<Change, Failure> {
        for hook in &self.start {
            run(hook, "start")?;
        }
        Ok(done(&self.start))
    }

    fn stop(&self) -> Result<Change, Failure> {
        let mut failures = Vec::new();
        for hook in &self.stop {
            if let Err(failure) = run(hook, "stop") {
                failures.push(failure.0);
            }
        }
        if failures.is_empty() {
            Ok(done(&self.stop))
        } else {
            Err(Failure(failures.join("; ")))
        }
    }
}

/// A command doesn't tell whether it changed anything.
fn done(hooks: &[Hook]) -> Change {
    if hooks.is_empty() {
        Change::AlreadySo
    } else {
        Change::Made
    }
}

fn run(hook: &Hook, action: &str) -> Result<(), Failure> {
    let name = hook.command.join(" ");
    let failure = |what: String| Failure(format!("hook `{name}`: {what}"));
    let (program, arguments) = hook
        .command
        .split_first()
        .ok_or_else(|| failure("has no program".to_owned()))?;
    let (mut output, input) = std::io::pipe().map_err(|e| failure(format!("no pipe: {e}")))?;
    let again = input
        .try_clone()
        .map_err(|e| failure(format!("no pipe: {e}")))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("FAILOVER_ACTION", action)
        .stdin(Stdio::null())
        .stdout(input)
        .stderr(again)
        .process_group(0);
    let child = command
        .spawn()
        .map_err(|error| failure(format!("can't be started: {error}; correct its path")))?;
    drop(command); // holds the pipe's other end
    let mut kept = Vec::new();
    let ended = fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(std::io::Error::from)
        .and_then(|_| follow(child, &mut output, &mut kept, hook.timeout));
    match ended {
        Ok(End::Exited(status)) if status.success() => Ok(()),
        Ok(End::Exited(status)) => Err(failure(format!("failed with {status}{}", said(&kept)))),
        Ok(End::Killed) => Err(failure(format!(
            "took longer than {} ms and was killed{}",
            hook.timeout.as_millis(),
            said(&kept)
        ))),
        Ok(End::Stuck) => Err(failure(format!(
            "took longer than {} ms and didn't even end when killed: it is stuck in the kernel{}",
            hook.timeout.as_millis(),
            said(&kept)
        ))),
        Err(error) => Err(failure(format!("can't be followed: {error}"))),
    }
}

enum End {
    Exited(ExitStatus),
    Killed,
    Stuck,
}

fn follow(
    mut child: Child,
    output: &mut PipeReader,
    kept: &mut Vec<u8>,
    timeout: Duration,
) -> std::io::Result<End> {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let deadline = Instant::now() + timeout;
    if let Some(status) = wait_until(&mut child, output, kept, deadline)? {
        return Ok(End::Exited(status));
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // The group may be gone already.
        let _ = killpg(group, signal);
        if wait_until(&mut child, output, kept, Instant::now() + GRACE)?.is_some() {
            let _ = killpg(group, Signal::SIGKILL); // what it left behind
            return Ok(End::Killed);
        }
    }
    Ok(End::Stuck)
}

fn wait_until(
    child: &mut Child,
    output: &mut PipeReader,
    kept: &mut Vec<u8>,
    deadline: Instant,
) -> std::io::Result<Option<ExitStatus>> {
    let mut open = true;
    loop {
        if open {
            open = drain(output, kept);
        }
        if let Some(status) = child.try_wait()? {
            drain(output, kept);
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let pause = left.min(LOOK);
        if open {
            let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
            let millis = u8::try_from(pause.as_millis().max(1)).unwrap_or(u8::MAX);
            let _ = poll(&mut fds, PollTimeout::from(millis));
        } else {
            std::thread::sleep(pause);
        }
    }
}

/// Reads what there is; `false` once the other end is closed.
fn drain(output: &mut PipeReader, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    // Bounded: a hook that writes without end must not hold us up beyond its timeout.
    for _ in 0..64 {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Ok(len) => {
                kept.extend(&buffer[..len]);
                let surplus = kept.len().saturating_sub(OUTPUT_KEPT);
                kept.drain(..surplus);
            }
            Err(_) => return true,
        }
    }
    true
}

fn said(kept: &[u8]) -> String {
    let text = String::from_utf8_lossy(kept);
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!("; it said: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout_ms: u64) -> Hook {
        Hook {
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            timeout: Duration::from_millis(timeout_ms),
        }
    }

    fn started(hooks: Vec<Hook>) -> Result<Change, Failure> {
        ExecServices::new(hooks, vec![])
            .expect("good hooks")
            .start()
    }

    #[test]
    fn success_and_failure_are_told_apart() {
        assert_eq!(started(vec![]), Ok(Change::AlreadySo));
        assert_eq!(
            started(vec![hook("test $FAILOVER_ACTION = start", 10_000)]),
            Ok(Change::Made)
        );
        let failed = started(vec![hook("echo out; echo why >&2; exit 3", 10_000)]).expect_err("3");
        assert!(failed.0.contains("exit status: 3"), "{failed}");
        assert!(failed.0.contains("out\nwhy"), "{failed}");
        let missing = Hook {
            command: vec!["/nowhere/at/all".to_owned()],
            timeout: Duration::from_secs(1),
        };
        assert!(
            started(vec![missing])
                .expect_err("missing")
                .0
                .contains("can't be started")
        );
    }

    #[test]
    fn a_hook_that_hangs_is_killed_with_its_children() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display();
        let script =
            format!("trap '' TERM; sleep 1000 & echo $! > {path}; echo begun; wait; sleep 1000");
        let begun = Instant::now();
        let failed = started(vec![hook(&script, 300)]).expect_err("hangs");
        assert!(
            failed.0.contains("longer than 300 ms") && failed.0.contains("begun"),
            "{failed}"
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
        let child = std::fs::read_to_string(file.path()).expect("its child's number");
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        for _ in 0..100 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("process {child} lives on");
    }

    #[test]
    fn a_hook_that_leaves_a_process_behind_ends_and_output_is_bounded() {
        let begun = Instant::now();
        assert_eq!(
            started(vec![hook("sleep 30 & exit 0", 20_000)]),
            Ok(Change::Made)
        );
        assert!(begun.elapsed() < Duration::from_secs(15));
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 1";
        let failed = started(vec![hook(script, 60_000)]).expect_err("1");
        assert!(failed.0.len() < OUTPUT_KEPT + 400);
        assert!(failed.0.ends_with("line 19999"), "{failed}");
    }

    #[test]
    fn stopping_goes_on_after_a_failure() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display();
        let stop = vec![
            hook("exit 1", 10_000),
            hook(&format!("echo stopped > {path}"), 10_000),
        ];
        let services = ExecServices::new(vec![], stop).expect("good hooks");
        services.stop().expect_err("the first failed");
        assert_eq!(
            std::fs::read_to_string(file.path()).expect("text"),
            "stopped\n"
        );
    }

    #[test]
    fn a_bad_hook_is_refused() {
        let relative = Hook {
            command: vec!["start-nfs".to_owned()],
            timeout: Duration::from_secs(1),
        };
        assert!(ExecServices::new(vec![relative], vec![]).is_err());
        assert!(ExecServices::new(vec![hook("true", 0)], vec![]).is_err());
    }
}
