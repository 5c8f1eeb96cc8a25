//! Paths that take SCSI commands as bytes: the daemon's codecs, over SG_IO, iSCSI or a target in memory.

use super::list::{Command, Deed, Step};
use super::{Answer, Target, held_text, keys_text};
use crate::disk::Nexus;
use failover_core::pr::PrCommand;
use failoverd::adapters::ports::{Data, ScsiEnd, ScsiPort};
use failoverd::adapters::scsi::ReservationType;
use failoverd::adapters::scsi::pr_in::{self, Capabilities, FullStatus, Keys, Reservation};
use failoverd::adapters::scsi::pr_out::{self, Parameters};
use failoverd::adapters::scsi::sense::{Sense, SenseKey};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// When the kernel begins to abort a command: later than any that waits for a stopped medium.
const TIMEOUT: Duration = Duration::from_secs(60);
const ROOM: u16 = 4096;
const ATTENTIONS_MAX: usize = 16;
const BLOCK_MAX: usize = 65_536;
const CHECK_CONDITION: u8 = 0x02;
const CONFLICT: u8 = 0x18;
const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// One path, its unit's block length known.
pub struct ScsiPath {
    port: Box<dyn ScsiPort>,
    block: usize,
    persist: bool,
}

impl ScsiPath {
    /// Asks for the length of a block; takes the unit attentions that are there.
    ///
    /// # Errors
    /// The path fails, or the disk answers anything else.
    pub fn new(mut port: Box<dyn ScsiPort>) -> Result<ScsiPath, String> {
        // READ CAPACITY (10), SBC-3 5.15: last block, length of a block.
        let capacity = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for _ in 0..ATTENTIONS_MAX {
            let end = port.submit(&capacity, Data::In(8), TIMEOUT);
            let end = end.map_err(|error| error.to_string())?;
            let length = end.data.get(4..8).filter(|_| end.status == 0);
            if let Some(length) = length.and_then(|bytes| bytes.try_into().ok()) {
                let block = u32::from_be_bytes(length) as usize;
                return match (1..=BLOCK_MAX).contains(&block) {
                    true => Ok(ScsiPath {
                        port,
                        block,
                        persist: true,
                    }),
                    false => Err(format!("blocks of {block} bytes")),
                };
            }
        }
        Err("READ CAPACITY isn't answered".to_owned())
    }

    /// The same for a target that refuses to register with APTPL: without it, as the daemon does then.
    pub fn without_aptpl(self) -> ScsiPath {
        ScsiPath {
            persist: false,
            ..self
        }
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: Command) -> Answer {
        match command {
            Command::Reservation(command) => self.reservation(command),
            Command::RegisterVolatile { old, new } => {
                let keys = Parameters::keys(old, new);
                self.out(pr_out::Action::Register, ReservationType::Other(0), &keys)
            }
            Command::ReserveType { key, kind } => {
                let kind = ReservationType::from_code(kind);
                self.out(pr_out::Action::Reserve, kind, &Parameters::keys(key, 0))
            }
            Command::ReleaseType { key, kind } => {
                let kind = ReservationType::from_code(kind);
                self.out(pr_out::Action::Release, kind, &Parameters::keys(key, 0))
            }
            Command::PreemptType { own, victim, kind } => {
                let kind = ReservationType::from_code(kind);
                self.out(
                    pr_out::Action::Preempt,
                    kind,
                    &Parameters::keys(own, victim),
                )
            }
            Command::Capabilities => self.read(pr_in::Action::ReportCapabilities, capabilities),
            Command::TestUnitReady => self.submit(&[0; 6], Data::In(0), |_| Ok(Answer::of("good"))),
            Command::Read => self.read_block(|_| Ok(Answer::of("good"))),
            Command::ReadBlock => self.read_block(|block| match block.first() {
                Some(first) if block.iter().all(|byte| byte == first) => {
                    Ok(Answer::of(format!("block {first}")))
                }
                _ => Ok(Answer::of("block torn")),
            }),
            Command::Write(number) => {
                let block = vec![number; self.block];
                let good = |_: &[u8]| Ok(Answer::of("good"));
                self.submit(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], Data::Out(&block), good)
            }
            Command::ResetUnit => match self.port.reset_unit() {
                Ok(()) => Answer::of("good"),
                Err(error) => Answer::of(format!("failed: {error}")),
            },
        }
    }

    fn reservation(&mut self, command: PrCommand) -> Answer {
        use pr_out::Action;
        let none = ReservationType::Other(0);
        let persist = self.persist;
        let kept = |old, new| Parameters {
            persist,
            ..Parameters::keys(old, new)
        };
        match command {
            PrCommand::ReadKeys => self.read(pr_in::Action::ReadKeys, keys),
            PrCommand::ReadReservation => self.read(pr_in::Action::ReadReservation, reservation),
            PrCommand::ReadFull => self.read(pr_in::Action::ReadFullStatus, full),
            PrCommand::Register { old, new } => self.out(Action::Register, none, &kept(old, new)),
            PrCommand::RegisterIgnore { new } => {
                self.out(Action::RegisterAndIgnore, none, &kept(0, new))
            }
            PrCommand::Reserve { key } => {
                self.out(Action::Reserve, WERO, &Parameters::keys(key, 0))
            }
            PrCommand::Release { key } => {
                self.out(Action::Release, WERO, &Parameters::keys(key, 0))
            }
            PrCommand::Clear { key } => self.out(Action::Clear, none, &Parameters::keys(key, 0)),
            PrCommand::Preempt { own, victim } => {
                self.out(Action::Preempt, WERO, &Parameters::keys(own, victim))
            }
            PrCommand::PreemptAbort { own, victim } => self.out(
                Action::PreemptAndAbort,
                WERO,
                &Parameters::keys(own, victim),
            ),
        }
    }

    fn out(&mut self, action: pr_out::Action, kind: ReservationType, list: &Parameters) -> Answer {
        match list.encode() {
            Ok(bytes) => {
                let cdb = action.cdb(kind, bytes.len() as u32);
                self.submit(&cdb, Data::Out(&bytes), |_| Ok(Answer::of("good")))
            }
            Err(error) => Answer::of(format!("failed: {error}")),
        }
    }

    fn read(&mut self, action: pr_in::Action, read: Reader) -> Answer {
        self.submit(&action.cdb(ROOM), Data::In(ROOM.into()), read)
    }

    fn read_block(&mut self, read: Reader) -> Answer {
        let block = self.block;
        self.submit(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], Data::In(block), read)
    }

    fn submit(&mut self, cdb: &[u8], data: Data<'_>, read: Reader) -> Answer {
        match self.port.submit(cdb, data, TIMEOUT) {
            Err(error) => Answer::of(format!("failed: {error}")),
            Ok(end) if end.status == 0 => match read(&end.data) {
                Ok(answer) => answer,
                Err(why) => Answer::of(format!("malformed: {why}")),
            },
            Ok(end) => Answer::of(refusal(&end)),
        }
    }
}

type Reader = fn(&[u8]) -> Result<Answer, String>;

fn refusal(end: &ScsiEnd) -> String {
    match (end.status, Sense::decode(&end.sense)) {
        (CONFLICT, _) => "conflict".to_owned(),
        (CHECK_CONDITION, Ok(sense)) => {
            let key = match sense.key {
                SenseKey::UnitAttention => "attention",
                SenseKey::IllegalRequest => "illegal",
                other => other.words(),
            };
            format!("{key} {:02x}/{:02x}", sense.asc, sense.ascq)
        }
        (status, _) => format!("status {status:02x}"),
    }
}

fn keys(bytes: &[u8]) -> Result<Answer, String> {
    let read = Keys::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Answer {
        text: keys_text("keys", &read.keys),
        generation: Some(read.generation),
    })
}

fn reservation(bytes: &[u8]) -> Result<Answer, String> {
    let read = Reservation::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Answer {
        text: held_text(read.held.map(|held| (held.key, held.kind.code()))),
        generation: Some(read.generation),
    })
}

fn full(bytes: &[u8]) -> Result<Answer, String> {
    let read = FullStatus::decode(bytes).map_err(|error| error.to_string())?;
    let all = read.registrations.iter();
    let keys: Vec<u64> = all.clone().map(|one| one.key).collect();
    let mut holders = all.filter(|one| one.holder);
    let held = holders.next().map(|one| (one.key, one.kind.code()));
    if holders.next().is_some() {
        return Err("two holders of one nexus's reservation".to_owned());
    }
    Ok(Answer {
        text: format!("{}, {}", keys_text("full", &keys), held_text(held)),
        generation: Some(read.generation),
    })
}

fn capabilities(bytes: &[u8]) -> Result<Answer, String> {
    let read = Capabilities::decode(bytes).map_err(|error| error.to_string())?;
    let persists = if read.persist_capable {
        "persists"
    } else {
        "forgets"
    };
    let active = if read.persist_active {
        "active"
    } else {
        "inactive"
    };
    let types = (0..16).filter(|code| read.types.unwrap_or(0) >> code & 1 == 1);
    let types: Vec<String> = types.map(|code: u16| code.to_string()).collect();
    let types = match types.is_empty() {
        true => "not told".to_owned(),
        false => types.join(" "),
    };
    Ok(Answer::of(format!("{persists}, {active}, types {types}")))
}

/// A target of several paths, each with a thread that sends what it is given.
pub struct Paths {
    paths: BTreeMap<Nexus, (Sender<Command>, Receiver<Answer>)>,
    lacks: fn(&Step) -> Option<&'static str>,
    act: Box<dyn FnMut(Deed) -> Result<(), String>>,
}

impl Paths {
    /// `lacks` says which steps the target can't do, `act` brings about what happens to it.
    pub fn new(
        paths: impl IntoIterator<Item = (Nexus, ScsiPath)>,
        lacks: fn(&Step) -> Option<&'static str>,
        act: Box<dyn FnMut(Deed) -> Result<(), String>>,
    ) -> Paths {
        let thread = |(nexus, mut path): (Nexus, ScsiPath)| {
            let (commands, taken) = channel();
            let (told, answers) = channel();
            // Ends with its sender.
            std::thread::spawn(move || {
                for command in taken {
                    if told.send(path.ask(command)).is_err() {
                        return;
                    }
                }
            });
            (nexus, (commands, answers))
        };
        Paths {
            paths: paths.into_iter().map(thread).collect(),
            lacks,
            act,
        }
    }
}

impl Target for Paths {
    fn lacks(&self, step: &Step) -> Option<&'static str> {
        let nexus = match step {
            Step::Ask(nexus, ..) | Step::Begin(nexus, _) | Step::End(nexus, _) => Some(nexus),
            Step::Settle(nexus) => Some(nexus),
            Step::Do(_) => None,
        };
        match nexus {
            Some(nexus) if !self.paths.contains_key(nexus) => Some("there is no second path"),
            _ => (self.lacks)(step),
        }
    }

    fn begin(&mut self, nexus: Nexus, command: Command) -> Result<(), String> {
        let (commands, _) = self.paths.get(&nexus).ok_or("no such path")?;
        commands
            .send(command)
            .map_err(|_| "the path has ended".to_owned())
    }

    fn end(&mut self, nexus: Nexus, within: Duration) -> Result<Option<Answer>, String> {
        let (_, answers) = self.paths.get(&nexus).ok_or("no such path")?;
        match answers.recv_timeout(within) {
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the path has ended".to_owned()),
        }
    }

    fn act(&mut self, deed: Deed) -> Result<(), String> {
        (self.act)(deed)
    }
}
