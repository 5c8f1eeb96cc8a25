//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::ReservationType;
use crate::adapters::fields::{DecodeError, Fields};

/// Operation code.
pub const OPCODE: u8 = 0x5e;
/// Most bytes of an answer: the allocation length has 16 bits, and what follows the header comes in pieces of 8.
pub const ANSWER_MAX: usize = 0xfff8;
/// PRgeneration and ADDITIONAL LENGTH.
const HEADER: usize = 8;
/// A full status descriptor without its TransportID (SPC-4 6.15.5).
const STATUS_DESCRIPTOR: usize = 24;

/// Service action (SPC-4 6.15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// 00h.
    ReadKeys,
    /// 01h.
    ReadReservation,
    /// 02h.
    ReportCapabilities,
    /// 03h.
    ReadFullStatus,
}

impl Action {
    const fn code(self) -> u8 {
        match self {
            Action::ReadKeys => 0,
            Action::ReadReservation => 1,
            Action::ReportCapabilities => 2,
            Action::ReadFullStatus => 3,
        }
    }

    /// The command descriptor block, with room for an answer of `allocation` bytes.
    pub fn cdb(self, allocation: u16) -> [u8; 10] {
        let [high, low] = allocation.to_be_bytes();
        [OPCODE, self.code(), 0, 0, 0, 0, 0, high, low, 0]
    }
}

/// READ KEYS (SPC-4 6.15.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// PRgeneration.
    pub generation: u32,
    /// A key for each registered I_T nexus, in the disk's order.
    pub keys: Vec<u64>,
}

impl Keys {
    /// Reads an answer; bytes after the stated end are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Cut`] where there are more keys than arrived: ask again with that much room.
    pub fn decode(bytes: &[u8]) -> Result<Keys, DecodeError> {
        let fields = Fields::new("READ KEYS", bytes);
        let generation = fields.be32(0)?;
        let length = fields.be32(4)?;
        if length % 8 != 0 {
            let rule = "keys have 8 bytes each";
            return Err(fields.wrong("ADDITIONAL LENGTH", length.into(), rule));
        }
        let keys = fields.stated(HEADER, length as usize)?;
        let key = |bytes: &[u8]| Fields::new("READ KEYS", bytes).be64(0);
        Ok(Keys {
            generation,
            keys: keys.chunks_exact(8).map(key).collect::<Result<_, _>>()?,
        })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.generation.to_be_bytes().to_vec();
        bytes.extend((8 * self.keys.len() as u32).to_be_bytes());
        for key in &self.keys {
            bytes.extend(key.to_be_bytes());
        }
        bytes
    }
}

/// A reservation that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The holder's key; 0 for the types that all registrants hold.
    pub key: u64,
    /// 0 for the logical unit; anything else is obsolete.
    pub scope: u8,
    /// Its type.
    pub kind: ReservationType,
}

/// READ RESERVATION (SPC-4 6.15.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// PRgeneration.
    pub generation: u32,
    /// `None` without a reservation.
    pub held: Option<Held>,
}

impl Reservation {
    /// Reads an answer; bytes after the stated end are ignored.
    ///
    /// # Errors
    /// A length that is neither nothing nor one descriptor, or too few bytes.
    pub fn decode(bytes: &[u8]) -> Result<Reservation, DecodeError> {
        let fields = Fields::new("READ RESERVATION", bytes);
        let generation = fields.be32(0)?;
        let held = match fields.be32(4)? {
            0 => None,
            16 => {
                let body = Fields::new("READ RESERVATION", fields.stated(HEADER, 16)?);
                let kind = body.u8(13)?;
                Some(Held {
                    key: body.be64(0)?,
                    scope: kind >> 4,
                    kind: ReservationType::from_code(kind),
                })
            }
            other => {
                let rule = "it is 0 without a reservation and 16 with one";
                return Err(fields.wrong("ADDITIONAL LENGTH", other.into(), rule));
            }
        };
        Ok(Reservation { generation, held })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.generation.to_be_bytes().to_vec();
        match self.held {
            None => bytes.extend(0_u32.to_be_bytes()),
            Some(held) => {
                bytes.extend(16_u32.to_be_bytes());
                bytes.extend(held.key.to_be_bytes());
                bytes.extend([0; 5]);
                bytes.push(held.scope << 4 | held.kind.code());
                bytes.extend([0; 2]);
            }
        }
        bytes
    }
}

/// REPORT CAPABILITIES (SPC-4 6.15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// SIP_C: registering other ports by SPEC_I_PT.
    pub other_initiators: bool,
    /// ATP_C: registering on all target ports by ALL_TG_PT.
    pub all_target_ports: bool,
    /// PTPL_C: it can keep registrations through power loss.
    pub persist_capable: bool,
    /// PTPL_A: it keeps them now.
    pub persist_active: bool,
    /// CRH: RESERVE(6) of a holder counts as its persistent reservation.
    pub compatible_handling: bool,
    /// ALLOW COMMANDS, 3 bits: what the types let through.
    pub allow_commands: u8,
    /// Codes of the supported types, a bit each (bit 5: Write Exclusive – Registrants Only); `None` where the
    /// disk doesn't say.
    pub types: Option<u16>,
}

/// Where the type mask has the bit of each type: (byte, bit, code of the type).
const TYPE_BITS: [(usize, u8, u8); 6] = [
    (4, 7, 7),
    (4, 6, 6),
    (4, 5, 5),
    (4, 3, 3),
    (4, 1, 1),
    (5, 0, 8),
];

impl Capabilities {
    /// Whether the type that we take is there; a disk that doesn't say is believed to have it until it refuses.
    pub fn has_type(&self, kind: ReservationType) -> bool {
        self.types.is_none_or(|types| types >> kind.code() & 1 == 1)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// Another length than the standard's, or too few bytes.
    pub fn decode(bytes: &[u8]) -> Result<Capabilities, DecodeError> {
        let fields = Fields::new("REPORT CAPABILITIES", bytes);
        let length = fields.be16(0)?;
        if length != 8 {
            return Err(fields.wrong("LENGTH", length.into(), "it is always 8"));
        }
        fields.stated(0, 8)?;
        let (can, does) = (fields.u8(2)?, fields.u8(3)?);
        let mut types = 0;
        for (byte, bit, code) in TYPE_BITS {
            types |= u16::from(fields.u8(byte)? >> bit & 1) << code;
        }
        Ok(Capabilities {
            other_initiators: can & 0x08 != 0,
            all_target_ports: can & 0x04 != 0,
            persist_capable: can & 0x01 != 0,
            persist_active: does & 0x01 != 0,
            compatible_handling: can & 0x10 != 0,
            allow_commands: does >> 4 & 7,
            types: (does & 0x80 != 0).then_some(types),
        })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> [u8; 8] {
        let bit = |set: bool, bit: u8| u8::from(set) << bit;
        let mut bytes = [0, 8, 0, 0, 0, 0, 0, 0];
        bytes[2] = bit(self.compatible_handling, 4)
            | bit(self.other_initiators, 3)
            | bit(self.all_target_ports, 2)
            | bit(self.persist_capable, 0);
        bytes[3] = bit(self.types.is_some(), 7)
            | (self.allow_commands & 7) << 4
            | bit(self.persist_active, 0);
        for (byte, at, code) in TYPE_BITS {
            bytes[byte] |= bit(self.types.unwrap_or(0) >> code & 1 == 1, at);
        }
        bytes
    }
}

/// One registered I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its key.
    pub key: u64,
    /// It holds the reservation.
    pub holder: bool,
    /// Registered by ALL_TG_PT: `target_port` says nothing.
    pub all_target_ports: bool,
    /// Scope of the reservation that it holds; 0 otherwise.
    pub scope: u8,
    /// Type of the reservation that it holds; nothing otherwise.
    pub kind: ReservationType,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
    /// The initiator port's TransportID, opaque: its form depends on the transport (SPC-4 7.6.4).
    pub transport_id: Vec<u8>,
}

/// READ FULL STATUS (SPC-4 6.15.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullStatus {
    /// PRgeneration.
    pub generation: u32,
    /// Each registered nexus.
    pub registrations: Vec<Registration>,
}

impl FullStatus {
    /// Reads an answer; bytes after the stated end are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Cut`] where it is longer than what arrived: ask again with that much room.
    pub fn decode(bytes: &[u8]) -> Result<FullStatus, DecodeError> {
        let fields = Fields::new("READ FULL STATUS", bytes);
        let generation = fields.be32(0)?;
        let length = fields.be32(4)? as usize;
        let mut rest = fields.stated(HEADER, length)?;
        let mut registrations = Vec::new();
        // Each turn takes at least a descriptor's 24 bytes.
        while !rest.is_empty() {
            let one = Fields::new("READ FULL STATUS descriptor", rest);
            let flags = one.u8(12)?;
            let kind = one.u8(13)?;
            let more = one.be32(20)? as usize;
            registrations.push(Registration {
                key: one.be64(0)?,
                holder: flags & 1 != 0,
                all_target_ports: flags & 2 != 0,
                scope: kind >> 4,
                kind: ReservationType::from_code(kind),
                target_port: one.be16(18)?,
                transport_id: one.bytes(STATUS_DESCRIPTOR, more)?.to_vec(),
            });
            rest = &rest[STATUS_DESCRIPTOR + more..];
        }
        Ok(FullStatus {
            generation,
            registrations,
        })
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for one in &self.registrations {
            body.extend(one.key.to_be_bytes());
            body.extend([0; 4]);
            body.push(u8::from(one.all_target_ports) << 1 | u8::from(one.holder));
            body.push(one.scope << 4 | one.kind.code());
            body.extend([0; 4]);
            body.extend(one.target_port.to_be_bytes());
            body.extend((one.transport_id.len() as u32).to_be_bytes());
            body.extend(&one.transport_id);
        }
        let mut bytes = self.generation.to_be_bytes().to_vec();
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_their_action_and_room() {
        assert_eq!(
            Action::ReadFullStatus.cdb(0x1234),
            [0x5e, 3, 0, 0, 0, 0, 0, 0x12, 0x34, 0]
        );
        assert_eq!(Action::ReadKeys.cdb(8)[1], 0);
        assert_eq!(Action::ReadReservation.cdb(24)[1], 1);
        assert_eq!(Action::ReportCapabilities.cdb(8)[1], 2);
    }

    #[test]
    fn keys_both_ways() {
        let bytes = [
            0, 0, 0, 7, 0, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0, 0, 0, 0, 0, 0, 1,
        ];
        let keys = Keys {
            generation: 7,
            keys: vec![0x0102_0304_0506_0708, 0xff00_0000_0000_0001],
        };
        assert_eq!(Keys::decode(&bytes), Ok(keys.clone()));
        assert_eq!(keys.encode(), bytes);
        let mut padded = bytes.to_vec();
        padded.extend([0xaa; 40]);
        assert_eq!(Keys::decode(&padded), Ok(keys), "a buffer may be larger");
    }

    #[test]
    fn keys_that_did_not_arrive_are_asked_for_again() {
        let all = Keys {
            generation: 1,
            keys: vec![9; 100],
        };
        let error = Keys::decode(&all.encode()[..64]).expect_err("cut");
        assert_eq!(
            error,
            DecodeError::Cut {
                what: "READ KEYS",
                needed: 808,
                have: 64
            }
        );
        let liar = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf8];
        assert!(matches!(
            Keys::decode(&liar),
            Err(DecodeError::Cut { needed, .. }) if needed == 0xffff_fff8 + 8
        ));
        assert!(matches!(
            Keys::decode(&[0; 7]),
            Err(DecodeError::Short { .. })
        ));
        assert!(matches!(
            Keys::decode(&[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]),
            Err(DecodeError::Wrong { value: 7, .. })
        ));
    }

    #[test]
    fn a_reservation_both_ways() {
        let mut bytes = vec![0, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0xbe, 0xef];
        bytes.extend([0, 0, 0, 0, 0, 0x05, 0, 0]);
        let held = Reservation {
            generation: 3,
            held: Some(Held {
                key: 0xbeef,
                scope: 0,
                kind: ReservationType::WriteExclusiveRegistrantsOnly,
            }),
        };
        assert_eq!(Reservation::decode(&bytes), Ok(held.clone()));
        assert_eq!(held.encode(), bytes);
        assert!(matches!(
            Reservation::decode(&bytes[..23]),
            Err(DecodeError::Cut { needed: 24, .. })
        ));
        bytes[7] = 8;
        assert!(matches!(
            Reservation::decode(&bytes),
            Err(DecodeError::Wrong { value: 8, .. })
        ));
        let free = [0, 0, 0, 3, 0, 0, 0, 0];
        let none = Reservation {
            generation: 3,
            held: None,
        };
        assert_eq!(Reservation::decode(&free), Ok(none.clone()));
        assert_eq!(none.encode(), free);
    }

    #[test]
    fn every_type_both_ways() {
        for code in 0..16 {
            assert_eq!(ReservationType::from_code(code).code(), code);
        }
    }

    #[test]
    fn capabilities_both_ways() {
        let bytes = [0, 8, 0x0d, 0x81, 0xea, 0x01, 0, 0];
        let all = Capabilities::decode(&bytes).expect("valid");
        assert!(all.other_initiators && all.all_target_ports);
        assert!(all.persist_capable && all.persist_active && !all.compatible_handling);
        assert_eq!(all.types, Some(0b1_1110_1010));
        assert!(all.has_type(ReservationType::WriteExclusiveRegistrantsOnly));
        assert!(!all.has_type(ReservationType::Other(4)));
        assert_eq!(all.encode(), bytes);

        let silent = Capabilities::decode(&[0, 8, 0, 0, 0, 0, 0, 0]).expect("valid");
        assert_eq!(silent.types, None);
        assert!(silent.has_type(ReservationType::WriteExclusiveRegistrantsOnly));
        assert!(matches!(
            Capabilities::decode(&[0, 9, 0, 0, 0, 0, 0, 0, 0]),
            Err(DecodeError::Wrong { value: 9, .. })
        ));
        assert!(matches!(
            Capabilities::decode(&[0, 8, 0]),
            Err(DecodeError::Cut { needed: 8, .. })
        ));
    }

    #[test]
    fn full_status_both_ways() {
        let registration = |key, holder| Registration {
            key,
            holder,
            all_target_ports: !holder,
            scope: 0,
            kind: ReservationType::from_code(if holder { 5 } else { 0 }),
            target_port: 0x0102,
            transport_id: vec![0x06; 24],
        };
        let status = FullStatus {
            generation: 12,
            registrations: vec![registration(1, true), registration(2, false)],
        };
        let bytes = status.encode();
        assert_eq!(bytes.len(), 8 + 2 * 48);
        assert_eq!(FullStatus::decode(&bytes), Ok(status));
    }

    #[test]
    fn a_full_status_that_lies_about_its_lengths_is_refused() {
        let status = FullStatus {
            generation: 1,
            registrations: vec![Registration {
                key: 5,
                holder: false,
                all_target_ports: false,
                scope: 0,
                kind: ReservationType::Other(0),
                target_port: 1,
                transport_id: vec![0; 24],
            }],
        };
        let mut bytes = status.encode();
        bytes[8 + 20] = 0xff;
        assert!(matches!(
            FullStatus::decode(&bytes),
            Err(DecodeError::Short { .. })
        ));
        let mut bytes = status.encode();
        bytes[7] += 4;
        bytes.extend([0; 4]);
        assert!(matches!(
            FullStatus::decode(&bytes),
            Err(DecodeError::Short { have: 4, .. })
        ));
        assert!(matches!(
            FullStatus::decode(&status.encode()[..40]),
            Err(DecodeError::Cut { needed: 56, .. })
        ));
    }
}
