//! From the control thread to journald, the history file and nobody's delay: a bounded queue and a thread of its own.

use crate::history::{HistoryFile, Past};
use crate::messages::message_id;
use crate::queue::{Receiver, Sender, queue};
use failover_api::{HistoryRecord, Notice, Severity};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Lines that may wait for a slow log.
const WAITING_MAX: usize = 1024;

enum Item {
    Notice(Notice),
    History(Box<HistoryRecord>),
}

/// Where lines are left; never waits.
#[derive(Clone)]
pub(crate) struct Log {
    queue: Sender<Item>,
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Tells operators.
    pub(crate) fn notice(&self, notice: Notice) {
        self.put(Item::Notice(notice));
    }

    /// Tells operators something of the shell's own.
    pub(crate) fn say(&self, id: &str, severity: Severity, text: String) {
        self.notice(Notice {
            id: id.to_owned(),
            severity,
            text,
        });
    }

    /// Keeps a transition.
    pub(crate) fn history(&self, record: HistoryRecord) {
        self.put(Item::History(Box::new(record)));
    }

    fn put(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A log whose lines nobody reads, for tests.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Log {
        Log {
            queue: queue(0).0,
            lost: Arc::default(),
        }
    }
}

/// Starts the logger with a record of what came before, if there is one. It ends when every [`Log`] is dropped.
pub(crate) fn start(
    state_dir: PathBuf,
    past: Past,
    before: Option<HistoryRecord>,
) -> std::io::Result<(Log, JoinHandle<()>)> {
    let (queue, items) = queue(WAITING_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let log = Log {
        queue,
        lost: lost.clone(),
    };
    // What came before is there before the first reader can ask.
    let mut history = HistoryFile::open(&state_dir, past);
    if let Some(record) = before {
        history.keep(record);
    }
    let thread = std::thread::Builder::new()
        .name("logger".to_owned())
        .spawn(move || write(&items, history, &lost))?;
    Ok((log, thread))
}

fn write(items: &Receiver<Item>, mut history: HistoryFile, lost: &AtomicU64) {
    while let Some(item) = items.recv() {
        match item {
            Item::Notice(notice) => tell(&notice),
            Item::History(record) => {
                tracing::info!(
                    failover.id = "STATE",
                    message_id = message_id("STATE"),
                    failover.from = record.from,
                    failover.to = record.to,
                    failover.status = %record.status,
                    failover.epoch = record.epoch,
                    "{} -> {}: {}",
                    record.from,
                    record.to,
                    record.why
                );
                history.keep(*record);
            }
        }
        let missed = lost.swap(0, Ordering::Relaxed);
        if missed > 0 {
            tracing::warn!(
                failover.id = "LOG_LOST",
                message_id = message_id("LOG_LOST"),
                "{missed} lines were lost: the log is too slow"
            );
        }
    }
}

fn tell(notice: &Notice) {
    let id = notice.id.as_str();
    let message_id = message_id(id);
    match notice.severity {
        Severity::Info => tracing::info!(failover.id = id, message_id, "{}", notice.text),
        Severity::Warning => tracing::warn!(failover.id = id, message_id, "{}", notice.text),
        Severity::Alarm => tracing::error!(failover.id = id, message_id, "{}", notice.text),
    }
}
