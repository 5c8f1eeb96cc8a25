//! PERSISTENT RESERVE OUT (SPC-4 6.16).

use super::ReservationType;
use crate::adapters::fields::{DecodeError, Fields};

/// Operation code.
pub const OPCODE: u8 = 0x5f;
/// Parameter list without TransportIDs (SPC-4 6.16.3).
pub const PARAMETERS: usize = 24;
/// Most TransportIDs in one parameter list of ours, and the longest of them: an iSCSI name with its session.
const TRANSPORT_IDS_MAX: usize = 64;
const TRANSPORT_ID_MAX: usize = 264;

/// Service action (SPC-4 6.16.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// 00h.
    Register,
    /// 01h.
    Reserve,
    /// 02h.
    Release,
    /// 03h.
    Clear,
    /// 04h.
    Preempt,
    /// 05h.
    PreemptAndAbort,
    /// 06h.
    RegisterAndIgnore,
}

impl Action {
    const ALL: [Action; 7] = [
        Action::Register,
        Action::Reserve,
        Action::Release,
        Action::Clear,
        Action::Preempt,
        Action::PreemptAndAbort,
        Action::RegisterAndIgnore,
    ];

    const fn code(self) -> u8 {
        match self {
            Action::Register => 0,
            Action::Reserve => 1,
            Action::Release => 2,
            Action::Clear => 3,
            Action::Preempt => 4,
            Action::PreemptAndAbort => 5,
            Action::RegisterAndIgnore => 6,
        }
    }

    /// The command descriptor block for a parameter list of `length` bytes; the scope is the logical unit.
    pub fn cdb(self, kind: ReservationType, length: u32) -> [u8; 10] {
        let [a, b, c, d] = length.to_be_bytes();
        [OPCODE, self.code(), kind.code(), 0, 0, a, b, c, d, 0]
    }

    /// Reads a command descriptor block: action, type, length of the parameter list.
    ///
    /// # Errors
    /// Another command, an unknown action, or too few bytes.
    pub fn of_cdb(cdb: &[u8]) -> Result<(Action, ReservationType, u32), DecodeError> {
        let fields = Fields::new("PERSISTENT RESERVE OUT", cdb);
        let opcode = fields.u8(0)?;
        if opcode != OPCODE {
            return Err(fields.wrong("OPERATION CODE", opcode.into(), "it is 5Fh"));
        }
        let code = fields.u8(1)? & 0x1f;
        let action = Action::ALL.into_iter().find(|action| action.code() == code);
        let action = action
            .ok_or_else(|| fields.wrong("SERVICE ACTION", code.into(), "0 to 6 are known"))?;
        let kind = ReservationType::from_code(fields.u8(2)?);
        Ok((action, kind, fields.be32(5)?))
    }
}

/// The parameter list (SPC-4 6.16.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// RESERVATION KEY: what this nexus is registered with; 0 for none.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY: the new key, or the victim's.
    pub action_key: u64,
    /// APTPL: registrations persist through power loss. Registering only.
    pub persist: bool,
    /// ALL_TG_PT: the registration counts for all target ports. Registering only.
    pub all_target_ports: bool,
    /// SPEC_I_PT: TransportIDs of further initiator ports to register. REGISTER only.
    pub transport_ids: Vec<Vec<u8>>,
}

impl Parameters {
    /// The two keys and nothing else.
    pub fn keys(key: u64, action_key: u64) -> Parameters {
        Parameters {
            key,
            action_key,
            ..Parameters::default()
        }
    }

    /// The list's bytes.
    ///
    /// # Errors
    /// More TransportIDs, or longer ones, than one list of ours has; or one that isn't a multiple of 4 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut bytes = Vec::with_capacity(PARAMETERS);
        bytes.extend(self.key.to_be_bytes());
        bytes.extend(self.action_key.to_be_bytes());
        bytes.extend([0; 4]);
        let named = !self.transport_ids.is_empty();
        bytes.push(
            u8::from(named) << 3 | u8::from(self.all_target_ports) << 2 | u8::from(self.persist),
        );
        bytes.extend([0; 3]);
        if named {
            self.check_transport_ids()?;
            let length: usize = self.transport_ids.iter().map(Vec::len).sum();
            bytes.extend((length as u32).to_be_bytes());
            for id in &self.transport_ids {
                bytes.extend(id);
            }
        }
        Ok(bytes)
    }

    fn check_transport_ids(&self) -> Result<(), DecodeError> {
        let fields = Fields::new("PERSISTENT RESERVE OUT parameter list", &[]);
        let count = self.transport_ids.len();
        if count > TRANSPORT_IDS_MAX {
            let rule = "one list names at most 64";
            return Err(fields.wrong("number of TransportIDs", count as u64, rule));
        }
        let bad = |id: &&Vec<u8>| {
            !id.len().is_multiple_of(4) || !(24..=TRANSPORT_ID_MAX).contains(&id.len())
        };
        match self.transport_ids.iter().find(bad) {
            None => Ok(()),
            Some(id) => {
                let rule = "it is a multiple of 4 from 24 to 264";
                Err(fields.wrong("length of a TransportID", id.len() as u64, rule))
            }
        }
    }

    /// Reads a list. The TransportIDs come as one piece: where each ends depends on its transport.
    ///
    /// # Errors
    /// Too few bytes, or a length of the TransportIDs that isn't there.
    pub fn decode(bytes: &[u8]) -> Result<Parameters, DecodeError> {
        let fields = Fields::new("PERSISTENT RESERVE OUT parameter list", bytes);
        let flags = fields.u8(20)?;
        fields.bytes(0, PARAMETERS)?;
        let mut transport_ids = Vec::new();
        if flags & 0x08 != 0 {
            let length = fields.be32(PARAMETERS)? as usize;
            let ids = fields.stated(PARAMETERS + 4, length)?;
            if !ids.is_empty() {
                transport_ids.push(ids.to_vec());
            }
        }
        Ok(Parameters {
            key: fields.be64(0)?,
            action_key: fields.be64(8)?,
            persist: flags & 0x01 != 0,
            all_target_ports: flags & 0x04 != 0,
            transport_ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_both_ways() {
        let kind = ReservationType::WriteExclusiveRegistrantsOnly;
        assert_eq!(
            Action::PreemptAndAbort.cdb(kind, 24),
            [0x5f, 5, 5, 0, 0, 0, 0, 0, 24, 0]
        );
        for action in Action::ALL {
            assert_eq!(
                Action::of_cdb(&action.cdb(kind, 0x0102_0304)),
                Ok((action, kind, 0x0102_0304))
            );
        }
        assert!(Action::of_cdb(&[0x5f, 7, 0, 0, 0, 0, 0, 0, 24, 0]).is_err());
        assert!(Action::of_cdb(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 24, 0]).is_err());
        assert!(Action::of_cdb(&[0x5f, 0, 0]).is_err());
    }

    #[test]
    fn registering_with_aptpl() {
        let list = Parameters {
            persist: true,
            ..Parameters::keys(0x0102_0304_0506_0708, 0x1112_1314_1516_1718)
        };
        let bytes = list.encode().expect("short");
        assert_eq!(
            bytes,
            [
                1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0, 0, 0, 0,
                1, 0, 0, 0
            ]
        );
        assert_eq!(Parameters::decode(&bytes), Ok(list));
    }

    #[test]
    fn registering_other_ports_and_all_target_ports() {
        let list = Parameters {
            all_target_ports: true,
            transport_ids: vec![vec![0x06; 24]],
            ..Parameters::keys(1, 2)
        };
        let bytes = list.encode().expect("short");
        assert_eq!((bytes[20], bytes.len()), (0x0c, 52));
        assert_eq!(bytes[24..28], [0, 0, 0, 24]);
        assert_eq!(Parameters::decode(&bytes), Ok(list));
    }

    #[test]
    fn lists_that_can_not_be() {
        let with = |ids| Parameters {
            transport_ids: ids,
            ..Parameters::keys(1, 2)
        };
        assert!(with(vec![vec![0; 23]]).encode().is_err());
        assert!(with(vec![vec![0; 268]]).encode().is_err());
        assert!(with(vec![vec![0; 24]; 65]).encode().is_err());
        assert!(Parameters::decode(&[0; 23]).is_err());
        let mut liar = with(vec![vec![0; 24]]).encode().expect("short");
        liar[24] = 0xff;
        assert!(matches!(
            Parameters::decode(&liar),
            Err(DecodeError::Cut { .. })
        ));
    }
}
