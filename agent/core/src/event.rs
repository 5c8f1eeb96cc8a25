//! What the core is told.

use crate::action::Outcome;
use crate::beat::Beat;
use crate::ids::{LinkId, OpId, RequestId};
use crate::settings::SettingsChange;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// The moment of `next_timeout` has come. The shell delivers every datagram that is already queued first.
    Wake,
    /// An authenticated beat of the pair came in on a link.
    Beat {
        /// Which link.
        link: LinkId,
        /// The kernel's receive stamp.
        received: Instant,
        /// What it says.
        beat: Box<Beat>,
    },
    /// Work ended.
    Done {
        /// Its number.
        op: OpId,
        /// How long work on a disk waited for its turn, before its first command was sent.
        #[serde(default)]
        waited: Duration,
        /// How.
        outcome: Outcome,
    },
    /// An operator asks; answered by `Action::Reply`.
    Command {
        /// Number of the request.
        request: RequestId,
        /// What.
        command: Command,
    },
    /// The critical interfaces of the clients' network gained or lost their carrier (all of them lost: `false`).
    Lan {
        /// At least one has a carrier.
        up: bool,
    },
    /// A heartbeat link gained or lost its carrier.
    Link {
        /// Which.
        link: LinkId,
        /// It has a carrier.
        up: bool,
    },
    /// The kernel refused to renew the VIP lease: it has lapsed, or its table is gone.
    LeaseLost,
    /// SIGTERM.
    Stop {
        /// The daemon comes back at once: keep serving meanwhile.
        restart: bool,
    },
}

/// What operators may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Command {
    /// Hand over to the peer; answered once the peer serves, or with an error if it was reverted.
    BecomePassive,
    /// Take over now, whether the peer lives or not.
    ForceMaster,
    /// Change settings; answered once durable here.
    Update(SettingsChange),
}
