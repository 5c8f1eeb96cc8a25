//! What each method does.

use super::Backend;
use super::session::Session;
use failover_api::errors::{RpcError, Violation, errno};
use failover_api::events;
use failover_api::methods::{Handler, METHODS};
use failover_api::params::{SessionOptions, SessionOptionsChange};
use failover_api::{
    DisabledReason, FailoverConfig, FailoverUpdate, FenceStatus, HistoryRecord, Incident,
    IncidentPart, StateReport, Status,
};
use failover_core::event::Command;
use failover_core::settings::SettingsChange;
use serde_json::{Map, Value};
use std::io;
use std::net::IpAddr;
use uuid::Uuid;

/// Records of `failover.history` where no limit is given.
const HISTORY_DEFAULT: u32 = 50;
/// Bytes of one part of an incident: as digits it fits into one frame with room to spare.
const INCIDENT_PART_BYTES: usize = 128 * 1024;
/// Greatest limit of `failover.history`.
const HISTORY_MAX: u32 = 1000;

impl Session {
    /// Has the control thread carry out a command.
    async fn command(&self, command: Command) -> Result<(), RpcError> {
        let answer = self.backend.command(command);
        match tokio::time::timeout(self.limits.command, answer).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(refusal))) => Err(RpcError::call(refusal.errno, refusal.reason)),
            Ok(Err(_)) => Err(RpcError::call(
                errno::EAGAIN,
                "The daemon ended before this was done; look at failover.status and ask again",
            )),
            Err(_) => Err(RpcError::call(
                errno::ETIMEDOUT,
                "The control thread gave no answer in time; failover.state shows what it does",
            )),
        }
    }
}

impl Session {
    /// Works with the incidents, whose disk may be slow.
    async fn incidents<T: Send + 'static>(
        &self,
        act: impl FnOnce(&dyn Backend) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RpcError> {
        let backend = self.backend.clone();
        let done = tokio::task::spawn_blocking(move || act(&*backend)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let errno = match error.kind() {
                    io::ErrorKind::ResourceBusy => errno::EBUSY,
                    _ => errno::EIO,
                };
                Err(RpcError::call(errno, format!("Incidents: {error}")))
            }
            Err(error) => Err(RpcError::internal(format!(
                "The incidents were lost: {error}"
            ))),
        }
    }
}

impl Handler for Session {
    async fn core_get_jobs(
        &self,
        _filters: Option<Vec<Value>>,
        _options: Option<Map<String, Value>>,
    ) -> Result<Vec<Value>, RpcError> {
        Ok(Vec::new())
    }

    async fn core_get_methods(
        &self,
        service: Option<String>,
        _target: Option<String>,
    ) -> Result<Map<String, Value>, RpcError> {
        let in_service = |name: &str| match &service {
            Some(service) => name
                .strip_prefix(service.as_str())
                .is_some_and(|rest| rest.starts_with('.')),
            None => true,
        };
        let methods = METHODS.iter().filter(|method| in_service(method.name));
        Ok(methods
            .map(|method| (method.name.to_owned(), method.describe()))
            .collect())
    }

    async fn core_job_abort(&self, id: u32) -> Result<(), RpcError> {
        Err(RpcError::not_found(format!("Job {id} does not exist")))
    }

    async fn core_job_wait(&self, id: u32) -> Result<Value, RpcError> {
        Err(RpcError::not_found(format!("Job {id} does not exist")))
    }

    async fn core_ping(&self) -> Result<String, RpcError> {
        Ok("pong".to_owned())
    }

    async fn core_set_options(
        &self,
        options: SessionOptionsChange,
    ) -> Result<SessionOptions, RpcError> {
        let mut memory = self.memory();
        let now = &mut memory.options;
        now.legacy_jobs = options.legacy_jobs.unwrap_or(now.legacy_jobs);
        now.private_methods = options.private_methods.unwrap_or(now.private_methods);
        now.py_exceptions = options.py_exceptions.unwrap_or(now.py_exceptions);
        Ok(*now)
    }

    async fn core_subscribe(&self, event: String) -> Result<String, RpcError> {
        if event != events::ALL && events::find(&event).is_none() {
            return Err(unknown_event(&event));
        }
        let mut memory = self.memory();
        let limit = self.limits.subscriptions;
        if memory.subscriptions.len() >= limit {
            return Err(RpcError::call(
                errno::EBUSY,
                format!("This connection has {limit} subscriptions already; end one first"),
            ));
        }
        let id = Uuid::new_v4().to_string();
        memory.subscriptions.push((id.clone(), event));
        Ok(id)
    }

    /// An id that nobody has is no error: TrueNAS answers null too, and so a client may end what has ended.
    async fn core_unsubscribe(&self, id: String) -> Result<(), RpcError> {
        self.memory()
            .subscriptions
            .retain(|(subscribed, _)| *subscribed != id);
        Ok(())
    }

    async fn failover_become_passive(&self) -> Result<(), RpcError> {
        self.command(Command::BecomePassive).await
    }

    async fn failover_config(&self) -> Result<FailoverConfig, RpcError> {
        Ok(self.backend.report().config.clone())
    }

    async fn failover_disabled_reasons(&self) -> Result<Vec<DisabledReason>, RpcError> {
        Ok(self.backend.report().disabled_reasons.clone())
    }

    async fn failover_fence_status(&self) -> Result<FenceStatus, RpcError> {
        let backend = self.backend.clone();
        let seen = tokio::task::spawn_blocking(move || backend.fence()).await;
        seen.map_err(|error| RpcError::internal(format!("The disks' state was lost: {error}")))
    }

    async fn failover_force_master(&self) -> Result<bool, RpcError> {
        let nothing_to_do =
            !self.backend.provisioned() || self.backend.report().status == Status::Master;
        if nothing_to_do {
            return Ok(false);
        }
        self.command(Command::ForceMaster).await?;
        Ok(true)
    }

    async fn failover_get_ips(&self) -> Result<Vec<String>, RpcError> {
        Ok(self
            .backend
            .virtual_ips()
            .iter()
            .map(|ip| url(ip))
            .collect())
    }

    async fn failover_history(&self, limit: Option<u32>) -> Result<Vec<HistoryRecord>, RpcError> {
        let limit = limit.unwrap_or(HISTORY_DEFAULT);
        if !(1..=HISTORY_MAX).contains(&limit) {
            let text = format!("must be a whole number from 1 to {HISTORY_MAX}, not {limit}");
            return Err(RpcError::param("limit", text));
        }
        let mut records = self.backend.history(limit as usize);
        records.truncate(limit as usize);
        Ok(records)
    }

    async fn failover_in_progress(&self) -> Result<bool, RpcError> {
        let report = self.backend.report();
        Ok(
            matches!(report.status, Status::Electing | Status::Importing)
                || report
                    .disabled_reasons
                    .contains(&DisabledReason::LocFailoverOngoing),
        )
    }

    async fn failover_incident_keep(&self) -> Result<String, RpcError> {
        self.incidents(|backend| backend.keep_incident()).await
    }

    async fn failover_incident_list(&self) -> Result<Vec<Incident>, RpcError> {
        self.incidents(|backend| backend.incidents()).await
    }

    async fn failover_incident_read(
        &self,
        name: String,
        offset: u32,
    ) -> Result<IncidentPart, RpcError> {
        let wanted = name.clone();
        let part = self
            .incidents(move |backend| {
                backend.read_incident(&wanted, offset.into(), INCIDENT_PART_BYTES)
            })
            .await?;
        let Some((bytes, length)) = part else {
            let text =
                format!("no incident {name} is kept here; failover.incident.list names them");
            return Err(RpcError::param("name", text));
        };
        Ok(IncidentPart {
            hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            length,
        })
    }

    async fn failover_licensed(&self) -> Result<bool, RpcError> {
        Ok(self.backend.provisioned())
    }

    async fn failover_node(&self) -> Result<String, RpcError> {
        Ok(self.backend.report().node.to_string())
    }

    async fn failover_state(&self) -> Result<StateReport, RpcError> {
        Ok((*self.backend.report()).clone())
    }

    async fn failover_status(&self) -> Result<Status, RpcError> {
        Ok(self.backend.report().status)
    }

    async fn failover_update(
        &self,
        failover_update: FailoverUpdate,
    ) -> Result<FailoverConfig, RpcError> {
        let FailoverUpdate {
            disabled,
            master,
            timeout,
        } = failover_update;
        if failover_update != FailoverUpdate::default() {
            let node = self.backend.report().node;
            let change = SettingsChange {
                disabled,
                master: master.map(|here| if here { node } else { node.other() }),
                timeout_s: timeout.and_then(|seconds| u8::try_from(seconds).ok()),
            };
            // `disabled` in favour of the peer is a handover too, which the core knows: also where failover is
            // disabled already, and refused whole, with the settings as they were.
            self.command(Command::Update(change)).await?;
        }
        // The change is durable, though the newest report may be from before it.
        let mut config = self.backend.report().config.clone();
        config.disabled = disabled.unwrap_or(config.disabled);
        config.master = master.unwrap_or(config.master);
        config.timeout = timeout.unwrap_or(config.timeout);
        Ok(config)
    }
}

fn unknown_event(event: &str) -> RpcError {
    let base = event.split(':').next().unwrap_or_default();
    let text = match events::find(base) {
        Some(_) => format!("'{base}' takes no arguments; subscribe to it by its bare name"),
        None => {
            let known: Vec<&str> = events::EVENTS.iter().map(|event| event.name).collect();
            format!(
                "There is no event of that name; there are {} and *",
                known.join(", ")
            )
        }
    };
    RpcError::params(vec![Violation(
        Some("event".to_owned()),
        text,
        errno::ENOENT,
    )])
}

/// A virtual address as clients expect it: a URL, though the method's name says otherwise.
fn url(address: &str) -> String {
    let bare = address.split('/').next().unwrap_or_default();
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("http://[{ip}]"),
        _ => format!("http://{bare}"),
    }
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn addresses_become_urls() {
        assert_eq!(url("10.0.0.5/24"), "http://10.0.0.5");
        assert_eq!(url("10.0.0.5"), "http://10.0.0.5");
        assert_eq!(url("fd00::5/64"), "http://[fd00::5]");
    }
}
