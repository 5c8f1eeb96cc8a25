//! Who holds what on the shared disks, as it was last seen.

use crate::{DiskSummary, Node};
use serde::{Deserialize, Serialize};

/// The reservations on every shared disk (`failover.fence.status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceStatus {
    /// This controller.
    pub node: Node,
    /// Summary over all shared disks.
    pub disks: DiskSummary,
    /// Each disk.
    pub disk_list: Vec<FenceDisk>,
}

/// One shared disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceDisk {
    /// Identity from the configuration.
    pub disk: String,
    /// Member of the arbiter set.
    pub arbiter: bool,
    /// `ours`, `peer`, `foreign`, `free`, `unreadable`, `unknown`.
    pub owner: String,
    /// This controller's paths that are there now, as `sdb (2:0:0:0)`; null where the disks aren't real ones.
    pub paths: Option<Vec<String>>,
    /// Who holds the reservation; null for nobody, and before the first look.
    pub holder: Option<FenceKey>,
    /// Registered keys, each value once; null before the first look. A standby looks at the arbiters alone.
    pub registrations: Option<Vec<FenceKey>>,
    /// Age of what `holder` and `registrations` say, milliseconds.
    pub age_ms: Option<u64>,
    /// Microseconds that the last look took.
    pub look_us: Option<u64>,
    /// Microseconds that the last roll of our key over all paths took.
    pub roll_us: Option<u64>,
    /// Why the last work on it failed; null if it didn't.
    pub failure: Option<String>,
    /// The last `failoverd fence check` of it on this controller.
    pub check: Option<FenceCheck>,
}

/// A registered key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceKey {
    /// The key, 16 hexadecimal digits.
    pub key: String,
    /// Which controller's; null for one that isn't of this pair.
    pub node: Option<Node>,
    /// What its holder was doing: `candidate`, `owner`, `owner-slow`, `offering`, `handing-over`, `restarting`,
    /// `yielded`.
    pub phase: Option<String>,
    /// Low 20 bits of its epoch.
    pub epoch: Option<u32>,
}

/// A check of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceCheck {
    /// When; for people only.
    #[serde(default, rename = "time", with = "crate::date")]
    pub wall_ms: Option<u64>,
    /// Nothing failed.
    pub passed: bool,
    /// Parts that failed.
    pub failed: Vec<String>,
    /// Microseconds that 999 of 1000 READ KEYS took at most.
    pub read_p999_us: Option<u64>,
    /// Microseconds that 999 of 1000 rolls took at most.
    pub roll_p999_us: Option<u64>,
}
