//! `midctl status`: the pair on one screen.

use std::cmp::Reverse;

use crate::render::{ago, colour, count, counted, duration, show, table};
use crate::terminal::Terminal;
use failover_api::{DiskReport, PeerReport, StateReport, Status, VipReport};

/// Disks named one by one.
const DISKS_NAMED: usize = 8;

/// The whole screen.
pub fn view(state: &StateReport, terminal: Terminal) -> String {
    let mut screen = colour(&facts(state, terminal), terminal);
    let parts = [
        links(state, terminal),
        disks(state, terminal),
        evidence(state, terminal),
        timers(state, terminal),
    ];
    for part in parts.into_iter().flatten() {
        screen.push('\n');
        screen.push_str(&part);
    }
    screen
}

/// The upper part: one fact per line.
fn facts(state: &StateReport, terminal: Terminal) -> String {
    let mut facts = table(terminal);
    facts.add_row([format!("Controller {}", state.node), here(state)]);
    facts.add_row(["Why".to_owned(), state.why.clone()]);
    if !state.blockers.is_empty() && !owns(state) {
        facts.add_row(["Can't take over".to_owned(), state.blockers.join("; ")]);
    }
    match &state.peer {
        Some(peer) => {
            facts.add_row([format!("Peer {}", state.node.other()), there(peer)]);
        }
        None => {
            facts.add_row(["Peer", "none: not provisioned as a pair"]);
        }
    }
    facts.add_row(["Failover".to_owned(), readiness(state)]);
    for reason in &state.disabled_reasons {
        facts.add_row([String::new(), format!("{reason}: {}", reason.explanation())]);
    }
    facts.add_row(["Settings".to_owned(), settings(state)]);
    facts.add_row(["Virtual IPs".to_owned(), virtual_ips(state)]);
    facts.add_row(["Pools".to_owned(), pools(state)]);
    facts.add_row(["Disks".to_owned(), disk_summary(state)]);
    show(&mut facts)
}

fn here(state: &StateReport) -> String {
    let mut words = format!(
        "{} ({}) for {}, epoch {}",
        state.status,
        state.state,
        duration(state.since_ms),
        state.epoch
    );
    if state.eligible && !owns(state) {
        words.push_str(", can take over");
    }
    words
}

/// There is nothing to take over for this controller.
fn owns(state: &StateReport) -> bool {
    matches!(state.status, Status::Master | Status::Single)
}

fn there(peer: &PeerReport) -> String {
    let mut words = match (peer.status, peer.heard) {
        (Some(status), true) => status.to_string(),
        (Some(status), false) => format!("silent, last seen as {status}"),
        (None, _) => "never heard since this daemon started".to_owned(),
    };
    if peer.status.is_some() || peer.age_ms.is_some() {
        words.push_str(&format!(", heard {}", ago(peer.age_ms)));
    }
    if let Some(epoch) = peer.epoch {
        words.push_str(&format!(", epoch {epoch}"));
    }
    if let Some(version) = &peer.version {
        words.push_str(&format!(", version {version}"));
    }
    match (peer.heard, peer.eligible, peer.blockers.as_slice()) {
        (true, true, _) => words.push_str(", can take over"),
        (true, false, []) => words.push_str(", can't take over"),
        (true, false, blockers) => {
            words.push_str(&format!(", can't take over: {}", blockers.join("; ")));
        }
        (false, _, _) => {}
    }
    words
}

fn readiness(state: &StateReport) -> String {
    match state.disabled_reasons.len() {
        0 => "READY: nothing stands against automatic failover".to_owned(),
        reasons => format!("NOT READY, {}:", count(reasons, "reason")),
    }
}

fn settings(state: &StateReport) -> String {
    let preferred = match state.config.master {
        true => state.node,
        false => state.node.other(),
    };
    let automatic = match state.config.disabled {
        true => "disabled",
        false => "enabled",
    };
    format!(
        "automatic failover {automatic}, preferred controller {preferred}, extra wait {} s",
        state.config.timeout
    )
}

fn virtual_ips(state: &StateReport) -> String {
    let place = match (state.vips_on, state.lease_ms) {
        (true, Some(lease)) => format!("here, lease {}", duration(lease)),
        (true, None) => "here".to_owned(),
        (false, _) => "not here".to_owned(),
    };
    if state.vips.is_empty() {
        return format!("none configured ({place})");
    }
    // Those that are off though the others are here: their pools failed.
    let off: Vec<&VipReport> = match state.vips_on {
        true => state.vip_list.iter().filter(|vip| !vip.on).collect(),
        false => Vec::new(),
    };
    let is_on = |address: &&String| !off.iter().any(|vip| vip.address == **address);
    let on: Vec<&str> = state
        .vips
        .iter()
        .filter(is_on)
        .map(String::as_str)
        .collect();
    let mut parts = Vec::new();
    if !on.is_empty() {
        parts.push(format!("{} ({place})", on.join(", ")));
    }
    parts.extend(off.iter().map(|vip| {
        let pool = vip.pool.as_deref().unwrap_or("?");
        format!("{} (off: pool {pool} isn't imported)", vip.address)
    }));
    parts.join(", ")
}

fn pools(state: &StateReport) -> String {
    let pools: Vec<String> = state
        .pools
        .iter()
        .map(|pool| format!("{} {}", pool.pool, pool.state))
        .collect();
    match pools.as_slice() {
        [] => "none configured".to_owned(),
        pools => pools.join("; "),
    }
}

fn disk_summary(state: &StateReport) -> String {
    let disks = &state.disks;
    let parts = [
        (disks.ours, "ours"),
        (disks.peer, "the peer's"),
        (disks.foreign, "foreign"),
        (disks.free, "free"),
        (disks.unreadable, "unreadable"),
    ];
    counted(&parts, "none seen")
}

fn links(state: &StateReport, terminal: Terminal) -> Option<String> {
    if state.links.is_empty() {
        return None;
    }
    let mut links = table(terminal);
    links.set_header(["LINK", "NAME", "LAST BEAT"]);
    for link in &state.links {
        links.add_row([link.link.to_string(), link.name.clone(), ago(link.age_ms)]);
    }
    Some(show(&mut links))
}

/// Arbiters, and disks that aren't what they should be.
fn disks(state: &StateReport, terminal: Terminal) -> Option<String> {
    let mut shown: Vec<&DiskReport> = state
        .disk_list
        .iter()
        .filter(|disk| disk.arbiter || gravity(disk) > 0)
        .collect();
    shown.sort_by_key(|disk| (!disk.arbiter, Reverse(gravity(disk))));
    if shown.is_empty() {
        return None;
    }
    let mut disks = table(terminal);
    disks.set_header(["DISK", "ROLE", "OWNER", "EPOCH", "LOOKED AT"]);
    for disk in shown.iter().take(DISKS_NAMED) {
        disks.add_row([
            disk.disk.clone(),
            if disk.arbiter { "arbiter" } else { "" }.to_owned(),
            disk.owner.clone(),
            disk.epoch
                .map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
            ago(disk.age_ms),
        ]);
    }
    let mut text = show(&mut disks);
    if shown.len() > DISKS_NAMED {
        text.push_str(&format!(
            "and {} more: midctl call failover.state\n",
            shown.len() - DISKS_NAMED
        ));
    }
    Some(text)
}

/// How much a disk's owner deserves a look.
fn gravity(disk: &DiskReport) -> u8 {
    match disk.owner.as_str() {
        "ours" | "peer" => 0,
        "free" => 1,
        "unreadable" | "unknown" => 2,
        _ => 3,
    }
}

fn evidence(state: &StateReport, terminal: Terminal) -> Option<String> {
    if state.evidence.is_empty() {
        return None;
    }
    let mut evidence = table(terminal);
    evidence.set_header(["EVIDENCE", "SAW", "WHEN"]);
    for piece in &state.evidence {
        evidence.add_row([piece.source.clone(), piece.saw.clone(), ago(piece.age_ms)]);
    }
    Some(show(&mut evidence))
}

fn timers(state: &StateReport, terminal: Terminal) -> Option<String> {
    if state.timers.is_empty() {
        return None;
    }
    let mut timers = table(terminal);
    timers.set_header(["TIMER", "LEFT"]);
    for timer in &state.timers {
        timers.add_row([timer.timer.clone(), duration(timer.left_ms)]);
    }
    Some(show(&mut timers))
}
