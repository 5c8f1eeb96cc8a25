//! The devices of a pool on this machine: found through the identities of its disks, known by the labels on them.
//!
//! ```text
//!   identities ──sysfs──▶ disks ──a thread for each──▶ table on disk = table in kernel? ─ no ─▶ read it again
//!                                                        │                                          │
//!                                                        └────────▶ labels of its partitions ◀──────┘
//!   until all answered, or the deadline: a disk that hangs costs its own thread, and no second one
//! ```
//!
//! Everything is opened for reading only, and read past the cache.

use super::gpt;
use super::label::{self, Cut, Label, LabelState};
use crate::adapters::block;
use crate::adapters::disk_paths::{self, Roots, SharedDisk};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time that the kernel has to show the partitions of a table that it read again.
const NODES_MS: Duration = Duration::from_millis(2000);
const NODES_LOOK: Duration = Duration::from_millis(2);
/// Sectors of the smallest device that can be a part of a pool (64 MiB, `SPA_MINDEVSIZE`).
const SECTORS_MIN: u64 = 64 << 11;
/// Lists are mostly shorter than this; what doesn't fit is read again in full.
const LIST_MOSTLY: usize = 16 << 10;
/// A thread of a reader needs little.
const STACK_BYTES: usize = 256 * 1024;

/// Where devices are found.
#[derive(Clone, Debug)]
pub struct Places {
    /// The kernel's files.
    pub roots: Roots,
    /// Device nodes.
    pub dev: PathBuf,
    /// What stands in for devices that an import must not open; made when it is needed.
    pub withheld: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            roots: Roots::default(),
            dev: "/dev".into(),
            withheld: "/run/failoverd/withheld".into(),
        }
    }
}

/// A device with a label of the pool, or of a spare or cache.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its most lasting name under `/dev`.
    pub(crate) path: PathBuf,
    pub(crate) label: Label,
}

/// How much a look looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Partition tables.
    Tables,
    /// And labels.
    Labels,
    /// And labels, after dropping what is buffered.
    Afresh,
}

/// What a look at the disks of a pool found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) found: Vec<Found>,
    /// Disks that this machine doesn't see.
    pub(crate) absent: Vec<String>,
    /// Disks that didn't answer in time.
    pub(crate) silent: Vec<String>,
    /// What couldn't be done.
    pub(crate) remarks: Vec<String>,
    /// Disks whose partition table was read again.
    pub(crate) reread: usize,
    /// Nodes on which a label was looked for.
    pub(crate) read: BTreeSet<PathBuf>,
}

impl Survey {
    /// Every disk was read.
    pub(crate) fn is_complete(&self) -> bool {
        self.absent.is_empty() && self.silent.is_empty() && self.remarks.is_empty()
    }
}

/// Looks at disks.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    places: Places,
    /// Disks that a thread is at.
    pub(super) busy: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Debug, Default)]
struct OneDisk {
    found: Vec<Found>,
    remarks: Vec<String>,
    reread: bool,
    read: Vec<PathBuf>,
}

/// Whether a thread for a disk began.
enum Begun {
    Yes,
    /// One of an earlier look is at the disk.
    Busy,
    /// Why it can't.
    No(String),
}

impl Devices {
    pub(crate) fn new(places: Places) -> Devices {
        Devices {
            places,
            busy: Arc::default(),
        }
    }

    /// Looks at `disks` (identities) for the pool `guid`, until `deadline`.
    ///
    /// # Errors
    /// This machine's disks can't be listed.
    pub(crate) fn survey(
        &self,
        disks: &[String],
        guid: u64,
        depth: Depth,
        deadline: Instant,
    ) -> Result<Survey, String> {
        let inventory = disk_paths::scan(&self.places.roots)
            .map_err(|error| format!("this machine's disks can't be listed: {error}"))?;
        let mut survey = Survey::default();
        let (sender, answers) = channel();
        let mut waiting = Vec::new();
        for entry in disks {
            let choice = match disk_paths::choose(&inventory, std::slice::from_ref(entry)) {
                Ok(choice) => choice,
                Err(refusals) => {
                    survey
                        .remarks
                        .extend(refusals.iter().map(ToString::to_string));
                    continue;
                }
            };
            let here = choice.disks.iter().find(|disk| !disk.paths.is_empty());
            let Some(name) = here.map(|disk| self.block_name(disk)) else {
                survey.absent.push(entry.clone());
                continue;
            };
            waiting.push((entry.clone(), name));
        }
        let mut open = BTreeSet::new();
        // All that are free begin at once; one at which the thread of an earlier look still hangs holds up no other.
        loop {
            waiting.retain(
                |(disk, name)| match self.begin(disk, name, guid, depth, &sender) {
                    Begun::Busy => true,
                    Begun::Yes => {
                        open.insert(disk.clone());
                        false
                    }
                    Begun::No(remark) => {
                        survey.remarks.push(remark);
                        false
                    }
                },
            );
            if open.is_empty() && waiting.is_empty() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = match waiting.is_empty() {
                true => left,
                false => left.min(NODES_LOOK),
            };
            match answers.recv_timeout(pause) {
                Ok((disk, one)) => {
                    open.remove(&disk);
                    survey.found.extend(one.found);
                    survey.remarks.extend(one.remarks);
                    survey.reread += usize::from(one.reread);
                    survey.read.extend(one.read);
                }
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        survey.silent.extend(open);
        let waiting = waiting.into_iter().map(|(disk, _)| disk);
        survey.silent.extend(waiting);
        survey.found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(survey)
    }

    /// Those of `disks` that this machine sees; all, where that can't be told. Nothing is opened.
    pub(crate) fn seen(&self, disks: &[String]) -> Vec<String> {
        let Ok(inventory) = disk_paths::scan(&self.places.roots) else {
            return disks.to_vec();
        };
        let is_seen = |disk: &&String| {
            let choice = disk_paths::choose(&inventory, std::slice::from_ref(*disk));
            choice.is_ok_and(|choice| choice.disks.iter().any(|disk| !disk.paths.is_empty()))
        };
        disks.iter().filter(is_seen).cloned().collect()
    }

    /// Starts a thread for the disk, unless one is at it already.
    fn begin(
        &self,
        disk: &str,
        name: &str,
        guid: u64,
        depth: Depth,
        sender: &Sender<(String, OneDisk)>,
    ) -> Begun {
        if !self.lock().insert(disk.to_owned()) {
            return Begun::Busy;
        }
        let (this, sender) = (self.clone(), sender.clone());
        let (own, name) = (disk.to_owned(), name.to_owned());
        let thread = std::thread::Builder::new()
            .name("pool-disk".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let result = this.one(&own, &name, guid, depth);
                this.lock().remove(&own);
                // Whoever asked may have gone on.
                let _ = sender.send((own, result));
            });
        match thread {
            Ok(_) => Begun::Yes,
            Err(error) => {
                self.lock().remove(disk);
                Begun::No(format!("no thread for disk {disk}: {error}"))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block device to use: a multipath device over the disk's paths, else the first path.
    fn block_name(&self, disk: &SharedDisk) -> String {
        let first = disk.paths.first().map(|path| path.node.name.clone());
        let name = first.unwrap_or_default();
        let place = self.places.roots.sys.join("block");
        let holders = fs::read_dir(place.join(&name).join("holders"));
        for holder in holders.into_iter().flatten().flatten() {
            let Ok(holder) = holder.file_name().into_string() else {
                continue;
            };
            let uuid = fs::read_to_string(place.join(&holder).join("dm/uuid")).unwrap_or_default();
            if uuid.starts_with("mpath-") {
                return holder;
            }
        }
        name
    }

    fn one(&self, disk: &str, name: &str, guid: u64, depth: Depth) -> OneDisk {
        let mut one = OneDisk::default();
        if let Err(remark) = self.compare_tables(name, &mut one.reread) {
            one.remarks.push(format!("disk {disk} ({name}): {remark}"));
        }
        if depth == Depth::Tables {
            return one;
        }
        let mut candidates = self.partitions(name);
        if candidates.is_empty() {
            candidates.push((None, name.to_owned()));
        }
        for (number, node) in candidates {
            let path = self.places.dev.join(&node);
            if depth == Depth::Afresh
                && let Err(error) = File::open(&path).and_then(|f| Ok(block::drop_buffers(&f)?))
            {
                let path = path.display();
                one.remarks
                    .push(format!("buffers of {path} were not dropped: {error}"));
            }
            match label_on(&path, guid) {
                Ok(label) => {
                    one.found.extend(label.map(|label| Found {
                        path: self.lasting_name(disk, name, number, &node),
                        label,
                    }));
                    one.read.push(path);
                }
                Err(error) => {
                    let path = path.display();
                    one.remarks
                        .push(format!("disk {disk}: {path} can't be read: {error}"));
                }
            }
        }
        one
    }

    /// Partitions by number: the kernel's, if they are large enough, or those of device mapper over a multipath device.
    fn partitions(&self, name: &str) -> Vec<(Option<u32>, String)> {
        if !name.starts_with("dm-") {
            let (table, names) = gpt::in_kernel(&self.places.roots, name);
            let large = |number: &u32| table.get(number).is_some_and(|part| part.1 >= SECTORS_MIN);
            let names = names.into_iter().filter(|(number, _)| large(number));
            return names.map(|(number, node)| (Some(number), node)).collect();
        }
        let place = self.places.roots.sys.join("block");
        let mut found = Vec::new();
        for holder in fs::read_dir(place.join(name).join("holders"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(holder) = holder.file_name().into_string() else {
                continue;
            };
            let uuid = fs::read_to_string(place.join(&holder).join("dm/uuid")).unwrap_or_default();
            // `part1-mpath-…`, as kpartx names them.
            let number = uuid
                .strip_prefix("part")
                .and_then(|rest| rest.split_once('-'));
            if let Some(number) = number.and_then(|(number, _)| number.parse().ok()) {
                found.push((Some(number), holder));
            }
        }
        found.sort();
        found
    }

    /// Has the kernel read the partition table again if it isn't the one on the disk.
    fn compare_tables(&self, name: &str, reread: &mut bool) -> Result<(), String> {
        if name.starts_with("dm-") {
            return Ok(());
        }
        let (roots, path) = (&self.places.roots, self.places.dev.join(name));
        let bytes = block::open_direct(&path)
            .and_then(|file| block::read_whole(&file, 0, gpt::TABLE_LEN))
            .map_err(|error| format!("its partition table can't be read: {error}"))?;
        let Some(on_disk) = gpt::on_disk(&bytes, gpt::sector(roots, name)) else {
            return Ok(());
        };
        if gpt::in_kernel(roots, name).0 == on_disk {
            return Ok(());
        }
        let disk = File::open(&path).map_err(|error| error.to_string())?;
        block::reread_partitions(&disk).map_err(|errno| {
            let why = match errno {
                Errno::EBUSY => "a partition of it is in use here",
                _ => "see the kernel's log",
            };
            format!("another controller changed its partitions, and the kernel doesn't read them again: {errno}; {why}")
        })?;
        *reread = true;
        let until = Instant::now() + NODES_MS;
        loop {
            let (table, names) = gpt::in_kernel(roots, name);
            let there = |node: &String| self.places.dev.join(node).exists();
            if table == on_disk && names.values().all(there) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err("its partitions didn't appear in time".to_owned());
            }
            std::thread::sleep(NODES_LOOK);
        }
    }

    /// A name that leads to the same disk after a boot and on the other controller, where udev has made one: ZFS
    /// notes it in the pool, and opens a disk that it missed by it.
    fn lasting_name(&self, disk: &str, name: &str, number: Option<u32>, node: &str) -> PathBuf {
        let plain = self.places.dev.join(node);
        let folder = self.places.dev.join("disk/by-id");
        let part = number.map_or_else(String::new, |number| format!("-part{number}"));
        let mapped = fs::read_to_string(
            self.places
                .roots
                .sys
                .join("block")
                .join(name)
                .join("dm/uuid"),
        );
        let stem = match (mapped, disk.split_once('.')) {
            (Ok(uuid), _) => {
                let part = number.map_or_else(String::new, |number| format!("part{number}-"));
                return linked(&folder.join(format!("dm-uuid-{part}{}", uuid.trim())), node)
                    .unwrap_or(plain);
            }
            (Err(_), Some(("naa", digits))) => format!("wwn-0x{digits}"),
            (Err(_), _) => format!("nvme-{disk}"),
        };
        linked(&folder.join(format!("{stem}{part}")), node).unwrap_or(plain)
    }
}

/// The first label of the device that is valid, if it is of the pool `guid`, or of a spare or cache.
fn label_on(path: &Path, guid: u64) -> std::io::Result<Option<Label>> {
    let file = block::open_direct(path)?;
    for number in 0..2 {
        let ((at, length), ring) = label::places(number);
        let mut read = label::read(&block::read_whole(&file, at, LIST_MOSTLY.min(length))?);
        if read == Err(Cut) {
            read = label::read(&block::read_whole(&file, at, length)?);
        }
        let Ok(Some(mut label)) = read else { continue };
        if label.state == LabelState::Auxiliary {
            return Ok(Some(label));
        }
        if label.pool_guid != guid {
            return Ok(None);
        }
        label.take_ring(&block::read_whole(&file, ring.0, ring.1)?);
        return Ok(Some(label));
    }
    Ok(None)
}

/// The link, if it leads to the node.
fn linked(link: &Path, node: &str) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    (target.file_name()?.to_str()? == node).then(|| link.to_owned())
}
