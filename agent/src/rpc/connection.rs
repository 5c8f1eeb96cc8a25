//! One client's WebSocket: upgrade, messages in, answers and events out, pings, and every way to end.

use super::hub::Outlet;
use super::session::{Begun, Session};
use super::{Hub, Limits};
use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use futures_util::{SinkExt, StreamExt};

/// Becomes true when the daemon ends.
pub(super) type Stopping = watch::Receiver<bool>;

/// The only path that is served.
const PATH: &str = "/api/current";
/// For a client to take the close frame and to hang up.
const CLOSING: Duration = Duration::from_secs(1);
/// A client that goes on sending after the close frame isn't read for longer than this.
const CLOSING_BYTES: usize = 1 << 20;

/// Why a connection ends.
enum End {
    /// The client closed it, or is gone.
    Client,
    /// We close it, and say why.
    Closed(CloseCode, Cow<'static, str>),
    /// The client doesn't take or send anything: nothing can be said to it.
    Dead(&'static str),
}

/// Serves one client until it ends.
pub(super) async fn run(
    stream: UnixStream,
    session: Arc<Session>,
    hub: Arc<Hub>,
    limits: Limits,
    stopping: Stopping,
) {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(limits.message_bytes))
        .max_frame_size(Some(limits.message_bytes));
    let upgrade = accept_hdr_async_with_config(stream, check_path, Some(config));
    let mut socket = match timeout(limits.handshake, upgrade).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return tracing::debug!("no WebSocket: {error}"),
        Err(_) => return tracing::debug!("no WebSocket: the client was too slow"),
    };
    let (outlet, events) = hub.add(session.clone(), limits.waiting_events);
    let mut connection = Connection {
        socket: &mut socket,
        session,
        hub: &hub,
        outlet: outlet.clone(),
        events,
        calls: JoinSet::new(),
        limits,
        unanswered_pings: 0,
    };
    let end = connection.converse(stopping).await;
    drop(connection);
    hub.remove(&outlet);
    match end {
        End::Client => {}
        End::Closed(code, reason) => close(socket, code, reason).await,
        End::Dead(why) => tracing::debug!("connection dropped: {why}"),
    }
}

/// Any other path is answered with 404, as a web server would.
#[expect(
    clippy::result_large_err,
    reason = "the library's callback has this type of error, once for each connection"
)]
fn check_path(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() == PATH {
        return Ok(response);
    }
    let body = format!("the API is at {PATH}\n");
    let mut refusal = ErrorResponse::new(None);
    *refusal.status_mut() = StatusCode::NOT_FOUND;
    let headers = refusal.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *refusal.body_mut() = Some(body);
    Err(refusal)
}

struct Connection<'a> {
    socket: &'a mut WebSocketStream<UnixStream>,
    session: Arc<Session>,
    hub: &'a Hub,
    outlet: Arc<Outlet>,
    events: mpsc::Receiver<String>,
    /// Calls that didn't end at once; bounded by the session's limit of unanswered calls.
    calls: JoinSet<Option<String>>,
    limits: Limits,
    unanswered_pings: u32,
}

impl Connection<'_> {
    async fn converse(&mut self, mut stopping: Stopping) -> End {
        let mut pings = interval(self.limits.ping);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        let outlet = self.outlet.clone();
        loop {
            // Nothing is sent inside `select`: a branch that loses would cut a frame in two.
            let step = tokio::select! {
                () = ended(&mut stopping) => {
                    Err(End::Closed(CloseCode::Away, "failoverd is stopping".into()))
                }
                () = outlet.overrun.notified() => {
                    Err(End::Closed(CloseCode::Policy, "events were not taken in time".into()))
                }
                Some(event) = self.events.recv() => self.send(Message::text(event)).await,
                Some(ended) = self.calls.join_next() => match ended {
                    Ok(answer) => self.answer(answer).await,
                    Err(_) => Err(End::Closed(CloseCode::Error, "a call failed".into())),
                },
                _ = pings.tick() => self.ping().await,
                message = self.socket.next() => {
                    self.unanswered_pings = 0;
                    self.receive(message).await
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn receive(&mut self, message: Option<Result<Message, Error>>) -> Result<(), End> {
        match message {
            None => Err(End::Client),
            Some(Ok(Message::Text(text))) => match self.session.begin(&text) {
                Begun::Nothing => Ok(()),
                Begun::Answer(answer) => self.answer(Some(answer)).await,
                Begun::Call(call) => {
                    // Most calls end at once. Answering those here keeps the order in which they came.
                    let mut call = Box::pin(call.run());
                    match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
                        Poll::Ready(answer) => self.answer(answer).await,
                        Poll::Pending => {
                            self.calls.spawn(call);
                            Ok(())
                        }
                    }
                }
            },
            Some(Ok(Message::Binary(_))) => Err(End::Closed(
                CloseCode::Unsupported,
                "only text messages are understood".into(),
            )),
            // The echo of the client's close frame waits in the socket.
            Some(Ok(Message::Close(_))) => {
                let _ = timeout(CLOSING, self.socket.flush()).await;
                Err(End::Client)
            }
            Some(Ok(Message::Ping(_))) => self.flush().await,
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Err(Error::Capacity(_))) => Err(End::Closed(
                CloseCode::Size,
                format!("messages have at most {} bytes", self.limits.message_bytes).into(),
            )),
            Some(Err(Error::Utf8(_))) => {
                Err(End::Closed(CloseCode::Invalid, "text must be UTF-8".into()))
            }
            Some(Err(Error::Protocol(error))) => {
                Err(End::Closed(CloseCode::Protocol, error.to_string().into()))
            }
            Some(Err(_)) => Err(End::Client),
        }
    }

    /// Events that came before an answer go out before it, so that nobody hears an old state after a new one.
    async fn answer(&mut self, answer: Option<String>) -> Result<(), End> {
        let Some(answer) = answer else {
            return Ok(());
        };
        self.hub.deliver();
        while let Ok(event) = self.events.try_recv() {
            self.send(Message::text(event)).await?;
        }
        self.send(Message::text(answer)).await
    }

    async fn ping(&mut self) -> Result<(), End> {
        if self.unanswered_pings >= self.limits.unanswered_pings {
            return Err(End::Dead("no sign of life"));
        }
        self.unanswered_pings += 1;
        self.send(Message::Ping(Default::default())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        let sending = self.socket.send(message);
        tokio::select! {
            biased;
            sent = timeout(self.limits.send, sending) => taken(sent),
            // The rest of the message is lost with the connection.
            () = self.outlet.overrun.notified() => Err(End::Dead("events were not taken in time")),
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        taken(timeout(self.limits.send, self.socket.flush()).await)
    }
}

/// The daemon ends, or has ended already.
async fn ended(stopping: &mut Stopping) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn taken(sent: Result<Result<(), Error>, tokio::time::error::Elapsed>) -> Result<(), End> {
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Client),
        Err(_) => Err(End::Dead("an answer was not taken in time")),
    }
}

/// Says why, then reads what is still coming for a moment: hanging up on unread bytes would make the client's
/// system report an error before the client has read the reason.
async fn close(
    mut socket: WebSocketStream<UnixStream>,
    code: CloseCode,
    reason: Cow<'static, str>,
) {
    let reason = reason.to_string().into();
    let closing = async {
        socket.close(Some(CloseFrame { code, reason })).await?;
        let stream = socket.get_mut();
        let mut rest = [0; 4096];
        let mut read = 0;
        while read < CLOSING_BYTES {
            match stream.read(&mut rest).await? {
                0 => break,
                count => read += count,
            }
        }
        Ok::<(), Error>(())
    };
    if !matches!(timeout(CLOSING, closing).await, Ok(Ok(()))) {
        tracing::debug!("the client didn't take the close frame");
    }
}
