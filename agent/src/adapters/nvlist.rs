//! Name-value lists in their XDR form (RFC 4506 for the elements), as ZFS writes them into the labels of its disks and
//! into its cache file.
//!
//! ```text
//!   list  = version(4) flags(4) pair* 0(4) 0(4)
//!   pair  = bytes of the whole pair(4) bytes in memory(4) name type(4) elements(4) value
//! ```
//!
//! Only the types that describe a pool's devices are understood; pairs of others are passed over by their length.

use std::collections::BTreeMap;

/// Most pairs, over all lists: a pool has about twenty for each disk, and a cache file holds several pools.
const PAIRS_MAX: usize = 1_000_000;
/// Lists in lists; vdevs in vdevs are three or four.
const DEPTH_MAX: usize = 16;

const TYPE_UINT64: u32 = 8;
const TYPE_STRING: u32 = 9;
const TYPE_NUMBERS: u32 = 16;
const TYPE_LIST: u32 = 19;
const TYPE_LISTS: u32 = 20;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number.
    Number(u64),
    /// Several numbers.
    Numbers(Vec<u64>),
    /// A text.
    Text(String),
    /// A list.
    List(List),
    /// An array of lists.
    Lists(Vec<List>),
}

/// A list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct List(pub(crate) BTreeMap<String, Value>);

impl List {
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn numbers(&self, name: &str) -> &[u64] {
        match self.0.get(name) {
            Some(Value::Numbers(numbers)) => numbers,
            _ => &[],
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> Option<&List> {
        match self.0.get(name) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    pub(crate) fn lists(&self, name: &str) -> &[List] {
        match self.0.get(name) {
            Some(Value::Lists(lists)) => lists,
            _ => &[],
        }
    }

    /// The first text of that name, in it or in a list in it at any depth, that is `wanted`.
    pub(crate) fn find_text<'l>(
        &'l self,
        name: &str,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Option<&'l str> {
        self.0.iter().find_map(|(own, value)| match value {
            Value::Text(text) => (own == name && wanted(text)).then_some(text.as_str()),
            Value::List(list) => list.find_text(name, wanted),
            Value::Lists(lists) => lists.iter().find_map(|list| list.find_text(name, wanted)),
            Value::Number(_) | Value::Numbers(_) => None,
        })
    }
}

/// Why bytes are no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NvlistError {
    #[error("encoding {0} is not XDR (1)")]
    Encoding(u8),
    #[error("it ends at byte {0} in the middle")]
    Short(usize),
    #[error("a length at byte {0} can't be")]
    Length(usize),
    #[error("a text at byte {0} is not UTF-8")]
    Text(usize),
    #[error("more than {PAIRS_MAX} pairs, or more than {DEPTH_MAX} lists in each other")]
    TooMuch,
}

/// Decodes a list with its header of four bytes: encoding, byte order of the writer, two of zero.
pub(crate) fn decode(bytes: &[u8]) -> Result<List, NvlistError> {
    Ok(decode_start(bytes)?.0)
}

/// The list at the start of `bytes`, and how many of them it takes.
pub(crate) fn decode_start(bytes: &[u8]) -> Result<(List, usize), NvlistError> {
    let mut reader = Reader::begin(bytes)?;
    let list = reader.list(0)?;
    Ok((list, reader.at))
}

/// The list at the start of `bytes`, without what follows it, and with another number `name` of its own (of none of the
/// lists in it). `Ok(None)` where it has no such number.
pub(crate) fn with_number<'b>(
    bytes: &'b [u8],
    name: &'b str,
    number: u64,
) -> Result<Option<Vec<u8>>, NvlistError> {
    let mut reader = Reader::begin(bytes)?;
    reader.wanted = name;
    reader.list(0)?;
    let Some(at) = reader.wanted_at else {
        return Ok(None);
    };
    let mut list = bytes[..reader.at].to_vec();
    list[at..at + 8].copy_from_slice(&number.to_be_bytes());
    Ok(Some(list))
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    pairs: usize,
    /// Number whose place is noted.
    wanted: &'b str,
    wanted_at: Option<usize>,
}

impl<'b> Reader<'b> {
    fn begin(bytes: &'b [u8]) -> Result<Reader<'b>, NvlistError> {
        match bytes.first() {
            None => Err(NvlistError::Short(0)),
            Some(1) => Ok(Reader {
                bytes,
                at: 4,
                pairs: 0,
                wanted: "",
                wanted_at: None,
            }),
            Some(other) => Err(NvlistError::Encoding(*other)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], NvlistError> {
        let end = self
            .at
            .checked_add(length)
            .ok_or(NvlistError::Length(self.at))?;
        let part = self
            .bytes
            .get(self.at..end)
            .ok_or(NvlistError::Short(self.at))?;
        self.at = end;
        Ok(part)
    }

    fn u32(&mut self) -> Result<u32, NvlistError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes(
            bytes.try_into().map_err(|_| NvlistError::Short(self.at))?,
        ))
    }

    fn u64(&mut self) -> Result<u64, NvlistError> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    fn length(&mut self) -> Result<usize, NvlistError> {
        let at = self.at;
        usize::try_from(self.u32()?).map_err(|_| NvlistError::Length(at))
    }

    fn text(&mut self) -> Result<String, NvlistError> {
        let at = self.at;
        let length = self.length()?;
        let bytes = self.take(length)?;
        self.take(length.wrapping_neg() % 4)?;
        let text = std::str::from_utf8(bytes).map_err(|_| NvlistError::Text(at))?;
        Ok(text.to_owned())
    }

    fn list(&mut self, depth: usize) -> Result<List, NvlistError> {
        if depth > DEPTH_MAX {
            return Err(NvlistError::TooMuch);
        }
        self.take(8)?;
        let mut list = List::default();
        loop {
            let start = self.at;
            let length = self.length()?;
            self.take(4)?;
            if length == 0 {
                return Ok(list);
            }
            self.pairs += 1;
            if self.pairs > PAIRS_MAX {
                return Err(NvlistError::TooMuch);
            }
            let name = self.text()?;
            let kind = self.u32()?;
            let elements = self.length()?;
            if depth == 0 && kind == TYPE_UINT64 && name == self.wanted {
                self.wanted_at = Some(self.at);
            }
            let value = match kind {
                TYPE_NUMBERS => {
                    // An array of XDR has its count before it.
                    let mut numbers = Vec::new();
                    for _ in 0..self.length()? {
                        numbers.push(self.u64()?);
                    }
                    Some(Value::Numbers(numbers))
                }
                TYPE_UINT64 => Some(Value::Number(self.u64()?)),
                TYPE_STRING => Some(Value::Text(self.text()?)),
                TYPE_LIST => Some(Value::List(self.list(depth + 1)?)),
                TYPE_LISTS => {
                    let mut lists = Vec::new();
                    for _ in 0..elements {
                        lists.push(self.list(depth + 1)?);
                    }
                    Some(Value::Lists(lists))
                }
                _ => None,
            };
            // The length covers the pair from its start; what isn't understood is passed over by it.
            let end = start
                .checked_add(length)
                .ok_or(NvlistError::Length(start))?;
            match value {
                Some(value) if self.at == end => list.0.insert(name, value),
                Some(_) => return Err(NvlistError::Length(start)),
                None if end >= self.at && end <= self.bytes.len() => {
                    self.at = end;
                    None
                }
                None => return Err(NvlistError::Length(start)),
            };
        }
    }
}

/// Writes lists, for tests: the reverse of [`decode`].
#[cfg(test)]
pub(crate) mod write {
    use super::{List, Value};

    pub(crate) fn encode(list: &List) -> Vec<u8> {
        let mut out = vec![1, 1, 0, 0];
        body(list, &mut out);
        out
    }

    fn body(list: &List, out: &mut Vec<u8>) {
        out.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        for (name, value) in &list.0 {
            let start = out.len();
            out.extend([0; 8]);
            text(name, out);
            let (kind, elements) = match value {
                Value::Number(_) => (8, 1),
                Value::Numbers(numbers) => (16, numbers.len() as u32),
                Value::Text(_) => (9, 1),
                Value::List(_) => (19, 1),
                Value::Lists(lists) => (20, lists.len() as u32),
            };
            out.extend(u32::to_be_bytes(kind));
            out.extend(u32::to_be_bytes(elements));
            match value {
                Value::Number(number) => out.extend(number.to_be_bytes()),
                Value::Numbers(numbers) => {
                    out.extend((numbers.len() as u32).to_be_bytes());
                    for number in numbers {
                        out.extend(number.to_be_bytes());
                    }
                }
                Value::Text(value) => text(value, out),
                Value::List(list) => body(list, out),
                Value::Lists(lists) => lists.iter().for_each(|list| body(list, out)),
            }
            let length = (out.len() - start) as u32;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        out.extend([0; 8]);
    }

    fn text(text: &str, out: &mut Vec<u8>) {
        out.extend((text.len() as u32).to_be_bytes());
        out.extend(text.as_bytes());
        out.extend(vec![0; text.len().wrapping_neg() % 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> List {
        let text = |text: &str| Value::Text(text.to_owned());
        let leaf = |guid| {
            List(BTreeMap::from([
                ("guid".to_owned(), Value::Number(guid)),
                ("path".to_owned(), text("/dev/x")),
            ]))
        };
        List(BTreeMap::from([
            ("name".to_owned(), text("tank")),
            (
                "tree".to_owned(),
                Value::List(List(BTreeMap::from([(
                    "children".to_owned(),
                    Value::Lists(vec![leaf(1), leaf(2)]),
                )]))),
            ),
            ("txg".to_owned(), Value::Number(u64::MAX - 3)),
            ("holes".to_owned(), Value::Numbers(vec![2, u64::MAX])),
        ]))
    }

    #[test]
    fn a_list_comes_back() {
        let list = sample();
        assert_eq!(decode(&write::encode(&list)), Ok(list));
    }

    /// Only the list's own number changes, not one of that name in a list in it; what follows the list is left away.
    #[test]
    fn a_number_is_exchanged() {
        let mut list = sample();
        list.0.insert("guid".to_owned(), Value::Number(7));
        let mut bytes = write::encode(&list);
        let length = bytes.len();
        bytes.extend([0xee; 100]);
        let changed = with_number(&bytes, "guid", u64::MAX / 3).expect("a list");
        let changed = changed.expect("the number");
        assert_eq!(changed.len(), length);
        list.0
            .insert("guid".to_owned(), Value::Number(u64::MAX / 3));
        assert_eq!(decode(&changed), Ok(list));
        let without = write::encode(&sample());
        assert_eq!(with_number(&without, "guid", 1), Ok(None));
        assert!(with_number(&without[..50], "txg", 1).is_err());
    }

    /// A boolean, which has no value, and an array of signed numbers.
    #[test]
    fn other_types_are_passed_over() {
        let mut bytes = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        bytes.extend([0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 4]);
        bytes.extend(b"flag");
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        bytes.extend([0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend(b"arr\0");
        bytes.extend([0, 0, 0, 15, 0, 0, 0, 2]);
        bytes.extend([7; 16]);
        bytes.extend([0; 8]);
        assert_eq!(decode(&bytes), Ok(List::default()));
    }

    #[test]
    fn cut_and_changed_bytes_are_errors_and_never_a_panic() {
        let whole = write::encode(&sample());
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "{length}");
        }
        for place in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[place] = byte;
                let _ = decode(&changed);
            }
        }
        assert_eq!(decode(&[0, 1, 0, 0]), Err(NvlistError::Encoding(0)));
    }
}
