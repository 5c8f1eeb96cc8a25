//! The emulated disk in its bay, in time that passes only while somebody waits.

use super::list::{Command, Deed, Step};
use super::{Answer, Target, held_text, keys_text};
use crate::disk::{Nexus, UnitAttention};
use crate::shelf::bay::{Bay, What};
use crate::shelf::log::Record;
use crate::shelf::wire::Reply;
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::collections::BTreeMap;
use std::time::Duration;

const LATENCY_MICROS: u64 = 2000;
/// Code of Write Exclusive – Registrants Only, the one type that the emulated disk has.
const WERO: u8 = 5;

/// The emulated disk.
#[derive(Debug)]
pub struct Emulated {
    bay: Bay,
    now: u64,
    medium_stopped: bool,
    answers: BTreeMap<Nexus, Answer>,
    asked: BTreeMap<Nexus, Command>,
}

impl Default for Emulated {
    fn default() -> Emulated {
        Emulated::new()
    }
}

impl Emulated {
    /// An unused one.
    pub fn new() -> Emulated {
        Emulated {
            bay: Bay::new(LATENCY_MICROS),
            now: 0,
            medium_stopped: false,
            answers: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Everything that is due by now is answered.
    fn gather(&mut self, replies: Vec<((u64, u64), Reply)>) {
        for ((slot, _), reply) in replies {
            let nexus = nexus_of(slot);
            if let Some(command) = self.asked.remove(&nexus) {
                self.answers.insert(nexus, answer(command, reply));
            }
        }
    }

    fn arrive(&mut self, nexus: Nexus, what: What) {
        let asker = (slot_of(nexus), 0);
        if let Some(reply) = self.bay.arrive(self.now, asker, nexus, what) {
            self.gather(vec![(asker, reply)]);
        }
    }
}

fn slot_of(nexus: Nexus) -> u64 {
    (nexus.node as u64) << 8 | u64::from(nexus.path.0)
}

fn nexus_of(slot: u64) -> Nexus {
    let node = match slot >> 8 {
        0 => failover_core::ids::Node::A,
        _ => failover_core::ids::Node::B,
    };
    Nexus::new(node, slot as u8)
}

/// What the bay is asked for a command; nothing for what it hasn't.
pub(super) fn what(command: Command) -> Option<What> {
    match command {
        Command::Reservation(command) => Some(What::Reserve(command)),
        Command::RegisterVolatile { old, new } => {
            Some(What::Reserve(PrCommand::Register { old, new }))
        }
        Command::TestUnitReady => Some(What::Tail(0)),
        Command::Read | Command::ReadBlock => Some(What::Tail(1)),
        Command::Write(number) => {
            let record = Record::new(0, number.into(), String::new());
            Some(What::Append(vec![record]))
        }
        Command::ReserveType { .. }
        | Command::ReleaseType { .. }
        | Command::PreemptType { .. }
        | Command::Capabilities
        | Command::ResetUnit => None,
    }
}

/// A reply in the list's words.
pub(super) fn answer(command: Command, reply: Reply) -> Answer {
    let wero = |holder: Option<u64>| held_text(holder.map(|key| (key, WERO)));
    let (text, generation) = match reply {
        Reply::Disk(Ok(PrReply::Good)) | Reply::Good => ("good".to_owned(), None),
        Reply::Disk(Ok(PrReply::Keys { generation, keys })) => {
            (keys_text("keys", &keys), Some(generation))
        }
        Reply::Disk(Ok(PrReply::Reservation {
            generation, holder, ..
        })) => (wero(holder), Some(generation)),
        Reply::Disk(Ok(PrReply::Full {
            generation,
            keys,
            holder,
            ..
        })) => {
            let text = format!("{}, {}", keys_text("full", &keys), wero(holder));
            (text, Some(generation))
        }
        Reply::Disk(Err(error)) => (refusal(&error), None),
        Reply::Records(records) => match (command, records.last()) {
            (Command::ReadBlock, Some(last)) => (format!("block {}", last.number), None),
            (Command::ReadBlock, None) => ("block 0".to_owned(), None),
            _ => ("good".to_owned(), None),
        },
        other => (format!("failed: {other:?}"), None),
    };
    Answer { text, generation }
}

fn refusal(error: &PrError) -> String {
    match error {
        PrError::Conflict => "conflict".to_owned(),
        PrError::UnitAttention(sentence) => {
            let told = UnitAttention::ALL.into_iter();
            let mut told = told.filter(|attention| attention.sentence() == sentence);
            match told.next().map(UnitAttention::code) {
                Some((asc, ascq)) => format!("attention {asc:02x}/{ascq:02x}"),
                None => format!("attention {sentence}"),
            }
        }
        // The two that the disk has, by their names in the standard.
        PrError::Illegal(why) if why.starts_with("INVALID FIELD IN PARAMETER LIST") => {
            "illegal 26/00".to_owned()
        }
        PrError::Illegal(why) if why.starts_with("INVALID FIELD IN CDB") => {
            "illegal 24/00".to_owned()
        }
        PrError::Illegal(why) | PrError::Transport(why) => format!("failed: {why}"),
    }
}

/// What neither the emulated disk nor its shelf has.
pub(super) fn lacks(command: Command) -> Option<&'static str> {
    match command {
        Command::ReserveType { .. } | Command::ReleaseType { .. } | Command::PreemptType { .. } => {
            Some("the emulated disk has one type: the one that the daemon takes")
        }
        Command::Capabilities => {
            Some("the emulated disk isn't asked for its capabilities: the core has no such command")
        }
        Command::Reservation(_)
        | Command::RegisterVolatile { .. }
        | Command::TestUnitReady
        | Command::Read
        | Command::ReadBlock
        | Command::Write(_)
        | Command::ResetUnit => None,
    }
}

impl Target for Emulated {
    fn lacks(&self, step: &Step) -> Option<&'static str> {
        match step {
            Step::Ask(_, command, _) | Step::Begin(_, command) => lacks(*command),
            Step::End(..) | Step::Settle(_) | Step::Do(_) => None,
        }
    }

    fn clean(&mut self) -> Result<(), String> {
        *self = Emulated::new();
        Ok(())
    }

    fn begin(&mut self, nexus: Nexus, command: Command) -> Result<(), String> {
        self.asked.insert(nexus, command);
        match what(command) {
            Some(what) => {
                // The core's command always asks for APTPL; one without it is a matter of the disk.
                match command {
                    Command::RegisterVolatile { .. } => self.bay.set_aptpl(false),
                    Command::Reservation(
                        PrCommand::Register { .. } | PrCommand::RegisterIgnore { .. },
                    ) => self.bay.set_aptpl(true),
                    _ => {}
                }
                self.arrive(nexus, what);
            }
            None => {
                let mut gone = vec![((slot_of(nexus), 0), Reply::Good)];
                self.bay.reset(&mut gone);
                self.gather(gone);
            }
        }
        Ok(())
    }

    fn end(&mut self, nexus: Nexus, _within: Duration) -> Result<Option<Answer>, String> {
        while !self.answers.contains_key(&nexus) && !self.medium_stopped {
            let Some(due) = self.bay.due() else { break };
            self.now = due;
            let mut replies = Vec::new();
            self.bay.advance(due, &mut replies);
            self.gather(replies);
        }
        Ok(self.answers.remove(&nexus))
    }

    fn act(&mut self, deed: Deed) -> Result<(), String> {
        match deed {
            Deed::MediumStops => self.medium_stopped = true,
            Deed::MediumGoesOn => self.medium_stopped = false,
            Deed::PowerCycle => {
                let mut gone = Vec::new();
                self.bay.power_cycle(&mut gone);
                self.gather(gone);
            }
        }
        Ok(())
    }
}
