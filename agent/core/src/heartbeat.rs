//! The bytes of a beat.
//!
//! A datagram is `header · body · tag`. All numbers are big-endian.
//!
//! | part | bytes | what |
//! |---|---|---|
//! | header | 4 | magic `FOVB` |
//! | | 1 | version of this layout, [`VERSION`] |
//! | | 1 | zero |
//! | | 2 | length of the body |
//! | | 16 | id of the pair, derived from its key |
//! | body | | see below |
//! | tag | 32 | HMAC-SHA256 over header and body with the pair's key; made and checked by the shell |
//!
//! | body offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | node: 0 A, 1 B |
//! | 1 | 8 | session |
//! | 9 | 8 | number of the beat |
//! | 17 | 1 | echo: 0 absent (and zero), 1 present |
//! | 18 | 8 | echo: session |
//! | 26 | 8 | echo: number |
//! | 34 | 1 | public state: 1 MASTER, 2 BACKUP, 3 ELECTING, 4 IMPORTING, 5 SINGLE, 6 ERROR |
//! | 35 | 1 | role: 1 starting, 2 electing, 3 standby, 4 fencing, 5 importing, 6 owner, 7 failing, 8 resigning, 9 handing over, 10 restarting, 11 stopping, 12 halted |
//! | 36 | 2 | incarnation, 0..=1023 |
//! | 38 | 8 | epoch |
//! | 46 | 1 | bits: 1 eligible, 2 serving, 4 clients' network, 8 failover disabled; the others zero |
//! | 47 | 2 | blockers, bits of `Blocker`; unknown bits are kept |
//! | 49 | 8 | settings: epoch of the change |
//! | 57 | 4 | settings: number of the change |
//! | 61 | 1 | settings: changed by, 0 A, 1 B |
//! | 62 | 1 | settings: preferred controller, 0 A, 1 B |
//! | 63 | 1 | settings: extra wait, seconds, 0..=120 |
//! | 64 | 4 | version of the receiver's arbiter list that the sender has |
//! | 68 | 4 | version of the sender's arbiter list |
//! | 72 | 1 | question: 0 none, 1 can you take, 2 hand over |
//! | 73 | 4 | question: number, zero without one |
//! | 77 | 1 | answer: 0 none, 1 no, 2 yes |
//! | 78 | 4 | answer: number, zero without one |
//! | 82 | 1 | n: arbiter disks, 0..=5 |
//! | 83 | 1 | p: disks of the list before, 0..=5 |
//! | 84 | 1 | v: length of the software's version, 0..=64 |
//! | 85 | 8·n | arbiter disks |
//! | 85+8n | 8·p | disks of the list before |
//! | 85+8n+8p | v | version, UTF-8 |
//!
//! Decoding is strict: another length, an unknown word, a set reserved bit or a byte too many refuses the datagram, and
//! a beat has exactly one encoding. **The rule for later releases:** a changed layout gets a new version number. A
//! release decodes its own version and the one before, and sends the one before until the peer has sent the new one.
//! So two neighbouring releases understand each other, and a beat of any other version is refused and counted.

use crate::beat::{Answer, ArbiterList, Ask, AskWhat, Beat, Echo, Role};
use crate::ids::{DiskId, Epoch, Node, Session};
use crate::settings::{Settings, SettingsVersion};
use failover_api::Status;
use std::fmt;

/// Version of the layout.
pub const VERSION: u8 = 1;
/// Length of the header.
pub const HEADER_BYTES: usize = 24;
/// Length of the tag.
pub const TAG_BYTES: usize = 32;
/// Longest datagram.
pub const DATAGRAM_MAX: usize = 1200;

const MAGIC: [u8; 4] = *b"FOVB";
const FIXED_BYTES: usize = 85;
const DISKS_MAX: usize = 5;
const VERSION_MAX: usize = 64;
const TIMEOUT_MAX_S: u8 = 120;
const INCARNATION_MAX: u16 = 1023;

const ELIGIBLE: u8 = 1;
const SERVING: u8 = 2;
const LAN: u8 = 4;
const DISABLED: u8 = 8;

/// Why bytes are not a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than a beat, or shorter than it says.
    Truncated,
    /// Longer than it says, or than any beat.
    Trailing,
    /// Not one of ours at all.
    Magic,
    /// Another version of the layout.
    Version(u8),
    /// Of another pair.
    Pair,
    /// A field with a value that it can't have; its name.
    Field(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated => f.write_str("truncated"),
            DecodeError::Trailing => f.write_str("longer than it says"),
            DecodeError::Magic => f.write_str("not a beat"),
            DecodeError::Version(version) => write!(f, "layout version {version}, not {VERSION}"),
            DecodeError::Pair => f.write_str("of another pair"),
            DecodeError::Field(name) => write!(f, "impossible value of {name}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Header and body of a beat; the tag is still to be appended.
pub fn encode(pair: &[u8; 16], beat: &Beat) -> Vec<u8> {
    let body = encode_body(beat);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + TAG_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(VERSION);
    bytes.push(0);
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(pair);
    bytes.extend_from_slice(&body);
    bytes
}

/// Splits a datagram into what is signed and the tag, after a look at lengths, version and pair alone.
pub fn split<'a>(pair: &[u8; 16], bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    if bytes.len() < HEADER_BYTES + TAG_BYTES {
        return Err(DecodeError::Truncated);
    }
    if bytes[..4] != MAGIC {
        return Err(DecodeError::Magic);
    }
    if bytes[4] != VERSION {
        return Err(DecodeError::Version(bytes[4]));
    }
    if bytes[5] != 0 {
        return Err(DecodeError::Field("header"));
    }
    let body = usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
    let length = HEADER_BYTES + body + TAG_BYTES;
    if length > DATAGRAM_MAX || bytes.len() > length {
        return Err(DecodeError::Trailing);
    }
    if bytes.len() < length {
        return Err(DecodeError::Truncated);
    }
    if bytes[8..HEADER_BYTES] != *pair {
        return Err(DecodeError::Pair);
    }
    Ok(bytes.split_at(HEADER_BYTES + body))
}

/// The beat in a signed part whose tag was checked.
pub fn decode(signed: &[u8]) -> Result<Beat, DecodeError> {
    decode_body(signed.get(HEADER_BYTES..).ok_or(DecodeError::Truncated)?)
}

/// Body of a beat.
pub fn encode_body(beat: &Beat) -> Vec<u8> {
    let version = fitting(&beat.version);
    let arbiters = &beat.arbiters;
    // Our own mistake, never the peer's: decoding bounds what comes in.
    assert!(
        arbiters.disks.len() <= DISKS_MAX && arbiters.previous.len() <= DISKS_MAX,
        "an arbiter list has at most {DISKS_MAX} disks"
    );
    let mut out = Vec::with_capacity(FIXED_BYTES + 16 * DISKS_MAX + VERSION_MAX);
    out.push(node_code(beat.node));
    out.extend_from_slice(&beat.session.0.to_be_bytes());
    out.extend_from_slice(&beat.seq.to_be_bytes());
    out.push(u8::from(beat.echo.is_some()));
    let echo = beat.echo.unwrap_or(Echo {
        session: Session(0),
        seq: 0,
    });
    out.extend_from_slice(&echo.session.0.to_be_bytes());
    out.extend_from_slice(&echo.seq.to_be_bytes());
    out.push(status_code(beat.status));
    out.push(role_code(beat.role));
    out.extend_from_slice(&beat.incarnation.to_be_bytes());
    out.extend_from_slice(&beat.epoch.0.to_be_bytes());
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        bit(beat.eligible, ELIGIBLE)
            | bit(beat.serving, SERVING)
            | bit(beat.lan, LAN)
            | bit(beat.settings.disabled, DISABLED),
    );
    out.extend_from_slice(&beat.blockers.to_be_bytes());
    out.extend_from_slice(&beat.settings.version.epoch.to_be_bytes());
    out.extend_from_slice(&beat.settings.version.sequence.to_be_bytes());
    out.push(node_code(beat.settings.version.by));
    out.push(node_code(beat.settings.master));
    out.push(beat.settings.timeout_s);
    out.extend_from_slice(&beat.arbiters_acked.to_be_bytes());
    out.extend_from_slice(&arbiters.version.to_be_bytes());
    let (ask, number) = beat
        .ask
        .map_or((0, 0), |ask| (ask_code(ask.what), ask.number));
    out.push(ask);
    out.extend_from_slice(&number.to_be_bytes());
    let answered = |answer: Answer| (if answer.yes { 2 } else { 1 }, answer.number);
    let (answer, number) = beat.answer.map_or((0, 0), answered);
    out.push(answer);
    out.extend_from_slice(&number.to_be_bytes());
    out.push(arbiters.disks.len() as u8);
    out.push(arbiters.previous.len() as u8);
    out.push(version.len() as u8);
    for disk in arbiters.disks.iter().chain(&arbiters.previous) {
        out.extend_from_slice(&disk.0.to_be_bytes());
    }
    out.extend_from_slice(version.as_bytes());
    out
}

/// Reads the body of a beat; refuses anything that `encode_body` would not have written.
pub fn decode_body(bytes: &[u8]) -> Result<Beat, DecodeError> {
    let mut read = Reader { bytes };
    let node = node_of(read.u8()?, "node")?;
    let session = Session(read.u64()?);
    let seq = read.u64()?;
    let echo = read.echo()?;
    let status = status_of(read.u8()?)?;
    let role = role_of(read.u8()?)?;
    let incarnation = read.u16()?;
    if incarnation > INCARNATION_MAX {
        return Err(DecodeError::Field("incarnation"));
    }
    let epoch = Epoch(read.u64()?);
    let bits = read.u8()?;
    if bits & !(ELIGIBLE | SERVING | LAN | DISABLED) != 0 {
        return Err(DecodeError::Field("bits"));
    }
    let blockers = read.u16()?;
    let settings = read.settings(bits & DISABLED != 0)?;
    let arbiters_acked = read.u32()?;
    let arbiters_version = read.u32()?;
    let ask = read.ask()?;
    let answer = read.answer()?;
    let (disks, previous, version) = (read.u8()?, read.u8()?, read.u8()?);
    let disks = read.disks(disks)?;
    let previous = read.disks(previous)?;
    let version = read.version(version)?;
    if !read.bytes.is_empty() {
        return Err(DecodeError::Trailing);
    }
    Ok(Beat {
        node,
        session,
        seq,
        echo,
        status,
        role,
        incarnation,
        epoch,
        eligible: bits & ELIGIBLE != 0,
        blockers,
        serving: bits & SERVING != 0,
        lan: bits & LAN != 0,
        settings,
        arbiters: ArbiterList {
            version: arbiters_version,
            disks,
            previous,
        },
        arbiters_acked,
        ask,
        answer,
        version,
    })
}

/// What is left to read.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn echo(&mut self) -> Result<Option<Echo>, DecodeError> {
        let present = self.u8()?;
        let session = Session(self.u64()?);
        let seq = self.u64()?;
        match present {
            0 if session.0 == 0 && seq == 0 => Ok(None),
            1 => Ok(Some(Echo { session, seq })),
            _ => Err(DecodeError::Field("echo")),
        }
    }

    fn settings(&mut self, disabled: bool) -> Result<Settings, DecodeError> {
        let version = SettingsVersion {
            epoch: self.u64()?,
            sequence: self.u32()?,
            by: node_of(self.u8()?, "settings")?,
        };
        let master = node_of(self.u8()?, "settings")?;
        let timeout_s = self.u8()?;
        if timeout_s > TIMEOUT_MAX_S {
            return Err(DecodeError::Field("settings"));
        }
        Ok(Settings {
            version,
            disabled,
            master,
            timeout_s,
        })
    }

    fn ask(&mut self) -> Result<Option<Ask>, DecodeError> {
        let code = self.u8()?;
        let number = self.u32()?;
        let what = match code {
            0 if number == 0 => return Ok(None),
            1 => AskWhat::CanYouTake,
            2 => AskWhat::HandOver,
            _ => return Err(DecodeError::Field("question")),
        };
        Ok(Some(Ask { number, what }))
    }

    fn answer(&mut self) -> Result<Option<Answer>, DecodeError> {
        let code = self.u8()?;
        let number = self.u32()?;
        let yes = match code {
            0 if number == 0 => return Ok(None),
            1 => false,
            2 => true,
            _ => return Err(DecodeError::Field("answer")),
        };
        Ok(Some(Answer { number, yes }))
    }

    fn disks(&mut self, count: u8) -> Result<Vec<DiskId>, DecodeError> {
        if usize::from(count) > DISKS_MAX {
            return Err(DecodeError::Field("arbiters"));
        }
        (0..count).map(|_| self.u64().map(DiskId)).collect()
    }

    fn version(&mut self, length: u8) -> Result<String, DecodeError> {
        let length = usize::from(length);
        if length > VERSION_MAX {
            return Err(DecodeError::Field("version"));
        }
        let (head, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        let text = std::str::from_utf8(head).map_err(|_| DecodeError::Field("version"))?;
        if text.chars().any(char::is_control) {
            return Err(DecodeError::Field("version"));
        }
        Ok(text.to_owned())
    }
}

/// The part of a version that fits: it is for people, and must not cost a beat.
fn fitting(version: &str) -> &str {
    let mut end = version.len().min(VERSION_MAX);
    while !version.is_char_boundary(end) {
        end -= 1;
    }
    &version[..end]
}

const fn node_code(node: Node) -> u8 {
    match node {
        Node::A => 0,
        Node::B => 1,
    }
}

fn node_of(code: u8, field: &'static str) -> Result<Node, DecodeError> {
    match code {
        0 => Ok(Node::A),
        1 => Ok(Node::B),
        _ => Err(DecodeError::Field(field)),
    }
}

const fn ask_code(what: AskWhat) -> u8 {
    match what {
        AskWhat::CanYouTake => 1,
        AskWhat::HandOver => 2,
    }
}

const STATUSES: [Status; 6] = [
    Status::Master,
    Status::Backup,
    Status::Electing,
    Status::Importing,
    Status::Single,
    Status::Error,
];

const fn status_code(status: Status) -> u8 {
    match status {
        Status::Master => 1,
        Status::Backup => 2,
        Status::Electing => 3,
        Status::Importing => 4,
        Status::Single => 5,
        Status::Error => 6,
    }
}

fn status_of(code: u8) -> Result<Status, DecodeError> {
    let found = STATUSES.into_iter().find(|s| status_code(*s) == code);
    found.ok_or(DecodeError::Field("status"))
}

const ROLES: [Role; 12] = [
    Role::Starting,
    Role::Electing,
    Role::Standby,
    Role::Fencing,
    Role::Importing,
    Role::Owner,
    Role::Failing,
    Role::Resigning,
    Role::HandingOver,
    Role::Restarting,
    Role::Stopping,
    Role::Halted,
];

const fn role_code(role: Role) -> u8 {
    match role {
        Role::Starting => 1,
        Role::Electing => 2,
        Role::Standby => 3,
        Role::Fencing => 4,
        Role::Importing => 5,
        Role::Owner => 6,
        Role::Failing => 7,
        Role::Resigning => 8,
        Role::HandingOver => 9,
        Role::Restarting => 10,
        Role::Stopping => 11,
        Role::Halted => 12,
    }
}

fn role_of(code: u8) -> Result<Role, DecodeError> {
    let found = ROLES.into_iter().find(|r| role_code(*r) == code);
    found.ok_or(DecodeError::Field("role"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: [u8; 16] = *b"sixteen bytes id";

    fn full(role: Role, status: Status) -> Beat {
        Beat {
            node: Node::B,
            session: Session(u64::MAX),
            seq: 77,
            echo: Some(Echo {
                session: Session(5),
                seq: 6,
            }),
            status,
            role,
            incarnation: 1023,
            epoch: Epoch(1 << 40),
            eligible: true,
            blockers: 0xffff,
            serving: true,
            lan: true,
            settings: Settings {
                version: SettingsVersion {
                    epoch: 9,
                    sequence: 8,
                    by: Node::B,
                },
                disabled: true,
                master: Node::B,
                timeout_s: 120,
            },
            arbiters: ArbiterList {
                version: 3,
                disks: (1..=5).map(DiskId).collect(),
                previous: (11..=15).map(DiskId).collect(),
            },
            arbiters_acked: 4,
            ask: Some(Ask {
                number: 1,
                what: AskWhat::HandOver,
            }),
            answer: Some(Answer {
                number: 2,
                yes: false,
            }),
            version: "x".repeat(VERSION_MAX),
        }
    }

    fn bare() -> Beat {
        Beat {
            echo: None,
            eligible: false,
            serving: false,
            lan: false,
            settings: Settings::default(),
            arbiters: ArbiterList::default(),
            ask: None,
            answer: None,
            version: String::new(),
            ..full(Role::Starting, Status::Electing)
        }
    }

    fn every_beat() -> Vec<Beat> {
        let mut beats = vec![bare()];
        for role in ROLES {
            beats.extend(STATUSES.map(|status| full(role, status)));
        }
        let ask = AskWhat::CanYouTake;
        beats.push(Beat {
            ask: Some(Ask {
                number: 0,
                what: ask,
            }),
            answer: Some(Answer {
                number: 0,
                yes: true,
            }),
            node: Node::A,
            ..bare()
        });
        beats
    }

    #[test]
    fn every_beat_survives_its_bytes_and_fits() {
        for beat in every_beat() {
            let bytes = encode(&PAIR, &beat);
            assert!(bytes.len() + TAG_BYTES <= DATAGRAM_MAX);
            let mut datagram = bytes.clone();
            datagram.extend([0; TAG_BYTES]);
            let (signed, tag) = split(&PAIR, &datagram).expect("well-formed");
            assert_eq!((signed, tag.len()), (&bytes[..], TAG_BYTES));
            assert_eq!(decode(signed), Ok(beat));
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        for beat in [bare(), full(Role::Owner, Status::Master)] {
            let body = encode_body(&beat);
            for end in 0..body.len() {
                assert!(decode_body(&body[..end]).is_err(), "{end} bytes");
            }
            let longer = [&body[..], &[0]].concat();
            assert_eq!(decode_body(&longer), Err(DecodeError::Trailing));
            let datagram = [encode(&PAIR, &beat), vec![0; TAG_BYTES]].concat();
            for end in 0..datagram.len() {
                assert!(split(&PAIR, &datagram[..end]).is_err(), "{end} bytes");
            }
            let longer = [&datagram[..], &[0]].concat();
            assert_eq!(split(&PAIR, &longer), Err(DecodeError::Trailing));
        }
    }

    /// Whatever is accepted is the one encoding of its beat.
    #[test]
    fn a_changed_byte_is_refused_or_another_beat() {
        for beat in [bare(), full(Role::Owner, Status::Master)] {
            let body = encode_body(&beat);
            for place in 0..body.len() {
                for value in 0..=255 {
                    let mut changed = body.clone();
                    changed[place] = value;
                    if let Ok(decoded) = decode_body(&changed) {
                        assert_eq!(encode_body(&decoded), changed, "byte {place} = {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn header_mistakes_are_named() {
        let good = [encode(&PAIR, &bare()), vec![0; TAG_BYTES]].concat();
        let with = |place: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[place] = value;
            split(&PAIR, &bytes).map(|_| ())
        };
        assert_eq!(with(0, b'X'), Err(DecodeError::Magic));
        assert_eq!(with(4, 2), Err(DecodeError::Version(2)));
        assert_eq!(with(5, 1), Err(DecodeError::Field("header")));
        assert_eq!(with(6, 0xff), Err(DecodeError::Trailing));
        assert_eq!(with(8, 0), Err(DecodeError::Pair));
        let body = encode_body(&bare());
        let field = |place: usize, value: u8| {
            let mut bytes = body.clone();
            bytes[place] = value;
            decode_body(&bytes).map(|_| ())
        };
        assert_eq!(field(0, 2), Err(DecodeError::Field("node")));
        assert_eq!(field(18, 1), Err(DecodeError::Field("echo")));
        assert_eq!(field(34, 0), Err(DecodeError::Field("status")));
        assert_eq!(field(35, 13), Err(DecodeError::Field("role")));
        assert_eq!(field(36, 4), Err(DecodeError::Field("incarnation")));
        assert_eq!(field(46, 16), Err(DecodeError::Field("bits")));
        assert_eq!(field(63, 121), Err(DecodeError::Field("settings")));
        assert_eq!(field(72, 3), Err(DecodeError::Field("question")));
        assert_eq!(field(77, 3), Err(DecodeError::Field("answer")));
        assert_eq!(field(82, 6), Err(DecodeError::Field("arbiters")));
    }
}
