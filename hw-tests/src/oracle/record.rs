//! Records and acknowledgements as bytes, little endian.
//!
//! ```text
//!   record, 64 bytes                         acknowledgement, 40 bytes
//!    0  magic "lab-rec1"                      0  magic "lab-ack1"
//!    8  run                                   8  run
//!   16  number in the run, from 1            16  number
//!   24  writer, 0 on its way to one          24  writer
//!   32  filler, made of run and number       32  CRC of the bytes before
//!   56  CRC of the bytes before
//! ```
//!
//! CRC-64/XZ: polynomial of ECMA-182, reflected, start and final value all ones.

/// Length of a record, on the wire and in the log.
pub const RECORD_BYTES: usize = 64;
/// Length of an acknowledgement.
pub const ACK_BYTES: usize = 40;

const RECORD_MAGIC: [u8; 8] = *b"lab-rec1";
const ACK_MAGIC: [u8; 8] = *b"lab-ack1";

/// One numbered record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which run of a client: each has a number of its own.
    pub run: u64,
    /// Number in the run, from 1.
    pub number: u64,
    /// Which start of which recorder appended it; 0 on its way to one.
    pub writer: u64,
}

/// What a recorder answers once a record is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The run.
    pub run: u64,
    /// The record's number.
    pub number: u64,
    /// Which start of which recorder answers; another one may have appended it.
    pub writer: u64,
}

impl Record {
    /// Its bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&RECORD_MAGIC);
        for (at, word) in [(8, self.run), (16, self.number), (24, self.writer)] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[32..56].copy_from_slice(&filler(self.run, self.number));
        seal(&mut bytes);
        bytes
    }

    /// The record that these bytes hold; nothing if a single bit of them is wrong, or their number is not `RECORD_BYTES`.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let record = Record {
            run: word(bytes, 8)?,
            number: word(bytes, 16)?,
            writer: word(bytes, 24)?,
        };
        (record.encode() == *bytes).then_some(record)
    }
}

impl Ack {
    /// Its bytes.
    pub fn encode(&self) -> [u8; ACK_BYTES] {
        let mut bytes = [0; ACK_BYTES];
        bytes[..8].copy_from_slice(&ACK_MAGIC);
        for (at, word) in [(8, self.run), (16, self.number), (24, self.writer)] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// The acknowledgement that these bytes hold; nothing if they hold none.
    pub fn decode(bytes: &[u8]) -> Option<Ack> {
        let bytes: &[u8; ACK_BYTES] = bytes.try_into().ok()?;
        let ack = Ack {
            run: word(bytes, 8)?,
            number: word(bytes, 16)?,
            writer: word(bytes, 24)?,
        };
        (ack.encode() == *bytes).then_some(ack)
    }
}

/// CRC-64/XZ.
pub fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;
    !bytes.iter().fold(u64::MAX, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
        })
    })
}

fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 8;
    let crc = crc64(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(word))
}

/// Bytes that no neighbour shares, so that a block in the wrong place doesn't pass for the right one.
fn filler(run: u64, number: u64) -> [u8; 24] {
    let mut seed = run ^ number.rotate_left(32);
    let mut bytes = [0; 24];
    for chunk in bytes.chunks_exact_mut(8) {
        // splitmix64
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        run: 7,
        number: 4711,
        writer: 3,
    };

    #[test]
    fn the_checksum_is_the_known_one() {
        // Check value of CRC-64/XZ in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc64(b"123456789"), 0x995D_C9BB_DF19_39FA);
    }

    #[test]
    fn bytes_and_structures_both_ways() {
        assert_eq!(Record::decode(&RECORD.encode()), Some(RECORD));
        let ack = Ack {
            run: 7,
            number: 4711,
            writer: 3,
        };
        assert_eq!(Ack::decode(&ack.encode()), Some(ack));
    }

    #[test]
    fn a_single_wrong_bit_or_a_missing_byte_is_found() {
        let bytes = RECORD.encode();
        for bit in 0..RECORD_BYTES * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&wrong), None, "bit {bit}");
        }
        assert_eq!(Record::decode(&bytes[1..]), None);
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
    }
}
