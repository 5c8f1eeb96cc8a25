//! `failoverd --check`: what was read, in words, and what the lease of the virtual addresses can't cover.

use super::{Config, PoolKind, ROLL_LATENCY_MS};
use failover_core::config::Timing;
use std::fmt::Write;

/// What no lease of addresses can silence.
const NOT_COVERED: [&str; 4] = [
    "services that clients reach on other addresses than the virtual ones",
    "RDMA and Fibre Channel, whose data never passes the network stack",
    "XDP, DPDK and other bypasses of the network stack, and flows off-loaded to a card",
    "a machine whose clock stands still (a paused virtual machine): after resuming it may answer for up to vip_lease_ms",
];

/// Explains a configuration that was read.
pub fn explain(config: &Config) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("{}: valid", config.file.display()));
    line(membership(config));
    for (index, link) in config.links.iter().enumerate() {
        let on = link.interface.as_deref().unwrap_or("any interface");
        line(format!(
            "  link {index}: {} to {} on {on}",
            link.local, link.peer
        ));
    }
    line(format!(
        "shared disks: {}{}",
        config.disks.len(),
        arbiters(config)
    ));
    if config.accept_volatile {
        line("  registrations that don't outlive a power loss are accepted".to_owned());
    }
    for pool in &config.pools {
        line(format!("pool {}: {}", pool.name, kind(&pool.kind)));
        if !pool.units.is_empty() {
            let (name, units) = (&pool.name, pool.units.join(", "));
            line(format!("  units with pool {name}: {units}"));
        }
    }
    for vip in &config.vips {
        let pool = vip.pool.iter().map(|pool| format!(", of pool {pool}"));
        line(format!(
            "virtual address {} on {}{}",
            vip.address,
            vip.interface,
            pool.collect::<String>()
        ));
    }
    if !config.critical_interfaces.is_empty() {
        line(format!(
            "critical interfaces: {}",
            config.critical_interfaces.join(", ")
        ));
    }
    line(format!("services: {}", services(config)));
    line(match &config.watchdog {
        Some(dog) => format!(
            "watchdog: {} after {} s",
            dog.device.display(),
            dog.timeout_s
        ),
        None => "watchdog: none".to_owned(),
    });
    line(match &config.reset.command {
        Some(command) => format!("reset: {}", command.join(" ")),
        None => "reset: by the kernel, at once".to_owned(),
    });
    line(format!("timers: {}", timers(&config.timing)));
    line(format!(
        "  every relation holds, with {ROLL_LATENCY_MS} ms for a roll of the key on a disk"
    ));
    for remark in remarks(config) {
        line(format!("note: {remark}"));
    }
    if !config.vips.is_empty() && config.has_peer() {
        line("the lease of the virtual addresses can't silence:".to_owned());
        for gap in NOT_COVERED {
            line(format!("  - {gap}"));
        }
    }
    out
}

fn kind(kind: &PoolKind) -> String {
    match kind {
        PoolKind::Mount(mount) => format!(
            "{} ({}) on {}",
            mount.device.display(),
            mount.fstype,
            mount.mountpoint.display()
        ),
        PoolKind::Zfs(zfs) => format!("of ZFS, imported by its GUID {}", zfs.guid),
    }
}

fn membership(config: &Config) -> String {
    match (&config.pair_key, config.has_peer()) {
        (Some(key), true) => format!(
            "controller {} of the pair {:04x}, {} heartbeat link(s)",
            config.node,
            key.tag(),
            config.links.len()
        ),
        _ => format!(
            "controller {}, SINGLE: no heartbeat link is configured",
            config.node
        ),
    }
}

fn arbiters(config: &Config) -> String {
    match config.disks.len() {
        0 => String::new(),
        n if n < usize::from(config.arbiters) => ", 1 of them the arbiter".to_owned(),
        _ => format!(", {} of them arbiters", config.arbiters),
    }
}

fn services(config: &Config) -> String {
    let services = &config.services;
    let mut names: Vec<String> = services.target.iter().cloned().collect();
    names.extend(services.units.iter().cloned());
    names.extend(services.hooks.iter().map(|hook| match &hook.pool {
        Some(pool) => format!("{} (of pool {pool})", hook.name),
        None => hook.name.clone(),
    }));
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn timers(timing: &Timing) -> String {
    let values = serde_json::to_value(timing).unwrap_or_default();
    let changed: Vec<String> = Timing::FIELDS
        .iter()
        .filter(|(name, default, _)| values[name].as_u64() != Some(*default))
        .map(|(name, default, _)| format!("{name} = {} (default {default})", values[name]))
        .collect();
    if changed.is_empty() {
        "the defaults".to_owned()
    } else {
        changed.join(", ")
    }
}

fn remarks(config: &Config) -> Vec<&'static str> {
    let mut remarks = Vec::new();
    let mut add = |holds: bool, remark| {
        if holds {
            remarks.push(remark);
        }
    };
    let pair = config.has_peer();
    add(
        pair && config.links.len() == 1,
        "one heartbeat link alone: its cable is a single point of failure for handovers; configure a second one",
    );
    add(
        pair && config.critical_interfaces.is_empty(),
        "no critical interfaces: a MASTER that its clients can't reach isn't noticed",
    );
    add(
        pair && config.vips.is_empty(),
        "no virtual address: clients must find the MASTER by themselves",
    );
    add(
        pair && config.watchdog.is_none(),
        "no watchdog: a controller whose kernel stands still needs a person",
    );
    remarks
}
