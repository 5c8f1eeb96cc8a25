//! `midctl` itself against a served API.

#[path = "../../agent/tests/rpc/pretend.rs"]
mod pretend;
#[path = "readme/blocks.rs"]
mod readme;

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

/// Compares with a kept output; `UPDATE_GOLDEN=1` keeps the present one.
fn golden(name: &str, output: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, output).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        output,
        kept,
        "{} differs; UPDATE_GOLDEN=1 keeps what midctl prints now",
        path.display()
    );
}

fn in_columns(served: &Served, columns: &str, arguments: &[&str]) -> String {
    let mut command = served.command(arguments);
    let output = command
        .env("COLUMNS", columns)
        .output()
        .expect("midctl runs");
    assert_eq!(err(&output), "");
    let text = out(&output);
    let width = columns.parse().expect("a number");
    for line in text.lines() {
        assert!(
            line.chars().count() <= width,
            "too wide for {width}: {line}"
        );
        assert_eq!(line, line.trim_end());
    }
    text
}

#[test]
fn the_pair_is_shown_on_one_screen() {
    let served = Served::start();
    golden("status.txt", &served.out(&["status"]));
    golden("status-100.txt", &in_columns(&served, "100", &["status"]));
    served.daemon.change(trouble);
    golden("status-trouble.txt", &served.out(&["status"]));
    golden(
        "status-trouble-60.txt",
        &in_columns(&served, "60", &["status"]),
    );
    let state: Value = serde_json::from_str(&served.out(&["--json", "status"])).expect("JSON");
    assert_eq!(state["status"], "ERROR");
}

#[test]
fn a_pool_that_failed_alone_is_shown_with_its_address() {
    let served = Served::start();
    served.daemon.change(|report| {
        report.pools.push(failover_api::PoolReport {
            pool: "dock".to_owned(),
            state: "imported".to_owned(),
        });
        report.pools[0].state = "failed: it needs disk07, which was not won".to_owned();
        report.vip_list[1].on = false;
    });
    golden("status-pool-failed.txt", &served.out(&["status"]));
}

/// Much that can go wrong, at once.
fn trouble(report: &mut failover_api::StateReport) {
    use failover_api::{DisabledReason, DiskSummary};
    report.status = Status::Error;
    report.state = "halted".to_owned();
    report.why = "it halted because a majority of the shared disks was lost".to_owned();
    report.eligible = false;
    report.blockers = vec!["20 of 24 disks can't be read".to_owned()];
    report.config.disabled = true;
    report.disabled_reasons = vec![DisabledReason::NoFailover, DisabledReason::NoPong];
    report.vips_on = false;
    report.lease_ms = None;
    report.pools[0].state = "failed: disk07 is missing".to_owned();
    report.disks = DiskSummary {
        ours: 3,
        foreign: 1,
        unreadable: 20,
        ..DiskSummary::default()
    };
    for disk in &mut report.disk_list[3..23] {
        disk.owner = "unreadable".to_owned();
        disk.epoch = None;
        disk.age_ms = None;
    }
    report.disk_list[23].owner = "foreign".to_owned();
    report.links[1].age_ms = None;
    if let Some(peer) = &mut report.peer {
        peer.heard = false;
        peer.age_ms = Some(432_000);
        peer.eligible = false;
    }
}

#[test]
fn the_history_is_a_table_where_it_fits() {
    let served = Served::start();
    golden("history.txt", &served.out(&["history"]));
    golden("history-120.txt", &in_columns(&served, "120", &["history"]));
    golden(
        "history-60.txt",
        &in_columns(&served, "60", &["history", "-n", "1"]),
    );
    golden(
        "history-evidence.txt",
        &served.out(&["history", "-n", "1", "-e"]),
    );
    let records: Value =
        serde_json::from_str(&served.out(&["--json", "history", "-n", "2"])).expect("JSON");
    assert_eq!(records.as_array().map(Vec::len), Some(2));
    assert_eq!(records[1]["time"], json!({"$date": 1_795_246_233_123_u64}));
}

#[test]
fn methods_are_explained_without_a_daemon() {
    let run = |arguments: &[&str]| {
        let output = midctl().args(arguments).output().expect("midctl runs");
        assert_eq!(output.status.code(), Some(0));
        out(&output)
    };
    golden("help-fence.txt", &run(&["fence", "--help"]));
    golden("methods.txt", &run(&["methods"]));
    golden("methods-update.txt", &run(&["methods", "failover.update"]));
    golden("help.txt", &run(&["--help"]));
    let all: Value = serde_json::from_str(&run(&["--json", "methods"])).expect("JSON");
    assert_eq!(all["failover.update"]["roles"], json!(["FAILOVER_WRITE"]));
}

/// What a client asks first.
const OPTIONS: &str = r#"{"jsonrpc":"2.0","result":{"legacy_jobs":false,"private_methods":false,"py_exceptions":false},"id":"1"}"#;

/// Answers each message of one client, after the first, with the next of these; a line is a frame.
fn scripted(answers: &'static [&'static str]) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("socket");
    let server = std::thread::spawn(move || {
        Runtime::new().expect("a runtime").block_on(async move {
            let (stream, _) = listener.accept().expect("a client");
            stream.set_nonblocking(true).expect("set");
            let stream = tokio::net::UnixStream::from_std(stream).expect("a stream");
            let accepted = tokio_tungstenite::accept_async(stream).await;
            let mut socket = accepted.expect("a WebSocket");
            for answer in [OPTIONS].iter().chain(answers) {
                if socket.next().await.is_none() {
                    return;
                }
                for frame in answer.lines() {
                    let message = match frame {
                        "binary" => Message::binary(vec![1, 2, 3]),
                        "hang up" => return,
                        text => Message::text(text),
                    };
                    let _ = socket.send(message).await;
                }
            }
            while let Some(Ok(_)) = socket.next().await {}
        });
    });
    (folder, server)
}

#[test]
fn malformed_answers_never_look_like_success() {
    for (answers, code, told) in [
        (&["{"][..], 5, "is no JSON object"),
        (
            &[r#"{"jsonrpc":"2.0","id":"2"}"#],
            5,
            "neither a method nor",
        ),
        (
            &[r#"{"jsonrpc":"2.0","id":"2","error":{}}"#],
            5,
            "without a code",
        ),
        (&["binary"], 5, "binary message"),
        (&["hang up"], 3, "connection lost"),
        // What the usual client takes for a success.
        (
            &[
                r#"{"jsonrpc":"2.0","id":"2","error":{"code":-32001,"message":"Method call error"}}"#,
            ],
            1,
            "Method call error",
        ),
        (
            &[r#"{"jsonrpc":"2.0","id":"2","error":{"code":7,"message":"odd"}}"#],
            1,
            "odd",
        ),
        (
            &[r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}"#],
            1,
            "what?",
        ),
        // Somebody else's answer is not ours.
        (
            &[r#"{"jsonrpc":"2.0","id":"99","result":true}"#],
            4,
            "no answer",
        ),
    ] {
        let (folder, server) = scripted(answers);
        let output = midctl()
            .args(["--timeout", "2", "call", "failover.status", "--socket"])
            .arg(folder.path().join("s"))
            .output()
            .expect("midctl runs");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{answers:?}: {}",
            err(&output)
        );
        assert!(err(&output).contains(told), "{answers:?}: {}", err(&output));
        assert_eq!(out(&output), "", "{answers:?}");
        server.join().expect("the server ends");
    }
}

#[test]
fn a_result_of_another_shape_is_no_success() {
    let (folder, server) = scripted(&[r#"{"jsonrpc":"2.0","id":"2","result":{"node":"A"}}"#]);
    let output = midctl()
        .args(["status", "--socket"])
        .arg(folder.path().join("s"))
        .output()
        .expect("midctl runs");
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
    assert!(err(&output).contains("failover.state"), "{}", err(&output));
    server.join().expect("the server ends");
}

#[test]
fn an_ended_subscription_is_no_success() {
    for (answers, told) in [
        (
            &["{\"id\":\"2\",\"result\":\"s\"}\n\
               {\"method\":\"notify_unsubscribed\",\"params\":{\"collection\":\"x\",\"error\":null}}"]
                [..],
            "the subscription to x was ended by failoverd\n",
        ),
        (
            &[
                "{\"method\":\"notify_unsubscribed\",\"params\":{\"collection\":\"x\",\"error\":5}}\n\
               {\"id\":\"2\",\"result\":\"s\"}",
            ],
            "the subscription to x was ended by failoverd: 5\n",
        ),
        (
            &["{\"id\":\"2\",\"result\":\"s\"}\nhang up"],
            "connection lost",
        ),
    ] {
        let (folder, server) = scripted(answers);
        let output = midctl()
            .args(["subscribe", "x", "--socket"])
            .arg(folder.path().join("s"))
            .output()
            .expect("midctl runs");
        assert_eq!(output.status.code(), Some(3), "{}", err(&output));
        assert!(err(&output).contains(told), "{}", err(&output));
        server.join().expect("the server ends");
    }
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

#[test]
fn the_map_of_the_disks_looks_as_kept() {
    let served = Served::start();
    golden("fence-status.txt", &served.out(&["fence", "status"]));
    golden(
        "fence-status-100.txt",
        &in_columns(&served, "100", &["fence", "status"]),
    );
    let json = served.out(&["--json", "fence", "status"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["disk_list"][0]["holder"]["phase"], "owner");
    assert_eq!(
        json["disk_list"][1]["registrations"][1]["node"],
        Value::Null
    );
    assert_eq!(
        json["disk_list"][0]["check"]["time"]["$date"],
        1_795_246_230_123_u64
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
