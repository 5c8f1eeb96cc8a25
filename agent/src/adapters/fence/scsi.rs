//! The core's commands over one path to a SCSI disk.

use super::{Examination, Failed, Options};
use crate::adapters::fields::{DecodeError, Fields};
use crate::adapters::identity::Identity;
use crate::adapters::ports::{Data, ScsiEnd, ScsiPort};
use crate::adapters::scsi::pr_in::{self, Capabilities, FullStatus, Keys, Reservation};
use crate::adapters::scsi::pr_out::{self, Parameters};
use crate::adapters::scsi::sense::{Sense, SenseKey};
use crate::adapters::scsi::{ReservationType, inquiry};
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::time::Duration;

/// The type that is taken: see [`failover_core::pr`].
const TYPE: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
/// Room that is enough for two controllers with many paths; a disk that has more to say is asked again.
const ROOM: usize = 1024;
/// Reads of one answer: more keys may be registered between two.
const READS_MAX: usize = 3;
/// READ KEYS and READ FULL STATUS are read again with more room where less than so much is left: LIO leaves out the
/// entries that find no room and doesn't count them, so that a full answer may be a cut one. A key; a descriptor with the
/// longest TransportID (an iSCSI name and its session, SPC-4 7.6.4.6).
const ROOM_FOR_KEY: usize = 8;
const ROOM_FOR_DESCRIPTOR: usize = 24 + 264;

/// An opened path.
pub(super) struct ScsiPath {
    port: Box<dyn ScsiPort>,
    options: Options,
    /// The target refused APTPL, and that was accepted.
    volatile: bool,
    /// The target has no READ FULL STATUS: it isn't asked again over this port.
    without_full_status: bool,
}

/// A command that ended, but not well.
struct Refused {
    error: PrError,
    /// The target doesn't take a field: how one without APTPL answers.
    field: bool,
}

impl ScsiPath {
    pub(super) fn new(port: Box<dyn ScsiPort>, options: Options) -> ScsiPath {
        ScsiPath {
            port,
            options,
            volatile: false,
            without_full_status: false,
        }
    }

    /// Who the disk is (VPD page 83h). INQUIRY is answered with unit attentions pending and takes none away (SPC-4
    /// 6.6.1).
    pub(super) fn identities(&mut self, timeout: Duration) -> Result<Vec<Identity>, Failed> {
        let cdb = |room: u16| inquiry::page_cdb(inquiry::PAGE_IDENTIFICATION, room).to_vec();
        let designators = self.read(cdb, inquiry::decode_designators, timeout)?;
        Ok(inquiry::identities(&designators))
    }

    /// What the disk can.
    pub(super) fn examine(&mut self, timeout: Duration) -> Result<Examination, Failed> {
        let cdb = |room: u16| pr_in::Action::ReportCapabilities.cdb(room).to_vec();
        let can = self.read(cdb, Capabilities::decode, timeout)?;
        Ok(Examination {
            persist: can.persist_capable,
            wero: can.has_type(TYPE),
            host: None,
        })
    }

    pub(super) fn execute(
        &mut self,
        command: PrCommand,
        timeout: Duration,
    ) -> Result<PrReply, Failed> {
        let (action, parameters) = match command {
            PrCommand::ReadKeys => return self.read_keys(timeout),
            PrCommand::ReadReservation => return self.read_reservation(timeout),
            PrCommand::ReadFull => return self.read_full(timeout),
            PrCommand::Register { old, new } => {
                let parameters = Parameters::keys(old, new);
                return self.register(pr_out::Action::Register, parameters, timeout);
            }
            PrCommand::RegisterIgnore { new } => {
                let parameters = Parameters::keys(0, new);
                return self.register(pr_out::Action::RegisterAndIgnore, parameters, timeout);
            }
            PrCommand::Reserve { key } => (pr_out::Action::Reserve, Parameters::keys(key, 0)),
            PrCommand::Preempt { own, victim } => {
                (pr_out::Action::Preempt, Parameters::keys(own, victim))
            }
            PrCommand::PreemptAbort { own, victim } => (
                pr_out::Action::PreemptAndAbort,
                Parameters::keys(own, victim),
            ),
            PrCommand::Release { key } => (pr_out::Action::Release, Parameters::keys(key, 0)),
            PrCommand::Clear { key } => (pr_out::Action::Clear, Parameters::keys(key, 0)),
        };
        match self.write(action, &parameters, timeout)? {
            Ok(()) => Ok(PrReply::Good),
            Err(refused) => Err(refused.error.into()),
        }
    }

    fn read_keys(&mut self, timeout: Duration) -> Result<PrReply, Failed> {
        let cdb = |room: u16| pr_in::Action::ReadKeys.cdb(room).to_vec();
        let Keys { generation, keys } = self.read_list(cdb, Keys::decode, ROOM_FOR_KEY, timeout)?;
        Ok(PrReply::Keys { generation, keys })
    }

    fn read_reservation(&mut self, timeout: Duration) -> Result<PrReply, Failed> {
        let cdb = |room: u16| pr_in::Action::ReadReservation.cdb(room).to_vec();
        let Reservation { generation, held } = self.read(cdb, Reservation::decode, timeout)?;
        Ok(PrReply::Reservation {
            generation,
            holder: held.map(|held| held.key),
            wero: held.is_some_and(|held| held.kind == TYPE && held.scope == 0),
        })
    }

    /// Keys and reservation at one moment. A target that refused it once is spared the question.
    fn read_full(&mut self, timeout: Duration) -> Result<PrReply, Failed> {
        if self.without_full_status {
            let why = "the target has no READ FULL STATUS; nothing was sent";
            return Err(PrError::Illegal(why.to_owned()).into());
        }
        let cdb = |room: u16| pr_in::Action::ReadFullStatus.cdb(room).to_vec();
        let told = self.read_list(cdb, FullStatus::decode, ROOM_FOR_DESCRIPTOR, timeout);
        if let Err(failed) = &told {
            self.without_full_status = matches!(failed.error, PrError::Illegal(_));
        }
        let FullStatus {
            generation,
            registrations,
        } = told?;
        let holder = registrations.iter().find(|one| one.holder);
        // What all registrants hold has no key, as in READ RESERVATION.
        let key = |one: &pr_in::Registration| if one.kind.is_of_all() { 0 } else { one.key };
        Ok(PrReply::Full {
            generation,
            holder: holder.map(key),
            wero: holder.is_some_and(|one| one.kind == TYPE && one.scope == 0),
            keys: registrations.iter().map(|one| one.key).collect(),
        })
    }

    /// Registers with APTPL, also where the new key is 0: the disk keeps what the *last* registration asked for
    /// (SPC-4 5.13.5), so one without it would make everybody's registrations volatile.
    fn register(
        &mut self,
        action: pr_out::Action,
        mut parameters: Parameters,
        timeout: Duration,
    ) -> Result<PrReply, Failed> {
        parameters.persist = !self.volatile;
        let refused = match self.write(action, &parameters, timeout)? {
            Ok(()) => return Ok(PrReply::Good),
            Err(refused) => refused,
        };
        if !refused.field || self.volatile || self.keeps_registrations(timeout)? {
            return Err(refused.error.into());
        }
        if !self.options.accept_volatile {
            let why = "the disk can't keep registrations through power loss (APTPL); use disks that can, or set \
                       accept_volatile_reservations, which needs a working watchdog";
            return Err(PrError::Illegal(why.to_owned()).into());
        }
        parameters.persist = false;
        match self.write(action, &parameters, timeout)? {
            Ok(()) => {
                self.volatile = true;
                Ok(PrReply::Good)
            }
            Err(refused) => Err(refused.error.into()),
        }
    }

    /// Whether the disk says that it has APTPL: then a refused field was another one.
    fn keeps_registrations(&mut self, timeout: Duration) -> Result<bool, Failed> {
        match self.examine(timeout) {
            Ok(can) => Ok(can.persist),
            // REPORT CAPABILITIES is younger than APTPL's optional place: one without it is taken at its refusal.
            Err(Failed {
                error: PrError::Illegal(_),
                ..
            }) => Ok(false),
            Err(failed) => Err(failed),
        }
    }

    fn write(
        &mut self,
        action: pr_out::Action,
        parameters: &Parameters,
        timeout: Duration,
    ) -> Result<Result<(), Refused>, Failed> {
        let list = parameters.encode().map_err(broken)?;
        let cdb = action.cdb(TYPE, list.len() as u32);
        let end = self.port.submit(&cdb, Data::Out(&list), timeout)?;
        Ok(check(&end))
    }

    /// Reads a list behind a header of PERSISTENT RESERVE IN (SPC-4 6.15.2), again while less than `spare` is left.
    fn read_list<T>(
        &mut self,
        cdb: impl Fn(u16) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        spare: usize,
        timeout: Duration,
    ) -> Result<T, Failed> {
        let whole = |bytes: &[u8], room: usize| {
            let list = decode(bytes)?;
            let length = Fields::new("PERSISTENT RESERVE IN", bytes).be32(4)? as usize;
            let needed = 8 + length + spare;
            match needed > room {
                true => Err(DecodeError::Cut {
                    what: "PERSISTENT RESERVE IN",
                    needed,
                    have: bytes.len(),
                }),
                false => Ok(list),
            }
        };
        self.read_with(cdb, whole, timeout)
    }

    /// Reads an answer, again with more room where it is longer.
    fn read<T>(
        &mut self,
        cdb: impl Fn(u16) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        timeout: Duration,
    ) -> Result<T, Failed> {
        self.read_with(cdb, |bytes, _| decode(bytes), timeout)
    }

    fn read_with<T>(
        &mut self,
        cdb: impl Fn(u16) -> Vec<u8>,
        decode: impl Fn(&[u8], usize) -> Result<T, DecodeError>,
        timeout: Duration,
    ) -> Result<T, Failed> {
        let mut room = ROOM;
        let mut reads = 0;
        loop {
            reads += 1;
            let end = self
                .port
                .submit(&cdb(room as u16), Data::In(room), timeout)?;
            check(&end).map_err(|refused| refused.error)?;
            match decode(&end.data, room) {
                Ok(answer) => return Ok(answer),
                Err(DecodeError::Cut { needed, .. })
                    if needed > room && needed <= pr_in::ANSWER_MAX && reads < READS_MAX =>
                {
                    // A multiple of 8 that leaves room for what may come in between; much, where entries are left out.
                    room = (needed.max(8 * room).div_ceil(8) * 8 + 64).min(pr_in::ANSWER_MAX);
                }
                Err(error) => return Err(broken(error)),
            }
        }
    }
}

fn broken(error: DecodeError) -> Failed {
    PrError::Transport(error.to_string()).into()
}

/// Whether a command was carried out, and if not, what that means.
fn check(end: &ScsiEnd) -> Result<(), Refused> {
    let plain = |error| {
        Err(Refused {
            error,
            field: false,
        })
    };
    match end.status {
        0x00 => Ok(()),
        0x02 => match Sense::decode(&end.sense) {
            Ok(sense) => check_sense(&sense),
            Err(error) => plain(PrError::Transport(format!("CHECK CONDITION: {error}"))),
        },
        0x18 => plain(PrError::Conflict),
        other => {
            let words = match other {
                0x08 => "BUSY",
                0x28 => "TASK SET FULL",
                0x30 => "ACA ACTIVE",
                0x40 => "TASK ABORTED",
                _ => "a status that no such command has",
            };
            plain(PrError::Transport(format!("{words} (status {other:02X}h)")))
        }
    }
}

fn check_sense(sense: &Sense) -> Result<(), Refused> {
    let text = match sense.deferred {
        true => format!("{sense}, of an earlier command"),
        false => sense.to_string(),
    };
    let error = match sense.key {
        SenseKey::RecoveredError | SenseKey::Completed if !sense.deferred => return Ok(()),
        SenseKey::UnitAttention => PrError::UnitAttention(text),
        // LOGICAL UNIT NOT SUPPORTED: the unit went away behind this port, the disk may be there behind another.
        SenseKey::IllegalRequest if sense.asc != 0x25 && !sense.deferred => PrError::Illegal(text),
        SenseKey::DataProtect => PrError::Illegal(text),
        SenseKey::NoSense
        | SenseKey::RecoveredError
        | SenseKey::Completed
        | SenseKey::NotReady
        | SenseKey::MediumError
        | SenseKey::HardwareError
        | SenseKey::IllegalRequest
        | SenseKey::BlankCheck
        | SenseKey::VendorSpecific
        | SenseKey::CopyAborted
        | SenseKey::AbortedCommand
        | SenseKey::Reserved(_)
        | SenseKey::VolumeOverflow
        | SenseKey::Miscompare => PrError::Transport(text),
    };
    Err(Refused {
        error,
        field: sense.refuses_a_field() && !sense.deferred,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(key: u8, asc: u8, deferred: bool) -> Result<(), PrError> {
        let sense = Sense {
            deferred,
            key: SenseKey::from_code(key),
            asc,
            ascq: 0,
        };
        let end = ScsiEnd {
            status: 2,
            sense: sense.encode_fixed().to_vec(),
            data: Vec::new(),
        };
        check(&end).map_err(|refused| refused.error)
    }

    #[test]
    fn sense_keys_become_what_the_core_tells_apart() {
        assert!(matches!(
            told(6, 0x29, false),
            Err(PrError::UnitAttention(_))
        ));
        assert!(matches!(told(5, 0x20, false), Err(PrError::Illegal(_))));
        assert!(matches!(told(7, 0x27, false), Err(PrError::Illegal(_))));
        assert_eq!(told(1, 0x17, false), Ok(()), "recovered is done");
        for key in [0, 2, 3, 4, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe] {
            assert!(
                matches!(told(key, 0, false), Err(PrError::Transport(_))),
                "{key:x}"
            );
        }
        assert!(
            matches!(told(5, 0x25, false), Err(PrError::Transport(_))),
            "a unit that is gone isn't one that can't"
        );
    }

    #[test]
    fn a_deferred_error_says_nothing_about_this_command() {
        for key in [1, 3, 5] {
            assert!(
                matches!(told(key, 0, true), Err(PrError::Transport(_))),
                "{key}"
            );
        }
    }

    #[test]
    fn other_statuses() {
        let with = |status| {
            let end = ScsiEnd {
                status,
                ..ScsiEnd::default()
            };
            check(&end).map_err(|refused| refused.error)
        };
        assert_eq!(with(0), Ok(()));
        assert_eq!(with(0x18), Err(PrError::Conflict));
        for status in [0x02, 0x04, 0x08, 0x28, 0x30, 0x40] {
            assert!(
                matches!(with(status), Err(PrError::Transport(_))),
                "{status:x}"
            );
        }
    }
}
