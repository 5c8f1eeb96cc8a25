//! From the control thread to every subscriber.
//!
//! ```text
//!  control thread                    │  ordinary runtime
//!   publish(report) ─▶ ring of 1024 ─┼─▶ pump ─▶ queue of 256 ─▶ connection
//!                  └─▶ a byte ───────┼──▶ (wakes)  one per connection; full: it is dropped
//! ```
//!
//! The left side takes no lock that the right side holds, so a starved runtime can't delay the control thread.

use super::session::Session;
use crate::queue::{Receiver, Sender, queue};
use failover_api::{DisabledReason, StateReport, Status, events};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream as Bell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

/// Changes that wait for the runtime; far more than any takeover makes.
const WAITING_CHANGES: usize = 1024;

/// What changed with one report.
struct Change {
    status: Option<Status>,
    disabled_reasons: Option<Vec<DisabledReason>>,
}

/// The one place through which events reach subscribers.
pub struct Hub {
    changes: Sender<Change>,
    waiting: Mutex<Receiver<Change>>,
    /// A byte written to the first wakes the pump, which reads the second.
    bell: (Bell, Bell),
    lost: AtomicBool,
    /// Status and set of reasons last published, packed.
    last: AtomicU64,
    outlets: Mutex<BTreeMap<u64, Arc<Outlet>>>,
    next_outlet: AtomicU64,
}

/// The way to one connection.
pub(super) struct Outlet {
    number: u64,
    session: Arc<Session>,
    queue: mpsc::Sender<String>,
    /// Rung when an event didn't fit: the connection ends, because it would miss one.
    pub(super) overrun: Notify,
}

impl Hub {
    /// A hub without connections.
    pub fn new() -> std::io::Result<Hub> {
        let (changes, waiting) = queue(WAITING_CHANGES);
        let bell = Bell::pair()?;
        bell.0.set_nonblocking(true)?;
        bell.1.set_nonblocking(true)?;
        Ok(Hub {
            changes,
            waiting: Mutex::new(waiting),
            bell,
            lost: AtomicBool::new(false),
            last: AtomicU64::new(u64::MAX),
            outlets: Mutex::new(BTreeMap::new()),
            next_outlet: AtomicU64::new(0),
        })
    }

    /// Tells subscribers what differs from the last report. Call it after every change, always from one thread
    /// (the order is kept); it never waits.
    pub fn publish(&self, report: &StateReport) {
        let now = pack(report.status, &report.disabled_reasons);
        let before = self.last.swap(now, Ordering::Relaxed);
        if now == before {
            return;
        }
        let change = Change {
            status: (now >> 32 != before >> 32).then_some(report.status),
            disabled_reasons: (now as u32 != before as u32 || before == u64::MAX)
                .then(|| report.disabled_reasons.clone()),
        };
        if self.changes.try_send(change).is_err() {
            self.lost.store(true, Ordering::Release);
        }
        // Fails only when the bell is full, and then the pump is woken anyway.
        let _ = (&self.bell.0).write(&[1]);
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.outlets().len()
    }

    /// Number of subscriptions of all connections.
    pub fn subscriptions(&self) -> usize {
        let outlets = self.outlets();
        outlets
            .values()
            .map(|outlet| outlet.session.subscriptions())
            .sum()
    }

    /// Hands changes on to the connections, for ever.
    pub(super) async fn pump(&self) -> std::io::Result<()> {
        let mut bell = UnixStream::from_std(self.bell.1.try_clone()?)?;
        let mut rings = [0; 64];
        loop {
            // A change that comes after this rings again.
            let count = bell.read(&mut rings).await?;
            debug_assert!(count > 0, "the hub holds the other end");
            self.deliver();
        }
    }

    /// Hands on what waits.
    pub(super) fn deliver(&self) {
        let waiting = locked(&self.waiting);
        while let Some(change) = waiting.try_recv() {
            if let Some(status) = change.status {
                self.emit("failover.status", &events::status_changed(status));
            }
            if let Some(reasons) = change.disabled_reasons {
                let frame = events::disabled_reasons_changed(reasons);
                self.emit("failover.disabled.reasons", &frame);
            }
        }
        if self.lost.swap(false, Ordering::Acquire) {
            tracing::warn!("events were lost: every subscriber is disconnected");
            for outlet in self.outlets().values() {
                if outlet.session.is_subscribed() {
                    outlet.overrun.notify_one();
                }
            }
        }
    }

    fn emit(&self, event: &str, frame: &str) {
        for outlet in self.outlets().values() {
            if outlet.session.wants(event) && outlet.queue.try_send(frame.to_owned()).is_err() {
                outlet.overrun.notify_one();
            }
        }
    }

    /// Adds a connection. The second part is where its events arrive.
    pub(super) fn add(
        &self,
        session: Arc<Session>,
        waiting_events: usize,
    ) -> (Arc<Outlet>, mpsc::Receiver<String>) {
        let (queue, events) = mpsc::channel(waiting_events);
        let outlet = Arc::new(Outlet {
            number: self.next_outlet.fetch_add(1, Ordering::Relaxed),
            session,
            queue,
            overrun: Notify::new(),
        });
        self.outlets().insert(outlet.number, outlet.clone());
        (outlet, events)
    }

    /// Removes a connection.
    pub(super) fn remove(&self, outlet: &Outlet) {
        self.outlets().remove(&outlet.number);
    }

    fn outlets(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Outlet>>> {
        locked(&self.outlets)
    }
}

/// A panic elsewhere leaves these tables whole: each change of them is one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pack(status: Status, reasons: &[DisabledReason]) -> u64 {
    let set = reasons
        .iter()
        .fold(0u32, |set, reason| set | 1 << (*reason as u32));
    (status as u64) << 32 | u64::from(set)
}
