//! INQUIRY: standard data and the vital product data that identify a logical unit (SPC-4 6.6 and 7.8).

use crate::adapters::fields::{DecodeError, Fields};
use crate::adapters::identity::Identity;

/// Operation code.
pub const OPCODE: u8 = 0x12;
/// VPD page "Unit Serial Number".
pub const PAGE_SERIAL: u8 = 0x80;
/// VPD page "Device Identification".
pub const PAGE_IDENTIFICATION: u8 = 0x83;
/// Bytes of the standard data that we use; every target has these.
const STANDARD: usize = 36;

/// INQUIRY for the standard data, with room for `allocation` bytes.
pub fn standard_cdb(allocation: u16) -> [u8; 6] {
    let [high, low] = allocation.to_be_bytes();
    [OPCODE, 0, 0, high, low, 0]
}

/// INQUIRY for a page of vital product data (EVPD), with room for `allocation` bytes.
pub fn page_cdb(page: u8, allocation: u16) -> [u8; 6] {
    let [high, low] = allocation.to_be_bytes();
    [OPCODE, 1, page, high, low, 0]
}

/// Standard INQUIRY data (SPC-4 6.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standard {
    /// PERIPHERAL DEVICE TYPE: 0 for a disk, 14h for a host-managed zoned one.
    pub device_type: u8,
    /// PERIPHERAL QUALIFIER: 0 where a logical unit is there.
    pub qualifier: u8,
    /// VERSION: 5 for SPC-3, 6 for SPC-4, 7 for SPC-5.
    pub version: u8,
    /// T10 VENDOR IDENTIFICATION, without the spaces at its end.
    pub vendor: String,
    /// PRODUCT IDENTIFICATION, likewise.
    pub product: String,
    /// PRODUCT REVISION LEVEL, likewise.
    pub revision: String,
}

impl Standard {
    /// Reads an answer; what comes after the first 36 bytes is ignored.
    ///
    /// # Errors
    /// Fewer bytes.
    pub fn decode(bytes: &[u8]) -> Result<Standard, DecodeError> {
        let fields = Fields::new("INQUIRY", bytes);
        fields.bytes(0, STANDARD)?;
        let first = fields.u8(0)?;
        let text = |at, len| fields.bytes(at, len).map(ascii);
        Ok(Standard {
            device_type: first & 0x1f,
            qualifier: first >> 5,
            version: fields.u8(2)?,
            vendor: text(8, 8)?,
            product: text(16, 16)?,
            revision: text(32, 4)?,
        })
    }

    /// The answer's first 36 bytes; texts are cut at their fields' ends.
    pub fn encode(&self) -> [u8; STANDARD] {
        let mut bytes = [b' '; STANDARD];
        bytes[..8].copy_from_slice(&[0, 0, self.version, 2, (STANDARD - 5) as u8, 0, 0, 0]);
        bytes[0] = self.qualifier << 5 | self.device_type & 0x1f;
        for (at, len, text) in [
            (8, 8, &self.vendor),
            (16, 16, &self.product),
            (32, 4, &self.revision),
        ] {
            for (place, byte) in bytes[at..at + len].iter_mut().zip(text.bytes()) {
                *place = byte;
            }
        }
        bytes
    }
}

/// Text of a fixed field: printable characters, without the spaces around them.
fn ascii(bytes: &[u8]) -> String {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~');
    let text: String = bytes
        .iter()
        .filter(|byte| printable(byte))
        .map(|byte| char::from(*byte))
        .collect();
    text.trim().to_owned()
}

/// The body of a VPD page, its header checked.
fn page_body<'a>(what: &'static str, page: u8, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let fields = Fields::new(what, bytes);
    let found = fields.u8(1)?;
    if found != page {
        let rule = "another page was asked for";
        return Err(fields.wrong("PAGE CODE", found.into(), rule));
    }
    fields.stated(4, fields.be16(2)?.into())
}

/// Serial number of the logical unit (VPD page 80h), without the spaces around it.
///
/// # Errors
/// Another page, or fewer bytes than it states.
pub fn decode_serial(bytes: &[u8]) -> Result<String, DecodeError> {
    page_body("VPD page 80h", PAGE_SERIAL, bytes).map(ascii)
}

/// The bytes of VPD page 80h.
pub fn encode_serial(serial: &str) -> Vec<u8> {
    let mut bytes = vec![0, PAGE_SERIAL];
    bytes.extend((serial.len() as u16).to_be_bytes());
    bytes.extend(serial.bytes());
    bytes
}

/// What a designator names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Association {
    /// 00b: the logical unit: the disk.
    LogicalUnit,
    /// 01b: the port that the answer came through.
    TargetPort,
    /// 10b: the device that holds the port.
    TargetDevice,
    /// 11b.
    Reserved,
}

/// One designator of VPD page 83h ("Device Identification").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designator {
    /// What it names.
    pub association: Association,
    /// DESIGNATOR TYPE: 1 T10 vendor, 2 EUI-64, 3 NAA, 8 SCSI name string, Ah UUID.
    pub kind: u8,
    /// CODE SET: 1 binary, 2 ASCII, 3 UTF-8.
    pub code_set: u8,
    /// The designator.
    pub bytes: Vec<u8>,
}

/// Reads VPD page 83h.
///
/// # Errors
/// Another page, fewer bytes than it states, or a designator that ends behind the page.
pub fn decode_designators(bytes: &[u8]) -> Result<Vec<Designator>, DecodeError> {
    let mut rest = page_body("VPD page 83h", PAGE_IDENTIFICATION, bytes)?;
    let mut designators = Vec::new();
    // Each turn takes at least a header's 4 bytes; a page has at most 65,535.
    while !rest.is_empty() {
        let fields = Fields::new("designator of VPD page 83h", rest);
        let (first, second, len) = (fields.u8(0)?, fields.u8(1)?, fields.u8(3)?);
        let bytes = fields.bytes(4, len.into())?.to_vec();
        rest = &rest[4 + usize::from(len)..];
        designators.push(Designator {
            association: match second >> 4 & 3 {
                0 => Association::LogicalUnit,
                1 => Association::TargetPort,
                2 => Association::TargetDevice,
                _ => Association::Reserved,
            },
            kind: second & 0xf,
            code_set: first & 0xf,
            bytes,
        });
    }
    Ok(designators)
}

/// The bytes of VPD page 83h. A designator longer than 255 bytes is cut.
pub fn encode_designators(designators: &[Designator]) -> Vec<u8> {
    let mut body = Vec::new();
    for one in designators {
        let association = match one.association {
            Association::LogicalUnit => 0,
            Association::TargetPort => 1,
            Association::TargetDevice => 2,
            Association::Reserved => 3,
        };
        let bytes = &one.bytes[..one.bytes.len().min(255)];
        body.extend([
            one.code_set & 0xf,
            association << 4 | one.kind & 0xf,
            0,
            bytes.len() as u8,
        ]);
        body.extend(bytes);
    }
    let mut page = vec![0, PAGE_IDENTIFICATION];
    page.extend((body.len() as u16).to_be_bytes());
    page.extend(body);
    page
}

/// Identities of the logical unit, the most telling first, each once. Designators of ports are left out: they name
/// a path, not the disk.
pub fn identities(designators: &[Designator]) -> Vec<Identity> {
    let of_unit = |one: &&Designator| one.association == Association::LogicalUnit;
    let mut found: Vec<(u8, Identity)> = designators
        .iter()
        .filter(of_unit)
        .filter_map(ranked)
        .collect();
    // Stable: of equal rank, the target's own order.
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    let mut identities: Vec<Identity> = Vec::new();
    for (_, identity) in found {
        if !identities.contains(&identity) {
            identities.push(identity);
        }
    }
    identities
}

/// How well a designator tells one disk from all others: longer and registered ones before short and local ones.
fn ranked(designator: &Designator) -> Option<(u8, Identity)> {
    let bytes = designator.bytes.as_slice();
    match (designator.kind, bytes.len()) {
        (0x3, 16) if bytes[0] >> 4 == 6 => Some((9, Identity::naa(bytes)?)),
        (0xa, 18) if bytes[0] >> 4 == 1 => Some((8, Identity::uuid(&bytes[2..])?)),
        (0x2, 16) => Some((7, Identity::eui(bytes)?)),
        (0x2, 12) => Some((6, Identity::eui(bytes)?)),
        (0x3, 8) if bytes[0] >> 4 == 5 => Some((5, Identity::naa(bytes)?)),
        (0x3, 8) if bytes[0] >> 4 == 2 => Some((4, Identity::naa(bytes)?)),
        (0x2, 8) => Some((3, Identity::eui(bytes)?)),
        (0x8, _) => Some((2, Identity::scsi_name(bytes)?)),
        (0x1, _) => Some((1, Identity::t10(bytes)?)),
        // NAA 3 is assigned locally: two disks may share it.
        (_, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(kind: u8, code_set: u8, bytes: &[u8]) -> Designator {
        Designator {
            association: Association::LogicalUnit,
            kind,
            code_set,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn commands() {
        assert_eq!(standard_cdb(36), [0x12, 0, 0, 0, 36, 0]);
        assert_eq!(page_cdb(0x83, 0x0400), [0x12, 1, 0x83, 4, 0, 0]);
    }

    #[test]
    fn standard_data_both_ways() {
        let disk = Standard {
            device_type: 0,
            qualifier: 0,
            version: 6,
            vendor: "SEAGATE".into(),
            product: "ST16000NM002G".into(),
            revision: "E002".into(),
        };
        let bytes = disk.encode();
        assert_eq!(&bytes[8..16], b"SEAGATE ");
        assert_eq!(Standard::decode(&bytes), Ok(disk));
        assert!(matches!(
            Standard::decode(&bytes[..35]),
            Err(DecodeError::Short { needed: 36, .. })
        ));
        let mut rubbish = bytes;
        rubbish[8] = 0x1b;
        rubbish[9] = 0xff;
        let vendor = Standard::decode(&rubbish).expect("valid").vendor;
        assert_eq!(vendor, "AGATE", "no control characters in our logs");
    }

    #[test]
    fn a_serial_both_ways() {
        let bytes = encode_serial("  ZL2AB3CD  ");
        assert_eq!(decode_serial(&bytes), Ok("ZL2AB3CD".to_owned()));
        assert!(matches!(
            decode_serial(&bytes[..8]),
            Err(DecodeError::Cut { .. })
        ));
        assert!(matches!(
            decode_serial(&[0, 0x83, 0, 0]),
            Err(DecodeError::Wrong { value: 0x83, .. })
        ));
    }

    /// As a dual-port SAS disk answers: unit NAA, port NAA, relative port, device name.
    fn sas_page() -> Vec<u8> {
        let mut page = vec![0, 0x83, 0, 56];
        page.extend([0x01, 0x03, 0, 8]);
        page.extend([0x50, 0x00, 0xc5, 0x00, 0xa1, 0xb2, 0xc3, 0xd7]);
        page.extend([0x61, 0x93, 0, 8]);
        page.extend([0x50, 0x00, 0xc5, 0x00, 0xa1, 0xb2, 0xc3, 0xd5]);
        page.extend([0x61, 0x94, 0, 4, 0, 0, 0, 1]);
        page.extend([0x63, 0xa8, 0, 20]);
        page.extend(b"naa.5000C500A1B2C3D4");
        page[3] = (page.len() - 4) as u8;
        page
    }

    #[test]
    fn a_disk_is_known_by_its_unit_not_by_its_port() {
        let designators = decode_designators(&sas_page()).expect("valid");
        assert_eq!(designators.len(), 4);
        let identities = identities(&designators);
        let names: Vec<&str> = identities.iter().map(Identity::as_str).collect();
        assert_eq!(names, ["naa.5000c500a1b2c3d7"]);
    }

    #[test]
    fn the_most_telling_designator_comes_first() {
        let mut uuid = vec![0x10, 0];
        uuid.extend([0xab; 16]);
        let all = [
            unit(1, 2, b"ACME    disk 0042"),
            unit(2, 1, &[1, 2, 3, 4, 5, 6, 7, 8]),
            unit(3, 1, &[0x30, 0, 0, 0, 0, 0, 0, 1]),
            unit(3, 1, &[0x60; 16]),
            unit(8, 3, b"naa.60606060606060606060606060606060\0\0\0\0"),
            unit(0xa, 1, &uuid),
        ];
        let page = encode_designators(&all);
        assert_eq!(decode_designators(&page).as_deref(), Ok(&all[..]));
        let names: Vec<String> = identities(&all).iter().map(Identity::to_string).collect();
        assert_eq!(
            names,
            [
                "naa.60606060606060606060606060606060",
                "uuid.abababab-abab-abab-abab-abababababab",
                "eui.0102030405060708",
                "t10.ACME_disk_0042",
            ]
        );
    }

    #[test]
    fn designators_that_lie_are_refused() {
        let mut page = sas_page();
        page[7] = 0xf0;
        assert!(matches!(
            decode_designators(&page),
            Err(DecodeError::Short { .. })
        ));
        let page = sas_page();
        assert!(matches!(
            decode_designators(&page[..20]),
            Err(DecodeError::Cut { .. })
        ));
        assert!(matches!(
            decode_designators(&page[..3]),
            Err(DecodeError::Short { .. })
        ));
    }
}
