//! A SCSI disk in memory that takes command descriptor blocks and parameter lists as bytes and keeps SPC-4's
//! reservation rules. Written from the standard, with none of the daemon's codecs.

use failoverd::adapters::ports::{Data, PortError, ScsiEnd, ScsiPort};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// An I_T nexus: initiator and its port.
pub type Nexus = (&'static str, u8);

/// SCSI status codes.
const GOOD: u8 = 0x00;
const CHECK: u8 = 0x02;
const CONFLICT: u8 = 0x18;

/// What is wrong with the path or the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Commands of this nexus hang until it is cured, and are then carried out.
    Hang,
    /// The path fails each command.
    Dead,
}

/// How a target fails its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A reset of the unit costs it its registrations.
    ForgetsOnReset,
    /// Whoever isn't registered may write all the same.
    LetsStrangersWrite,
    /// REGISTER doesn't look at the old key.
    IgnoresOldKeys,
    /// It has no PREEMPT AND ABORT.
    NoAbort,
}

#[derive(Default)]
pub struct State {
    pub keys: BTreeMap<Nexus, u64>,
    pub holder: Option<(Nexus, u8)>,
    pub generation: u32,
    pub attentions: BTreeMap<Nexus, VecDeque<(u8, u8)>>,
    /// The APTPL bit of the last registration.
    pub aptpl: bool,
    pub knows_aptpl: bool,
    /// READ FULL STATUS is optional.
    pub knows_full_status: bool,
    /// As LIO: descriptors of a full status that find no room are left out, and not counted.
    pub leaves_out: bool,
    pub faults: BTreeMap<Nexus, Fault>,
    /// Writes inside the disk: done by `land`, undone by PREEMPT AND ABORT.
    pub in_flight: Vec<Nexus>,
    pub landed: Vec<Nexus>,
    /// Identity: NAA, 8 bytes.
    pub naa: [u8; 8],
    /// Every command that was carried out: nexus, operation code, service action.
    pub log: Vec<(Nexus, u8, u8)>,
    /// What it does wrong.
    pub flaw: Option<Flaw>,
    /// Sense keys to answer instead, once each.
    pub refusals: VecDeque<(u8, u8, u8)>,
}

/// The disk, shared by all that have paths to it.
#[derive(Clone)]
pub struct Target(Arc<(Mutex<State>, Condvar)>);

impl Target {
    pub fn new(naa: [u8; 8]) -> Target {
        let state = State {
            naa,
            knows_aptpl: true,
            knows_full_status: true,
            ..State::default()
        };
        Target(Arc::new((Mutex::new(state), Condvar::new())))
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let result = look(&mut self.0.0.lock().expect("no panic inside"));
        self.0.1.notify_all();
        result
    }

    pub fn fault(&self, nexus: Nexus, fault: Option<Fault>) {
        self.with(|state| match fault {
            Some(fault) => state.faults.insert(nexus, fault),
            None => state.faults.remove(&nexus),
        });
    }

    pub fn port(&self, nexus: Nexus) -> Box<dyn ScsiPort> {
        Box::new(TargetPort {
            target: self.clone(),
            nexus,
        })
    }

    /// A write command: its status.
    pub fn write(&self, nexus: Nexus) -> u8 {
        let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        self.with(|state| state.run(nexus, &cdb, &[]).0)
    }

    pub fn power_cycle(&self) {
        self.with(|state| {
            state.generation = 0;
            if !state.aptpl {
                state.keys.clear();
                state.holder = None;
            }
            let known: Vec<Nexus> = state.attentions.keys().copied().collect();
            for nexus in known {
                state
                    .attentions
                    .insert(nexus, VecDeque::from([(0x29, 0x00)]));
            }
        });
    }
}

struct TargetPort {
    target: Target,
    nexus: Nexus,
}

impl ScsiPort for TargetPort {
    fn submit(
        &mut self,
        cdb: &[u8],
        data: Data<'_>,
        _timeout: Duration,
    ) -> Result<ScsiEnd, PortError> {
        let (lock, changed) = &*self.target.0;
        let mut state = lock.lock().expect("no panic inside");
        while state.faults.get(&self.nexus) == Some(&Fault::Hang) {
            state = changed.wait(state).expect("no panic inside");
        }
        if state.faults.get(&self.nexus) == Some(&Fault::Dead) {
            return Err(PortError::Failed("no connection (host status 0x1)".into()));
        }
        let (out, room) = match data {
            Data::Out(bytes) => (bytes, 0),
            Data::In(room) => (&[][..], room),
        };
        let (status, sense, mut answer) = state.run(self.nexus, cdb, out);
        answer.truncate(room);
        Ok(ScsiEnd {
            status,
            sense,
            data: answer,
        })
    }

    fn reset_unit(&mut self) -> Result<(), PortError> {
        self.reset();
        Ok(())
    }
}

impl TargetPort {
    fn reset(&self) {
        self.target.with(|state| {
            if state.flaw == Some(Flaw::ForgetsOnReset) {
                state.keys.clear();
                state.holder = None;
            }
            // BUS DEVICE RESET FUNCTION OCCURRED
            for told in state.attentions.values_mut() {
                told.push_back((0x29, 0x03));
            }
        });
    }
}

type Answer = (u8, Vec<u8>, Vec<u8>);

fn good(data: Vec<u8>) -> Answer {
    (GOOD, Vec::new(), data)
}

fn conflict() -> Answer {
    (CONFLICT, Vec::new(), Vec::new())
}

fn check(key: u8, asc: u8, ascq: u8) -> Answer {
    // Descriptor format for some, fixed for others, as targets do.
    let sense = match asc & 1 {
        0 => vec![0x72, key, asc, ascq, 0, 0, 0, 0],
        _ => vec![
            0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0,
        ],
    };
    (CHECK, sense, Vec::new())
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl State {
    fn run(&mut self, nexus: Nexus, cdb: &[u8], out: &[u8]) -> Answer {
        let first = !self.attentions.contains_key(&nexus);
        let pending = self.attentions.entry(nexus).or_default();
        if first {
            // A nexus that was never seen is told of the power-on that it missed.
            pending.push_back((0x29, 0x00));
        }
        if cdb[0] == 0x12 {
            return self.inquiry(cdb);
        }
        if let Some((asc, ascq)) = pending.pop_front() {
            return check(6, asc, ascq);
        }
        if let Some((key, asc, ascq)) = self.refusals.pop_front() {
            return check(key, asc, ascq);
        }
        self.log.push((nexus, cdb[0], cdb[1] & 0x1f));
        match cdb[0] {
            0x00 => good(Vec::new()),
            0x25 => good(vec![0, 0, 0xff, 0xff, 0, 0, 2, 0]),
            0x28 => good(vec![0x5a; 512]),
            0x2a => match self.holder.is_none()
                || self.keys.contains_key(&nexus)
                || self.flaw == Some(Flaw::LetsStrangersWrite)
            {
                true => {
                    self.in_flight.push(nexus);
                    good(Vec::new())
                }
                false => conflict(),
            },
            0x5e => self.reserve_in(cdb),
            0x5f => self.reserve_out(nexus, cdb, out),
            _ => check(5, 0x20, 0),
        }
    }

    pub fn land(&mut self) {
        let landing = std::mem::take(&mut self.in_flight);
        self.landed.extend(landing);
    }

    fn inquiry(&self, cdb: &[u8]) -> Answer {
        if cdb[1] & 1 == 0 || cdb[2] != 0x83 {
            return check(5, 0x24, 0);
        }
        let mut page = vec![0x00, 0x83, 0, 12 + 12, 0x01, 0x03, 0x00, 8];
        page.extend(self.naa);
        page.extend([0x61, 0x93, 0x00, 8, 0x50, 0, 0, 0, 0, 0, 0, 0xee]);
        good(page)
    }

    fn reserve_in(&self, cdb: &[u8]) -> Answer {
        let room = usize::from(u16::from_be_bytes([cdb[7], cdb[8]]));
        let mut answer = self.generation.to_be_bytes().to_vec();
        match cdb[1] & 0x1f {
            0 => {
                answer.extend((8 * self.keys.len() as u32).to_be_bytes());
                answer.extend(self.keys.values().flat_map(|key| key.to_be_bytes()));
            }
            1 => match self.holder {
                None => answer.extend([0; 4]),
                Some((nexus, kind)) => {
                    answer.extend([0, 0, 0, 0x10]);
                    let key = match kind {
                        7 | 8 => 0,
                        _ => self.keys[&nexus],
                    };
                    answer.extend(key.to_be_bytes());
                    answer.extend([0, 0, 0, 0, 0, kind, 0, 0]);
                }
            },
            2 => {
                let ptpl = u8::from(self.knows_aptpl);
                answer = vec![
                    0,
                    8,
                    0x0c | ptpl,
                    0x80 | u8::from(self.aptpl),
                    0xea,
                    1,
                    0,
                    0,
                ];
            }
            3 if self.knows_full_status => answer.extend(self.full_status(room)),
            _ => return check(5, 0x24, 0),
        }
        answer.truncate(room);
        good(answer)
    }

    /// SPC-4 6.15.5: a descriptor for each nexus, with an iSCSI TransportID (7.6.4.6) of 16 bytes.
    fn full_status(&self, room: usize) -> Vec<u8> {
        let mut body = Vec::new();
        for (nexus, key) in &self.keys {
            if self.leaves_out && 8 + body.len() + 40 > room {
                break;
            }
            let held = self.holder.filter(|(holder, _)| holder == nexus);
            body.extend(key.to_be_bytes());
            body.extend([0, 0, 0, 0, u8::from(held.is_some())]);
            body.extend([held.map_or(0, |(_, kind)| kind), 0, 0, 0, 0]);
            body.extend([0, nexus.1 + 1, 0, 0, 0, 16]);
            let mut transport = [0_u8; 16];
            transport[..4].copy_from_slice(&[0x05, 0, 0, 12]);
            transport[4..4 + nexus.0.len().min(12)]
                .copy_from_slice(&nexus.0.as_bytes()[..nexus.0.len().min(12)]);
            body.extend(transport);
        }
        let mut answer = (body.len() as u32).to_be_bytes().to_vec();
        answer.extend(body);
        answer
    }

    fn reserve_out(&mut self, nexus: Nexus, cdb: &[u8], out: &[u8]) -> Answer {
        let stated = u32::from_be_bytes([cdb[5], cdb[6], cdb[7], cdb[8]]) as usize;
        if stated != out.len() || stated != 24 {
            return check(5, 0x1a, 0);
        }
        let (key, action_key, aptpl) = (be64(out, 0), be64(out, 8), out[20] & 1 == 1);
        let (action, scope, kind) = (cdb[1] & 0x1f, cdb[2] >> 4, cdb[2] & 0xf);
        if out[20] & !1 != 0 || out[16..20] != [0; 4] || aptpl && !matches!(action, 0 | 6) {
            return check(5, 0x26, 0);
        }
        if scope != 0 {
            return check(5, 0x24, 0);
        }
        if matches!(action, 0 | 6) {
            return self.register(nexus, action == 6, key, action_key, aptpl);
        }
        // Every other action is for registrants only.
        if self.keys.get(&nexus) != Some(&key) {
            return conflict();
        }
        match action {
            1 => self.reserve(nexus, kind),
            2 => self.release(nexus, kind),
            3 => self.clear(nexus),
            5 if self.flaw == Some(Flaw::NoAbort) => check(5, 0x24, 0),
            4 | 5 => self.preempt(nexus, action_key, kind, action == 5),
            _ => check(5, 0x24, 0),
        }
    }

    /// What is pending already isn't told twice (SAM-5 5.14).
    fn tell(&mut self, nexus: Nexus, ascq: u8) {
        let pending = self.attentions.entry(nexus).or_default();
        if !pending.contains(&(0x2a, ascq)) {
            pending.push_back((0x2a, ascq));
        }
    }

    fn register(&mut self, nexus: Nexus, ignore: bool, key: u64, new: u64, aptpl: bool) -> Answer {
        if aptpl && !self.knows_aptpl {
            return check(5, 0x26, 0);
        }
        let registered = self.keys.get(&nexus).copied().unwrap_or(0);
        let ignore = ignore || self.flaw == Some(Flaw::IgnoresOldKeys);
        if !ignore && registered != key {
            return conflict();
        }
        self.aptpl = aptpl;
        if new != 0 {
            self.keys.insert(nexus, new);
            self.generation += 1;
        } else if registered != 0 {
            self.keys.remove(&nexus);
            self.generation += 1;
            if self.holder.is_some_and(|(holder, _)| holder == nexus) {
                self.holder = None;
                let others: Vec<Nexus> = self.keys.keys().copied().collect();
                others.into_iter().for_each(|other| self.tell(other, 4));
            }
        }
        good(Vec::new())
    }

    fn reserve(&mut self, nexus: Nexus, kind: u8) -> Answer {
        match self.holder {
            Some(held) if held == (nexus, kind) => good(Vec::new()),
            Some(_) => conflict(),
            None => {
                self.holder = Some((nexus, kind));
                good(Vec::new())
            }
        }
    }

    fn release(&mut self, nexus: Nexus, kind: u8) -> Answer {
        match self.holder {
            Some((holder, held)) if holder == nexus => {
                if held != kind {
                    return check(5, 0x26, 4);
                }
                self.holder = None;
                let others: Vec<Nexus> = self.keys.keys().copied().collect();
                for other in others.into_iter().filter(|other| *other != nexus) {
                    self.tell(other, 4);
                }
                good(Vec::new())
            }
            _ => good(Vec::new()),
        }
    }

    fn clear(&mut self, nexus: Nexus) -> Answer {
        let others: Vec<Nexus> = self.keys.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != nexus) {
            self.tell(other, 3);
        }
        self.keys.clear();
        self.holder = None;
        self.generation += 1;
        good(Vec::new())
    }

    fn preempt(&mut self, nexus: Nexus, victim: u64, kind: u8, abort: bool) -> Answer {
        if victim == 0 {
            return check(5, 0x26, 0);
        }
        let victims: Vec<Nexus> = self
            .keys
            .iter()
            .filter(|(_, key)| **key == victim)
            .map(|(of, _)| *of)
            .collect();
        if victims.is_empty() {
            return conflict();
        }
        let takes = self
            .holder
            .is_some_and(|(holder, _)| victims.contains(&holder));
        for of in victims.iter().copied() {
            if of == nexus && takes {
                continue;
            }
            self.keys.remove(&of);
            if of != nexus {
                self.tell(of, 5);
            }
        }
        if abort {
            self.in_flight
                .retain(|of| *of == nexus || !victims.contains(of));
        }
        if takes {
            self.holder = Some((nexus, kind));
        }
        self.generation += 1;
        good(Vec::new())
    }
}
