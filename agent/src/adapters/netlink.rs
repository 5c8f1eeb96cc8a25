//! One netlink socket, used synchronously: the kernel works a request off inside `send`, so an answer is there when
//! it returns, and no runtime and no second thread stand between a decision and its effect.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
/// Large enough for anything the kernel puts in one datagram.
pub(crate) const RECEIVE_LEN: usize = 64 * 1024;
/// Type of an acknowledgement or error.
pub(crate) const NLMSG_ERROR: u16 = 2;
/// Type of a dump's end.
pub(crate) const NLMSG_DONE: u16 = 3;

/// A netlink socket of this network namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) bytes: &'a [u8],
}

impl Message<'_> {
    /// Errno of an error message: `Some(0)` for an acknowledgement, `None` for another message.
    pub(crate) fn errno(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let raw = self.bytes.get(HEADER_LEN..HEADER_LEN + 4)?;
        Some(-i32::from_ne_bytes(raw.try_into().ok()?))
    }
}

impl Netlink {
    /// Opens a socket that is closed on exec: a child must not keep what belongs to this socket alive.
    pub(crate) fn open(protocol: SockProtocol, groups: u32) -> nix::Result<Netlink> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            protocol,
        )?;
        // Room for a batch of hundreds of addresses and for a burst of link changes; best effort.
        let _ = setsockopt(&fd, sockopt::SndBuf, &(1 << 20));
        let _ = setsockopt(&fd, sockopt::RcvBuf, &(1 << 20));
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Netlink { fd, sequence: 1 })
    }

    /// Reserves `count` sequence numbers and returns the first; never 0, which notifications carry.
    pub(crate) fn reserve(&mut self, count: u32) -> u32 {
        if self.sequence.checked_add(count).is_none() {
            self.sequence = 1;
        }
        let first = self.sequence;
        self.sequence += count;
        first
    }

    /// Sends one datagram to the kernel, which carries it out before this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        loop {
            match sendto(
                self.fd.as_raw_fd(),
                bytes,
                &NetlinkAddr::new(0, 0),
                MsgFlags::empty(),
            ) {
                Err(Errno::EINTR) => continue,
                other => return other.map(|_| ()),
            }
        }
    }

    /// Receives one datagram from the kernel, waiting at most `wait`; `None` when the time is over.
    pub(crate) fn receive(&self, buffer: &mut [u8], wait: Duration) -> nix::Result<Option<usize>> {
        let mut waited = false;
        loop {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), buffer) {
                Ok((len, Some(from))) if from.pid() == 0 => return Ok(Some(len)),
                // Another process wrote to our port: not the kernel's word.
                Ok(_) => continue,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) if !waited && !wait.is_zero() => {
                    waited = true;
                    let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
                    let millis = u16::try_from(wait.as_millis().max(1)).unwrap_or(u16::MAX);
                    match poll(&mut fds, PollTimeout::from(millis)) {
                        Ok(_) | Err(Errno::EINTR) => continue,
                        Err(error) => return Err(error),
                    }
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages of a datagram; stops at the first malformed one.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER_LEN)?;
        let len = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let flags = u16::from_ne_bytes(header[6..8].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        if len < HEADER_LEN {
            return None;
        }
        let bytes = datagram.get(..len)?;
        datagram = datagram.get((len + 3) & !3..).unwrap_or(&[]);
        Some(Message {
            kind,
            flags,
            sequence,
            bytes,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(body);
        while bytes.len() % 4 != 0 {
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn a_datagram_is_split_into_its_messages() {
        let mut datagram = message(NLMSG_ERROR, 7, &(-2i32).to_ne_bytes());
        datagram.extend(message(16, 8, &[1, 2, 3]));
        let all: Vec<_> = messages(&datagram).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].sequence, all[0].errno()), (7, Some(2)));
        assert_eq!((all[1].kind, all[1].errno()), (16, None));
    }

    #[test]
    fn a_malformed_datagram_ends_the_list() {
        assert_eq!(messages(&[1, 0, 0]).count(), 0);
        let mut short = message(16, 1, &[]);
        short[0] = 3;
        assert_eq!(messages(&short).count(), 0);
        let mut long = message(16, 1, &[]);
        long[0] = 200;
        assert_eq!(messages(&long).count(), 0);
    }
}
