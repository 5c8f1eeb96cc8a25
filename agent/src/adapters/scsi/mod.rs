//! SCSI commands and answers as bytes, both ways, without any I/O.
//!
//! ```text
//!   pr_in    PERSISTENT RESERVE IN     keys, reservation, capabilities, full status
//!   pr_out   PERSISTENT RESERVE OUT    command and parameter list
//!   inquiry  INQUIRY                   standard data, VPD pages 80h and 83h
//!   sense    sense data                why a command ended with CHECK CONDITION
//! ```
//!
//! Clauses are those of SPC-4, by number where it is the same in all its late revisions, else by title. Encoding
//! what only a target sends is there so that tests can go both ways.

pub mod inquiry;
pub mod pr_in;
pub mod pr_out;
pub mod sense;

#[cfg(test)]
mod captured;
#[cfg(test)]
mod fuzz;

/// Type of a persistent reservation (SPC-4 6.15.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationType {
    /// 1h.
    WriteExclusive,
    /// 3h.
    ExclusiveAccess,
    /// 5h: the one that we take.
    WriteExclusiveRegistrantsOnly,
    /// 6h.
    ExclusiveAccessRegistrantsOnly,
    /// 7h: every registrant holds it.
    WriteExclusiveAllRegistrants,
    /// 8h: every registrant holds it.
    ExclusiveAccessAllRegistrants,
    /// Obsolete or reserved codes, 4 bits.
    Other(u8),
}

impl ReservationType {
    /// Every registrant holds it.
    pub const fn is_of_all(self) -> bool {
        matches!(
            self,
            ReservationType::WriteExclusiveAllRegistrants
                | ReservationType::ExclusiveAccessAllRegistrants
        )
    }

    /// The type of a 4-bit code.
    pub fn from_code(code: u8) -> ReservationType {
        match code & 0xf {
            1 => ReservationType::WriteExclusive,
            3 => ReservationType::ExclusiveAccess,
            5 => ReservationType::WriteExclusiveRegistrantsOnly,
            6 => ReservationType::ExclusiveAccessRegistrantsOnly,
            7 => ReservationType::WriteExclusiveAllRegistrants,
            8 => ReservationType::ExclusiveAccessAllRegistrants,
            other => ReservationType::Other(other),
        }
    }

    /// Its 4-bit code.
    pub fn code(self) -> u8 {
        match self {
            ReservationType::WriteExclusive => 1,
            ReservationType::ExclusiveAccess => 3,
            ReservationType::WriteExclusiveRegistrantsOnly => 5,
            ReservationType::ExclusiveAccessRegistrantsOnly => 6,
            ReservationType::WriteExclusiveAllRegistrants => 7,
            ReservationType::ExclusiveAccessAllRegistrants => 8,
            ReservationType::Other(code) => code & 0xf,
        }
    }
}
