//! Locked memory and real-time priority, where the machine permits them.

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Above ordinary real-time work, below the kernel's own threads that serve the network and the disks.
const CONTROL_PRIORITY: i32 = 40;
/// Above the control thread, which waits for it a moment.
const LEASE_PRIORITY: i32 = 41;
/// Below the control thread: a flood of disk answers must not delay a beat.
const LANE_PRIORITY: i32 = 10;

/// Gives the calling thread what a control thread needs; answers with what it could not have, in words.
pub(crate) fn prefer_control_thread() -> Vec<String> {
    let mut missing = Vec::new();
    if let Err(why) = real_time(CONTROL_PRIORITY) {
        missing.push(format!("no real-time priority ({why})"));
    }
    // Without it an ordinary thread is woken up to 50 us late; it does nothing for a real-time one.
    let _ = nix::sys::prctl::set_timerslack(1);
    missing
}

/// Locks the memory of the whole process; answers with why it could not, in words.
pub(crate) fn lock_process_memory() -> Option<String> {
    let why = lock_memory().err()?;
    Some(format!("memory can't be locked ({why})"))
}

/// Gives the calling thread the priority of the thread that renews the lease, if that is permitted.
pub(crate) fn prefer_lease_thread() {
    let _ = real_time(LEASE_PRIORITY);
}

/// Gives the calling thread a modest real-time priority, if that is permitted.
pub(crate) fn prefer_lane() {
    let _ = real_time(LANE_PRIORITY);
}

/// Locks what is there, and later pages as they are touched. Only where no limit applies: under one, a later
/// allocation would fail.
fn lock_memory() -> Result<(), String> {
    let resource = Resource::RLIMIT_MEMLOCK;
    let (soft, _) = getrlimit(resource).map_err(|errno| errno.to_string())?;
    let unlimited =
        soft == RLIM_INFINITY || setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    mlockall(MlockAllFlags::MCL_CURRENT).map_err(|errno| errno.to_string())?;
    // More than the limit was just locked: the kernel exempts us from it (CAP_IPC_LOCK).
    if !unlimited && address_space_bytes().is_none_or(|bytes| bytes <= soft) {
        let _ = munlockall();
        return Err("RLIMIT_MEMLOCK is not unlimited".to_owned());
    }
    let on_fault = MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(on_fault).map_err(|errno| errno.to_string())
}

fn address_space_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').next()?.parse().ok()?;
    Some(pages * 4096)
}

/// Round robin would share a core with equals: first in, first out doesn't, and threads started from this one are
/// ordinary again.
fn real_time(priority: i32) -> Result<(), String> {
    let parameter = libc::sched_param {
        sched_priority: priority,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameter` lives through the call, which reads it and changes the calling thread's scheduling alone.
    let result = unsafe { libc::sched_setscheduler(0, policy, &parameter) };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}
