//! The check itself: one registration after the other on one disk, taken off again at the end.

use super::demands::effect;
use super::latency::{Latency, needed_timers};
use super::raw::{RawPath, Written};
use super::{Finding, Findings, Verdict};
use crate::adapters::disk_paths::SharedDisk;
use crate::adapters::fence::{Options, RealFence};
use crate::adapters::ports::{Kind, Opener};
use failover_core::adapters::Fence as _;
use failover_core::config::Timing;
use failover_core::ids::PathId;
use failover_core::pr::{PrCommand, PrError, PrReply};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Upper 40 bits of every key that a check registers: `check`.
pub const CHECK_KEY: u64 = 0x6368_6563_6b00_0000;
const CHECK_MASK: u64 = !0xff_ffff;
/// READ KEYS and rolls that are timed.
const MEASURED: u64 = 200;
/// A path tells of each reset and each lost registration once.
const ATTENTIONS_MAX: usize = 8;
/// Longer than the kernel takes to give a command up.
const DEADLINE: Duration = Duration::from_secs(60);

/// A disk to be checked.
pub struct Trial {
    opener: Arc<dyn Opener>,
    disk: SharedDisk,
    fence: RealFence,
    timing: Timing,
    accept_volatile: bool,
    findings: Vec<Finding>,
    /// Key registered last on each path.
    keys: Vec<u64>,
    next: u64,
}

type Answer = Result<PrReply, PrError>;

impl Trial {
    /// Of a disk with at least one path. `timing` is what its latency is compared with.
    pub fn new(
        opener: Arc<dyn Opener>,
        disk: SharedDisk,
        options: Options,
        timing: Timing,
    ) -> Trial {
        let fence = RealFence::new(opener.clone(), options, std::slice::from_ref(&disk));
        Trial {
            opener,
            keys: vec![0; disk.paths.len()],
            disk,
            fence,
            timing,
            accept_volatile: options.accept_volatile,
            findings: Vec::new(),
            next: 1,
        }
    }

    /// Carries it out. Takes seconds.
    ///
    /// # Errors
    /// Nothing was changed: the disk has registrations that aren't a check's, or can't be read.
    pub fn run(mut self) -> Result<Findings, String> {
        self.begin()?;
        let (reads, rolls) = match self.walk() {
            Ok(times) => times,
            Err(error) => {
                self.note("the rest", Verdict::Fail, &words(&error));
                (None, None)
            }
        };
        self.end();
        let measured = [&reads, &rolls].into_iter().flatten();
        let slowest = measured.map(|latency| latency.p999_us).max().unwrap_or(0);
        let needed = needed_timers(&self.timing, slowest);
        if reads.is_some() {
            self.judge_latency(slowest);
        }
        Ok(Findings {
            disk: self.disk.identity.to_string(),
            paths: self.disk.path_names(),
            findings: self.findings,
            reads,
            rolls,
            timers: needed
                .iter()
                .map(|(name, needed, now)| format!("{name} = {needed} (now {now})"))
                .collect(),
            effect: (!needed.is_empty()).then(|| effect(&self.timing, slowest)),
        })
    }

    /// Refuses a disk that somebody uses, and takes off what an interrupted check left.
    fn begin(&mut self) -> Result<(), String> {
        let unreadable =
            |error: PrError| format!("its registrations can't be read: {}", words(&error));
        let found = self.read_keys().map_err(unreadable)?;
        let foreign: Vec<String> = found
            .iter()
            .filter(|key| **key & CHECK_MASK != CHECK_KEY)
            .map(|key| format!("{key:016x}"))
            .collect();
        if !foreign.is_empty() {
            return Err(format!(
                "disk {} has registrations that aren't a check's ({}): it is in use, or was; stop whoever uses it, or \
                 remove them with `failoverd fence clear`",
                self.disk.identity,
                foreign.join(", ")
            ));
        }
        if !found.is_empty() {
            for path in 0..self.keys.len() {
                let _ = self.send(path, PrCommand::RegisterIgnore { new: 0 });
            }
        }
        let left = self.read_keys().map_err(unreadable)?;
        match (left.is_empty(), self.holder().map_err(unreadable)?) {
            (true, None) => Ok(()),
            (true, Some(_)) => Err(format!(
                "disk {} is reserved though nobody is registered; power it off and on",
                self.disk.identity
            )),
            (false, _) => Err(format!(
                "disk {} is being checked by another controller, or that check was interrupted; let it run again there",
                self.disk.identity
            )),
        }
    }

    fn walk(&mut self) -> Result<(Option<Latency>, Option<Latency>), PrError> {
        self.capabilities();
        self.registering()?;
        self.stranger_writes();
        self.reset()?;
        let lead = self.preempting()?;
        let (reads, rolls) = self.measure(lead)?;
        Ok((reads, rolls))
    }

    fn capabilities(&mut self) {
        match self.fence.examine(self.disk.id, PathId(0)) {
            Ok(can) => {
                let verdict = |good| if good { Verdict::Pass } else { Verdict::Fail };
                let said = match can.wero {
                    true => "Write Exclusive - Registrants Only",
                    false => "it doesn't list Write Exclusive - Registrants Only",
                };
                self.note("reservation type", verdict(can.wero), said);
                let said = match (can.persist, self.accept_volatile) {
                    (true, _) => "registrations can outlive a power loss (APTPL, PTPL)",
                    (false, true) => "they can't outlive a power loss, which is accepted",
                    (false, false) => "they can't outlive a power loss (APTPL, PTPL)",
                };
                let good = can.persist || self.accept_volatile;
                self.note("persistence", verdict(good), said);
            }
            Err(error) => {
                let said = format!("it doesn't say what it can: {}", words(&error));
                self.note("reservation type", Verdict::Untested, &said);
                self.note("persistence", Verdict::Untested, &said);
            }
        }
    }

    /// Registers and reserves over the first path, and rolls.
    fn registering(&mut self) -> Result<(), PrError> {
        let key = self.register(0)?;
        self.send(0, PrCommand::Reserve { key })?;
        let held = self.holder()? == Some((key, true));
        let said = match held {
            true => "held as asked for",
            false => "after RESERVE the disk shows another holder or type",
        };
        self.judge("register and reserve", held, said);
        let (wrong, new) = (key ^ 0x80_0000, self.draw());
        let refused = self.send(0, PrCommand::Register { old: wrong, new });
        let said = match &refused {
            Err(PrError::Conflict) => "a REGISTER that names another key is refused",
            Ok(_) => "a REGISTER that names another key was taken: a fenced owner could come back",
            Err(_) => "a REGISTER that names another key failed, but not with a conflict",
        };
        self.judge("compare and swap", refused == Err(PrError::Conflict), said);
        if refused.is_ok() {
            self.keys[0] = new;
        }
        self.roll(0)
    }

    /// A write over a path that isn't registered.
    fn stranger_writes(&mut self) {
        const CHECK: &str = "stranger's write";
        if self.kind() == Kind::Nvme {
            let why = "a host is one registrant over all its paths; needs a second host";
            return self.note(CHECK, Verdict::Untested, why);
        }
        if self.keys.len() < 2 {
            let why = "not testable from one path; needs a second one";
            return self.note(CHECK, Verdict::Untested, why);
        }
        self.write_is_refused(CHECK, 1);
    }

    fn write_is_refused(&mut self, check: &str, path: usize) {
        let written = self.raw(path).and_then(|raw| match raw {
            Some(mut raw) => raw.write_back(),
            None => Err("this path takes no SCSI commands".to_owned()),
        });
        match written {
            Ok(Written::Refused) => self.note(check, Verdict::Pass, "refused with a conflict"),
            Ok(Written::Yes) => {
                let said = "the disk took it (the first block, unchanged): it doesn't fence";
                self.note(check, Verdict::Fail, said);
            }
            Err(why) => self.note(check, Verdict::Fail, &why),
        }
    }

    /// Registration and reservation must outlive a reset of the unit.
    fn reset(&mut self) -> Result<(), PrError> {
        const CHECK: &str = "reset of the unit";
        let reset = self.raw(0).and_then(|raw| match raw {
            Some(mut raw) => raw.reset(),
            None => Err("NVMe has no reset of a namespace alone".to_owned()),
        });
        if let Err(why) = reset {
            self.note(CHECK, Verdict::Untested, &why);
            return Ok(());
        }
        let key = self.keys[0];
        let kept = self.read_keys()? == [key] && self.holder()? == Some((key, true));
        let said = match kept {
            true => "registration and reservation were kept",
            false => "registration or reservation was lost",
        };
        self.judge(CHECK, kept, said);
        if !kept {
            // What follows needs them.
            self.keys[0] = 0;
            let key = self.register(0)?;
            self.send(0, PrCommand::Reserve { key })?;
        }
        Ok(())
    }

    /// PREEMPT AND ABORT; answers with the path that is registered afterwards.
    fn preempting(&mut self) -> Result<usize, PrError> {
        const CHECK: &str = "preempt and abort";
        let own = self.keys[0];
        if self.kind() == Kind::Nvme || self.keys.len() < 2 {
            let victim = self.draw();
            match self.send(0, PrCommand::PreemptAbort { own, victim }) {
                Err(PrError::Conflict) => {
                    let said =
                        "known: a key that nobody has is refused; nothing was there to abort";
                    self.note(CHECK, Verdict::Pass, said);
                }
                Ok(_) => {
                    let said = "a key that nobody has was preempted: a lost race would look like a won one";
                    self.note(CHECK, Verdict::Fail, said);
                }
                Err(error) => self.note(CHECK, Verdict::Fail, &words(&error)),
            }
            return Ok(0);
        }
        let new = self.register(1)?;
        let preempt = PrCommand::PreemptAbort {
            own: new,
            victim: own,
        };
        if let Err(error) = self.send(1, preempt) {
            self.note(CHECK, Verdict::Fail, &words(&error));
            return Ok(0);
        }
        let moved = self.read_keys()? == [new] && self.holder()? == Some((new, true));
        let said = match moved {
            true => "the victim's registration is gone, its reservation moved",
            false => {
                "it was carried out, but the victim is still registered or holds the reservation"
            }
        };
        self.judge(CHECK, moved, said);
        if !moved {
            return Ok(1);
        }
        self.keys[0] = 0;
        self.write_is_refused("loser's write", 0);
        Ok(1)
    }

    fn measure(&mut self, path: usize) -> Result<(Option<Latency>, Option<Latency>), PrError> {
        let (mut reads, mut rolls) = (Vec::new(), Vec::new());
        for _ in 0..MEASURED {
            let began = Instant::now();
            self.send(path, PrCommand::ReadKeys)?;
            reads.push(micros(began));
            let began = Instant::now();
            self.roll(path)?;
            rolls.push(micros(began));
        }
        Ok((Latency::of(reads), Latency::of(rolls)))
    }

    fn judge_latency(&mut self, slowest_us: u64) {
        let quarter = self.timing.disk_silent_ms * 1000 / 4;
        let said = format!(
            "p99.9 {}, a quarter of disk_silent_ms is {}",
            super::millis(slowest_us),
            super::millis(quarter)
        );
        self.judge("latency", slowest_us <= quarter, &said);
    }

    /// Takes every registration of the check off.
    fn end(&mut self) {
        for path in 0..self.keys.len() {
            let _ = self.send(path, PrCommand::RegisterIgnore { new: 0 });
        }
        let (left, said) = match self.read_keys() {
            Ok(keys) if keys.is_empty() => (true, "no registration is left".to_owned()),
            Ok(keys) => (
                false,
                format!(
                    "{} registrations are left; run the check again, or `failoverd fence clear`",
                    keys.len()
                ),
            ),
            Err(error) => (false, words(&error)),
        };
        self.judge("left as found", left, &said);
    }

    // ---- commands ------------------------------------------------------------------------------------------

    fn kind(&self) -> Kind {
        let first = self.disk.paths.first();
        first.map_or(Kind::Scsi, |path| path.node.kind)
    }

    fn draw(&mut self) -> u64 {
        self.next += 1;
        // 23 bits: bit 23 tells a wrong key from every right one.
        CHECK_KEY | self.next & 0x7f_ffff
    }

    fn register(&mut self, path: usize) -> Result<u64, PrError> {
        let new = self.draw();
        self.send(path, PrCommand::RegisterIgnore { new })?;
        self.keys[path] = new;
        Ok(new)
    }

    fn roll(&mut self, path: usize) -> Result<(), PrError> {
        let (old, new) = (self.keys[path], self.draw());
        self.send(path, PrCommand::Register { old, new })?;
        self.keys[path] = new;
        Ok(())
    }

    fn read_keys(&self) -> Result<Vec<u64>, PrError> {
        match self.send(0, PrCommand::ReadKeys)? {
            PrReply::Keys { keys, .. } => Ok(keys),
            other => Err(PrError::Transport(format!("READ KEYS answered {other:?}"))),
        }
    }

    /// Key of the holder, and whether the type is ours.
    fn holder(&self) -> Result<Option<(u64, bool)>, PrError> {
        match self.send(0, PrCommand::ReadReservation)? {
            PrReply::Reservation { holder, wero, .. } => Ok(holder.map(|key| (key, wero))),
            other => Err(PrError::Transport(format!(
                "READ RESERVATION answered {other:?}"
            ))),
        }
    }

    fn send(&self, path: usize, command: PrCommand) -> Answer {
        let path = PathId(u8::try_from(path).unwrap_or(u8::MAX));
        let mut last = Err(PrError::Transport("nothing was sent".to_owned()));
        for _ in 0..ATTENTIONS_MAX {
            last = self.fence.execute(self.disk.id, path, command, DEADLINE);
            if !matches!(last, Err(PrError::UnitAttention(_))) {
                break;
            }
        }
        last
    }

    fn raw(&self, path: usize) -> Result<Option<RawPath>, String> {
        let path = self.disk.paths.get(path).ok_or("no such path")?;
        RawPath::open(&*self.opener, &path.node, &self.disk.identity)
    }

    fn judge(&mut self, check: &str, good: bool, said: &str) {
        let verdict = if good { Verdict::Pass } else { Verdict::Fail };
        self.note(check, verdict, said);
    }

    fn note(&mut self, check: &str, verdict: Verdict, said: &str) {
        self.findings.push(Finding {
            check: check.to_owned(),
            verdict,
            said: said.to_owned(),
        });
    }
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn words(error: &PrError) -> String {
    match error {
        PrError::Conflict => {
            "RESERVATION CONFLICT: somebody changed the registrations meanwhile".to_owned()
        }
        PrError::UnitAttention(why) | PrError::Illegal(why) | PrError::Transport(why) => {
            why.clone()
        }
    }
}
