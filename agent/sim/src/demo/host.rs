//! The kernel side of a controller: what goes on while its daemon is frozen or dead.
//!
//! ```text
//!   daemon ── import, export, start, stop (unix socket) ──▶ ┌──────┐ ── append, tail ──▶ shelf
//!   client ── records to the virtual address (UDP) ───────▶ │ host │
//!          ◀─ acknowledgements ───────────────────────────  └──────┘
//! ```
//!
//! It holds the imported pool and the writer service. Like a file system it writes by itself while the pool is
//! imported, so that a fenced controller's writes are really tried and really refused.

use super::datagram::{self, DATAGRAM_MAX, PORT};
use crate::shelf::client::ShelfConnection;
use crate::shelf::log::{Record, verify_tail};
use crate::shelf::wire::{self, Reply, Request};
use failover_core::ids::Node;
use failover_core::pr::PrError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Records whose checksums an import verifies.
pub const VERIFIED: usize = 1000;
/// Interval of the pool's own writes.
const SYNC: Duration = Duration::from_millis(10);
/// Numbers remembered, so that a repeated record is acknowledged and not written again.
const REMEMBERED_MAX: usize = 200_000;
/// Records on their way; more are left to the client's retry.
const PENDING_MAX: usize = 20_000;
/// Records in one command.
const BATCH_MAX: usize = 1000;
const IMPORT_LIMIT: Duration = Duration::from_secs(5);
const EXPORT_LIMIT: Duration = Duration::from_secs(2);
const CONTROLS_MAX: usize = 32;
const BURST: usize = 64;

/// What the daemon's adapters ask of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostRequest {
    /// Read ahead.
    Prescan,
    /// Import the pool with these disks.
    Import {
        /// Numbers of the disks that were won.
        won: Vec<u32>,
    },
    /// Export the pool.
    Export,
    /// Is the pool imported?
    Imported,
    /// Start the writer service.
    Start,
    /// Stop it.
    Stop,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostReply {
    /// The goal was reached by this request.
    Made,
    /// It was there already; yes.
    AlreadySo,
    /// No.
    No,
    /// It failed; the sentence says why.
    Failed(String),
}

/// Where a host lives.
#[derive(Clone, Debug)]
pub struct HostPlace {
    /// Its controller.
    pub node: Node,
    /// Its own socket.
    pub socket: PathBuf,
    /// The shelf's socket.
    pub shelf: PathBuf,
    /// Number of disks in the shelf.
    pub disks: usize,
    /// The virtual address that the service binds.
    pub vip: Ipv4Addr,
}

struct Control {
    stream: UnixStream,
    incoming: Vec<u8>,
    gone: bool,
}

/// Writes to one disk: one command at a time; what comes meanwhile goes with the next, however slow the disk is.
#[derive(Default)]
struct Stripe {
    busy: bool,
    waiting: VecDeque<Record>,
}

/// The imported pool.
#[derive(Default)]
struct Pool {
    next_position: u64,
    known: HashSet<u64>,
    known_order: VecDeque<u64>,
    stripes: Vec<Stripe>,
    /// Commands on their way: the disk, and what is written.
    pending: HashMap<u64, (usize, Vec<Record>)>,
    /// Records on their way, waiting or in a command: which client waits for each.
    askers: HashMap<u64, SocketAddr>,
    next_sync: Option<Instant>,
}

/// A running host.
pub struct Host {
    place: HostPlace,
    listener: UnixListener,
    controls: Vec<Control>,
    shelf: Option<ShelfConnection>,
    service: Option<UdpSocket>,
    pool: Option<Pool>,
}

impl Host {
    /// A host that listens for its daemon.
    pub fn bind(place: HostPlace) -> io::Result<Host> {
        let listener = UnixListener::bind(&place.socket)?;
        listener.set_nonblocking(true)?;
        Ok(Host {
            place,
            listener,
            controls: Vec::new(),
            shelf: None,
            service: None,
            pool: None,
        })
    }

    /// Serves until the process is killed.
    pub fn serve(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.shelf {
                self.shelf_answers();
            }
            if ready.service {
                self.datagrams();
            }
            self.sync();
            if ready.listener {
                self.accept();
            }
            self.control(&ready.controls);
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let mut add = |fd| {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            fds.len() - 1
        };
        let controls: Vec<usize> = self
            .controls
            .iter()
            .map(|c| add(c.stream.as_fd()))
            .collect();
        let shelf = self.shelf.as_ref().map(|shelf| add(shelf.as_fd()));
        let service = self.service.as_ref().map(|service| add(service.as_fd()));
        let next_sync = self.pool.as_ref().and_then(|pool| pool.next_sync);
        let timeout = match next_sync {
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(left as u64).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |index: usize| fds[index].any().unwrap_or(true);
        Ok(Ready {
            listener: ready(0),
            controls: controls.into_iter().map(ready).collect(),
            shelf: shelf.is_some_and(ready),
            service: service.is_some_and(ready),
        })
    }

    // ---- the daemon's requests -------------------------------------------------------------------------------

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.controls.len() < CONTROLS_MAX && stream.set_nonblocking(true).is_ok() {
                self.controls.push(Control {
                    stream,
                    incoming: Vec::new(),
                    gone: false,
                });
            }
        }
    }

    fn control(&mut self, ready: &[bool]) {
        for (index, ready) in ready.iter().enumerate() {
            if !ready {
                continue;
            }
            let control = &mut self.controls[index];
            let mut chunk = [0; 4096];
            match control.stream.read(&mut chunk) {
                Ok(0) => control.gone = true,
                Ok(count) => control.incoming.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => control.gone = true,
            }
            while let Some((number, request)) = next_request(&mut self.controls[index]) {
                let reply = self.request(request);
                let control = &mut self.controls[index];
                // An answer fits the socket's buffer; a daemon that reads none of them is dropped.
                if control
                    .stream
                    .write_all(&wire::encode(number, &reply))
                    .is_err()
                {
                    control.gone = true;
                }
            }
        }
        self.controls.retain(|control| !control.gone);
    }

    fn request(&mut self, request: HostRequest) -> HostReply {
        let result = match request {
            HostRequest::Prescan => self.prescan(),
            HostRequest::Import { won } => self.import(&won),
            HostRequest::Export => Ok(self.export()),
            HostRequest::Imported => Ok(match self.pool {
                Some(_) => HostReply::AlreadySo,
                None => HostReply::No,
            }),
            HostRequest::Start => self.start(),
            HostRequest::Stop => Ok(match self.service.take() {
                Some(_) => HostReply::Made,
                None => HostReply::AlreadySo,
            }),
        };
        result.unwrap_or_else(HostReply::Failed)
    }

    fn shelf(&mut self) -> io::Result<&mut ShelfConnection> {
        if self.shelf.is_none() {
            let nexus = (self.place.node, 0);
            self.shelf = Some(ShelfConnection::connect(&self.place.shelf, Some(nexus))?);
        }
        self.shelf
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn prescan(&mut self) -> Result<HostReply, String> {
        if self.pool.is_some() {
            return Ok(HostReply::AlreadySo);
        }
        match self.shelf() {
            Ok(_) => Ok(HostReply::Made),
            Err(error) => Err(format!("no path to the shelf: {error}")),
        }
    }

    fn import(&mut self, won: &[u32]) -> Result<HostReply, String> {
        if self.pool.is_some() {
            return Ok(HostReply::AlreadySo);
        }
        let disks = self.place.disks as u32;
        if let Some(missing) = (0..disks).find(|disk| !won.contains(disk)) {
            return Err(format!(
                "the pool is striped over all {disks} disks and disk {missing} wasn't won"
            ));
        }
        let tail = self.read_tail().map_err(|error| {
            self.shelf = None;
            format!("reading the pool's log: {error}")
        })?;
        let tail = verify_tail(tail, VERIFIED)?;
        let mut pool = Pool {
            next_position: tail.last().map_or(0, |last| last.position + 1),
            next_sync: Some(Instant::now()),
            stripes: (0..disks).map(|_| Stripe::default()).collect(),
            ..Pool::default()
        };
        for record in tail.iter().filter(|record| record.number != 0) {
            pool.remember(record.number);
        }
        self.pool = Some(pool);
        Ok(HostReply::Made)
    }

    /// One big read from each disk, all at once.
    fn read_tail(&mut self) -> io::Result<Vec<Record>> {
        let deadline = Instant::now() + IMPORT_LIMIT;
        let disks = self.place.disks;
        // Positions may have holes where a write was refused: a few more from each disk.
        let count = (VERIFIED / disks.max(1) + 16) as u32;
        let shelf = self.shelf()?;
        let began = shelf.send(&Request::ImportBegins)?;
        let mut asked = HashMap::from([(began, Request::ImportBegins)]);
        for disk in 0..disks as u32 {
            let tail = Request::Tail { disk, count };
            asked.insert(shelf.send(&tail)?, tail);
        }
        let mut records = Vec::with_capacity(disks * count as usize);
        while !asked.is_empty() {
            let Some((number, reply)) = shelf.receive(deadline)? else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            let Some(request) = asked.remove(&number) else {
                continue;
            };
            match reply {
                Reply::Good => {}
                Reply::Records(part) => records.extend(part),
                // SPC-4 5.14: nothing was done; the same command again.
                Reply::Disk(Err(PrError::UnitAttention(_))) => {
                    asked.insert(shelf.send(&request)?, request);
                }
                other => return Err(io::Error::other(format!("the shelf answered {other:?}"))),
            }
        }
        Ok(records)
    }

    /// Stops the service, waits for what is on its way, forgets the pool.
    fn export(&mut self) -> HostReply {
        self.service = None;
        let Some(pool) = &mut self.pool else {
            return HostReply::AlreadySo;
        };
        pool.next_sync = None;
        let deadline = Instant::now() + EXPORT_LIMIT;
        while self.pool.as_ref().is_some_and(Pool::is_writing) {
            let Some(shelf) = &mut self.shelf else {
                break;
            };
            match shelf.receive(deadline) {
                Ok(Some((number, reply))) => self.shelf_answer(number, reply),
                Ok(None) => {
                    let why = "writes of the pool are still on their way to the disks";
                    return HostReply::Failed(why.to_owned());
                }
                Err(_) => self.shelf = None,
            }
        }
        if self.shelf.is_none() {
            // What was in flight may still land: not proved, so not exported.
            let why = "the path to the shelf broke while the pool was being flushed";
            return HostReply::Failed(why.to_owned());
        }
        self.pool = None;
        HostReply::Made
    }

    fn start(&mut self) -> Result<HostReply, String> {
        if self.service.is_some() {
            return Ok(HostReply::AlreadySo);
        }
        if self.pool.is_none() {
            return Err("the service needs the pool, which isn't imported".to_owned());
        }
        let bound = bind_vip(self.place.vip);
        self.service = Some(bound.map_err(|error| format!("binding the service: {error}"))?);
        Ok(HostReply::Made)
    }

    // ---- the service -----------------------------------------------------------------------------------------

    fn datagrams(&mut self) {
        let mut buffer = [0; DATAGRAM_MAX];
        for _ in 0..BURST {
            let Some(service) = &self.service else {
                return;
            };
            let Ok((count, from)) = service.recv_from(&mut buffer) else {
                return;
            };
            if let Some((number, payload)) = datagram::decode_ask(&buffer[..count]) {
                self.record(number, payload, from);
            }
        }
    }

    fn record(&mut self, number: u64, payload: String, from: SocketAddr) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        if pool.known.contains(&number) {
            self.acknowledge(number, from);
        } else if let Some(asker) = pool.askers.get_mut(&number) {
            *asker = from;
        } else if pool.askers.len() < PENDING_MAX {
            pool.askers.insert(number, from);
            self.append(number, payload);
        }
    }

    fn append(&mut self, number: u64, payload: String) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        let disk = (pool.next_position % self.place.disks as u64) as usize;
        if pool.stripes[disk].waiting.len() >= PENDING_MAX {
            pool.askers.remove(&number);
            return;
        }
        let record = Record::new(pool.next_position, number, payload);
        pool.next_position += 1;
        pool.stripes[disk].waiting.push_back(record);
        self.write_waiting(disk);
    }

    /// Writes what waits for a disk, if the disk is free.
    fn write_waiting(&mut self, disk: usize) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        let stripe = &mut pool.stripes[disk];
        if !stripe.busy && !stripe.waiting.is_empty() {
            let count = stripe.waiting.len().min(BATCH_MAX);
            let records = stripe.waiting.drain(..count).collect();
            self.write(disk, records);
        }
    }

    fn write(&mut self, disk: usize, records: Vec<Record>) {
        let request = Request::Append {
            disk: disk as u32,
            records: records.clone(),
        };
        let sent = self.shelf().and_then(|shelf| shelf.send(&request));
        match (sent, &mut self.pool) {
            (Ok(request), Some(pool)) => {
                pool.stripes[disk].busy = true;
                pool.pending.insert(request, (disk, records));
            }
            _ => self.path_broke(),
        }
    }

    /// The pool's own write: repeated for ever, refused or not.
    fn sync(&mut self) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        let now = Instant::now();
        if pool.next_sync.is_some_and(|at| at <= now) {
            pool.next_sync = Some(now + SYNC);
            self.append(0, format!("sync of {}", self.place.node));
        }
    }

    fn shelf_answers(&mut self) {
        let Some(shelf) = &mut self.shelf else {
            return;
        };
        if shelf.fill().is_err() {
            self.path_broke();
            return;
        }
        loop {
            match self.shelf.as_mut().map(ShelfConnection::buffered) {
                Some(Ok(Some((number, reply)))) => self.shelf_answer(number, reply),
                Some(Ok(None)) | None => return,
                Some(Err(_)) => return self.path_broke(),
            }
        }
    }

    fn shelf_answer(&mut self, number: u64, reply: Reply) {
        let Some(pool) = &mut self.pool else {
            return;
        };
        let Some((disk, records)) = pool.pending.remove(&number) else {
            return;
        };
        // SPC-4 5.14: nothing was done; the same command again.
        if let Reply::Disk(Err(PrError::UnitAttention(_))) = reply {
            return self.write(disk, records);
        }
        pool.stripes[disk].busy = false;
        let written = matches!(reply, Reply::Disk(Ok(_)));
        for record in records.iter().filter(|record| record.number != 0) {
            let Some(pool) = &mut self.pool else {
                return;
            };
            let asker = pool.askers.remove(&record.number);
            // Refused or aborted: no acknowledgement; the client will ask again, here or elsewhere.
            if written {
                pool.remember(record.number);
                if let Some(asker) = asker {
                    self.acknowledge(record.number, asker);
                }
            }
        }
        self.write_waiting(disk);
    }

    fn path_broke(&mut self) {
        self.shelf = None;
        if let Some(pool) = &mut self.pool {
            pool.pending.clear();
            pool.askers.clear();
            for stripe in &mut pool.stripes {
                *stripe = Stripe::default();
            }
        }
    }

    fn acknowledge(&self, number: u64, to: SocketAddr) {
        if let Some(service) = &self.service {
            // Without its address, or without the lease, the kernel refuses: silence is what the client shall see.
            let _ = service.send_to(&datagram::encode_ack(number, self.place.node), to);
        }
    }
}

impl Pool {
    /// Whether anything is on its way to the disks.
    fn is_writing(&self) -> bool {
        let waits = |stripe: &Stripe| stripe.busy || !stripe.waiting.is_empty();
        self.stripes.iter().any(waits)
    }

    fn remember(&mut self, number: u64) {
        if self.known.insert(number) {
            self.known_order.push_back(number);
        }
        if self.known_order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.known_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

struct Ready {
    listener: bool,
    controls: Vec<bool>,
    shelf: bool,
    service: bool,
}

fn next_request(control: &mut Control) -> Option<(u64, HostRequest)> {
    match wire::take(&mut control.incoming) {
        Ok(frame) => frame,
        Err(_) => {
            control.gone = true;
            None
        }
    }
}

/// Binds the virtual address before it is on this controller: services are up before clients can reach them.
fn bind_vip(vip: Ipv4Addr) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
    bind(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(vip, PORT)),
    )?;
    Ok(UdpSocket::from(socket))
}
