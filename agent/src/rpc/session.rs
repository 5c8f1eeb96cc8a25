//! One connection's side of the API, without any IO: text in, text out.

use super::{Backend, Limits};
use failover_api::errors::RpcError;
use failover_api::events;
use failover_api::frame::{self, Request};
use failover_api::methods::{self, Access, Method};
use failover_api::params::SessionOptions;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Of a call's parameters, in the log.
const TOLD_CHARS: usize = 500;

/// One connection: who it is, what it may do, what it subscribed to.
pub struct Session {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) limits: Limits,
    access: Access,
    peer: String,
    memory: Mutex<Memory>,
    running: Semaphore,
    unanswered: Arc<AtomicUsize>,
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) options: SessionOptions,
    /// Id and event of each subscription.
    pub(super) subscriptions: Vec<(String, String)>,
}

/// What became of a piece of text.
pub enum Begun {
    /// A call to be run.
    Call(Call),
    /// The answer is known already.
    Answer(String),
    /// Nothing to answer.
    Nothing,
}

/// A call that was admitted. Dropping it gives up the answer, not what it started.
pub struct Call {
    session: Arc<Session>,
    request: Request,
    _place: Place,
}

/// A place among the unanswered calls of a connection.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// A connection of `peer` (for the log), who is allowed `access`.
    pub fn new(
        backend: Arc<dyn Backend>,
        limits: Limits,
        access: Access,
        peer: String,
    ) -> Arc<Session> {
        Arc::new(Session {
            backend,
            limits,
            access,
            peer,
            memory: Mutex::default(),
            running: Semaphore::new(limits.running_calls),
            unanswered: Arc::default(),
        })
    }

    /// Reads a message and admits the call that it is.
    pub fn begin(self: &Arc<Session>, text: &str) -> Begun {
        let request = match frame::parse_request(text) {
            Ok(request) => request,
            Err(rejected) => return Begun::Answer(frame::error(&rejected.id, &rejected.error)),
        };
        let limit = self.limits.unanswered_calls;
        let place = Place(self.unanswered.clone());
        if self.unanswered.fetch_add(1, Ordering::Relaxed) >= limit {
            return match &request.id {
                Some(id) => Begun::Answer(frame::error(id, &RpcError::too_many_calls(limit))),
                None => Begun::Nothing,
            };
        }
        Begun::Call(Call {
            session: self.clone(),
            request,
            _place: place,
        })
    }

    /// Reads a message, carries it out and answers it; `None` for a notification.
    pub async fn handle(self: &Arc<Session>, text: &str) -> Option<String> {
        match self.begin(text) {
            Begun::Call(call) => call.run().await,
            Begun::Answer(answer) => Some(answer),
            Begun::Nothing => None,
        }
    }

    /// Number of subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.memory().subscriptions.len()
    }

    /// Number of calls that were admitted and have not ended.
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscriptions() > 0
    }

    /// Some subscription is for this event.
    pub(super) fn wants(&self, event: &str) -> bool {
        let memory = self.memory();
        let mut wanted = memory.subscriptions.iter().map(|(_, name)| name);
        wanted.any(|name| name == event || name == events::ALL)
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parameters as the log shows them.
fn told(params: &[Value]) -> String {
    let text = Value::Array(params.to_vec()).to_string();
    match text.char_indices().nth(TOLD_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Call {
    /// Carries the call out; `None` for a notification.
    pub async fn run(self) -> Option<String> {
        let Request { id, method, params } = self.request;
        let session = &*self.session;
        let _turn = session.running.acquire().await.ok()?;
        let changes = Method::find(&method).is_some_and(|found| found.access == Access::Write);
        if changes {
            // Those who may not change anything must not fill the log either.
            let params = match session.access {
                Access::Write => told(&params),
                Access::Open | Access::Read => "not shown".to_owned(),
            };
            tracing::info!(peer = session.peer, method, params, "call");
        }
        let outcome = methods::dispatch(session, session.access, &method, params).await;
        if changes {
            let reason = outcome.as_ref().err().map_or("ok", RpcError::reason);
            tracing::info!(
                peer = session.peer,
                method,
                outcome = reason.trim_end(),
                "answer"
            );
        }
        let id = id?;
        Some(match outcome {
            Ok(result) => frame::result(&id, &result),
            Err(error) => frame::error(&id, &error),
        })
    }
}
