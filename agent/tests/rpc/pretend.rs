//! A daemon that only pretends: a report that tests change, commands that do what tests say.

use failover_api::{
    DisabledReason, DiskReport, DiskSummary, Evidence, FailoverConfig, FenceCheck, FenceDisk,
    FenceKey, FenceStatus, HistoryRecord, Incident, LinkReport, Node, PeerReport, PhaseTime,
    PoolReport, StateReport, Status, TimerReport, VipReport,
};
use failover_core::action::{Action, Refusal, Restored};
use failover_core::config::{CoreConfig, Timing};
use failover_core::controller::Controller;
use failover_core::event::{Command, Event};
use failover_core::ids::RequestId;
use failover_core::settings::Settings;
use failover_core::time::Instant;
use failoverd::rpc::{Backend, Hub};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// An incident, shorter than one part.
pub const INCIDENT: &[u8] = b"FAILOVER, as far as a client cares";

/// What becomes of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    dead_code,
    reason = "also a module of midctl's tests, which need fewer of them"
)]
pub enum Temper {
    /// They are carried out at once.
    Obeys,
    /// They are carried out, but the report doesn't show it yet.
    ReportsLate,
    /// They are refused.
    Refuses(i32, &'static str),
    /// They are never answered.
    Hangs,
    /// The daemon ends before it answers.
    Dies,
}

/// The pretended daemon.
pub struct Pretend {
    report: Mutex<StateReport>,
    temper: Mutex<Temper>,
    commands: Mutex<Vec<Command>>,
    hanging: Mutex<Vec<oneshot::Sender<Result<(), Refusal>>>>,
    records: Vec<HistoryRecord>,
    hub: Option<Arc<Hub>>,
}

impl Pretend {
    /// MASTER on controller A, obeying; what changes is published on `hub`.
    pub fn new(hub: Option<Arc<Hub>>) -> Arc<Pretend> {
        Pretend::showing(report(), (1..=3).map(record).collect(), hub)
    }

    /// As `new`, with this report and this history.
    pub fn showing(
        report: StateReport,
        records: Vec<HistoryRecord>,
        hub: Option<Arc<Hub>>,
    ) -> Arc<Pretend> {
        Arc::new(Pretend {
            report: Mutex::new(report),
            temper: Mutex::new(Temper::Obeys),
            commands: Mutex::default(),
            hanging: Mutex::default(),
            records,
            hub,
        })
    }

    /// Sets what becomes of commands.
    pub fn set_temper(&self, temper: Temper) {
        *self.temper.lock().unwrap() = temper;
    }

    /// Every command so far.
    pub fn commands(&self) -> Vec<Command> {
        self.commands.lock().unwrap().clone()
    }

    /// Changes the report and publishes it.
    pub fn change(&self, change: impl FnOnce(&mut StateReport)) {
        let mut report = self.report.lock().unwrap();
        change(&mut report);
        if let Some(hub) = &self.hub {
            hub.publish(&report);
        }
    }

    /// Goes through these states.
    pub fn walk(&self, states: &[Status]) {
        for status in states {
            self.change(|report| report.status = *status);
        }
    }

    fn obey(&self, command: Command) {
        self.change(|report| match command {
            Command::BecomePassive => report.status = Status::Backup,
            Command::ForceMaster => report.status = Status::Master,
            Command::Update(change) => {
                let other = report.node.other();
                if change.disabled == Some(true) && change.master == Some(other) {
                    report.status = Status::Backup;
                }
                let config = &mut report.config;
                config.disabled = change.disabled.unwrap_or(config.disabled);
                config.master = change
                    .master
                    .map_or(config.master, |node| node == report.node);
                config.timeout = change.timeout_s.map_or(config.timeout, u32::from);
                report.disabled_reasons = match config.disabled {
                    true => vec![DisabledReason::NoFailover],
                    false => Vec::new(),
                };
            }
        });
    }
}

impl Backend for Pretend {
    fn incidents(&self) -> io::Result<Vec<Incident>> {
        let bytes = INCIDENT.len() as u64;
        let name = "2026-11-28T15:50:12Z-surveying".to_owned();
        Ok(vec![Incident { name, bytes }])
    }

    fn keep_incident(&self) -> io::Result<String> {
        Ok("2026-11-28T15:51:00Z-asked".to_owned())
    }

    fn read_incident(
        &self,
        name: &str,
        offset: u64,
        most: usize,
    ) -> io::Result<Option<(Vec<u8>, u64)>> {
        let known = self.incidents()?.iter().any(|one| one.name == name);
        let rest = INCIDENT.iter().skip(offset as usize).take(most);
        Ok(known.then(|| (rest.copied().collect(), INCIDENT.len() as u64)))
    }

    fn report(&self) -> Arc<StateReport> {
        Arc::new(self.report.lock().unwrap().clone())
    }

    fn provisioned(&self) -> bool {
        true
    }

    fn history(&self, limit: usize) -> Vec<HistoryRecord> {
        let first = self.records.len().saturating_sub(limit);
        self.records[first..].to_vec()
    }

    fn fence(&self) -> FenceStatus {
        fence_status()
    }

    fn virtual_ips(&self) -> Vec<String> {
        vec!["10.0.0.5/24".to_owned(), "fd00::5/64".to_owned()]
    }

    fn command(&self, command: Command) -> oneshot::Receiver<Result<(), Refusal>> {
        let (sender, receiver) = oneshot::channel();
        self.commands.lock().unwrap().push(command);
        match self.temper.lock().unwrap().clone() {
            Temper::Obeys => {
                let disabled = self.report.lock().unwrap().config.disabled;
                let answer = match command {
                    Command::BecomePassive if disabled => Err(refused_while_disabled()),
                    command => {
                        self.obey(command);
                        Ok(())
                    }
                };
                let _ = sender.send(answer);
            }
            Temper::ReportsLate => {
                let _ = sender.send(Ok(()));
            }
            Temper::Refuses(errno, reason) => {
                let reason = reason.to_owned();
                let _ = sender.send(Err(Refusal { errno, reason }));
            }
            Temper::Hangs => self.hanging.lock().unwrap().push(sender),
            Temper::Dies => {}
        }
        receiver
    }
}

/// What the core itself answers to a handover while failover is disabled.
fn refused_while_disabled() -> Refusal {
    let config = CoreConfig {
        node: Node::A,
        pair: 1,
        has_peer: true,
        links: 1,
        disks: Vec::new(),
        pools: Vec::new(),
        arbiters: 1,
        version: String::new(),
        seed: 1,
        timing: Timing::default(),
    };
    let restored = Restored {
        settings: Some(Settings {
            disabled: true,
            ..Settings::default()
        }),
        ..Restored::default()
    };
    let (mut core, _) = Controller::new(Instant::default(), config, restored);
    let event = Event::Command {
        request: RequestId(1),
        command: Command::BecomePassive,
    };
    let actions = core.handle(Instant::default(), event);
    let refusal = actions.into_iter().find_map(|action| match action {
        Action::Reply { reply, .. } => reply.err(),
        _ => None,
    });
    refusal.expect("the core refuses")
}

/// A healthy pair as its MASTER sees it.
pub fn report() -> StateReport {
    StateReport {
        node: Node::A,
        status: Status::Master,
        state: "active".to_owned(),
        why: "it won the arbiter disks, its pools are imported, its services are up".to_owned(),
        since_ms: 11_520_000,
        epoch: 7,
        incarnation: 3,
        eligible: true,
        blockers: Vec::new(),
        config: FailoverConfig {
            id: 1,
            disabled: false,
            master: true,
            timeout: 0,
        },
        disabled_reasons: Vec::new(),
        peer: Some(PeerReport {
            heard: true,
            status: Some(Status::Backup),
            age_ms: Some(12),
            epoch: Some(7),
            eligible: true,
            blockers: Vec::new(),
            version: Some("0.1.0".to_owned()),
        }),
        links: vec![link(0, "hb0", Some(12)), link(1, "hb1", Some(14))],
        evidence: vec![
            evidence("link 0", "beat 5123 of the peer", Some(12)),
            evidence("link 1", "beat 5123 of the peer", Some(14)),
            evidence("disks", "our keys on 3 of 3 arbiters", Some(31)),
        ],
        disks: DiskSummary {
            ours: 24,
            ..DiskSummary::default()
        },
        disk_list: (0..24).map(disk).collect(),
        pools: vec![PoolReport {
            pool: "tank".to_owned(),
            state: "imported".to_owned(),
        }],
        vips: vec!["10.0.0.5/24".to_owned(), "fd00::5/64".to_owned()],
        vip_list: vec![vip("10.0.0.5/24", None), vip("fd00::5/64", Some("tank"))],
        vips_on: true,
        lease_ms: Some(181),
        timers: vec![TimerReport {
            timer: "beat".to_owned(),
            left_ms: 38,
        }],
    }
}

fn vip(address: &str, pool: Option<&str>) -> VipReport {
    VipReport {
        address: address.to_owned(),
        pool: pool.map(str::to_owned),
        on: true,
    }
}

fn link(link: u8, name: &str, age_ms: Option<u64>) -> LinkReport {
    LinkReport {
        link,
        name: name.to_owned(),
        age_ms,
    }
}

fn evidence(source: &str, saw: &str, age_ms: Option<u64>) -> Evidence {
    Evidence {
        source: source.to_owned(),
        saw: saw.to_owned(),
        age_ms,
    }
}

fn disk(number: u32) -> DiskReport {
    DiskReport {
        disk: format!("disk{number:02}"),
        arbiter: number < 3,
        owner: "ours".to_owned(),
        epoch: Some(7),
        age_ms: Some(31),
    }
}

/// A takeover, seen three times.
pub fn record(seq: u64) -> HistoryRecord {
    let phase = |phase: &str, micros, budget_ms| PhaseTime {
        phase: phase.to_owned(),
        micros,
        budget_ms,
    };
    HistoryRecord {
        seq,
        at_micros: seq * 1_000_000,
        wall_ms: Some(1_795_246_230_123 + seq * 1000),
        node: Node::A,
        from: "standby".to_owned(),
        to: "active".to_owned(),
        status: Status::Master,
        why: "the peer was silent on all links and on the disks, and the disks were won".to_owned(),
        evidence: vec![
            evidence("link 0", "silent", Some(257)),
            evidence("disks", "unchanged keys on 3 of 3 arbiters", Some(311)),
        ],
        epoch: 6 + seq,
        phases: vec![
            phase("detect", 311_250, 350),
            phase("fence", 12_400, 500),
            phase("import", 71_000, 60),
        ],
    }
}

/// Four disks: a healthy arbiter, one with a stranger, one that was never looked at, one that fails.
fn fence_status() -> FenceStatus {
    let key = |key: &str, known: Option<(Node, &str, u32)>| FenceKey {
        key: key.to_owned(),
        node: known.map(|(node, _, _)| node),
        phase: known.map(|(_, phase, _)| phase.to_owned()),
        epoch: known.map(|(_, _, epoch)| epoch),
    };
    let ours = || key("1a2b08030007c0de", Some((Node::A, "owner", 7)));
    let bare = |number: u32, arbiter: bool, owner: &str| FenceDisk {
        disk: format!("naa.5000c500a1b2c30{number}"),
        arbiter,
        owner: owner.to_owned(),
        paths: Some(vec![format!(
            "sd{} (2:0:{number}:0)",
            (b'a' + number as u8) as char
        )]),
        holder: None,
        registrations: None,
        age_ms: None,
        look_us: None,
        roll_us: None,
        failure: None,
        check: None,
    };
    let healthy = FenceDisk {
        paths: Some(vec!["sdb (2:0:1:0)".to_owned(), "sdf (3:0:1:0)".to_owned()]),
        holder: Some(ours()),
        registrations: Some(vec![ours()]),
        age_ms: Some(31),
        look_us: Some(1_230),
        roll_us: Some(2_870),
        check: Some(FenceCheck {
            wall_ms: Some(1_795_246_230_123),
            passed: true,
            failed: Vec::new(),
            read_p999_us: Some(4_100),
            roll_p999_us: Some(9_800),
        }),
        ..bare(1, true, "ours")
    };
    let contested = FenceDisk {
        holder: Some(ours()),
        registrations: Some(vec![
            ours(),
            key("00000000deadbeef", None),
            key("1a2b88010008c000", Some((Node::B, "candidate", 8))),
        ]),
        age_ms: Some(420),
        look_us: Some(61_000),
        check: Some(FenceCheck {
            wall_ms: Some(1_795_246_230_123),
            passed: false,
            failed: vec!["compare and swap".to_owned(), "latency".to_owned()],
            read_p999_us: None,
            roll_p999_us: None,
        }),
        ..bare(2, false, "ours")
    };
    let failing = FenceDisk {
        paths: Some(Vec::new()),
        failure: Some("disk naa.5000c500a1b2c304, path 2:0:4:0: the path is gone".to_owned()),
        age_ms: Some(61_000),
        registrations: Some(Vec::new()),
        ..bare(4, true, "unreadable")
    };
    FenceStatus {
        node: Node::A,
        disks: DiskSummary {
            ours: 2,
            unreadable: 1,
            ..DiskSummary::default()
        },
        disk_list: vec![healthy, contested, bare(3, false, "unknown"), failing],
    }
}
