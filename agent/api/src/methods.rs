//! THE table of methods. From each line follow the server's trait, the dispatch, the typed client, the
//! documentation (`agent/docs/methods.md`), `core.get_methods` and the help of `midctl`.

use crate::errors::{RpcError, Violation};
use crate::params::{Param, SessionOptions, SessionOptionsChange};
use crate::schema::Shape;
use crate::{
    DisabledReason, FailoverConfig, FailoverUpdate, FenceStatus, HistoryRecord, Incident,
    IncidentPart, StateReport, Status,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::future::Future;

/// What a caller must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Open to everybody who is connected.
    Open,
    /// Look.
    Read,
    /// Change.
    Write,
}

impl Access {
    /// Roles of which a caller needs one.
    pub const fn roles(self) -> &'static [&'static str] {
        match self {
            Access::Open => &[],
            Access::Read => &["FAILOVER_READ"],
            Access::Write => &["FAILOVER_WRITE"],
        }
    }
}

/// A parameter of a method.
pub struct Parameter {
    /// Its name, as faults name it.
    pub name: &'static str,
    /// May be left out.
    pub optional: bool,
    /// What it looks like.
    pub shape: fn() -> Shape,
}

/// A method.
pub struct Method {
    /// Its name on the wire.
    pub name: &'static str,
    /// What a caller must be allowed to do.
    pub access: Access,
    /// What it does; the first sentence stands alone.
    pub doc: &'static str,
    /// Its parameters, by position.
    pub parameters: &'static [Parameter],
    /// What its result looks like.
    pub result: fn() -> Shape,
}

impl Method {
    /// The method of that name.
    pub fn find(name: &str) -> Option<&'static Method> {
        METHODS.iter().find(|method| method.name == name)
    }

    /// The documentation as one paragraph.
    pub fn text(&self) -> String {
        let words: Vec<&str> = self.doc.split_whitespace().collect();
        words.join(" ")
    }

    /// First sentence of the documentation, without its full stop.
    pub fn summary(&self) -> String {
        let mut text = self.text();
        text.truncate(text.find(". ").unwrap_or(text.len()));
        text.trim_end_matches('.').to_owned()
    }

    /// `failover.update(failover_update)`; what may be left out stands in brackets.
    pub fn signature(&self) -> String {
        let parameters: Vec<String> = self
            .parameters
            .iter()
            .map(|parameter| match parameter.optional {
                true => format!("[{}]", parameter.name),
                false => parameter.name.to_owned(),
            })
            .collect();
        format!("{}({})", self.name, parameters.join(", "))
    }

    /// The entry of `core.get_methods`.
    pub fn describe(&self) -> Value {
        let accepts: Vec<Value> = self
            .parameters
            .iter()
            .map(|parameter| {
                let mut schema = (parameter.shape)().schema();
                if let Value::Object(members) = &mut schema {
                    members.insert("_name_".to_owned(), json!(parameter.name));
                    members.insert("_required_".to_owned(), json!(!parameter.optional));
                }
                schema
            })
            .collect();
        json!({
            "description": self.text(),
            "cli_description": self.summary(),
            "accepts": accepts,
            "returns": [(self.result)().schema()],
            "access": self.access,
            "roles": self.access.roles(),
            "no_auth_required": self.name == "core.set_options",
            "job": false,
            "filterable": false,
        })
    }
}

/// The answer of a server can't be read as what the method promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadResult {
    /// Which method.
    pub method: &'static str,
    /// What is wrong.
    pub fault: String,
}

impl std::fmt::Display for BadResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: the result is not what this method promises: {}",
            self.method, self.fault
        )
    }
}

impl std::error::Error for BadResult {}

/// The arguments of one call, read one after the other.
struct Given {
    values: std::vec::IntoIter<Value>,
    count: usize,
    violations: Vec<Violation>,
}

impl Given {
    fn new(params: Vec<Value>) -> Given {
        Given {
            count: params.len(),
            values: params.into_iter(),
            violations: Vec::new(),
        }
    }

    /// The next one; `None` if it is wrong, which `end` tells.
    fn next<T: Param>(&mut self, name: &str) -> Option<T> {
        let read = match self.values.next() {
            Some(value) => T::read(value, name),
            None => T::absent(name),
        };
        read.map_err(|found| self.violations.extend(found)).ok()
    }

    /// After the last of `limit` parameters: everything that was wrong.
    fn end(&mut self, limit: usize) -> Result<(), RpcError> {
        if self.count > limit {
            self.violations.push(too_many_arguments(limit, self.count));
        }
        match std::mem::take(&mut self.violations) {
            none if none.is_empty() => Ok(()),
            violations => Err(RpcError::params(violations)),
        }
    }
}

fn encode<T: Serialize>(result: T) -> Result<Value, RpcError> {
    serde_json::to_value(result)
        .map_err(|error| RpcError::internal(format!("The result can't be written: {error}")))
}

fn decode<T: DeserializeOwned>(method: &'static str, result: Value) -> Result<T, BadResult> {
    serde_json::from_value(result).map_err(|error| BadResult {
        method,
        fault: error.to_string(),
    })
}

/// Arguments as they go over the wire: those left out at the end aren't sent.
fn arguments(mut given: Vec<Value>) -> Vec<Value> {
    while given.last().is_some_and(Value::is_null) {
        given.pop();
    }
    given
}

macro_rules! methods {
    ($(
        $(#[doc = $doc:literal])+
        $access:ident $name:literal => $function:ident($($parameter:ident: $type:ty),*) -> $result:ty;
    )+) => {
        /// Serves the methods: each is one function here, so a method that isn't served doesn't compile.
        pub trait Handler: Sync {
            $(
                $(#[doc = $doc])+
                fn $function(&self, $($parameter: $type),*)
                    -> impl Future<Output = Result<$result, RpcError>> + Send;
            )+
        }

        /// Every method, by name.
        pub static METHODS: &[Method] = &[$(
            Method {
                name: $name,
                access: Access::$access,
                doc: concat!($($doc, "\n"),+),
                parameters: &[$(
                    Parameter {
                        name: stringify!($parameter),
                        optional: <$type as Param>::OPTIONAL,
                        shape: <$type as Param>::shape,
                    }
                ),*],
                result: Shape::of::<$result>,
            },
        )+];

        /// Carries out one call for a caller who is allowed `allowed`.
        pub async fn dispatch<H: Handler>(
            handler: &H,
            allowed: Access,
            method: &str,
            params: Vec<Value>,
        ) -> Result<Value, RpcError> {
            match method {
                $($name => {
                    if allowed < Access::$access {
                        return Err(RpcError::not_authorized());
                    }
                    const LIMIT: usize = <[&str]>::len(&[$(stringify!($parameter)),*]);
                    let mut given = Given::new(params);
                    $(let $parameter = given.next::<$type>(stringify!($parameter));)*
                    given.end(LIMIT)?;
                    $(let Some($parameter) = $parameter else {
                        return Err(RpcError::internal("An argument was lost"));
                    };)*
                    encode(handler.$function($($parameter),*).await?)
                })+
                _ => Err(RpcError::no_method()),
            }
        }

        /// Calls the methods, typed. Only `call` is to be written; a call's deadline is its affair.
        pub trait Client: Send {
            /// What can go wrong.
            type Error: From<BadResult> + Send;

            /// Calls a method.
            fn call(&mut self, method: &str, params: Vec<Value>)
                -> impl Future<Output = Result<Value, Self::Error>> + Send;

            $(
                $(#[doc = $doc])+
                fn $function(&mut self, $($parameter: $type),*)
                    -> impl Future<Output = Result<$result, Self::Error>> + Send
                {
                    async move {
                        let params = arguments(vec![$(json!($parameter)),*]);
                        Ok(decode($name, self.call($name, params).await?)?)
                    }
                }
            )+
        }
    };
}

fn too_many_arguments(limit: usize, count: usize) -> Violation {
    Violation(
        None,
        format!("Too many arguments (expected {limit}, found {count})"),
        crate::errors::errno::EINVAL,
    )
}

methods! {
    /// List the jobs of this connection. There are none yet, so the list is empty.
    Open "core.get_jobs" => core_get_jobs(filters: Option<Vec<Value>>, options: Option<Map<String, Value>>) -> Vec<Value>;

    /// Describe the methods, by name. `service` names a group (`failover`), `target` is ignored.
    Open "core.get_methods" => core_get_methods(service: Option<String>, target: Option<String>) -> Map<String, Value>;

    /// Abort a job. There are no jobs yet, so none is ever found.
    Open "core.job_abort" => core_job_abort(id: u32) -> ();

    /// Wait for a job. There are no jobs yet, so none is ever found.
    Open "core.job_wait" => core_job_wait(id: u32) -> Value;

    /// Answer `pong`.
    Open "core.ping" => core_ping() -> String;

    /// Set options of this connection and answer all of them. Unknown keys are ignored.
    Open "core.set_options" => core_set_options(options: SessionOptionsChange) -> SessionOptions;

    /// Subscribe this connection to an event and answer the subscription's id. `*` subscribes to all events.
    Open "core.subscribe" => core_subscribe(event: String) -> String;

    /// End a subscription of this connection. An id that isn't subscribed is no error.
    Open "core.unsubscribe" => core_unsubscribe(id: String) -> ();

    /// Hand over to the peer. Answers null once the peer serves. Refused with the reason when this controller
    /// isn't MASTER or the peer can't take over; an error too when the handover was reverted. The machine is never reset.
    Write "failover.become_passive" => failover_become_passive() -> ();

    /// Show the failover settings. `master` says whether this controller is the preferred one, so it differs per node.
    Read "failover.config" => failover_config() -> FailoverConfig;

    /// List why automatic failover would not happen now. An empty list is a healthy pair.
    Read "failover.disabled.reasons" => failover_disabled_reasons() -> Vec<DisabledReason>;

    /// Tell who holds and who is registered on each shared disk, as the daemon's own work saw it last: holder,
    /// registrations, paths, latencies, the last check. No command is sent to a disk.
    Read "failover.fence.status" => failover_fence_status() -> FenceStatus;

    /// Take over now, whether the peer lives or not. Fencing, majority and the wait for the old lease are never
    /// skipped. False if there is nothing to do: not a member of a pair, or MASTER already. True once it serves.
    Write "failover.force_master" => failover_force_master() -> bool;

    /// List the URLs of the virtual addresses. They are the configured ones, on whichever controller they are.
    Read "failover.get_ips" => failover_get_ips() -> Vec<String>;

    /// List the newest transitions of this controller, oldest first: cause, evidence and time per phase.
    /// `limit` is 1 to 1000, by default 50.
    Read "failover.history" => failover_history(limit: Option<u32>) -> Vec<HistoryRecord>;

    /// Say whether an election, a takeover or a handover runs on this controller.
    Read "failover.in_progress" => failover_in_progress() -> bool;

    /// Keep what is recorded now, at most 32 MiB, as an incident, and answer its name. Incidents are kept by themselves where
    /// a takeover or a handover begins, where serving fails, and before a reset: the newest 12, and 4 that were asked for.
    Write "failover.incident.keep" => failover_incident_keep() -> String;

    /// List the incidents that are kept here, oldest first.
    Read "failover.incident.list" => failover_incident_list() -> Vec<Incident>;

    /// Read a part of an incident. Answers the bytes from `offset` on, at most 131072 of them, as hexadecimal digits, and the
    /// length of the whole; `failoverd replay` makes the same decisions of it again. It holds no secrets.
    Read "failover.incident.read" => failover_incident_read(name: String, offset: u32) -> IncidentPart;

    /// Say whether this controller is provisioned as a member of a pair.
    Open "failover.licensed" => failover_licensed() -> bool;

    /// Name this controller: `A` or `B`.
    Read "failover.node" => failover_node() -> String;

    /// Tell everything that this controller knows of the pair: both controllers, each source of evidence with its
    /// age, disks, pools, virtual addresses, epoch, timers.
    Read "failover.state" => failover_state() -> StateReport;

    /// Tell the public state of this controller in one word. `MASTER` means that it serves.
    Read "failover.status" => failover_status() -> Status;

    /// Change the failover settings on both controllers and answer them. An omitted key changes nothing; in TrueNAS
    /// an omitted `master` makes the called controller the preferred one. `{"disabled": true, "master": false}` on the
    /// MASTER hands over first.
    Write "failover.update" => failover_update(failover_update: FailoverUpdate) -> FailoverConfig;
}
