//! Watches the clients' network: who announces the virtual address, who answers for it, and when.

use super::cables::{CLIENT, LAN, VIP, client_mac, lan_mac};
use crate::shelf::now_micros;
use failover_core::ids::Node;
use nix::net::if_::if_nametoindex;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Announcements kept.
const KEPT: usize = 4096;
const ETH_P_ARP: u16 = 0x0806;

/// A gratuitous ARP for the virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// When it was seen.
    pub at: u64,
    /// Who sent it.
    pub node: Node,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    announcements: VecDeque<Announcement>,
    answers: VecDeque<Announcement>,
}

/// Sees and asks. Its thread lives as long as the process.
#[derive(Clone, Debug)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    packets: Arc<File>,
}

impl Observer {
    /// Starts to watch the bridge of the clients' network.
    pub fn start() -> io::Result<Observer> {
        let packets = Arc::new(File::from(packet_socket(if_nametoindex(LAN)?)?));
        let observer = Observer {
            seen: Arc::default(),
            packets,
        };
        let Observer { seen, packets } = observer.clone();
        let watch = move || {
            super::priority::real_time(2);
            let mut frame = [0; 256];
            while let Ok(count) = (&*packets).read(&mut frame) {
                let at = now_micros();
                let (announced, answered) = told_by(&frame[..count]);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                keep(&mut seen.announcements, at, announced);
                keep(&mut seen.answers, at, answered);
            }
        };
        std::thread::Builder::new()
            .name("observer".to_owned())
            .spawn(watch)?;
        Ok(observer)
    }

    /// The first announcement by `node` after `from`.
    pub fn first_by(&self, node: Node, from: u64) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = seen.announcements.iter();
        let first = all.find(|it| it.node == node && it.at > from);
        first.map(|it| it.at)
    }

    /// Asks everybody who has the virtual address; a question that can't be sent is one that nobody answers.
    pub fn ask(&self) {
        let _ = (&*self.packets).write(&request());
    }

    /// When `node` answered for the virtual address after `from`.
    pub fn answers_of(&self, node: Node, from: u64) -> Vec<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let all = seen.answers.iter();
        let of_node = all.filter(|it| it.node == node && it.at > from);
        of_node.map(|it| it.at).collect()
    }
}

fn keep(kept: &mut VecDeque<Announcement>, at: u64, node: Option<Node>) {
    let Some(node) = node else {
        return;
    };
    if kept.len() >= KEPT {
        kept.pop_front();
    }
    kept.push_back(Announcement { at, node });
}

/// Who announces the virtual address in this frame (RFC 5227 section 3: sender and target are the address itself), and
/// who answers a question for it (RFC 826: a reply to somebody else).
fn told_by(frame: &[u8]) -> (Option<Node>, Option<Node>) {
    let Some(arp) = frame.get(14..42) else {
        return (None, None);
    };
    let vip = VIP.octets();
    if frame[12..14] != ETH_P_ARP.to_be_bytes() || arp[14..18] != vip {
        return (None, None);
    }
    let mut nodes = [Node::A, Node::B].into_iter();
    let sender = nodes.find(|node| arp[8..14] == lan_mac(*node));
    match arp[24..28] == vip {
        true => (sender, None),
        false => (None, sender.filter(|_| arp[6..8] == [0, 2])),
    }
}

/// The client asks everybody: who has the virtual address?
fn request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(client_mac());
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(client_mac());
    frame.extend(CLIENT.octets());
    frame.extend([0; 6]);
    frame.extend(VIP.octets());
    frame
}

/// A packet socket that receives the ARP frames of one interface.
fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let protocol = ETH_P_ARP.to_be();
    // SAFETY: a plain system call without pointers; the descriptor is checked before it is used.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(protocol),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll and its size is what is passed.
    let bound = unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_announcements_of_the_address_count() {
        let mut frame = vec![0xff; 6];
        frame.extend(lan_mac(Node::B));
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(lan_mac(Node::B));
        frame.extend(VIP.octets());
        frame.extend([0; 6]);
        frame.extend(VIP.octets());
        assert_eq!(told_by(&frame), (Some(Node::B), None));
        frame[41] ^= 1;
        assert_eq!(told_by(&frame), (None, None), "an ordinary request");
        assert_eq!(told_by(&frame[..30]), (None, None));
        assert_eq!(told_by(&request()), (None, None));
        frame[21] = 2;
        assert_eq!(told_by(&frame), (None, Some(Node::B)), "an answer");
    }
}
