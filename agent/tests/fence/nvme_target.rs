//! An NVMe namespace in memory that takes commands as dwords and bytes and keeps the reservation rules of the base
//! specification. Written from it, with none of the daemon's codecs.

use failoverd::adapters::nvme::status::Status;
use failoverd::adapters::nvme::{Command, Queue};
use failoverd::adapters::ports::{Data, NvmeEnd, NvmePort, PortError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub type Host = [u8; 16];

/// Status codes, with "do not retry".
const INVALID_FIELD: u32 = 0x4002;
const WRONG_WIDTH: u32 = 0x4018;
const CONFLICT: u32 = 0x4083;

pub struct State {
    pub keys: BTreeMap<Host, u64>,
    pub holder: Option<(Host, u8)>,
    pub generation: u32,
    pub ptpl: bool,
    pub knows_ptpl: bool,
    /// Host identifiers of 128 bits, or of 64.
    pub wide: bool,
    /// Replace with IEKEY registers a host without a key, as the specification has it.
    pub replace_registers: bool,
    pub nguid: [u8; 16],
    pub log: Vec<(Host, u8, u32)>,
}

#[derive(Clone)]
pub struct NvmeTarget(Arc<Mutex<State>>);

impl NvmeTarget {
    pub fn new(nguid: [u8; 16], wide: bool) -> NvmeTarget {
        NvmeTarget(Arc::new(Mutex::new(State {
            keys: BTreeMap::new(),
            holder: None,
            generation: 0,
            ptpl: false,
            knows_ptpl: true,
            wide,
            replace_registers: true,
            nguid,
            log: Vec::new(),
        })))
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().expect("no panic inside"))
    }

    pub fn port(&self, host: Host) -> Box<dyn NvmePort> {
        Box::new(TargetPort {
            target: self.clone(),
            host,
        })
    }

    /// Whether a write of this host passes.
    pub fn may_write(&self, host: Host) -> bool {
        self.with(|state| state.holder.is_none() || state.keys.contains_key(&host))
    }
}

struct TargetPort {
    target: NvmeTarget,
    host: Host,
}

impl NvmePort for TargetPort {
    fn submit(
        &mut self,
        command: &Command,
        data: Data<'_>,
        _timeout: Duration,
    ) -> Result<NvmeEnd, PortError> {
        let (out, room) = match data {
            Data::Out(bytes) => (bytes, 0),
            Data::In(room) => (&[][..], room),
        };
        let answer = self.target.with(|state| match command.queue {
            Queue::Admin => state.admin(self.host, command),
            Queue::Io => state.io(self.host, command, out),
        });
        let (code, mut data) = match answer {
            Ok(data) => (0, data),
            Err(code) => (code, Vec::new()),
        };
        // The kernel's buffer keeps its size.
        data.resize(room, 0);
        Ok(NvmeEnd {
            status: Status::from_code(code),
            data,
        })
    }
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl State {
    fn admin(&mut self, host: Host, command: &Command) -> Result<Vec<u8>, u32> {
        match (command.opcode, command.cdw10) {
            (0x06, 0) => {
                let mut bytes = vec![0; 4096];
                bytes[0] = 1;
                bytes[31] = 0b1000 | u8::from(self.knows_ptpl);
                bytes[104..120].copy_from_slice(&self.nguid);
                Ok(bytes)
            }
            (0x06, 1) => {
                let mut bytes = vec![0; 4096];
                bytes[520] = 1 << 5;
                Ok(bytes)
            }
            // An old controller: no descriptors.
            (0x06, _) => Err(INVALID_FIELD),
            (0x0a, 0x81) if self.wide == (command.cdw11 & 1 == 1) => {
                let width = if self.wide { 16 } else { 8 };
                Ok(host[..width].to_vec())
            }
            _ => Err(INVALID_FIELD),
        }
    }

    fn io(&mut self, host: Host, command: &Command, out: &[u8]) -> Result<Vec<u8>, u32> {
        self.log.push((host, command.opcode, command.cdw10));
        let (action, ignore) = (command.cdw10 & 7, command.cdw10 >> 3 & 1 == 1);
        let kind = (command.cdw10 >> 8) as u8;
        match command.opcode {
            0x0e => self.report(command),
            0x0d => {
                assert_eq!(out.len(), 16);
                self.register(host, action, ignore, le64(out, 0), le64(out, 8))?;
                match command.cdw10 >> 30 {
                    2 => self.ptpl = false,
                    3 if self.knows_ptpl => self.ptpl = true,
                    3 => return Err(INVALID_FIELD),
                    _ => {}
                }
                Ok(Vec::new())
            }
            0x11 => {
                assert_eq!(out.len(), 16);
                self.acquire(host, action, kind, le64(out, 0), le64(out, 8))
            }
            0x15 => {
                assert_eq!(out.len(), 8);
                self.release(host, action, kind, le64(out, 0))
            }
            _ => Err(0x4001),
        }
    }

    fn report(&self, command: &Command) -> Result<Vec<u8>, u32> {
        if self.wide != (command.cdw11 & 1 == 1) {
            return Err(WRONG_WIDTH);
        }
        let (header, entry) = if self.wide { (64, 64) } else { (24, 24) };
        let mut bytes = vec![0; header];
        bytes[..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4] = self.holder.map_or(0, |(_, kind)| kind);
        bytes[5..7].copy_from_slice(&(self.keys.len() as u16).to_le_bytes());
        bytes[9] = u8::from(self.ptpl);
        for (host, key) in &self.keys {
            let mut one = vec![0; entry];
            one[0] = 1;
            one[2] = u8::from(self.holder.is_some_and(|(holder, _)| holder == *host));
            match self.wide {
                true => {
                    one[8..16].copy_from_slice(&key.to_le_bytes());
                    one[16..32].copy_from_slice(host);
                }
                false => {
                    one[8..16].copy_from_slice(&host[..8]);
                    one[16..24].copy_from_slice(&key.to_le_bytes());
                }
            }
            bytes.extend(one);
        }
        bytes.truncate((command.cdw10 as usize + 1) * 4);
        Ok(bytes)
    }

    fn register(
        &mut self,
        host: Host,
        action: u32,
        ignore: bool,
        old: u64,
        new: u64,
    ) -> Result<(), u32> {
        let has = self.keys.get(&host).copied();
        match action {
            0 => match has {
                Some(key) if key != new => return Err(CONFLICT),
                _ => {
                    self.keys.insert(host, new);
                }
            },
            1 => {
                if has.is_none() || !ignore && has != Some(old) {
                    return Err(CONFLICT);
                }
                self.keys.remove(&host);
                if self.holder.is_some_and(|(holder, _)| holder == host) {
                    self.holder = None;
                }
            }
            2 => {
                let may = match has {
                    Some(key) => ignore || key == old,
                    None => ignore && self.replace_registers,
                };
                if !may {
                    return Err(CONFLICT);
                }
                self.keys.insert(host, new);
            }
            _ => return Err(INVALID_FIELD),
        }
        self.generation += 1;
        Ok(())
    }

    fn acquire(
        &mut self,
        host: Host,
        action: u32,
        kind: u8,
        key: u64,
        victim: u64,
    ) -> Result<Vec<u8>, u32> {
        if self.keys.get(&host) != Some(&key) {
            return Err(CONFLICT);
        }
        if action == 0 {
            match self.holder {
                Some(held) if held == (host, kind) => {}
                Some(_) => return Err(CONFLICT),
                None => self.holder = Some((host, kind)),
            }
            return Ok(Vec::new());
        }
        if !self.keys.values().any(|key| *key == victim) {
            return Err(CONFLICT);
        }
        let takes = self
            .holder
            .is_some_and(|(holder, _)| self.keys[&holder] == victim);
        self.keys
            .retain(|of, key| *key != victim || takes && *of == host);
        if takes {
            self.holder = Some((host, kind));
        }
        self.generation += 1;
        Ok(Vec::new())
    }

    fn release(&mut self, host: Host, action: u32, kind: u8, key: u64) -> Result<Vec<u8>, u32> {
        if self.keys.get(&host) != Some(&key) {
            return Err(CONFLICT);
        }
        match (action, self.holder) {
            (0, Some((holder, held))) if holder == host => {
                if held != kind {
                    return Err(INVALID_FIELD);
                }
                self.holder = None;
            }
            (0, _) => {}
            _ => {
                self.keys.clear();
                self.holder = None;
                self.generation += 1;
            }
        }
        Ok(Vec::new())
    }
}
