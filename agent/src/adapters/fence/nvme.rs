//! The core's commands over one path to an NVMe namespace. A registrant is this host, all its paths at once.

use super::{Examination, Failed, Options};
use crate::adapters::fields::DecodeError;
use crate::adapters::identity::Identity;
use crate::adapters::nvme::identify::{self, Controller, Namespace, Structure};
use crate::adapters::nvme::reservation::{self, Change, HostId, Report, ReservationType};
use crate::adapters::nvme::status::{Meaning, Status};
use crate::adapters::nvme::{Command, identify::IDENTIFY_BYTES};
use crate::adapters::ports::{Data, NvmePort};
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::time::Duration;

/// The type that is taken: see [`failover_core::pr`].
const TYPE: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
/// Room for 60 registered controllers; a namespace that has more to say is asked again.
const ROOM: usize = 4096;
/// Reads of one answer: more hosts may be registered between two.
const READS_MAX: usize = 3;

/// An opened path.
pub(super) struct NvmePath {
    port: Box<dyn NvmePort>,
    options: Options,
    /// Width of host identifiers in reports, once known.
    wide: Option<bool>,
    /// What the host and the namespace are, once asked.
    examined: Option<Examination>,
}

impl NvmePath {
    pub(super) fn new(port: Box<dyn NvmePort>, options: Options) -> NvmePath {
        NvmePath {
            port,
            options,
            wide: None,
            examined: None,
        }
    }

    /// Who the namespace is: its descriptors, and its NGUID and EUI-64 where an old controller has no descriptors.
    pub(super) fn identities(&mut self, timeout: Duration) -> Result<Vec<Identity>, Failed> {
        let command = Structure::Descriptors.command();
        let mut identities = match self.send(&command, Data::In(IDENTIFY_BYTES), timeout)? {
            Ok(bytes) => identify::decode_descriptors(&bytes).map_err(broken)?,
            Err(_) => Vec::new(),
        };
        for identity in self.namespace(timeout)?.identities {
            if !identities.contains(&identity) {
                identities.push(identity);
            }
        }
        Ok(identities)
    }

    fn namespace(&mut self, timeout: Duration) -> Result<Namespace, Failed> {
        let command = Structure::Namespace.command();
        let bytes = self.must(&command, Data::In(IDENTIFY_BYTES), timeout)?;
        Namespace::decode(&bytes).map_err(broken)
    }

    /// What namespace and controller can, and who this host is to them.
    pub(super) fn examine(&mut self, timeout: Duration) -> Result<Examination, Failed> {
        if let Some(examined) = &self.examined {
            return Ok(examined.clone());
        }
        let command = Structure::Controller.command();
        let bytes = self.must(&command, Data::In(IDENTIFY_BYTES), timeout)?;
        let controller = Controller::decode(&bytes).map_err(broken)?;
        let can = self.namespace(timeout)?.capabilities;
        let examined = Examination {
            persist: can.persist(),
            wero: controller.reservations && can.has_type(TYPE),
            host: Some(self.host_id(timeout)?),
        };
        self.examined = Some(examined.clone());
        Ok(examined)
    }

    fn host_id(&mut self, timeout: Duration) -> Result<HostId, Failed> {
        // Fabrics know the wide form only, some PCIe controllers the narrow one only.
        let mut last = None;
        for wide in [true, false] {
            let command = identify::host_id_command(wide);
            let room = if wide { 16 } else { 8 };
            match self.send(&command, Data::In(room), timeout)? {
                Ok(bytes) => return identify::decode_host_id(&bytes, wide).map_err(broken),
                Err(status) => last = Some(status),
            }
        }
        let status = last.map_or_else(String::new, |status| status.to_string());
        let why = format!("the controller doesn't tell this host's identifier: {status}");
        Err(PrError::Illegal(why).into())
    }

    /// Before anything is changed: the host has an identifier, or all hosts without one would be one registrant.
    fn check_host(&mut self, timeout: Duration) -> Result<(), Failed> {
        match self.examine(timeout)?.host {
            Some(host) if host.is_zero() => {
                let why = "this host's NVMe identifier is all zeroes, as every unset one is; set it (nvme set-feature \
                           -f 0x81, or hostid of the fabrics connection), another one on each controller";
                Err(PrError::Illegal(why.to_owned()).into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn execute(
        &mut self,
        command: PrCommand,
        timeout: Duration,
    ) -> Result<PrReply, Failed> {
        let change = match command {
            PrCommand::ReadKeys => return self.keys(timeout),
            PrCommand::ReadReservation => return self.reservation(timeout),
            PrCommand::ReadFull => return self.full(timeout),
            PrCommand::Register { old, new: 0 } => Change::Unregister { old: Some(old) },
            PrCommand::Register { old: 0, new } => Change::Register {
                new,
                persist: self.persist(timeout)?,
            },
            PrCommand::Register { old, new } => Change::Replace {
                old: Some(old),
                new,
                persist: self.persist(timeout)?,
            },
            PrCommand::RegisterIgnore { new } => return self.register_ignore(new, timeout),
            PrCommand::Reserve { key } => Change::Acquire { key, kind: TYPE },
            PrCommand::Preempt { own, victim } => Change::Preempt {
                own,
                victim,
                kind: TYPE,
                abort: false,
            },
            PrCommand::PreemptAbort { own, victim } => Change::Preempt {
                own,
                victim,
                kind: TYPE,
                abort: true,
            },
            PrCommand::Release { key } => Change::Release { key, kind: TYPE },
            PrCommand::Clear { key } => Change::Clear { key },
        };
        self.change(change, timeout)
    }

    /// Replace with IEKEY registers a host that has no key too, by the specification; controllers that refuse that
    /// take Register. A host that has a key is the conflict of the latter, so no order of the two can lose one.
    fn register_ignore(&mut self, new: u64, timeout: Duration) -> Result<PrReply, Failed> {
        if new == 0 {
            return self.change(Change::Unregister { old: None }, timeout);
        }
        let persist = self.persist(timeout)?;
        let replace = Change::Replace {
            old: None,
            new,
            persist,
        };
        match self.change(replace, timeout) {
            Err(Failed {
                error: PrError::Conflict,
                ..
            }) => self.change(Change::Register { new, persist }, timeout),
            other => other,
        }
    }

    /// Whether registrations are to be kept through power loss.
    fn persist(&mut self, timeout: Duration) -> Result<bool, Failed> {
        let persist = self.examine(timeout)?.persist;
        if persist || self.options.accept_volatile {
            return Ok(persist);
        }
        let why = "the namespace can't keep registrations through power loss (PTPL); use one that can, or set \
                   accept_volatile_reservations, which needs a working watchdog";
        Err(PrError::Illegal(why.to_owned()).into())
    }

    fn change(&mut self, change: Change, timeout: Duration) -> Result<PrReply, Failed> {
        self.check_host(timeout)?;
        let (command, data) = change.encode();
        self.must(&command, Data::Out(&data), timeout)?;
        Ok(PrReply::Good)
    }

    fn keys(&mut self, timeout: Duration) -> Result<PrReply, Failed> {
        let report = self.report(timeout)?;
        Ok(PrReply::Keys {
            generation: report.generation,
            keys: report.registrants.iter().map(|one| one.key).collect(),
        })
    }

    fn reservation(&mut self, timeout: Duration) -> Result<PrReply, Failed> {
        let report = self.report(timeout)?;
        Ok(PrReply::Reservation {
            generation: report.generation,
            holder: report.holder(),
            wero: report.kind == Some(TYPE),
        })
    }

    /// Reservation Report tells everything at once.
    fn full(&mut self, timeout: Duration) -> Result<PrReply, Failed> {
        let report = self.report(timeout)?;
        Ok(PrReply::Full {
            generation: report.generation,
            keys: report.registrants.iter().map(|one| one.key).collect(),
            holder: report.holder(),
            wero: report.kind == Some(TYPE),
        })
    }

    fn report(&mut self, timeout: Duration) -> Result<Report, Failed> {
        let widths = match self.wide {
            Some(wide) => vec![wide],
            None => vec![true, false],
        };
        let mut refused = Status::HOST_IDENTIFIER_FORMAT;
        for wide in widths {
            match self.report_of(wide, timeout)? {
                Ok(report) => {
                    self.wide = Some(wide);
                    return Ok(report);
                }
                Err(status) => refused = status,
            }
            let other_width = [Status::HOST_IDENTIFIER_FORMAT, Status::INVALID_FIELD];
            if !other_width.contains(&refused) {
                break;
            }
        }
        Err(meant(refused).into())
    }

    /// Reads the report, again with more room where it is longer.
    fn report_of(
        &mut self,
        wide: bool,
        timeout: Duration,
    ) -> Result<Result<Report, Status>, Failed> {
        let mut room = ROOM;
        let mut reads = 0;
        loop {
            reads += 1;
            let command = reservation::report(room, wide);
            let bytes = match self.send(&command, Data::In(room), timeout)? {
                Ok(bytes) => bytes,
                Err(status) => return Ok(Err(status)),
            };
            match Report::decode(&bytes, wide) {
                Ok(report) => return Ok(Ok(report)),
                Err(DecodeError::Cut { needed, .. })
                    if needed > room && needed <= reservation::REPORT_MAX && reads < READS_MAX =>
                {
                    room = (needed.div_ceil(4) * 4 + 512).min(reservation::REPORT_MAX);
                }
                Err(error) => return Err(broken(error)),
            }
        }
    }

    fn send(
        &mut self,
        command: &Command,
        data: Data<'_>,
        timeout: Duration,
    ) -> Result<Result<Vec<u8>, Status>, Failed> {
        let end = self.port.submit(command, data, timeout)?;
        Ok(end.status.map_or(Ok(end.data), Err))
    }

    fn must(
        &mut self,
        command: &Command,
        data: Data<'_>,
        timeout: Duration,
    ) -> Result<Vec<u8>, Failed> {
        self.send(command, data, timeout)?
            .map_err(|status| meant(status).into())
    }
}

fn broken(error: DecodeError) -> Failed {
    PrError::Transport(error.to_string()).into()
}

fn meant(status: Status) -> PrError {
    match status.meaning() {
        Meaning::Conflict => PrError::Conflict,
        Meaning::Illegal => PrError::Illegal(status.to_string()),
        Meaning::Failed => PrError::Transport(status.to_string()),
    }
}
