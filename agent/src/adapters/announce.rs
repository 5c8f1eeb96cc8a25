//! Telling the neighbours where a virtual address is now: gratuitous ARP and unsolicited neighbour advertisements,
//! built by hand and sent on a packet socket.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Operation of an ARP frame. Some neighbours learn from one, some from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ArpForm {
    Request = 1,
    Reply = 2,
}

/// A gratuitous ARP frame: sender and target are both `vip`.
pub(crate) fn gratuitous_arp(mac: [u8; 6], vip: Ipv4Addr, form: ArpForm) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend([0x08, 0x06]); // ARP
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, form as u8]);
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend(match form {
        ArpForm::Request => [0; 6],
        ArpForm::Reply => BROADCAST,
    });
    frame.extend(vip.octets());
    frame
}

/// An unsolicited neighbour advertisement to all nodes, with the override flag.
pub(crate) fn unsolicited_advertisement(mac: [u8; 6], vip: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![136, 0, 0, 0]; // type, code, checksum
    icmp.extend([0x20, 0, 0, 0]); // override
    icmp.extend(vip.octets());
    icmp.extend([2, 1]); // option: target link-layer address
    icmp.extend(mac);
    let sum = checksum(vip, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend(ALL_NODES_MAC);
    frame.extend(mac);
    frame.extend([0x86, 0xdd]); // IPv6
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([58, 255]); // ICMPv6; neighbours accept no other hop limit
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

/// Checksum of ICMPv6 with its pseudo header (RFC 4443, RFC 8200).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8]) -> u16 {
    let mut sum = icmp.len() as u32 + 58;
    let bytes = [&source.octets()[..], &destination.octets(), icmp];
    for part in bytes {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends frames; receives none.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub(crate) fn open() -> nix::Result<PacketSocket> {
        // Protocol 0: the socket never queues a received frame.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Packet, SockType::Raw, flags, None).map(PacketSocket)
    }

    pub(crate) fn send(&self, interface_index: u32, frame: &[u8]) -> nix::Result<()> {
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
            sll_ifindex: i32::try_from(interface_index).map_err(|_| Errno::ENODEV)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: `frame` and `to` outlive the call; the lengths are theirs; the descriptor is ours.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(sent).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];

    #[test]
    fn a_gratuitous_arp_names_the_address_twice() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 7), ArpForm::Request);
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[20..22], [0, 1]);
        assert_eq!(&frame[28..32], [192, 0, 2, 7]);
        assert_eq!(&frame[38..42], [192, 0, 2, 7]);
        let reply = gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 7), ArpForm::Reply);
        assert_eq!(&reply[20..22], [0, 2]);
        assert_eq!(&reply[32..38], BROADCAST);
    }

    #[test]
    fn an_advertisement_sums_up_to_zero() {
        let vip: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        let frame = unsolicited_advertisement(MAC, vip);
        assert_eq!(frame.len(), 86);
        assert_eq!(checksum(vip, ALL_NODES, &frame[54..]), 0);
    }
}
