//! The daemon's process of one controller: the shipped daemon with other disks, pools, services and reset.
//!
//! Links, beats, virtual addresses, lease, journal and control socket are assembled as in the shipped program.

use super::adapters::HostLink;
use super::place::Place;
use crate::shelf::fence::ShelfFence;
use failover_core::action::HaltReason;
use failoverd::assemble::{self, Machine};
use failoverd::config::Config;
use failoverd::daemon::{Exit, run};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a daemon of the demo finds its surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its configuration.
    pub config: PathBuf,
    /// The shelf's socket.
    pub shelf: PathBuf,
    /// Its host's socket.
    pub host: PathBuf,
    /// Where to ask for the machine's reset.
    pub reset: PathBuf,
}

impl Surroundings {
    /// Those of `node` in the demo's folder.
    pub fn of(place: &Place, node: failover_core::ids::Node) -> Surroundings {
        Surroundings {
            config: place.config(node),
            shelf: place.shelf(),
            host: place.host(node),
            reset: place.reset(),
        }
    }
}

/// Runs the daemon until it ends.
pub fn serve(surroundings: &Surroundings) -> Result<Exit, String> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    // As its unit would; an ordinary user's daemon goes on without.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let config = Config::load(&surroundings.config).map_err(|errors| errors.to_string())?;
    let host = Arc::new(HostLink::new(surroundings.host.clone(), config.disks.len()));
    let fence = ShelfFence::new(surroundings.shelf.clone(), config.node, config.disks.len());
    let (node, reset) = (config.node, surroundings.reset.clone());
    let machine = Machine {
        fence: Arc::new(fence),
        pools: host.clone(),
        services: host,
        reset: Arc::new(move |why| pull_the_plug(&reset, node, why)),
    };
    let (adapters, _) = assemble::around(machine, &config, &mut assemble::Kept::new())
        .map_err(|failure| failure.0)?;
    run(config, adapters).map_err(|error| error.to_string())
}

/// Tells the demo, which stands for the machine, and does nothing any more: a reset does not return.
fn pull_the_plug(reset: &Path, node: failover_core::ids::Node, why: &HaltReason) {
    let asked = UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(format!("{node} {why}").as_bytes(), reset));
    if asked.is_ok() {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    // Nobody there to pull it: ending is the nearest thing to a reset.
    std::process::exit(1);
}
