//! A small client of the daemon's control socket, as simple as a script's: one call at a time, events between.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

/// Events that wait while a call is answered.
const EVENTS_MAX: usize = 1024;

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcError {
    /// The daemon refused; its reason.
    Refused(String),
    /// No answer: connection or time.
    Broken(String),
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RpcError::Refused(why) | RpcError::Broken(why) => f.write_str(why),
        }
    }
}

/// A connection to one daemon.
pub struct Rpc {
    socket: WebSocket<UnixStream>,
    next: u64,
    events: VecDeque<Value>,
}

impl Rpc {
    /// Connects and opens the session.
    pub fn connect(path: &Path, limit: Duration) -> Result<Rpc, RpcError> {
        let stream = UnixStream::connect(path).map_err(|error| broken(&error))?;
        let timeouts = stream
            .set_read_timeout(Some(limit))
            .and_then(|()| stream.set_write_timeout(Some(limit)));
        timeouts.map_err(|error| broken(&error))?;
        let opened = client("ws://localhost/api/current", stream);
        let (socket, _) = opened.map_err(|error| broken(&error))?;
        let mut rpc = Rpc {
            socket,
            next: 1,
            events: VecDeque::new(),
        };
        rpc.call("core.set_options", json!([{"legacy_jobs": false}]), limit)?;
        Ok(rpc)
    }

    /// Calls a method.
    pub fn call(
        &mut self,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, RpcError> {
        let deadline = Instant::now() + limit;
        let id = self.next;
        self.next += 1;
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let sent = self.socket.send(Message::text(frame.to_string()));
        sent.map_err(|error| broken(&error))?;
        loop {
            let Some(mut message) = self.receive(deadline)? else {
                let ms = limit.as_millis();
                return Err(RpcError::Broken(format!(
                    "{method}: no answer within {ms} ms"
                )));
            };
            if message.get("id") != Some(&json!(id)) {
                self.keep_event(message);
            } else if let Some(error) = message.get("error") {
                let reason = error.pointer("/data/reason").or(error.get("message"));
                let reason = reason.and_then(Value::as_str).unwrap_or("no reason given");
                return Err(RpcError::Refused(reason.to_owned()));
            } else {
                return Ok(message["result"].take());
            }
        }
    }

    /// The next event, waiting up to `limit`.
    pub fn event(&mut self, limit: Duration) -> Result<Option<Value>, RpcError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        self.receive(Instant::now() + limit)
    }

    fn keep_event(&mut self, message: Value) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(message);
    }

    fn receive(&mut self, deadline: Instant) -> Result<Option<Value>, RpcError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let set = self.socket.get_ref().set_read_timeout(Some(left));
            set.map_err(|error| broken(&error))?;
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let parsed = serde_json::from_str(text.as_str());
                    return parsed.map(Some).map_err(|error| broken(&error));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn broken(error: &dyn std::fmt::Display) -> RpcError {
    RpcError::Broken(error.to_string())
}
