//! The connection to the daemon. Every wait has a deadline; whatever ends it is a `Failure` with its exit code.

use failover_api::frame::{self, EventParams, Message, RemoteError};
use failover_api::methods::{BadResult, Client};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Of one message of the daemon.
const MESSAGE_BYTES: usize = 16 << 20;
/// Notices that came while a call was waiting.
const KEPT: usize = 1024;
/// The daemon pings every 20 s; this long without anything, it is gone.
const SILENT: Duration = Duration::from_secs(65);
/// For the close frame; nobody waits for its echo.
const CLOSING: Duration = Duration::from_millis(200);

/// Why midctl didn't do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The daemon answered with an error.
    Refused(RemoteError),
    /// Wrong usage that the arguments' syntax can't tell.
    Usage(String),
    /// No connection, or it was lost.
    Connection(String),
    /// No answer in time.
    Timeout(String),
    /// The daemon answered something that can't be understood.
    Malformed(String),
}

impl Failure {
    /// The exit code, as `--help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Connection(_) => 3,
            Failure::Timeout(_) => 4,
            Failure::Malformed(_) => 5,
        }
    }

    /// Says it on standard error.
    pub fn report(&self, as_json: bool) {
        if as_json {
            eprintln!("{}", self.to_json());
        } else {
            eprintln!("{self}");
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Failure::Refused(error) => json!({ "error": error }),
            _ => json!({ "error": { "message": self.to_string() } }),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The daemon's reason alone, as scripts know it.
            Failure::Refused(error) => error.fmt(f),
            Failure::Usage(text)
            | Failure::Connection(text)
            | Failure::Timeout(text)
            | Failure::Malformed(text) => write!(f, "midctl: {text}"),
        }
    }
}

impl From<BadResult> for Failure {
    fn from(bad: BadResult) -> Failure {
        Failure::Malformed(format!(
            "{bad} (is the daemon of another version than midctl?)"
        ))
    }
}

/// A connection.
pub struct Connection {
    socket: WebSocketStream<UnixStream>,
    path: PathBuf,
    timeout: Duration,
    deadline: Instant,
    next_id: u64,
    /// What came while a call was waiting.
    kept: VecDeque<Message>,
}

impl Connection {
    /// Connects; `timeout` holds for this and all calls together.
    pub async fn open(path: &Path, timeout: Duration) -> Result<Connection, Failure> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        let deadline = Instant::now() + timeout;
        let shown = path.display();
        let opening = async {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| Failure::Connection(no_connection(path, &error)))?;
            client_async_with_config("ws://localhost/api/current", stream, Some(config))
                .await
                .map_err(|error| {
                    Failure::Connection(format!("{shown}: no WebSocket to failoverd: {error}"))
                })
        };
        let (socket, _) = timeout_at(deadline, opening).await.map_err(|_| {
            Failure::Timeout(format!("{shown}: failoverd did not answer in time"))
        })??;
        let mut connection = Connection {
            socket,
            path: path.to_owned(),
            timeout,
            deadline,
            next_id: 1,
            kept: VecDeque::new(),
        };
        let options =
            json!({"legacy_jobs": false, "private_methods": false, "py_exceptions": false});
        connection.call("core.set_options", vec![options]).await?;
        Ok(connection)
    }

    /// Waits for the next event until `until`; `None` when that moment has come.
    pub async fn next_event(
        &mut self,
        until: Option<Instant>,
    ) -> Result<Option<EventParams>, Failure> {
        loop {
            let message = match self.kept.pop_front() {
                Some(message) => Some(message),
                None => {
                    let silent = Instant::now() + SILENT;
                    let deadline = until.map_or(silent, |until| until.min(silent));
                    match timeout_at(deadline, self.receive()).await {
                        Ok(message) => message?,
                        Err(_) if until.is_some_and(|until| until <= Instant::now()) => {
                            return Ok(None);
                        }
                        Err(_) => return Err(self.silent()),
                    }
                }
            };
            match message {
                Some(Message::Event(event)) => return Ok(Some(event)),
                Some(Message::Unsubscribed { collection, error }) => {
                    return Err(Failure::Connection(ended(&collection, &error)));
                }
                Some(Message::Answer {
                    answer: Err(error), ..
                }) => return Err(Failure::Refused(error)),
                Some(Message::Answer { .. } | Message::Other(_)) | None => {}
            }
        }
    }

    fn silent(&self) -> Failure {
        Failure::Connection(format!(
            "{}: failoverd has been silent for {} s: connection given up",
            self.path.display(),
            SILENT.as_secs()
        ))
    }

    /// Says goodbye, without waiting for an answer.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(CLOSING, self.socket.close(None)).await;
    }

    /// The next message; `None` for one that says nothing (a ping).
    async fn receive(&mut self) -> Result<Option<Message>, Failure> {
        let lost = |why: String| {
            Failure::Connection(format!("{}: connection lost: {why}", self.path.display()))
        };
        match self.socket.next().await {
            Some(Ok(Frame::Text(text))) => frame::parse_message(&text)
                .map(Some)
                .map_err(|fault| Failure::Malformed(format!("a message of failoverd {fault}"))),
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => Ok(None),
            Some(Ok(Frame::Binary(_))) => Err(Failure::Malformed(
                "failoverd sent a binary message".to_owned(),
            )),
            Some(Ok(Frame::Close(Some(close)))) => Err(lost(match close.reason.is_empty() {
                true => format!("closed with code {}", u16::from(close.code)),
                false => format!("{} (code {})", close.reason, u16::from(close.code)),
            })),
            Some(Ok(Frame::Close(None))) | None => Err(lost("failoverd ended it".to_owned())),
            Some(Err(WsError::Capacity(error))) => Err(Failure::Malformed(error.to_string())),
            Some(Err(error)) => Err(lost(error.to_string())),
        }
    }

    async fn answer(&mut self, id: &str) -> Result<Value, Failure> {
        loop {
            match self.receive().await? {
                Some(Message::Answer { id: of, answer }) if of == id => {
                    return answer.map_err(Failure::Refused);
                }
                // An error without an id is about the only call that we have under way.
                Some(Message::Answer {
                    id: Value::Null,
                    answer: Err(error),
                }) => return Err(Failure::Refused(error)),
                Some(message @ (Message::Event(_) | Message::Unsubscribed { .. })) => {
                    if self.kept.len() >= KEPT {
                        return Err(Failure::Malformed(format!(
                            "failoverd sent {KEPT} events and no answer"
                        )));
                    }
                    self.kept.push_back(message);
                }
                Some(Message::Answer { .. } | Message::Other(_)) | None => {}
            }
        }
    }
}

impl Client for Connection {
    type Error = Failure;

    async fn call(&mut self, method: &str, params: Vec<Value>) -> Result<Value, Failure> {
        let id = self.next_id.to_string();
        self.next_id += 1;
        let request = frame::request(&id, method, &params);
        let (timeout, deadline) = (self.timeout, self.deadline);
        let asking = async {
            self.socket
                .send(Frame::text(request))
                .await
                .map_err(|error| Failure::Connection(format!("connection lost: {error}")))?;
            self.answer(&id).await
        };
        timeout_at(deadline, asking).await.unwrap_or_else(|_| {
            Err(Failure::Timeout(format!(
                "{method}: no answer within {} s; what was asked may still be done",
                timeout.as_secs_f64()
            )))
        })
    }
}

fn ended(collection: &str, error: &Value) -> String {
    let why = match error {
        Value::Null => String::new(),
        error => format!(": {error}"),
    };
    format!("the subscription to {collection} was ended by failoverd{why}")
}

fn no_connection(path: &Path, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let remedy = match error.kind() {
        ErrorKind::NotFound => {
            "failoverd is not running, or its socket is elsewhere (--socket PATH)"
        }
        ErrorKind::ConnectionRefused => "failoverd is not running",
        ErrorKind::PermissionDenied => "only root and members of the group failoverd may connect",
        _ => "cannot connect to failoverd",
    };
    format!("{}: {remedy}: {error}", path.display())
}
