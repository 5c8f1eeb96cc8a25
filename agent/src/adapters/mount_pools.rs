//! Pools that are a filesystem on a shared block device (or, for trials, on a loop file).
//!
//! ```text
//!   import: is a disk missing? ─▶ assemble, or attach loop ─▶ drop buffers ─▶ is the filesystem there? ─▶ mount
//!   export: sync, errors seen ─▶ unmount ─▶ nobody anywhere holds it? ─▶ drop buffers ─▶ take apart, or detach loop
//! ```

use super::assembly::{Assembler, Assembly, Ground};
use super::block::{
    attach_loop, detach_loop, drop_buffers, is_free, loop_of, open_block, read_aligned,
};
use super::mounts::{Mount, OWN, holders, mounts};
use failover_core::adapters::{Change, Failure, Pools};
use failover_core::ids::{DiskId, PoolId};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Services that have just stopped may let go of their files a moment later.
const BUSY_ATTEMPTS: u32 = 25;
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Mounts of one pool on top of each other that an export takes down before it gives up.
const STACKED: u32 = 8;
const PRESCAN_LEN: usize = 64 * 1024;

/// A filesystem on a shared device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPool {
    /// Its name, for people.
    pub name: String,
    /// Block device (by a stable name, such as `/dev/disk/by-id/…`), or a file for a loop device.
    pub device: PathBuf,
    /// Folder that it appears in; made if it is missing.
    pub mountpoint: PathBuf,
    /// Type of the filesystem, such as `ext4` or `xfs`.
    pub fstype: String,
    /// Mount options, separated by commas, as in fstab; empty for the defaults.
    pub options: String,
    /// Shared disks that it lies on: without all of them an import is refused.
    pub disks: Vec<DiskId>,
    /// What its device has to be put together from, and the identities of the disks of that.
    pub assembly: Option<(Assembly, Vec<String>)>,
}

/// Deadlines for what must be put together and taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of putting together.
    pub import: Duration,
    /// Of taking apart.
    pub export: Duration,
}

impl Default for Limits {
    /// As the defaults of `timing.import_ms` and `timing.export_ms`.
    fn default() -> Limits {
        Limits {
            import: Duration::from_secs(30),
            export: Duration::from_secs(10),
        }
    }
}

/// The `mount` pools of this controller, in the order of the configuration: the place in the list is the `PoolId`.
#[derive(Debug)]
pub struct MountPools {
    pools: Vec<MountPool>,
    /// One for each pool that has one, in the same order.
    assemblers: Vec<Option<Assembler>>,
    /// For each, whether an import of it was begun here or by an earlier process that owned in this boot, and none of its
    /// exports ended since. What somebody else mounted may show what the disks held long ago.
    ours: Vec<AtomicBool>,
    limits: Limits,
}

impl MountPools {
    /// Checks the list; touches nothing.
    pub fn new(pools: Vec<MountPool>) -> Result<MountPools, Failure> {
        MountPools::on(pools, &Ground::default(), Limits::default())
    }

    /// As `new`, with programs and places of its own for volumes that must be put together, and deadlines for that.
    pub fn on(
        pools: Vec<MountPool>,
        ground: &Ground,
        limits: Limits,
    ) -> Result<MountPools, Failure> {
        for (place, pool) in pools.iter().enumerate() {
            let wrong = |what: &str| Err(Failure(format!("pool {}: {what}", pool.name)));
            if !pool.device.is_absolute() || !pool.mountpoint.is_absolute() {
                return wrong("device and mountpoint must be absolute paths");
            }
            if pool.fstype.is_empty() || pool.fstype.contains(['/', ' ', ',']) {
                return wrong("fstype must name one filesystem, such as ext4");
            }
            let twice = |o: &MountPool| o.device == pool.device || o.mountpoint == pool.mountpoint;
            if let Some(other) = pools[..place].iter().find(|o| twice(o)) {
                return wrong(&format!(
                    "shares device or mountpoint with pool {}",
                    other.name
                ));
            }
            flags_and_data(&pool.options)
                .map_err(|what| Failure(format!("pool {}: {what}", pool.name)))?;
        }
        let assembler = |pool: &MountPool| {
            let (what, disks) = pool.assembly.clone()?;
            Some(Assembler::new(&pool.name, what, disks, ground.clone()))
        };
        Ok(MountPools {
            assemblers: pools.iter().map(assembler).collect(),
            ours: pools.iter().map(|_| AtomicBool::new(false)).collect(),
            pools,
            limits,
        })
    }

    /// With `owned`, pools that are mounted already count as its own: an earlier process owned in this boot.
    #[must_use]
    pub fn adopting(self, owned: bool) -> MountPools {
        for ours in &self.ours {
            ours.store(owned, Ordering::Relaxed);
        }
        self
    }

    fn set_ours(&self, id: PoolId, is_ours: bool) {
        if let Some(ours) = self.ours.get(usize::from(id.0)) {
            ours.store(is_ours, Ordering::Relaxed);
        }
    }

    /// Mounts it from `device`, unless that is done already.
    fn bring_in(&self, id: PoolId, pool: &MountPool, device: &Path) -> Result<Change, Failure> {
        if !pool.mounted_right(device)? {
            self.set_ours(id, true);
            return pool.bring_in(device).map(|()| Change::Made);
        }
        let ours = self.ours.get(usize::from(id.0));
        if ours.is_some_and(|ours| ours.load(Ordering::Relaxed)) {
            return Ok(Change::AlreadySo);
        }
        Err(pool.say(&format!(
            "not imported: somebody else has mounted it on this controller, and what it shows may be older than what the \
             other controller wrote since: stop what uses it, `umount {}`, then import it with failoverd",
            pool.mountpoint.display()
        )))
    }

    fn assembler(&self, id: PoolId) -> Option<&Assembler> {
        self.assemblers.get(usize::from(id.0))?.as_ref()
    }

    /// Whether the pool's device isn't put together yet: then nothing of it can be read or buffered.
    fn is_apart(&self, id: PoolId, pool: &MountPool) -> bool {
        self.assembler(id).is_some() && !pool.device.exists()
    }

    fn pool(&self, id: PoolId) -> Result<&MountPool, Failure> {
        let found = self.pools.get(usize::from(id.0));
        found.ok_or_else(|| Failure(format!("there is no pool number {}", id.0)))
    }
}

impl Pools for MountPools {
    fn prescan(&self, id: PoolId) -> Result<(), Failure> {
        let pool = self.pool(id)?;
        if let Some(assembler) = self.assembler(id).filter(|_| self.is_apart(id, pool)) {
            return assembler.look_ahead();
        }
        let device = match pool.target()? {
            Target::Block(device) => device,
            Target::File(file) => {
                match loop_of(&file).map_err(|e| pool.failure("look for its loop device", &e))? {
                    Some(device) => device,
                    None => return Ok(()),
                }
            }
        };
        let disk = open_block(&device, true).map_err(|e| pool.failure("open its device", &e))?;
        read_aligned(&disk, 0, PRESCAN_LEN)
            .map(|_| ())
            .map_err(|error| pool.failure("read its device", &error))
    }

    fn discard(&self, id: PoolId) -> Result<(), Failure> {
        let pool = self.pool(id)?;
        if self.is_apart(id, pool) {
            return Ok(());
        }
        let device = match pool.target()? {
            Target::Block(device) => device,
            Target::File(file) => {
                match loop_of(&file).map_err(|e| pool.failure("look for its loop device", &e))? {
                    Some(device) => device,
                    None => return Ok(()),
                }
            }
        };
        // What is mounted already is nobody else's: its cache is the filesystem's own.
        if pool.mounted_right(&device)? {
            return Ok(());
        }
        let disk = open_block(&device, false).map_err(|e| pool.failure("open its device", &e))?;
        drop_buffers(&disk).map_err(|e| pool.failure("drop its device's buffers", &e.into()))
    }

    fn import(&self, id: PoolId, won: &[DiskId]) -> Result<Change, Failure> {
        let pool = self.pool(id)?;
        if let Some(missing) = pool.disks.iter().find(|disk| !won.contains(disk)) {
            return Err(pool.say(&format!(
                "not imported: it needs disk {missing}, which was not won; see the fence's report on that disk"
            )));
        }
        if let Some(assembler) = self.assembler(id) {
            assembler.up(&pool.device, won, Instant::now() + self.limits.import)?;
        }
        match pool.target()? {
            Target::Block(device) => self.bring_in(id, pool, &device),
            Target::File(file) => {
                let there = loop_of(&file);
                match there.map_err(|e| pool.failure("look for its loop device", &e))? {
                    Some(device) => self.bring_in(id, pool, &device),
                    None => {
                        let device = attach_loop(&file)
                            .map_err(|e| pool.failure("attach it to a loop device", &e))?;
                        self.bring_in(id, pool, &device).inspect_err(|_| {
                            // Nothing mounted it: back to how it was.
                            let _ = detach_loop(&device);
                        })
                    }
                }
            }
        }
    }

    fn export(&self, id: PoolId) -> Result<Change, Failure> {
        let pool = self.pool(id)?;
        let unmounted = self.leave(pool)?;
        let apart = match self.assembler(id) {
            Some(assembler) => assembler.down(Instant::now() + self.limits.export)?,
            None => Change::AlreadySo,
        };
        self.set_ours(id, false);
        Ok(match (unmounted, apart) {
            (Change::AlreadySo, Change::AlreadySo) => Change::AlreadySo,
            (Change::Made, _) | (_, Change::Made) => Change::Made,
        })
    }

    fn imported(&self, id: PoolId) -> Result<bool, Failure> {
        let pool = self.pool(id)?;
        if let Some(assembler) = self.assembler(id)
            && !assembler.active()?.is_empty()
        {
            return Ok(true);
        }
        pool.is_mounted()
    }
}

impl MountPools {
    /// Unmounts, and lets go of the device.
    fn leave(&self, pool: &MountPool) -> Result<Change, Failure> {
        let target = match pool.target() {
            Ok(target) => target,
            // A controller that boots before its shelf: what isn't mounted has nothing to leave.
            Err(_) if !pool.is_mounted()? => return Ok(Change::AlreadySo),
            Err(failure) => return Err(failure),
        };
        let device = match &target {
            Target::Block(device) => device.clone(),
            Target::File(file) => {
                match loop_of(file).map_err(|e| pool.failure("look for its loop device", &e))? {
                    Some(device) => device,
                    None => return Ok(Change::AlreadySo),
                }
            }
        };
        let unmounted = pool.unmount(&device)?;
        pool.let_go(&device)?;
        if let Target::File(_) = target {
            detach_loop(&device).map_err(|e| pool.failure("detach its loop device", &e))?;
        }
        Ok(unmounted)
    }
}

enum Target {
    Block(PathBuf),
    File(PathBuf),
}

impl MountPool {
    fn say(&self, what: &str) -> Failure {
        Failure(format!("pool {}: {what}", self.name))
    }

    fn failure(&self, what: &str, error: &std::io::Error) -> Failure {
        let device = self.device.display();
        self.say(&format!("failed to {what} ({device}): {error}"))
    }

    fn target(&self) -> Result<Target, Failure> {
        let device = self.device.display();
        let metadata = std::fs::metadata(&self.device).map_err(|error| {
            self.say(&format!(
                "device {device} can't be found: {error}; is the shelf on and cabled?"
            ))
        })?;
        let kind = metadata.file_type();
        if kind.is_block_device() {
            Ok(Target::Block(self.device.clone()))
        } else if kind.is_file() {
            Ok(Target::File(self.device.clone()))
        } else {
            Err(self.say(&format!("{device} is neither a block device nor a file")))
        }
    }

    /// Whether it is mounted, or something is in its place while its device is gone.
    fn is_mounted(&self) -> Result<bool, Failure> {
        let all =
            mounts(Path::new(OWN)).map_err(|e| self.failure("read the list of mounts", &e))?;
        let device = match self.target() {
            Ok(Target::Block(device)) => device,
            Ok(Target::File(file)) => {
                match loop_of(&file).map_err(|e| self.failure("look for its loop device", &e))? {
                    Some(device) => device,
                    None => return Ok(false),
                }
            }
            // The device vanished: what is mounted at its place still counts.
            Err(_) => return Ok(all.iter().any(|m| m.mountpoint == self.mountpoint)),
        };
        Ok(all.iter().any(|mount| is_of(mount, &device)))
    }

    fn bring_in(&self, device: &Path) -> Result<(), Failure> {
        let disk = open_block(device, false).map_err(|e| self.failure("open its device", &e))?;
        drop_buffers(&disk).map_err(|e| self.failure("drop its device's buffers", &e.into()))?;
        // A write error that an earlier user of the device left would otherwise be told to our export as its own.
        let _ = disk.sync_all();
        self.has_filesystem(&disk)?;
        drop(disk);
        self.mount(device)
    }

    /// Whether the pool is mounted where it belongs; an error if something else is in the way.
    fn mounted_right(&self, device: &Path) -> Result<bool, Failure> {
        let all =
            mounts(Path::new(OWN)).map_err(|e| self.failure("read the list of mounts", &e))?;
        let here = all.iter().rev().find(|m| m.mountpoint == self.mountpoint);
        let mountpoint = self.mountpoint.display();
        if let Some(here) = here {
            if is_of(here, device) {
                return Ok(true);
            }
            return Err(self.say(&format!(
                "{} of type {} is mounted on {mountpoint}; unmount it",
                here.source.display(),
                here.fstype
            )));
        }
        match all.iter().find(|mount| is_of(mount, device)) {
            Some(elsewhere) => Err(self.say(&format!(
                "it is mounted on {} instead of {mountpoint}; unmount it there",
                elsewhere.mountpoint.display()
            ))),
            None => Ok(false),
        }
    }

    /// A look at the superblock, for a clearer word than the kernel's EINVAL.
    fn has_filesystem(&self, disk: &File) -> Result<(), Failure> {
        let Some((at, magic)) = signature(&self.fstype) else {
            return Ok(());
        };
        let mut found = vec![0; magic.len()];
        disk.read_exact_at(&mut found, at)
            .map_err(|error| self.failure("read its superblock", &error))?;
        if found == magic {
            return Ok(());
        }
        Err(self.say(&format!(
            "there is no {} filesystem on {}: its superblock is not there; is it the right device, and is \
             it readable on the other controller?",
            self.fstype,
            self.device.display()
        )))
    }

    fn mount(&self, device: &Path) -> Result<(), Failure> {
        let (flags, data) = flags_and_data(&self.options).map_err(|what| self.say(&what))?;
        std::fs::create_dir_all(&self.mountpoint)
            .map_err(|error| self.failure("make its mountpoint", &error))?;
        let data = (!data.is_empty()).then_some(data.as_str());
        mount(
            Some(device),
            &self.mountpoint,
            Some(self.fstype.as_str()),
            flags,
            data,
        )
        .map_err(|errno| {
            let advice = match errno {
                Errno::EINVAL => {
                    "the filesystem is not of this type, is damaged, or an option is unknown; the kernel's log \
                     says which"
                }
                Errno::EUCLEAN | Errno::EIO => {
                    "the filesystem or the disk is damaged: see the kernel's log, run fsck on one controller \
                     with failover disabled"
                }
                Errno::ENODEV => "the kernel doesn't know this type of filesystem: load its module",
                Errno::EROFS | Errno::EACCES => {
                    "the device is write-protected: is a foreign reservation in force?"
                }
                Errno::EBUSY => "another program has the device open for its own use",
                _ => "see the kernel's log",
            };
            self.say(&format!(
                "not mounted: {} as {} on {}: {errno}; {advice}",
                self.device.display(),
                self.fstype,
                self.mountpoint.display()
            ))
        })
    }

    fn unmount(&self, device: &Path) -> Result<Change, Failure> {
        let mut change = Change::AlreadySo;
        for _ in 0..STACKED {
            let all =
                mounts(Path::new(OWN)).map_err(|e| self.failure("read the list of mounts", &e))?;
            let Some(found) = all.into_iter().rev().find(|mount| is_of(mount, device)) else {
                return Ok(change);
            };
            // An error of an earlier write shows here, and nowhere later.
            let synced = File::open(&found.mountpoint)
                .and_then(|folder| nix::unistd::syncfs(folder).map_err(Into::into));
            self.unmount_one(&found)?;
            synced.map_err(|error| {
                self.failure("write everything to the disk before unmounting", &error)
            })?;
            change = Change::Made;
        }
        Err(self.say("still mounted after several unmounts; who mounts it again?"))
    }

    fn unmount_one(&self, found: &Mount) -> Result<(), Failure> {
        let mut result = Err(Errno::EBUSY);
        for attempt in 0..BUSY_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BUSY_PAUSE);
            }
            result = umount2(&found.mountpoint, MntFlags::UMOUNT_NOFOLLOW);
            if result != Err(Errno::EBUSY) {
                break;
            }
        }
        result.map_err(|errno| {
            let mountpoint = found.mountpoint.display();
            let who = match errno {
                Errno::EBUSY => self.in_use(found),
                _ => String::new(),
            };
            self.say(&format!("not unmounted from {mountpoint}: {errno}{who}"))
        })
    }

    fn in_use(&self, found: &Mount) -> String {
        let who = holders(&found.mountpoint, &found.device, 5);
        if who.is_empty() {
            "; no process was found that uses it: another mount, a swap file or an NFS export may"
                .to_owned()
        } else {
            format!(
                "; in use by {}: stop what runs on this pool with failover-active.target",
                who.join(", ")
            )
        }
    }

    /// Proves that nothing here can write to the device any more.
    fn let_go(&self, device: &Path) -> Result<(), Failure> {
        let free =
            is_free(device).map_err(|e| self.failure("look whether its device is free", &e))?;
        if !free {
            let number = device_number(device).unwrap_or_default();
            let who = holders(&self.mountpoint, &number, 5);
            let who = if who.is_empty() {
                "a volume, or a mount namespace without a process".to_owned()
            } else {
                who.join(", ")
            };
            return Err(self.say(&format!(
                "unmounted here, but {} is still held by {who}: stop it",
                device.display()
            )));
        }
        let disk = open_block(device, false).map_err(|e| self.failure("open its device", &e))?;
        disk.sync_all()
            .map_err(|e| self.failure("flush its device", &e))?;
        drop_buffers(&disk).map_err(|e| self.failure("drop its device's buffers", &e.into()))
    }
}

fn device_number(device: &Path) -> Option<String> {
    let number = std::fs::metadata(device).ok()?.rdev();
    Some(format!("{}:{}", libc::major(number), libc::minor(number)))
}

/// By number, or by name where a filesystem has a number of its own (btrfs).
fn is_of(mount: &Mount, device: &Path) -> bool {
    if device_number(device).is_some_and(|number| number == mount.device) {
        return true;
    }
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    mount.source.is_absolute() && same(&mount.source, device)
}

/// Where a type of filesystem has its magic number.
fn signature(fstype: &str) -> Option<(u64, &'static [u8])> {
    match fstype {
        "ext2" | "ext3" | "ext4" => Some((1024 + 56, &[0x53, 0xef])),
        "xfs" => Some((0, b"XFSB")),
        "btrfs" => Some((0x1_0040, b"_BHRfS_M")),
        "f2fs" => Some((1024, &[0x10, 0x20, 0xf5, 0xf2])),
        _ => None,
    }
}

/// Options of fstab: those that the kernel takes as flags, and the rest for the filesystem.
fn flags_and_data(options: &str) -> Result<(MsFlags, String), String> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options.split(',').map(str::trim).filter(|o| !o.is_empty()) {
        match option {
            "defaults" | "rw" => {}
            "ro" => flags |= MsFlags::MS_RDONLY,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "lazytime" => flags |= MsFlags::MS_LAZYTIME,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => flags |= MsFlags::MS_DIRSYNC,
            "bind" | "rbind" | "move" | "remount" => {
                return Err(format!("mount option `{option}` is not for a pool"));
            }
            "auto" | "noauto" | "nofail" | "_netdev" | "user" | "users" => {
                return Err(format!(
                    "mount option `{option}` is for fstab alone, where a pool must not be; remove it"
                ));
            }
            other if other.starts_with("x-") => {
                return Err(format!(
                    "mount option `{other}` is for fstab alone; remove it"
                ));
            }
            other => data.push(other),
        }
    }
    Ok((flags, data.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_data() {
        let (flags, data) = flags_and_data("defaults,noatime, ro,errors=remount-ro,data=ordered")
            .expect("good options");
        assert_eq!(flags, MsFlags::MS_NOATIME | MsFlags::MS_RDONLY);
        assert_eq!(data, "errors=remount-ro,data=ordered");
        assert!(
            flags_and_data("noauto")
                .expect_err("fstab's")
                .contains("fstab")
        );
        assert!(flags_and_data("bind").is_err());
    }

    #[test]
    fn a_bad_list_is_refused() {
        let pool = |name: &str, device: &str, mountpoint: &str| MountPool {
            name: name.to_owned(),
            device: device.into(),
            mountpoint: mountpoint.into(),
            fstype: "ext4".to_owned(),
            options: String::new(),
            disks: vec![],
            assembly: None,
        };
        let refused = |pools| MountPools::new(pools).expect_err("bad").0;
        assert!(refused(vec![pool("tank", "sdb", "/srv")]).contains("absolute"));
        let twice = vec![pool("a", "/dev/sdb", "/a"), pool("b", "/dev/sdb", "/b")];
        assert!(refused(twice).contains("shares"));
    }
}
