//! What this machine's kernel shows of a virtual address: whether it is on an interface, and whether its lease lives.
//!
//! Asked over netlink, without a program started and independently of the daemon's own code: RTM_GETADDR
//! (rtnetlink(7)) and a dump of the set `lease` of the table `failoverd` (NFT_MSG_GETSETELEM,
//! linux/netfilter/nf_tables.h). A look costs two short dumps: what is looked at must not be slowed by it.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::Serialize;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST and NLM_F_DUMP.
const REQUEST_DUMP: u16 = 0x301;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NFT_NEWSETELEM: u16 = 10 << 8 | 12;
const NFT_GETSETELEM: u16 = 10 << 8 | 13;
const NFPROTO_INET: u8 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// Type of an attribute without the bits that say how its value is stored.
const KIND: u16 = 0x3FFF;
const ANSWER: Duration = Duration::from_secs(5);

/// What was seen over a time.
#[derive(Debug, Default, Serialize)]
pub struct Seen {
    /// Looks.
    pub samples: u64,
    /// The longest time between two looks, in milliseconds: nothing is known of it.
    pub longest_ms: f64,
    /// Looks that found the address or its lease missing.
    pub absent: Absent,
    /// The first of these, in words, with seconds since 1970.
    pub first_absent: Option<String>,
}

/// Looks that found something missing.
#[derive(Debug, Default, Serialize)]
pub struct Absent {
    /// The address was on no interface.
    pub address: u64,
    /// Its lease was over.
    pub lease: u64,
}

/// Looks at one address every `pause`, until `ended` says so.
///
/// # Errors
/// The kernel can't be asked, or its answer is none.
pub fn watch(
    address: Ipv4Addr,
    pause: Duration,
    mut ended: impl FnMut() -> bool,
) -> io::Result<Seen> {
    let mut addresses = Netlink::open(SockProtocol::NetlinkRoute)?;
    let mut tables = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while !ended() {
        let (on, leased) = (
            has_address(&mut addresses, address)?,
            has_lease(&mut tables)?,
        );
        let now = Instant::now();
        seen.longest_ms = seen.longest_ms.max((now - last).as_secs_f64() * 1000.0);
        last = now;
        seen.samples += 1;
        seen.absent.address += u64::from(!on);
        seen.absent.lease += u64::from(!leased);
        if !(on && leased) && seen.first_absent.is_none() {
            let what = if on { "lease" } else { "address" };
            let at = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            seen.first_absent = Some(format!("{what} at {:.3}", at.as_secs_f64()));
        }
        std::thread::sleep(pause);
    }
    Ok(seen)
}

fn has_address(netlink: &mut Netlink, address: Ipv4Addr) -> io::Result<bool> {
    let mut there = false;
    let mut body = [0; 8];
    body[0] = AddressFamily::Inet as u8;
    netlink.dump(RTM_GETADDR, &body, |kind, body| {
        let mut of_it = attributes(body.get(8..).unwrap_or_default());
        there |= kind == RTM_NEWADDR
            && of_it.any(|(name, value)| {
                matches!(name, IFA_ADDRESS | IFA_LOCAL) && value == address.octets()
            });
    })?;
    Ok(there)
}

/// A token whose time is over isn't shown any more.
fn has_lease(netlink: &mut Netlink) -> io::Result<bool> {
    let mut body = vec![NFPROTO_INET, 0, 0, 0];
    body.extend(attribute(LIST_TABLE, b"failoverd\0"));
    body.extend(attribute(LIST_SET, b"lease\0"));
    let mut tokens = 0;
    netlink.dump(NFT_GETSETELEM, &body, |kind, body| {
        if kind == NFT_NEWSETELEM {
            let lists = attributes(body.get(4..).unwrap_or_default());
            let lists = lists.filter(|(name, _)| *name == LIST_ELEMENTS);
            tokens += lists
                .map(|(_, list)| attributes(list).count())
                .sum::<usize>();
        }
    })?;
    Ok(tokens > 0)
}

struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open(protocol: SockProtocol) -> io::Result<Netlink> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::new(ANSWER.as_secs() as i64, 0),
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Gives each message of the answer to `take`: its type, and what follows its header. What isn't there has none.
    fn dump(&mut self, kind: u16, body: &[u8], mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(REQUEST_DUMP.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        request.extend(body);
        sendto(
            self.socket.as_raw_fd(),
            &request,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((message, after)) = split(rest) {
                rest = after;
                if number32(message, 8) != Some(self.sequence) {
                    continue;
                }
                match number16(message, 4) {
                    Some(NLMSG_DONE | NLMSG_ERROR) => return Ok(()),
                    Some(kind) => take(kind, &message[HEADER..]),
                    None => {}
                }
            }
        }
    }
}

/// The first message of a datagram and what comes after it; nothing where the datagram is at its end or malformed.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = number32(bytes, 0)? as usize;
    let message = bytes.get(..length).filter(|_| length >= HEADER)?;
    Some((
        message,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::from((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Stops at the first malformed one.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(number16(bytes, 0)?), number16(bytes, 2)? & KIND);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    let raw = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(raw.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(raw.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_seen_and_another_is_not() {
        let mut netlink = Netlink::open(SockProtocol::NetlinkRoute).expect("a socket");
        // Of the block for documentation (RFC 5737): on no machine.
        let nowhere = Ipv4Addr::new(192, 0, 2, 77);
        assert!(!has_address(&mut netlink, nowhere).expect("an answer"));
        assert!(has_address(&mut netlink, Ipv4Addr::LOCALHOST).expect("an answer"));
        let mut looks = 3;
        let seen = watch(nowhere, Duration::ZERO, || {
            looks -= 1;
            looks < 0
        });
        let seen = seen.expect("an answer");
        assert_eq!((seen.samples, seen.absent.address), (3, 3));
        assert!(
            seen.first_absent
                .expect("a time")
                .starts_with("address at ")
        );
    }

    #[test]
    fn what_is_malformed_ends_a_list() {
        let mut list = attribute(1, b"ab");
        list.extend([3, 0, 1, 0]);
        assert_eq!(attributes(&list).collect::<Vec<_>>(), [(1, &b"ab"[..])]);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert!(split(&[15, 0, 0, 0]).is_none());
        assert!(split(&[200, 0, 0, 0, 1, 2]).is_none());
    }
}
