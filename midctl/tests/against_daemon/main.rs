//! `midctl` itself against a served API.

mod malformed;
#[path = "../../../agent/tests/rpc/pretend.rs"]
mod pretend;
#[path = "../readme/blocks.rs"]
mod readme;
mod screens;

use failover_api::Status;
use failoverd::rpc::{Hub, Limits, Socket, serve};
use pretend::{Pretend, Temper};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A served API in a folder of its own.
struct Served {
    folder: tempfile::TempDir,
    daemon: Arc<Pretend>,
    hub: Arc<Hub>,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Served {
    fn start() -> Served {
        let hub = Arc::new(Hub::new().expect("a hub"));
        Served::daemon(Pretend::new(Some(hub.clone())), hub)
    }

    fn daemon(daemon: Arc<Pretend>, hub: Arc<Hub>) -> Served {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = {
            let _inside = runtime.enter();
            Socket::bind(&folder.path().join("s")).expect("the socket")
        };
        let (served_hub, backend) = (hub.clone(), daemon.clone());
        let serving = runtime.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(socket, served_hub, backend, Limits::default(), stopped).await
        });
        Served {
            folder,
            daemon,
            hub,
            runtime,
            stop: Some(stop),
            serving: Some(serving),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            let ended = self.runtime.block_on(serving);
            ended.expect("serving ends").expect("without an error");
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = midctl();
        command.arg("--socket").arg(self.path()).args(arguments);
        command
    }

    fn midctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("midctl runs")
    }

    /// Output of a command that must succeed.
    fn out(&self, arguments: &[&str]) -> String {
        let output = self.midctl(arguments);
        assert_eq!(err(&output), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        out(&output)
    }

    /// Starts a subscriber and waits until its subscription stands.
    fn subscriber(&self, arguments: &[&str]) -> Child {
        self.until("earlier connections are gone", || {
            self.hub.connections() == 0
        });
        let child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("midctl runs");
        self.until("the subscription stands", || self.hub.subscriptions() == 1);
        child
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < patience, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn midctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midctl"));
    command.env_remove("COLUMNS").stdin(Stdio::null());
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn calls_print_strings_raw_and_the_rest_as_json() {
    let served = Served::start();
    assert_eq!(served.out(&["call", "failover.status"]), "MASTER\n");
    assert_eq!(served.out(&["call", "failover.licensed"]), "true\n");
    assert_eq!(
        served.out(&["--json", "call", "failover.status"]),
        "\"MASTER\"\n"
    );
    assert_eq!(served.out(&["ping"]), "pong\n");
    assert_eq!(served.out(&["--json", "ping"]), "\"pong\"\n");
    assert_eq!(
        served.out(&["call", "failover.get_ips"]),
        "[\"http://10.0.0.5\",\"http://[fd00::5]\"]\n"
    );
    assert_eq!(served.out(&["call", "failover.become_passive"]), "null\n");
    assert_eq!(served.out(&["call", "failover.status"]), "BACKUP\n");
}

#[test]
fn arguments_come_from_the_line_and_from_standard_input() {
    let served = Served::start();
    let config = served.out(&["call", "failover.update", r#"{"timeout": 5}"#]);
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(
        config,
        json!({"id": 1, "disabled": false, "master": true, "timeout": 5})
    );
    let mut child = served
        .command(&["call", "failover.update", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("midctl runs");
    let mut stdin = child.stdin.take().expect("standard input");
    stdin.write_all(b"{\"disabled\": true}\n").expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("midctl ends");
    assert!(out(&output).contains("\"disabled\":true"));
    assert_eq!(
        served.out(&["call", "failover.disabled.reasons"]),
        "[\"NO_FAILOVER\"]\n"
    );
}

#[test]
fn errors_exit_with_1_and_the_reason() {
    let served = Served::start();
    let output = served.midctl(&["call", "failover.update", r#"{"timeout": 121}"#]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(out(&output), "");
    assert_eq!(
        err(&output),
        "[EINVAL] failover_update.timeout: must be a whole number of seconds from 0 to 120, not 121\n"
    );
    let output = served.midctl(&["call", "no.such.method"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output), "Method does not exist\n");
    served.daemon.set_temper(Temper::Refuses(
        16,
        "a takeover is under way: wait for its end",
    ));
    let output = served.midctl(&["--json", "call", "failover.become_passive"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_str(&err(&output)).expect("JSON");
    assert_eq!(error["error"]["code"], -32001);
    assert_eq!(
        error["error"]["data"]["reason"],
        "[EBUSY] a takeover is under way: wait for its end"
    );
    let output = served.midctl(&["subscribe", "no.such.event"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).starts_with("[ENOENT] event: "),
        "{}",
        err(&output)
    );
}

#[test]
fn wrong_usage_exits_with_2() {
    let served = Served::start();
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["call"],
        &["--timeout", "0", "ping"],
        &["call", "failover.update", "{disabled: true}"],
        &["methods", "no.such.method"],
        &["history", "-n", "0"],
    ] {
        let output = served.midctl(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_ne!(err(&output), "", "{arguments:?}");
    }
}

#[test]
fn no_daemon_exits_with_3() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s");
    for command in [
        &["ping"][..],
        &["status"],
        &["call", "failover.status"],
        &["subscribe", "*"],
    ] {
        let output = midctl()
            .arg("--socket")
            .arg(&path)
            .args(command)
            .output()
            .expect("midctl runs");
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        assert!(
            err(&output).contains("failoverd is not running"),
            "{command:?}"
        );
    }
}

#[test]
fn a_daemon_that_does_not_answer_exits_with_4() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s");
    let _silent = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let output = midctl()
        .args(["--timeout", "0.2", "ping", "--socket"])
        .arg(&path)
        .output()
        .expect("midctl runs");
    assert_eq!(output.status.code(), Some(4));
    let served = Served::start();
    served.daemon.set_temper(Temper::Hangs);
    let output = served.midctl(&["--timeout", "0.5", "call", "failover.become_passive"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        err(&output).contains("failover.become_passive: no answer"),
        "{}",
        err(&output)
    );
}

#[test]
fn subscribers_see_each_status_in_order() {
    let served = Served::start();
    served.daemon.walk(&[Status::Backup]);
    let child = served.subscriber(&["subscribe", "failover.status", "-n", "4"]);
    let takeover = [
        Status::Electing,
        Status::Electing,
        Status::Importing,
        Status::Master,
        Status::Backup,
    ];
    served.daemon.walk(&takeover);
    let output = child.wait_with_output().expect("midctl ends");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let seen: Vec<String> = out(&output)
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(event["msg"], "changed");
            assert_eq!(event["collection"], "failover.status");
            assert_eq!(event.get("id"), None);
            event["fields"]["status"]
                .as_str()
                .expect("a word")
                .to_owned()
        })
        .collect();
    assert_eq!(seen, ["ELECTING", "IMPORTING", "MASTER", "BACKUP"]);
}

#[test]
fn a_subscription_ends_in_time_or_with_the_daemon() {
    let mut served = Served::start();
    let output = served.midctl(&["subscribe", "failover.status", "-t", "0.2"]);
    assert_eq!(output.status.code(), Some(0));
    let output = served.midctl(&["subscribe", "failover.status", "-t", "0.2", "-n", "1"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(err(&output).contains("0 of 1 events"), "{}", err(&output));
    let child = served.subscriber(&["subscribe", "*"]);
    served.stop();
    let output = child.wait_with_output().expect("midctl ends");
    assert_eq!(output.status.code(), Some(3));
    assert!(
        err(&output).contains("failoverd is stopping"),
        "{}",
        err(&output)
    );
    assert!(!served.path().exists(), "the socket goes with the daemon");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let served = Served::start();
    let mut child = served.subscriber(&["subscribe", "*"]);
    served.daemon.walk(&[Status::Error]);
    let mut stdout = BufReader::new(child.stdout.take().expect("standard output"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert!(line.contains("\"ERROR\""));
    drop(stdout);
    served.daemon.walk(&[Status::Master]);
    assert_eq!(child.wait().expect("midctl ends").code(), Some(0));
    let mut told = String::new();
    let mut stderr = child.stderr.take().expect("standard error");
    stderr.read_to_string(&mut told).expect("read");
    assert_eq!(told, "");
}

/// Needs root, to be somebody else for a moment.
#[test]
fn members_of_the_group_may_look_but_not_change() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let served = Served::start();
    let folder = served.folder.path();
    if std::fs::metadata(folder).expect("the folder").uid() != 0
        || chown(served.path(), None, Some(NOBODY)).is_err()
    {
        // Past the capture of the harness, at the beginning of a line.
        let test = "members_of_the_group_may_look_but_not_change";
        let _ = write!(std::io::stderr(), "\nSKIPPED: {test}: needs root\n");
        return;
    }
    // The folder of the build may be closed to others, so a copy is run.
    let program = folder.join("midctl");
    std::fs::copy(env!("CARGO_BIN_EXE_midctl"), &program).expect("copied");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, open.clone()).expect("opened");
    std::fs::set_permissions(&program, open).expect("opened");
    let run = |arguments: &[&str]| {
        Command::new(&program)
            .arg("--socket")
            .arg(served.path())
            .args(arguments)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .expect("midctl runs")
    };
    let looks = run(&["call", "failover.status"]);
    assert_eq!(out(&looks), "MASTER\n", "{}", err(&looks));
    for arguments in [
        &["call", "failover.become_passive"][..],
        &["call", "failover.force_master"],
        &["call", "failover.update", r#"{"disabled": true}"#],
    ] {
        let changes = run(arguments);
        assert_eq!(changes.status.code(), Some(1));
        assert_eq!(err(&changes), "[EACCES] Not authorized\n");
    }
    assert_eq!(served.daemon.commands(), []);
    chown(served.path(), None, Some(0)).expect("given back");
    let refused = run(&["ping"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        err(&refused).contains("only root and members of the group failoverd"),
        "{}",
        err(&refused)
    );
}

/// Never the real one: it would do what it is told.
#[test]
fn what_sends_commands_to_disks_is_the_local_programs() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let own = folder.path().join("midctl");
    std::fs::hard_link(env!("CARGO_BIN_EXE_midctl"), &own).expect("the same file system");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&own);
        command.env("PATH", folder.path()).stdin(Stdio::null());
        command.args(arguments).output().expect("midctl runs")
    };
    let check = ["--json", "fence", "check", "sdb"];
    let clear = ["fence", "clear", "--all"];
    for (arguments, remedy) in [
        (&check[..], "failoverd fence check sdb"),
        (&clear, "failoverd fence clear --all"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(err(&output).contains(remedy), "{}", err(&output));
    }
    // Beside it, it takes its place.
    let beside = folder.path().join("failoverd");
    std::os::unix::fs::symlink("/bin/echo", beside).expect("a link");
    assert_eq!(out(&run(&check)), "fence check sdb --json\n");
    assert_eq!(out(&run(&clear)), "fence clear --all\n");
}
