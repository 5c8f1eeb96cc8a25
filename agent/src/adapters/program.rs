//! External programs: bounded in time and output, and never two on one thing while an old one hangs in the kernel.
//!
//! ```text
//!   caller ──run──▶ is an earlier one still stuck? ─ yes ─▶ refused
//!                        │ no
//!                        ▼
//!                  own process group, no shell, empty environment, stdin from /dev/null
//!                        │ ended            │ deadline, more output than fits, or a pipe that fails
//!                        ▼                  ▼
//!                  status, output     SIGKILL ─▶ ended: an error
//!                                             └▶ not even now: kept as stuck, an error
//! ```

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fmt;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Standard output that is taken: a list of a hundred thousand datasets fits.
const OUTPUT_MAX: usize = 64 << 20;
/// Kept of standard error: its end, which tells why a program failed.
const ERRORS_KEPT: usize = 8 << 10;
/// Longest time between two looks at a program that says nothing.
const LOOK: Duration = Duration::from_millis(5);
/// Time between two looks at a program that ends in a moment.
const ENDED_LOOK: Duration = Duration::from_micros(500);
/// Time that a killed program has to end.
const GRACE: Duration = Duration::from_millis(500);
/// Read at one time from one pipe before the other one and the deadline are looked at.
const CHUNKS: usize = 64;

/// What a program that ended left.
#[derive(Debug)]
pub(crate) struct Ran {
    /// It ended with exit status 0.
    pub(crate) ok: bool,
    /// Its standard output.
    pub(crate) output: Vec<u8>,
    /// The end of its standard error, without blanks around it.
    pub(crate) errors: String,
    /// How it ended, for people: `exit status: 1`.
    pub(crate) status: String,
}

/// Why a program has no result.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It couldn't be started.
    NotStarted(std::io::Error),
    /// It took too long and was killed.
    TooLong(Duration),
    /// It took too long, was killed, and is still there: it hangs in the kernel.
    Stuck(u32, Duration),
    /// An earlier one, its number and what it was, still hangs in the kernel.
    EarlierStuck(u32, String, Duration),
    /// It wrote more than is taken.
    TooMuch,
    /// Its pipes or its end can't be followed.
    Lost(std::io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::NotStarted(error) => write!(f, "it can't be started: {error}"),
            RunError::TooLong(limit) => {
                write!(
                    f,
                    "it took longer than {} ms and was killed",
                    limit.as_millis()
                )
            }
            RunError::Stuck(pid, limit) => write!(
                f,
                "it took longer than {} ms and didn't end when killed: process {pid} hangs in the kernel, and nothing \
                 more is started on this pool until it ends; if it never does, reset this machine",
                limit.as_millis()
            ),
            RunError::EarlierStuck(pid, what, since) => write!(
                f,
                "not started: `{what}` (process {pid}) of {} s ago still hangs in the kernel; if it never ends, reset \
                 this machine",
                since.as_secs()
            ),
            RunError::TooMuch => write!(f, "it wrote more than {} MiB", OUTPUT_MAX >> 20),
            RunError::Lost(error) => write!(f, "it can't be followed: {error}"),
        }
    }
}

/// A program that outlived its killing.
#[derive(Debug)]
struct Stuck {
    child: Child,
    what: String,
    since: Instant,
}

/// Runs programs on one thing (a pool); several at once, but none while an old one is stuck.
#[derive(Debug, Default)]
pub(crate) struct Runner {
    stuck: Mutex<Vec<Stuck>>,
}

impl Runner {
    /// Runs `program` (an absolute path) until it ends, at most until `deadline`.
    pub(crate) fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        deadline: Instant,
    ) -> Result<Ran, RunError> {
        self.none_is_stuck()?;
        let began = Instant::now();
        let (out, out_end) = std::io::pipe().map_err(RunError::NotStarted)?;
        let (err, err_end) = std::io::pipe().map_err(RunError::NotStarted)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out_end)
            .stderr(err_end)
            .process_group(0);
        let child = command.spawn().map_err(RunError::NotStarted)?;
        drop(command); // holds the pipes' other ends
        let mut running = Running {
            child,
            out: Pipe::new(out, true),
            err: Pipe::new(err, false),
        };
        let followed = running.follow(deadline);
        if let Ok(Some(ran)) = followed {
            return Ok(ran);
        }
        let group = Pid::from_raw(i32::try_from(running.child.id()).unwrap_or(i32::MAX));
        // It may have ended in this moment.
        let _ = killpg(group, Signal::SIGKILL);
        if !running.ends(Instant::now() + GRACE) {
            let pid = running.child.id();
            let line: Vec<String> = std::iter::once(program.display().to_string())
                .chain(arguments.iter().map(|argument| (*argument).to_owned()))
                .collect();
            self.lock().push(Stuck {
                child: running.child,
                what: line.join(" "),
                since: began,
            });
            return Err(followed
                .err()
                .unwrap_or(RunError::Stuck(pid, began.elapsed())));
        }
        Err(followed.err().unwrap_or(RunError::TooLong(began.elapsed())))
    }

    /// An error while a program of an earlier call has not ended.
    pub(crate) fn none_is_stuck(&self) -> Result<(), RunError> {
        let mut stuck = self.lock();
        // Whoever can't be asked counts as still there.
        stuck.retain_mut(|one| !matches!(one.child.try_wait(), Ok(Some(_))));
        match stuck.first() {
            None => Ok(()),
            Some(one) => Err(RunError::EarlierStuck(
                one.child.id(),
                one.what.clone(),
                one.since.elapsed(),
            )),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stuck>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Running {
    child: Child,
    out: Pipe,
    err: Pipe,
}

impl Running {
    /// `None`: the deadline came first.
    fn follow(&mut self, deadline: Instant) -> Result<Option<Ran>, RunError> {
        loop {
            self.out.drain()?;
            self.err.drain()?;
            let ended = self.child.try_wait().map_err(RunError::Lost)?;
            if let Some(status) = ended {
                // What it wrote in the end. A process that it left behind may hold the pipes open: not waited for.
                self.out.drain()?;
                self.err.drain()?;
                return Ok(Some(Ran {
                    ok: status.success(),
                    output: std::mem::take(&mut self.out.kept),
                    errors: String::from_utf8_lossy(&self.err.kept).trim().to_owned(),
                    status: status.to_string(),
                }));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.pause(left.min(LOOK));
        }
    }

    /// Whether it ends until `deadline`, whatever it wrote; whoever can't be asked counts as still there.
    fn ends(&mut self, deadline: Instant) -> bool {
        loop {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(ENDED_LOOK);
        }
    }

    /// Until a pipe has something, at most `longest`.
    fn pause(&self, longest: Duration) {
        let open: Vec<&PipeReader> = [&self.out, &self.err]
            .into_iter()
            .filter_map(|pipe| pipe.reader.as_ref())
            .collect();
        if open.is_empty() {
            // It closed both and ends in a moment.
            std::thread::sleep(longest.min(ENDED_LOOK));
            return;
        }
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        let millis = u8::try_from(longest.as_millis().max(1)).unwrap_or(u8::MAX);
        let _ = poll(&mut fds, PollTimeout::from(millis));
    }
}

struct Pipe {
    /// Until its other end is closed.
    reader: Option<PipeReader>,
    kept: Vec<u8>,
    /// All of it counts; otherwise only its end.
    whole: bool,
    blocking: bool,
}

impl Pipe {
    fn new(reader: PipeReader, whole: bool) -> Pipe {
        Pipe {
            reader: Some(reader),
            kept: Vec::new(),
            whole,
            blocking: true,
        }
    }

    /// Reads what there is.
    fn drain(&mut self) -> Result<(), RunError> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        if self.blocking {
            fcntl(&*reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|errno| RunError::Lost(errno.into()))?;
            self.blocking = false;
        }
        let mut buffer = [0; 16 * 1024];
        for _ in 0..CHUNKS {
            match reader.read(&mut buffer) {
                Ok(0) => {
                    self.reader = None;
                    return Ok(());
                }
                Ok(length) => {
                    self.kept.extend(&buffer[..length]);
                    if self.whole && self.kept.len() > OUTPUT_MAX {
                        return Err(RunError::TooMuch);
                    }
                    let surplus = self.kept.len().saturating_sub(ERRORS_KEPT);
                    if !self.whole && surplus > 0 {
                        self.kept.drain(..surplus);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(error) => return Err(RunError::Lost(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, millis: u64) -> Result<Ran, RunError> {
        let deadline = Instant::now() + Duration::from_millis(millis);
        Runner::default().run(Path::new("/bin/sh"), &["-c", script], deadline)
    }

    #[test]
    fn output_errors_and_status_come_back() {
        let ran = shell("echo out; echo why >&2; exit 3", 60_000).expect("ran");
        assert!(!ran.ok && ran.status.contains('3'), "{ran:?}");
        assert_eq!(
            (ran.output.as_slice(), ran.errors.as_str()),
            (&b"out\n"[..], "why")
        );
        assert!(shell("true", 60_000).expect("ran").ok);
        let ran = shell("head -c 3000000 /dev/zero", 60_000).expect("ran");
        assert_eq!(ran.output.len(), 3_000_000);
        let ran = shell(
            "head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2",
            60_000,
        );
        let errors = ran.expect("ran").errors;
        assert!(errors.len() <= ERRORS_KEPT && errors.ends_with("xend"));
    }

    #[test]
    fn nothing_of_our_environment_is_handed_on() {
        let ran = shell("env", 60_000).expect("ran");
        let text = String::from_utf8(ran.output).expect("text");
        let kept = |line: &&str| {
            ["LC_ALL=", "PATH=", "PWD=", "_=", "SHLVL="]
                .iter()
                .any(|name| line.starts_with(name))
        };
        assert!(text.lines().all(|line| kept(&line)), "{text}");
        let read = shell("read line; echo \"<$line>\"", 60_000).expect("ran");
        assert_eq!(read.output, b"<>\n");
    }

    #[test]
    fn a_program_that_is_late_is_killed_with_what_it_started() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let script = format!("sleep 1000 & echo $! >{}; wait", file.path().display());
        let late = shell(&script, 500).expect_err("late");
        assert!(matches!(late, RunError::TooLong(_)), "{late}");
        let child = std::fs::read_to_string(file.path()).expect("its child's number");
        for _ in 0..200 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            if stat.map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("process {child} lives on");
    }

    #[test]
    fn too_much_output_is_refused_and_a_missing_program_named() {
        assert!(matches!(
            shell("cat /dev/zero", 60_000),
            Err(RunError::TooMuch)
        ));
        let deadline = Instant::now() + Duration::from_secs(1);
        let none = Runner::default().run(Path::new("/nowhere/at/all"), &[], deadline);
        assert!(matches!(none, Err(RunError::NotStarted(_))));
    }

    #[test]
    fn a_program_that_wrote_too_much_is_waited_for() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let script = format!("echo $$ >{}; exec cat /dev/zero", file.path().display());
        let much = shell(&script, 60_000).expect_err("too much");
        assert!(matches!(much, RunError::TooMuch), "{much}");
        let pid = std::fs::read_to_string(file.path()).expect("its number");
        let left = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        assert!(left.is_err(), "not even a zombie: {left:?}");
    }

    #[test]
    fn nothing_starts_while_an_old_one_is_stuck() {
        let runner = Runner::default();
        // Stands for one in the kernel: nobody killed it.
        let child = Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .expect("sleep");
        let pid = child.id();
        runner.lock().push(Stuck {
            child,
            what: "zpool import".to_owned(),
            since: Instant::now(),
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let refused = runner
            .run(Path::new("/bin/true"), &[], deadline)
            .expect_err("stuck");
        let text = refused.to_string();
        assert!(
            text.contains(&format!("process {pid}")) && text.contains("zpool import"),
            "{text}"
        );
        nix::sys::signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("killed");
        for _ in 0..200 {
            if runner.run(Path::new("/bin/true"), &[], deadline).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it ended, and yet counts as stuck");
    }
}
