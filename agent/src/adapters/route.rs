//! Interfaces and addresses of the kernel, over one synchronous rtnetlink socket.
//!
//! Requests are built from `rtnetlink`'s message types. What the kernel reports is read attribute by attribute, only
//! those we need: an attribute that a newer kernel adds, or lays out anew, on somebody else's interface must not make
//! a takeover fail.

use super::netlink::{HEADER_LEN, Message, NLMSG_DONE, Netlink, RECEIVE_LEN, messages};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Longest wait for the kernel's next answer.
const ANSWER_WAIT: Duration = Duration::from_millis(200);

/// Multicast group of link changes, as a bit.
pub(crate) const GROUP_LINK: u32 = 1;

/// Lists asked for before one that something changed under is taken as it is.
const LISTINGS_MAX: u32 = 4;

/// The list changed while it was made.
const NLM_F_DUMP_INTR: u16 = 0x10;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_LOWER_UP: u32 = 0x1_0000;
const ARPHRD_ETHER: u16 = 1;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Address of an Ethernet-like interface.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) loopback: bool,
    /// Administratively up, with a carrier.
    pub(crate) up: bool,
    /// A program sees its packets before any filter does.
    pub(crate) xdp: bool,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

/// A change of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkReport {
    Is(Interface),
    Gone(u32),
}

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct RouteSocket {
    netlink: Netlink,
    buffer: Vec<u8>,
}

impl RouteSocket {
    pub(crate) fn open(groups: u32) -> nix::Result<RouteSocket> {
        Ok(RouteSocket {
            netlink: Netlink::open(SockProtocol::NetlinkRoute, groups)?,
            buffer: vec![0; RECEIVE_LEN],
        })
    }

    /// All interfaces.
    pub(crate) fn interfaces(&mut self) -> nix::Result<Vec<Interface>> {
        let mut request = LinkMessage::default();
        let no_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        request.attributes.push(no_counters);
        self.list(
            &RouteNetlinkMessage::GetLink(request),
            |message| match link_report(message)? {
                LinkReport::Is(interface) => Some(interface),
                LinkReport::Gone(_) => None,
            },
        )
    }

    /// All addresses.
    pub(crate) fn addresses(&mut self) -> nix::Result<Vec<Held>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.list(&request, held)
    }

    /// Asks for a list until it is a whole one: something that changes meanwhile may hide something else.
    fn list<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> nix::Result<Vec<T>> {
        let mut found = Vec::new();
        for _ in 0..LISTINGS_MAX {
            found.clear();
            let whole = self.dump(request.clone(), |message| found.extend(read(message)))?;
            if whole {
                break;
            }
        }
        Ok(found)
    }

    /// Answers whether nothing changed while the list was made.
    fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(&Message<'_>),
    ) -> nix::Result<bool> {
        let sequence = self.netlink.reserve(1);
        let bytes = encode(request, NLM_F_DUMP, sequence);
        self.netlink.send(&bytes)?;
        let mut whole = true;
        loop {
            let len = self.receive(ANSWER_WAIT)?.ok_or(Errno::ETIMEDOUT)?;
            for message in messages(&self.buffer[..len]) {
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.errno() {
                    Some(errno) if errno != 0 => return Err(Errno::from_raw(errno)),
                    _ if message.kind == NLMSG_DONE => return Ok(whole),
                    _ => each(&message),
                }
            }
        }
    }

    /// Sends all requests in one datagram; one result each, in their order. `flags` beside request and ack.
    pub(crate) fn change(
        &mut self,
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> nix::Result<Vec<nix::Result<()>>> {
        let count = requests.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = self.netlink.reserve(count as u32);
        let mut bytes = Vec::new();
        for (sequence, (request, flags)) in (first..).zip(requests) {
            bytes.extend(encode(request, NLM_F_ACK | flags, sequence));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        self.netlink.send(&bytes)?;
        let mut results = vec![None; count];
        while results.contains(&None) {
            let len = self.receive(ANSWER_WAIT)?.ok_or(Errno::ETIMEDOUT)?;
            for message in messages(&self.buffer[..len]) {
                let step = message.sequence.wrapping_sub(first) as usize;
                if let (Some(errno), Some(result)) = (message.errno(), results.get_mut(step)) {
                    *result = Some(match errno {
                        0 => Ok(()),
                        errno => Err(Errno::from_raw(errno)),
                    });
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Waits for reports of a multicast group. `Err(ENOBUFS)`: some were lost, look again at everything.
    pub(crate) fn reports(&mut self, wait: Duration) -> nix::Result<Vec<LinkReport>> {
        match self.receive(wait)? {
            None => Ok(Vec::new()),
            Some(len) => Ok(messages(&self.buffer[..len])
                .filter_map(|message| link_report(&message))
                .collect()),
        }
    }

    fn receive(&mut self, wait: Duration) -> nix::Result<Option<usize>> {
        self.netlink.receive(&mut self.buffer, wait)
    }
}

fn encode(request: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The attributes of a message after its family header.
fn attributes<'a>(
    message: &Message<'a>,
    header_len: usize,
) -> impl Iterator<Item = (u16, &'a [u8])> {
    nested(
        message
            .bytes
            .get(HEADER_LEN + header_len..)
            .unwrap_or_default(),
    )
}

/// Attributes one after the other; stops at the first malformed one.
fn nested(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = rest.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn link_report(message: &Message<'_>) -> Option<LinkReport> {
    let body = message.bytes.get(HEADER_LEN..)?;
    let index = u32_at(body, 4)?;
    // Bridges report their ports in messages of family AF_BRIDGE (7); those say nothing of the carrier.
    if *body.first()? != 0 {
        return None;
    }
    match message.kind {
        RTM_DELLINK => return Some(LinkReport::Gone(index)),
        RTM_NEWLINK => {}
        _ => return None,
    }
    let kind = u16::from_ne_bytes([*body.get(2)?, *body.get(3)?]);
    let flags = u32_at(body, 8)?;
    let mut name = String::new();
    let mut mac = None;
    let mut xdp = false;
    for (attribute, value) in attributes(message, 16) {
        match attribute {
            1 if kind == ARPHRD_ETHER => mac = value.try_into().ok(),
            3 => {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                name = String::from_utf8_lossy(text).into_owned();
            }
            // IFLA_XDP, in which IFLA_XDP_ATTACHED (2) is one byte.
            43 => xdp = nested(value).any(|(kind, value)| kind == 2 && value.first() > Some(&0)),
            _ => {}
        }
    }
    Some(LinkReport::Is(Interface {
        index,
        name,
        mac,
        loopback: flags & IFF_LOOPBACK != 0,
        up: flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP,
        xdp,
    }))
}

fn held(message: &Message<'_>) -> Option<Held> {
    if message.kind != RTM_NEWADDR {
        return None;
    }
    let body = message.bytes.get(HEADER_LEN..)?;
    let mut address = None;
    for (attribute, value) in attributes(message, 8) {
        // IFA_LOCAL (2) is ours on a point-to-point link, where IFA_ADDRESS (1) is the peer's.
        if attribute == 2 || (attribute == 1 && address.is_none()) {
            address = ip_of(value).or(address);
        }
    }
    Some(Held {
        index: u32_at(body, 4)?,
        address: address?,
        prefix: *body.get(1)?,
    })
}

fn ip_of(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = <[u8; 16]>::try_from(value).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    v4.or(v6).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link report with these flags and attributes.
    fn report(flags: u32, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(ARPHRD_ETHER.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(attributes);
        let len = (bytes.len() as u32).to_ne_bytes();
        bytes[..4].copy_from_slice(&len);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Interface> {
        let message = messages(bytes).next()?;
        match link_report(&message)? {
            LinkReport::Is(interface) => Some(interface),
            LinkReport::Gone(_) => None,
        }
    }

    #[test]
    fn a_link_report_is_understood() {
        let attributes = [
            &[9, 0, 3, 0, b'l', b'a', b'n', b'0', 0, 0, 0, 0][..],
            &[10, 0, 1, 0, 2, 0, 0, 0, 0, 9, 0, 0],
            &[12, 0, 43, 0x80, 5, 0, 2, 0, 1, 0, 0, 0],
        ]
        .concat();
        let expected = Interface {
            index: 7,
            name: "lan0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            loopback: false,
            up: true,
            xdp: true,
        };
        let up = IFF_UP | IFF_LOWER_UP;
        assert_eq!(read(&report(up, &attributes)), Some(expected.clone()));
        let no_carrier = read(&report(IFF_UP, &attributes)).expect("a report");
        assert!(!no_carrier.up);
    }

    #[test]
    fn a_malformed_report_harms_nothing() {
        for len in 0..40 {
            let whole = report(IFF_UP, &[200, 0, 3, 0, b'x']);
            let _ = read(&whole[..len.min(whole.len())]);
        }
        let named = read(&report(IFF_UP, &[200, 0, 3, 0, b'x'])).expect("a report");
        assert_eq!(named.name, "");
    }
}
