//! The daemon: starts the control thread, the lanes, the logger and the control socket, and ends them.

use crate::config::{Config, ConfigErrors};
use failover_core::action::HaltReason;
use failover_core::adapters::{Clock, Failure, Fence, Lease, Pools, Services, Vips, Watchdog};
use std::sync::Arc;

/// What the daemon acts on. The shipped binary passes the real ones; tests and the demo replace some.
pub struct DaemonAdapters {
    /// CLOCK_BOOTTIME.
    pub clock: Arc<dyn Clock>,
    /// Reservations on the shared disks.
    pub fence: Arc<dyn Fence>,
    /// Pools.
    pub pools: Arc<dyn Pools>,
    /// Services that run only on the MASTER.
    pub services: Arc<dyn Services>,
    /// Virtual addresses.
    pub vips: Arc<dyn Vips>,
    /// Their lease; called on the control thread.
    pub lease: Box<dyn Lease>,
    /// The hardware watchdog; called on the control thread.
    pub watchdog: Box<dyn Watchdog>,
    /// Resets this machine at once; called on the control thread, and not expected to come back.
    pub reset: Arc<dyn Fn(&HaltReason) + Send + Sync>,
    /// Takes a changed configuration into the adapters (SIGHUP); `None` where they can't change at run time.
    pub reconfigure: Option<Reconfigure>,
}

/// Called on a lane with the old and the new configuration and whether the virtual addresses are on; what did not
/// change must not be touched.
pub type Reconfigure = Arc<dyn Fn(&Config, &Config, bool) -> Result<(), Failure> + Send + Sync>;

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Left the pair; nothing of it runs here.
    Stopped,
    /// Comes back at once: services, addresses and pools were left as they are.
    Restart,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Anything else: a sentence with the place and the remedy.
    #[error("{0}")]
    Start(String),
}

/// Runs until SIGTERM (or a command that ends it). Blocks the calling thread.
pub fn run(_config: Config, _adapters: DaemonAdapters) -> Result<Exit, RunError> {
    Err(RunError::Start("not written yet".to_owned()))
}
