//! Real-time priority for what stands for other machines and other hardware: the client, the shelf, the observer.
//!
//! On this machine they share the processors with the pair; in a rack they would not.

/// Whether the system permits real-time priority here; the daemons ask for it in the same way.
pub fn permitted() -> bool {
    let asked = std::thread::spawn(|| real_time(1));
    asked.join().unwrap_or(false)
}

/// Gives the calling thread real-time priority where the system permits it; elsewhere nothing changes. Answers
/// whether it has it.
pub fn real_time(level: i32) -> bool {
    let parameters = libc::sched_param {
        sched_priority: level,
    };
    // SAFETY: `parameters` is a valid sched_param for the whole call, and 0 names the calling thread.
    let refused = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters)
    };
    // Timeouts of `poll` are rounded by the timer slack: 50 µs by default, a fortieth of a disk's latency.
    // A kernel that refuses leaves the default.
    let _ = nix::sys::prctl::set_timerslack(1_000);
    refused == 0
}
