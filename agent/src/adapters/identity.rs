//! A disk's identity: what its maker gave it and every path shows alike, never its name under `/dev`.
//!
//! Written as the kernel writes it in sysfs (`wwid`): `naa.…`, `eui.…`, `uuid.…`, `t10.…`, with small letters.

use crate::adapters::fields::hex;
use std::fmt;

/// Longest identity, as the configuration has it.
const LENGTH_MAX: usize = 128;

/// An identity in its one written form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(String);

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A path, or the name of a device node.
    #[error(
        "{0:?} is the name of a device, which the next boot may give to another disk; use its identity, the text in \
         /sys/block/NAME/device/wwid (NVMe: /sys/block/NAME/wwid)"
    )]
    DeviceName(String),
    /// Nothing that we know.
    #[error(
        "{0:?} is no identity of a disk; use the text in /sys/block/NAME/device/wwid (NVMe: /sys/block/NAME/wwid), \
         such as naa.5000c500a1b2c3d4 or eui.0025388b710116a2"
    )]
    Unknown(String),
}

impl Identity {
    /// An NAA designator, 8 or 16 bytes; `None` for another length or all zeroes.
    pub fn naa(bytes: &[u8]) -> Option<Identity> {
        (matches!(bytes.len(), 8 | 16) && is_set(bytes))
            .then(|| Identity(format!("naa.{}", hex(bytes))))
    }

    /// An EUI-64 based designator of 8, 12 or 16 bytes, or an NGUID; `None` for another length or all zeroes, which
    /// is how NVMe says "none".
    pub fn eui(bytes: &[u8]) -> Option<Identity> {
        (matches!(bytes.len(), 8 | 12 | 16) && is_set(bytes))
            .then(|| Identity(format!("eui.{}", hex(bytes))))
    }

    /// A UUID, 16 bytes; `None` for another length or all zeroes.
    pub fn uuid(bytes: &[u8]) -> Option<Identity> {
        if bytes.len() != 16 || !is_set(bytes) {
            return None;
        }
        let text = hex(bytes);
        let (a, b, c) = (&text[..8], &text[8..12], &text[12..16]);
        Some(Identity(format!(
            "uuid.{a}-{b}-{c}-{}-{}",
            &text[16..20],
            &text[20..]
        )))
    }

    /// A T10 vendor designator: printable characters, each run of others or of spaces as one `_`. `None` where
    /// nothing is left or too much.
    pub fn t10(bytes: &[u8]) -> Option<Identity> {
        let mut text = String::new();
        for byte in bytes {
            match byte {
                b'!'..=b'~' => text.push(char::from(*byte)),
                _ if text.ends_with('_') => {}
                _ => text.push('_'),
            }
        }
        let text = text.trim_matches('_');
        let fits = !text.is_empty() && text.len() + 4 <= LENGTH_MAX;
        fits.then(|| Identity(format!("t10.{text}")))
    }

    /// A SCSI name string that is an NAA or EUI in letters, padded with zero bytes; `None` for others (an iSCSI name
    /// is a target's, not a disk's).
    pub fn scsi_name(bytes: &[u8]) -> Option<Identity> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
        let (kind, digits) = text.split_once('.')?;
        let bytes = unhex(digits)?;
        match kind {
            "naa" => Identity::naa(&bytes),
            "eui" => Identity::eui(&bytes),
            _ => None,
        }
    }

    /// Reads an identity as people find it written: the kernel's `wwid`, or udev's `wwn-0x…`, `0x…`, `scsi-3…`,
    /// `nvme-eui.…`, in large or small letters.
    ///
    /// # Errors
    /// The name of a device node, or nothing known.
    pub fn parse(text: &str) -> Result<Identity, IdentityError> {
        let text = text.trim();
        if looks_like_a_name(text) {
            return Err(IdentityError::DeviceName(text.to_owned()));
        }
        let found = match text.split_once('.') {
            Some(("naa", digits)) => unhex(digits).and_then(|bytes| Identity::naa(&bytes)),
            Some(("eui" | "nvme-eui" | "nguid", digits)) => {
                unhex(digits).and_then(|bytes| Identity::eui(&bytes))
            }
            Some(("uuid" | "nvme-uuid", digits)) => {
                unhex(&digits.replace('-', "")).and_then(|bytes| Identity::uuid(&bytes))
            }
            Some(("t10", rest)) => Identity::t10(rest.as_bytes()),
            _ => {
                let digits = ["wwn-0x", "0x", "scsi-3"]
                    .iter()
                    .find_map(|prefix| text.strip_prefix(prefix));
                digits
                    .and_then(unhex)
                    .and_then(|bytes| Identity::naa(&bytes))
            }
        };
        found.ok_or_else(|| IdentityError::Unknown(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `/dev/…`, or the bare name of a node.
fn looks_like_a_name(text: &str) -> bool {
    let bare = |prefix: &str| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let number = |prefix: &str| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.contains('/')
        || bare("sd")
        || bare("mpath")
        || number("nvme")
        || number("dm-")
        || number("sg")
}

fn is_set(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| *byte != 0)
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2)
        || digits.len() > 64
        || !digits.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_one_identity() {
        for text in [
            "naa.5000c500a1b2c3d4",
            "naa.5000C500A1B2C3D4\n",
            "wwn-0x5000c500a1b2c3d4",
            "0x5000c500a1b2c3d4",
            "scsi-35000c500a1b2c3d4",
        ] {
            let identity = Identity::parse(text).expect(text);
            assert_eq!(identity.as_str(), "naa.5000c500a1b2c3d4");
            assert_eq!(Identity::parse(identity.as_str()), Ok(identity));
        }
        let cases = [
            ("nvme-eui.0025388B710116A2", "eui.0025388b710116a2"),
            (
                "uuid.00112233-4455-6677-8899-aabbccddeeff",
                "uuid.00112233-4455-6677-8899-aabbccddeeff",
            ),
            ("t10.ATA     ST1000  Z1", "t10.ATA_ST1000_Z1"),
        ];
        for (text, expected) in cases {
            assert_eq!(Identity::parse(text).expect(text).as_str(), expected);
        }
    }

    #[test]
    fn names_of_devices_are_refused_with_the_remedy() {
        for text in [
            "/dev/sdb",
            "sdb",
            "dm-3",
            "/dev/mapper/mpatha",
            "mpatha",
            "nvme0n1",
            "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4",
        ] {
            let error = Identity::parse(text).expect_err(text);
            assert!(matches!(error, IdentityError::DeviceName(_)), "{text}");
            assert!(error.to_string().contains("wwid"), "{error}");
        }
    }

    #[test]
    fn rubbish_is_no_identity() {
        for text in [
            "",
            "naa.",
            "naa.0000000000000000",
            "naa.5000c500a1b2c3",
            "eui.xyz",
            "disk7",
            "naa.+1+1+1+1+1+1+1+1",
            "wwn-0xgg",
            "t10.   ",
        ] {
            let error = Identity::parse(text).expect_err(text);
            assert!(matches!(error, IdentityError::Unknown(_)), "{text}");
        }
        let unicode = Identity::parse("naa.ääää");
        assert!(unicode.is_err());
    }
}
