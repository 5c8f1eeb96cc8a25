//! Events that a client can subscribe to (`core.subscribe`).

use crate::schema::Shape;
use crate::{DisabledReason, Status, frame};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// An event.
pub struct Event {
    /// Its name, the `collection` of the notice.
    pub name: &'static str,
    /// What it tells and when.
    pub doc: &'static str,
    /// Kind of change: `changed`, or `added, changed`.
    pub msg: &'static str,
    /// What its `fields` look like.
    pub fields: fn() -> Shape,
}

/// Fields of `failover.status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusEvent {
    /// The public state entered.
    pub status: Status,
}

/// Fields of `failover.disabled.reasons`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisabledReasonsEvent {
    /// All reasons that hold now.
    pub disabled_reasons: Vec<DisabledReason>,
}

/// Subscribes to every event.
pub const ALL: &str = "*";

/// Every event, by name.
pub static EVENTS: &[Event] = &[
    Event {
        name: "core.get_jobs",
        doc: "Jobs of this connection. There are none yet; clients subscribe before their first call.",
        msg: "added, changed",
        fields: || Shape::Object,
    },
    Event {
        name: "failover.disabled.reasons",
        doc: "The reasons why automatic failover would not happen have changed.",
        msg: "changed",
        fields: Shape::of::<DisabledReasonsEvent>,
    },
    Event {
        name: "failover.status",
        doc: "The public state of this controller has changed. Each state is told, in order.",
        msg: "changed",
        fields: Shape::of::<StatusEvent>,
    },
];

/// The event of that name.
pub fn find(name: &str) -> Option<&'static Event> {
    EVENTS.iter().find(|event| event.name == name)
}

/// The notice that the public state changed.
pub fn status_changed(status: Status) -> String {
    frame::changed("failover.status", json!(StatusEvent { status }))
}

/// The notice that the reasons changed.
pub fn disabled_reasons_changed(disabled_reasons: Vec<DisabledReason>) -> String {
    frame::changed(
        "failover.disabled.reasons",
        json!(DisabledReasonsEvent { disabled_reasons }),
    )
}
