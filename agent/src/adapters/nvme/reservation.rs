//! Reservation commands and the reservation status data structure.

use super::{Command, Queue};
use crate::adapters::fields::{DecodeError, Fields};

const OPCODE_REGISTER: u8 = 0x0d;
const OPCODE_REPORT: u8 = 0x0e;
const OPCODE_ACQUIRE: u8 = 0x11;
const OPCODE_RELEASE: u8 = 0x15;
/// Most bytes that we ask for: about a thousand registrants, far more than two controllers have.
pub const REPORT_MAX: usize = 64 * 1024;
/// Header and registrant of the report with 64-bit and with 128-bit host identifiers.
const NARROW: (usize, usize) = (24, 24);
const WIDE: (usize, usize) = (64, 64);

/// Reservation type: codes differ from SCSI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationType {
    /// 1h.
    WriteExclusive,
    /// 2h.
    ExclusiveAccess,
    /// 3h: the one that we take.
    WriteExclusiveRegistrantsOnly,
    /// 4h.
    ExclusiveAccessRegistrantsOnly,
    /// 5h: every registrant holds it.
    WriteExclusiveAllRegistrants,
    /// 6h: every registrant holds it.
    ExclusiveAccessAllRegistrants,
    /// Reserved codes.
    Other(u8),
}

impl ReservationType {
    /// The type of a code that isn't 0 (which says that there is no reservation).
    pub fn from_code(code: u8) -> ReservationType {
        match code {
            1 => ReservationType::WriteExclusive,
            2 => ReservationType::ExclusiveAccess,
            3 => ReservationType::WriteExclusiveRegistrantsOnly,
            4 => ReservationType::ExclusiveAccessRegistrantsOnly,
            5 => ReservationType::WriteExclusiveAllRegistrants,
            6 => ReservationType::ExclusiveAccessAllRegistrants,
            other => ReservationType::Other(other),
        }
    }

    /// Its code.
    pub fn code(self) -> u8 {
        match self {
            ReservationType::WriteExclusive => 1,
            ReservationType::ExclusiveAccess => 2,
            ReservationType::WriteExclusiveRegistrantsOnly => 3,
            ReservationType::ExclusiveAccessRegistrantsOnly => 4,
            ReservationType::WriteExclusiveAllRegistrants => 5,
            ReservationType::ExclusiveAccessAllRegistrants => 6,
            ReservationType::Other(code) => code,
        }
    }

    fn all_registrants(self) -> bool {
        match self {
            ReservationType::WriteExclusiveAllRegistrants
            | ReservationType::ExclusiveAccessAllRegistrants => true,
            ReservationType::WriteExclusive
            | ReservationType::ExclusiveAccess
            | ReservationType::WriteExclusiveRegistrantsOnly
            | ReservationType::ExclusiveAccessRegistrantsOnly
            | ReservationType::Other(_) => false,
        }
    }
}

/// A command that changes registrations or the reservation, with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Register, action Register: only for a host that has no key (or this very one).
    Register {
        /// Key to register.
        new: u64,
        /// PTPL state to set: keep through power loss or not.
        persist: bool,
    },
    /// Register, action Replace.
    Replace {
        /// Key that this host has; `None` to ignore which (IEKEY).
        old: Option<u64>,
        /// Key to register.
        new: u64,
        /// PTPL state to set.
        persist: bool,
    },
    /// Register, action Unregister.
    Unregister {
        /// Key that this host has; `None` to ignore which (IEKEY).
        old: Option<u64>,
    },
    /// Acquire, action Acquire.
    Acquire {
        /// Key that this host has.
        key: u64,
        /// Type to take.
        kind: ReservationType,
    },
    /// Acquire, action Preempt, or Preempt and Abort.
    Preempt {
        /// Key that this host has.
        own: u64,
        /// Key to remove.
        victim: u64,
        /// Type to take if the victim held one.
        kind: ReservationType,
        /// Also end the victim's commands before answering.
        abort: bool,
    },
    /// Release, action Release.
    Release {
        /// Key that this host has.
        key: u64,
        /// Type that is held.
        kind: ReservationType,
    },
    /// Release, action Clear.
    Clear {
        /// Key that this host has.
        key: u64,
    },
}

/// IEKEY, bit 3 of dword 10 in all three commands.
fn ignoring(old: Option<u64>) -> u32 {
    u32::from(old.is_none()) << 3
}

/// CPTPL, bits 31:30 of Register: 10b clears the state, 11b sets it.
fn persisting(persist: bool) -> u32 {
    if persist { 0b11 << 30 } else { 0b10 << 30 }
}

impl Change {
    /// The command and its data: two keys for Register and Acquire, one for Release.
    pub fn encode(self) -> (Command, Vec<u8>) {
        let two = |a: u64, b: u64| [a.to_le_bytes(), b.to_le_bytes()].concat();
        let rtype = |kind: ReservationType| u32::from(kind.code()) << 8;
        let (opcode, cdw10, data) = match self {
            Change::Register { new, persist } => {
                (OPCODE_REGISTER, persisting(persist), two(0, new))
            }
            Change::Replace { old, new, persist } => (
                OPCODE_REGISTER,
                2 | ignoring(old) | persisting(persist),
                two(old.unwrap_or(0), new),
            ),
            // CPTPL 00b: the state stays.
            Change::Unregister { old } => {
                (OPCODE_REGISTER, 1 | ignoring(old), two(old.unwrap_or(0), 0))
            }
            Change::Acquire { key, kind } => (OPCODE_ACQUIRE, rtype(kind), two(key, 0)),
            Change::Preempt {
                own,
                victim,
                kind,
                abort,
            } => (
                OPCODE_ACQUIRE,
                (1 + u32::from(abort)) | rtype(kind),
                two(own, victim),
            ),
            Change::Release { key, kind } => {
                (OPCODE_RELEASE, rtype(kind), key.to_le_bytes().to_vec())
            }
            Change::Clear { key } => (OPCODE_RELEASE, 1, key.to_le_bytes().to_vec()),
        };
        let command = Command {
            queue: Queue::Io,
            opcode,
            cdw10,
            cdw11: 0,
        };
        (command, data)
    }

    /// Reads a command and its data. Key 0 of a command that ignores the key is not looked at.
    ///
    /// # Errors
    /// Another command, an unknown action, or too few bytes.
    pub fn decode(command: &Command, data: &[u8]) -> Result<Change, DecodeError> {
        let fields = Fields::new("reservation command", data);
        let action = command.cdw10 & 7;
        let kind = ReservationType::from_code((command.cdw10 >> 8) as u8);
        let persist = command.cdw10 >> 30 == 0b11;
        let old = || match command.cdw10 >> 3 & 1 {
            1 => Ok(None),
            _ => fields.le64(0).map(Some),
        };
        let unknown = |what| Err(fields.wrong(what, action.into(), "no such action is known"));
        Ok(match (command.opcode, action) {
            (OPCODE_REGISTER, 0) => Change::Register {
                new: fields.le64(8)?,
                persist,
            },
            (OPCODE_REGISTER, 1) => Change::Unregister { old: old()? },
            (OPCODE_REGISTER, 2) => Change::Replace {
                old: old()?,
                new: fields.le64(8)?,
                persist,
            },
            (OPCODE_ACQUIRE, 0) => Change::Acquire {
                key: fields.le64(0)?,
                kind,
            },
            (OPCODE_ACQUIRE, 1 | 2) => Change::Preempt {
                own: fields.le64(0)?,
                victim: fields.le64(8)?,
                kind,
                abort: action == 2,
            },
            (OPCODE_RELEASE, 0) => Change::Release {
                key: fields.le64(0)?,
                kind,
            },
            (OPCODE_RELEASE, 1) => Change::Clear {
                key: fields.le64(0)?,
            },
            (OPCODE_REGISTER, _) => return unknown("RREGA"),
            (OPCODE_ACQUIRE, _) => return unknown("RACQA"),
            (OPCODE_RELEASE, _) => return unknown("RRELA"),
            (other, _) => {
                let rule = "it is 0Dh, 11h or 15h";
                return Err(fields.wrong("opcode", other.into(), rule));
            }
        })
    }
}

/// Reservation Report, with room for `bytes` (a multiple of 4). `wide`: 128-bit host identifiers.
pub fn report(bytes: usize, wide: bool) -> Command {
    Command {
        queue: Queue::Io,
        opcode: OPCODE_REPORT,
        // NUMD is 0's based.
        cdw10: (bytes / 4).saturating_sub(1) as u32,
        cdw11: u32::from(wide),
    }
}

/// A host's identifier: 128 bits with fabrics, 64 or 128 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostId {
    /// 64 bits.
    Narrow([u8; 8]),
    /// 128 bits.
    Wide([u8; 16]),
}

impl HostId {
    /// All zeroes: none was set, and the controller takes no reservations from this host.
    pub fn is_zero(&self) -> bool {
        match self {
            HostId::Narrow(bytes) => bytes == &[0; 8],
            HostId::Wide(bytes) => bytes == &[0; 16],
        }
    }
}

/// One registered controller: a host has an entry for each of its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// Controller ID; FFFFh for a dynamic one that isn't there now.
    pub controller: u16,
    /// Its host holds the reservation.
    pub holder: bool,
    /// Host identifier.
    pub host: HostId,
    /// Registration key.
    pub key: u64,
}

/// Reservation status: what Reservation Report answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// GEN.
    pub generation: u32,
    /// Type of the reservation; `None` without one.
    pub kind: Option<ReservationType>,
    /// PTPLS: registrations persist through power loss.
    pub persist: bool,
    /// Registered controllers.
    pub registrants: Vec<Registrant>,
}

impl Report {
    /// Reads an answer; bytes after the stated end are ignored. `wide`: as it was asked for.
    ///
    /// # Errors
    /// [`DecodeError::Cut`] where there are more registrants than arrived: ask again with that much room. A held
    /// reservation without a holder.
    pub fn decode(bytes: &[u8], wide: bool) -> Result<Report, DecodeError> {
        let fields = Fields::new("Reservation Report", bytes);
        let (header, entry) = if wide { WIDE } else { NARROW };
        let generation = fields.le32(0)?;
        let kind = match fields.u8(4)? {
            0 => None,
            code => Some(ReservationType::from_code(code)),
        };
        let count = usize::from(fields.le16(5)?);
        let persist = fields.u8(9)? == 1;
        fields.bytes(0, header)?;
        let body = fields.stated(header, count * entry)?;
        let registrants: Vec<Registrant> = body
            .chunks_exact(entry)
            .map(|one| registrant(one, wide))
            .collect::<Result<_, _>>()?;
        let held = registrants.iter().any(|one| one.holder);
        if kind.is_some_and(|kind| !kind.all_registrants()) && !held {
            let rule = "a reservation is held, and none of the registrants holds it";
            return Err(fields.wrong("REGCTL", count as u64, rule));
        }
        Ok(Report {
            generation,
            kind,
            persist,
            registrants,
        })
    }

    /// The answer's bytes. `wide` must be what the host identifiers are: another width is padded or cut.
    pub fn encode(&self, wide: bool) -> Vec<u8> {
        let (header, entry) = if wide { WIDE } else { NARROW };
        let mut bytes = vec![0; header + self.registrants.len() * entry];
        bytes[..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4] = self.kind.map_or(0, ReservationType::code);
        bytes[5..7].copy_from_slice(&(self.registrants.len() as u16).to_le_bytes());
        bytes[9] = u8::from(self.persist);
        for (place, one) in bytes[header..]
            .chunks_exact_mut(entry)
            .zip(&self.registrants)
        {
            place[..2].copy_from_slice(&one.controller.to_le_bytes());
            place[2] = u8::from(one.holder);
            let (host_at, key_at) = if wide { (16, 8) } else { (8, 16) };
            place[key_at..key_at + 8].copy_from_slice(&one.key.to_le_bytes());
            let host: &[u8] = match &one.host {
                HostId::Narrow(host) => host,
                HostId::Wide(host) => host,
            };
            let room = if wide { 16 } else { 8 };
            for (to, from) in place[host_at..host_at + room].iter_mut().zip(host) {
                *to = *from;
            }
        }
        bytes
    }

    /// Key of the reservation's holder: `None` without a reservation, 0 where every registrant holds it.
    pub fn holder(&self) -> Option<u64> {
        let kind = self.kind?;
        if kind.all_registrants() {
            return Some(0);
        }
        let holder = self.registrants.iter().find(|one| one.holder);
        holder.map(|one| one.key)
    }
}

/// Registered Controller data structure; in the wide form key and host identifier have changed places.
fn registrant(bytes: &[u8], wide: bool) -> Result<Registrant, DecodeError> {
    let fields = Fields::new("registrant of Reservation Report", bytes);
    let (host, key) = match wide {
        true => {
            let mut host = [0; 16];
            host.copy_from_slice(fields.bytes(16, 16)?);
            (HostId::Wide(host), fields.le64(8)?)
        }
        false => {
            let mut host = [0; 8];
            host.copy_from_slice(fields.bytes(8, 8)?);
            (HostId::Narrow(host), fields.le64(16)?)
        }
    };
    Ok(Registrant {
        controller: fields.le16(0)?,
        holder: fields.u8(2)? & 1 == 1,
        host,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

    #[test]
    fn dwords_and_data_of_every_change() {
        let key = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let two = |a: u8, b: u8| [key(a), key(b)].concat();
        let cases = [
            (
                Change::Register {
                    new: 2,
                    persist: true,
                },
                (0x0d, 0xc000_0000, two(0, 2)),
            ),
            (
                Change::Replace {
                    old: Some(1),
                    new: 2,
                    persist: true,
                },
                (0x0d, 0xc000_0002, two(1, 2)),
            ),
            (
                Change::Replace {
                    old: None,
                    new: 2,
                    persist: false,
                },
                (0x0d, 0x8000_000a, two(0, 2)),
            ),
            (Change::Unregister { old: Some(1) }, (0x0d, 0x01, two(1, 0))),
            (Change::Unregister { old: None }, (0x0d, 0x09, two(0, 0))),
            (
                Change::Acquire { key: 1, kind: WERO },
                (0x11, 0x0300, two(1, 0)),
            ),
            (
                Change::Preempt {
                    own: 1,
                    victim: 2,
                    kind: WERO,
                    abort: false,
                },
                (0x11, 0x0301, two(1, 2)),
            ),
            (
                Change::Preempt {
                    own: 1,
                    victim: 2,
                    kind: WERO,
                    abort: true,
                },
                (0x11, 0x0302, two(1, 2)),
            ),
            (
                Change::Release { key: 1, kind: WERO },
                (0x15, 0x0300, key(1).to_vec()),
            ),
            (Change::Clear { key: 1 }, (0x15, 0x01, key(1).to_vec())),
        ];
        for (change, (opcode, cdw10, bytes)) in cases {
            let (command, data) = change.encode();
            let sent = (command.opcode, command.cdw10, data.clone());
            assert_eq!(sent, (opcode, cdw10, bytes), "{change:?}");
            assert_eq!((command.queue, command.cdw11), (Queue::Io, 0));
            assert_eq!(Change::decode(&command, &data), Ok(change));
        }
    }

    #[test]
    fn commands_that_can_not_be() {
        let command = |opcode, cdw10| Command {
            queue: Queue::Io,
            opcode,
            cdw10,
            cdw11: 0,
        };
        for (opcode, cdw10) in [(0x0d, 3), (0x11, 3), (0x15, 2), (0x02, 0)] {
            assert!(Change::decode(&command(opcode, cdw10), &[0; 16]).is_err());
        }
        assert!(Change::decode(&command(0x0d, 0), &[0; 15]).is_err());
    }

    #[test]
    fn a_report_is_asked_for_in_dwords() {
        let command = report(4096, true);
        assert_eq!((command.cdw10, command.cdw11), (1023, 1));
        assert_eq!(report(0, false).cdw10, 0);
    }

    #[test]
    fn the_narrow_report_both_ways() {
        let mut bytes = vec![5, 0, 0, 0, 3, 1, 0, 0, 0, 1];
        bytes.extend([0; 14]);
        bytes.extend([0x02, 0x01, 1, 0, 0, 0, 0, 0]);
        bytes.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend([0xef, 0xbe, 0, 0, 0, 0, 0, 0]);
        let expected = Report {
            generation: 5,
            kind: Some(WERO),
            persist: true,
            registrants: vec![Registrant {
                controller: 0x0102,
                holder: true,
                host: HostId::Narrow([1, 2, 3, 4, 5, 6, 7, 8]),
                key: 0xbeef,
            }],
        };
        assert_eq!(Report::decode(&bytes, false), Ok(expected.clone()));
        assert_eq!(expected.encode(false), bytes);
        assert_eq!(expected.holder(), Some(0xbeef));
    }

    fn wide() -> Report {
        let registrant = |controller, host: u8, key, holder| Registrant {
            controller,
            holder,
            host: HostId::Wide([host; 16]),
            key,
        };
        Report {
            generation: 7,
            kind: Some(WERO),
            persist: false,
            registrants: vec![registrant(1, 0xa, 11, true), registrant(2, 0xb, 12, false)],
        }
    }

    #[test]
    fn the_wide_report_both_ways() {
        let bytes = wide().encode(true);
        assert_eq!(bytes.len(), 64 + 2 * 64);
        assert_eq!(bytes[64 + 8], 11, "the key stands before the host");
        assert_eq!(bytes[64 + 16], 0xa);
        assert_eq!(Report::decode(&bytes, true), Ok(wide()));
    }

    #[test]
    fn registrants_that_did_not_arrive_are_asked_for_again() {
        let bytes = wide().encode(true);
        assert!(matches!(
            Report::decode(&bytes[..100], true),
            Err(DecodeError::Cut { needed: 192, .. })
        ));
        assert!(matches!(
            Report::decode(&bytes[..40], true),
            Err(DecodeError::Short { needed: 64, .. })
        ));
        let mut liar = bytes;
        liar[6] = 0xff;
        assert!(matches!(
            Report::decode(&liar, true),
            Err(DecodeError::Cut { .. })
        ));
    }

    #[test]
    fn who_holds_what() {
        let free = Report {
            kind: None,
            ..wide()
        };
        assert_eq!(free.holder(), None);
        let all = Report {
            kind: Some(ReservationType::WriteExclusiveAllRegistrants),
            ..wide()
        };
        assert_eq!(all.holder(), Some(0));
        let mut nobody = wide();
        nobody.registrants[0].holder = false;
        assert!(matches!(
            Report::decode(&nobody.encode(true), true),
            Err(DecodeError::Wrong { .. })
        ));
        for code in 1..=255 {
            assert_eq!(ReservationType::from_code(code).code(), code);
        }
    }
}
