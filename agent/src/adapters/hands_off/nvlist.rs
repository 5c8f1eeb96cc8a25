//! Packed name-value lists as ZFS writes its cache file, read as far as strings are concerned.
//!
//! The file: one byte encoding (1: XDR), one byte order, two reserved; then a list. A list (all numbers big-endian, 32
//! bits): version, flags, pairs, two zeroes. A pair: its length in bytes, its length when unpacked, name (length, bytes,
//! padding to four), type, number of elements, value. Source: OpenZFS, module/nvpair/nvpair.c (`nvs_xdr_*`), RFC 4506.

/// Lists in lists: a pool's devices are far less deep.
const DEPTH_MAX: usize = 32;
/// Pairs that are looked at: 1,255 disks have some 20 each.
const PAIRS_MAX: usize = 1_000_000;
/// `DATA_TYPE_STRING`, `DATA_TYPE_NVLIST`, `DATA_TYPE_NVLIST_ARRAY`.
const STRING: u32 = 9;
const LIST: u32 = 19;
const LISTS: u32 = 20;

/// What stands at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Names of the lists that it is in, outermost first, and its own.
    pub(super) path: Vec<String>,
    pub(super) value: String,
}

/// Every string of a cache file.
///
/// # Errors
/// Where it isn't one, in words.
pub(super) fn texts(bytes: &[u8]) -> Result<Vec<Text>, String> {
    if bytes.first() != Some(&1) {
        return Err("it isn't packed as XDR".to_owned());
    }
    let mut walk = Walk {
        bytes,
        at: 4,
        pairs: 0,
        path: Vec::new(),
        texts: Vec::new(),
    };
    let at_fault = |walk: &Walk<'_>| format!("it is damaged at byte {}", walk.at);
    match walk.list() {
        Some(()) => Ok(walk.texts),
        None => Err(at_fault(&walk)),
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    pairs: usize,
    path: Vec<String>,
    texts: Vec<Text>,
}

impl Walk<'_> {
    fn number(&mut self) -> Option<u32> {
        let end = self.at.checked_add(4)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let end = self.at.checked_add(length)?;
        let text = String::from_utf8_lossy(self.bytes.get(self.at..end)?).into_owned();
        self.at = end.checked_next_multiple_of(4)?;
        Some(text)
    }

    fn list(&mut self) -> Option<()> {
        if self.path.len() > DEPTH_MAX {
            return None;
        }
        self.number()?; // version
        self.number()?; // flags
        loop {
            let start = self.at;
            let length = usize::try_from(self.number()?).ok()?;
            let unpacked = self.number()?;
            if length == 0 && unpacked == 0 {
                return Some(());
            }
            self.pairs += 1;
            let end = start.checked_add(length)?;
            // Each pair goes forward, and none out of the file.
            if self.pairs > PAIRS_MAX || end <= self.at || end > self.bytes.len() {
                return None;
            }
            self.pair(end)?;
            self.at = end;
        }
    }

    fn pair(&mut self, end: usize) -> Option<()> {
        let name = self.text()?;
        let kind = self.number()?;
        let elements = self.number()?;
        self.path.push(name);
        match kind {
            STRING => {
                let value = self.text()?;
                let path = self.path.clone();
                self.texts.push(Text { path, value });
            }
            LIST => self.list()?,
            LISTS => {
                for _ in 0..elements {
                    self.list()?;
                }
            }
            _ => {}
        }
        self.path.pop();
        (self.at <= end).then_some(())
    }
}
