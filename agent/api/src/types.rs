//! Values of the control API. Fields are only ever added, never renamed or removed.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Place of a controller in the enclosure. `A` breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Node {
    /// First controller.
    A,
    /// Second controller.
    B,
}

impl Node {
    /// The other controller of the pair.
    pub const fn other(self) -> Node {
        match self {
            Node::A => Node::B,
            Node::B => Node::A,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Node::A => "A",
            Node::B => "B",
        })
    }
}

/// Public state of a controller, exactly these six words (`failover.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Serving: fenced, imported, services up, virtual addresses on.
    Master,
    /// Standby, or under maintenance.
    Backup,
    /// Starting, electing, surveying or fencing.
    Electing,
    /// Importing pools, starting services, bringing up addresses.
    Importing,
    /// Not provisioned as a member of a pair.
    Single,
    /// Halted, or its pools failed.
    Error,
}

impl Status {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Status::Master => "MASTER",
            Status::Backup => "BACKUP",
            Status::Electing => "ELECTING",
            Status::Importing => "IMPORTING",
            Status::Single => "SINGLE",
            Status::Error => "ERROR",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why automatic failover would not happen now (`failover.disabled.reasons`).
/// Names are those of TrueNAS; only those that can be true here are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DisabledReason {
    /// Administratively disabled.
    NoFailover,
    /// A takeover or handover runs on this controller.
    LocFailoverOngoing,
    /// A takeover or handover runs on the other controller.
    RemFailoverOngoing,
    /// No heartbeat link is configured.
    NoHeartbeatIface,
    /// No heartbeat link has a carrier.
    NoCarrierOnHeartbeat,
    /// No critical interface is configured.
    NoCriticalInterfaces,
    /// No virtual address is configured.
    NoVip,
    /// Serving without holding the reservations.
    NoFenced,
    /// Owner without any imported pool.
    NoVolume,
    /// The peer isn't heard on any link.
    NoPong,
    /// The peer is there but not ready to take over.
    NoSystemReady,
    /// The two controllers run different versions.
    MismatchVersions,
    /// The two controllers see different disks.
    MismatchDisks,
    /// The two controllers disagree about who has the virtual addresses.
    DisagreeVip,
}

/// Failover settings as one controller sees them (`failover.config`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverConfig {
    /// Always 1; kept for compatibility.
    pub id: u32,
    /// Automatic failover is held.
    pub disabled: bool,
    /// This controller is the preferred one (computed per node).
    pub master: bool,
    /// Extra wait between established death and fencing, seconds, 0..=120.
    pub timeout: u32,
}

/// A change of the settings (`failover.update`); an omitted key changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverUpdate {
    /// Hold automatic failover on both controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Make this controller (true) or the other one (false) the preferred one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<bool>,
    /// Extra wait between established death and fencing, seconds, 0..=120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// One source of evidence about the peer and how old it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was looked at: `link 0`, `disk 5000c500a1`, `peer's word`, `own stall`.
    pub source: String,
    /// What it said, in words.
    pub saw: String,
    /// How old it was when it was used, milliseconds; absent if never seen.
    pub age_ms: Option<u64>,
}

/// Time spent in one phase of a takeover or handover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// `detect`, `decide`, `fence`, `import`, `services`, `vip`, or of the old owner `vips off`, `stop services`,
    /// `export`, `hand over`.
    pub phase: String,
    /// Microseconds spent.
    pub micros: u64,
    /// Budget, milliseconds; longer is worth a look.
    pub budget_ms: u64,
}

/// One transition of the state machine (`failover.history`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Number of the record on this controller, growing by one.
    pub seq: u64,
    /// Microseconds of CLOCK_BOOTTIME.
    pub at_micros: u64,
    /// Wall-clock time, milliseconds since 1970, filled in by the daemon; for people only.
    #[serde(default, rename = "time", with = "crate::date")]
    pub wall_ms: Option<u64>,
    /// Which controller.
    pub node: Node,
    /// Internal state left.
    pub from: String,
    /// Internal state entered.
    pub to: String,
    /// Public state after it.
    pub status: Status,
    /// Which rule fired, as a sentence.
    pub why: String,
    /// What was seen, and how old it was.
    pub evidence: Vec<Evidence>,
    /// Epoch in force after it.
    pub epoch: u64,
    /// Timings of the phases that ended with this transition.
    pub phases: Vec<PhaseTime>,
}

/// A recorded stretch of time that can be replayed (`failover.incident.list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// When it was kept and what for: `2026-11-28T15:50:12Z-surveying`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A part of an incident (`failover.incident.read`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentPart {
    /// The bytes, two hexadecimal digits each.
    pub hex: String,
    /// Length of the whole incident, bytes.
    pub length: u64,
}

/// How grave a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Normal course.
    Info,
    /// Somebody should look at it in working hours.
    Warning,
    /// Somebody should look at it now.
    Alarm,
}

/// A message to operators, with a stable name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Stable name, for example `FENCE_MINORITY_LOST`.
    pub id: String,
    /// How grave.
    pub severity: Severity,
    /// One sentence with the facts filled in.
    pub text: String,
}

/// What one controller knows about one shared disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Name from the configuration (WWN, EUI or the shelf's name).
    pub disk: String,
    /// Member of the arbiter set.
    pub arbiter: bool,
    /// `ours`, `peer`, `foreign`, `free`, `unreadable`, `unknown`.
    pub owner: String,
    /// Epoch in the owner's key (20 bits of it).
    pub epoch: Option<u32>,
    /// Age of the last successful look, milliseconds.
    pub age_ms: Option<u64>,
}

/// Summary of the reservations over all shared disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSummary {
    /// Disks held by this controller.
    pub ours: u32,
    /// Disks held by the peer.
    pub peer: u32,
    /// Disks with keys of neither.
    pub foreign: u32,
    /// Disks without any key.
    pub free: u32,
    /// Disks that can't be read.
    pub unreadable: u32,
}

/// One heartbeat link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Number in the configuration's order.
    pub link: u8,
    /// Interface or address, for people; filled in by the daemon.
    #[serde(default)]
    pub name: String,
    /// Age of the last valid beat, milliseconds.
    pub age_ms: Option<u64>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Name from the configuration.
    pub pool: String,
    /// `imported`, `exported`, `failed: …`, `unknown`.
    pub state: String,
}

/// One virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipReport {
    /// The address with its prefix length.
    pub address: String,
    /// Name of the pool that it belongs to; absent where it belongs to none.
    pub pool: Option<String>,
    /// It is on at this controller.
    pub on: bool,
}

/// What this controller believes of the other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Heard on some link within `dead_ms`.
    pub heard: bool,
    /// Its last public state, if it was ever heard.
    pub status: Option<Status>,
    /// Age of its last beat, milliseconds.
    pub age_ms: Option<u64>,
    /// Epoch it last named.
    pub epoch: Option<u64>,
    /// It can take over now.
    pub eligible: bool,
    /// Why not, in words; empty if it can.
    pub blockers: Vec<String>,
    /// Version it runs.
    pub version: Option<String>,
}

/// Everything one controller knows of the pair (`failover.state`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// This controller.
    pub node: Node,
    /// Public state.
    pub status: Status,
    /// Internal state, finer than the public one.
    pub state: String,
    /// Why it is in this state: the sentence of the last edge.
    pub why: String,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Epoch in force.
    pub epoch: u64,
    /// Boot counter in this controller's keys.
    pub incarnation: u16,
    /// This controller can take over now.
    pub eligible: bool,
    /// Why not, in words.
    pub blockers: Vec<String>,
    /// Settings in force.
    pub config: FailoverConfig,
    /// Reasons why automatic failover would not happen.
    pub disabled_reasons: Vec<DisabledReason>,
    /// The other controller; absent when not provisioned as a pair.
    pub peer: Option<PeerReport>,
    /// Heartbeat links.
    pub links: Vec<LinkReport>,
    /// Every evidence source with its age.
    pub evidence: Vec<Evidence>,
    /// Summary over all shared disks.
    pub disks: DiskSummary,
    /// Each disk.
    pub disk_list: Vec<DiskReport>,
    /// Pools.
    pub pools: Vec<PoolReport>,
    /// Virtual addresses; filled in by the daemon.
    #[serde(default)]
    pub vips: Vec<String>,
    /// Each virtual address; filled in by the daemon.
    #[serde(default)]
    pub vip_list: Vec<VipReport>,
    /// The virtual addresses are on this controller, apart from those of pools that aren't imported.
    pub vips_on: bool,
    /// Milliseconds until the VIP lease lapses; absent without one.
    pub lease_ms: Option<u64>,
    /// Timers that are running, with the milliseconds left.
    pub timers: Vec<TimerReport>,
}

/// A running timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerReport {
    /// Its name.
    pub timer: String,
    /// Milliseconds left.
    pub left_ms: u64,
}
