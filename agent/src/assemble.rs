//! The real adapters that a configuration asks for.

use crate::adapters::assembly::{Assembly, Ground};
use crate::adapters::clock::BootClock;
use crate::adapters::disk_paths::{Roots, SharedDisk};
use crate::adapters::fence::RealFence;
use crate::adapters::hands_off::{self, Finding, Shared};
use crate::adapters::hooks::{ExecServices, Hook};
use crate::adapters::lease::{self, Form, NftLease, Protection};
use crate::adapters::lease_thread::LeaseThread;
use crate::adapters::mount_pools::{self, MountPool, MountPools};
use crate::adapters::pool_set::PoolSet;
use crate::adapters::reset::{CommandReset, KernelReset, Reset};
use crate::adapters::services::{Service, ServiceList};
use crate::adapters::systemd::SystemdServices;
use crate::adapters::vips::{KernelVips, Vip};
use crate::adapters::watchdog::{self, DeviceWatchdog, NoWatchdog};
use crate::adapters::zfs::{self, Limits, Places, Tools, ZfsPool, ZfsPools};
use crate::config::{
    Config, ConfigErrors, HookConfig, MountSettings, PoolKind, PoolSettings, VipConfig, ZfsSettings,
};
use crate::daemon::{DaemonAdapters, Reconfigure};
use crate::disks;
use crate::journal::owned_in_this_boot;
use crate::messages::message_id;
use crate::realtime;
use failover_core::action::HaltReason;
use failover_core::adapters::{Clock, Failure, Fence, Lease, Pools, Services, Watchdog};
use failover_core::ids::{DiskId, PoolId};
use failover_core::time::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is to be done with the watchdog when the daemon ends.
#[derive(Clone, Default)]
pub struct WatchdogEnd(Arc<Mutex<Option<DeviceWatchdog>>>);

impl WatchdogEnd {
    /// Disarms it: after an end in order. Otherwise it stays armed, for a successor or for the reset.
    pub fn disarm(&self) {
        if let Some(watchdog) = locked(&self.0).take() {
            watchdog.disarm();
        }
    }
}

impl From<DeviceWatchdog> for WatchdogEnd {
    fn from(watchdog: DeviceWatchdog) -> WatchdogEnd {
        WatchdogEnd(Arc::new(Mutex::new(Some(watchdog))))
    }
}

impl Watchdog for WatchdogEnd {
    fn pet(&mut self) {
        if let Some(watchdog) = locked(&self.0).as_mut() {
            watchdog.pet();
        }
    }
}

/// What of a controller isn't the network: the demo has pretended ones, all the rest is the same.
pub struct Machine {
    /// Reservations on the shared disks.
    pub fence: Arc<dyn Fence>,
    /// Pools.
    pub pools: Arc<dyn Pools>,
    /// Services that run only on the MASTER.
    pub services: Arc<dyn Services>,
    /// Resets the machine.
    pub reset: Arc<dyn Fn(&HaltReason) + Send + Sync>,
}

impl Machine {
    /// The real one that the configuration asks for, apart from its fence.
    pub fn real(config: &Config, fence: Arc<dyn Fence>) -> Result<Machine, Failure> {
        let pools = pools(config)?;
        ZfsPools::watch(&pools.zfs)?;
        Ok(Machine {
            fence,
            pools: Arc::new(pools.all),
            services: Arc::new(services(config)?),
            reset: reset(config),
        })
    }
}

/// Descriptors that the service manager kept of an earlier run, by name.
pub type Kept = BTreeMap<String, OwnedFd>;

/// Makes everything but the fence from the configuration; otherwise as [`around`].
pub fn real(
    config: &Config,
    fence: Arc<RealFence>,
    kept: &mut Kept,
) -> Result<(DaemonAdapters, WatchdogEnd), Failure> {
    let (mut adapters, watchdog) = around(Machine::real(config, fence.clone())?, config, kept)?;
    adapters.paths = Some(Arc::new(move || {
        let disks = fence.shared().into_iter();
        disks.map(|disk| (disk.id, disk.path_names())).collect()
    }));
    Ok((adapters, watchdog))
}

/// Puts clock, virtual addresses, lease and watchdog around a machine. Touches the kernel's table for the lease and
/// the watchdog, and takes out of `kept` what it goes on with.
pub fn around(
    machine: Machine,
    config: &Config,
    kept: &mut Kept,
) -> Result<(DaemonAdapters, WatchdogEnd), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let vips = vips(config);
    let mut kernel_vips = KernelVips::new(vips)?;
    // Alone nobody else can have the addresses: there is nothing that a lease could keep apart.
    let (lease, shared): (Box<dyn Lease>, SharedLease) = if is_leased(config) {
        let lease = NftLease::open(&addresses(config), clock.clone())?;
        kernel_vips = kernel_vips.announcing_while(lease.end_of_lease(), clock.clone());
        let shared = SharedLease(Some(Arc::new(Mutex::new(lease))));
        let prepare = realtime::prefer_lease_thread;
        let thread = LeaseThread::start(shared.clone(), clock.clone(), prepare)?;
        (Box::new(thread), shared)
    } else {
        // Those of an earlier run would silence the addresses for ever.
        if let Err(failure) = lease::remove_tables() {
            tracing::warn!("{failure}");
        }
        (Box::new(SharedLease(None)), SharedLease(None))
    };
    let vips = Arc::new(kernel_vips);
    let watchdog = watchdog(config, kept)?;
    let adapters = DaemonAdapters {
        clock,
        fence: machine.fence,
        pools: machine.pools,
        services: machine.services,
        vips: vips.clone(),
        lease,
        watchdog: match config.watchdog {
            Some(_) => Box::new(watchdog.clone()),
            None => Box::new(NoWatchdog),
        },
        reset: machine.reset,
        reconfigure: Some(reconfigure(shared, vips)),
        paths: None,
    };
    Ok((adapters, watchdog))
}

/// Whether the virtual addresses need a lease.
fn is_leased(config: &Config) -> bool {
    config.has_peer() && !config.vips.is_empty()
}

/// What this machine can and can't do for a configuration, one sentence each. Looks, changes nothing that stays.
///
/// The second list names what would use the shared disks by itself: with any of that a start is refused.
///
/// # Errors
/// Disks of the configuration that can't be used here.
pub fn look_at_machine(
    config: &Config,
    roots: &Roots,
    files: &Path,
) -> Result<(Vec<String>, Vec<Finding>), ConfigErrors> {
    let (choice, inventory) = disks::find(config, roots)?;
    disks::checks_allow(config, &inventory)?;
    let hands_on = hands_on(config, &choice.disks, roots, files);
    let (doubtful, hands_on): (Vec<Finding>, _) =
        hands_on.into_iter().partition(|one| one.doubtful);
    let mut found = disks::describe(&choice, &inventory);
    found.extend(look_at_pools(config)?);
    found.extend(look_at_network(config));
    if let Some(dog) = &config.watchdog {
        let described = watchdog::describe(&roots.sys, &dog.device, dog.timeout_s);
        found.push(described.unwrap_or_else(|failure| failure.0));
    }
    found.extend(look_at_unit(config, files));
    found.extend(doubtful.iter().map(Finding::to_string));
    if config.reset.command.is_none() && !config.disks.is_empty() {
        found.extend(KernelReset::default().hindrance());
    }
    Ok((found, hands_on))
}

/// What the shipped unit doesn't permit, and a configured pool needs: mdadm makes device nodes of its own.
fn look_at_unit(config: &Config, files: &Path) -> Option<String> {
    let is_md = |pool: &&PoolSettings| {
        matches!(
            &pool.kind,
            PoolKind::Mount(MountSettings {
                assembly: Some(Assembly::MdRaid(_)),
                ..
            })
        )
    };
    let pool = config.pools.iter().find(is_md)?;
    let folders = ["etc", "run", "usr/lib"].map(|place| {
        std::fs::read_dir(files.join(place).join("systemd/system/failoverd.service.d"))
    });
    let mut drop_ins = folders.into_iter().flatten().flatten().flatten();
    let permits = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let caps =
            |line: &str| line.starts_with("CapabilityBoundingSet=") && line.contains("CAP_MKNOD");
        entry.path().extension().is_some_and(|end| end == "conf") && text.lines().any(caps)
    };
    let permitted = drop_ins.any(permits);
    (!permitted).then(|| {
        format!(
            "pool {}: mdadm makes device nodes, which the shipped unit doesn't permit; install \
             /usr/share/failoverd/mdraid.conf as a drop-in of the unit",
            pool.name
        )
    })
}

/// What of the operating system below `files` (`/`) would use the shared disks by itself.
pub fn hands_on(
    config: &Config,
    disks: &[SharedDisk],
    roots: &Roots,
    files: &Path,
) -> Vec<Finding> {
    let mountpoint = |pool: &PoolSettings| match &pool.kind {
        PoolKind::Mount(mount) => Some(mount.mountpoint.clone()),
        PoolKind::Zfs(_) => None,
    };
    let pools: Vec<(String, Option<PathBuf>)> = config
        .pools
        .iter()
        .map(|pool| (pool.name.clone(), mountpoint(pool)))
        .collect();
    let pools = &pools;
    hands_off::look(Shared { disks, pools }, roots, files)
}

/// Refuses a start on a machine that would use the shared disks by itself. A controller that owned in this boot goes
/// on with an alarm: ending a MASTER for what another boot might do would be the greater harm.
///
/// # Errors
/// Everything that was found, a line each.
pub fn refuse_hands_on(config: &Config, found: &[Finding]) -> Result<(), Failure> {
    let found: Vec<&Finding> = found.iter().filter(|one| !one.doubtful).collect();
    if found.is_empty() {
        return Ok(());
    }
    if owned_in_this_boot(&config.paths.runtime_dir)? {
        for finding in found {
            let message_id = message_id("AUTO_IMPORT");
            tracing::error!(failover.id = "AUTO_IMPORT", message_id, "{finding}");
        }
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(Failure(lines.join("\n")))
}

/// After a start that failed before the control thread ran, when nobody will pet the watchdog: disarms it, the kept one
/// or the one opened anew, where nothing was owned in this boot. Such a machine has nothing to be reset for, and would be
/// reset again at each boot, out of sight of the count of self-resets. Otherwise pools may be imported: it stays armed.
pub fn give_up(runtime_dir: &Path, kept: &mut Kept, watchdog: &WatchdogEnd) {
    match owned_in_this_boot(runtime_dir) {
        Ok(false) => {
            if let Some(kept) = kept.remove(watchdog::KEPT_AS) {
                watchdog::let_go(&kept.into());
            }
            watchdog.disarm();
        }
        Ok(true) => tracing::warn!(
            "an earlier run owned in this boot: a watchdog that it armed stays so, and resets this machine unless \
             failoverd starts"
        ),
        Err(failure) => tracing::warn!("{failure}; a watchdog that is armed stays so"),
    }
}

fn look_at_network(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if !is_leased(config) {
        return found;
    }
    found.push(match lease::probe() {
        Form::Nftables(Protection::OwnedAndPersistent) => {
            "the lease of the virtual addresses is in tables that nobody else can flush while failoverd runs".to_owned()
        }
        Form::Nftables(Protection::Plain) => {
            "the lease of the virtual addresses is in tables that another program may flush: then the addresses go \
             off at the next renewal"
                .to_owned()
        }
        Form::Unavailable(why) => format!("no lease of the virtual addresses is possible: {why}"),
    });
    let vips = KernelVips::new(vips(config));
    match vips.and_then(|vips| vips.not_covered()) {
        Ok(gaps) => found.extend(gaps),
        Err(failure) => found.push(failure.0),
    }
    found
}

fn vips(config: &Config) -> Vec<Vip> {
    let vip = |vip: &VipConfig| Vip {
        interface: vip.interface.clone(),
        address: vip.address.ip,
        prefix: vip.address.prefix,
        pool: vip.pool.as_deref().and_then(|name| config.pool_id(name)),
    };
    config.vips.iter().map(vip).collect()
}

fn addresses(config: &Config) -> Vec<IpAddr> {
    config.vips.iter().map(|vip| vip.address.ip).collect()
}

/// The adapters of the configured pools.
struct ConfiguredPools {
    all: PoolSet,
    zfs: Arc<ZfsPools>,
}

fn pools(config: &Config) -> Result<ConfiguredPools, Failure> {
    let (mut mounts, mut zfs) = (Vec::new(), Vec::new());
    for pool in &config.pools {
        match &pool.kind {
            PoolKind::Mount(settings) => mounts.push(mount_pool(config, pool, settings)),
            PoolKind::Zfs(settings) => zfs.push(zfs_pool(config, pool, settings)),
        }
    }
    let limits = Limits {
        import: Duration::from_millis(config.timing.import_ms),
        export: Duration::from_millis(config.timing.export_ms),
    };
    let mount_limits = mount_pools::Limits {
        import: limits.import,
        export: limits.export,
    };
    // A daemon that restarts on the owner finds its pools imported.
    let owned = owned_in_this_boot(&config.paths.runtime_dir)?;
    let mounts: Arc<dyn Pools> =
        Arc::new(MountPools::on(mounts, &Ground::default(), mount_limits)?.adopting(owned));
    let places = Places {
        withheld: config.paths.runtime_dir.join("withheld"),
        ..Places::default()
    };
    let zfs = ZfsPools::new(zfs, Tools::default(), places, limits).adopting(owned);
    let zfs = Arc::new(zfs);
    let (mut mount_ids, mut zfs_ids) = ((0..).map(PoolId), (0..).map(PoolId));
    let members = config.pools.iter().filter_map(|pool| match pool.kind {
        PoolKind::Mount(_) => Some((mounts.clone(), mount_ids.next()?)),
        PoolKind::Zfs(_) => Some((zfs.clone() as Arc<dyn Pools>, zfs_ids.next()?)),
    });
    Ok(ConfiguredPools {
        all: PoolSet::new(members.collect()),
        zfs: zfs.clone(),
    })
}

fn mount_pool(config: &Config, pool: &PoolSettings, settings: &MountSettings) -> MountPool {
    let (assembly, disks) = (settings.assembly.clone(), disks_of(config, pool));
    MountPool {
        name: pool.name.clone(),
        device: settings.device.clone(),
        mountpoint: settings.mountpoint.clone(),
        fstype: settings.fstype.clone(),
        options: settings.options.join(","),
        disks: disks.iter().map(|name| DiskId::of(name)).collect(),
        assembly: assembly.map(|assembly| (assembly, disks)),
    }
}

/// Identities of the shared disks that a pool lies on: as the configuration's reference says, all of them if none is named.
fn disks_of(config: &Config, pool: &PoolSettings) -> Vec<String> {
    match pool.disks.is_empty() {
        true => config.disks.clone(),
        false => pool.disks.clone(),
    }
}

fn zfs_pool(config: &Config, pool: &PoolSettings, settings: &ZfsSettings) -> ZfsPool {
    ZfsPool {
        name: pool.name.clone(),
        guid: settings.guid,
        disks: disks_of(config, pool),
        key_store: settings.key_store.clone(),
        keys: settings.keys.clone(),
        may_stay_locked: settings.may_stay_locked.clone(),
    }
}

/// Refuses what the pair must not run with, as far as it can be told in a moment.
///
/// # Errors
/// Each such pool, with its remedy.
pub fn refuse_pools(config: &Config) -> Result<(), ConfigErrors> {
    match pools(config) {
        Ok(pools) => judge(config, pools.zfs.refusals()).map(|_| ()),
        // Making the adapters says it.
        Err(_) => Ok(()),
    }
}

/// What this machine shows of the configured pools of ZFS.
fn look_at_pools(config: &Config) -> Result<Vec<String>, ConfigErrors> {
    match pools(config) {
        Ok(pools) => judge(config, pools.zfs.findings()),
        Err(Failure(why)) => Ok(vec![why]),
    }
}

fn judge(config: &Config, findings: Vec<zfs::Finding>) -> Result<Vec<String>, ConfigErrors> {
    let places = config.pools.iter().enumerate();
    let is_zfs = |(_, pool): &(usize, &PoolSettings)| matches!(pool.kind, PoolKind::Zfs(_));
    let places: Vec<(usize, &PoolSettings)> = places.filter(is_zfs).collect();
    let (mut refused, mut remarks) = (Vec::new(), Vec::new());
    for finding in findings {
        let zfs::Finding {
            pool,
            text,
            refused: bad,
        } = finding;
        let Some((index, settings)) = places.get(pool) else {
            continue;
        };
        match bad {
            true => refused.push(config.pool_error(*index, &text)),
            false => remarks.push(format!("pool {}: {text}", settings.name)),
        }
    }
    match refused.is_empty() {
        true => Ok(remarks),
        false => Err(ConfigErrors(refused)),
    }
}

/// Names of the configured pools that are imported here, or may be.
pub(crate) fn imported_pools(config: &Config) -> Result<Vec<String>, Failure> {
    let pools = pools(config)?.all;
    let imported = (0..).map(PoolId).zip(&config.pools);
    let imported = imported.filter(|(id, _)| pools.imported(*id).unwrap_or(true));
    Ok(imported.map(|(_, pool)| pool.name.clone()).collect())
}

/// Units and hooks that belong to no pool, then for each pool its units and its hooks.
fn services(config: &Config) -> Result<ServiceList, Failure> {
    let mut list: Vec<(Option<PoolId>, Box<dyn Service>)> = Vec::new();
    let deadline = Duration::from_millis(config.timing.services_ms);
    let mut common: Vec<String> = config.services.target.iter().cloned().collect();
    common.extend(config.services.units.iter().cloned());
    let of_pools = (0..).map(PoolId).zip(&config.pools);
    let of_pools = of_pools.map(|(id, pool)| (Some(id), pool.units.clone()));
    for (pool, units) in std::iter::once((None, common)).chain(of_pools) {
        if !units.is_empty() {
            list.push((pool, Box::new(SystemdServices::new(units, deadline)?)));
        }
        let belongs = |hook: &&HookConfig| match &hook.pool {
            Some(name) => pool.is_some() && config.pool_id(name) == pool,
            None => pool.is_none(),
        };
        for hook in config.services.hooks.iter().filter(belongs) {
            list.push((pool, Box::new(hook_of(hook)?)));
        }
    }
    Ok(ServiceList::new(list))
}

fn hook_of(hook: &HookConfig) -> Result<ExecServices, Failure> {
    let timeout = Duration::from_millis(hook.timeout_ms);
    let one = |command: &Vec<String>| {
        vec![Hook {
            command: command.clone(),
            timeout,
        }]
    };
    ExecServices::new(one(&hook.start), one(&hook.stop))
}

fn watchdog(config: &Config, kept: &mut Kept) -> Result<WatchdogEnd, Failure> {
    let kept = kept.remove(watchdog::KEPT_AS);
    if let Some(watchdog) = &config.watchdog {
        let timeout = Duration::from_secs(u64::from(watchdog.timeout_s));
        let first = kept.is_none();
        // What can't be read may be of this boot.
        let owned = owned_in_this_boot(&config.paths.runtime_dir).unwrap_or(true);
        let device = DeviceWatchdog::open(&watchdog.device, timeout, kept, owned)?;
        // What it says of this boot is news at the first start only.
        if first && device.has_bitten() {
            tracing::warn!(
                failover.id = "WATCHDOG_RESET",
                message_id = message_id("WATCHDOG_RESET"),
                "watchdog {} ({}) had reset this machine",
                watchdog.device.display(),
                device.identity()
            );
        }
        return Ok(device.into());
    }
    if let Some(kept) = kept {
        watchdog::let_go(&kept.into());
    }
    Ok(WatchdogEnd::default())
}

fn reset(config: &Config) -> Arc<dyn Fn(&HaltReason) + Send + Sync> {
    let reset: Box<dyn Reset> = match &config.reset.command {
        Some(command) => Box::new(CommandReset {
            command: command.clone(),
        }),
        None => {
            let reset = KernelReset::default();
            if let Some(hindrance) = reset.hindrance().filter(|_| !config.disks.is_empty()) {
                let message_id = message_id("NO_RESET");
                tracing::error!(failover.id = "NO_RESET", message_id, "{hindrance}");
            }
            Box::new(reset)
        }
    };
    Arc::new(move |reason| {
        if let Err(error) = reset.reset(&reason.to_string()) {
            tracing::error!("this controller can't be reset: {error}; power it off by hand");
        }
    })
}

fn reconfigure(lease: SharedLease, vips: Arc<KernelVips>) -> Reconfigure {
    Arc::new(move |old, new, on| {
        if new.has_peer() && old.vips.is_empty() != new.vips.is_empty() {
            return Err(Failure(
                "the first virtual address can't be added, nor the last removed, at run time; restart the daemon"
                    .to_owned(),
            ));
        }
        let list = self::vips(new);
        // Silenced before they appear; those that left fall silent only after they are off.
        let mut both = addresses(old);
        both.extend(addresses(new));
        both.sort();
        both.dedup();
        lease.set_vips(&both)?;
        vips.change_to(list, on)?;
        lease.set_vips(&addresses(new))
    })
}

/// The lease, whose list of addresses another thread may change; none where none is needed.
#[derive(Clone)]
struct SharedLease(Option<Arc<Mutex<NftLease>>>);

impl SharedLease {
    fn set_vips(&self, vips: &[IpAddr]) -> Result<(), Failure> {
        self.with(|lease| lease.set_vips(vips))
    }

    fn with(&self, act: impl FnOnce(&mut NftLease) -> Result<(), Failure>) -> Result<(), Failure> {
        self.0
            .as_ref()
            .map_or(Ok(()), |lease| act(&mut locked(lease)))
    }
}

impl Lease for SharedLease {
    fn grant(&mut self, now: Instant, until: Instant) -> Result<(), Failure> {
        self.with(|lease| lease.grant(now, until))
    }

    fn renew(&mut self, now: Instant, until: Instant) -> Result<(), Failure> {
        self.with(|lease| lease.renew(now, until))
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.with(NftLease::end)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair_key::PairKey;

    /// An import on disks that were not won would be a second writer on them.
    #[test]
    fn a_pool_that_names_no_disks_needs_all_of_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("pair.key");
        PairKey::create(&key).expect("a key");
        let text = format!(
            "node = \"A\"\ndisks = [\"naa.5000c500a1b2c3d4\", \"naa.5000c500a1b2c3d5\"]\npair_key = {key:?}\n\
             [[pools]]\nname = \"tank\"\ndevice = \"/dev/x\"\nmountpoint = \"/srv\"\nfstype = \"ext4\"\n"
        );
        let config = Config::parse(&text, Path::new("f.toml")).expect("good");
        let pool = &config.pools[0];
        let PoolKind::Mount(settings) = &pool.kind else {
            panic!("another kind: {pool:?}");
        };
        let needed = mount_pool(&config, pool, settings).disks;
        let all: Vec<DiskId> = config.disks.iter().map(|name| DiskId::of(name)).collect();
        assert_eq!((needed.len(), needed), (2, all));
    }

    #[test]
    fn an_array_needs_a_drop_in_of_the_unit() {
        let text = |assemble: &str| {
            format!(
                "node = \"A\"\n[[pools]]\nname = \"tank\"\ndevice = \"/dev/x\"\nmountpoint = \"/srv\"\n\
                 fstype = \"ext4\"\n{assemble}"
            )
        };
        let config = |assemble| Config::parse(&text(assemble), Path::new("f.toml")).expect("good");
        let array =
            config("assemble = \"mdraid\"\nvolume = \"a1b2c3d4:e5f60718:293a4b5c:6d7e8f90\"\n");
        let files = tempfile::tempdir().expect("a folder");
        assert_eq!(look_at_unit(&config(""), files.path()), None);
        let said = look_at_unit(&array, files.path()).expect("needed");
        assert!(said.contains("share/failoverd/mdraid.conf"), "{said}");
        let folder = files.path().join("etc/systemd/system/failoverd.service.d");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(
            folder.join("mdraid.conf"),
            include_str!("../../systemd/mdraid.conf"),
        )
        .expect("written");
        assert_eq!(look_at_unit(&array, files.path()), None);
    }
}
