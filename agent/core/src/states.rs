//! The states, and every edge between them with the sentence that says why it is taken.
//!
//! `agent/docs/states.md` is generated from this table. The controller moves along these edges only.

use failover_api::Status;
use serde::{Deserialize, Serialize};

/// What a controller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Counts its incarnation, makes sure that nothing of an earlier run is left.
    Starting,
    /// Was restarted on the owner: looks whether the disks are still its own.
    Adopting,
    /// No owner is known.
    Electing,
    /// The peer owns.
    Standby,
    /// Looks at the arbiters once more before it takes them.
    Surveying,
    /// Takes the arbiters, the first one alone.
    FencingArbiters,
    /// Holds a majority; takes the rest.
    FencingRest,
    /// Imports the pools.
    Importing,
    /// Starts the services.
    StartingServices,
    /// Waits until the old lease must have lapsed, brings the addresses up.
    Announcing,
    /// Serves.
    Active,
    /// Owns the disks, but its pools or services failed.
    Failed,
    /// Handover: takes the addresses off.
    RemovingVips,
    /// Handover: stops the services.
    StoppingServices,
    /// Handover: exports the pools.
    Exporting,
    /// Handover: writes phase handing-over on the keys.
    WritingHandover,
    /// Handover: the peer may take.
    HandedOver,
    /// Handover: the peer didn't take; rolls back to owner.
    Reverting,
    /// Announces its restart on the disks and to the peer.
    Restarting,
    /// Lost a race: drops what it took.
    Yielding,
    /// Leaves: says so and ends.
    Stopping,
    /// Reset itself too often, or has something here that can't be cleaned up: registered nowhere, waits for an operator.
    Held,
    /// Asked for the machine's reset.
    Halted,
}

impl State {
    /// Every state.
    pub const ALL: [State; 23] = [
        State::Starting,
        State::Adopting,
        State::Electing,
        State::Standby,
        State::Surveying,
        State::FencingArbiters,
        State::FencingRest,
        State::Importing,
        State::StartingServices,
        State::Announcing,
        State::Active,
        State::Failed,
        State::RemovingVips,
        State::StoppingServices,
        State::Exporting,
        State::WritingHandover,
        State::HandedOver,
        State::Reverting,
        State::Restarting,
        State::Yielding,
        State::Stopping,
        State::Held,
        State::Halted,
    ];

    /// Its name in logs and documents.
    pub const fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Adopting => "adopting",
            State::Electing => "electing",
            State::Standby => "standby",
            State::Surveying => "surveying",
            State::FencingArbiters => "fencing-arbiters",
            State::FencingRest => "fencing-rest",
            State::Importing => "importing",
            State::StartingServices => "starting-services",
            State::Announcing => "announcing",
            State::Active => "active",
            State::Failed => "failed",
            State::RemovingVips => "removing-vips",
            State::StoppingServices => "stopping-services",
            State::Exporting => "exporting",
            State::WritingHandover => "writing-handover",
            State::HandedOver => "handed-over",
            State::Reverting => "reverting",
            State::Restarting => "restarting",
            State::Yielding => "yielding",
            State::Stopping => "stopping",
            State::Held => "held",
            State::Halted => "halted",
        }
    }

    /// The public word of a member of a pair.
    pub const fn status(self) -> Status {
        match self {
            State::Starting
            | State::Adopting
            | State::Electing
            | State::Surveying
            | State::FencingArbiters
            | State::FencingRest
            | State::RemovingVips
            | State::StoppingServices
            | State::Exporting
            | State::WritingHandover
            | State::Reverting
            | State::Yielding => Status::Electing,
            State::Importing | State::StartingServices | State::Announcing => Status::Importing,
            State::Active | State::Restarting => Status::Master,
            State::Standby | State::HandedOver | State::Stopping => Status::Backup,
            State::Failed | State::Held | State::Halted => Status::Error,
        }
    }

    /// Holds a majority of the disks: must watch over its keys, and halts when it loses them.
    pub const fn owns(self) -> bool {
        match self {
            State::FencingRest
            | State::Importing
            | State::StartingServices
            | State::Announcing
            | State::Active
            | State::Failed
            | State::RemovingVips
            | State::StoppingServices
            | State::Exporting
            | State::Restarting => true,
            State::Starting
            | State::Adopting
            | State::Electing
            | State::Standby
            | State::Surveying
            | State::FencingArbiters
            | State::WritingHandover
            | State::HandedOver
            | State::Reverting
            | State::Yielding
            | State::Stopping
            | State::Held
            | State::Halted => false,
        }
    }
}

/// One edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// State left.
    pub from: State,
    /// State entered.
    pub to: State,
    /// Why it is taken.
    pub why: &'static str,
}

macro_rules! edges {
    ($($name:ident: $from:ident => $to:ident, $why:literal;)*) => {
        $(#[doc = $why] pub const $name: Edge = Edge { from: State::$from, to: State::$to, why: $why };)*
        /// Every edge of the state machine.
        pub const EDGES: &[Edge] = &[$($name,)*];
    };
}

edges! {
    START_CLEAN: Starting => Electing, "its incarnation is durable and nothing of an earlier run is left";
    START_HELD: Starting => Held, "it reset itself twice without working that off; it stays away until an operator looks";
    START_UNCLEAN: Starting => Held, "what is left here can't be cleaned up, and no run in this boot imported it: a reset would not clear it";
    START_STUCK: Starting => Halted, "what an earlier run in this boot may have imported can't be cleaned up: only a reset clears it";
    START_STOP: Starting => Stopping, "it was told to stop before it had started, and nothing of an earlier run is left";
    ADOPT: Adopting => Importing, "the disks still show its key of this very boot: it goes on owning";
    ADOPT_NOT_OURS: Adopting => Halted, "it owned in this boot, but the disks are no longer its own";
    ADOPT_UNKNOWN: Adopting => Halted, "it owned in this boot and can't read a majority of the disks: unknown counts as lost";
    PEER_OWNS: Electing => Standby, "the peer says, or the disks show, that it owns";
    PEER_RESIGNED: Standby => Electing, "the peer lives and does not own";
    ELECTED: Electing => Surveying, "nobody owns and it is this controller's turn";
    PEER_DEAD_AT_START: Electing => Surveying, "links and disks are silent: whoever owned before is dead";
    FORCED_ELECTING: Electing => Surveying, "an operator told it to take over";
    PEER_DEAD: Standby => Surveying, "links and disks are silent: the owner is dead";
    HANDED_TO_US: Standby => Surveying, "the owner has exported and wrote handing-over on a majority of the arbiters";
    NOT_SERVING: Standby => Surveying, "the owner lives but has not served for not_serving_ms, and did not hand over when asked";
    FORCED: Standby => Surveying, "an operator told it to take over";
    SURVEY_ALIVE: Surveying => Electing, "the second look showed a sign of life";
    SURVEY_FAILED: Surveying => Electing, "too few disks could be read";
    SURVEYED: Surveying => FencingArbiters, "a majority of the arbiters was read again and nothing moved";
    MAJORITY_WON: FencingArbiters => FencingRest, "it holds a majority of the arbiters";
    RACE_LOST: FencingArbiters => Yielding, "another key came in between, or too few disks answered";
    REST_LOST: FencingRest => Yielding, "fewer than half of all shared disks could be taken";
    REST_FENCED: FencingRest => Importing, "every disk was taken or given up, and more than half are held";
    IMPORT_FAILED: Importing => Failed, "no pool could be imported, the disks could not be shown to be its own, or the owner record could not be written";
    IMPORTED: Importing => StartingServices, "the pools are imported";
    SERVICES_FAILED: StartingServices => Failed, "the services did not start";
    SERVICES_UP: StartingServices => Announcing, "the services are up";
    VIPS_FAILED: Announcing => Failed, "the virtual addresses could not be brought up, or nothing proved their lease";
    SERVING: Announcing => Active, "fenced, imported, services up, addresses on: it serves";
    LEASE_LOST: Active => Announcing, "the kernel lost the lease: the addresses go off and come back by proof";
    HAND_OVER: Active => RemovingVips, "a planned handover began";
    FAILED_HANDS_OVER: Failed => RemovingVips, "it can't serve and the peer can";
    RETRY: Failed => Importing, "it can't serve, nobody else can either: it tries again";
    VIPS_OFF: RemovingVips => StoppingServices, "the addresses are off: clients hear silence and retry";
    VIPS_STUCK: RemovingVips => Importing, "the addresses could not be taken off: the handover is reverted";
    SERVICES_OFF: StoppingServices => Exporting, "the services are stopped";
    SERVICES_STUCK: StoppingServices => Importing, "the services could not be stopped: the handover is reverted";
    EXPORTED: Exporting => WritingHandover, "the export is proved";
    EXPORT_FAILED: Exporting => Importing, "a pool could not be exported: the handover is reverted";
    EXPORT_STUCK: Exporting => Halted, "an export did not end within export_ms and can't be left";
    HANDOVER_WRITTEN: WritingHandover => HandedOver, "a majority of the arbiters says handing-over";
    HANDOVER_UNWRITTEN: WritingHandover => Reverting, "the arbiters did not take handing-over in time";
    HANDOVER_PEER_TOOK_EARLY: WritingHandover => Standby, "the peer took the disks before all keys were written";
    COMMITTED: HandedOver => Standby, "the peer holds a majority: the handover is committed";
    NOT_TAKEN: HandedOver => Reverting, "the peer did not take within handover_ms";
    LEFT: HandedOver => Stopping, "it is leaving, and the disks are free for the peer";
    REVERTED: Reverting => Importing, "a majority of the arbiters says owner again, read back";
    REVERT_TAKEN: Reverting => Standby, "the peer has taken the disks meanwhile, or too few could be rolled back";
    RESTART: Active => Restarting, "its daemon will be back within restart_ms";
    YIELDED: Yielding => Electing, "it dropped what it had taken";
    STOP_ELECTING: Electing => Stopping, "it was told to stop";
    STOP_STANDBY: Standby => Stopping, "it was told to stop";
    STOP_HELD: Held => Stopping, "it was told to stop";
    CLEANED: Held => Electing, "what was left here is cleaned up";
    RELEASED: Held => Electing, "reset_hold_min passed without a reset, or an operator let it go on";
    HALT_FENCING: FencingRest => Halted, "it lost the disks";
    HALT_IMPORTING: Importing => Halted, "it lost the disks";
    HALT_SERVICES: StartingServices => Halted, "it lost the disks";
    HALT_ANNOUNCING: Announcing => Halted, "it lost the disks";
    HALT_ACTIVE: Active => Halted, "it lost the disks";
    HALT_FAILED: Failed => Halted, "it lost the disks";
    HALT_VIPS_OFF: RemovingVips => Halted, "it lost the disks";
    HALT_STOPPING: StoppingServices => Halted, "it lost the disks";
    HALT_EXPORTING: Exporting => Halted, "it lost the disks";
    HALT_RESTARTING: Restarting => Halted, "it lost the disks";
}
