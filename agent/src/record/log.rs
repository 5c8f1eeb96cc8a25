//! The form of a log, on disk and between machines.
//!
//! ```text
//!   segment   FAILOVER  frame frame frame …          segments follow each other in one file
//!   frame     length (4 bytes, little end first)  checksum (8)  payload
//!   payload   Head in a segment's first frame, then for each step an input, and the digest of the actions that followed
//! ```
//!
//! An input is written before the core takes it: what the core died of is the last one. The checksum covers the one before it too: a frame that is missing or stands elsewhere is found.

use failover_core::action::{Action, Restored};
use failover_core::config::CoreConfig;
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::ids::Node;
use failover_core::time::Instant;
use ring::digest;
use serde::{Deserialize, Serialize};

/// What a segment begins with.
pub const MAGIC: &[u8; 8] = b"FAILOVER";
/// Grows when logs of an earlier program can't be read any more.
pub const FORMAT: u16 = 1;
/// No frame that we wrote is longer: a state with 1,255 disks has about 400 KiB.
pub const FRAME_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Nobody has a longer log: 16 incidents together are shorter.
pub const LOG_MAX_BYTES: u64 = 512 * 1024 * 1024;
/// Bytes before a frame's payload.
pub const FRAME_HEAD_BYTES: usize = 12;

/// A checksum, the first 8 bytes of a SHA-256.
pub type Sum = [u8; 8];

/// Who recorded a segment, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u16,
    /// Its version.
    pub program: String,
    /// Which controller.
    pub node: Node,
    /// The boot's id.
    pub boot: String,
    /// Its place in the ring; a run of the daemon goes on with the numbers of the one before.
    pub number: u64,
    /// Microseconds from boot to 1970, added to give times of day; for people only.
    pub wall_micros: i64,
}

/// One thing that entered the core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// The daemon started.
    Start {
        /// When.
        now: Instant,
        /// With what configuration.
        config: CoreConfig,
        /// With what memory.
        restored: Restored,
    },
    /// The whole state: what came before was recorded apart, or not at all.
    State {
        /// Inputs before it could not be recorded.
        after_gap: bool,
        /// As it stood.
        controller: Box<Controller>,
    },
    /// Events that were taken together.
    Events {
        /// When.
        now: Instant,
        /// In their order.
        events: Vec<Event>,
    },
    /// A changed configuration.
    Config {
        /// When.
        now: Instant,
        /// The new one.
        config: CoreConfig,
    },
}

/// The same, for writing.
#[derive(Serialize)]
pub enum InputRef<'a> {
    /// [`Input::Start`].
    Start {
        /// When.
        now: Instant,
        /// With what configuration.
        config: &'a CoreConfig,
        /// With what memory.
        restored: &'a Restored,
    },
    /// [`Input::State`].
    State {
        /// Inputs before it could not be recorded.
        after_gap: bool,
        /// As it stands.
        controller: &'a Controller,
    },
    /// [`Input::Events`].
    Events {
        /// When.
        now: Instant,
        /// In their order.
        events: &'a [Event],
    },
    /// [`Input::Config`].
    Config {
        /// When.
        now: Instant,
        /// The new one.
        config: &'a CoreConfig,
    },
}

/// A frame after the first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// What came.
    Input(Box<Input>),
    /// [`digest_of`] the actions that followed.
    Actions(u64),
}

/// The same, for writing.
#[derive(Serialize)]
pub enum FrameRef<'a> {
    /// [`Frame::Input`].
    Input(InputRef<'a>),
    /// [`Frame::Actions`].
    Actions(u64),
}

/// An input and what followed from it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What came.
    pub input: Input,
    /// [`digest_of`] the actions; absent where the daemon ended before.
    pub actions: Option<u64>,
}

/// One segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who recorded it.
    pub head: Head,
    /// In their order.
    pub steps: Vec<Step>,
    /// What is wrong with its end, if anything is.
    pub damage: Option<String>,
}

/// 64-bit FNV-1a of whatever is written into it.
struct Fnv(u64);

impl Extend<u8> for Fnv {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// A number that two lists of actions share only if they are the same, down to the last bit of what is asked.
pub fn digest_of(actions: &[Action]) -> u64 {
    postcard::to_extend(actions, Fnv(0xcbf2_9ce4_8422_2325)).map_or(0, |fnv| fnv.0)
}

/// The checksum of a payload that follows a frame with the checksum `before`.
pub fn sum(before: Sum, payload: &[u8]) -> Sum {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&before);
    context.update(payload);
    let mut sum = Sum::default();
    sum.copy_from_slice(&context.finish().as_ref()[..8]);
    sum
}

/// A segment as bytes.
#[derive(Debug, Default)]
pub struct Written {
    /// So far.
    pub bytes: Vec<u8>,
    before: Sum,
}

impl Written {
    /// Begins one.
    pub fn new(head: &Head) -> Written {
        let mut written = Written {
            bytes: MAGIC.to_vec(),
            before: Sum::default(),
        };
        written.frame(&postcard::to_allocvec(head).unwrap_or_default());
        written
    }

    /// Appends a frame.
    pub fn frame(&mut self, payload: &[u8]) {
        self.before = sum(self.before, payload);
        self.bytes
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&self.before);
        self.bytes.extend_from_slice(payload);
    }
}

/// Reads the segments of a log. What is damaged ends its segment and says so; the next segment stands by itself.
///
/// # Errors
/// What isn't a log, or not one that this program can read: a sentence.
pub fn parse(bytes: &[u8]) -> Result<Vec<Segment>, String> {
    if !bytes.starts_with(MAGIC) {
        return Err("this is no log of failoverd".to_owned());
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (parse_segment(bytes, at), segments.last_mut()) {
            (Ok((segment, end)), _) => {
                segments.push(segment);
                at = end;
            }
            (Err(why), None) => return Err(why),
            // Of a segment without a head nothing can be used, and what looks like one may stand in damaged bytes.
            (Err(why), Some(before)) => {
                before.damage.get_or_insert(why);
                let rest = &bytes[at + MAGIC.len()..];
                at = find(rest).map_or(bytes.len(), |place| at + MAGIC.len() + place);
            }
        }
    }
    Ok(segments)
}

/// Where a segment begins.
fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|at| at == MAGIC)
}

/// The segment at `start`, which begins with the magic, and where the next one begins.
fn parse_segment(bytes: &[u8], start: usize) -> Result<(Segment, usize), String> {
    let mut frames = Frames {
        bytes,
        at: start + MAGIC.len(),
        before: Sum::default(),
    };
    let unreadable = |what: &str| format!("at byte {start}: {what}");
    let head = match frames.next() {
        Some(Ok(payload)) => head(payload).map_err(|why| unreadable(&why))?,
        Some(Err(what)) => return Err(unreadable(&what)),
        None => return Err(unreadable("a segment without a head")),
    };
    let mut segment = Segment {
        head,
        steps: Vec::new(),
        damage: None,
    };
    loop {
        let at = frames.at;
        let damage = match frames.next() {
            None => break,
            Some(Err(what)) => what,
            Some(Ok(payload)) => match (whole(payload), segment.steps.last_mut()) {
                (Some(Frame::Input(input)), _) => {
                    segment.steps.push(Step {
                        input: *input,
                        actions: None,
                    });
                    continue;
                }
                (Some(Frame::Actions(digest)), Some(step)) if step.actions.is_none() => {
                    step.actions = Some(digest);
                    continue;
                }
                _ => "a step that this program can't read".to_owned(),
            },
        };
        segment.damage = Some(format!("the frame at byte {at}: {damage}"));
        break;
    }
    Ok((segment, frames.next_segment()))
}

/// A value that takes the payload to its end.
fn whole<T: for<'a> Deserialize<'a>>(payload: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(payload).ok()?;
    rest.is_empty().then_some(value)
}

/// Another format may have another form: only its number and its program are read before it is known.
fn head(payload: &[u8]) -> Result<Head, String> {
    let (format, program): (u16, String) = postcard::take_from_bytes(payload)
        .map(|(start, _)| start)
        .map_err(|error| format!("a damaged head ({error})"))?;
    if format != FORMAT {
        return Err(format!(
            "a log of format {format}; this program reads format {FORMAT}: use failoverd {}, which recorded it",
            program.escape_debug()
        ));
    }
    whole(payload).ok_or("a damaged head".to_owned())
}

/// A segment without the frame at its end that was torn when its daemon was killed.
pub fn whole_frames(segment: &[u8]) -> &[u8] {
    if !segment.starts_with(MAGIC) {
        return &[];
    }
    let mut frames = Frames {
        bytes: segment,
        at: MAGIC.len(),
        before: Sum::default(),
    };
    let mut whole = 0;
    while let Some(Ok(_)) = frames.next() {
        whole = frames.at;
    }
    &segment[..whole]
}

/// The frames of one segment.
struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    before: Sum,
}

impl<'a> Frames<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<Result<&'a [u8], String>> {
        let rest = self.rest();
        if rest.is_empty() || rest.starts_with(MAGIC) {
            return None;
        }
        let torn = || Some(Err("it is cut off".to_owned()));
        let (Some(length), Some(expected)) = (rest.first_chunk::<4>(), rest.get(4..12)) else {
            return torn();
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_MAX_BYTES {
            return Some(Err(format!("a length of {length} bytes")));
        }
        let Some(payload) = rest.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length) else {
            return torn();
        };
        let sum = sum(self.before, payload);
        if sum != expected {
            return Some(Err("its checksum is wrong".to_owned()));
        }
        self.before = sum;
        self.at += FRAME_HEAD_BYTES + length;
        Some(Ok(payload))
    }

    /// Where the next segment begins, whatever lies between.
    fn next_segment(&self) -> usize {
        find(self.rest()).map_or(self.bytes.len(), |place| self.at + place)
    }
}
