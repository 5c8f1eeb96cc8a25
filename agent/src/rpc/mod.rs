//! The control API: JSON-RPC 2.0 over WebSocket on a unix socket.
//!
//! ```text
//!  midctl ──unix socket──▶ socket.rs     who may connect; the file itself
//!                             │ accept
//!                          connection.rs  one task each: WebSocket, limits, pings
//!                             │ text             ▲ text
//!                          session.rs  no IO: frame ─▶ dispatch ─▶ answer; subscriptions
//!                             │                  ▲ events
//!                          Backend             hub.rs ◀─ publish() ─ control thread
//! ```
//!
//! All of it runs on the ordinary runtime and may starve: the control thread only ever puts a change into
//! [`Hub`] (no lock, no wait) and answers commands; it never waits for anything here.

mod connection;
mod handler;
mod hub;
mod session;
mod socket;

pub use hub::Hub;
pub use session::{Begun, Call, Session};
pub use socket::{Socket, SocketError, serve};

use failover_api::{FenceStatus, HistoryRecord, Incident, StateReport};
use failover_core::action::Refusal;
use failover_core::event::Command;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What the API needs of the daemon. No function here may block.
pub trait Backend: Send + Sync + 'static {
    /// The newest report.
    fn report(&self) -> Arc<StateReport>;

    /// This controller is provisioned as a member of a pair.
    fn provisioned(&self) -> bool;

    /// The newest `limit` records of the history, oldest first.
    fn history(&self, limit: usize) -> Vec<HistoryRecord>;

    /// The configured virtual addresses, with or without a prefix length.
    fn virtual_ips(&self) -> Vec<String>;

    /// The reservations on the disks as they were last seen; sends no command, but may read a file.
    fn fence(&self) -> FenceStatus;

    /// The incidents that are kept, oldest first. Reads a folder.
    fn incidents(&self) -> io::Result<Vec<Incident>>;

    /// Keeps what was recorded so far as an incident, and answers its name. Blocks for a bounded time.
    fn keep_incident(&self) -> io::Result<String>;

    /// At most `most` bytes of an incident from `offset` on, and the length of the whole; `None` if there is none of that
    /// name. Reads a file.
    fn read_incident(
        &self,
        name: &str,
        offset: u64,
        most: usize,
    ) -> io::Result<Option<(Vec<u8>, u64)>>;

    /// Gives the control thread a command. The answer comes when it is carried out; a sender that is dropped
    /// means that the daemon ends.
    fn command(&self, command: Command) -> oneshot::Receiver<Result<(), Refusal>>;
}

/// Bounds of what clients can make us hold or wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message; a longer one closes the connection (1009).
    pub message_bytes: usize,
    /// Calls of one connection that run at once; more wait.
    pub running_calls: usize,
    /// Calls of one connection that aren't answered; one more is refused (-32000).
    pub unanswered_calls: usize,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
    /// Events waiting for one connection; one more drops it.
    pub waiting_events: usize,
    /// Connections of all clients.
    pub connections: usize,
    /// Of these, kept for those who may write.
    pub kept_for_writers: usize,
    /// For the HTTP upgrade.
    pub handshake: Duration,
    /// For one message to be taken by a client.
    pub send: Duration,
    /// Between two pings.
    pub ping: Duration,
    /// Pings in a row without any sign of life, after which a client is gone. Counted, not timed: time in which this
    /// process didn't run is not the client's silence.
    pub unanswered_pings: u32,
    /// For a command to be carried out; the control thread's own deadlines are shorter.
    pub command: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes: 65_536,
            running_calls: 10,
            unanswered_calls: 20,
            subscriptions: 64,
            waiting_events: 256,
            connections: 256,
            kept_for_writers: 32,
            handshake: Duration::from_secs(5),
            send: Duration::from_secs(10),
            ping: Duration::from_secs(20),
            unanswered_pings: 3,
            command: Duration::from_secs(180),
        }
    }
}
