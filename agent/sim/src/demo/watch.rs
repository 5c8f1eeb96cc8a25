//! Watches both daemons from outside, over their control sockets, as an operator's tool would.

use super::rpc::{Rpc, RpcError};
use crate::shelf::now_micros;
use failover_api::{HistoryRecord, StateReport};
use failover_core::ids::Node;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Interval of the looks; a status event brings the next one at once.
const LOOK: Duration = Duration::from_millis(15);
const LIMIT: Duration = Duration::from_millis(500);
const RECONNECT: Duration = Duration::from_millis(10);
/// Records asked for after each change.
const RECENT: u32 = 40;
/// Records kept.
const HISTORY_MAX: usize = 10_000;

/// What a daemon last said.
#[derive(Clone, Debug)]
pub struct View {
    /// When it was asked.
    pub at: u64,
    /// What it said.
    pub report: StateReport,
}

#[derive(Debug, Default)]
struct Seen {
    view: Option<View>,
    history: Vec<HistoryRecord>,
    /// Looks at which the addresses were on without a lease.
    lapses: u64,
}

/// The watch over one daemon. Its thread lives as long as the process.
#[derive(Clone, Debug)]
pub struct Watch {
    socket: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    /// Starts to watch the daemon at `socket`, whether it runs yet or not.
    pub fn start(node: Node, socket: &Path) -> io::Result<Watch> {
        let watch = Watch {
            socket: socket.to_owned(),
            seen: Arc::default(),
        };
        let watching = watch.clone();
        std::thread::Builder::new()
            .name(format!("watch-{node}"))
            .spawn(move || {
                loop {
                    // Whatever ends a connection: the daemon is away, and the next one will do.
                    let _ = watching.look();
                    watching.seen().view = None;
                    std::thread::sleep(RECONNECT);
                }
            })?;
        Ok(watch)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Result<(), RpcError> {
        let mut rpc = Rpc::connect(&self.socket, LIMIT)?;
        rpc.call("core.subscribe", json!(["failover.status"]), LIMIT)?;
        let mut state = String::new();
        loop {
            let at = now_micros();
            let report = rpc.call("failover.state", json!([]), LIMIT)?;
            let report: StateReport = parse(report)?;
            let changed = report.state != state || report.since_ms <= 50;
            state.clone_from(&report.state);
            {
                let mut seen = self.seen();
                let silent = report.vips_on && report.lease_ms.is_none_or(|left| left == 0);
                seen.lapses += u64::from(silent && state == "active");
                seen.view = Some(View { at, report });
            }
            if changed {
                let recent = rpc.call("failover.history", json!([RECENT]), LIMIT)?;
                self.keep_history(parse(recent)?);
            }
            rpc.event(LOOK)?;
        }
    }

    fn keep_history(&self, mut recent: Vec<HistoryRecord>) {
        recent.sort_by_key(|record| (record.at_micros, record.seq));
        let mut seen = self.seen();
        let newest = |seen: &Seen| seen.history.last().map(|r| (r.at_micros, r.seq));
        for record in recent {
            if newest(&seen).is_none_or(|newest| newest < (record.at_micros, record.seq)) {
                seen.history.push(record);
            }
        }
        if seen.history.len() > HISTORY_MAX {
            let surplus = seen.history.len() - HISTORY_MAX / 2;
            seen.history.drain(..surplus);
        }
    }

    /// What it last said; `None` while it doesn't answer.
    pub fn view(&self) -> Option<View> {
        self.seen().view.clone()
    }

    /// Its transitions after `from`.
    pub fn history_since(&self, from: u64) -> Vec<HistoryRecord> {
        let seen = self.seen();
        let after = seen.history.iter().filter(|record| record.at_micros > from);
        after.cloned().collect()
    }

    /// Looks so far at which it served without a lease.
    pub fn lapses(&self) -> u64 {
        self.seen().lapses
    }

    /// Calls a method on a connection of its own, on a thread of its own.
    pub fn call_apart(&self, method: &'static str) -> Apart {
        let socket = self.socket.clone();
        let answer: Arc<Mutex<Option<Result<(), RpcError>>>> = Arc::default();
        let into = answer.clone();
        let call = move || {
            let limit = Duration::from_secs(10);
            let result =
                Rpc::connect(&socket, limit).and_then(|mut rpc| rpc.call(method, json!([]), limit));
            *into.lock().unwrap_or_else(PoisonError::into_inner) = Some(result.map(|_| ()));
        };
        let started = std::thread::Builder::new().spawn(call);
        if let Err(error) = started {
            let failed = Err(RpcError::Broken(error.to_string()));
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
        }
        Apart(answer)
    }
}

/// A call that runs on its own.
#[derive(Clone, Debug)]
pub struct Apart(Arc<Mutex<Option<Result<(), RpcError>>>>);

impl Apart {
    /// Its result, once it has one.
    pub fn result(&self) -> Option<Result<(), RpcError>> {
        let result = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        result.clone()
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, RpcError> {
    serde_json::from_value(value).map_err(|error| RpcError::Broken(error.to_string()))
}
