//! Who a namespace is, what it can, and who this host is to it.

use super::reservation::{HostId, ReservationType};
use super::{Command, Queue};
use crate::adapters::fields::{DecodeError, Fields};
use crate::adapters::identity::Identity;

const OPCODE_GET_FEATURES: u8 = 0x0a;
const OPCODE_IDENTIFY: u8 = 0x06;
const FEATURE_HOST_IDENTIFIER: u32 = 0x81;
/// Every Identify answer has 4,096 bytes.
pub const IDENTIFY_BYTES: usize = 4096;

/// What Identify is asked for: Controller or Namespace Structure (CNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// 00h: the namespace.
    Namespace,
    /// 01h: the controller.
    Controller,
    /// 03h: the namespace's identification descriptors.
    Descriptors,
}

impl Structure {
    /// The command; its answer has [`IDENTIFY_BYTES`].
    pub fn command(self) -> Command {
        Command {
            queue: Queue::Admin,
            opcode: OPCODE_IDENTIFY,
            cdw10: match self {
                Structure::Namespace => 0,
                Structure::Controller => 1,
                Structure::Descriptors => 3,
            },
            cdw11: 0,
        }
    }
}

/// What a namespace can (RESCAP of Identify Namespace).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u8);

impl Capabilities {
    /// It can keep registrations through power loss.
    pub fn persist(self) -> bool {
        self.0 & 1 != 0
    }

    /// It has this type of reservation.
    pub fn has_type(self, kind: ReservationType) -> bool {
        match kind.code() {
            code @ 1..=6 => self.0 >> code & 1 == 1,
            _ => false,
        }
    }

    /// IEKEY ignores the key in every action (NVMe 1.3 and later).
    pub fn ignores_keys(self) -> bool {
        self.0 & 0x80 != 0
    }
}

/// Identify Namespace, as far as we use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Size in blocks; 0 where no such namespace is attached.
    pub blocks: u64,
    /// What its reservations can.
    pub capabilities: Capabilities,
    /// Several controllers may attach it (NMIC bit 0).
    pub shared: bool,
    /// NGUID, then EUI-64, where they are set.
    pub identities: Vec<Identity>,
}

impl Namespace {
    /// Reads an answer.
    ///
    /// # Errors
    /// Fewer bytes than the part that we use.
    pub fn decode(bytes: &[u8]) -> Result<Namespace, DecodeError> {
        let fields = Fields::new("Identify Namespace", bytes);
        let nguid = Identity::eui(fields.bytes(104, 16)?);
        let eui = Identity::eui(fields.bytes(120, 8)?);
        Ok(Namespace {
            blocks: fields.le64(0)?,
            capabilities: Capabilities(fields.u8(31)?),
            shared: fields.u8(30)? & 1 == 1,
            identities: nguid.into_iter().chain(eui).collect(),
        })
    }
}

/// Reads the identification descriptors: UUID, NGUID, EUI-64, the most telling first, each once.
///
/// # Errors
/// A length that isn't its type's, or that ends behind the answer.
pub fn decode_descriptors(bytes: &[u8]) -> Result<Vec<Identity>, DecodeError> {
    let mut found: Vec<(u8, Identity)> = Vec::new();
    let mut rest = bytes;
    // Each turn takes at least a header's 4 bytes.
    while !rest.is_empty() {
        let fields = Fields::new("namespace identification descriptor", rest);
        let (kind, len) = (fields.u8(0)?, usize::from(fields.u8(1)?));
        if len == 0 {
            // NIDL 0 ends the list.
            break;
        }
        let value = fields.bytes(4, len)?;
        let expected = match kind {
            1 => 8,
            2 | 3 => 16,
            // Command set identifier, and what comes later: no identity.
            _ => len,
        };
        if len != expected {
            return Err(fields.wrong("NIDL", len as u64, "8 for EUI-64, 16 for NGUID and UUID"));
        }
        let identity = match kind {
            1 => Identity::eui(value).map(|identity| (1, identity)),
            2 => Identity::eui(value).map(|identity| (2, identity)),
            3 => Identity::uuid(value).map(|identity| (3, identity)),
            _ => None,
        };
        if let Some(ranked) = identity
            && !found.contains(&ranked)
        {
            found.push(ranked);
        }
        rest = &rest[4 + len..];
    }
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    Ok(found.into_iter().map(|(_, identity)| identity).collect())
}

/// Identify Controller, as far as we use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Controller ID.
    pub id: u16,
    /// It takes reservation commands (ONCS bit 5).
    pub reservations: bool,
    /// It takes 128-bit host identifiers (CTRATT bit 0).
    pub wide_host_ids: bool,
}

impl Controller {
    /// Reads an answer.
    ///
    /// # Errors
    /// Fewer bytes than the part that we use.
    pub fn decode(bytes: &[u8]) -> Result<Controller, DecodeError> {
        let fields = Fields::new("Identify Controller", bytes);
        Ok(Controller {
            id: fields.le16(78)?,
            reservations: fields.le16(520)? & 1 << 5 != 0,
            wide_host_ids: fields.le32(96)? & 1 != 0,
        })
    }
}

/// Get Features for the host identifier. `wide`: 128 bits (16 bytes), else 64 (8 bytes).
pub fn host_id_command(wide: bool) -> Command {
    Command {
        queue: Queue::Admin,
        opcode: OPCODE_GET_FEATURES,
        cdw10: FEATURE_HOST_IDENTIFIER,
        cdw11: u32::from(wide),
    }
}

/// Reads the answer to [`host_id_command`].
///
/// # Errors
/// Fewer bytes than the identifier has.
pub fn decode_host_id(bytes: &[u8], wide: bool) -> Result<HostId, DecodeError> {
    let fields = Fields::new("Get Features, Host Identifier", bytes);
    Ok(match wide {
        true => {
            let mut id = [0; 16];
            id.copy_from_slice(fields.bytes(0, 16)?);
            HostId::Wide(id)
        }
        false => {
            let mut id = [0; 8];
            id.copy_from_slice(fields.bytes(0, 8)?);
            HostId::Narrow(id)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(Structure::Descriptors.command().cdw10, 3);
        assert_eq!(Structure::Controller.command().opcode, 0x06);
        let host = host_id_command(true);
        assert_eq!((host.opcode, host.cdw10, host.cdw11), (0x0a, 0x81, 1));
    }

    #[test]
    fn a_namespace() {
        let mut bytes = vec![0; IDENTIFY_BYTES];
        bytes[0] = 9;
        bytes[30] = 1;
        bytes[31] = 0b1000_1001;
        bytes[104..120].copy_from_slice(&[0x11; 16]);
        bytes[120..128].copy_from_slice(&[0, 0x25, 0x38, 0x8b, 0x71, 0x01, 0x16, 0xa2]);
        let namespace = Namespace::decode(&bytes).expect("valid");
        assert_eq!((namespace.blocks, namespace.shared), (9, true));
        let can = namespace.capabilities;
        assert!(can.persist() && can.ignores_keys());
        assert!(can.has_type(ReservationType::WriteExclusiveRegistrantsOnly));
        assert!(!can.has_type(ReservationType::WriteExclusive));
        assert!(!can.has_type(ReservationType::Other(7)));
        let names: Vec<&str> = namespace.identities.iter().map(Identity::as_str).collect();
        assert_eq!(
            names,
            [
                "eui.11111111111111111111111111111111",
                "eui.0025388b710116a2"
            ]
        );
        assert!(Namespace::decode(&bytes[..127]).is_err());
        let empty = Namespace::decode(&[0; 128]).expect("valid");
        assert!(empty.identities.is_empty(), "zeroes say none");
    }

    #[test]
    fn descriptors() {
        let mut bytes = vec![1, 8, 0, 0];
        bytes.extend([7; 8]);
        bytes.extend([4, 1, 0, 0, 0]);
        bytes.extend([3, 16, 0, 0]);
        bytes.extend([0xab; 16]);
        bytes.extend([2, 16, 0, 0]);
        bytes.extend([9; 16]);
        bytes.resize(IDENTIFY_BYTES, 0);
        let identities = decode_descriptors(&bytes).expect("valid");
        let names: Vec<&str> = identities.iter().map(Identity::as_str).collect();
        assert_eq!(
            names,
            [
                "uuid.abababab-abab-abab-abab-abababababab",
                "eui.09090909090909090909090909090909",
                "eui.0707070707070707"
            ]
        );
        bytes[1] = 9;
        assert!(matches!(
            decode_descriptors(&bytes),
            Err(DecodeError::Wrong { value: 9, .. })
        ));
        assert!(matches!(
            decode_descriptors(&[2, 16, 0, 0, 1]),
            Err(DecodeError::Short { .. })
        ));
        assert!(decode_descriptors(&[2]).is_err());
    }

    #[test]
    fn a_controller_and_the_host_id() {
        let mut bytes = vec![0; IDENTIFY_BYTES];
        (bytes[78], bytes[96], bytes[520]) = (3, 1, 0x20);
        let controller = Controller::decode(&bytes).expect("valid");
        assert_eq!(controller.id, 3);
        assert!(controller.reservations && controller.wide_host_ids);
        assert!(Controller::decode(&bytes[..521]).is_err());

        let id = decode_host_id(&[5; 16], true).expect("valid");
        assert!(id == HostId::Wide([5; 16]) && !id.is_zero());
        assert!(decode_host_id(&[0; 8], false).expect("valid").is_zero());
        assert!(decode_host_id(&[0; 8], true).is_err());
    }
}
