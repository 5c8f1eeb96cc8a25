//! Services over D-Bus against a pretend systemd on a private bus.

use crate::ns::skipped;
use failover_core::adapters::Change;
use failoverd::adapters::services::{DEFAULT_UNIT, Service, SystemdServices};
use failoverd::adapters::systemd::being_restarted;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use zbus::object_server::SignalEmitter;
use zbus::{OwnedObjectPath, fdo, interface};

/// A private bus daemon; ends with the test.
struct Bus {
    daemon: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Bus {
    fn start(test: &str) -> Option<Bus> {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:dir={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            folder.path().display()
        );
        std::fs::write(&config, text).expect("written");
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut daemon) = daemon else {
            skipped(test, "no `dbus-daemon` program: install dbus-daemon");
            return None;
        };
        let mut address = String::new();
        let said = daemon.stdout.take().expect("a pipe");
        BufReader::new(said)
            .read_line(&mut address)
            .expect("its address");
        Some(Bus {
            daemon,
            address: address.trim().to_owned(),
            _folder: folder,
        })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// How a pretend unit behaves.
#[derive(Clone, Debug)]
struct Pretend {
    state: &'static str,
    /// Result of its jobs; `None`: they never end.
    result: Option<&'static str>,
    takes: Duration,
    parts: Vec<&'static str>,
}

fn pretend(result: Option<&'static str>) -> Pretend {
    Pretend {
        state: "inactive",
        result,
        takes: Duration::from_millis(20),
        parts: vec![],
    }
}

type Units = Arc<Mutex<BTreeMap<String, Pretend>>>;

/// State of a pretend unit that runs and has a job.
const LEAVING: &str = "leaving";

/// An answer of ListUnitsByNames.
type Status = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

struct Manager {
    units: Units,
    asked: Arc<Mutex<Vec<String>>>,
    next: AtomicU32,
    subscribed: bool,
    noise: u32,
}

fn path(unit: &str) -> OwnedObjectPath {
    let name: String = unit.bytes().map(|b| format!("_{b:02x}")).collect();
    let path = format!("/org/freedesktop/systemd1/unit/{name}");
    OwnedObjectPath::try_from(path).expect("a path")
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&mut self) {
        self.subscribed = true;
    }

    fn load_unit(&self, name: &str) -> fdo::Result<OwnedObjectPath> {
        if self.units.lock().expect("unlocked").contains_key(name) {
            Ok(path(name))
        } else {
            Ok(path("nothing.service"))
        }
    }

    fn list_units_by_names(&self, names: Vec<String>) -> Vec<Status> {
        let units = self.units.lock().expect("unlocked");
        let status = |name: String| {
            let state = units.get(&name).map_or("inactive", |unit| unit.state);
            // Runs, and has a job that stops it.
            let (state, job) = if state == LEAVING {
                ("active", 5)
            } else {
                (state, 0)
            };
            let none = || OwnedObjectPath::try_from("/").expect("a path");
            let word = String::new;
            let at = path(&name);
            (
                name,
                word(),
                word(),
                state.to_owned(),
                word(),
                word(),
                at,
                job,
                word(),
                none(),
            )
        };
        names.into_iter().map(status).collect()
    }

    #[zbus(name = "GetUnitByPID")]
    fn unit_by_pid(&self, pid: u32) -> fdo::Result<OwnedObjectPath> {
        assert_eq!(pid, std::process::id());
        self.load_unit("failoverd.service")
    }

    async fn start_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] to: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job("start", name, "active", to).await
    }

    async fn stop_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] to: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job("stop", name, "inactive", to).await
    }

    #[zbus(signal)]
    async fn job_removed(
        to: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

impl Manager {
    async fn job(
        &self,
        word: &str,
        name: &str,
        after: &'static str,
        to: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        let unit = self.units.lock().expect("unlocked").get(name).cloned();
        let Some(unit) = unit else {
            return Err(fdo::Error::Failed(format!("Unit {name} not found.")));
        };
        self.asked
            .lock()
            .expect("unlocked")
            .push(format!("{word} {name}"));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let job = OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}"))
            .expect("a path");
        if !self.subscribed {
            return Ok(job);
        }
        let to = to.to_owned();
        // Other units' jobs end all the time, even before our answer.
        for other in 0..self.noise {
            let path = OwnedObjectPath::try_from(format!(
                "/org/freedesktop/systemd1/job/{}",
                9000 + other
            ));
            let unit = "other.service".to_owned();
            let _ = Manager::job_removed(
                &to,
                9000 + other,
                path.expect("a path"),
                unit,
                "failed".to_owned(),
            )
            .await;
        }
        let (units, name, ended) = (self.units.clone(), name.to_owned(), job.clone());
        tokio::spawn(async move {
            let Some(result) = unit.result else { return };
            tokio::time::sleep(unit.takes).await;
            if result == "done"
                && let Some(unit) = units.lock().expect("unlocked").get_mut(&name)
            {
                unit.state = after;
            }
            let _ = Manager::job_removed(&to, id, ended, name, result.to_owned()).await;
        });
        Ok(job)
    }
}

struct Unit {
    name: &'static str,
    units: Units,
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> String {
        let units = self.units.lock().expect("unlocked");
        units
            .get(self.name)
            .map_or("inactive", |unit| unit.state)
            .to_owned()
    }

    #[zbus(property)]
    fn job(&self) -> (u32, OwnedObjectPath) {
        let path = OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/77");
        (77, path.expect("a path"))
    }

    #[zbus(property)]
    fn load_state(&self) -> String {
        let there = self.units.lock().expect("unlocked").contains_key(self.name);
        if there { "loaded" } else { "not-found" }.to_owned()
    }

    #[zbus(property)]
    fn requires(&self) -> Vec<String> {
        vec![]
    }

    /// What is part of a pretend target is wanted by it too.
    #[zbus(property)]
    fn wants(&self) -> Vec<String> {
        self.consists_of()
    }

    #[zbus(property)]
    fn consists_of(&self) -> Vec<String> {
        let units = self.units.lock().expect("unlocked");
        let parts = units.get(self.name).map(|unit| unit.parts.clone());
        parts
            .unwrap_or_default()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }
}

/// The daemon's own job; its type is the state that the test gave to its unit.
struct Job(Units);

#[interface(name = "org.freedesktop.systemd1.Job")]
impl Job {
    #[zbus(property)]
    fn job_type(&self) -> String {
        let units = self.0.lock().expect("unlocked");
        let unit = units.get("failoverd.service");
        unit.map_or("", |unit| unit.state).to_owned()
    }
}

/// The pretend systemd, in a thread of its own.
struct Systemd {
    units: Units,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Systemd {
    fn start(bus: &Bus, units: &[(&'static str, Pretend)], noise: u32) -> Systemd {
        let names: Vec<&'static str> = units.iter().map(|(name, _)| *name).collect();
        let units = units
            .iter()
            .map(|(name, unit)| ((*name).to_owned(), unit.clone()))
            .collect();
        let units: Units = Arc::new(Mutex::new(units));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let manager = Manager {
            units: units.clone(),
            asked: asked.clone(),
            next: AtomicU32::new(1),
            subscribed: false,
            noise,
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (address, shared) = (bus.address.clone(), units.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async move {
                let mut builder = zbus::connection::Builder::address(address.as_str())
                    .serve_at("/org/freedesktop/systemd1", manager);
                for name in names.into_iter().chain(["nothing.service"]) {
                    let unit = Unit {
                        name,
                        units: shared.clone(),
                    };
                    builder = builder.serve_at(path(name), unit);
                }
                let job = Job(shared.clone());
                let builder = builder.serve_at("/org/freedesktop/systemd1/job/77", job);
                let builder = builder.name("org.freedesktop.systemd1");
                let _connection = builder.build().await.expect("on the bus");
                ready.send(()).expect("the test waits");
                let _ = stopped.await;
            });
        });
        is_ready.recv().expect("on the bus");
        Systemd {
            units,
            asked,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("unlocked"))
    }

    fn set(&self, unit: &str, state: &'static str) {
        let mut units = self.units.lock().expect("unlocked");
        units.get_mut(unit).expect("a unit of the test").state = state;
    }

    fn state(&self, unit: &str) -> &'static str {
        self.units.lock().expect("unlocked")[unit].state
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn services(bus: &Bus, units: &[&str], deadline_ms: u64) -> SystemdServices {
    let units = units.iter().map(|unit| (*unit).to_owned()).collect();
    SystemdServices::new(units, Duration::from_millis(deadline_ms))
        .expect("good units")
        .on_bus(&bus.address)
}

#[test]
fn a_target_is_started_and_stopped_with_what_is_part_of_it() {
    let Some(bus) = Bus::start("systemd::a_target_is_started_and_stopped_with_what_is_part_of_it")
    else {
        return;
    };
    let mut target = pretend(Some("done"));
    target.parts = vec!["nfs.service", "smb.service"];
    let mut nfs = pretend(Some("done"));
    nfs.state = "active";
    nfs.takes = Duration::from_millis(150);
    let smb = pretend(Some("done"));
    let units = [
        (DEFAULT_UNIT, target),
        ("nfs.service", nfs),
        ("smb.service", smb),
    ];
    let systemd = Systemd::start(&bus, &units, 0);
    let services = services(&bus, &[DEFAULT_UNIT], 30_000);
    assert_eq!(services.start(), Ok(Change::Made));
    assert_eq!(systemd.state(DEFAULT_UNIT), "active");
    // One of the services doesn't run: the target is asked for again, which starts it.
    assert_eq!(services.start(), Ok(Change::AlreadySo));
    assert_eq!(systemd.asked().len(), 2);
    systemd.set("smb.service", "active");
    assert_eq!(services.start(), Ok(Change::AlreadySo));
    assert_eq!(systemd.asked().len(), 0, "all run: no job is needed");
    systemd.set("smb.service", LEAVING);
    assert_eq!(services.start(), Ok(Change::AlreadySo));
    assert_eq!(systemd.asked().len(), 1, "one is about to stop");
    systemd.set("smb.service", "inactive");
    assert_eq!(services.stop(), Ok(Change::Made));
    // The part's own end was waited for, and what didn't run was left alone.
    assert_eq!(systemd.state("nfs.service"), "inactive");
    assert_eq!(
        systemd.asked(),
        [
            format!("stop {DEFAULT_UNIT}"),
            "stop nfs.service".to_owned()
        ]
    );
    assert_eq!(services.stop(), Ok(Change::AlreadySo));
}

#[test]
fn a_job_that_fails_is_named_with_its_result() {
    let Some(bus) = Bus::start("systemd::a_job_that_fails_is_named_with_its_result") else {
        return;
    };
    let units = [
        ("good.service", pretend(Some("done"))),
        ("bad.service", pretend(Some("failed"))),
    ];
    let _systemd = Systemd::start(&bus, &units, 0);
    let failed = services(&bus, &["bad.service", "good.service"], 30_000)
        .start()
        .expect_err("bad");
    assert!(
        failed.0.contains("bad.service") && failed.0.contains("`failed`"),
        "{failed}"
    );
    assert!(!failed.0.contains("good.service"), "{failed}");
}

#[test]
fn a_job_that_never_ends_meets_the_deadline() {
    let Some(bus) = Bus::start("systemd::a_job_that_never_ends_meets_the_deadline") else {
        return;
    };
    let units = [
        ("slow.service", pretend(None)),
        ("good.service", pretend(Some("done"))),
    ];
    let _systemd = Systemd::start(&bus, &units, 0);
    let begun = Instant::now();
    let failed = services(&bus, &["slow.service", "good.service"], 1_500)
        .start()
        .expect_err("slow");
    assert!(
        failed
            .0
            .contains("within 1500 ms: still waiting for slow.service"),
        "{failed}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// The target is ordered after the daemon: while systemd stops that, the start would wait for it, and it for the start.
#[test]
fn a_start_gives_up_when_systemd_ends_the_daemon() {
    let Some(bus) = Bus::start("systemd::a_start_gives_up_when_systemd_ends_the_daemon") else {
        return;
    };
    let units = [
        ("slow.service", pretend(None)),
        ("failoverd.service", pretend(None)),
    ];
    let systemd = Systemd::start(&bus, &units, 0);
    for job in ["stop", "restart"] {
        systemd.set("failoverd.service", job);
        let begun = Instant::now();
        let failed = services(&bus, &["slow.service"], 120_000).start();
        let failed = failed.expect_err("it can't be started");
        assert!(
            failed.0.contains("is stopping this daemon") && failed.0.contains("slow.service"),
            "{failed}"
        );
        assert!(begun.elapsed() < Duration::from_secs(60), "{failed}");
    }
}

#[test]
fn a_missing_unit_is_an_error_to_start_and_none_to_stop() {
    let Some(bus) = Bus::start("systemd::a_missing_unit_is_an_error_to_start_and_none_to_stop")
    else {
        return;
    };
    let _systemd = Systemd::start(&bus, &[], 0);
    let services = services(&bus, &["missing.service"], 30_000);
    let failed = services.start().expect_err("missing");
    assert!(failed.0.contains("knows no such unit"), "{failed}");
    assert_eq!(services.stop(), Ok(Change::AlreadySo));
}

#[test]
fn no_systemd_and_no_bus_are_told_apart_with_the_remedy() {
    let Some(bus) = Bus::start("systemd::no_systemd_and_no_bus_are_told_apart_with_the_remedy")
    else {
        return;
    };
    let failed = services(&bus, &[DEFAULT_UNIT], 30_000)
        .start()
        .expect_err("no systemd");
    assert!(
        failed.0.contains("not on this bus") && failed.0.contains("exec"),
        "{failed}"
    );
    let nowhere = SystemdServices::new(vec![DEFAULT_UNIT.to_owned()], Duration::from_secs(30))
        .expect("good units")
        .on_bus("unix:path=/nowhere/at/all");
    let failed = nowhere.start().expect_err("no bus");
    assert!(
        failed.0.contains("no connection") && failed.0.contains("exec"),
        "{failed}"
    );
}

/// Hundreds of jobs of others end before the answer to our own call: it must not drown.
#[test]
fn a_flood_of_other_jobs_drowns_nothing() {
    let Some(bus) = Bus::start("systemd::a_flood_of_other_jobs_drowns_nothing") else {
        return;
    };
    let units = [
        (DEFAULT_UNIT, pretend(Some("done"))),
        ("also.service", pretend(Some("done"))),
    ];
    let _systemd = Systemd::start(&bus, &units, 600);
    let services = services(&bus, &[DEFAULT_UNIT, "also.service"], 60_000);
    assert_eq!(services.start(), Ok(Change::Made));
}

fn asked(bus: &Bus) -> Option<bool> {
    being_restarted(Some(&bus.address), Duration::from_secs(30))
}

#[test]
fn a_restart_is_told_from_a_stop() {
    let Some(bus) = Bus::start("systemd::a_restart_is_told_from_a_stop") else {
        return;
    };
    assert_eq!(asked(&bus), None, "nobody to ask");
    let mut own = pretend(None);
    own.state = "restart";
    let systemd = Systemd::start(&bus, &[("failoverd.service", own)], 0);
    assert_eq!(asked(&bus), Some(true));
    let mut units = systemd.units.lock().expect("unlocked");
    units.get_mut("failoverd.service").expect("there").state = "stop";
    drop(units);
    assert_eq!(asked(&bus), Some(false));
}

#[test]
fn works_from_inside_a_runtime_too() {
    let Some(bus) = Bus::start("systemd::works_from_inside_a_runtime_too") else {
        return;
    };
    let _systemd = Systemd::start(&bus, &[("good.service", pretend(Some("done")))], 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async { services(&bus, &["good.service"], 30_000).start() });
    assert_eq!(result, Ok(Change::Made));
    assert!(SystemdServices::new(vec!["nfs".to_owned()], Duration::from_secs(1)).is_err());
}
