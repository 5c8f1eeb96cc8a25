//! Sense data (SPC-4 4.5): why a command ended with CHECK CONDITION.

use crate::adapters::fields::{DecodeError, Fields};
use std::fmt;

/// Longest sense data (SPC-4 4.5.1).
pub const SENSE_MAX: usize = 252;

/// Sense key (SPC-4 4.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenseKey {
    /// 0h.
    NoSense,
    /// 1h: the command succeeded.
    RecoveredError,
    /// 2h.
    NotReady,
    /// 3h.
    MediumError,
    /// 4h.
    HardwareError,
    /// 5h: the target can't do what was asked.
    IllegalRequest,
    /// 6h: something happened before; the command wasn't carried out.
    UnitAttention,
    /// 7h.
    DataProtect,
    /// 8h.
    BlankCheck,
    /// 9h.
    VendorSpecific,
    /// Ah.
    CopyAborted,
    /// Bh: the command may have been carried out or not.
    AbortedCommand,
    /// Ch, and reserved ones.
    Reserved(u8),
    /// Dh.
    VolumeOverflow,
    /// Eh.
    Miscompare,
    /// Fh: the command succeeded.
    Completed,
}

impl SenseKey {
    /// The key of a 4-bit code.
    pub fn from_code(code: u8) -> SenseKey {
        match code & 0xf {
            0 => SenseKey::NoSense,
            1 => SenseKey::RecoveredError,
            2 => SenseKey::NotReady,
            3 => SenseKey::MediumError,
            4 => SenseKey::HardwareError,
            5 => SenseKey::IllegalRequest,
            6 => SenseKey::UnitAttention,
            7 => SenseKey::DataProtect,
            8 => SenseKey::BlankCheck,
            9 => SenseKey::VendorSpecific,
            0xa => SenseKey::CopyAborted,
            0xb => SenseKey::AbortedCommand,
            0xd => SenseKey::VolumeOverflow,
            0xe => SenseKey::Miscompare,
            0xf => SenseKey::Completed,
            other => SenseKey::Reserved(other),
        }
    }

    /// Its 4-bit code.
    pub fn code(self) -> u8 {
        match self {
            SenseKey::NoSense => 0,
            SenseKey::RecoveredError => 1,
            SenseKey::NotReady => 2,
            SenseKey::MediumError => 3,
            SenseKey::HardwareError => 4,
            SenseKey::IllegalRequest => 5,
            SenseKey::UnitAttention => 6,
            SenseKey::DataProtect => 7,
            SenseKey::BlankCheck => 8,
            SenseKey::VendorSpecific => 9,
            SenseKey::CopyAborted => 0xa,
            SenseKey::AbortedCommand => 0xb,
            SenseKey::Reserved(code) => code & 0xf,
            SenseKey::VolumeOverflow => 0xd,
            SenseKey::Miscompare => 0xe,
            SenseKey::Completed => 0xf,
        }
    }

    /// Its name in the standard.
    pub fn words(self) -> &'static str {
        match self {
            SenseKey::NoSense => "NO SENSE",
            SenseKey::RecoveredError => "RECOVERED ERROR",
            SenseKey::NotReady => "NOT READY",
            SenseKey::MediumError => "MEDIUM ERROR",
            SenseKey::HardwareError => "HARDWARE ERROR",
            SenseKey::IllegalRequest => "ILLEGAL REQUEST",
            SenseKey::UnitAttention => "UNIT ATTENTION",
            SenseKey::DataProtect => "DATA PROTECT",
            SenseKey::BlankCheck => "BLANK CHECK",
            SenseKey::VendorSpecific => "VENDOR SPECIFIC",
            SenseKey::CopyAborted => "COPY ABORTED",
            SenseKey::AbortedCommand => "ABORTED COMMAND",
            SenseKey::Reserved(_) => "RESERVED SENSE KEY",
            SenseKey::VolumeOverflow => "VOLUME OVERFLOW",
            SenseKey::Miscompare => "MISCOMPARE",
            SenseKey::Completed => "COMPLETED",
        }
    }
}

/// Sense data, as far as we use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// It tells of an earlier command; the one that it came with was ended without effect (SPC-4 4.5.7).
    pub deferred: bool,
    /// The kind.
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE; 0 where the target gives none.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

impl Sense {
    /// Reads fixed (SPC-4 4.5.3) or descriptor (4.5.2) format.
    ///
    /// # Errors
    /// Another response code, or too few bytes for a sense key.
    pub fn decode(bytes: &[u8]) -> Result<Sense, DecodeError> {
        let fields = Fields::new("sense data", bytes);
        let response = fields.u8(0)? & 0x7f;
        let (key, asc, ascq) = match response {
            0x70 | 0x71 => {
                let key = fields.u8(2)?;
                // ADDITIONAL SENSE LENGTH counts from byte 8; codes beyond it, or that were cut off, are none.
                let there = bytes.get(7).map_or(0, |more| 8 + usize::from(*more));
                let at = |place: usize| match place < there {
                    true => bytes.get(place).copied().unwrap_or(0),
                    false => 0,
                };
                (key, at(12), at(13))
            }
            0x72 | 0x73 => (fields.u8(1)?, fields.u8(2)?, fields.u8(3)?),
            other => {
                let rule = "it is 70h to 73h";
                return Err(fields.wrong("RESPONSE CODE", other.into(), rule));
            }
        };
        Ok(Sense {
            deferred: response & 1 == 1,
            key: SenseKey::from_code(key),
            asc,
            ascq,
        })
    }

    /// Fixed format, 18 bytes.
    pub fn encode_fixed(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[0] = 0x70 | u8::from(self.deferred);
        bytes[2] = self.key.code();
        bytes[7] = 10;
        (bytes[12], bytes[13]) = (self.asc, self.ascq);
        bytes
    }

    /// Descriptor format without descriptors, 8 bytes.
    pub fn encode_descriptor(&self) -> [u8; 8] {
        let response = 0x72 | u8::from(self.deferred);
        let key = self.key.code();
        [response, key, self.asc, self.ascq, 0, 0, 0, 0]
    }

    /// The codes in the standard's words (its annex of additional sense codes); `None` for those that we have no
    /// use for.
    pub fn words(&self) -> Option<&'static str> {
        Some(match (self.asc, self.ascq) {
            (0x04, 0x00) => "LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE",
            (0x04, 0x01) => "LOGICAL UNIT IS IN PROCESS OF BECOMING READY",
            (0x04, 0x02) => "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED",
            (0x04, 0x03) => "LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED",
            (0x04, 0x04) => "LOGICAL UNIT NOT READY, FORMAT IN PROGRESS",
            (0x04, 0x0a) => "LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION",
            (0x04, 0x0b) => "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE",
            (0x04, 0x0c) => "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE",
            (0x04, 0x1b) => "LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS",
            (0x08, _) => "LOGICAL UNIT COMMUNICATION FAILURE",
            (0x1a, 0x00) => "PARAMETER LIST LENGTH ERROR",
            (0x20, 0x00) => "INVALID COMMAND OPERATION CODE",
            (0x24, 0x00) => "INVALID FIELD IN CDB",
            (0x25, 0x00) => "LOGICAL UNIT NOT SUPPORTED",
            (0x26, 0x00) => "INVALID FIELD IN PARAMETER LIST",
            (0x26, 0x04) => "INVALID RELEASE OF PERSISTENT RESERVATION",
            (0x29, 0x00) => "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
            (0x29, 0x01) => "POWER ON OCCURRED",
            (0x29, 0x02) => "SCSI BUS RESET OCCURRED",
            (0x29, 0x03) => "BUS DEVICE RESET FUNCTION OCCURRED",
            (0x29, 0x04) => "DEVICE INTERNAL RESET",
            (0x29, 0x05) => "TRANSCEIVER MODE CHANGED TO SINGLE-ENDED",
            (0x29, 0x06) => "TRANSCEIVER MODE CHANGED TO LVD",
            (0x29, 0x07) => "I_T NEXUS LOSS OCCURRED",
            (0x2a, 0x00) => "PARAMETERS CHANGED",
            (0x2a, 0x01) => "MODE PARAMETERS CHANGED",
            (0x2a, 0x03) => "RESERVATIONS PREEMPTED",
            (0x2a, 0x04) => "RESERVATIONS RELEASED",
            (0x2a, 0x05) => "REGISTRATIONS PREEMPTED",
            (0x2a, 0x06) => "ASYMMETRIC ACCESS STATE CHANGED",
            (0x2a, 0x09) => "CAPACITY DATA HAS CHANGED",
            (0x2f, 0x00) => "COMMANDS CLEARED BY ANOTHER INITIATOR",
            (0x3a, _) => "MEDIUM NOT PRESENT",
            (0x3e, _) => "LOGICAL UNIT FAILURE",
            (0x3f, 0x01) => "MICROCODE HAS BEEN CHANGED",
            (0x3f, 0x03) => "INQUIRY DATA HAS CHANGED",
            (0x3f, 0x0e) => "REPORTED LUNS DATA HAS CHANGED",
            (0x44, 0x00) => "INTERNAL TARGET FAILURE",
            (0x47, _) => "SCSI PARITY ERROR",
            (0x4b, _) => "DATA PHASE ERROR",
            (0x4e, 0x00) => "OVERLAPPED COMMANDS ATTEMPTED",
            (0x55, 0x04) => "INSUFFICIENT REGISTRATION RESOURCES",
            (0x55, _) => "SYSTEM RESOURCE FAILURE",
            (0x5d, _) => "FAILURE PREDICTION THRESHOLD EXCEEDED",
            _ => return None,
        })
    }

    /// A field isn't taken: how a target without APTPL refuses that bit. By the standard as one of the parameter list
    /// (SPC-4 6.16.3); `tgtd` says that it was one of the command.
    pub fn refuses_a_field(&self) -> bool {
        self.key == SenseKey::IllegalRequest && matches!((self.asc, self.ascq), (0x24 | 0x26, 0))
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, asc, ascq) = (self.key.words(), self.asc, self.ascq);
        let words = self.words().unwrap_or("no words for it here");
        write!(f, "{key}, {words} ({asc:02X}h/{ascq:02X}h)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sense(key: u8, asc: u8, ascq: u8) -> Sense {
        Sense {
            deferred: false,
            key: SenseKey::from_code(key),
            asc,
            ascq,
        }
    }

    #[test]
    fn both_formats_both_ways() {
        for code in 0..16 {
            let one = Sense {
                deferred: code & 1 == 1,
                ..sense(code, 0x2a, 0x05)
            };
            assert_eq!(one.key.code(), code);
            assert_eq!(Sense::decode(&one.encode_fixed()), Ok(one));
            assert_eq!(Sense::decode(&one.encode_descriptor()), Ok(one));
        }
    }

    #[test]
    fn the_unit_attentions_that_matter_have_words() {
        let cases = [
            (0x29, 0x00, "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED"),
            (0x29, 0x03, "BUS DEVICE RESET FUNCTION OCCURRED"),
            (0x29, 0x07, "I_T NEXUS LOSS OCCURRED"),
            (0x2a, 0x03, "RESERVATIONS PREEMPTED"),
            (0x2a, 0x04, "RESERVATIONS RELEASED"),
            (0x2a, 0x05, "REGISTRATIONS PREEMPTED"),
        ];
        for (asc, ascq, words) in cases {
            assert_eq!(sense(6, asc, ascq).words(), Some(words));
        }
        assert_eq!(
            sense(6, 0x2a, 5).to_string(),
            "UNIT ATTENTION, REGISTRATIONS PREEMPTED (2Ah/05h)"
        );
        assert_eq!(
            sense(5, 0x99, 1).to_string(),
            "ILLEGAL REQUEST, no words for it here (99h/01h)"
        );
    }

    #[test]
    fn short_fixed_sense_has_a_key_and_no_codes() {
        let mut bytes = sense(6, 0x29, 0).encode_fixed();
        bytes[7] = 4;
        assert_eq!(Sense::decode(&bytes), Ok(sense(6, 0, 0)));
        bytes[7] = 0xff;
        assert_eq!(
            Sense::decode(&bytes),
            Ok(sense(6, 0x29, 0)),
            "a stated length beyond the end"
        );
        assert_eq!(Sense::decode(&bytes[..3]), Ok(sense(6, 0, 0)));
    }

    #[test]
    fn what_is_no_sense_data_is_refused() {
        assert!(matches!(
            Sense::decode(&[]),
            Err(DecodeError::Short { needed: 1, .. })
        ));
        assert!(Sense::decode(&[0x70, 0]).is_err());
        assert!(Sense::decode(&[0x72, 6, 0x29]).is_err());
        assert!(matches!(
            Sense::decode(&[0x7f; 18]),
            Err(DecodeError::Wrong { value: 0x7f, .. })
        ));
    }
}
