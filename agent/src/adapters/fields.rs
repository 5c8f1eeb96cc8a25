//! Reading fields at fixed places of a device's answer, and what can be wrong with one.
//!
//! Nothing here trusts a length that a device states: each field is looked up within what arrived.

use std::fmt::Write as _;

/// What is wrong with an answer of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Less arrived than the shortest valid answer has.
    #[error(
        "{what}: {have} bytes arrived, at least {needed} are needed; the device or the path drops data"
    )]
    Short {
        /// Which answer.
        what: &'static str,
        /// Bytes that the field asked for needs.
        needed: usize,
        /// Bytes that arrived.
        have: usize,
    },
    /// The answer states more bytes than arrived: ask again with room for `needed`.
    #[error("{what}: it is {needed} bytes long, of which {have} arrived")]
    Cut {
        /// Which answer.
        what: &'static str,
        /// Bytes of the whole answer.
        needed: usize,
        /// Bytes that arrived.
        have: usize,
    },
    /// A field has a value that no valid answer has.
    #[error("{what}: {field} is {value}, but {rule}; the device breaks its standard")]
    Wrong {
        /// Which answer.
        what: &'static str,
        /// The standard's name of the field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What a valid one says.
        rule: &'static str,
    },
}

/// Bytes of one answer, read at fixed places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The answer `what`, of which `bytes` arrived.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { what, bytes }
    }

    /// `len` bytes from `at`.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> Result<&'a [u8], DecodeError> {
        let needed = at.saturating_add(len);
        self.bytes.get(at..needed).ok_or(DecodeError::Short {
            what: self.what,
            needed,
            have: self.bytes.len(),
        })
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(at, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&self, at: usize) -> Result<u8, DecodeError> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    pub(crate) fn be16(&self, at: usize) -> Result<u16, DecodeError> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(crate) fn be32(&self, at: usize) -> Result<u32, DecodeError> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&self, at: usize) -> Result<u64, DecodeError> {
        self.array(at).map(u64::from_be_bytes)
    }

    pub(crate) fn le16(&self, at: usize) -> Result<u16, DecodeError> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(crate) fn le32(&self, at: usize) -> Result<u32, DecodeError> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(crate) fn le64(&self, at: usize) -> Result<u64, DecodeError> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The body of `len` bytes from `at`, which the device stated itself.
    pub(crate) fn stated(&self, at: usize, len: usize) -> Result<&'a [u8], DecodeError> {
        let needed = at.saturating_add(len);
        self.bytes.get(at..needed).ok_or(DecodeError::Cut {
            what: self.what,
            needed,
            have: self.bytes.len(),
        })
    }

    /// The error for a field with a value that can't be.
    pub(crate) fn wrong(&self, field: &'static str, value: u64, rule: &'static str) -> DecodeError {
        DecodeError::Wrong {
            what: self.what,
            field,
            value,
            rule,
        }
    }
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What the mutation tests of the codecs share.
#[cfg(test)]
pub(crate) mod mutation {
    /// Deterministic random numbers (splitmix64).
    pub(crate) struct Dice(pub(crate) u64);

    impl Dice {
        fn throw(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        /// A number below `limit`, which isn't 0.
        pub(crate) fn below(&mut self, limit: usize) -> usize {
            (self.throw() % limit as u64) as usize
        }

        /// A copy of `seed` with one to four things changed: a bit, a byte, a length, a piece doubled or cut off.
        pub(crate) fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
            let mut bytes = seed.to_vec();
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len().max(1));
                match self.below(6) {
                    0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                    1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                    2 => bytes.truncate(at),
                    3 => {
                        let more = self.below(64);
                        bytes.extend((0..more).map(|n| n as u8));
                    }
                    4 if !bytes.is_empty() => {
                        let piece = bytes[at..].to_vec();
                        bytes.extend_from_slice(&piece);
                    }
                    _ if !bytes.is_empty() => bytes[at] = self.throw() as u8,
                    _ => bytes.push(self.throw() as u8),
                }
                bytes.truncate(8192);
            }
            bytes
        }
    }
}
