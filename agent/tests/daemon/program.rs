//! The program itself: its arguments, signals and exit codes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::pair::wait_for;

fn failoverd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
    command.args(arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A controller that serves alone, with a service that logs.
struct Single {
    dir: tempfile::TempDir,
    config: PathBuf,
    child: Option<Child>,
}

impl Single {
    fn new() -> Single {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().display();
        let text = format!(
            "node = \"A\"\n[paths]\nstate_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\nsocket = \"{at}/s\"\n\
             [[services.hooks]]\nname = \"log\"\n\
             start = [\"/bin/sh\", \"-c\", \"echo on >> {at}/log\"]\n\
             stop = [\"/bin/sh\", \"-c\", \"echo off >> {at}/log\"]\n"
        );
        let config = dir.path().join("failoverd.toml");
        std::fs::write(&config, text).expect("written");
        Single {
            dir,
            config,
            child: None,
        }
    }

    fn start(&mut self) {
        let errors = std::fs::File::create(self.path("errors")).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .arg("--config")
            .arg(&self.config)
            .stderr(errors)
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("runs"));
        wait_for("it serves", || self.errors().contains("-> active"));
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("sent");
    }

    fn end(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("runs");
        let mut ended = None;
        wait_for("the daemon ends", || {
            ended = child.try_wait().expect("waited for");
            ended.is_some()
        });
        self.child = None;
        ended.expect("ended").code()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn errors(&self) -> String {
        self.read("errors")
    }

    fn service(&self) -> Vec<String> {
        self.read("log").lines().map(str::to_owned).collect()
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn the_default_file_passes_its_own_check() {
    let printed = failoverd(&["--print-default-config"]);
    assert!(printed.status.success());
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("failoverd.toml");
    std::fs::write(&file, &printed.stdout).expect("written");
    let checked = failoverd(&["--check", file.to_str().expect("text")]);
    assert!(checked.status.success());
    assert!(text(&checked.stdout).contains("SINGLE"));
}

#[test]
fn a_key_is_made_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pair.key");
    let name = file.to_str().expect("text");
    assert!(failoverd(&["new-key", name]).status.success());
    let again = failoverd(&["new-key", name]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("exists already"));
}

#[test]
fn disks_that_cannot_be_used_and_wrong_use_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("pair.key");
    assert!(
        failoverd(&["new-key", key.to_str().expect("text")])
            .status
            .success()
    );
    let file = dir.path().join("failoverd.toml");
    let config = format!(
        "node = \"A\"\npair_key = \"{}\"\ndisks = [\"naa.5000c50000000001\", \"/dev/sdb\", \"d1\"]\n",
        key.display()
    );
    std::fs::write(&file, config).expect("written");
    for option in ["--config", "--check"] {
        let refused = failoverd(&[option, file.to_str().expect("text")]);
        assert_eq!(refused.status.code(), Some(1), "{option}");
        let said = text(&refused.stderr);
        assert!(
            said.contains(":3: disks[1]: \"/dev/sdb\" is the name of a device"),
            "{said}"
        );
        assert!(
            said.contains(":3: disks[2]: \"d1\" is no identity"),
            "{said}"
        );
        assert!(!said.contains("naa.5000c50000000001"), "{said}");
    }
    assert_eq!(failoverd(&[]).status.code(), Some(1));
    let missing = failoverd(&["--config", "/nowhere/f.toml"]);
    assert!(text(&missing.stderr).contains("/nowhere/f.toml: can't be read"));
    assert_eq!(failoverd(&["--nonsense"]).status.code(), Some(2));
}

/// What the service manager kept of an earlier run; a letter disarms it at its last close.
#[test]
fn a_start_that_fails_lets_go_of_the_kept_watchdog() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, kept) = (dir.path().join("f.toml"), dir.path().join("watchdog"));
    std::fs::write(&file, "disks = [\n").expect("written");
    let script = "exec 3<>\"$2\"; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=watchdog; exec \"$0\" --config \"$1\"";
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", script, env!("CARGO_BIN_EXE_failoverd")]);
    let output = shell.arg(&file).arg(&kept).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&kept).expect("read"), "V");
}

#[test]
fn alone_it_serves_reloads_and_stops() {
    let mut single = Single::new();
    single.start();
    let before = single.service();
    assert_eq!(before.last().map(String::as_str), Some("on"));
    let mut config = single.read("failoverd.toml");
    config.push_str("[timing]\nbeat_ms = 45\n");
    std::fs::write(&single.config, &config).expect("written");
    single.signal(Signal::SIGHUP);
    wait_for("it says what changed", || {
        single.errors().contains("re-read: changed timing.beat_ms")
    });
    std::fs::write(
        &single.config,
        config.replace("node = \"A\"", "node = \"B\""),
    )
    .expect("written");
    single.signal(Signal::SIGHUP);
    wait_for("it refuses", || {
        single.errors().contains("node can't change at run time")
    });
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
    assert_eq!(single.service().len(), before.len() + 1);
    assert_eq!(single.service().last().map(String::as_str), Some("off"));
    assert!(!single.path("s").exists(), "the socket is gone");
}

#[test]
fn a_flagged_restart_leaves_the_services_alone() {
    let mut single = Single::new();
    single.start();
    let before = single.service();
    std::fs::write(single.path("run/restart"), "").expect("flagged");
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
    assert!(
        !Path::new(&single.path("run/restart")).exists(),
        "the flag is used up"
    );
    assert_eq!(single.service(), before, "nothing was touched");
    single.start();
    assert!(single.errors().contains("adopting"), "{}", single.errors());
    assert!(!single.service()[before.len()..].contains(&"off".to_owned()));
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
}

#[test]
fn after_kill_9_a_new_start_adopts() {
    let mut single = Single::new();
    single.start();
    let before = single.service();
    single.signal(Signal::SIGKILL);
    assert_eq!(single.end(), None);
    single.start();
    assert!(!single.service()[before.len()..].contains(&"off".to_owned()));
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
}

/// In a network namespace of its own: $1 the program, $2 the folder. Starts it with an address on d0.
const START: &str = r#"
set -e
until_true() { n=0; while ! "$@"; do n=$((n + 1)); [ $n -lt 1500 ] || exit 3; sleep 0.02; done; }
has() { ip -br address show dev d0 | grep -q "$1"; }
ip link add d0 type veth peer name d1
ip link set d0 up; ip link set d1 up
"$1" --config "$2/failoverd.toml" 2>"$2/errors" &
daemon=$!
trap 'kill -9 $daemon $monitor 2>/dev/null || true' EXIT
until_true has 192.0.2.9/24
"#;

const RELOAD: &str = r#"
ip -o monitor address >"$2/monitor" &
monitor=$!
# The monitor listens once it tells of an address that comes and goes.
listening() { ip address replace 198.51.100.1/32 dev d1; ip address del 198.51.100.1/32 dev d1; grep -q 198.51 "$2"; }
until_true listening x "$2/monitor"
printf '[[vips]]\ninterface = "d0"\naddress = "2001:db8::9/64"\n' >>"$2/failoverd.toml"
kill -HUP $daemon
until_true has 2001:db8::9/64
has 192.0.2.9/24
kill -TERM $daemon
wait $daemon
! has 192.0.2.9/24
! has 2001:db8::9/64
"#;

/// The kernel takes the IPv6 address along when the link goes down, and both with the interface.
const FLAP: &str = r#"
until_true has 2001:db8::9/64
ip link set d0 down
! has 2001:db8::9/64
ip link set d0 up
until_true has 2001:db8::9/64
has 192.0.2.9/24
ip link del d0
ip link add d0 type veth peer name d1
ip link set d0 up; ip link set d1 up
until_true has 2001:db8::9/64
until_true has 192.0.2.9/24
kill -TERM $daemon
wait $daemon
! has 192.0.2.9/24
! has 2001:db8::9/64
"#;

/// Runs `script` after `START`; `None` where no network namespace can be had.
fn on_a_wire(test: &str, script: &str, vips: &[&str]) -> Option<Single> {
    let run = |script: &str, folder: &Path| {
        Command::new("unshare")
            .args(["--map-root-user", "--net", "sh", "-c", script, "sh"])
            .arg(env!("CARGO_BIN_EXE_failoverd"))
            .arg(folder)
            .output()
    };
    let probe = run("ip link add d0 type veth peer name d1", Path::new("/"));
    match probe {
        Ok(probe) if probe.status.success() => {}
        _ => {
            // Past the capture of the harness, at the beginning of a line.
            let why = "no network namespace with veth can be made here";
            let _ = write!(std::io::stderr(), "\nSKIPPED: {test}: {why}\n");
            return None;
        }
    }
    let single = Single::new();
    let mut config = single.read("failoverd.toml");
    for vip in vips {
        config.push_str(&format!(
            "[[vips]]\ninterface = \"d0\"\naddress = \"{vip}\"\n"
        ));
    }
    std::fs::write(&single.config, config).expect("written");
    let output = run(&format!("{START}{script}"), single.dir.path()).expect("runs");
    let said = text(&output.stderr) + &single.errors();
    assert!(output.status.success(), "{:?} {said}", output.status);
    Some(single)
}

#[test]
fn a_reload_never_touches_an_unchanged_address() {
    let test = "program::a_reload_never_touches_an_unchanged_address";
    let Some(single) = on_a_wire(test, RELOAD, &["192.0.2.9/24"]) else {
        return;
    };
    let monitor = single.read("monitor");
    // Its removal at the end is the one thing that happens to it.
    let lines: Vec<&str> = monitor
        .lines()
        .filter(|line| line.contains("192.0.2.9"))
        .collect();
    assert!(
        lines.len() <= 1 && lines.iter().all(|line| line.starts_with("Deleted")),
        "{lines:?}"
    );
}

#[test]
fn addresses_that_went_with_their_link_come_back_with_it() {
    let test = "program::addresses_that_went_with_their_link_come_back_with_it";
    on_a_wire(test, FLAP, &["192.0.2.9/24", "2001:db8::9/64"]);
}

/// A pretend journald in the place of the real one. $1 the program, $2 the folder with its socket and the configuration.
const JOURNAL: &str = r#"
mount -t tmpfs none /run
mkdir -p /run/systemd/journal
touch /run/systemd/journal/socket
mount --bind "$2/journald" /run/systemd/journal/socket
exec 2>"$2/errors"
JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$1" --config "$2/failoverd.toml"
"#;

#[test]
fn journald_gets_the_ids_of_its_catalogue() {
    let test = "program::journald_gets_the_ids_of_its_catalogue";
    let mut single = Single::new();
    let journald = UnixDatagram::bind(single.path("journald")).expect("a socket");
    let patience = Some(Duration::from_secs(30));
    journald.set_read_timeout(patience).expect("a time-out");
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"]);
        command
            .arg(env!("CARGO_BIN_EXE_failoverd"))
            .arg(single.dir.path());
        command
    };
    let probe = inside("mount -t tmpfs none /run").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        let why = "no mount namespace can be made here";
        let _ = write!(std::io::stderr(), "\nSKIPPED: {test}: {why}\n");
        return;
    }
    single.child = Some(inside(JOURNAL).spawn().expect("runs"));
    let mut line = vec![0; 65536];
    // The native protocol: FIELD=value lines, or FIELD, a little-endian length and the value.
    let serves = loop {
        let length = journald.recv(&mut line).expect("a line in time");
        let line = text(&line[..length]);
        if line.contains("-> active") {
            break line;
        }
    };
    for part in [
        "0348b3bc16ba5e128f9c49355a142529\n",
        "MESSAGE_ID\n",
        "FAILOVER_ID\n",
        "FAILOVER_TO\n",
        "SYSLOG_IDENTIFIER",
    ] {
        assert!(serves.contains(part), "{part:?} is missing: {serves:?}");
    }
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
}

/// A unit that waited for the target which it starts itself would never be ready.
#[test]
fn it_is_ready_as_soon_as_the_socket_answers() {
    let mut single = Single::new();
    let go = single.path("go");
    let waits = format!(
        "[[services.hooks]]\nname = \"waits\"\nstop = [\"/bin/true\"]\n\
         start = [\"/bin/sh\", \"-c\", \"until [ -e {} ]; do sleep 0.02; done\"]\n",
        go.display()
    );
    std::fs::write(&single.config, single.read("failoverd.toml") + &waits).expect("written");
    let mut manager = Manager::start(&mut single);
    manager.waits_for("READY=1");
    UnixStream::connect(single.path("s")).expect("the socket is there");
    assert!(!single.errors().contains("-> active"), "not yet serving");
    std::fs::write(&go, "").expect("let go");
    manager.waits_for("STATUS=SINGLE (active)");
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
    manager.waits_for("STOPPING=1");
}

/// A pretend service manager.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    /// Starts the daemon under it, with a watchdog of 8 s.
    fn start(single: &mut Single) -> Manager {
        let socket = UnixDatagram::bind(single.path("notify")).expect("a socket");
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).expect("a time-out");
        // A descriptor that an earlier run left, and that this configuration knows no use for.
        let script = "LISTEN_PID=$$ exec \"$0\" --config \"$1\" 3</dev/null";
        let child = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_failoverd")])
            .arg(&single.config)
            .env("NOTIFY_SOCKET", single.path("notify"))
            .env("WATCHDOG_USEC", "8000000")
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "watchdog")
            .stderr(std::fs::File::create(single.path("errors")).expect("a file"))
            .spawn();
        single.child = Some(child.expect("runs"));
        let told = Vec::new();
        Manager { socket, told }
    }

    /// Until a line with these words was told, or a second time if it was.
    fn waits_for(&mut self, words: &str) {
        let began = std::time::Instant::now();
        loop {
            let late = began.elapsed() > Duration::from_secs(60);
            assert!(!late, "{words} is missing: {:?}", self.told);
            let mut text = [0; 1024];
            let length = self.socket.recv(&mut text);
            let length = length.unwrap_or_else(|_| panic!("{words} is missing: {:?}", self.told));
            let told = String::from_utf8_lossy(&text[..length]).into_owned();
            let found = told.contains(words);
            self.told.push(told);
            if found {
                return;
            }
        }
    }
}

#[test]
fn the_service_manager_hears_of_life_of_a_long_stop_and_of_one_that_is_taken_back() {
    let mut single = Single::new();
    let at = single.dir.path().display().to_string();
    let slow = format!(
        "[[services.hooks]]\nname = \"slow\"\nstart = [\"/bin/true\"]\ntimeout_ms = 15000\n\
         stop = [\"/bin/sh\", \"-c\", \"until [ -e {at}/go ] || [ -e {at}/fail ]; do sleep 0.05; done; ! [ -e {at}/fail ]\"]\n"
    );
    std::fs::write(&single.config, single.read("failoverd.toml") + &slow).expect("written");
    // Cleaning up before the start must not wait.
    std::fs::write(single.path("go"), "").expect("let go");
    let mut manager = Manager::start(&mut single);
    manager.waits_for("STATUS=SINGLE (active)");
    let told = manager.told.concat();
    // What was kept goes back, the start has a limit of its own, and life brings back the shorter one.
    assert!(
        told.contains("FDSTOREREMOVE=1\nFDNAME=watchdog\n"),
        "{told}"
    );
    let limits: Vec<u64> = told
        .lines()
        .filter_map(|line| line.strip_prefix("WATCHDOG_USEC=")?.parse().ok())
        .collect();
    assert!(
        limits.len() == 2 && limits[0] > 60_000_000 && limits[1] == 8_000_000,
        "{told}"
    );
    manager.waits_for("WATCHDOG=1");

    std::fs::remove_file(single.path("go")).expect("there");
    single.signal(Signal::SIGTERM);
    manager.waits_for("STATUS=SINGLE (stopping-services)");
    manager.waits_for("EXTEND_TIMEOUT_USEC=15000000");
    std::fs::write(single.path("fail"), "").expect("written");
    manager.waits_for("STATUS=SINGLE (active); told to end, but the handover was taken back");
    wait_for("it is in the log", || {
        single.errors().contains("STOP_TAKEN_BACK")
    });

    std::fs::remove_file(single.path("fail")).expect("there");
    std::fs::write(single.path("go"), "").expect("let go");
    single.signal(Signal::SIGTERM);
    assert_eq!(single.end(), Some(0));
}

/// As where systemd starts no unit any more for a daemon that it ends.
#[test]
fn a_stop_that_was_taken_back_is_taken_up_where_the_serving_fails_too() {
    let mut single = Single::new();
    let at = single.dir.path().display().to_string();
    let neither = format!(
        "[[services.hooks]]\nname = \"neither\"\nstart = [\"/bin/sh\", \"-c\", \"! [ -e {at}/fail ]\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"! [ -e {at}/fail ]\"]\n"
    );
    std::fs::write(&single.config, single.read("failoverd.toml") + &neither).expect("written");
    let mut manager = Manager::start(&mut single);
    manager.waits_for("STATUS=SINGLE (active)");
    std::fs::write(single.path("fail"), "").expect("written");
    single.signal(Signal::SIGTERM);
    manager.waits_for("STATUS=ERROR (failed)");
    std::fs::remove_file(single.path("fail")).expect("there");
    assert_eq!(single.end(), Some(0));
}
