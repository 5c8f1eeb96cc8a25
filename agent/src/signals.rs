//! SIGTERM, SIGINT and SIGHUP, what the service manager wants of us, and what it is told.

use crate::daemon::Handle;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for the service manager's word on why it stops us.
const ASK_SYSTEMD: Duration = Duration::from_millis(300);

/// Serves signals for ever.
pub(crate) async fn serve(handle: Handle) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
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
    let flag = handle.config().paths.runtime_dir.join("restart");
    if take_flag(&flag) {
        return true;
    }
    if std::env::var_os("INVOCATION_ID").is_none() {
        return false;
    }
    match tokio::time::timeout(ASK_SYSTEMD, job_is_restart()).await {
        Ok(Ok(restart)) => restart,
        Ok(Err(error)) => {
            tracing::warn!("why we are stopped can't be asked: {error}; taken as a stop");
            false
        }
        Err(_) => {
            tracing::warn!("the service manager doesn't say why we are stopped; taken as a stop");
            false
        }
    }
}

pub(crate) fn take_flag(flag: &Path) -> bool {
    std::fs::remove_file(flag).is_ok()
}

async fn job_is_restart() -> zbus::Result<bool> {
    let bus = zbus::Connection::system().await?;
    let manager = "org.freedesktop.systemd1";
    let unit: zbus::OwnedObjectPath = bus
        .call_method(
            Some(manager),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "GetUnitByPID",
            &std::process::id(),
        )
        .await?
        .body()
        .deserialize()?;
    let property = async |path: String, interface: &'static str, name: &'static str| {
        let interface_of_properties = Some("org.freedesktop.DBus.Properties");
        bus.call_method(
            Some(manager),
            path.as_str(),
            interface_of_properties,
            "Get",
            &(interface, name),
        )
        .await
    };
    let reply = property(unit.to_string(), "org.freedesktop.systemd1.Unit", "Job").await?;
    let job: zbus::OwnedVariant = reply.body().deserialize()?;
    let (number, path): (u32, zbus::OwnedObjectPath) = job.try_into()?;
    if number == 0 {
        return Ok(false);
    }
    let reply = property(path.to_string(), "org.freedesktop.systemd1.Job", "JobType").await?;
    let kind: zbus::OwnedVariant = reply.body().deserialize()?;
    let kind: String = kind.try_into()?;
    Ok(matches!(kind.as_str(), "restart" | "try-restart"))
}
