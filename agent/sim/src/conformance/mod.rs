//! The conformance list of persistent reservations, run against whatever carries out its commands.
//!
//! ```text
//!   list.txt ── list ──▶ run ──▶ Target ─┬─ emulated   the emulated disk in its bay, in this process
//!                         │              ├─ shelf      the same behind the shelf's socket
//!   differences/*.txt ── judge           └─ scsi       paths that take SCSI commands as bytes
//! ```
//!
//! The list says what SPC-4 asks for. What a target answers otherwise stands in its file under `differences/`, with
//! the reason: an answer that isn't there fails, and so does one there that isn't given any more.

pub mod emulated;
pub mod judge;
pub mod list;
pub mod run;
pub mod scsi;
pub mod shelf;

use crate::disk::Nexus;
use list::{Command, Deed, Step};
use std::time::Duration;

/// The list itself.
pub const LIST: &str = include_str!("list.txt");

/// What Linux's own target (LIO) answers otherwise.
pub const DIFFERENCES_OF_LIO: &str = include_str!("differences/lio.txt");

/// What `tgtd` answers otherwise.
pub const DIFFERENCES_OF_TGTD: &str = include_str!("differences/tgtd.txt");

/// What a command answered, in the list's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Without PRgeneration.
    pub text: String,
    /// PRgeneration, where it was told.
    pub generation: Option<u32>,
}

impl Answer {
    /// An answer that tells no PRgeneration.
    pub fn of(text: impl Into<String>) -> Answer {
        Answer {
            text: text.into(),
            generation: None,
        }
    }

    /// Reads what [`std::fmt::Display`] wrote.
    pub fn parse(line: &str) -> Answer {
        let told = line.split_once("; generation ");
        match told.and_then(|(text, number)| Some((text, number.parse().ok()?))) {
            Some((text, generation)) => Answer {
                text: text.to_owned(),
                generation: Some(generation),
            },
            None => Answer::of(line),
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.generation {
            Some(generation) => write!(f, "{}; generation {generation}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// READ KEYS: a disk may tell them in any order (SPC-4 6.15.2).
fn keys_text(word: &str, keys: &[u64]) -> String {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    let shown: Vec<String> = keys.iter().map(u64::to_string).collect();
    match shown.is_empty() {
        true => format!("{word} none"),
        false => format!("{word} {}", shown.join(" ")),
    }
}

/// Who holds it: key and type.
fn held_text(held: Option<(u64, u8)>) -> String {
    match held {
        Some((key, kind)) => format!("held by {key}, type {kind}"),
        None => "free".to_owned(),
    }
}

/// Something with persistent reservations and up to four nexuses.
pub trait Target {
    /// Why it can't do this step, if it can't: its case is left out, by name.
    fn lacks(&self, step: &Step) -> Option<&'static str>;

    /// Makes it as each case expects it.
    ///
    /// # Errors
    /// It can't be made so.
    fn clean(&mut self) -> Result<(), String> {
        run::clean(self)
    }

    /// Sends a command. The nexus has none inside.
    ///
    /// # Errors
    /// There is no way to the target.
    fn begin(&mut self, nexus: Nexus, command: Command) -> Result<(), String>;

    /// The answer to what `nexus` sent last; `None` when it didn't come within that time.
    ///
    /// # Errors
    /// There is no way to the target.
    fn end(&mut self, nexus: Nexus, within: Duration) -> Result<Option<Answer>, String>;

    /// What happens to the target as a whole.
    ///
    /// # Errors
    /// It can't be brought about.
    fn act(&mut self, deed: Deed) -> Result<(), String>;
}
