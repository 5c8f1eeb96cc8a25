//! SIGTERM, SIGINT and SIGHUP, what the service manager wants of us, and what it is told.

use crate::adapters::systemd;
use crate::daemon::Handle;
use nix::sys::signal::{SigSet, Signal};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// File in the runtime folder that makes the next SIGTERM an announced restart.
pub(crate) const RESTART_FLAG: &str = "restart";
/// Longest wait for the service manager's word on why it stops us. The MASTER serves on meanwhile, so patience costs
/// nothing, and a starved machine needs it: a doubt ends in a handover.
const ASK_SYSTEMD: Duration = Duration::from_secs(10);

/// Blocks the signals that are served in this thread and those that it starts.
pub(crate) fn hold_back() -> SigSet {
    let mut served = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        served.add(signal);
    }
    if let Err(error) = served.thread_block() {
        tracing::debug!("signals are not held back: {error}");
    }
    served
}

/// Lets them through to this thread again, which is enough for the process.
pub(crate) fn let_through(served: &SigSet) {
    if let Err(error) = served.thread_unblock() {
        tracing::error!("signals stay blocked: {error}");
    }
}

/// Serves signals for ever; says when the handlers stand.
pub(crate) async fn serve(handle: Handle, ready: Sender<()>) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let _ = ready.send(());
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                tell(&[sd_notify::NotifyState::Stopping]);
                let restart = restart_wanted(&handle).await;
                handle.stop(restart);
            }
            _ = interrupt.recv() => {
                tell(&[sd_notify::NotifyState::Stopping]);
                handle.stop(false);
            }
            _ = hang_up.recv() => reload(&handle).await,
        }
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn tell(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told: {error}");
    }
}

async fn reload(handle: &Handle) {
    let started = match sd_notify::NotifyState::monotonic_usec_now() {
        Ok(now) => vec![sd_notify::NotifyState::Reloading, now],
        Err(_) => vec![sd_notify::NotifyState::Reloading],
    };
    tell(&started);
    let handle = handle.clone();
    let done = tokio::task::spawn_blocking(move || handle.reload()).await;
    match done {
        Ok(Ok(changed)) if changed.is_empty() => tracing::info!("re-read: nothing changed"),
        Ok(Ok(changed)) => tracing::info!("re-read: changed {}", changed.join(", ")),
        Ok(Err(error)) => tracing::error!("the configuration in force stays: {error}"),
        Err(error) => tracing::error!("re-reading the configuration failed: {error}"),
    }
    tell(&[sd_notify::NotifyState::Ready]);
}

/// The flag in the runtime folder, which is used up, or the service manager's job for our unit.
async fn restart_wanted(handle: &Handle) -> bool {
    let flag = handle.config().paths.runtime_dir.join(RESTART_FLAG);
    if take_flag(&flag) {
        return true;
    }
    if std::env::var_os("INVOCATION_ID").is_none() {
        return false;
    }
    let asked = tokio::task::spawn_blocking(|| systemd::being_restarted(None, ASK_SYSTEMD));
    let answer = tokio::time::timeout(ASK_SYSTEMD + Duration::from_secs(1), asked).await;
    if let Ok(Ok(Some(restart))) = answer {
        return restart;
    }
    // The safe reading of every doubt.
    tracing::warn!(
        "the service manager did not say whether it restarts this daemon: taken as a stop, which hands over"
    );
    false
}

fn take_flag(flag: &Path) -> bool {
    std::fs::remove_file(flag).is_ok()
}
