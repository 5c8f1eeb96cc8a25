//! What a re-read configuration may change at run time.

use super::Config;
use crate::pair_key::PairKey;
use failover_core::config::Timing;
use std::fmt;

/// What differs between two configurations, all of which may change at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that differ.
    pub changed: Vec<String>,
    /// The virtual addresses differ.
    pub vips: bool,
    /// The interfaces of the clients' network differ.
    pub interfaces: bool,
}

/// Keys that differ and can't be changed at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.join(", ");
        write!(
            f,
            "{keys} can't change at run time, so nothing was changed; "
        )?;
        f.write_str("put it back, or restart the daemon")
    }
}

impl std::error::Error for Refused {}

/// Compares two configurations. Timers, virtual addresses and critical interfaces may differ.
pub fn difference(old: &Config, new: &Config) -> Result<Difference, Refused> {
    let pair = |config: &Config| config.pair_key.as_ref().map(PairKey::pair_id);
    let fixed = [
        ("node", old.node != new.node),
        ("pair_key", pair(old) != pair(new)),
        ("links", old.links != new.links),
        ("disks", old.disks != new.disks),
        (
            "accept_volatile_reservations",
            old.accept_volatile != new.accept_volatile,
        ),
        ("arbiters", old.arbiters != new.arbiters),
        ("pools", old.pools != new.pools),
        ("services", old.services != new.services),
        ("watchdog", old.watchdog != new.watchdog),
        ("reset", old.reset != new.reset),
        ("paths", old.paths != new.paths),
    ];
    let differing = fixed.iter().filter(|(_, differs)| *differs);
    let refused: Vec<String> = differing.map(|(key, _)| (*key).to_owned()).collect();
    if !refused.is_empty() {
        return Err(Refused(refused));
    }
    let mut difference = Difference {
        changed: timers(&old.timing, &new.timing),
        vips: sorted(&old.vips) != sorted(&new.vips),
        interfaces: sorted(&old.critical_interfaces) != sorted(&new.critical_interfaces),
    };
    if difference.vips {
        difference.changed.push("vips".to_owned());
    }
    if difference.interfaces {
        difference.changed.push("critical_interfaces".to_owned());
    }
    Ok(difference)
}

fn sorted<T: Clone + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

/// Names of the timers that differ.
fn timers(old: &Timing, new: &Timing) -> Vec<String> {
    let values = |timing: &Timing| serde_json::to_value(timing).unwrap_or_default();
    let (old, new) = (values(old), values(new));
    let names = Timing::FIELDS.iter().map(|(name, ..)| *name);
    names
        .filter(|name| old[name] != new[name])
        .map(|name| format!("timing.{name}"))
        .collect()
}
