//! Reasons why automatic failover would not happen, in words.

use crate::DisabledReason;
use serde_json::Value;
use std::fmt;

impl DisabledReason {
    /// All of them.
    pub const ALL: [DisabledReason; 14] = [
        DisabledReason::NoFailover,
        DisabledReason::LocFailoverOngoing,
        DisabledReason::RemFailoverOngoing,
        DisabledReason::NoHeartbeatIface,
        DisabledReason::NoCarrierOnHeartbeat,
        DisabledReason::NoCriticalInterfaces,
        DisabledReason::NoVip,
        DisabledReason::NoFenced,
        DisabledReason::NoVolume,
        DisabledReason::NoPong,
        DisabledReason::NoSystemReady,
        DisabledReason::MismatchVersions,
        DisabledReason::MismatchDisks,
        DisabledReason::DisagreeVip,
    ];

    /// What it means and what to do, as one sentence.
    pub const fn explanation(self) -> &'static str {
        match self {
            DisabledReason::NoFailover => {
                "automatic failover is disabled: enable it with midctl call failover.update '{\"disabled\": false}'"
            }
            DisabledReason::LocFailoverOngoing => {
                "a takeover or handover runs on this controller: wait for its end"
            }
            DisabledReason::RemFailoverOngoing => {
                "a takeover or handover runs on the other controller: wait for its end"
            }
            DisabledReason::NoHeartbeatIface => {
                "no heartbeat link is configured: add at least one to the configuration"
            }
            DisabledReason::NoCarrierOnHeartbeat => {
                "no heartbeat link has a carrier: check the cables between the controllers"
            }
            DisabledReason::NoCriticalInterfaces => {
                "no critical interface is configured, so the loss of the clients' network goes unnoticed"
            }
            DisabledReason::NoVip => {
                "no virtual address is configured: clients can't follow the service"
            }
            DisabledReason::NoFenced => {
                "this controller serves without holding the reservations: see its disks"
            }
            DisabledReason::NoVolume => "this controller owns the disks but has no pool imported",
            DisabledReason::NoPong => {
                "the peer isn't heard on any link: check its power and the heartbeat links"
            }
            DisabledReason::NoSystemReady => {
                "the peer is there but can't take over: midctl status says why"
            }
            DisabledReason::MismatchVersions => {
                "the two controllers run different versions: finish the upgrade"
            }
            DisabledReason::MismatchDisks => {
                "the two controllers see different disks: check cabling and enclosure"
            }
            DisabledReason::DisagreeVip => {
                "the two controllers disagree about who has the virtual addresses"
            }
        }
    }
}

impl fmt::Display for DisabledReason {
    /// The word on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(Value::String(word)) => f.write_str(&word),
            _ => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Shape;

    #[test]
    fn all_of_them_are_listed() {
        let words = DisabledReason::ALL.map(|reason| reason.to_string());
        let Shape::Word { words: known, .. } = Shape::of::<DisabledReason>() else {
            panic!("DisabledReason is an enum of words");
        };
        assert_eq!(words, known);
    }
}
