//! The ring of segments in the runtime folder, and the incidents that are kept from it.
//!
//! ```text
//!   control thread ─▶ bounded queue ─▶ writer thread ─▶ runtime_dir/record/0000000017   32 segments of 1 MiB, in memory
//!                                         └─▶ state_dir/incidents/2026-11-28T15:50:12Z-surveying.log   16, on disk
//! ```
//!
//! An incident is kept 20 s after a decision began, with the minute before it; at a reset at once, as far as the patience
//! for it goes. Losing any of this loses no safety: trouble is told once, and nothing waits for it.

use super::log::{self, FORMAT, Head, InputRef, Written};
use crate::adapters::clock::{BootClock, wall_ms};
use crate::journal::{replace, this_boot};
use crate::queue::{Receiver, Sender, queue};
use failover_api::{HistoryRecord, Incident};
use failover_core::adapters::Clock as _;
use failover_core::controller::Controller;
use failover_core::ids::Node;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// A segment is closed once it has so many bytes.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Segments kept.
const SEGMENTS_MAX: usize = 32;
/// Incidents kept.
const INCIDENTS_MAX: usize = 16;
/// Segments of an incident at most.
const INCIDENT_SEGMENTS_MAX: usize = 12;
/// How long after the beginning of a decision its incident is kept.
const AFTERMATH: Duration = Duration::from_secs(20);
/// What of the time before it is kept with it, at least.
const PRELUDE: Duration = Duration::from_secs(60);
/// Frames that may wait for the writer, and their bytes.
const WAITING_MAX: usize = 8192;
const WAITING_MAX_BYTES: usize = 16 * 1024 * 1024;
/// An operator waits no longer for an incident to be kept.
const KEEP_PATIENCE: Duration = Duration::from_secs(10);

/// What an incident is kept for that comes before a reset.
const RESET: &str = "reset";

enum Item {
    /// A frame; `begins` a segment.
    Frame { payload: Vec<u8>, begins: bool },
    /// A decision has begun.
    Decided(String),
    /// Keep what is there, now; answered with its name.
    Keep {
        why: &'static str,
        answer: SyncSender<io::Result<String>>,
    },
    /// Nothing more comes from the control thread.
    End,
}

/// What both sides see.
#[derive(Default)]
struct Flags {
    waiting_bytes: AtomicUsize,
    /// Something was lost: the next frame must be a whole state.
    gap: AtomicBool,
}

/// The control thread's side; never waits, apart from [`Recorder::settle`].
pub(crate) struct Recorder {
    queue: Sender<Item>,
    flags: Arc<Flags>,
    /// The step in the making.
    payload: Vec<u8>,
    begins: bool,
    segment_bytes: usize,
}

impl Recorder {
    /// Begins a new segment with the whole state where the present one is full, or where something was lost.
    pub(crate) fn make_room(&mut self, controller: &Controller) {
        let after_gap = self.flags.gap.load(Ordering::Acquire);
        if self.segment_bytes < SEGMENT_BYTES && !after_gap {
            return;
        }
        if after_gap && self.flags.waiting_bytes.load(Ordering::Acquire) > 0 {
            return;
        }
        self.flags.gap.store(false, Ordering::Release);
        self.input(&InputRef::State {
            after_gap,
            controller,
        });
        self.answered(log::digest_of(&[]));
    }

    /// Takes an input, before it enters the core.
    pub(crate) fn input(&mut self, input: &InputRef<'_>) {
        self.payload.clear();
        self.begins = matches!(input, InputRef::Start { .. } | InputRef::State { .. });
        let payload = std::mem::take(&mut self.payload);
        // Nothing of an input can't be written.
        self.payload = postcard::to_extend(input, payload).unwrap_or_default();
    }

    /// Takes what followed, and leaves the step for the writer.
    pub(crate) fn answered(&mut self, actions: u64) {
        let payload = std::mem::take(&mut self.payload);
        let payload = postcard::to_extend(&actions, payload).unwrap_or_default();
        let bytes = payload.len() + log::FRAME_HEAD_BYTES;
        let begins = self.begins;
        if begins {
            self.segment_bytes = 0;
        }
        self.segment_bytes += bytes;
        if self.flags.gap.load(Ordering::Acquire) {
            return;
        }
        let waiting = self.flags.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        let full = waiting + bytes > WAITING_MAX_BYTES || bytes > log::FRAME_MAX_BYTES;
        if full || self.put(Item::Frame { payload, begins }).is_none() {
            self.flags.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.flags.gap.store(true, Ordering::Release);
        }
    }

    /// A transition was made: where it begins a decision, an incident is kept.
    pub(crate) fn decided(&mut self, record: &HistoryRecord) {
        if begins_decision(record) {
            // Where the queue is full there is a gap already.
            let _ = self.put(Item::Decided(record.to.clone()));
        }
    }

    /// Has everything kept where the next boot finds it; waits for that within `patience`.
    pub(crate) fn settle(&mut self, patience: Duration) {
        let (answer, kept) = sync_channel(1);
        if self.put(Item::Keep { why: RESET, answer }).is_some() {
            // The reset comes in any case.
            let _ = kept.recv_timeout(patience);
        }
    }

    fn put(&self, item: Item) -> Option<()> {
        self.queue.try_send(item).ok()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // A writer that is so far behind ends with the process.
        let _ = self.queue.try_send(Item::End);
    }
}

/// Somebody will ask later why: a takeover or a handover begins, or the serving ended.
fn begins_decision(record: &HistoryRecord) -> bool {
    let ends_serving = record.from == "active" && record.to == "announcing";
    let to = ["surveying", "removing-vips", "failed", "halted"];
    ends_serving || to.contains(&record.to.as_str())
}

/// The readers' side.
#[derive(Clone)]
pub(crate) struct Incidents {
    queue: Sender<Item>,
    folder: PathBuf,
}

impl Incidents {
    /// Those that are kept, oldest first.
    pub(crate) fn list(&self) -> io::Result<Vec<Incident>> {
        let mut all = Vec::new();
        for name in names(&self.folder)? {
            let Some(bare) = name.strip_suffix(".log") else {
                continue;
            };
            let meta = fs::metadata(self.folder.join(&name))?;
            all.push(Incident {
                name: bare.to_owned(),
                bytes: meta.len(),
            });
        }
        Ok(all)
    }

    /// Keeps what the ring holds now; its name. Blocks for a bounded time.
    pub(crate) fn keep(&self) -> io::Result<String> {
        let (answer, kept) = sync_channel(1);
        let item = Item::Keep {
            why: "asked",
            answer,
        };
        if self.queue.try_send(item).is_err() {
            return Err(io::Error::other("the recorder is busy or has ended"));
        }
        kept.recv_timeout(KEEP_PATIENCE)
            .map_err(|_| io::Error::other("the recorder gave no answer in time"))?
    }

    /// A part of one, and its whole length. `None` if none has that name.
    pub(crate) fn read(
        &self,
        name: &str,
        offset: u64,
        most: usize,
    ) -> io::Result<Option<(Vec<u8>, u64)>> {
        // No other folder's files.
        let is_known = self.list()?.iter().any(|one| one.name == name);
        if !is_known {
            return Ok(None);
        }
        let mut file = File::open(self.folder.join(format!("{name}.log")))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(Some((bytes, length)))
    }
}

/// The writer thread.
pub(crate) type WriterThread = JoinHandle<()>;

/// Starts the writer.
///
/// # Errors
/// No thread, or no folder.
pub(crate) fn start(
    runtime_dir: &Path,
    state_dir: &Path,
    node: Node,
) -> io::Result<(Recorder, Incidents, WriterThread)> {
    let folder = private_folder(runtime_dir.join("record"))?;
    let kept = private_folder(state_dir.join("incidents"))?;
    let (queue, items) = queue(WAITING_MAX);
    let flags = Arc::new(Flags::default());
    let incidents = Incidents {
        queue: queue.clone(),
        folder: kept.clone(),
    };
    let last = names(&folder)?.last().and_then(|name| name.parse().ok());
    let mut writer = Writer {
        folder,
        kept,
        node,
        boot: this_boot().map_err(|failure| io::Error::other(failure.0))?,
        number: last.unwrap_or(0),
        open: None,
        flags: flags.clone(),
        due: None,
        told: false,
    };
    let thread = std::thread::Builder::new()
        .name("record".to_owned())
        .spawn(move || writer.run(&items))?;
    let recorder = Recorder {
        queue,
        flags,
        payload: Vec::new(),
        begins: false,
        segment_bytes: 0,
    };
    Ok((recorder, incidents, thread))
}

fn private_folder(path: PathBuf) -> io::Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(path)
}

/// The files of a folder, sorted by name, which is by age.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

struct Writer {
    folder: PathBuf,
    kept: PathBuf,
    node: Node,
    boot: String,
    /// Of the last segment.
    number: u64,
    open: Option<(File, Written)>,
    flags: Arc<Flags>,
    /// An incident to be kept, and when.
    due: Option<(Instant, String)>,
    told: bool,
}

impl Writer {
    fn run(&mut self, items: &Receiver<Item>) {
        while let Some(item) = items.recv() {
            match item {
                Item::Frame { payload, begins } => {
                    let bytes = payload.len() + log::FRAME_HEAD_BYTES;
                    let written = self.write(&payload, begins);
                    self.flags.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
                    self.judge(written);
                }
                Item::Decided(what) => {
                    self.due.get_or_insert((Instant::now() + AFTERMATH, what));
                }
                Item::Keep { why, answer } => {
                    // Nothing comes after a reset: one that is due is in it.
                    let due = self.due.take_if(|_| why == RESET);
                    let why = due.map_or(why.to_owned(), |(_, why)| why);
                    // Who asked may have given up.
                    let _ = answer.send(self.keep(&why));
                }
                Item::End => break,
            }
            // Beats come all the time: nothing else has to wake this thread.
            if self
                .due
                .as_ref()
                .is_some_and(|(at, _)| *at <= Instant::now())
            {
                self.keep_due();
            }
        }
        self.keep_due();
    }

    fn keep_due(&mut self) {
        if let Some((_, why)) = self.due.take() {
            let kept = self.keep(&why).map(|_| ());
            self.judge(kept);
        }
    }

    /// Trouble is told once; what follows it stands by itself.
    fn judge(&mut self, result: io::Result<()>) {
        let Err(error) = result else {
            return;
        };
        self.open = None;
        self.flags.gap.store(true, Ordering::Release);
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "what led to decisions can't be recorded: {error}; check the runtime and the state folder"
            );
        }
    }

    fn write(&mut self, payload: &[u8], begins: bool) -> io::Result<()> {
        if begins {
            self.begin()?;
        }
        // After a failure: the next whole state begins anew.
        let Some((file, written)) = &mut self.open else {
            return Ok(());
        };
        written.frame(payload);
        file.write_all(&written.bytes)?;
        written.bytes.clear();
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        self.open = None;
        self.number += 1;
        let path = self.folder.join(format!("{:010}", self.number));
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let head = Head {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node,
            boot: self.boot.clone(),
            number: self.number,
            wall_micros: wall_ms().map_or(0, |ms| ms as i64 * 1000)
                - BootClock.now().micros() as i64,
        };
        self.open = Some((file, Written::new(&head)));
        prune(&self.folder, SEGMENTS_MAX)
    }

    /// Puts the newest segments into one file on the disk.
    fn keep(&mut self, why: &str) -> io::Result<String> {
        let since = SystemTime::now() - (PRELUDE + AFTERMATH);
        let names = names(&self.folder)?;
        let mut bytes = Vec::new();
        let first = names.len().saturating_sub(INCIDENT_SEGMENTS_MAX);
        let newest = names.len().saturating_sub(1);
        for (index, name) in names.iter().enumerate().skip(first) {
            let path = self.folder.join(name);
            let written = fs::metadata(&path)?.modified()?;
            if written >= since || index == newest {
                let segment = fs::read(&path)?;
                bytes.extend_from_slice(log::whole_frames(&segment));
            }
        }
        let name = format!(
            "{}-{why}",
            jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")
        );
        replace(&self.kept.join(format!("{name}.log")), &bytes, true)?;
        prune(&self.kept, INCIDENTS_MAX)?;
        Ok(name)
    }
}

/// Removes the oldest files beyond `most`.
fn prune(folder: &Path, most: usize) -> io::Result<()> {
    let names = names(folder)?;
    for name in names.iter().take(names.len().saturating_sub(most)) {
        fs::remove_file(folder.join(name))?;
    }
    Ok(())
}
