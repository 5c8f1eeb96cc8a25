//! Persistent reservation commands as data (SPC-4 sections 5.9, 6.15 and 6.16; NVMe maps onto the same set).
//!
//! The type is always Write Exclusive – Registrants Only: every registrant may write, nobody else.

use serde::{Deserialize, Serialize};

/// One command on one path of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum PrCommand {
    /// READ KEYS.
    ReadKeys,
    /// READ RESERVATION.
    ReadReservation,
    /// READ FULL STATUS: keys and reservation at one moment. Optional: a target without it answers ILLEGAL REQUEST.
    ReadFull,
    /// REGISTER: replaces `old`, which this path must hold, by `new`; `new` 0 unregisters.
    Register {
        /// Key that this path holds.
        old: u64,
        /// Key that it shall hold.
        new: u64,
    },
    /// REGISTER AND IGNORE EXISTING KEY: only at the start of a takeover and in the emergency clear.
    RegisterIgnore {
        /// Key that this path shall hold.
        new: u64,
    },
    /// RESERVE, Write Exclusive – Registrants Only.
    Reserve {
        /// Key that this path holds.
        key: u64,
    },
    /// PREEMPT: removes the registrations with key `victim`, and takes the reservation if `victim` holds it.
    Preempt {
        /// Key that this path holds.
        own: u64,
        /// Key to remove.
        victim: u64,
    },
    /// PREEMPT AND ABORT: as PREEMPT, and the victim's commands in the disk are gone when it returns.
    PreemptAbort {
        /// Key that this path holds.
        own: u64,
        /// Key to remove.
        victim: u64,
    },
    /// RELEASE: ends the reservation; registrations stay.
    Release {
        /// Key that this path holds.
        key: u64,
    },
    /// CLEAR: removes every registration and the reservation.
    Clear {
        /// Key that this path holds.
        key: u64,
    },
}

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum PrReply {
    /// GOOD, nothing to say.
    Good,
    /// READ KEYS: the registered keys; a key stands once for each path that holds it.
    Keys {
        /// PRgeneration.
        generation: u32,
        /// Keys, in the disk's order.
        keys: Vec<u64>,
    },
    /// READ RESERVATION.
    Reservation {
        /// PRgeneration.
        generation: u32,
        /// Key of the holder; `None` without a reservation.
        holder: Option<u64>,
        /// The reservation's type is Write Exclusive – Registrants Only.
        wero: bool,
    },
    /// READ FULL STATUS.
    Full {
        /// PRgeneration.
        generation: u32,
        /// Keys, one for each registered path, in the disk's order.
        keys: Vec<u64>,
        /// Key of the holder; `None` without a reservation.
        holder: Option<u64>,
        /// The reservation's type is Write Exclusive – Registrants Only.
        wero: bool,
    },
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum PrError {
    /// RESERVATION CONFLICT: the key named isn't the one registered, or this path isn't registered.
    Conflict,
    /// UNIT ATTENTION: nothing was done; the text says which.
    UnitAttention(String),
    /// ILLEGAL REQUEST: the target can't do it.
    Illegal(String),
    /// The path failed or the command's time ran out: it may have been carried out or not.
    Transport(String),
}
