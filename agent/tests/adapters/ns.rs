//! Network namespaces for tests: a thread moves into a new one; a second thread in another is the client's machine.

use nix::sched::{CloneFlags, unshare};
use std::io::Write;
use std::process::Command;
use std::sync::mpsc;

const INSIDE: &str = "FAILOVERD_TEST_IN_USER_NAMESPACE";

/// Says that a test didn't run, past the harness's capture, in the form that the closing count looks for: at the
/// beginning of a line, which the harness may have left open.
pub fn skipped(test: &str, reason: &str) {
    let _ = write!(std::io::stderr(), "\nSKIPPED: {test}: {reason}\n");
}

/// Runs `body` in a network namespace of its own. As an ordinary user the test runs itself again in a user
/// namespace, where it is root. `test` is the test's full name.
pub fn isolated(test: &str, body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return again_as_root(test);
    }
    let name = test.to_owned();
    let thread = std::thread::Builder::new()
        .name(test.to_owned())
        .spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                return skipped(&name, &format!("no network namespace: {error}"));
            }
            if Command::new("ip").arg("-V").output().is_err() {
                return skipped(&name, "no `ip` program: install iproute2");
            }
            ip("link set lo up");
            body();
        });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

fn again_as_root(test: &str) {
    if std::env::var_os(INSIDE).is_some() {
        return skipped(test, "not root inside a user namespace");
    }
    let program = std::env::current_exe().expect("the test's own path");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output();
    match output {
        Err(error) => skipped(test, &format!("no `unshare` program: {error}")),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            if text.contains("unshare failed") || text.contains("uid_map failed") {
                return skipped(test, "user namespaces are not allowed here");
            }
            assert!(
                output.status.success(),
                "failed inside the namespace:\n{text}"
            );
            assert!(text.contains("1 passed"), "there is no such test:\n{text}");
            for line in text.lines().filter(|line| line.starts_with("SKIPPED")) {
                let _ = write!(std::io::stderr(), "\n{line}\n");
            }
        }
    }
}

/// Runs `ip` with these words in the calling thread's namespace.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("the `ip` program");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

type Job = Box<dyn FnOnce() + Send>;

/// Another machine: a thread in a network namespace of its own.
pub struct Machine {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Its thread's id, by which `ip` finds its namespace.
    pub id: i32,
}

impl Machine {
    pub fn new() -> Machine {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (told, id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            told.send(nix::unistd::gettid().as_raw())
                .expect("the maker waits");
            while let Ok(job) = queue.recv() {
                job();
            }
        });
        let id = id.recv().expect("the thread runs");
        Machine {
            jobs: Some(jobs),
            thread: Some(thread),
            id,
        }
    }

    /// Runs `job` on that machine and waits for its result.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || {
            let _ = done.send(job());
        });
        self.jobs
            .as_ref()
            .expect("open")
            .send(job)
            .expect("the machine runs");
        result.recv().expect("the job didn't panic")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client on a cable: here `lan0` with 192.0.2.1/24 and 2001:db8::1/64, there `client0` with .100 and ::100.
pub fn client() -> Machine {
    let client = Machine::new();
    ip(&format!(
        "link add lan0 type veth peer name client0 netns {}",
        client.id
    ));
    ip("addr add 192.0.2.1/24 dev lan0");
    ip("addr add 2001:db8::1/64 dev lan0 nodad");
    ip("link set lan0 up");
    client.run(|| {
        ip("link set lo up");
        ip("addr add 192.0.2.100/24 dev client0");
        ip("addr add 2001:db8::100/64 dev client0 nodad");
        ip("link set client0 up");
    });
    client
}
