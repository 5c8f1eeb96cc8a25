//! The few nftables messages that the lease needs, as bytes. No `nft` program and no library: both may be missing,
//! and a renewal every 50 ms must not start a process.
//!
//! A batch is one transaction of the kernel: all of it takes effect at one moment, or nothing does.

use super::netlink::{Netlink, RECEIVE_LEN, messages};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::time::Duration;

/// Longest wait for the answer to a batch. The kernel answers inside `send`; this bounds a lost answer.
const ANSWER_WAIT: Duration = Duration::from_millis(5);

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYS_NFTABLES: u16 = 10;
const NEWTABLE: u16 = SUBSYS_NFTABLES << 8;
const DELTABLE: u16 = NEWTABLE + 2;
const GETTABLE: u16 = NEWTABLE + 1;
const NEWCHAIN: u16 = NEWTABLE + 3;
const NEWRULE: u16 = NEWTABLE + 6;
const DELRULE: u16 = NEWTABLE + 8;
const NEWSET: u16 = NEWTABLE + 9;
const NEWSETELEM: u16 = NEWTABLE + 12;
const DELSETELEM: u16 = NEWTABLE + 14;

/// The table dies with the socket that made it, unless it persists; nobody else may change it meanwhile.
pub const TABLE_OWNER: u32 = 2;
/// An owned table outlives its owner, and a later owner adopts it.
pub const TABLE_PERSIST: u32 = 4;

const SET_TIMEOUT: u32 = 0x10;

/// Address family of a table or of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet = 1,
    /// IPv4.
    Ipv4 = 2,
    /// ARP.
    Arp = 3,
    /// IPv6.
    Ipv6 = 10,
}

/// Why a batch failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket failed.
    #[error("nftables socket: {0}")]
    Socket(Errno),
    /// The kernel refused one message, so none of the batch took effect.
    #[error("nftables refused to {step}: {errno}")]
    Refused {
        /// Which message.
        step: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// No answer came: the batch may have taken effect or not.
    #[error("nftables gave no answer")]
    NoAnswer,
}

impl From<Errno> for NftError {
    fn from(errno: Errno) -> NftError {
        NftError::Socket(errno)
    }
}

/// A socket to the kernel's nf_tables.
#[derive(Debug)]
pub struct NftSocket {
    netlink: Netlink,
    buffer: Vec<u8>,
}

impl NftSocket {
    /// Opens the socket; tables with `TABLE_OWNER` belong to it.
    pub fn open() -> Result<NftSocket, NftError> {
        Ok(NftSocket {
            netlink: Netlink::open(SockProtocol::NetlinkNetFilter, 0)?,
            buffer: vec![0; RECEIVE_LEN],
        })
    }

    /// Hands the batch to the kernel, which carries it out before this returns, without reading the answer.
    pub fn send(&mut self, batch: &mut Batch) -> Result<(), NftError> {
        batch.close();
        let first = self.netlink.reserve(batch.steps.len() as u32);
        batch.number(first);
        Ok(self.netlink.send(&batch.bytes)?)
    }

    /// Reads the answer to a batch that was sent.
    pub fn answer(&mut self, batch: &Batch) -> Result<(), NftError> {
        let mut refused = None;
        let mut ended = false;
        // After the last message's answer nothing of this batch is outstanding.
        while !ended {
            let len = self
                .netlink
                .receive(&mut self.buffer, ANSWER_WAIT)?
                .ok_or(NftError::NoAnswer)?;
            for message in messages(&self.buffer[..len]) {
                let Some(errno) = message.errno() else {
                    continue;
                };
                let Some(step) = batch.step_of(message.sequence) else {
                    continue; // the answer to an older batch that nobody waited for
                };
                if errno != 0 && refused.is_none() {
                    refused = Some((batch.steps[step].0, Errno::from_raw(errno)));
                }
                // An error of the whole transaction is reported on its first message.
                ended |= step == batch.last_step() || (step == 0 && errno != 0);
            }
        }
        match refused {
            None => Ok(()),
            Some((step, errno)) => Err(NftError::Refused { step, errno }),
        }
    }

    /// `send` and `answer`.
    pub fn run(&mut self, batch: &mut Batch) -> Result<(), NftError> {
        self.send(batch)?;
        self.answer(batch)
    }

    /// Whether a table exists.
    pub fn has_table(&mut self, family: Family, table: &str) -> Result<bool, NftError> {
        let mut batch = Batch {
            bytes: Vec::new(),
            steps: Vec::new(),
            closed: true,
        };
        batch.message("look for the table", GETTABLE, NLM_F_ACK, family, |body| {
            body.text(1, table);
        });
        match self.run_single(&mut batch) {
            Ok(()) => Ok(true),
            Err(NftError::Refused {
                errno: Errno::ENOENT,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn run_single(&mut self, batch: &mut Batch) -> Result<(), NftError> {
        let first = self.netlink.reserve(1);
        batch.number(first);
        self.netlink.send(&batch.bytes)?;
        loop {
            let len = self
                .netlink
                .receive(&mut self.buffer, ANSWER_WAIT)?
                .ok_or(NftError::NoAnswer)?;
            for message in messages(&self.buffer[..len]) {
                match message.errno() {
                    Some(0) if message.sequence == first => return Ok(()),
                    Some(errno) if message.sequence == first => {
                        return Err(NftError::Refused {
                            step: batch.steps[0].0,
                            errno: Errno::from_raw(errno),
                        });
                    }
                    _ => {}
                }
            }
        }
    }
}

/// One transaction under construction.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message does and where it starts.
    steps: Vec<(&'static str, usize)>,
    closed: bool,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        let mut batch = Batch {
            bytes: Vec::with_capacity(2048),
            steps: Vec::new(),
            closed: false,
        };
        batch.frame("run the transaction", BATCH_BEGIN);
        batch
    }

    /// Adds a table, or changes its flags.
    pub fn add_table(&mut self, family: Family, table: &str, flags: u32) {
        let create = NLM_F_CREATE;
        self.message("add the table", NEWTABLE, create, family, |body| {
            body.text(1, table);
            body.be32(2, flags);
        });
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.message("delete the table", DELTABLE, 0, family, |body| {
            body.text(1, table);
        });
    }

    /// Adds a set; with `timeout`, its elements may end by themselves.
    pub fn add_set(&mut self, family: Family, table: &str, set: &SetSpec) {
        let create = NLM_F_CREATE;
        let id = self.steps.len() as u32;
        self.message("add the set", NEWSET, create, family, |body| {
            body.text(1, table);
            body.text(2, set.name);
            body.be32(3, if set.timeout { SET_TIMEOUT } else { 0 });
            body.be32(4, set.key_type);
            body.be32(5, set.key_len);
            body.be32(10, id);
        });
    }

    /// Adds a base chain of type filter that accepts what no rule drops.
    pub fn add_chain(&mut self, family: Family, table: &str, chain: &ChainSpec) {
        let create = NLM_F_CREATE;
        self.message("add the chain", NEWCHAIN, create, family, |body| {
            body.text(1, table);
            body.text(3, chain.name);
            body.nest(4, |hook| {
                hook.be32(1, chain.hook);
                hook.be32(2, chain.priority as u32);
            });
            body.be32(5, VERDICT_ACCEPT);
            body.text(7, "filter");
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.message("empty the chain", DELRULE, 0, family, |body| {
            body.text(1, table);
            body.text(2, chain);
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, family: Family, table: &str, chain: &str, rule: &[Expr]) {
        let append = NLM_F_CREATE | NLM_F_APPEND;
        self.message("add a rule", NEWRULE, append, family, |body| {
            body.text(1, table);
            body.text(2, chain);
            body.nest(4, |list| {
                for expr in rule {
                    list.nest(1, |element| expr.write(element));
                }
            });
        });
    }

    /// Adds elements to a set, each ending after `timeout_ms` if given (0 would mean never: refused by the caller).
    pub fn add_elements(
        &mut self,
        step: &'static str,
        place: (Family, &str, &str),
        keys: &[&[u8]],
        timeout_ms: Option<u64>,
    ) {
        // An attribute's length has 16 bits.
        for keys in keys.chunks(512) {
            self.message(step, NEWSETELEM, NLM_F_CREATE, place.0, |body| {
                elements(body, place, keys, timeout_ms);
            });
        }
    }

    /// Deletes elements of a set; the batch fails if one isn't there or has ended.
    pub fn delete_elements(
        &mut self,
        step: &'static str,
        place: (Family, &str, &str),
        keys: &[&[u8]],
    ) {
        self.message(step, DELSETELEM, 0, place.0, |body| {
            elements(body, place, keys, None);
        });
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, step: &'static str, place: (Family, &str, &str)) {
        self.message(step, DELSETELEM, 0, place.0, |body| {
            body.text(1, place.1);
            body.text(2, place.2);
        });
    }

    fn message(
        &mut self,
        step: &'static str,
        kind: u16,
        flags: u16,
        family: Family,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.header(step, kind, NLM_F_REQUEST | flags);
        self.bytes.extend([family as u8, 0, 0, 0]);
        fill(&mut Attributes(&mut self.bytes));
        self.end_message(start);
    }

    fn frame(&mut self, step: &'static str, kind: u16) {
        let start = self.header(step, kind, NLM_F_REQUEST);
        self.bytes.extend([0, 0]);
        self.bytes.extend(SUBSYS_NFTABLES.to_be_bytes());
        self.end_message(start);
    }

    fn header(&mut self, step: &'static str, kind: u16, flags: u16) -> usize {
        let start = self.bytes.len();
        self.steps.push((step, start));
        self.bytes.extend([0; 4]); // length, set at the end
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend([0; 8]); // sequence, set when sent; port 0
        start
    }

    fn end_message(&mut self, start: usize) {
        let len = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// The last real message asks for an acknowledgement, whose arrival means that the kernel is done.
    fn close(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        if let Some(&(_, start)) = self.steps.last() {
            let flags = start + 6;
            let old = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
            self.bytes[flags..flags + 2].copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
        }
        self.frame("end the transaction", BATCH_END);
    }

    fn number(&mut self, first: u32) {
        for (sequence, (_, start)) in (first..).zip(&self.steps) {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    fn step_of(&self, sequence: u32) -> Option<usize> {
        let first = self.bytes.get(8..12)?;
        let first = u32::from_ne_bytes(first.try_into().ok()?);
        let step = sequence.checked_sub(first)? as usize;
        (step < self.steps.len()).then_some(step)
    }

    /// The message before the closing frame.
    fn last_step(&self) -> usize {
        self.steps.len().saturating_sub(2)
    }
}

fn elements(
    body: &mut Attributes<'_>,
    place: (Family, &str, &str),
    keys: &[&[u8]],
    timeout_ms: Option<u64>,
) {
    body.text(1, place.1);
    body.text(2, place.2);
    body.nest(3, |list| {
        for key in keys {
            list.nest(1, |element| {
                element.nest(1, |data| data.raw(1, key));
                if let Some(timeout_ms) = timeout_ms {
                    element.be64(4, timeout_ms);
                }
            });
        }
    });
}

/// A named set of keys of one length.
#[derive(Clone, Copy, Debug)]
pub struct SetSpec {
    /// Its name.
    pub name: &'static str,
    /// The `nft` program's number of the key's type, so that its listing is readable.
    pub key_type: u32,
    /// Length of a key in bytes.
    pub key_len: u32,
    /// Elements may end by themselves.
    pub timeout: bool,
}

/// A base chain.
#[derive(Clone, Copy, Debug)]
pub struct ChainSpec {
    /// Its name.
    pub name: &'static str,
    /// Number of the hook in its family.
    pub hook: u32,
    /// Place among the chains of that hook.
    pub priority: i32,
}

const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;

/// One expression of a rule. Each that loads does so into the one register that each test reads.
#[derive(Clone, Copy, Debug)]
pub enum Expr {
    /// Load the packet's family.
    LoadFamily,
    /// Load the number of the transport protocol.
    LoadProtocol,
    /// Load bytes of the network header: offset and length.
    LoadNetwork(u32, u32),
    /// Load bytes of the transport header: offset and length.
    LoadTransport(u32, u32),
    /// Go on if the register equals this.
    Is(&'static [u8]),
    /// Go on if the register's value is in the set.
    In(&'static str),
    /// Go on if the register's value is not in the set.
    NotIn(&'static str),
    /// Count the packets that came this far: evidence for people.
    Count,
    /// End the chain, let the packet pass.
    Accept,
    /// Drop the packet.
    Drop,
}

impl Expr {
    fn write(&self, to: &mut Attributes<'_>) {
        let payload = |to: &mut Attributes<'_>, base: u32, offset: u32, len: u32| {
            named(to, "payload", |data| {
                data.be32(1, REGISTER);
                data.be32(2, base);
                data.be32(3, offset);
                data.be32(4, len);
            });
        };
        let meta = |to: &mut Attributes<'_>, key: u32| {
            named(to, "meta", |data| {
                data.be32(1, REGISTER);
                data.be32(2, key);
            });
        };
        let lookup = |to: &mut Attributes<'_>, set: &str, flags: u32| {
            named(to, "lookup", |data| {
                data.text(1, set);
                data.be32(2, REGISTER);
                data.be32(5, flags);
            });
        };
        let verdict = |to: &mut Attributes<'_>, code: u32| {
            named(to, "immediate", |data| {
                data.be32(1, REGISTER_VERDICT);
                data.nest(2, |value| {
                    value.nest(2, |verdict| verdict.be32(1, code));
                });
            });
        };
        match *self {
            Expr::LoadFamily => meta(to, 15),
            Expr::LoadProtocol => meta(to, 16),
            Expr::LoadNetwork(offset, len) => payload(to, 1, offset, len),
            Expr::LoadTransport(offset, len) => payload(to, 2, offset, len),
            Expr::Is(value) => named(to, "cmp", |data| {
                data.be32(1, REGISTER);
                data.be32(2, 0);
                data.nest(3, |inner| inner.raw(1, value));
            }),
            Expr::In(set) => lookup(to, set, 0),
            Expr::NotIn(set) => lookup(to, set, 1),
            Expr::Count => named(to, "counter", |_| {}),
            Expr::Accept => verdict(to, VERDICT_ACCEPT),
            Expr::Drop => verdict(to, VERDICT_DROP),
        }
    }
}

fn named(to: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    to.text(1, name);
    to.nest(2, fill);
}

/// Netlink attributes, appended to a buffer.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn raw(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad();
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.0.extend(((text.len() + 5) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self.pad();
    }

    fn be32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    fn be64(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend((kind | NLA_F_NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_and_numbered() {
        let mut batch = Batch::new();
        batch.flush_set("empty the set", (Family::Arp, "t", "s"));
        batch.close();
        batch.number(40);
        let all: Vec<_> = messages(&batch.bytes)
            .map(|m| (m.kind, m.sequence))
            .collect();
        assert_eq!(all, [(BATCH_BEGIN, 40), (DELSETELEM, 41), (BATCH_END, 42)]);
        assert_eq!(batch.step_of(41), Some(batch.last_step()));
        assert_eq!((batch.step_of(39), batch.step_of(43)), (None, None));
    }

    #[test]
    fn an_element_carries_its_timeout_in_milliseconds() {
        let mut batch = Batch::new();
        batch.add_elements("add", (Family::Inet, "t", "s"), &[&[2]], Some(200));
        let element = &batch.bytes[batch.steps[1].1 + 20..];
        let expected = [
            &[6, 0, 1, 0, b't', 0, 0, 0][..],
            &[6, 0, 2, 0, b's', 0, 0, 0],
            &[32, 0, 3, 0x80, 28, 0, 1, 0x80],
            &[12, 0, 1, 0x80, 5, 0, 1, 0, 2, 0, 0, 0],
            &[12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 200],
        ]
        .concat();
        assert_eq!(element, expected);
    }
}
