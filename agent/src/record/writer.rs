//! The ring of segments in the runtime folder, and the incidents that are kept from it.
//!
//! ```text
//!   control thread ─▶ bounded queue ─▶ writer thread ─▶ runtime_dir/record/0000000017   32 segments of 1 MiB, in memory
//!                                         └─▶ state_dir/incidents/2026-11-28T15:50:12Z-surveying.log   16, on disk
//! ```
//!
//! An incident is kept 2 s after a decision began, and again with what followed 20 s later; before a reset at once, as far as
//! the patience for it goes. Losing any of this loses no safety: trouble is told once, and nothing waits for it.

use super::log::{self, FORMAT, FrameRef, Head, InputRef, Written};
use crate::adapters::clock::{BootClock, wall_ms};
use crate::journal::{replace, this_boot};
use crate::queue::{Receiver, Sender, queue};
use failover_api::{HistoryRecord, Incident};
use failover_core::adapters::Clock as _;
use failover_core::controller::Controller;
use failover_core::ids::Node;
use failover_core::states::State;
use nix::sys::statvfs::statvfs;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A segment is closed once it has so many bytes.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Segments kept.
const SEGMENTS_MAX: usize = 32;
/// Incidents kept.
const INCIDENTS_MAX: usize = 16;
/// Of these, those that somebody asked for.
const ASKED_MAX: usize = 4;
/// Segments of an incident.
const INCIDENT_SEGMENTS: usize = 12;
/// Those of one that is kept in the moment before a reset.
const RESET_SEGMENTS: usize = 2;
/// How long after the beginning of a decision its incident is kept for the first time, in case that nothing more comes,
const AT_FIRST: Duration = Duration::from_secs(2);
/// and with what followed, counted from the last decision before.
const AFTERMATH: Duration = Duration::from_secs(20);
/// It isn't put off for longer.
const AFTERMATH_MAX: Duration = Duration::from_secs(120);
/// Pause before recording begins anew where it failed: a whole state is dear.
const ANEW: Duration = Duration::from_secs(5);
/// Bytes that stay free for others: the owner record, the journal.
const ROOM_BYTES: u64 = 32 * 1024 * 1024;
/// Frames that may wait for the writer, and their bytes.
const WAITING_MAX: usize = 8192;
const WAITING_MAX_BYTES: usize = 16 * 1024 * 1024;
/// An operator waits no longer for an incident to be kept.
const KEEP_PATIENCE: Duration = Duration::from_secs(10);

/// What an incident is kept for that comes before a reset,
const RESET: &str = "reset";
/// and one that somebody asked for.
const ASKED: &str = "asked";

/// An incident that is to be kept.
struct Due {
    name: String,
    began: Instant,
    at: Instant,
    /// It was kept without what followed.
    at_first: bool,
}

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
    segment_bytes: usize,
    /// Since when something is missing.
    lost_at: Option<Instant>,
}

impl Recorder {
    /// Begins a new segment with the whole state where the present one is full, or a while after something was lost.
    pub(crate) fn make_room(&mut self, controller: &Controller) {
        if self.flags.gap.load(Ordering::Acquire) {
            let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
            let busy = self.flags.waiting_bytes.load(Ordering::Acquire) > 0;
            if busy || lost_at.elapsed() < ANEW {
                return;
            }
        } else if self.segment_bytes < SEGMENT_BYTES {
            return;
        }
        self.lost_at = None;
        let after_gap = self.flags.gap.swap(false, Ordering::AcqRel);
        self.input(InputRef::State {
            after_gap,
            controller,
        });
        self.answered(log::digest_of(&[]));
    }

    /// Takes an input, before it enters the core.
    pub(crate) fn input(&mut self, input: InputRef<'_>) {
        let begins = matches!(input, InputRef::Start { .. } | InputRef::State { .. });
        if begins {
            self.segment_bytes = 0;
        }
        let bytes = self.frame(&FrameRef::Input(input), begins);
        // A segment that begins with a large state isn't full by that.
        if !begins {
            self.segment_bytes += bytes;
        }
    }

    /// Takes what followed.
    pub(crate) fn answered(&mut self, actions: u64) {
        self.segment_bytes += self.frame(&FrameRef::Actions(actions), false);
    }

    /// Leaves a frame for the writer; its bytes.
    fn frame(&mut self, frame: &FrameRef<'_>, begins: bool) -> usize {
        if self.flags.gap.load(Ordering::Acquire) {
            return 0;
        }
        // Nothing of a frame can't be written; an empty one would be found as damage.
        let payload = postcard::to_allocvec(frame).unwrap_or_default();
        let bytes = payload.len() + log::FRAME_HEAD_BYTES;
        let waiting = self.flags.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        let full = waiting + bytes > WAITING_MAX_BYTES || bytes > log::FRAME_MAX_BYTES;
        if full || self.put(Item::Frame { payload, begins }).is_none() {
            self.flags.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.flags.gap.store(true, Ordering::Release);
        }
        bytes
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

    /// Nothing waits for the writer.
    #[cfg(test)]
    pub(crate) fn is_written(&self) -> bool {
        self.flags.waiting_bytes.load(Ordering::Acquire) == 0
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
    let is = |name: &str, state: State| name == state.name();
    let ends_serving = is(&record.from, State::Active) && is(&record.to, State::Announcing);
    let decisive = [
        State::Surveying,
        State::RemovingVips,
        State::Failed,
        State::Halted,
    ];
    ends_serving || decisive.into_iter().any(|state| is(&record.to, state))
}

/// The readers' side.
#[derive(Clone)]
pub(crate) struct Incidents {
    queue: Sender<Item>,
    folder: PathBuf,
    /// One at a time: their disk may hang, and others need the threads that wait for it.
    turn: Arc<Mutex<()>>,
}

impl Incidents {
    /// Those that are kept, oldest first.
    pub(crate) fn list(&self) -> io::Result<Vec<Incident>> {
        let _turn = self.turn()?;
        self.listed()
    }

    fn turn(&self) -> io::Result<MutexGuard<'_, ()>> {
        let busy = "another request for incidents is being answered; ask again";
        let taken = self.turn.try_lock();
        taken.map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, busy))
    }

    fn listed(&self) -> io::Result<Vec<Incident>> {
        let mut all = Vec::new();
        for name in names(&self.folder)? {
            let Some(bare) = name.strip_suffix(".log") else {
                continue;
            };
            // It may just have been removed for a newer one.
            let Ok(meta) = fs::metadata(self.folder.join(&name)) else {
                continue;
            };
            all.push(Incident {
                name: bare.to_owned(),
                bytes: meta.len(),
            });
        }
        Ok(all)
    }

    /// Keeps what the ring holds now; its name. Blocks for a bounded time.
    pub(crate) fn keep(&self) -> io::Result<String> {
        let _turn = self.turn()?;
        let (answer, kept) = sync_channel(1);
        let item = Item::Keep { why: ASKED, answer };
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
        let _turn = self.turn()?;
        // No other folder's files.
        let is_known = self.listed()?.iter().any(|one| one.name == name);
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
        turn: Arc::default(),
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
        segment_bytes: 0,
        lost_at: None,
    };
    Ok((recorder, incidents, thread))
}

fn private_folder(path: PathBuf) -> io::Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(|error| at(&path, &error))?;
    Ok(path)
}

/// The files of a folder, sorted by name, which is by age.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| at(folder, &error))? {
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
    due: Option<Due>,
    told: bool,
}

impl Writer {
    fn run(&mut self, items: &Receiver<Item>) {
        'all: while let Some(items) = items.recv_all() {
            for item in items {
                match item {
                    Item::Frame { payload, begins } => {
                        let bytes = payload.len() + log::FRAME_HEAD_BYTES;
                        let written = self.write(&payload, begins);
                        if written.is_err() {
                            // What follows begins anew, with a whole state.
                            self.open = None;
                            self.flags.gap.store(true, Ordering::Release);
                        }
                        self.flags.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
                        self.tell(written);
                    }
                    Item::Decided(what) => self.decided(&what),
                    Item::Keep { why, answer } => {
                        let segments = if why == RESET {
                            RESET_SEGMENTS
                        } else {
                            SEGMENTS_MAX
                        };
                        let name = name_now(why);
                        let kept = self.keep(&name, segments);
                        // Who asked may have given up.
                        let _ = answer.send(kept.map(|()| name));
                    }
                    Item::End => break 'all,
                }
            }
            // Beats come all the time: nothing else has to wake this thread.
            if self
                .due
                .as_ref()
                .is_some_and(|due| due.at <= Instant::now())
            {
                self.keep_due(false);
            }
        }
        self.keep_due(true);
    }

    /// Decisions that follow each other at once are one incident.
    fn decided(&mut self, what: &str) {
        let now = Instant::now();
        let due = self.due.get_or_insert_with(|| Due {
            name: name_now(what),
            began: now,
            at: now + AT_FIRST,
            at_first: true,
        });
        if !due.at_first {
            due.at = (now + AFTERMATH).min(due.began + AFTERMATH_MAX);
        }
    }

    fn keep_due(&mut self, ends: bool) {
        let Some(mut due) = self.due.take() else {
            return;
        };
        let kept = self.keep(&due.name, INCIDENT_SEGMENTS);
        self.tell(kept);
        if due.at_first && !ends {
            due.at_first = false;
            due.at = Instant::now() + AFTERMATH;
            self.due = Some(due);
        }
    }

    /// Trouble is told once, until all is well again.
    fn tell(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => {}
            Err(_) if self.told => {}
            Err(error) => {
                self.told = true;
                tracing::warn!("what leads to decisions can't be recorded: {error}");
            }
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
        file.write_all(&written.bytes)
            .map_err(|error| at(&self.folder, &error))?;
        written.bytes.clear();
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        self.open = None;
        self.make_room()?;
        self.number += 1;
        let path = self.folder.join(format!("{:010}", self.number));
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|error| at(&path, &error))?;
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
        self.told = false;
        Ok(())
    }

    /// Fewer segments, where the folder is small.
    fn make_room(&self) -> io::Result<()> {
        let mut segments = names(&self.folder)?;
        prune(&self.folder, &segments, SEGMENTS_MAX - 1, "")?;
        segments.drain(..segments.len().saturating_sub(SEGMENTS_MAX - 1));
        while let Err(error) = has_room(&self.folder) {
            if segments.len() <= RESET_SEGMENTS {
                return Err(error);
            }
            prune(&self.folder, &segments, segments.len() - 1, "")?;
            segments.remove(0);
        }
        Ok(())
    }

    /// Puts the newest segments into one file on the disk.
    fn keep(&mut self, name: &str, segments: usize) -> io::Result<()> {
        has_room(&self.kept)?;
        let all = names(&self.folder)?;
        let mut bytes = Vec::new();
        for segment in &all[all.len().saturating_sub(segments)..] {
            let path = self.folder.join(segment);
            let segment = fs::read(&path).map_err(|error| at(&path, &error))?;
            bytes.extend_from_slice(log::whole_frames(&segment));
        }
        let file = format!("{name}.log");
        let path = self.kept.join(&file);
        replace(&path, &bytes, true).map_err(|error| at(&path, &error))?;
        let (asked, others): (Vec<String>, Vec<String>) = names(&self.kept)?
            .into_iter()
            .filter(|name| name.ends_with(".log"))
            .partition(|name| name.ends_with(&format!("-{ASKED}.log")));
        prune(&self.kept, &asked, ASKED_MAX, &file)?;
        prune(&self.kept, &others, INCIDENTS_MAX - ASKED_MAX, &file)
    }
}

fn name_now(why: &str) -> String {
    let now = jiff::Timestamp::now();
    format!("{}-{why}", now.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

/// Removes the oldest files beyond `most`, never the one `but`: a clock that was set back makes it look old.
fn prune(folder: &Path, files: &[String], most: usize, but: &str) -> io::Result<()> {
    let surplus = files.len().saturating_sub(most);
    for file in files.iter().filter(|file| *file != but).take(surplus) {
        let path = folder.join(file);
        fs::remove_file(&path).map_err(|error| at(&path, &error))?;
    }
    Ok(())
}

/// Others need this folder's file system more than we do.
fn has_room(folder: &Path) -> io::Result<()> {
    let found = statvfs(folder).map_err(|errno| at(folder, &errno.into()))?;
    let free = found.blocks_available() * found.fragment_size();
    if free >= ROOM_BYTES {
        return Ok(());
    }
    let text = format!(
        "{}: {} MiB are free, {} must stay so: make room",
        folder.display(),
        free >> 20,
        ROOM_BYTES >> 20
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
