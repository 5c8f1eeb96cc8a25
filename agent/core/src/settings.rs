//! Settings that both controllers hold: mirrored in the beats, ordered, durable in both journals.

use crate::ids::Node;
use serde::{Deserialize, Serialize};

/// Settings that operators change at run time. The newer of two is the one with the greater `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Settings {
    /// Order: epoch in force when it was changed, number of the change, who changed it.
    pub version: SettingsVersion,
    /// Automatic failover is held.
    pub disabled: bool,
    /// The preferred controller.
    pub master: Node,
    /// Extra wait between established death and fencing, seconds, 0..=120.
    pub timeout_s: u8,
}

/// Order of two settings (`protocol.md` section 7), ties broken by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct SettingsVersion {
    /// Epoch in force at the change.
    pub epoch: u64,
    /// Number of the change.
    pub sequence: u32,
    /// Who changed it.
    pub by: Node,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            version: SettingsVersion {
                epoch: 0,
                sequence: 0,
                by: Node::A,
            },
            disabled: false,
            master: Node::A,
            timeout_s: 0,
        }
    }
}

/// A change asked for by an operator; `None` changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct SettingsChange {
    /// Hold automatic failover.
    pub disabled: Option<bool>,
    /// Preferred controller.
    pub master: Option<Node>,
    /// Extra wait, seconds.
    pub timeout_s: Option<u8>,
}
