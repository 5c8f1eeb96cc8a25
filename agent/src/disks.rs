//! The shared disks of a configuration on this machine: found, refused, followed as their paths come and go.
//!
//! ```text
//!   start, --check ── scan, choose ──▶ SharedDisks ──▶ RealFence
//!   kernel's uevents ── debounced ──▶ look_again ──▶ RealFence::refresh
//! ```

use crate::adapters::disk_paths::{self, Choice, Inventory, Refusal, Roots, choose};
use crate::adapters::fence::{DeviceNodes, Options, RealFence};
use crate::adapters::hotplug::{DISK_EVENTS, Hotplug};
use crate::adapters::identity::Identity;
use crate::adapters::ports::Opener;
use crate::config::{Config, ConfigErrors};
use crate::preflight;
use failover_core::adapters::Failure;
use std::path::Path;
use std::sync::Arc;

/// Looks for the configured disks.
///
/// # Errors
/// Every entry that can't be used, with its key and remedy. A disk that isn't there is none of them.
pub fn find(config: &Config, roots: &Roots) -> Result<(Choice, Inventory), ConfigErrors> {
    if config.disks.is_empty() {
        return Ok((Choice::default(), Inventory::default()));
    }
    let inventory = disk_paths::scan(roots).map_err(|error| {
        let problem = format!("this machine's disks can't be listed: {error}");
        let remedy = format!("check that {} is mounted", roots.sys.display());
        ConfigErrors(vec![config.disk_error("", &problem, &remedy)])
    })?;
    let refused = |refusals: Vec<Refusal>| {
        let error = |refusal: &Refusal| {
            let (problem, remedy) = refusal.problem_and_remedy();
            config.disk_error(refusal.entry(), &problem, &remedy)
        };
        ConfigErrors(refusals.iter().map(error).collect())
    };
    let choice = choose(&inventory, &config.disks).map_err(refused)?;
    Ok((choice, inventory))
}

/// Looks whether the kept checks of the configured disks allow this configuration.
///
/// # Errors
/// See [`preflight::demands`].
pub fn checks_allow(config: &Config, inventory: &Inventory) -> Result<(), ConfigErrors> {
    let kept = preflight::read_kept(&config.paths.state_dir);
    let also = |entry: &str| {
        let named = Identity::parse(entry).ok();
        let shows = |disk: &&disk_paths::FoundDisk| {
            named
                .as_ref()
                .is_some_and(|name| disk.identities.contains(name))
        };
        let found = inventory.disks.iter().find(shows);
        found.map_or_else(Vec::new, |disk| disk.identities.clone())
    };
    preflight::demands(config, &kept, also)
}

/// What was found, a line for each disk.
pub fn describe(choice: &Choice, inventory: &Inventory) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for disk in &choice.disks {
        lines.push(match disk.path_names().as_slice() {
            [] => format!(
                "shared disk {}: missing; it counts as unreachable",
                disk.identity
            ),
            paths => format!("shared disk {}: {}", disk.identity, paths.join(", ")),
        });
    }
    if !choice.disks.is_empty() {
        lines.extend(inventory.boot_unknown.iter().map(|own| {
            format!("this machine runs from {own}, whose disks can't be told: `disks` must not name one of them")
        }));
    }
    lines
}

/// Reservations on the shared disks, with their paths followed while this lives.
#[derive(Debug)]
pub struct SharedDisks {
    /// The reservations.
    pub fence: Arc<RealFence>,
    _hotplug: Option<Hotplug>,
}

impl SharedDisks {
    /// Finds the disks and follows their paths.
    ///
    /// # Errors
    /// As [`find`].
    pub fn open(config: &Config) -> Result<SharedDisks, ConfigErrors> {
        let roots = Roots::default();
        let nodes = Arc::new(DeviceNodes::new(Path::new("/dev")));
        let fence = Arc::new(fence(config, &roots, nodes)?);
        let hotplug = match config.disks.is_empty() {
            true => None,
            false => follow(config, roots, &fence),
        };
        Ok(SharedDisks {
            fence,
            _hotplug: hotplug,
        })
    }
}

/// Reservations on the disks of a configuration.
///
/// # Errors
/// As [`find`].
pub fn fence(
    config: &Config,
    roots: &Roots,
    opener: Arc<dyn Opener>,
) -> Result<RealFence, ConfigErrors> {
    let (choice, inventory) = find(config, roots)?;
    checks_allow(config, &inventory)?;
    for missing in &choice.missing {
        tracing::error!(
            "shared disk {missing} isn't here: it counts as unreachable; check its power, its cables and `disks`"
        );
    }
    let options = Options {
        accept_volatile: config.accept_volatile,
    };
    Ok(RealFence::new(opener, options, &choice.disks))
}

fn follow(config: &Config, roots: Roots, fence: &Arc<RealFence>) -> Option<Hotplug> {
    let (wanted, fence) = (config.disks.clone(), fence.clone());
    let mut told = Vec::new();
    let look = move || {
        let remarks = look_again(&fence, &wanted, &roots);
        // A state that lasts is said once.
        for remark in remarks.iter().filter(|remark| !told.contains(*remark)) {
            tracing::error!("{remark}");
        }
        told = remarks;
    };
    match Hotplug::start(DISK_EVENTS, look) {
        Ok(hotplug) => Some(hotplug),
        Err(Failure(why)) => {
            tracing::error!("{why}; paths that come or go aren't noticed until a restart");
            None
        }
    }
}

/// Looks which paths there are now and takes them over. A disk that may not be used any more (two disks show its
/// identity, say) keeps the paths that it had. Answers with what could not be taken over.
pub fn look_again(fence: &RealFence, wanted: &[String], roots: &Roots) -> Vec<String> {
    let inventory = match disk_paths::scan(roots) {
        Ok(inventory) => inventory,
        Err(error) => return vec![format!("this machine's disks can't be listed: {error}")],
    };
    let known = fence.shared();
    let mut remarks = Vec::new();
    let mut found = Vec::new();
    for entry in wanted {
        match choose(&inventory, std::slice::from_ref(entry)) {
            Ok(choice) => found.extend(choice.disks),
            Err(refusals) => {
                remarks.extend(refusals.iter().map(Refusal::to_string));
                let id = failover_core::ids::DiskId::of(entry);
                found.extend(known.iter().filter(|disk| disk.id == id).cloned());
            }
        }
    }
    for before in &known {
        let now = found.iter().find(|disk| disk.id == before.id);
        if !before.paths.is_empty() && now.is_some_and(|disk| disk.paths.is_empty()) {
            let name = &before.identity;
            remarks.push(format!(
                "shared disk {name} has lost its last path; check its power and cables"
            ));
        }
    }
    remarks.extend(fence.refresh(&found));
    remarks
}
