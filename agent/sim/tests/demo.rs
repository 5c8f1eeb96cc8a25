//! The demo as a whole, and its shelf and host against the daemon's own disk work.

use failover_core::adapters::{Change, Pools, Services};
use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::{DiskId, Epoch, Node, PoolId};
use failover_core::key::{EpochBits, Key, Phase};
use failover_core::perform::perform_disk;
use failover_sim::demo::adapters::HostLink;
use failover_sim::demo::host::{Host, HostPlace};
use failover_sim::shelf::client::ShelfConnection;
use failover_sim::shelf::disk_id;
use failover_sim::shelf::fence::ShelfFence;
use failover_sim::shelf::server::{Server, Shape};
use failover_sim::shelf::wire::{Reply, Request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DISKS: usize = 6;
const POOL: PoolId = PoolId(0);
const LIMIT: Duration = Duration::from_secs(10);

// ---- shelf and hosts in this process -----------------------------------------------------------------------------

struct Bench {
    shelf: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a folder");
        let shelf = dir.path().join("shelf.sock");
        let shape = Shape {
            disks: DISKS,
            latency: Duration::from_micros(200),
            refuses_nobody: false,
        };
        let server = Server::bind(&shelf, shape).expect("a shelf");
        std::thread::spawn(move || server.serve());
        Bench { shelf, dir }
    }

    fn host(&self, node: Node) -> HostLink {
        let socket = self.dir.path().join(format!("host-{node}.sock"));
        let host = Host::bind(HostPlace {
            node,
            socket: socket.clone(),
            shelf: self.shelf.clone(),
            disks: DISKS,
            // On loopback, and another one for each node.
            vip: Ipv4Addr::new(127, 77, 0, 1 + node as u8),
        });
        let host = host.expect("a host");
        std::thread::spawn(move || host.serve());
        HostLink::new(socket, DISKS)
    }

    fn fence(&self, node: Node) -> ShelfFence {
        ShelfFence::new(self.shelf.clone(), node, DISKS)
    }

    fn refused(&self, node: Node) -> u64 {
        let mut driver = ShelfConnection::connect(&self.shelf, None).expect("connected");
        match driver.call(&Request::Marks, LIMIT) {
            Ok(Reply::Marks { refused, .. }) => refused[node as usize],
            other => panic!("{other:?}"),
        }
    }
}

fn key(node: Node, epoch: u64) -> Key {
    Key {
        pair: 0xbeef,
        node,
        held: false,
        phase: Phase::Owner,
        incarnation: 1,
        epoch: EpochBits::of(Epoch(epoch)),
        beat: 1,
    }
}

fn survey(fence: &ShelfFence, disk: DiskId) -> Survey {
    match perform_disk(fence, disk, DiskWork::Survey, LIMIT) {
        DiskOutcome::Surveyed(survey) => survey,
        other => panic!("{other:?}"),
    }
}

/// Takes every disk as the daemon does; answers those it won.
fn take_all(fence: &ShelfFence, key: Key) -> Vec<DiskId> {
    (0..DISKS)
        .map(disk_id)
        .filter(|disk| {
            let surveyed = survey(fence, *disk);
            let work = DiskWork::take(key, surveyed);
            perform_disk(fence, *disk, work, LIMIT) == DiskOutcome::Taken
        })
        .collect()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_fenced_controller_goes_on_writing_and_is_refused() {
    let bench = Bench::new();
    let (a, b) = (bench.host(Node::A), bench.host(Node::B));
    let won = take_all(&bench.fence(Node::A), key(Node::A, 1));
    assert_eq!(won.len(), DISKS);
    assert_eq!(a.import(POOL, &won), Ok(Change::Made));
    assert_eq!(a.import(POOL, &won), Ok(Change::AlreadySo));
    assert_eq!(a.start(&[POOL]), Ok(Change::Made));
    assert_eq!(bench.refused(Node::A), 0);

    // Nobody tells A: its kernel has the pool and writes to it.
    let won = take_all(&bench.fence(Node::B), key(Node::B, 2));
    assert_eq!(won.len(), DISKS);
    assert_eq!(b.import(POOL, &won), Ok(Change::Made));
    let before = bench.refused(Node::A);
    until("a refused write of A", || {
        bench.refused(Node::A) > before + 5
    });
    assert_eq!(bench.refused(Node::B), 0);
    assert_eq!(b.export(POOL), Ok(Change::Made));
    assert_eq!(b.imported(POOL), Ok(false));
}

#[test]
fn the_pool_needs_every_disk_and_the_service_needs_the_pool() {
    let bench = Bench::new();
    let a = bench.host(Node::A);
    let won = take_all(&bench.fence(Node::A), key(Node::A, 1));
    let why = a.import(POOL, &won[1..]).expect_err("a disk is missing");
    assert!(why.0.contains("wasn't won"), "{why}");
    let why = a.start(&[POOL]).expect_err("there is no pool");
    assert!(why.0.contains("isn't imported"), "{why}");
    assert_eq!(a.export(POOL), Ok(Change::AlreadySo));
}

#[test]
fn a_cut_path_answers_nothing_until_it_is_mended() {
    let bench = Bench::new();
    let fence = bench.fence(Node::A);
    survey(&fence, disk_id(0));
    let mut driver = ShelfConnection::connect(&bench.shelf, None).expect("connected");
    let cut = driver.call(&Request::Cut { node: Node::A }, LIMIT);
    assert_eq!(cut.expect("an answer"), Reply::Good);
    let look = |fence: &ShelfFence| perform_disk(fence, disk_id(0), DiskWork::Survey, LIMIT);
    assert!(matches!(look(&fence), DiskOutcome::Unreachable(_)));
    assert!(matches!(
        look(&bench.fence(Node::B)),
        DiskOutcome::Surveyed(_)
    ));
    let mended = driver.call(&Request::Mend { node: Node::A }, LIMIT);
    assert_eq!(mended.expect("an answer"), Reply::Good);
    until("the path", || {
        matches!(look(&fence), DiskOutcome::Surveyed(_))
    });
}

// ---- the demo as people run it -----------------------------------------------------------------------------------

fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failover-sim"));
    command
        .args(["demo", "--dir"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Whether the system lets the demo make namespaces; says so where it doesn't.
fn may_run(test: &str, said: &str) -> bool {
    let refused = said.contains("of its own and the system refused it");
    if refused {
        // Past the capture of the harness, at the beginning of a line.
        let why = said.trim();
        let _ = write!(std::io::stderr(), "\nSKIPPED: {test}: {why}\n");
    }
    !refused
}

/// Processes whose arguments name this folder, apart from `but`.
fn processes_of(dir: &Path, but: u32) -> Vec<String> {
    let wanted = dir.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let other = |pid: &String| pid.parse::<u32>().is_ok_and(|pid| pid != but);
    let named = |pid: &String| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&wanted)
    };
    entries.map(name).filter(other).filter(named).collect()
}

#[test]
fn the_demo_loses_nothing_and_tells_it_as_one_object() {
    let dir = tempfile::tempdir().expect("a folder");
    let cases = ["handover", "crash", "power_cut", "restart"];
    let mut arguments = vec!["--json", "--disks", "8"];
    for case in cases {
        arguments.extend(["--case", case]);
    }
    let output = demo(dir.path(), &arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    if !may_run("the_demo_loses_nothing_and_tells_it_as_one_object", &said) {
        return;
    }
    let object: Value = serde_json::from_slice(&output.stdout).expect("one object, nothing else");
    assert_eq!(object["records"]["lost"], 0, "{said}");
    assert_eq!(object["records"]["double"], 0, "{said}");
    assert!(
        object["records"]["acknowledged"].as_u64() > Some(100),
        "{said}"
    );
    let shown = object["cases"].as_array().expect("a list");
    let names: Vec<&str> = shown
        .iter()
        .filter_map(|case| case["case"].as_str())
        .collect();
    assert_eq!(names, cases, "{said}");
    for case in shown {
        assert!(case["dark_ms"]["p99"].is_number(), "{case}");
        assert_eq!(case["runs"], 1, "{case}");
    }
    for phase in ["fence", "import", "services", "vip"] {
        assert!(shown[0]["phases_ms"][phase]["p50"].is_number(), "{phase}");
    }
    let kept = fs::read_to_string(dir.path().join("result.json")).expect("result.json");
    let kept: Value = serde_json::from_str(&kept).expect("the same object");
    assert_eq!(kept["records"], object["records"]);
}

#[test]
fn recorded_runs_lead_to_the_same_decisions() {
    let output = Command::new(env!("CARGO_BIN_EXE_failover-sim"))
        .args(["replays", "--runs", "2"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    if !may_run("recorded_runs_lead_to_the_same_decisions", &said) {
        return;
    }
    assert!(output.status.success(), "{said}");
    assert!(said.contains("4 of 4 logs decide otherwise"), "{said}");
}

/// The demo with a control, which succeeds for finding its harm.
fn controlled(test: &str, control: &str) -> Option<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let arguments = ["--json", "--disks", "8", "--control", control];
    let output = demo(dir.path(), &arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    if !may_run(test, &said) {
        return None;
    }
    let object: Value = serde_json::from_slice(&output.stdout).expect("one object, nothing else");
    assert!(output.status.success(), "{said}");
    assert!(object["control"]["harm"].is_string(), "{said}");
    Some(object)
}

/// On a shelf that takes every write the judge finds the frozen MASTER's.
#[test]
fn the_judge_finds_writes_of_both_where_nothing_fences() {
    let test = "the_judge_finds_writes_of_both_where_nothing_fences";
    if let Some(object) = controlled(test, "target_refuses_nobody") {
        assert!(object["records"]["double"].as_u64() > Some(0), "{object}");
    }
}

/// Each controller's timers are right by themselves, and both answer.
#[test]
fn the_observer_finds_both_answering_where_timers_differ() {
    let test = "the_observer_finds_both_answering_where_timers_differ";
    if let Some(object) = controlled(test, "timers_differ") {
        assert_eq!(object["records"]["double"], 0, "the disks fence: {object}");
    }
}

/// Starts a pair that is kept and waits until both daemons listen; `None` where it can't be had.
fn keep(test: &str, dir: &Path) -> Option<Child> {
    let mut child = demo(dir, &["--keep", "--json", "--disks", "4"])
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    let sockets = ["a/failoverd.sock", "b/failoverd.sock"];
    while !sockets.iter().all(|socket| dir.join(socket).exists()) {
        if child.try_wait().expect("a child").is_some() {
            let output = child.wait_with_output().expect("its output");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!may_run(test, &said), "it ended: {said}");
            return None;
        }
        assert!(Instant::now() < deadline, "the pair never listened");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(child)
}

#[test]
fn nothing_is_left_when_the_demo_is_told_to_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let test = "nothing_is_left_when_the_demo_is_told_to_end";
    let Some(child) = keep(test, dir.path()) else {
        return;
    };
    let pid = child.id();
    assert!(
        !processes_of(dir.path(), pid).is_empty(),
        "shelf, hosts, daemons"
    );
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).expect("it lives");
    let output = child.wait_with_output().expect("it ends");
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
    assert_eq!(processes_of(dir.path(), pid), Vec::<String>::new());
}

#[test]
fn nothing_is_left_when_only_the_demo_is_killed() {
    let dir = tempfile::tempdir().expect("a folder");
    let test = "nothing_is_left_when_only_the_demo_is_killed";
    let Some(mut child) = keep(test, dir.path()) else {
        return;
    };
    let pid = child.id();
    child.kill().expect("it lives");
    child.wait().expect("it ends");
    until("the end of every child", || {
        processes_of(dir.path(), pid).is_empty()
    });
}

#[test]
fn a_folder_too_deep_for_sockets_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a folder");
    let deep = dir.path().join("x".repeat(100));
    let output = demo(&deep, &[]).output().expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("too long") && said.contains("--dir"),
        "{said}"
    );
}
