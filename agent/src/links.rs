//! Heartbeat links: signed beats over UDP, on any number of links.
//!
//! ```text
//!   beat ──▶ encode ──▶ sign ──▶ every link, never blocking
//!   socket ──▶ kernel stamp ──▶ inspect: length, version, pair ──▶ tag ──▶ fields ──▶ own node? ──▶ Event::Beat
//!                                   └───────── anything wrong: counted by kind, dropped ──────────┘
//! ```
//!
//! Whether a valid beat is new (session, number, echo) is the core's judgement.

use crate::config::LinkConfig;
use crate::logger::Log;
use crate::pair_key::PairKey;
use failover_api::Severity;
use failover_core::adapters::Clock;
use failover_core::beat::Beat;
use failover_core::heartbeat::{self, DATAGRAM_MAX, DecodeError};
use failover_core::ids::{LinkId, Node};
use failover_core::time::{Instant, ms};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
    setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Most datagrams read from one link before its beats are judged: what a full socket buffer holds several times over.
const DRAIN_MAX: usize = 4096;
/// Errors of one socket in a row before it is closed and opened anew: each is told once, so more mean that it broke.
const FAILURES_MAX: u32 = 8;
/// Pause before a link that couldn't be opened is tried again.
const REOPEN_AFTER: Duration = ms(500);
/// Receive buffer: seconds of beats of a peer that goes on while this process stands still.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// CS6, network control: the least likely to be queued behind data.
const TRAFFIC_CLASS: i32 = 0xc0;
/// Highest priority that needs no capability.
const PRIORITY: i32 = 6;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Shorter than it says, or than any beat.
    Truncated,
    /// The tag isn't the one of these bytes under the pair's key.
    BadTag,
    /// Another version of the layout.
    WrongVersion,
    /// Another pair's beat.
    WrongPair,
    /// Our own beat, or one in our name.
    OwnNode,
    /// Anything else that isn't a beat.
    Undecodable,
    /// The socket reported an error.
    Failed,
}

impl Dropped {
    /// All kinds, in the order of [`LinkCounters`].
    pub const ALL: [Dropped; 7] = [
        Dropped::Truncated,
        Dropped::BadTag,
        Dropped::WrongVersion,
        Dropped::WrongPair,
        Dropped::OwnNode,
        Dropped::Undecodable,
        Dropped::Failed,
    ];

    /// The words in logs.
    pub const fn word(self) -> &'static str {
        match self {
            Dropped::Truncated => "truncated",
            Dropped::BadTag => "bad tag",
            Dropped::WrongVersion => "wrong version",
            Dropped::WrongPair => "wrong pair",
            Dropped::OwnNode => "own node",
            Dropped::Undecodable => "undecodable",
            Dropped::Failed => "receive error",
        }
    }
}

/// Counts of one link; read from any thread.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Valid beats.
    received: AtomicU64,
    /// Beats sent.
    sent: AtomicU64,
    /// Beats that couldn't be sent.
    send_errors: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl LinkCounters {
    /// Valid beats that came in.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Beats that went out.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Beats that couldn't be sent.
    pub fn send_errors(&self) -> u64 {
        self.send_errors.load(Ordering::Relaxed)
    }

    /// Datagrams dropped for this reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize].load(Ordering::Relaxed)
    }

    fn drop_one(&self, why: Dropped) {
        self.dropped[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Checks datagrams: everything that can be said of one without knowing what came before it.
#[derive(Clone, Debug)]
pub struct Inspector {
    key: PairKey,
    pair: [u8; 16],
    node: Node,
}

impl Inspector {
    /// For this controller of the pair with this key.
    pub fn new(key: PairKey, node: Node) -> Inspector {
        let pair = key.pair_id();
        Inspector { key, pair, node }
    }

    /// The datagram of a beat.
    pub fn seal(&self, beat: &Beat) -> Vec<u8> {
        let mut bytes = heartbeat::encode(&self.pair, beat);
        let tag = self.key.sign(&bytes);
        bytes.extend_from_slice(&tag);
        bytes
    }

    /// The peer's beat in a datagram, or why there is none.
    pub fn inspect(&self, datagram: &[u8]) -> Result<Beat, Dropped> {
        let dropped = |error: DecodeError| match error {
            DecodeError::Truncated => Dropped::Truncated,
            DecodeError::Version(_) => Dropped::WrongVersion,
            DecodeError::Pair => Dropped::WrongPair,
            DecodeError::Trailing | DecodeError::Magic | DecodeError::Field(_) => {
                Dropped::Undecodable
            }
        };
        let (signed, tag) = heartbeat::split(&self.pair, datagram).map_err(dropped)?;
        if !self.key.verify(signed, tag) {
            return Err(Dropped::BadTag);
        }
        let beat = heartbeat::decode(signed).map_err(dropped)?;
        if beat.node == self.node {
            return Err(Dropped::OwnNode);
        }
        Ok(beat)
    }
}

/// All links of this controller.
pub(crate) struct Links {
    links: Vec<Link>,
    inspector: Option<Inspector>,
    clock: Arc<dyn Clock>,
    log: Log,
}

struct Link {
    config: LinkConfig,
    socket: Option<OwnedFd>,
    /// When to try again to open it.
    retry_at: Instant,
    /// Last moment at which nothing was queued: no datagram read later came before it.
    empty_at: Instant,
    /// The last trouble that was told, so that each is told once.
    told: Option<String>,
    counters: Arc<LinkCounters>,
}

impl Links {
    /// Opens every link; one that can't be opened now is tried again later, and said once.
    pub(crate) fn open(
        configs: &[LinkConfig],
        inspector: Option<Inspector>,
        clock: Arc<dyn Clock>,
        log: Log,
    ) -> Links {
        let now = clock.now();
        let links = configs.iter().map(|config| Link {
            config: config.clone(),
            socket: None,
            retry_at: now,
            empty_at: now,
            told: None,
            counters: Arc::default(),
        });
        let mut links = Links {
            links: links.collect(),
            inspector,
            clock,
            log,
        };
        let log = links.log.clone();
        links.links.iter_mut().for_each(|l| l.reopen(now, &log));
        links
    }

    /// Counts of each link, in the configuration's order.
    pub(crate) fn counters(&self) -> Vec<Arc<LinkCounters>> {
        self.links.iter().map(|l| l.counters.clone()).collect()
    }

    /// Descriptors to wait on.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links
            .iter()
            .filter_map(|l| l.socket.as_ref().map(AsFd::as_fd))
    }

    /// Sends a beat on every link, without waiting for any.
    pub(crate) fn send(&mut self, beat: &Beat) {
        let Some(inspector) = &self.inspector else {
            return;
        };
        let datagram = inspector.seal(beat);
        let now = self.clock.now();
        for link in &mut self.links {
            if link.socket.is_none() && now >= link.retry_at {
                link.reopen(now, &self.log);
            }
            link.send(&datagram, now, &self.log);
        }
    }

    /// Reads everything that is queued, link by link, and hands on the valid beats with their receive stamps.
    pub(crate) fn drain(&mut self, mut deliver: impl FnMut(LinkId, Instant, Beat)) {
        let Some(inspector) = &self.inspector else {
            return;
        };
        for (link, number) in self.links.iter_mut().zip(0..) {
            link.drain(inspector, &*self.clock, |received, beat| {
                deliver(LinkId(number), received, beat);
            });
        }
    }
}

impl Link {
    fn reopen(&mut self, now: Instant, log: &Log) {
        match open_socket(&self.config) {
            Ok(socket) => {
                self.socket = Some(socket);
                self.empty_at = now;
                self.mended(log, "open");
            }
            Err(errno) => {
                self.retry_at = now + REOPEN_AFTER;
                let trouble = format!("can't be opened on {}: {errno}", self.config.local);
                self.tell(log, trouble);
            }
        }
    }

    fn tell(&mut self, log: &Log, trouble: String) {
        if self.told.as_ref() != Some(&trouble) {
            let remedy = "check its address, interface and cable; it is tried again";
            let text = format!("link {} {trouble}; {remedy}", self.config.name());
            log.say("LINK_TROUBLE", Severity::Warning, text);
            self.told = Some(trouble);
        }
    }

    fn mended(&mut self, log: &Log, how: &str) {
        if self.told.take().is_some() {
            let text = format!("link {} is {how} again", self.config.name());
            log.say("LINK_MENDED", Severity::Info, text);
        }
    }

    fn send(&mut self, datagram: &[u8], now: Instant, log: &Log) {
        let Some(socket) = &self.socket else {
            self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let peer = SockaddrStorage::from(scoped(self.config.peer, &self.config));
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match socket::sendto(socket.as_raw_fd(), datagram, &peer, flags) {
            Ok(_) => {
                self.counters.sent.fetch_add(1, Ordering::Relaxed);
                self.mended(log, "sending");
            }
            Err(errno) => {
                self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
                // The interface that the socket was bound to is gone: a new one of that name needs a new socket.
                if matches!(errno, Errno::ENODEV | Errno::ENXIO | Errno::EBADF) {
                    self.socket = None;
                    self.retry_at = now + REOPEN_AFTER;
                }
                let trouble = format!("can't send to {}: {errno}", self.config.peer);
                self.tell(log, trouble);
            }
        }
    }

    fn drain(
        &mut self,
        inspector: &Inspector,
        clock: &dyn Clock,
        mut deliver: impl FnMut(Instant, Beat),
    ) {
        let Some(socket) = &self.socket else {
            return;
        };
        // One byte more than any beat: a longer datagram shows as such.
        let mut buffer = [0; DATAGRAM_MAX + 1];
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut failures = 0;
        for _ in 0..DRAIN_MAX {
            let before = clock.now();
            let (length, stamp) = match receive(socket, &mut buffer, &mut control) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => {
                    self.empty_at = before;
                    return;
                }
                Err(Errno::EINTR) => continue,
                Err(_) => {
                    self.counters.drop_one(Dropped::Failed);
                    failures += 1;
                    if failures > FAILURES_MAX {
                        break;
                    }
                    continue;
                }
            };
            match inspector.inspect(&buffer[..length]) {
                Ok(beat) => {
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    deliver(received_at(clock, stamp, self.empty_at), beat);
                }
                Err(why) => self.counters.drop_one(why),
            }
        }
        if failures > FAILURES_MAX {
            self.socket = None;
            self.retry_at = clock.now() + REOPEN_AFTER;
        }
    }
}

/// One datagram with the kernel's stamp of its arrival.
fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    control: &mut [u8],
) -> Result<(usize, Option<TimeSpec>), Errno> {
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = socket::recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(control), flags)?;
    let stamp = message.cmsgs().ok().and_then(|mut all| {
        all.find_map(|one| match one {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
            _ => None,
        })
    });
    Ok((message.bytes, stamp))
}

/// When a datagram arrived, on the clock of decisions. Its stamp is of the wall clock: only its age counts, and a
/// step of that clock can't make it younger than now or older than the last time that the queue was empty.
fn received_at(clock: &dyn Clock, stamp: Option<TimeSpec>, empty_at: Instant) -> Instant {
    let wall = clock_gettime(ClockId::CLOCK_REALTIME);
    // Read second: being interrupted between the two makes the beat younger, never the peer's silence longer.
    let now = clock.now();
    let (Some(stamp), Ok(wall)) = (stamp, wall) else {
        return now;
    };
    let micros = |time: TimeSpec| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000;
    let age = u64::try_from(micros(wall) - micros(stamp)).unwrap_or(0);
    (now - Duration::from_micros(age)).max(empty_at).min(now)
}

fn open_socket(config: &LinkConfig) -> Result<OwnedFd, Errno> {
    let family = match config.local.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Datagram, flags, None)?;
    if let Some(interface) = &config.interface {
        setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    }
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // These make it better, not right: a kernel that refuses one of them is no reason to stay silent.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
    let _ = setsockopt(&socket, sockopt::Priority, &PRIORITY);
    let _ = match family {
        AddressFamily::Inet => setsockopt(&socket, sockopt::Ipv4Tos, &TRAFFIC_CLASS),
        _ => setsockopt(&socket, sockopt::Ipv6TClass, &TRAFFIC_CLASS),
    };
    let local = SockaddrStorage::from(scoped(config.local, config));
    socket::bind(socket.as_raw_fd(), &local)?;
    Ok(socket)
}

/// A link-local IPv6 address needs its interface's number.
fn scoped(address: SocketAddr, config: &LinkConfig) -> SocketAddr {
    match (address, &config.interface) {
        (SocketAddr::V6(mut v6), Some(interface))
            if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 =>
        {
            v6.set_scope_id(nix::net::if_::if_nametoindex(interface.as_str()).unwrap_or(0));
            SocketAddr::V6(v6)
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::adapters::clock::BootClock;
    use failover_api::Status;
    use failover_core::beat::{ArbiterList, Role};
    use failover_core::ids::{Epoch, Session};
    use failover_core::settings::Settings;
    use std::net::UdpSocket;

    fn beat(node: Node, seq: u64) -> Beat {
        Beat {
            node,
            session: Session(1),
            seq,
            echo: None,
            status: Status::Backup,
            role: Role::Standby,
            incarnation: 1,
            epoch: Epoch(1),
            eligible: true,
            blockers: 0,
            serving: false,
            lan: true,
            settings: Settings::default(),
            arbiters: ArbiterList::default(),
            arbiters_acked: 0,
            ask: None,
            answer: None,
            version: String::new(),
        }
    }

    fn links(node: Node, local: &str, peer: &str, interface: Option<&str>) -> Links {
        let config = LinkConfig {
            local: local.parse().expect("an address"),
            peer: peer.parse().expect("an address"),
            interface: interface.map(str::to_owned),
        };
        let inspector = Inspector::new(PairKey::from_bytes(&[1; 32]), node);
        Links::open(
            &[config],
            Some(inspector),
            Arc::new(BootClock),
            Log::nowhere(),
        )
    }

    /// Two free addresses on loopback.
    fn addresses(host: &str) -> (String, String) {
        let sockets = [host, host].map(|h| UdpSocket::bind((h, 0)).expect("a port"));
        let [a, b] = sockets.map(|s| s.local_addr().expect("bound").to_string());
        (a, b)
    }

    /// Sends three beats and reads them later; whether every stamp is from before the reading.
    fn one_round(a: &mut Links, b: &mut Links) -> bool {
        let before = BootClock.now();
        (1..=3).for_each(|seq| a.send(&beat(Node::A, seq)));
        std::thread::sleep(ms(10));
        let reading = BootClock.now();
        let mut got = Vec::new();
        b.drain(|link, received, beat| got.push((link, received, beat.seq)));
        assert_eq!(got.iter().map(|g| g.2).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(got.iter().all(|g| g.0 == LinkId(0)));
        assert!(
            got.iter().all(|g| g.1 >= before),
            "none is older than it can be"
        );
        got.iter().all(|g| g.1 <= reading)
    }

    #[test]
    fn beats_arrive_in_order_with_stamps_of_their_arrival() {
        for host in ["127.0.0.1", "::1"] {
            if UdpSocket::bind((host, 0)).is_err() {
                // Past the capture of the harness, at the beginning of a line.
                let _ = std::io::Write::write_fmt(
                    &mut std::io::stderr(),
                    format_args!(
                        "\nSKIPPED: links::tests::beats_arrive_in_order_with_stamps_of_their_arrival: no {host} here\n"
                    ),
                );
                continue;
            }
            let (here, there) = addresses(host);
            let mut a = links(Node::A, &here, &there, Some("lo"));
            let mut b = links(Node::B, &there, &here, None);
            // The kernel begins to stamp a moment after the first socket asked for it.
            let mut rounds = 0;
            while !one_round(&mut a, &mut b) {
                rounds += 1;
                assert!(
                    rounds < 100,
                    "beats are stamped when they come, not when they are read"
                );
            }
            b.drain(|_, _, _| panic!("nothing is left"));
            assert_eq!(a.counters()[0].sent(), b.counters()[0].received());
        }
    }

    #[test]
    fn a_link_that_cannot_be_opened_is_tried_again() {
        let (here, there) = addresses("127.0.0.1");
        let holder = UdpSocket::bind(&here).expect("held");
        let mut a = links(Node::A, &here, &there, None);
        a.send(&beat(Node::A, 1));
        assert_eq!(a.counters()[0].send_errors(), 1);
        drop(holder);
        a.links[0].retry_at = Instant::from_micros(0);
        a.send(&beat(Node::A, 2));
        assert_eq!(a.counters()[0].sent(), 1);
    }

    #[test]
    fn a_stamp_is_trusted_only_within_what_can_be() {
        struct Still(Instant);
        impl Clock for Still {
            fn now(&self) -> Instant {
                self.0
            }
        }
        let now = Instant::from_millis(1000);
        let clock = Still(now);
        let empty = Instant::from_millis(900);
        let wall = clock_gettime(ClockId::CLOCK_REALTIME).expect("a clock");
        let stamp = |seconds: i64| Some(TimeSpec::new(wall.tv_sec() + seconds, wall.tv_nsec()));
        let at = |stamp| received_at(&clock, stamp, empty);
        assert_eq!(at(stamp(3600)), now, "never in the future");
        assert_eq!(at(stamp(-3600)), empty, "never before the last drain");
        assert_eq!(at(None), now);
    }
}
