//! Services as units of systemd, over D-Bus.
//!
//! ```text
//!   us                      signals' connection        calls' connection        systemd
//!    │  do they all run? ────────┼─────────────────────────▶│◀─ yes: that's all ────│
//!    │  listen for JobRemoved ──▶│  Subscribe ──────────────┼──────────────────────▶│
//!    │  StartUnit / StopUnit ────┼─────────────────────────▶│──────────────────────▶│
//!    │                           │                          │◀── path of the job ───│
//!    │◀── JobRemoved(path, how) ─│◀─────────────────────────┼───────────────────────│
//! ```
//!
//! Two connections, because a queue of unread signals that is full stalls the connection that it is on, answers
//! included: a target with a hundred services would then never be heard to have started.

use super::services::Service;
use failover_core::adapters::{Change, Failure};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use zbus::connection::Builder;
use zbus::{Connection, MessageStream, OwnedObjectPath, OwnedVariant, fdo};

/// The unit that everything which runs on the MASTER alone is wanted by and part of.
pub const DEFAULT_UNIT: &str = "failover-active.target";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                           interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
/// Type of the job that stops a unit and starts it again.
const RESTART: &str = "restart";
/// Time from one look at the daemon's own job to the next, while services start.
const LOOK_AT_OWN_JOB: Duration = Duration::from_millis(500);
/// Longest wait for one answer.
const CALL: Duration = Duration::from_secs(5);

/// Units of systemd that run only on the MASTER.
#[derive(Clone, Debug)]
pub struct SystemdServices {
    units: Vec<String>,
    deadline: Duration,
    bus: Option<String>,
}

impl SystemdServices {
    /// Starts and stops `units` together (systemd orders them), each time within `deadline`.
    pub fn new(units: Vec<String>, deadline: Duration) -> Result<SystemdServices, Failure> {
        for unit in &units {
            if !unit.contains('.') || unit.contains(['/', ' ']) {
                return Err(Failure(format!(
                    "unit `{unit}`: give its full name, such as `{DEFAULT_UNIT}`"
                )));
            }
        }
        Ok(SystemdServices {
            units,
            deadline,
            bus: None,
        })
    }

    /// Another bus than the system's.
    pub fn on_bus(mut self, address: &str) -> SystemdServices {
        self.bus = Some(address.to_owned());
        self
    }

    /// Runs `goal` to its end in a thread of its own: the caller may or may not be inside a runtime.
    fn run(&self, goal: Goal) -> Result<Change, Failure> {
        if self.units.is_empty() {
            return Ok(Change::AlreadySo);
        }
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure(format!("services: no runtime: {error}")))?;
            runtime.block_on(async {
                let mut waiting = HashMap::new();
                let work = self.reach(goal, &mut waiting);
                match tokio::time::timeout(self.deadline, work).await {
                    Ok(result) => result,
                    Err(_) => Err(overdue(goal, self.deadline, &waiting)),
                }
            })
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(work);
            thread.join().unwrap_or_else(|_| {
                Err(Failure(
                    "services: the D-Bus code failed in an unexpected way; see the log".to_owned(),
                ))
            })
        })
    }

    async fn reach(
        &self,
        goal: Goal,
        waiting: &mut HashMap<OwnedObjectPath, String>,
    ) -> Result<Change, Failure> {
        let bus = Bus::connect(self.bus.as_deref()).await?;
        // What can't be told is asked for, and says by itself what is wrong.
        if goal == Goal::Start && bus.all_run(&self.units).await.is_ok_and(|all| all) {
            return Ok(Change::AlreadySo);
        }
        let (_signals, mut ended) = Bus::listen(self.bus.as_deref()).await?;
        let mut change = Change::AlreadySo;
        let mut failures = Vec::new();
        for unit in &self.units {
            match bus.ask(unit, goal).await {
                Ok(asked) => {
                    if asked.changes {
                        change = Change::Made;
                    }
                    waiting.extend(asked.jobs);
                }
                Err(failure) => failures.push(failure.0),
            }
        }
        let mut looked = Instant::now();
        while !waiting.is_empty() {
            let next = tokio::time::timeout(LOOK_AT_OWN_JOB, ended.next()).await;
            // Others' jobs may end all the time: this comes in spite of their signals.
            if goal == Goal::Start && looked.elapsed() >= LOOK_AT_OWN_JOB {
                looked = Instant::now();
                if bus.is_ending_us().await {
                    failures.push(format!(
                        "systemd is stopping this daemon and starts {} only after that",
                        names(waiting)
                    ));
                    break;
                }
            }
            let Ok(signal) = next else { continue };
            let Some(signal) = signal else {
                failures.push("the bus closed while jobs were running".to_owned());
                break;
            };
            let Ok(signal) = signal else { continue };
            let body = signal.body();
            let removed: Result<(u32, OwnedObjectPath, String, String), _> = body.deserialize();
            let Ok((_, path, unit, result)) = removed else {
                continue;
            };
            if waiting.remove(&path).is_some() && !matches!(result.as_str(), "done" | "skipped") {
                failures.push(format!(
                    "{unit}: the job to {} it ended as `{result}`; see `systemctl status {unit}`",
                    goal.word()
                ));
            }
        }
        if failures.is_empty() {
            Ok(change)
        } else {
            Err(Failure(format!("services: {}", failures.join("; "))))
        }
    }
}

impl Service for SystemdServices {
    fn start(&self) -> Result<Change, Failure> {
        self.run(Goal::Start)
    }

    fn stop(&self) -> Result<Change, Failure> {
        self.run(Goal::Stop)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Start,
    Stop,
}

impl Goal {
    fn word(self) -> &'static str {
        match self {
            Goal::Start => "start",
            Goal::Stop => "stop",
        }
    }
}

fn overdue(goal: Goal, deadline: Duration, waiting: &HashMap<OwnedObjectPath, String>) -> Failure {
    let units = if waiting.is_empty() {
        "systemd didn't answer".to_owned()
    } else {
        format!("still waiting for {}", names(waiting))
    };
    Failure(format!(
        "services: not {} within {} ms: {units}",
        match goal {
            Goal::Start => "started",
            Goal::Stop => "stopped",
        },
        deadline.as_millis()
    ))
}

fn names(waiting: &HashMap<OwnedObjectPath, String>) -> String {
    let units: Vec<&str> = waiting.values().map(String::as_str).collect();
    units.join(", ")
}

/// What was asked of systemd for one unit.
struct Asked {
    changes: bool,
    jobs: Vec<(OwnedObjectPath, String)>,
}

/// Whether systemd is restarting this very process's unit (`systemctl restart`), rather than stopping it: asked on
/// SIGTERM, which is the same for both. `None` where systemd isn't or doesn't answer within `longest`. Another bus than
/// the system's may be given.
pub fn being_restarted(bus: Option<&str>, longest: Duration) -> Option<bool> {
    let ask = async {
        let kind = Bus::connect(bus).await.ok()?.own_job().await?;
        Some(kind == RESTART)
    };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let bounded = async { tokio::time::timeout(longest, ask).await };
        runtime.block_on(bounded).ok().flatten()
    };
    std::thread::scope(|scope| scope.spawn(work).join().ok().flatten())
}

/// Name, description, load, active and sub state, unit followed, its path, job, the job's type and path: an answer of
/// ListUnitsByNames (org.freedesktop.systemd1(5)).
type UnitStatus = (
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

struct Bus {
    calls: Connection,
}

impl Bus {
    async fn connect(address: Option<&str>) -> Result<Bus, Failure> {
        Ok(Bus {
            calls: Bus::connection(address).await?,
        })
    }

    async fn connection(address: Option<&str>) -> Result<Connection, Failure> {
        let builder = match address {
            Some(address) => Builder::address(address),
            None => Builder::system(),
        };
        builder.method_timeout(CALL).build().await.map_err(|error| {
            Failure(format!(
                "services: no connection to the system's D-Bus: {error}; is dbus.service running? A host without \
                 systemd needs `exec` hooks instead of units"
            ))
        })
    }

    /// Before any job is asked for, so that none can end unheard. On a connection of its own.
    async fn listen(address: Option<&str>) -> Result<(Connection, MessageStream), Failure> {
        let signals = Bus::connection(address).await?;
        let stream = MessageStream::for_match_rule(JOB_REMOVED, &signals, None)
            .await
            .map_err(|error| refused("listen for jobs", &error))?;
        let call = (SYSTEMD, MANAGER_PATH, MANAGER);
        signals
            .call_method(Some(call.0), call.1, Some(call.2), "Subscribe", &())
            .await
            .map_err(|error| refused("listen for jobs", &error))?;
        Ok((signals, stream))
    }

    /// Whether `units`, and whatever a start of them would start too, run already. A daemon that takes over its own
    /// services asks for no job then: each one costs systemd, the bus and everybody who listens to it more than these
    /// questions, while the services have work to do.
    async fn all_run(&self, units: &[String]) -> Result<bool, Failure> {
        let mut names = units.to_vec();
        for unit in units {
            let path = self.load(unit).await?;
            for needs in ["Wants", "Requires"] {
                names.extend(self.list(&path, needs).await?);
            }
        }
        let found: zbus::Result<Vec<UnitStatus>> =
            self.manager("ListUnitsByNames", &(&names,)).await;
        let found = found.map_err(|error| refused("list units", &error))?;
        // One that has a job is on its way to something else.
        let rests = |unit: &UnitStatus| unit.3 == "active" && unit.7 == 0;
        Ok(found.len() == names.len() && found.iter().all(rests))
    }

    /// A call to the manager of units.
    async fn manager<T>(
        &self,
        method: &str,
        arguments: &(impl serde::Serialize + zbus::zvariant::DynamicType),
    ) -> zbus::Result<T>
    where
        T: serde::de::DeserializeOwned + zbus::zvariant::Type,
    {
        let (to, interface) = (Some(SYSTEMD), Some(MANAGER));
        let answer = self
            .calls
            .call_method(to, MANAGER_PATH, interface, method, arguments)
            .await?;
        answer.body().deserialize()
    }

    /// Kind of the job that this very process's unit has; `None` without one, or where systemd can't be asked.
    async fn own_job(&self) -> Option<String> {
        let pid = (std::process::id(),);
        let unit: OwnedObjectPath = self.manager("GetUnitByPID", &pid).await.ok()?;
        let job = self.property(&unit, UNIT, "Job").await.ok()?;
        let (_, job) = <(u32, OwnedObjectPath)>::try_from(job).ok()?;
        self.text(&job, JOB, "JobType").await.ok()
    }

    /// The MASTER's target comes after the daemon, so that it stops first. A job to start it waits for a job that ends
    /// the daemon, which would wait for it: neither would end.
    async fn is_ending_us(&self) -> bool {
        let job = self.own_job().await;
        job.is_some_and(|kind| kind == RESTART || kind == "stop")
    }

    async fn ask(&self, unit: &str, goal: Goal) -> Result<Asked, Failure> {
        let path = self.load(unit).await?;
        let state = self.text(&path, UNIT, "ActiveState").await?;
        let loaded = self.text(&path, UNIT, "LoadState").await?;
        if loaded == "not-found" {
            return match goal {
                Goal::Stop => Ok(Asked {
                    changes: false,
                    jobs: Vec::new(),
                }),
                Goal::Start => Err(Failure(format!(
                    "{unit}: systemd knows no such unit; install it or correct `units`"
                ))),
            };
        }
        let mut jobs = vec![(self.job(unit, goal).await?, unit.to_owned())];
        let mut changes = match goal {
            Goal::Start => state != "active",
            Goal::Stop => !matches!(state.as_str(), "inactive" | "failed"),
        };
        if goal == Goal::Stop {
            // A target is stopped before what is part of it: its own job says nothing of theirs.
            for part in self.list(&path, "ConsistsOf").await? {
                let path = self.load(&part).await?;
                let state = self.text(&path, UNIT, "ActiveState").await?;
                if !matches!(state.as_str(), "inactive" | "failed") {
                    changes = true;
                    jobs.push((self.job(&part, goal).await?, part));
                }
            }
        }
        Ok(Asked { changes, jobs })
    }

    async fn job(&self, unit: &str, goal: Goal) -> Result<OwnedObjectPath, Failure> {
        let method = match goal {
            Goal::Start => "StartUnit",
            Goal::Stop => "StopUnit",
        };
        let answer = self.manager(method, &(unit, "replace")).await;
        answer.map_err(|error| refused(&format!("{} {unit}", goal.word()), &error))
    }

    async fn load(&self, unit: &str) -> Result<OwnedObjectPath, Failure> {
        let answer = self.manager("LoadUnit", &(unit,)).await;
        answer.map_err(|error| refused(&format!("load {unit}"), &error))
    }

    async fn property(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> Result<OwnedVariant, Failure> {
        let answer = self
            .calls
            .call_method(
                Some(SYSTEMD),
                path,
                Some(PROPERTIES),
                "Get",
                &(interface, name),
            )
            .await
            .and_then(|answer| answer.body().deserialize());
        answer.map_err(|error| refused(&format!("read {name} of a unit"), &error))
    }

    async fn text(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> Result<String, Failure> {
        let value = self.property(path, interface, name).await?;
        String::try_from(value).map_err(|error| refused(&format!("read {name} of a unit"), &error))
    }

    async fn list(&self, path: &OwnedObjectPath, name: &str) -> Result<Vec<String>, Failure> {
        let value = self.property(path, UNIT, name).await?;
        Vec::try_from(value).map_err(|error| refused(&format!("read {name} of a unit"), &error))
    }
}

fn refused(what: &str, error: &zbus::Error) -> Failure {
    let advice = match error {
        zbus::Error::FDO(error) => match **error {
            fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) => {
                "; systemd is not on this bus: a host without it needs `exec` hooks instead of units"
            }
            fdo::Error::AccessDenied(_) => "; the daemon must run as root",
            _ => "",
        },
        _ => "",
    };
    Failure(format!(
        "services: systemd: failed to {what}: {error}{advice}"
    ))
}
